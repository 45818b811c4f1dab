"""Any legal combination of degrees: the step runs inside its bounds, and tokens, queries and bytes are conserved."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from moesim.cost.estimate import Cost
from moesim.engine.simulate import simulate
from moesim.model.architecture import Attention
from moesim.model.per_token import mean_attended_tokens
from moesim.network.coflow import rates
from moesim.workload import local, micro_batch, routers
from moesim.workload.deployment import Batch
from moesim.workload.exchange import holders, most_held
from moesim.workload.inference import inference_step
from moesim.workload.overlap import OVERLAPS
from moesim.workload.sequences import own_part
from moesim.workload.stage import stages_of

DECODE = "{kind: decode, sequences_per_rank: 8, context: 100}"
PREFILL = "{kind: prefill, sequences_per_rank: 8, prompt: 16}"


@st.composite
def degrees(draw):
    """Degrees of a tiny model (8 heads, 4 KV heads, 16 experts, 4 layers) on up to 16 devices."""
    tp, cp, dp, pp = (draw(st.sampled_from(sizes)) for sizes in ((1, 2, 4), (1, 2), (1, 2, 4), (1, 2, 4)))
    assume(tp * cp * dp * pp <= 16)
    stage = tp * cp * dp
    expert_tp = draw(st.sampled_from([size for size in (1, 2, 4) if stage % size == 0]))
    return {
        "devices": stage * pp, "dp": dp, "tp": tp, "cp": cp, "pp": pp, "ep": stage // expert_tp, "expert_tp": expert_tp,
        "slots": 16 * expert_tp // stage,
        "more": f"sequence_parallel: {str(tp > 1 and draw(st.booleans())).lower()}, "
        f"context_exchange: {draw(st.sampled_from(['ring', 'all_gather']))}, "
        f"order: [{', '.join(draw(st.permutations(['tp', 'cp', 'dp', 'pp'])))}]",
    }  # fmt: skip


@settings(max_examples=14)
@given(
    chosen=degrees(),
    workload=st.sampled_from([DECODE, PREFILL]),
    kernel=st.sampled_from(["nccl", "deepep_normal", "deepep_low_latency"]),
    overlap=st.sampled_from(["none", "shared_expert", "two_batch"]),
)
def test_every_legal_combination(shared_scenario, chosen, workload, kernel, overlap):
    assembly = shared_scenario(**chosen, workload=workload, kernel=kernel)
    deployment, batch = assembly.deployment, assembly.batch
    step = inference_step(deployment, batch, assembly.routes, OVERLAPS[overlap])
    timeline = simulate(step.programs, rates, deployment.network.capacity)
    seconds = step.seconds(timeline)
    slack = 1e-9
    assert timeline.lower_bound_s() / step.rounds - slack <= seconds <= timeline.upper_bound_s() / step.rounds + slack

    # Every rank runs one program; every layer runs on one stage, once a micro-batch and round.
    assert sorted(np.concatenate([program.ranks for program in step.programs])) == list(range(deployment.cluster.ranks))
    stages = stages_of(deployment)
    assert [index for stage in stages for index in stage.layers] == [0, 1, 2, 3]

    # Every token is held once and computed by its top 2 experts, whatever the degrees.
    tokens = int(batch.tokens.sum())
    held = np.bincount(holders(stages[0], batch), minlength=stages[0].parallelism.devices)
    assert held.sum() == tokens
    assert most_held(stages[0], batch) == held.max()
    if not stages[0].alone:
        assert np.ptp(held) <= 2 * chosen["cp"] * max(8 // chosen["pp"], 1)
    assert [layer.tokens.sum() for layer in step.traffic[0]] == [2 * tokens] * 3

    # What leaves one rank arrives at another.
    for op in {id(op.transfer): op for program in step.programs for op in program.ops if op.transfer}.values():
        assert op.transfer.sent.sum() == pytest.approx(op.transfer.received.sum())


@given(
    tokens=st.lists(st.integers(0, 40), min_size=2, max_size=2), cp=st.integers(1, 4), tp=st.integers(1, 3),
    length=st.integers(1, 9), phase=st.sampled_from(["decode", "prefill"]), sharded=st.booleans(),
)  # fmt: skip
def test_most_tokens_of_a_rank_are_counted_without_listing_them(tokens, cp, tp, length, phase, sharded):
    new = length if phase == "prefill" else 1
    grid = np.arange(2 * cp * tp).reshape(1, 2, cp, tp)
    stage = SimpleNamespace(parallelism=SimpleNamespace(cp=cp, tp=tp, grid=grid), alone=False, sharded=sharded)
    batch = Batch(phase, np.array(tokens), new, 0)
    assert most_held(stage, batch) == np.bincount(holders(stage, batch), minlength=1).max()


@given(
    cp=st.integers(2, 8),
    runs=st.integers(1, 20),
    context=st.integers(0, 5000),
)
def test_context_parallel_prefill_attends_to_as_much(cp, runs, context):
    attention = Attention("gqa", 8, 8, 64)
    new = 2 * cp * runs
    batch = Batch("prefill", np.array([1]), new, context)
    divisor, part = own_part(attention, batch, cp)
    assert divisor == 1

    def pairs(each):  # queries times the tokens they see
        total = each.context + each.new_tokens
        return total * mean_attended_tokens(attention, total) - (
            each.context * mean_attended_tokens(attention, each.context) if each.context else 0
        )

    assert cp * pairs(part) == pytest.approx(pairs(batch), rel=2 / (runs + 1) / cp + 0.01)


@given(cp=st.integers(2, 8), context=st.integers(16, 5000), window=st.sampled_from([0, 128]))
def test_context_parallel_decode_reads_every_cached_token(cp, context, window):
    attention = Attention("gqa", 8, 8, 64, window=window)
    _, part = own_part(attention, Batch("decode", np.array([4]), 1, context), cp)
    visible = min(context + 1, window or context + 1)
    assert visible <= cp * (part.context + 1) < visible + cp


def test_expert_tensor_parallelism_beside_data_parallel_attention(scenario):
    """Four ranks in two groups of two: tokens go to the rank with their sender's place, and both compute half."""
    whole = scenario(devices=4, dp=4, ep=4, slots=4)
    split = scenario(devices=4, dp=4, ep=2, expert_tp=2, slots=8)
    steps = [inference_step(each.deployment, each.batch, each.routes, OVERLAPS["none"]) for each in (whole, split)]
    kinds = [op.kind for op in steps[1].program.ops if op.layer == 1]
    assert kinds[-6:] == ["router", "dispatch", "expert_gather", "experts", "expert_scatter", "combine"]
    for one, other in zip(*(step.traffic[0] for step in steps), strict=True):
        assert one.tokens.sum() == other.tokens.sum()
        assert other.tokens.shape == (2, 8)
        source, destination = np.nonzero(other.copies)
        assert (source % 2 == destination % 2).all()
    gather = next(op.transfer for op in steps[1].program.ops if op.kind == "expert_gather")
    assert gather.group.tolist() == [0, 0, 1, 1]
    fullest = max(float(steps[1].traffic[0][0].entering.max()), 0)
    assert gather.received.max() == pytest.approx(fullest * 64 / 2)  # half of the group's tokens, in FP8


def test_one_group_gathers_every_token_once(scenario):
    assembly = scenario(devices=4, dp=4, ep=1, expert_tp=4, slots=16, kernel="deepep_low_latency")
    step = inference_step(assembly.deployment, assembly.batch, assembly.routes, OVERLAPS["none"])
    kinds = [op.kind for op in step.program.ops if op.layer == 1]
    assert kinds[-4:] == ["router", "expert_gather", "experts", "expert_scatter"]
    gather = next(op.transfer for op in step.program.ops if op.kind == "expert_gather")
    assert gather.received.tolist() == pytest.approx([48 * 64] * 4)  # the others' 16 tokens each, in FP8
    assert step.traffic[0][0].tokens.sum() == 2 * 64


def test_sequence_parallelism_turns_all_reduces_into_pairs(scenario):
    plain = scenario(devices=4, dp=1, tp=4, ep=4, slots=4)
    split = scenario(devices=4, dp=1, tp=4, ep=4, slots=4, more="sequence_parallel: true")
    kinds = [
        [op.kind for op in inference_step(each.deployment, each.batch, each.routes, OVERLAPS["none"]).program.ops]
        for each in (plain, split)
    ]
    assert kinds[0].count("all_reduce") == 8
    assert kinds[1].count("all_reduce") == 0
    assert kinds[1].count("reduce_scatter") == 8
    assert kinds[1].count("all_gather") == 8 + 1  # and one before the head


def test_context_parallelism_moves_keys_and_values(scenario):
    workload = "{kind: prefill, sequences_per_rank: 2, prompt: 32}"
    ring, gathered = (
        scenario(devices=4, dp=1, cp=4, ep=4, slots=4, workload=workload, more=f"context_exchange: {kind}")
        for kind in ("ring", "all_gather")
    )
    sent = []
    for each in (ring, gathered):
        step = inference_step(each.deployment, each.batch, each.routes, OVERLAPS["none"])
        sent.append(sum(op.transfer.received.sum() for op in step.program.ops if op.kind == "context_exchange"))
    # 4 layers, 4 ranks, each gets the 3/4 of 64 tokens that it lacks: keys and values of 4 heads of 16, BF16
    assert sent == [pytest.approx(4 * 4 * 48 * 2 * 4 * 16 * 2)] * 2


def flops_as_seconds(patch):
    """Let every product take a second a FLOP and everything else no time, so that a program adds up FLOPs."""

    def product(machine, tokens, n, k, **formats):
        work = 2.0 * np.asarray(tokens, dtype=float) * n * k
        return Cost(work, work, work, np.zeros_like(work))

    def experts(machine, tokens, *, hidden, ffn, gated, **rest):
        work = 2.0 * tokens.sum(axis=-1) * (2 + gated) * hidden * ffn
        return Cost(work, work, work, np.zeros_like(work))

    def nothing(machine, moved, **rest):
        none = np.zeros_like(np.asarray(moved, dtype=float))
        return Cost(none, none, none, none)

    for module, name, function in (
        (local, "gemm", product), (routers, "gemm", product), (micro_batch, "routed_experts", experts),
        (local, "memory_bound", nothing), (routers, "memory_bound", nothing),
    ):  # fmt: skip
        patch.setattr(module, name, function)


def total_flops(assembly, overlap="none"):
    """{kind: FLOPs of one step over all ranks}."""
    step = inference_step(assembly.deployment, assembly.batch, assembly.routes, OVERLAPS[overlap])
    found = {}
    for program in step.programs:
        for op in program.ops:
            if op.seconds is not None:
                found[op.kind] = found.get(op.kind, 0.0) + op.seconds.sum() / step.rounds
    return found


@settings(max_examples=8)
@given(chosen=degrees(), prefill=st.booleans(), overlap=st.sampled_from(["none", "two_batch"]))
def test_products_add_up_to_those_of_one_rank(shared_scenario, chosen, prefill, overlap):
    """FLOPs of every kind over all ranks are those of the whole model on one, times what is replicated by design."""
    total = 128  # sequences of all replicas: powers of two, so that nothing is padded
    kind = "prefill, prompt: 32" if prefill else "decode, context: 100"

    def assembled(**degrees):
        sequences = total // degrees["dp"]
        return shared_scenario(workload=f"{{kind: {kind}, sequences_per_rank: {sequences}}}", **degrees)

    with pytest.MonkeyPatch.context() as patch:
        flops_as_seconds(patch)
        whole = total_flops(assembled(devices=1, dp=1, ep=1, slots=16))
        parts = total_flops(assembled(**chosen), overlap)
    alone = chosen["dp"] * chosen["cp"] == 1
    for kind in ("projections", "dense_ffn", "shared_expert", "experts"):
        assert parts[kind] == pytest.approx(whole[kind]), kind
    # Where every rank holds all tokens, each routes all of them.
    assert parts["router"] == pytest.approx(whole["router"] * (chosen["tp"] if alone else 1))
    # The last tokens of all prompts stand on one context-parallel rank; moesim has the others wait as if they worked.
    assert parts["head"] == pytest.approx(whole["head"] * (chosen["cp"] if prefill else 1))
