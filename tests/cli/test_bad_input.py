"""Every mistake that a scenario can hold is named with its place, all of them at once, and nothing is written."""

import numpy as np
import pytest

from moesim.routing.trace import open_trace
from moesim.spec.reading import library

GOOD = (library.folder("scenario") / "mixtral-8x7b-h100.yaml").read_text()


@pytest.fixture
def run_text(moesim, tmp_path):
    def run(text):
        path = tmp_path / "a.yaml"
        path.write_text(text)
        code, out, err = moesim("run", path, "--out", tmp_path / "out")
        assert out == ""
        assert not (tmp_path / "out").exists()
        return code, err.replace(f"{path}:", "a.yaml:")

    return run


def line_of(text, start):
    return next(number for number, line in enumerate(text.splitlines(), 1) if line.startswith(start))


def test_all_problems_of_a_file_at_once(run_text):
    text = GOOD.replace("seed: 7", "seed: seven\nsede: 8").replace("model: mixtral-8x7b\n", "")
    text = text.replace("overlap: {kind: none}", "overlap: {kind: sometimes}").replace("tp: 8", "tp: 4")
    code, err = run_text(text)
    assert code == 2
    assert f"a.yaml:{line_of(text, 'seed')}:7: seed" in err
    assert f"a.yaml:{line_of(text, 'sede')}:1: sede" in err
    assert "did you mean 'seed'" in err
    assert "model" in err
    assert f"a.yaml:{line_of(text, 'overlap')}" in err
    assert "shared_expert" in err
    assert "parallelism.attention_dp" in err  # across fields, although the file is no scenario yet
    assert len(err.strip().splitlines()) == 5


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed: 7", "seed: 7\nseed: 8", "duplicate key"),
        ("devices: 8", "devices: 12", "devices"),
        ("tp: 8", "tp: 4", "parallelism.attention_dp"),
        ("hardware: h100", "hardware: h101", "did you mean"),
        ("model: mixtral-8x7b", "model: mixtral", "mixtral-8x7b"),
        ("trace: mixtral-miniature", "trace: deepseek-v3-miniature", "256"),
        ("trace: mixtral-miniature", "trace: nowhere.safetensors", "nowhere"),
        ("slots_per_rank: 1", "slots_per_rank: 0", "slots_per_rank"),
        ("experts: bf16", "experts: nvfp4", "fp4"),
        ("kind: decode", "kind: decoding", "did you mean 'decode'"),
        ("model: mixtral-8x7b", "model: gpt-4-rumoured", "rumour"),
        ("model: mixtral-8x7b", "model: [", "a.yaml:"),
        ("model: mixtral-8x7b", "model: vmoe-l16", "vmoe-l16 is an encoder; write encode"),
        ("software: vllm", "software: vlm", "did you mean 'vllm'"),
        ("slots_per_rank: 1", "slots_per_rank: 99999", "twice"),
        ("sequences_per_rank: 256", "sequences_per_rank: 99999999999999", "sequences_per_rank"),
    ],
)
def test_one_mistake(run_text, old, new, said):
    assert old in GOOD
    code, err = run_text(GOOD.replace(old, new))
    assert code == 2
    assert err.startswith("a.yaml:")
    assert said in err


def test_a_bare_number_where_a_unit_belongs(moesim, tmp_path):
    profile = (library.folder("hardware") / "h100.yaml").read_text()
    assert "bandwidth: 3.35 TB/s" in profile
    (tmp_path / "mine.yaml").write_text(profile.replace("bandwidth: 3.35 TB/s", "bandwidth: 3.35"))
    (tmp_path / "a.yaml").write_text(GOOD.replace("hardware: h100", "hardware: mine.yaml"))
    code, _, err = moesim("run", tmp_path / "a.yaml")
    assert code == 2
    assert "mine.yaml:" in err
    assert "device.hbm.bandwidth: 3.35 has no unit; write one" in err


def damaged(tmp_path, damage):
    """A copy of the shipped Mixtral capture with bytes changed."""
    data = bytearray(library.find("trace", "mixtral-miniature").read_bytes())
    damage(data)
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(data)
    return GOOD.replace("trace: mixtral-miniature", f"trace: {path}")


def ids_at(data):
    """Where the first token's ids stand in the file."""
    trace = open_trace(library.find("trace", "mixtral-miniature"))
    row = np.ascontiguousarray(trace.ids[:64]).tobytes()
    return bytes(data).index(row)


def test_a_truncated_trace(run_text, tmp_path):
    def cut(data):
        del data[-1000:]

    code, err = run_text(damaged(tmp_path, cut))
    assert code == 2
    assert "damaged.safetensors" in err
    assert "truncated" in err or "shorter" in err or "bytes" in err


def test_an_expert_that_does_not_exist(run_text, tmp_path):
    def spoil(data):
        data[ids_at(data)] = 200

    code, err = run_text(damaged(tmp_path, spoil))
    assert code == 2
    assert "200" in err


def test_an_expert_chosen_twice(run_text, tmp_path):
    def spoil(data):
        at = ids_at(data)
        data[at + 1] = data[at]

    code, err = run_text(damaged(tmp_path, spoil))
    assert code == 2
    assert "twice" in err or "repeat" in err


def test_set_wants_a_field_and_a_value(moesim):
    code, _, err = moesim("run", "quickstart", "--set", "seed")
    assert code == 2
    assert "FIELD=VALUE" in err
    code, _, err = moesim("run", "quickstart", "--set", "workload.contxt=1")
    assert code == 2
    assert "did you mean" in err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"overlap": "{kind: low_latency_hooks}"}, "overlap.kind: nccl has no hooks; write network.all_to_all"),
        ({"overlap": "{kind: two_batch, hooks: true}"}, "overlap.hooks: nccl has no hooks"),
        ({"overlap": "{kind: two_batch}", "workload.sequences_per_rank": 1}, "workload.sequences_per_rank: two_batch"),
        ({"overlap": "{kind: pipelined_chunks, chunks: 2}"}, "overlap.chunks: experts make at most 1"),
        ({"overlap": "{kind: pipelined_chunks, by: layers}"}, "overlap.by: 'layers' is unknown; write experts or"),
    ],
)
def test_an_overlap_that_cannot_be(moesim, changes, said):
    sets = [part for field, value in changes.items() for part in ("--set", f"{field}={value}")]
    code, _, err = moesim("run", "mixtral-8x7b-h100", *sets)
    assert code == 2
    assert said in err


def test_choices_named_are_those_of_a_job_on_this_fabric(moesim):
    def said(scenario, options):
        code, _, err = moesim("run", scenario, "--set", f"cluster.options={options}")
        assert code == 2
        return err

    between = "oversubscription, spines, spreading, forwarding, degraded, routing"
    assert f"'nvlink'; known: {between}\n" in said("quickstart", "{shape: [2, 2]}")
    assert "'torus'; known: shape, slices, ties, twisted, degraded, routing\n" in said(
        "qwen3-235b-tpu-v5p", "{oversubscription: 2}"
    )


def test_an_unknown_stack_is_refused_where_nothing_was_measured_too(moesim):
    code, _, err = moesim("run", "qwen3-235b-tpu-v5p", "--set", "software=vlm")
    assert code == 2
    assert "software: 'vlm' is no known stack, and tpu_v5p has measured none; did you mean 'vllm'?" in err
    assert moesim("run", "qwen3-235b-tpu-v5p", "--set", "software=vllm")[0] == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parallelism": "{tp: 8, ep: 8, pp: 2}"}, "parallelism.attention_dp: attention_dp 1 × tp 8 × pp 2 = 16 ranks"),
        ({"parallelism": "{tp: 2, pp: 4, ep: 2}", "stages": "[8, 8, 8]"}, "stages: 3 stages with 24 layers are listed"),
        ({"parallelism": "{attention_dp: 2, pp: 4, ep: 4}"}, "parallelism.ep: ep 4 × expert_tp 1 × pp 4 = 16 ranks"),
        ({"parallelism": "{cp: 8, ep: 8, sequence_parallel: true}"}, "parallelism.sequence_parallel: needs tp above 1"),
        ({"parallelism": "{tp: 8, ep: 8, order: [tp, tp, dp, pp]}"}, "parallelism.order: tp-tp-dp-pp must name each"),
        (
            {"parallelism": "{tp: 8, ep: 8, microbatches: 300}"},
            "workload.sequences_per_rank: 256 sequences cannot fill",
        ),
        (
            {"parallelism": "{cp: 8, ep: 8}", "workload": "{kind: prefill, sequences_per_rank: 8, prompt: 8}"},
            "parallelism.cp: cp cuts a prompt into 16 runs",
        ),
        ({"precision.attention": "nvfp4"}, "precision.attention: nvfp4 × nvfp4 runs at fp4, which h100 lacks"),
        ({"precision.head": "mxfp9"}, "precision.head: 'mxfp9' is unknown; did you mean 'mxfp8'"),
    ],
)
def test_degrees_and_formats_that_cannot_be(moesim, changes, said):
    sets = [part for field, value in changes.items() for part in ("--set", f"{field}={value}")]
    code, _, err = moesim("run", "mixtral-8x7b-h100", *sets)
    assert code == 2
    assert said in err


def test_layers_that_do_not_divide_are_listed_for_the_user(moesim):
    code, _, err = moesim("run", "deepseek-v3-pipeline-h100", "--set", "stages=null")
    assert code == 2
    assert "parallelism.pp: 61 layers do not divide into 2 equal stages; write e.g. stages: [31, 30]" in err
