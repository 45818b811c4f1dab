"""Speculative decoding as a user runs it."""

import pytest

QUICK = ("quickstart", "--set", "workload.sequences_per_rank=16")
MTP = "workload.speculative={{draft_tokens: {}, acceptance: {}, draft: {{kind: mtp}}}}"


def test_tpot_counts_kept_tokens(moesim, moesim_json):
    metrics = moesim_json("run", *QUICK, "--set", MTP.format(2, 0.8))
    found = metrics["speculative"]
    assert found["accepted_tokens"] == pytest.approx((1 - 0.8**3) / (1 - 0.8))
    assert metrics["tpot_s"] == pytest.approx(metrics["step_time_s"] / found["accepted_tokens"])
    assert found["draft_s"] + found["check_s"] == pytest.approx(metrics["step_time_s"])
    assert metrics["tokens_per_s"] == pytest.approx(72 * 16 * found["accepted_tokens"] / metrics["step_time_s"])
    assert metrics["lower_bound_s"] <= metrics["step_time_s"] <= metrics["upper_bound_s"]
    never = moesim_json("run", *QUICK, "--set", MTP.format(2, 0))
    assert never["tpot_s"] > moesim_json("run", *QUICK)["tpot_s"]  # nothing kept: drafts only cost
    assert "drafted" in moesim("run", *QUICK, "--set", MTP.format(2, 0.8))[1]


def test_drafting_costs_what_servers_measured(moesim_json, tmp_path):
    """DeepSeek on eight Blackwell GPUs, one user: TensorRT-LLM went from 250 tokens/s with two drafts (2.58 kept) to
    253 with three (2.82 kept), so a third draft made a step 1.08 times as long; vLLM from 125 tokens/s to 234 with one
    draft kept nine times of ten, 1.015 times."""
    path = tmp_path / "r1.yaml"
    path.write_text(
        "model: deepseek-v3\ncluster: {hardware: b200, devices: 8}\nparallelism: {tp: 8, ep: 8}\n"
        "precision: {experts: nvfp4, dense: fp8_block, dispatch: bf16, combine: bf16, kv: fp8}\n"
        "workload: {kind: decode, sequences_per_rank: 1, context: 2000}\n"
        "routing: {kind: trace, trace: deepseek-v3-miniature}\noverlap: {kind: none}\n"
        "placement: {kind: contiguous, slots_per_rank: 32}\nsoftware: trtllm\n"
    )
    plain = moesim_json("run", path)["step_time_s"]
    one, two, three = (moesim_json("run", path, "--set", MTP.format(k, 0.9))["step_time_s"] for k in (1, 2, 3))
    assert one / plain == pytest.approx(1.015, rel=0.12)
    assert three / two == pytest.approx(1.08, rel=0.05)


@pytest.mark.parametrize(
    ("scenario", "speculative", "said"),
    [
        ("mixtral-8x7b-h100", "{draft_tokens: 2, acceptance: 0.8, draft: {kind: mtp}}", "draft.kind: mixtral-8x7b has"),
        (
            "mixtral-8x7b-h100",
            "{draft_tokens: 2, acceptance: 0.8, draft: {kind: model, model: mixtral-8x22b}}",
            "workload.speculative.draft.model: mixtral-8x22b has routed experts",
        ),
        ("mixtral-8x7b-h100", "{draft_tokens: 2, acceptance: 0.8, draft: {kind: model, model: llama}}", "draft.model"),
        ("quickstart", "{draft_tokens: 0, acceptance: 0.8, draft: {kind: mtp}}", "draft_tokens"),
        ("quickstart", "{draft_tokens: 1, acceptance: 1.8, draft: {kind: mtp}}", "acceptance"),
        ("quickstart", "{draft_tokens: 1, draft: {kind: mtp}}", "acceptance: missing"),
        (
            "deepseek-v3-pipeline-h100",
            "{draft_tokens: 1, acceptance: 0.8, draft: {kind: mtp}}",
            "parallelism.pp: drafts",
        ),
        ("mixtral-offload-24gb", "{draft_tokens: 1, acceptance: 0.8, draft: {kind: lookup}}", "one token a step"),
    ],
)
def test_mistakes_are_named(moesim, scenario, speculative, said):
    code, out, err = moesim("run", scenario, "--set", f"workload.speculative={speculative}")
    assert (code, out) == (2, "")
    assert said in err, err
