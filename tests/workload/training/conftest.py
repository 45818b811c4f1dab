import pytest

from moesim.spec.reading.loading import parse
from moesim.spec.training.assembly import assemble_training

MODEL = """
title: Tiny
hidden: 256
vocab: 1000
layers: 8
first_dense: 1
context: 4096
native: bf16
attention: {kind: gqa, heads: 8, kv_heads: 4, head_dim: 32}
dense_ffn: 512
experts: {routed: 16, top_k: 2, ffn: 128, shared_ffn: 128, score: softmax}
"""

SCENARIO = """
model: tiny.yaml
cluster: {hardware: h100, devices: 16}
parallelism: {pp: 2, ep: 4}
precision: {experts: bf16, dense: bf16, dispatch: bf16, combine: bf16}
workload: {kind: training, global_batch: 64, sequence: 256}
schedule: {kind: 1f1b}
recomputation: {kind: none}
optimizer: {kind: adam}
routing: {kind: trace, trace: tiny.safetensors}
placement: {kind: contiguous, slots_per_rank: 4}
"""


@pytest.fixture
def document(tmp_path, tiny):
    """A document of a tiny model's training (7 MoE layers, 16 experts top-2) with fields replaced."""
    tiny(tmp_path, MODEL, tokens=4096, layers=7)

    def build(**changes):
        made = parse(SCENARIO, str(tmp_path / "a.yaml"))
        for field, value in changes.items():
            made = made.with_value(field.replace("__", "."), value)
        return made

    return build


@pytest.fixture
def assembled(document):
    """The same, assembled: ``assembled(parallelism__pp=4)``."""
    return lambda **changes: assemble_training(document(**changes))
