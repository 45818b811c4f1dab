"""A model is a name, a YAML file or a config.json; whatever is wrong in a file is said at its line."""

import re
from pathlib import Path

import pytest
import yaml

from moesim.errors import InvalidInput
from moesim.hardware.precision import PRECISIONS
from moesim.model.parameters import active_parameters, parameters
from moesim.spec.model.file import load_model, read_model_file
from moesim.spec.reading.library import find, names

SHARED = Path(__file__).parents[3].parent / "shared" / "catalogue" / "models.yaml"
TINY = """\
title: Tiny
source: made up
layers: 4
hidden: 64
vocab: 100
attention: {kind: gqa, heads: 4, kv_heads: 2, head_dim: 16}
first_dense: 1
experts: {routed: 8, top_k: 2, ffn: 32}
dense_ffn: 128
context: 512
native: bf16
published: {total: 1M, source: made up}
"""


def tiny(folder, *replacements) -> Path:
    text = TINY
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path


def test_the_catalogue_has_every_model_asked_for():
    expected = """
        mixtral-8x7b mixtral-8x22b deepseek-moe-16b deepseek-v2-lite deepseek-v2 deepseek-v3 deepseek-v3.2
        kimi-k2 kimi-linear-48b-a3b qwen2-57b-a14b qwen3-30b-a3b qwen3-235b-a22b qwen3-next-80b-a3b qwen3.5-397b-a17b
        llama-4-scout llama-4-maverick dbrx grok-1 gpt-oss-20b gpt-oss-120b glm-4.5 glm-5 minimax-m2.5
        olmoe-1b-7b phi-3.5-moe arctic jetmoe-8b switch-base-128 switch-base-256 switch-c-2048 glam-64e
        gshard-600b nllb-moe-54b vmoe-l16 vmoe-h14-last5 gpt-4-rumoured llama-2-13b llama-2-70b llama-3.1-8b
        llama-3.1-70b llama-3.1-405b gpt-3-175b
        qwen3-coder-480b-a35b nemotron-3-nano nemotron-3-super gemma-4-26b-a4b
    """
    assert set(names("model")) == set(expected.split())


@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared catalogue")
def test_names_and_totals_are_those_of_the_shared_catalogue():
    shared = yaml.safe_load(SHARED.read_text())["models"]
    assert set(shared) <= set(names("model"))
    for name, entry in shared.items():
        model = load_model(name)
        assert parameters(model).total == entry["computed"]["total"], name
        assert active_parameters(model).total == entry["computed"]["act_all"], name


@pytest.mark.parametrize("name", names("model"))
def test_every_file_says_where_its_figures_come_from(name):
    file = read_model_file(find("model", name))
    assert file.source
    assert file.published.source
    assert getattr(file, "native", "bf16") in PRECISIONS
    for key in file.unverified:
        assert key.split(".")[0] in type(file).model_fields


def test_the_rumour_is_labelled():
    assert "RUMOUR" in load_model("gpt-4-rumoured").title


def test_deepseek_v3_expands():
    model = load_model("deepseek-v3")
    assert len(model.layers) == 61
    assert model.moe_layers == tuple(range(3, 61))
    assert model.layers[0].dense_ffn == 18432
    experts = model.layers[3].experts
    assert (experts.routed, experts.top_k, experts.groups, experts.kept_groups) == (256, 8, 8, 4)


def test_names_forgive_case_and_separators():
    assert load_model("DeepSeek_V3") == load_model("deepseek-v3")


def test_patterns_of_the_catalogue():
    assert load_model("llama-4-maverick").moe_layers == tuple(range(1, 48, 2))
    assert load_model("vmoe-h14-last5").moe_layers == (23, 25, 27, 29, 31)
    assert [layer.attention.window for layer in load_model("gpt-oss-20b").layers[:4]] == [128, 0, 128, 0]
    kinds = [layer.attention.kind for layer in load_model("qwen3-next-80b-a3b").layers[:5]]
    assert kinds == ["linear", "linear", "linear", "gqa", "linear"]
    switch = load_model("switch-base-128")
    assert (switch.encoder_layers, len(switch.layers)) == (12, 24)
    assert switch.layers[11].cross_attention is None
    assert switch.layers[12].cross_attention is not None


def test_a_file_of_one_s_own(tmp_path):
    model = load_model(tiny(tmp_path))
    assert model.name == "tiny"
    assert model.moe_layers == (1, 2, 3)
    assert load_model("tiny.yaml", beside=tmp_path / "scenario.yaml") == model


def test_dense_twins_by_name():
    twin = load_model("mixtral-8x7b-dense-twin")
    assert twin.layers[0].dense_ffn == 2 * 14336
    with pytest.raises(InvalidInput, match="no dense twin"):
        load_model("llama-2-13b-dense-twin")


def test_an_unknown_name_suggests_one():
    with pytest.raises(InvalidInput, match="did you mean 'deepseek-v3'"):
        load_model("deepsek-v3")


@pytest.mark.parametrize(
    ("replacements", "said"),
    [
        ([("total: 1M", "total: 1000000")], r"tiny.yaml:12:20: published.total: cannot read 1000000 .* '671B'"),
        ([("native: bf16", "native: bf61")], r"tiny.yaml:11:9: native: 'bf61' is unknown; did you mean 'bf16'"),
        ([("dense_ffn: 128\n", "")], r"dense_ffn: missing; only 3 of 4 layers have experts"),
        ([("layers: 4", "layers: 4\nencoder_layers: 2")], r"encoder_layers: stack decoder has no such key"),
        ([("first_dense: 1", "moe_layers: [0, 4]")], r"moe_layers: there is no layer 4; layers count from 0 to 3"),
        ([("first_dense: 1", "moe_layers: []")], r"moe_layers: leaves none of the 4 layers"),
        ([("first_dense: 1", "first_dense: 4")], r"first_dense: leaves none of the 4 layers"),
        ([("first_dense: 1", "first_dense: 1\nmoe_layers: [2]")], r"moe_layers: lists the layers already"),
        ([("first_dense: 1", "full_attention_every: 2")], r"full_attention_every: give attention.window"),
        ([("top_k: 2", "top_k: 9")], r"experts.top_k: 9 of 8 experts cannot be chosen"),
        ([("top_k: 2", "top_k: 2, groups: 3")], r"experts.groups: 3 must divide the 8"),
        ([("kv_heads: 2", "kv_heads: 3")], r"attention.kv_heads: 3 must divide the 4 heads"),
        ([("kind: gqa", "kind: mqa")], r"attention.*'mqa' is unknown"),
        ([("vocab: 100\n", "")], r"vocab: missing"),
        ([("hidden: 64", "hiden: 64")], r"hiden: unknown key; did you mean 'hidden'"),
    ],
)
def test_problems_stand_at_their_line(tmp_path, replacements, said):
    with pytest.raises(InvalidInput, match=said):
        load_model(tiny(tmp_path, *replacements))


def test_all_problems_come_at_once(tmp_path):
    path = tiny(tmp_path, ("top_k: 2", "top_k: 9"), ("native: bf16", "native: fp9"), ("hidden: 64", "hidden: big"))
    with pytest.raises(InvalidInput) as caught:
        load_model(path)
    assert {problem.field for problem in caught.value.problems} == {"experts.top_k", "native", "hidden"}


def test_a_hybrid_model_writes_its_blocks_as_letters():
    model = load_model("nemotron-3-super")
    kinds = {letter: model.layers[position] for letter, position in (("M", 0), ("E", 1), ("*", 7))}
    assert (kinds["M"].attention.kind, kinds["M"].experts, kinds["M"].dense_ffn) == ("linear", None, 0)
    assert (kinds["E"].attention, kinds["E"].experts.latent) == (None, 1024)
    assert (kinds["*"].attention.kind, kinds["*"].experts) == ("gqa", None)
    assert len(model.moe_layers) == 40


def test_a_pattern_that_says_something_else_is_refused(tmp_path):
    path = tiny(tmp_path, ("layers: ", "pattern: MX\nlayers: "))
    with pytest.raises(InvalidInput, match="pattern"):
        load_model(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("full_attention_layers: [3, 7]\nfull_attention_every: 4", "lists the layers already; drop"),
        ("full_attention_layers: [3, 99]", "there is no layer 99; layers count from 0 to 26"),
        ("full_attention_layers: []", "full_attention_layers"),
    ],
)
def test_lists_of_full_attention_are_checked(change, said, tmp_path):
    text = find("model", "kimi-linear-48b-a3b").read_text()
    path = tmp_path / "a.yaml"
    path.write_text(text.replace("full_attention_layers: [3, 7, 11, 15, 19, 23, 26]", change))
    with pytest.raises(InvalidInput, match=re.escape(said)):
        read_model_file(path)
