"""Rules of inference figures: formats, overlap, drafts and dates that a text leaves open, and pools that do not fit."""

from dataclasses import replace

import pytest

from moesim.errors import Infeasible
from moesim.study.entries.prediction.predict import case_of, run_case
from moesim.study.entries.reading.case import Case
from moesim.study.entries.reading.entry import Entry
from moesim.study.entries.reading.quantity import Quantity
from moesim.study.entries.runs.outcome import Outcome
from moesim.study.entries.runs.runner import Runner

WIDE = Entry(
    "pool", kind="inference", model="DeepSeek-V3", hardware="H100", devices=32, parallelism="decode EP32",
    precision="FP8", batch="128/device", input_len="2000", software="SGLang May 2025",
    metric="decode throughput per GPU", unit="tok/s/GPU",
)  # fmt: skip
ALONE = replace(
    WIDE, hardware="B200", devices=8, parallelism="TP8 MTP", precision="FP8", batch="1", software="TensorRT-LLM",
    metric="min latency", unit="tok/s/user", output_len="1000",
)  # fmt: skip


def _case(entry, **changes):
    return case_of(replace(entry, **changes), Runner())


@pytest.mark.parametrize(
    ("changes", "formats"),
    [
        ({"model": "Qwen3-235B", "software": "TensorRT-LLM"}, ("fp8", "fp8", "fp8")),  # NVIDIA's own checkpoint
        ({"model": "Qwen3-235B", "software": "vLLM"}, ("fp8_block", "fp8_block", "bf16")),
        ({"software": "TensorRT-LLM"}, ("fp8_block", "fp8_block", "bf16")),  # released in blocks
        ({"hardware": "GB200", "precision": "NVFP4"}, ("nvfp4", "bf16", "fp8")),
        ({"hardware": "GB200", "precision": "NVFP4", "parallelism": "EP2"}, ("nvfp4", "nvfp4", "fp8")),  # or no room
    ],
)
def test_formats_follow_the_checkpoints_that_stacks_run(changes, formats):
    precision = _case(WIDE, **changes).document["precision"]
    assert (precision["experts"], precision["dense"], precision["kv"]) == formats


@pytest.mark.parametrize(
    ("changes", "overlap"),
    [
        ({}, {"kind": "two_batch", "hooks": True}),
        ({"batch": "32/device"}, {"kind": "shared_expert"}),  # where SGLang lost by it
        ({"parallelism": "decode EP32 without TBO"}, {"kind": "none"}),
    ],
)
def test_micro_batches_overlap_where_it_pays(changes, overlap):
    case = _case(WIDE, **changes)
    assert case.document["overlap"] == overlap
    assert ("two micro-batches overlap from 64" in " ".join(case.assumed)) == (overlap["kind"] == "two_batch")


@pytest.mark.parametrize(
    ("changes", "dispatch"),
    [
        ({}, "fp8_block"),
        ({"hardware": "GB200", "precision": "NVFP4", "software": "vLLM"}, "nvfp4"),
        ({"hardware": "GB200", "precision": "NVFP4", "software": "TensorRT-LLM"}, "nvfp4"),
        ({"hardware": "GB200", "precision": "NVFP4", "parallelism": "EP32 prefill", "metric": "prefill"}, "bf16"),
        ({"precision": "BF16"}, "bf16"),
    ],
)
def test_what_kernels_send_to_the_experts(changes, dispatch):
    assert _case(WIDE, **changes).document["precision"]["dispatch"] == dispatch


def test_simulated_drafts_read_the_cache_for_each_token():
    work = _case(WIDE, parallelism="decode EP32, simulated MTP").document["workload"]
    assert work["sequences_per_rank"] == 128
    assert work["speculative"] == {
        "draft_tokens": 1, "acceptance": 1.0, "draft": {"kind": "lookup"}, "cache_reads": "each_token",
    }  # fmt: skip


def test_a_speed_up_is_over_no_overlap():
    case = _case(WIDE, metric="TBO speedup decode", unit="%", batch="32/device")
    assert case.document["overlap"] == {"kind": "two_batch", "hooks": True}
    assert case.base["overlap"] == {"kind": "none"}
    prefill = _case(WIDE, parallelism="EP32 prefill", metric="TBO speedup prefill", unit="%")
    assert prefill.document["overlap"] == {"kind": "two_batch"}


@pytest.mark.parametrize(
    ("changes", "drafts", "acceptance"),
    [
        ({}, 3, 0.76),
        ({"parallelism": "TP8 MTP1"}, 1, 0.85),
        ({"metric": "max throughput", "unit": "tok/s/GPU", "batch": "conc 64"}, 1, 0.85),  # many users draft less
    ],
)
def test_drafts_where_a_text_says_mtp_alone(changes, drafts, acceptance):
    server = _case(ALONE, **changes).document["server"]
    assert (server["draft_tokens"], server["acceptance"]) == (drafts, acceptance)


@pytest.mark.parametrize(("software", "drafts"), [("SGLang", 2), ("vLLM", 3)])
def test_sglang_counts_the_token_before_the_drafts(software, drafts):
    work = _case(WIDE, metric="decode throughput (MTP 3 tokens)", software=software).document["workload"]
    assert work["speculative"]["draft_tokens"] == drafts


def test_documents_and_baselines_date_a_figure():
    blog = {"source": "blog/2025-10-01-latency.md"}
    assert _case(ALONE).age is None
    assert _case(ALONE, **blog).age == pytest.approx(0.5)
    assert _case(ALONE, **blog, parallelism="TP8 baseline").age == pytest.approx(1.5)


class Small(Runner):
    """Room for so many sequences, and only without the reserve."""

    def __init__(self, room):
        super().__init__()
        self.room = room

    def run(self, data):
        if "memory" not in data or data["workload"]["sequences_per_rank"] > self.room:
            raise Infeasible("does not fit")
        return Outcome(1, 1, 1.0, {"compute": 1.0}, output_tokens=data["workload"]["sequences_per_rank"])


def test_a_pool_whose_sequences_are_assumed_decodes_as_many_as_fit():
    work = {"workload": {"kind": "decode", "sequences_per_rank": 100}}
    case = Case("x", work, Quantity("tokens"), "s", ("100 sequences a rank",))
    found, outcome = run_case(case, Small(room=92))
    assert outcome.output_tokens == 90
    assert "90 sequences" in found.assumed[-1]
    with pytest.raises(Infeasible):
        run_case(case, Small(room=50))
    with pytest.raises(Infeasible):  # how many there are is stated
        run_case(replace(case, assumed=()), Small(room=92))
    assert run_case(replace(case, assumed=()), Small(room=100))[1].output_tokens == 100
