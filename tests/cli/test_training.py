"""Training scenarios through the command line: what a user types, and what mistakes say."""

import json

import pytest

from moesim.spec.reading import library

GOOD = (library.folder("scenario") / "mixtral-8x7b-training-h100.yaml").read_text()
SMALL = ("--set", "workload.global_batch=64", "--set", "workload.windows=1")


def test_a_training_step_prints_its_headline(moesim):
    code, out, _ = moesim("run", "mixtral-8x7b-training-h100", *SMALL)
    assert code == 0
    assert "MFU" in out
    assert "bubble" in out


def test_json_holds_what_is_promised_and_the_report_its_files(moesim, tmp_path):
    code, out, _ = moesim("run", "mixtral-8x7b-training-h100", *SMALL, "--json", "--out", tmp_path / "out")
    assert code == 0
    metrics = json.loads(out)
    assert metrics["lower_bound_s"] <= metrics["step_time_s"] <= metrics["upper_bound_s"]
    assert metrics["step_time_low_s"] < metrics["step_time_s"] < metrics["step_time_high_s"]
    assert metrics["tokens_per_s"] == pytest.approx(64 * 4096 / metrics["step_time_s"])
    assert sum(metrics["breakdown_s"].values()) == pytest.approx(metrics["step_time_s"], rel=1e-6)
    # Megatron's count for Mixtral 8x7B at 4,096 tokens: 6 × 12.7 G active parameters and causal attention.
    assert metrics["model_flops_per_token"] == pytest.approx(6 * 12.75e9 + 6 * 32 * 4096 * 4096, rel=0.03)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"pipeline.png", "timeline.json", "metrics.json"}


def test_what_does_not_fit_says_what_would(moesim):
    code, out, err = moesim("run", "mixtral-8x7b-training-h100", "--set", "workload.microbatch=4")
    assert code == 3
    assert out == ""
    assert "bytes too many" in err
    assert "activations" in err
    assert "workload.microbatch: 1" in err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("pp: 4", "pp: 5", "parallelism.pp"),
        ("ep: 8", "ep: 7", "parallelism.ep"),
        ("ep: 8,", "ep: 8, dp: 8,", "write 16"),
        ("pp: 4, ep: 8,", "pp: 4, ep: 8, tp: 3,", "parallelism.tp"),
        ("pp: 4, ep: 8,", "tp: 64, ep: 8,", "64"),
        ("global_batch: 256", "global_batch: 200", "workload.global_batch"),
        ("global_batch: 256", "global_batch: 96", "interleaved needs a multiple of the 4 stages"),
        ("{kind: interleaved, virtual_stages: 8}", "{kind: dualpipe, virtual_stages: 8}", "virtual_stages"),
        ("{kind: interleaved, virtual_stages: 8}", "{kind: interleaved, virtual_stages: 3}", "stages: [3, 3"),
        ("seed: 7", "seed: 7\nstages: [8, 8, 16]", "stages"),
        ("experts: bf16", "experts: nvfp4", "fp4"),
        ("kind: adam", "kind: adamw", "did you mean 'adam'"),
        ("kind: none", "kind: selective, modules: [moe]", "modules"),
        ("pp: 4, ep: 8,", "pp: 4, ep: 8, tp: 2, sequence_parallel: false,", "parallelism.sequence_parallel"),
        ("slots_per_rank: 1", "slots_per_rank: 1, sequences: by_label", "placement.sequences"),
    ],
)
def test_each_mistake_names_its_field(moesim, tmp_path, old, new, said):
    assert old in GOOD
    path = tmp_path / "a.yaml"
    path.write_text(GOOD.replace(old, new))
    code, out, err = moesim("run", path)
    assert code == 2, err
    assert out == ""
    assert said in err
    assert "a.yaml:" in err


def test_each_kind_of_matrix_has_its_format(moesim_json):
    """Routed experts in FP8, attention in BF16, the router in FP32: less than all in FP8, more than nothing."""
    small = ["run", "mixtral-8x7b-training-h100", *SMALL]
    stated = "{experts: fp8, dense: fp8, attention: bf16, router: fp32, dispatch: bf16, combine: bf16}"
    wide, mixed, narrow = (
        moesim_json(*small, *(("--set", f"precision={text}") if text else ()))
        for text in ("", stated, stated.replace("attention: bf16, router: fp32, ", ""))
    )
    assert narrow["step_time_s"] < mixed["step_time_s"] < wide["step_time_s"]
    assert mixed["breakdown_s"]["attention"] == pytest.approx(wide["breakdown_s"]["attention"], rel=0.02)
    assert mixed["hbm"]["by_kind"]["cast_weights"] < narrow["hbm"]["by_kind"]["cast_weights"]
