"""Free text of published figures: hardware, models, degrees, formats, quantities, numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.study.entries.reading import words
from moesim.study.entries.reading.degrees import degrees
from moesim.study.entries.reading.entry import Entry, entry_of, read_entries
from moesim.study.entries.reading.formats import Formats, formats
from moesim.study.entries.reading.quantity import quantity


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("DGX-GB300", "gb300_nvl72"),
        ("NVIDIA GB200 NVL72 (4 racks)", "gb200_nvl72"),
        ("8x H100 SXM5 + CX7", "h100"),
        ("HGX B300", "b300"),
        ("64 x TPU v5p", "tpu_v5p"),
        ("Trillium pod", "tpu_v6e"),
        ("Ironwood 4x4x4", "tpu_v7x"),
        ("AMD Instinct MI355X", "mi355x"),
        ("GB200 against B200", "gb200_nvl72"),
        ("a farm of abacuses", None),
    ],
)
def test_hardware(text, name):
    assert words.hardware(text) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-v3"),
        ("DeepSeek V3.2-Exp", "deepseek-v3.2"),
        ("Qwen3_30B_a3B (tokendrop)", "qwen3-30b-a3b"),
        ("GPT OSS 20B", "gpt-oss-20b"),
        ("openai/gpt-oss-120b", "gpt-oss-120b"),
        ("Mixtral 8x22B dropped", "mixtral-8x22b"),
        ("Nemotron_3_Super", "nemotron-3-super"),
        ("BERT", None),
    ],
)
def test_model(text, name):
    assert words.model(text) == name


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("TP1 PP4 CP1 VP4 EP64", {"tp": 1, "pp": 4, "cp": 1, "vp": 4, "ep": 64}),
        ("tp=2, pp=8, vpp=2, ep=32, etp=1", {"tp": 2, "pp": 8, "vp": 2, "ep": 32, "etp": 1}),
        ("EP144/DP144", {"ep": 144, "dp": 144}),
        ("DEP8", {"dep": 8}),
        ("TP8 EP8 attention-DP", {"tp": 8, "ep": 8, "attention_dp": True}),
        ("PP4 (8) VP4 (2)", {"pp": 4, "vp": 4}),
        ("ici_fsdp 32, ici_tensor 4", {"dp": 32, "tp": 4, "fsdp": True}),
        ("4 prefill + 1 decode (DEP8)", {"dep": 8, "prefill_servers": 4, "decode_servers": 1}),
        ("EP32 prefill", {"ep": 32}),
        ("whatever", {}),
    ],
)
def test_degrees(text, stated):
    found = degrees(text)
    assert {name: getattr(found, name) for name in found.__slots__ if getattr(found, name)} == stated


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("MXFP8", Formats("mxfp8")),
        ("FP8-MX", Formats("mxfp8")),
        ("FP8-CS", Formats("fp8")),
        ("NVFP4", Formats("nvfp4")),
        ("FP4 weights, FP16 KV", Formats("fp4", "bf16")),
        ("fp8, kv-cache fp8", Formats("fp8_any", "fp8")),
        ("bf16", Formats("bf16")),
        ("", Formats()),
    ],
)
def test_formats(text, found):
    assert formats(text) == found


@pytest.mark.parametrize(
    ("metric", "unit", "what", "side", "per", "scale"),
    [
        ("training throughput per GPU", "tok/s/GPU", "tokens", "", "device", 1),
        ("model TFLOPS per GPU", "TFLOPS/GPU", "flops", "", "device", 1e12),
        ("achieved", "PFLOP/s", "flops", "", "device", 1e15),
        ("MFU", "%", "mfu", "", "system", 0.01),
        ("step time", "ms", "step", "", "system", 1e-3),
        ("mean TPOT", "ms", "tpot", "", "system", 1e-3),
        ("p99 TTFT", "s", "ttft", "", "system", 1),
        ("prefill throughput per node", "input tok/s/node", "tokens", "input", "node", 1),
        ("decode throughput", "k tokens/s", "tokens", "output", "system", 1e3),
        ("total (in+out) throughput per GPU", "tok/s/GPU", "tokens", "total", "device", 1),
        ("min latency", "tok/s/user", "user", "", "device", 1),
        ("MLPerf offline", "samples/s", "samples", "", "system", 1),
        ("cost of 14.8T tokens", "GPU hours", "device_time", "", "system", 3600),
    ],
)
def test_quantity(metric, unit, what, side, per, scale):
    found, why = quantity(metric, unit)
    assert (found.what, found.side, found.per, found.scale, why) == (what, side, per, scale, "")


@pytest.mark.parametrize(
    ("metric", "unit"), [("kv cache hit share", "%"), ("time to train", "minutes"), ("elegance", "roses"), ("", "")]
)
def test_quantities_that_no_run_has_come_with_a_reason(metric, unit):
    found, why = quantity(metric, unit)
    assert found is None
    assert why


@pytest.mark.parametrize(
    ("text", "number"),
    [("16,384 tokens/device", 16384), ("128K", 131072), ("1K", 1024), ("about 2 M", 2_000_000), ("-", None)],
)
def test_count(text, number):
    assert words.count(text) == number


def test_labelled_counts_stand_on_either_side():
    assert words.labelled("GBS 4096, MBS 1", "mbs") == 1
    assert words.labelled("GBS=4096 MBS=2", "gbs") == 4096
    assert words.labelled("896/GPU (conc 7168)", "conc(?:urrency)?") == 7168
    assert words.labelled("GBS 4096", "mbs") is None


@given(st.text(max_size=60), st.text(max_size=20))
def test_no_text_is_too_odd(text, unit):
    words.hardware(text), words.model(text), words.count(text), words.version(text), words.stack(text)
    degrees(text), formats(text), quantity(text, unit)


def test_notes_lose_their_numbers_and_values_never_enter_entries():
    entry = entry_of({"id": "a", "value": 12.5, "note": "force-balanced routing; Model TFLOP/s/GPU 1635", "odd": 1})
    assert entry.note == "force-balanced routing; Model TFLOP/s/GPU #"
    assert not hasattr(entry, "value")
    assert entry_of({}) == Entry("entry-0")


def test_values_that_are_no_numbers_stay_empty(tmp_path):
    path = tmp_path / "figures.yaml"
    path.write_text("- {id: a, value: 20-22, unit: ms}\n- {id: b, value: '1,800', unit: s}\n- {id: c}\n")
    entries, table = read_entries(path)
    assert [entry.id for entry in entries] == ["a", "b", "c"]
    assert table["value"].isna().tolist() == [True, False, True]
    assert table["value"][1] == 1800


@pytest.mark.parametrize(
    ("source", "product", "year"),
    [
        ("_posts/2025-12-17-large-scale-serving.md", "h200", 2025 + 11 / 12),
        ("docs/source/blogs/tech_blog/blog1 (R1)", "b200", 2025.4),
        ("docs/source/blogs/tech_blog/blog15 (V3.2)", "b200", None),
        ("blog/2025-02-19-longctx.md", "gb300_nvl72", None),  # half a year before the product
        ("README.md", "h100", None),
    ],
)
def test_documents_date_what_states_no_date(source, product, year):
    assert words.appeared(source, product) == (None if year is None else pytest.approx(year))
