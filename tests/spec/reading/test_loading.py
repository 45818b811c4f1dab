"""Every problem of a file at its line and column, in words that say what to write."""

import json
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

from moesim.errors import InvalidInput, Problem
from moesim.spec.reading.complaints import Wrong
from moesim.spec.reading.loading import Spec, load, parse, read
from moesim.spec.reading.quantities import Bytes, BytesPerSecond, Seconds


class Link(Spec):
    bandwidth: BytesPerSecond
    latency: Seconds = 0.0


class Decode(Spec):
    kind: Literal["decode"]
    context: int


class Prefill(Spec):
    kind: Literal["prefill"]
    prompt: int


class Toy(Spec):
    name: str
    links: tuple[Link, ...] = ()
    workload: Annotated[Decode | Prefill, Field(discriminator="kind")] | None = None
    like: Literal["none"] | Link = "none"
    overlap: bool = False
    shares: Annotated[dict[int, float], Field(default_factory=dict)]
    seed: int = 0
    policy: Literal["static", "balanced"] = "static"
    tp: int = 1
    ep: int = 1

    @model_validator(mode="after")
    def _degrees(self):
        if self.tp != self.ep:
            raise Wrong(("tp", "must equal ep"), ("ep", "must equal tp"))
        return self


def problems(text: str) -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        parse(text, "a.yaml").check(Toy)
    return [str(problem) for problem in caught.value.problems]


def test_a_good_file_becomes_a_frozen_value():
    text = """\
name: x
links: [{bandwidth: 900 GB/s, latency: 1 us}]
shares: {8: 1.5}
workload: {kind: decode, context: 7}
"""
    toy = parse(text).check(Toy)
    assert toy.links == (Link.model_construct(bandwidth=9e11, latency=1e-6),)
    assert toy.shares == {8: 1.5}
    assert toy.workload.context == 7
    with pytest.raises(ValidationError):
        toy.name = "y"


def test_all_problems_of_a_file_come_at_once_in_its_order():
    text = """\
name: 1.0
links:
  - {bandwidth: 900 GB/s, latency: 1}
  - {bandwith: 9e11}
overlap: yes
seed: 1.5
policy: statik
seed: 2
unknown: 1
"""
    assert problems(text) == [
        "a.yaml:1:7: name: write text, not 1.0; put it in quotes: '1.0'",
        "a.yaml:3:36: links.0.latency: 1 has no unit; write one, e.g. '1 us'",
        "a.yaml:4:5: links.1.bandwidth: missing; write 'bandwidth: 900 GB/s'",
        "a.yaml:4:6: links.1.bandwith: unknown key; did you mean 'bandwidth'?",
        "a.yaml:5:10: overlap: write true or false, not 'yes'",
        "a.yaml:6:7: seed: write a whole number, not 1.5",
        "a.yaml:7:9: policy: 'statik' is unknown; did you mean 'static'?; write one of static, balanced",
        "a.yaml:8:1: seed: duplicate key, first written on line 6; keep one of the two",
        "a.yaml:9:1: unknown: unknown key; known here: "
        "name, links, workload, like, overlap, shares, seed, policy, tp, ep",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: x\nworkload: {kind: decod}", "a.yaml:2:11: workload: kind 'decod' is unknown; did you mean 'decode'?"),
        ("name: x\nworkload: {context: 1}", "a.yaml:2:11: workload: has no kind; write one"),
        (
            "name: x\nworkload: {kind: decode, context: 1, promt: 2}",
            "a.yaml:2:38: workload.promt: unknown key; known here",
        ),
        (
            "name: x\nworkload: {kind: decode}",
            "a.yaml:2:11: workload.context: missing; write 'context: <whole number>'",
        ),
        ("name: x\nlike: {bandwidth: 5}", "a.yaml:2:19: like.bandwidth: 5 has no unit; write one, e.g. '900 GB/s'"),
        ("name: x\nlike: sibling", "a.yaml:2:7: like: 'sibling' is unknown; write one of none; or write a mapping"),
        ("name: x\nlinks: {bandwidth: 1 GB/s}", "a.yaml:2:8: links: write a list, e.g. [a, b], not a mapping"),
        ("name: x\nlinks: [3]", "a.yaml:2:9: links.0: write a mapping with the keys bandwidth, latency, not 3"),
        ("name: x\nlinks: [{bandwidth: 0 GB/s}]", "a.yaml:2:21: links.0.bandwidth: 0 GB/s must be above zero"),
        ("name: x\nlinks: [{bandwidth: 1 GBps}]", "a.yaml:2:21: links.0.bandwidth: 'GBps' is not a unit of bytes/s"),
        ("name: x\nlinks: [{bandwidth: -1 GB/s}]", "a.yaml:2:21: links.0.bandwidth: -1 GB/s is negative"),
        ("name: x\nlinks: [{bandwidth: 1e999 GB/s}]", "a.yaml:2:21: links.0.bandwidth: 1e999 GB/s is not finite"),
        ("name: x\nlinks: [{bandwidth: true}]", "a.yaml:2:21: links.0.bandwidth: write a number with a unit"),
        ("name: x\nseed: '8'", "a.yaml:2:7: seed: write a whole number, not '8'"),
        ("name: x\nseed: true", "a.yaml:2:7: seed: write a whole number, not true"),
        ("name: x\nseed:", "a.yaml:2:6: seed: write a whole number, not nothing"),
        ("name: x\nshares: {8: .inf}", "a.yaml:2:13: shares.8: write a number, not '.inf'"),
        ("name: x\nshares: {8: 1e999}", "a.yaml:2:13: shares.8: write a number, not inf"),
        (
            "name: x\nseed: !!python/object:os.system 1",
            "a.yaml:2:7: seed: the tag 'tag:yaml.org,2002:python/object:os.",
        ),
        ("name: x\n? [a, b]\n: 1", "a.yaml:2:3: a key must be a word"),
        ("name: x\nlike: " + "[" * 150 + "]" * 150, "a.yaml:2:107: like.0.0: is nested deeper than 100 levels"),
        ("seed: 1", "a.yaml:1:1: name: missing; write 'name: <text>'"),
        ("name: x\ntp: 2", "a.yaml:2:5: tp: must equal ep\na.yaml:1:1: ep: must equal tp"),
        ("name: x\nlinks: [{bandwidth: 1 GB/s, bandwidth: 2 GB/s}]", "a.yaml:2:29: links.0.bandwidth: duplicate key"),
    ],
)
def test_each_kind_of_problem(text, expected):
    found = problems(text)
    for line in expected.splitlines():
        assert any(problem.startswith(line) for problem in found), found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [1,", "a.yaml:1:10: while parsing a flow node, expected the node content"),
        (
            "\tname: x",
            "a.yaml:1:1: while scanning for the next token, found character '\\t' that cannot start any token",
        ),
        ("name: x\n  seed: 1", "a.yaml:2:7: mapping values are not allowed here"),
        ("name: *x", "a.yaml:1:7: aliases are not read; write the value out"),
        ("name: x\n---\nname: y", "a.yaml:2:1: expected a single document"),
        ("", "a.yaml:1:1: write a mapping of keys and values here"),
        ("- 1", "a.yaml:1:1: write a mapping of keys and values here"),
        ("name: x\nseed: \x01", "a.yaml:2:7: remove the character #x01"),
        ("name: " + "[" * 5000, "a.yaml: is nested too deeply"),
        ("name: " + "[" * 100_000, "a.yaml: is nested too deeply"),
        ("- " * 100_000, "a.yaml: is nested too deeply"),
    ],
)
def test_files_that_are_not_yaml(text, expected):
    with pytest.raises(InvalidInput) as caught:
        parse(text, "a.yaml")
    (problem,) = caught.value.problems
    assert expected.split(": ", 1)[1] in str(problem)
    assert str(problem).startswith(expected.split(": ")[0])


def test_yaml_1_1_traps():
    text = "text: [on, off, yes, no, 1:30, 2026-01-01, 0x10, ~, .5, 9e11, 1_000, 007, -3, .nan]"
    assert parse(text).data["text"] == [
        "on", "off", "yes", "no", "1:30", "2026-01-01", "0x10", None, 0.5, 9e11, 1000, 7, -3, ".nan",
    ]  # fmt: skip


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        read(tmp_path / "absent.yaml")
    with pytest.raises(InvalidInput, match="cannot be read: Is a directory"):
        load(tmp_path, Toy)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9")
    with pytest.raises(InvalidInput, match=r"is not UTF-8 text \(byte 6\)"):
        load(tmp_path / "latin.yaml", Toy)


def test_messages_are_one_line_each_and_plain(tmp_path):
    path = tmp_path / "long.yaml"
    path.write_text("name: x\n" + "".join(f"key_number_{i}: {i}\n" for i in range(40)))
    with pytest.raises(InvalidInput) as caught:
        load(path, Toy)
    lines = str(caught.value).splitlines()
    assert len(lines) == 40
    assert all(line.startswith(f"{path}:") and line.isprintable() for line in lines)


def test_locating_problems_that_a_later_check_finds():
    document = parse("cluster:\n  devices: 65\n", "a.yaml")
    error = InvalidInput(
        [Problem("no 65", "devices"), Problem("unset", "options.shape"), Problem("far", "x", "b.yaml", 3)]
    )
    located = document.locate(error, under="cluster")
    assert str(located).splitlines() == [
        "a.yaml:2:12: cluster.devices: no 65",
        "a.yaml:2:3: cluster.options.shape: unset",
        "b.yaml:3: x: far",
    ]


def test_replacing_a_value():
    document = parse("name: x\nlinks: [{bandwidth: 1 GB/s}]\n", "a.yaml")
    changed = document.with_value("links.0.bandwidth", "2 GB/s").with_value("workload.kind", "decode")
    assert changed.data == {"name": "x", "links": [{"bandwidth": "2 GB/s"}], "workload": {"kind": "decode"}}
    assert document.data["links"] == [{"bandwidth": "1 GB/s"}]


def test_the_json_schema_shows_units():
    schema = Toy.model_json_schema()
    bandwidth = schema["$defs"]["Link"]["properties"]["bandwidth"]
    assert bandwidth["type"] == "string"
    assert bandwidth["examples"] == ["900 GB/s"]


WORDS = st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc", "Cn")), max_size=12)
NUMBERS = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(WORDS, PLAIN, max_size=4))
def test_json_reads_as_itself(data):
    """JSON is YAML 1.2: whatever is written as JSON comes back, and every value has a place."""
    text = json.dumps(data, ensure_ascii=False)
    document = parse(text)
    assert document.data == data
    assert len(document.values) >= len(data) + 1
    assert not document.problems


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(WORDS, PLAIN, max_size=4))
def test_both_parsers_agree_on_values_and_places(data):
    text = yaml.safe_dump(data, allow_unicode=True)
    fast, slow = parse(text), parse(text + "# &anchors are for the slow one\n")
    assert fast == slow


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from(list("ab1:-[]{},'\"#&*!|>%@ \n\t?.é~")), max_size=40) | st.text(max_size=30))
def test_any_text_is_a_value_or_a_problem_with_a_place(text):
    found = ()
    try:
        assert isinstance(parse(text, "f").check(Toy), Toy)
    except InvalidInput as error:
        found = error.problems
    lines = text.count("\n") + 2
    assert all(problem.line is None or 1 <= problem.line <= lines for problem in found)


@settings(max_examples=100, deadline=None)
@given(st.floats(1e-3, 1e6), st.sampled_from(["GB", "GiB", "MB", "B"]))
def test_sizes_are_number_times_unit(number, unit):
    class Size(Spec):
        size: Bytes

    factor = {"GB": 1e9, "GiB": 2**30, "MB": 1e6, "B": 1}[unit]
    value = parse(yaml.safe_dump({"size": f"{number!r} {unit}"})).check(Size).size
    assert value == pytest.approx(number * factor, rel=1e-15)
