"""Hybrid models: what linear attention keeps and costs, by hand and against full attention."""

from dataclasses import replace

import numpy as np
import pytest

from moesim.cost.launch import KERNEL_S
from moesim.cost.memory import STREAM_SHARE
from moesim.model.architecture import Attention
from moesim.model.parameters import layer_parameters
from moesim.model.per_token import kv_elements
from moesim.spec.model.file import load_model
from moesim.workload import local
from moesim.workload.deployment import Batch
from moesim.workload.footprint import footprint, kv_bytes, state_bytes

LINEAR = Attention("linear", heads=8, kv_heads=4, head_dim=16, v_head_dim=32, conv_kernel=4)


def hybrid(assembly):
    """The tiny model with linear attention in all layers but the last."""
    layers = [replace(layer, attention=LINEAR) for layer in assembly.deployment.model.layers[:-1]]
    model = replace(assembly.deployment.model, layers=(*layers, assembly.deployment.model.layers[-1]))
    return replace(assembly.deployment, model=model)


def kernel_seconds(deployment, batch):
    (cost,) = (
        work
        for work in local.attention_work(deployment, deployment.model.layers[0], batch, batch.sequences)
        if work.kind == "attention"
    )
    return float(cost.seconds[0])


def batch(phase, sequences, new_tokens, context):
    return Batch(phase, np.array([sequences]), new_tokens, context)


def test_a_step_reads_and_writes_the_state_whatever_the_context(scenario):
    deployment = hybrid(scenario(devices=1, dp=1, ep=1, slots=16))
    short, long = (kernel_seconds(deployment, batch("decode", 2000, 1, context)) for context in (10, 1_000_000))
    assert short == long
    state, values, channels = 8 * 16 * 32, 8 * 32, 2 * 4 * 16 + 8 * 32
    moved = 2 * 2000 * state * 4 + 2000 * (3 * channels + 4 * values) * 2 + 2 * 2000 * 3 * channels * 2
    device = deployment.machine.device
    assert short == pytest.approx(3 * KERNEL_S + moved / (STREAM_SHARE * device.hbm_bytes_per_s))


def test_prompts_pass_their_state_on_once_a_chunk(scenario):
    deployment = hybrid(scenario(devices=1, dp=1, ep=1, slots=16))
    one, four = (kernel_seconds(deployment, batch("prefill", 100, tokens, 0)) for tokens in (64, 256))
    fixed = 8 * KERNEL_S
    assert 3 < (four - fixed) / (one - fixed) < 4  # the convolution's own state is read once a prompt
    assert kernel_seconds(deployment, batch("prefill", 100, 65, 0)) > one


def test_the_state_is_memory_of_its_own(scenario):
    assembly = scenario(devices=1, dp=1, ep=1, slots=16)
    deployment = hybrid(assembly)
    state = 8 * 16 * 32 * 4 + 3 * (2 * 4 * 16 + 8 * 32) * 2  # FP32 matrices; BF16 inputs of the convolution
    assert state_bytes(deployment) == 3 * state
    assert kv_bytes(deployment, 100) == 2 * 4 * 16 * 100 * 2  # the last layer's keys and values only
    needs = footprint(deployment, assembly.batch, 0, reserve=0)
    assert needs.recurrent_state == 16 * 3 * state
    assert needs.by_kind()["recurrent_state"] == needs.recurrent_state
    assert footprint(assembly.deployment, assembly.batch, 0, reserve=0).recurrent_state == 0


def test_kimi_delta_attention_has_low_rank_gates():
    model = load_model("kimi-linear-48b-a3b")
    kinds = [layer.attention.kind for layer in model.layers]
    assert kinds.count("linear") == 20
    assert [index for index, kind in enumerate(kinds) if kind == "mla"] == [3, 7, 11, 15, 19, 23, 26]
    products = 2304 * 3 * 4096 + 2 * (2304 * 128 + 128 * 4096) + 2304 * 32 + 4096 * 2304
    vectors = 4 * 3 * 4096 + 32 + 4096 + 128  # convolutions, decay a head, step bias a channel, norm
    assert layer_parameters(model.layers[0], model).attention == products + vectors
    # a million tokens: seven latents of 576 and twenty states
    states = 20 * (32 * 128 * 128 + 3 * 3 * 4096)
    assert kv_elements(model, 10**6) == 7 * 576 * 10**6 + states
    assert states < 0.003 * kv_elements(model, 10**6)


def test_long_contexts_cost_a_hybrid_less(moesim_run):
    """Kimi Linear against the same model with latent attention everywhere, at a million tokens: the cache is 27/7 times
    as large, and a step that little else weighs on takes nearly as many times as long."""
    hybrid, full = moesim_run()
    assert 2.5 < full / hybrid < 27 / 7


@pytest.fixture
def moesim_run(tmp_path):
    from moesim.spec.assembly.step import assemble
    from moesim.spec.reading.loading import parse
    from moesim.workload.inference import inference_step
    from moesim.workload.overlap import OVERLAPS

    text = """
model: kimi-linear-48b-a3b
cluster: {hardware: h200, devices: 8}
parallelism: {attention_dp: 8, ep: 8}
precision: {experts: bf16, dense: bf16, dispatch: bf16, combine: bf16, kv: bf16}
workload: {kind: decode, sequences_per_rank: 2, context: 1000000}
routing: {kind: lognormal, sigma: 0.7}
placement: {kind: contiguous, slots_per_rank: 32}
overlap: {kind: none}
network: {all_to_all: deepep_low_latency}
"""

    def seconds(assembly, model):
        deployment = replace(assembly.deployment, model=model)
        step = inference_step(deployment, assembly.batch, assembly.routes, OVERLAPS["none"])
        return sum(float(np.max(work.seconds)) for kind, work in step.work.items() if kind == "attention")

    def run():
        assembly = assemble(parse(text, str(tmp_path / "a.yaml")))
        model = assembly.deployment.model
        latent = model.layers[-1].attention
        full = replace(model, layers=tuple(replace(layer, attention=latent) for layer in model.layers))
        return seconds(assembly, model), seconds(assembly, full)

    return run
