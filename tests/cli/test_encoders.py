"""Encoder-decoder and vision models as a user runs them."""

import pytest

DECODE = "{kind: decode, sequences_per_rank: 1, context: 9}"
ROUTING = ("--set", "routing={kind: lognormal, sigma: 0.7}")  # quicker than fitting a trace to many experts


@pytest.mark.parametrize("model", ["switch-base-128", "gshard-600b", "switch-c-2048"])
def test_every_encoder_decoder_of_the_catalogue_runs(moesim_json, model):
    slots = {"switch-base-128": 16, "gshard-600b": 256, "switch-c-2048": 256}[model]
    common = ("--set", f"model={model}", "--set", f"placement.slots_per_rank={slots}")
    common += (
        *ROUTING,
        "--set",
        "cluster.hardware=b300",
        "--set",
        "software=null",
        "--set",
        "workload.sequences_per_rank=4",
    )
    if model != "switch-base-128":
        common += ("--set", "precision.experts=nvfp4", "--set", "memory.reserve=0")
    decode = moesim_json("run", "nllb-moe-decode-h100", *common)
    assert decode["tpot_s"] == decode["step_time_s"]
    assert decode["breakdown_s"]["cross_attention"] > 0
    if model == "switch-base-128":
        encode = moesim_json("run", "nllb-moe-encode-h100", *common)
        assert encode["tpot_s"] is None
        assert decode["step_time_s"] < encode["step_time_s"]


def test_images_drop_patches_where_experts_are_full(moesim_json):
    few = ("--set", "workload.sequences_per_rank=4")
    found = moesim_json("run", "vmoe-encode-tpu-v4", *few, *ROUTING)
    assert 0 < found["dropped"]["share"] < 0.4
    deeper = ("--set", "model=vmoe-h14-last5", "--set", "capacity=null", *few, *ROUTING)
    assert moesim_json("run", "vmoe-encode-tpu-v4", *deeper)["step_time_s"] > 0


@pytest.mark.parametrize(
    ("scenario", "change", "said"),
    [
        ("quickstart", "workload={kind: encode, sequences_per_rank: 1}", "workload.kind: deepseek-v3 is a decoder"),
        ("quickstart", "workload.source=10", "workload.source: deepseek-v3 has no encoder"),
        ("nllb-moe-decode-h100", f"workload={DECODE}", "workload.source: missing"),
        ("nllb-moe-encode-h100", "workload={kind: encode, sequences_per_rank: 1}", "workload.source: missing"),
        ("vmoe-encode-tpu-v4", "workload.source=100", "workload.source: an image is 197 tokens"),
        ("vmoe-encode-tpu-v4", f"workload={DECODE}", "is an encoder; write encode"),
        ("nllb-moe-decode-h100", "parallelism={attention_dp: 4, cp: 2, ep: 8}", "parallelism.cp: encoders"),
        ("nllb-moe-decode-h100", "parallelism={attention_dp: 4, tp: 2, ep: 8}", "parallelism.tp: cross-attention"),
    ],
)  # fmt: skip
def test_mistakes_are_named(moesim, scenario, change, said):
    code, out, err = moesim("run", scenario, "--set", change, *ROUTING)
    assert (code, out) == (2, "")
    assert said in err, err
