"""Pipeline stages of inference: exact timelines of toy stages, and what they hand over."""

from dataclasses import replace

import numpy as np
import pytest

from moesim.engine.simulate import simulate
from moesim.network.coflow import rates
from moesim.study.step.links import link_load
from moesim.workload.inference import Step, inference_step
from moesim.workload.overlap import OVERLAPS
from moesim.workload.parts import LayerParts, Piece
from moesim.workload.pipeline import ROUNDS, pipeline_programs
from moesim.workload.pricing import Ledger
from moesim.workload.split import cut_batch
from moesim.workload.stage import divide_layers, stages_of


class ToyStage:
    """One layer of so many seconds on every rank, and a head of none."""

    phase, layers, first_moe, divisible = "decode", 1, 1, 1

    def __init__(self, ranks, seconds):
        self.work = Piece("attention", seconds=np.full(ranks, float(seconds)))
        self.end = Piece("head", seconds=np.zeros(ranks))

    def __call__(self, *, batches=1, chunks=1, by="tokens", layers=slice(None)):
        return ((LayerParts(0, (), (self.work,), None),)[layers],)

    def head(self):
        return (self.end,)

    def received(self):
        return ()


@pytest.fixture
def pipeline(scenario):
    """Seconds of a step of a pipeline whose stages take so long for every micro-batch; hand-overs take microseconds."""

    def run(phase, stage_seconds, microbatches):
        workload = {
            "decode": "{kind: decode, sequences_per_rank: 8, context: 100}",
            "prefill": "{kind: prefill, sequences_per_rank: 8, prompt: 4}",
        }[phase]
        pp = len(stage_seconds)
        assembly = scenario(
            devices=2 * pp, dp=2, ep=2, pp=pp, slots=8, workload=workload, stages=[1] * (pp - 1) + [5 - pp]
        )
        deployment = replace(assembly.deployment, microbatches=microbatches)
        stages = stages_of(deployment)
        batches = [batch for batch, _ in cut_batch(assembly.batch, None, microbatches, 1)]
        splits = [[ToyStage(2, seconds)] * microbatches for seconds in stage_seconds]
        programs, marks = pipeline_programs(deployment, stages, batches, splits, OVERLAPS["none"], Ledger())
        step = Step(programs, ((),), {}, stages, (), len(marks), marks)
        timeline = simulate(programs, rates, deployment.network.capacity)
        return step.seconds(timeline), timeline

    return run


@pytest.mark.parametrize(("stages", "microbatches"), [(2, 2), (2, 4), (4, 4), (4, 8), (4, 1)])
def test_prefill_fills_and_drains(pipeline, stages, microbatches):
    seconds, _ = pipeline("prefill", [3.0] * stages, microbatches)
    assert seconds == pytest.approx((microbatches + stages - 1) * 3, rel=1e-4)


def test_a_slow_stage_sets_the_pace(pipeline):
    seconds, _ = pipeline("prefill", [1, 2, 1, 1], 6)
    assert seconds == pytest.approx(1 + 6 * 2 + 1 + 1, rel=1e-4)


@pytest.mark.parametrize(
    ("stages", "microbatches", "expected"),
    [
        ([3, 3], 2, 6),  # as many micro-batches as stages: always busy
        ([3, 3, 3, 3], 2, 12),  # too few: a token waits for its own way through
        ([1, 2, 1, 1], 4, 8),  # the slowest stage, four times
        ([3, 3], 4, 12),  # more micro-batches only queue
    ],
)
def test_decode_settles_into_a_time_per_token(pipeline, stages, microbatches, expected):
    seconds, timeline = pipeline("decode", stages, microbatches)
    assert seconds == pytest.approx(expected, rel=1e-4)
    assert timeline.lower_bound_s() / ROUNDS <= seconds <= timeline.upper_bound_s() / ROUNDS


def test_hidden_states_cross_once(scenario):
    """Sequence-sized messages from each rank to the one in its place; sampled tokens return to the first stage."""
    assembly = scenario(
        devices=4, dp=2, ep=2, pp=2, slots=8, workload="{kind: decode, sequences_per_rank: 6, context: 100}"
    )
    step = inference_step(assembly.deployment, assembly.batch, assembly.routes, OVERLAPS["none"])
    assert [program.ranks.tolist() for program in step.programs] == [[0, 1], [2, 3]]
    sent = {id(op.transfer): op.transfer for op in step.programs[0].ops if op.kind == "send"}
    assert [transfer.sent.sum() for transfer in sent.values()] == [2 * 3 * 64 * 2] * 2  # ranks, sequences, hidden, BF16
    returned = [op.transfer for op in step.programs[0].ops if op.kind == "receive"]
    assert len(returned) == 2 * (ROUNDS - 1)
    assert {transfer.sent.sum() for transfer in returned} == {2 * 3 * 4.0}
    layers = [sorted({op.layer for op in program.ops if op.layer >= 0}) for program in step.programs]
    assert layers == [[0, 1], [2, 3]]
    assert [op.kind for op in step.programs[1].ops].count("head") == 2 * ROUNDS


def test_links_carry_a_message_once(scenario):
    assembly = scenario(
        devices=2, dp=1, ep=1, pp=2, slots=16, workload="{kind: decode, sequences_per_rank: 8, context: 9}"
    )
    step = inference_step(assembly.deployment, assembly.batch, assembly.routes, OVERLAPS["none"])
    capacity = assembly.deployment.network.capacity
    found = link_load(assembly.deployment, simulate(step.programs, rates, capacity), step.rounds)
    out = found.load[:, assembly.deployment.network.links.ends.index(("device0", "nvlink0.0"))].sum()
    planes = sum(source == "device0" for source, _ in assembly.deployment.network.links.ends)
    assert out * planes == pytest.approx(8 * 64 * 2)  # eight hidden states in BF16 a step, spread over the planes


def test_layers_divide_or_are_listed():
    assert divide_layers(60, 4, None) == (15, 15, 15, 15)
    assert divide_layers(61, 4, [16, 15, 15, 15]) == (16, 15, 15, 15)
    with pytest.raises(Exception, match=r"write e.g. stages: \[16, 15, 15, 15\]"):
        divide_layers(61, 4, None)
    with pytest.raises(Exception, match="2 stages with 60 layers are listed"):
        divide_layers(61, 4, [30, 30])
