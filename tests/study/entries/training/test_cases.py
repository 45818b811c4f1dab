"""Training figures: jobs read off texts, stages, and steps continued in a straight line."""

import pytest

from moesim.study.entries.prediction.predict import case_of, run_case
from moesim.study.entries.reading.case import Assumptions, NotStated
from moesim.study.entries.reading.degrees import stages
from moesim.study.entries.reading.entry import Entry
from moesim.study.entries.runs.runner import Runner
from moesim.study.entries.runs.training_outcome import _microbatches, _run, training_outcome

ENTRY = {
    "id": "x", "kind": "training", "model": "Qwen3_30B_a3B", "hardware": "DGX-GB200", "devices": 8,
    "parallelism": "TP1 PP2 CP1 VP2 EP4", "precision": "MXFP8", "batch": "GBS 128, MBS 1", "input_len": "1024",
    "software": "NeMo container 26.04", "metric": "training throughput per GPU", "unit": "tok/s/GPU",
    "note": "force-balanced routing, dropless",
}  # fmt: skip


def case(**changes):
    return case_of(Entry(**{**ENTRY, **changes}), Runner())


def test_a_job_is_read_off_its_texts():
    found = case()
    document = found.document
    assert document["cluster"] == {"hardware": "gb200_nvl72", "devices": 8}
    assert document["parallelism"] == {"tp": 1, "cp": 1, "pp": 2, "ep": 4, "expert_tp": 1, "zero": 1}
    assert document["schedule"] == {"kind": "interleaved", "virtual_stages": 2}
    assert document["workload"]["global_batch"] == 128
    assert document["routing"] == {"kind": "balanced"}
    assert (found.stack, found.age) == ("megatron fp8", pytest.approx(0))


def test_routing_is_a_capture_but_for_benchmarks_and_forced_balance():
    unknown = {"note": "", "software": ""}
    assert case(**unknown).document["routing"]["kind"] == "trace"
    assert case(note="imbalanced experts", software="").document["routing"]["kind"] == "trace"
    assert case(**unknown, model="Qwen3 30B (tokendrop)").document["routing"]["kind"] == "balanced"
    assert case(note="use_random_routing=True", software="").document["routing"]["kind"] == "balanced"
    assert case(note="").document["routing"]["kind"] == "balanced"  # Megatron's recipes


def test_a_page_without_a_release_has_that_of_its_launch_scripts():
    assert case(software="NeMo").age is None
    assert case(software="NeMo", source="github NVIDIA/dgxc-benchmarking x/README.md").age == pytest.approx(1)
    assert case(source="github NVIDIA/dgxc-benchmarking x/README.md").age == pytest.approx(0)


def test_a_step_of_optimisations_is_of_its_day():
    """The discussion is of November 2025, its product began to ship in February; twelve steps lie in between."""
    page = {"source": "github NVIDIA/Megatron-LM docs/discussions/deepseek-v3-gb200-optimization/", "hardware": "GB200"}
    first, middle, last = (
        case(
            **page,
            software="Megatron-Core",
            unit="TFLOPS/GPU",
            metric=f"model TFLOPS, cumulative optimisation step {n}",
        )
        for n in (0, 6, 12)
    )
    assert last.age == pytest.approx(5 / 12, abs=1e-3)
    assert first.age == pytest.approx(14 / 12, abs=1e-3)
    assert middle.age == pytest.approx((first.age + last.age) / 2, abs=1e-3)


def test_recipes_recompute():
    assert case().document["recomputation"] == {"kind": "none"}
    assert case(model="DeepSeek-V3").document["recomputation"] == {"kind": "selective", "modules": ["mla_up"]}
    assert case(software="MaxText").document["recomputation"] == {"kind": "full"}


def test_steps_are_launched_as_recipes_launch_them():
    april, june = (case(software=f"NeMo container {release}").document for release in ("26.04", "26.06"))
    assert (april["graphs"], april["grouped_gemm"], april["schedule"]) == (
        "partial", "per_expert", {"kind": "interleaved", "virtual_stages": 2},
    )  # fmt: skip
    assert (june["graphs"], june["grouped_gemm"], june["schedule"]) == (
        True, "fused_mlp", {"kind": "interleaved", "virtual_stages": 2, "pairs": True},
    )  # fmt: skip
    tpu = case(software="MaxText", hardware="TPU v5p-8", precision="bf16", parallelism="FSDP").document
    assert (tpu["graphs"], tpu["grouped_gemm"]) == (True, "fused")


def test_tokens_are_dropped_where_an_entry_or_early_scripts_do():
    dropped = case(model="Qwen3_30B_a3B (tokendrop)", software="NeMo container 25.09").document
    assert (dropped["graphs"], dropped["network"]["all_to_all"]) == (True, "nccl")
    early = case(software="NeMo", source="github NVIDIA/dgxc-benchmarking x/README.md").document
    assert (early["graphs"], early["network"]["all_to_all"]) == (False, "nccl")


def test_exchanges_are_those_of_the_recipes():
    wide = {"hardware": "DGX-B200", "devices": 16, "parallelism": "EP16", "model": "DeepSeek-V3"}
    kernels = {"NeMo container 25.11": "deepep_normal", "NeMo container 26.02": "deepep_hybrid", "": "deepep_normal"}
    for software, kernel in kernels.items():
        assert case(**wide, software=software).document["network"]["all_to_all"] == kernel
    assert case().document["network"]["all_to_all"] == "nvlink_one_sided"
    assert case(hardware="DGX-B200", software="NeMo container 26.02").document["network"]["all_to_all"] == "nccl"


def test_exchanges_hide_in_interleaved_pipelines_or_none():
    recent = {"software": "NeMo container 26.06"}
    assert case(**recent, parallelism="EP8").document["schedule"] == {"kind": "1f1b", "pairs": True}
    assert case(**recent, parallelism="PP2 EP4").document["schedule"] == {"kind": "1f1b"}
    assert "pairs" not in case().document["schedule"]


def test_hosts_launch_passes_and_products_of_local_experts():
    document = case(batch="GBS 32, MBS 1").document
    pairs = {"schedule": {"kind": "interleaved", "virtual_stages": 2, "pairs": True}, "graphs": False}
    changes = ({"graphs": False}, {"graphs": "partial"}, {"graphs": True}, pairs)
    eager, partial, captured, overlapped = (training_outcome({**document, **change}) for change in changes)
    # 48 layers on 2 stages, 8 replicas / 2 of 8 sequences; 128 experts on 4 ranks.
    assert eager.passes == 48 / 2 * 8
    assert eager.expert_passes == 32 * eager.passes
    assert (partial.passes, partial.expert_passes) == (eager.passes / 2, eager.expert_passes)
    assert captured.passes == captured.expert_passes == 0
    assert (overlapped.serial, eager.serial) == (True, False)
    assert {"experts", "dense", "attention", "element_wise", "exchange", "bubble"} <= set(eager.seconds)
    assert sum(eager.seconds.values()) == pytest.approx(eager.total_s, rel=1e-6)


def test_maxtext_shards_everything():
    document = case(
        software="MaxText", hardware="TPU v5p-256", devices=128, parallelism="FSDP", batch="per_device_batch 4",
        precision="bf16",
    ).document  # fmt: skip
    assert document["parallelism"] == {"tp": 1, "cp": 1, "pp": 1, "ep": 1, "expert_tp": 1, "zero": 3}
    assert document["workload"]["global_batch"] == 512
    assert document["workload"]["microbatch"] == 4


def test_a_job_without_degrees_runs_as_its_recipe():
    found = case(model="DeepSeek-V3", hardware="GB300", devices=None, parallelism="", batch="", precision="")
    assert found.document["parallelism"]["pp"] == 2
    assert any("recipe" in text for text in found.assumed)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"devices": 6, "parallelism": "TP4"}, "does not divide"), ({"devices": None}, "number of devices")],
)
def test_jobs_that_cannot_be_are_refused(changes, words):
    with pytest.raises(NotStated, match=words):
        case(**changes)


@pytest.mark.parametrize(
    ("layers", "chunks", "expected"),
    [
        (61, 16, [4] * 15 + [1]),  # Megatron's "Et*4|(t*4|)*14tmL"
        (61, 32, [2] * 30 + [1, 0]),
        (94, 24, [3] + [4] * 22 + [3]),  # embedding and loss count as a layer
        (10, 4, [2, 3, 3, 2]),
        (9, 4, [3, 3, 3, 0]),
    ],
)
def test_layers_of_uneven_stages(layers, chunks, expected):
    assert stages(layers, chunks) == expected


def test_a_continued_step_equals_the_whole_one():
    document = case().document
    many, few, more = _microbatches(document)
    assert (many, few, more) == (32, 8, 12)
    continued, whole = training_outcome(document), _run(document)
    assert continued.total_s == pytest.approx(whole.total_s, rel=1e-3)
    assert continued.input_tokens == whole.input_tokens
    assert continued.seconds == pytest.approx(whole.seconds, rel=0.01, abs=1e-4)


def test_a_job_that_does_not_fit_recomputes():
    found = case(hardware="H100", parallelism="EP8", batch="GBS 64, MBS 4", input_len="4096", precision="BF16")
    lighter, _ = run_case(found, Runner())
    assert found.document["recomputation"] == {"kind": "none"}
    assert lighter.document["recomputation"] != {"kind": "none"}
    assert "would not fit" in lighter.assumed[-1]
    assert Assumptions().texts == []
