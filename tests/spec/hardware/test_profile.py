"""Every shipped profile loads, carries its sources and says what nobody has read; every error in one is told."""

import math
from pathlib import Path

import pytest
import yaml

from moesim.errors import InvalidInput
from moesim.hardware.fabrics import FABRICS, build_cluster
from moesim.spec.hardware.fabric import FabricOptions
from moesim.spec.hardware.profile import Profile, load_profile
from moesim.spec.reading import library
from moesim.spec.reading.loading import parse, read

PROFILES = (
    "a100", "b200", "b300", "gb200_nvl72", "gb300_nvl72", "h100", "h200", "h800", "mi300x", "rtx_4090", "tpu_v4",
    "tpu_v5p", "tpu_v6e", "wse3",
)  # fmt: skip

GOOD = """\
title: Toy
device:
  kind: gpu
  peak: {bf16: 1 PFLOP/s}
  hbm: {capacity: 80 GB, bandwidth: 3 TB/s}
  cores: 100
topology:
  kind: nvlink
  domain: 8
  server: 8
  planes: 2
  link: {bandwidth: 400 GB/s, latency: 1 us}
"""


def problems(text: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        parse(text, "p.yaml").check(Profile)
    return str(caught.value)


def test_the_products_ship():
    assert set(PROFILES) <= set(library.names("hardware"))


@pytest.mark.parametrize("name", PROFILES)
def test_profile_is_whole(name):
    hardware = load_profile(name)
    device = hardware.device
    assert hardware.name == device.name == name
    assert device.peak["bf16"] > 1e14
    assert device.hbm_bytes > 2e10
    assert device.hbm_bytes_per_s > 1e12
    assert hardware.topology["kind"] in FABRICS
    # Arithmetic intensity at which BF16 products stop being bound by memory: some hundred FLOP a byte, 0.75 on a wafer.
    assert 0.5 < device.peak["bf16"] / device.hbm_bytes_per_s < 700


@pytest.mark.parametrize("name", PROFILES)
def test_each_figure_has_its_source_beside_it(name):
    """The comment stands on the line or above it; what nobody has read is marked in both places."""
    path = library.find("hardware", name)
    lines = path.read_text(encoding="utf-8").splitlines()
    unitless = ("title:", "kind:", "calibration:", "unverified:", "server: 8", "domain: 8", "- topology.", "spines:")
    above = next(row for row, line in enumerate(lines) if line.startswith("calibration:"))  # fits name theirs once
    for row, line in enumerate(lines[:above]):
        figure = line.strip()
        _, colon, value = figure.partition(":")
        if figure.startswith("#") or not value.strip() or value.strip().startswith("#") or figure.startswith(unitless):
            continue
        assert " # " in line or lines[row - 1].strip().startswith("#"), f"{name}:{row + 1}: no source: {line}"
        assert colon
    unverified = load_profile(name).unverified
    assert bool(unverified) == any("unverified" in line and "#" in line for line in lines)


@pytest.mark.parametrize("name", PROFILES)
def test_the_json_schema_accepts_what_the_loader_accepts(name):
    """Editors complete and check profiles by this schema."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = Profile.model_json_schema()
    data = read(library.find("hardware", name)).data
    jsonschema.validate(data, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**data, "price": 3}, schema)


def test_published_figures_are_read_exactly():
    gb200, h100, v5p, b200 = (load_profile(n) for n in ("gb200_nvl72", "h100", "tpu_v5p", "b200"))
    assert gb200.device.peak == {"fp32": 8e13, "bf16": 2.5e15, "fp8": 5e15, "fp4": 1e16, "int8": 5e15}
    assert gb200.topology["link"].bytes_per_s == 9e11
    assert h100.device.hbm_bytes == 81559 * 2**20
    assert h100.topology["scale_out"].nic.bytes_per_s == 5e10
    assert b200.device.hbm_bytes_per_s == pytest.approx(7.67e12)
    assert v5p.topology["link"].bytes_per_s == 1e11
    assert v5p.topology["largest_slice"] == 6144
    assert load_profile("a100").device.peak.get("fp8") is None


def test_catalogue_agrees():
    """Where the fact sheet gives one dense peak or bandwidth, the profile has it."""
    sheet = Path(__file__).parents[4] / "shared" / "catalogue" / "hardware.yaml"
    if not sheet.exists():
        pytest.skip("the fact sheet is not at hand")
    chips = yaml.safe_load(sheet.read_text())["chips"]
    names = {
        "a100": "a100-sxm-80", "h100": "h100-sxm5", "h800": "h800-sxm", "b200": "b200-hgx", "b300": "b300-hgx",
        "gb200_nvl72": "gb200-nvl72", "gb300_nvl72": "gb300-nvl72", "tpu_v4": "tpu-v4", "tpu_v5p": "tpu-v5p",
        "tpu_v6e": "tpu-v6e", "mi300x": "mi300x",
    }  # fmt: skip
    for name, chip in names.items():
        device, facts = load_profile(name).device, chips[chip]
        for kind, flops in device.peak.items():
            if kind in facts["dense_tflops"]:
                assert flops / 1e12 == pytest.approx(facts["dense_tflops"][kind]["v"]), (name, kind)
        assert device.hbm_bytes_per_s / 1e9 == pytest.approx(facts["hbm_GBps"]["v"], rel=0.005), name
        # Vendors' GB are rather GiB: the driver reports up to 7.4 % more.
        assert 0.99 < device.hbm_bytes / 1e9 / facts["hbm_GB"]["v"] < 1.08, name


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("80 GB", "80"), "p.yaml:5:19: device.hbm.capacity: 80 has no unit; write one, e.g. '186 GB'"),
        (("1 PFLOP/s", "1 PB/s"), "p.yaml:4:16: device.peak.bf16: 'PB/s' is not a unit of FLOP/s"),
        (("bf16", "bf17"), "device.peak.bf17"),
        (("kind: gpu", "kind: gqu"), "p.yaml:3:9: device.kind: 'gqu' is unknown; did you mean 'gpu'?"),
        (("kind: nvlink", "kind: nvlinks"), "p.yaml:8:3: topology: kind 'nvlinks' is unknown; did you mean 'nvlink'?"),
        (("  planes: 2\n", ""), "p.yaml:8:3: topology.planes: missing; write 'planes: <whole number>'"),
        (("planes: 2", "planes: 0"), "topology.planes: should be greater than or equal to 1, not 0"),
        (
            ("server: 8", "server: 3"),
            "p.yaml:10:11: topology.server: 3 devices a server do not fill a domain of 8 evenly",
        ),
        ((", latency: 1 us", ""), "p.yaml:12:9: topology.link.latency: missing; write 'latency: 1 us'"),
        (("  cores: 100\n", "  core: 100\n"), "p.yaml:6:3: device.core: unknown key; did you mean 'cores'?"),
        (("title: Toy\n", "title: Toy\ntitle: Boy\n"), "p.yaml:2:1: title: duplicate key, first written on line 1"),
        (
            ("title: Toy\n", "title: Toy\nunverified: [device.core]\n"),
            "p.yaml:2:14: unverified.0: the profile has no 'de",
        ),
        (
            ("title: Toy\n", "title: Toy\ncalibration: some\n"),
            "p.yaml:2:14: calibration: 'some' is unknown; write one of",
        ),
    ],
)
def test_errors_of_a_profile(change, expected):
    assert expected in problems(GOOD.replace(*change))


TORUS = """\
  kind: torus
  pod: [16, 16]
  host: [2, 2, 1]
  shapes: [[4, 4], [8]]
  link: {bandwidth: 50 GB/s, latency: 1 us}
"""


def test_errors_of_a_torus():
    head = GOOD[: GOOD.index("  kind: nvlink")]
    found = problems(head + TORUS)
    assert "p.yaml:10:9: topology.host: has 3 axes, the pod 2" in found
    assert "p.yaml:11:20: topology.shapes.1: has 1 axes, the pod 2" in found
    assert "topology.shapes: missing; list the slices" in problems(head + TORUS.replace("[[4, 4], [8]]", "[]"))


def test_two_gaps_are_told_together():
    found = problems(GOOD.replace("  cores: 100\n", "").replace("  domain: 8\n", ""))
    assert "device.cores: missing" in found
    assert "topology.domain: missing" in found


def test_calibration_is_none_like_or_fits():
    assert parse(GOOD).check(Profile).hardware("toy").calibration == {}
    like = parse(GOOD + "calibration: {like: h100}\n").check(Profile).hardware("toy")
    assert like.calibration == {"like": "h100"}
    fits = parse(GOOD + "calibration: {source: here, gemm: [{points: 3}]}\n").check(Profile).hardware("toy")
    assert fits.calibration["gemm"] == [{"points": 3}]


def test_a_profile_by_path(tmp_path):
    (tmp_path / "mine.yaml").write_text(GOOD)
    assert load_profile(tmp_path / "mine.yaml").name == "mine"
    assert load_profile("mine.yaml", beside=tmp_path / "scenario.yaml").title == "Toy"


def test_names_are_found_in_any_spelling():
    assert load_profile("GB200-NVL72").name == "gb200_nvl72"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gb20_nvl72", "hardware: no hardware profile is named 'gb20_nvl72'; did you mean 'gb200_nvl72'?"),
        ("nothing-alike", "hardware: no hardware profile is named 'nothing-alike'; write a path or one of a100, "),
        ("absent/h100.yaml", "hardware: no such file: absent/h100.yaml"),
        ("", "hardware: no hardware profile is named ''; write a path or one of a100"),
        ("/", "is not a file; write a profile's name or its YAML file"),
    ],
)
def test_a_profile_that_is_not_there(name, expected):
    with pytest.raises(InvalidInput) as caught:
        load_profile(name)
    assert expected in str(caught.value)


def test_a_custom_graph_from_yaml():
    text = """\
title: Two islands
device: {kind: gpu, peak: {bf16: 1 PFLOP/s}, hbm: {capacity: 80 GB, bandwidth: 3 TB/s}, cores: 100}
topology:
  kind: custom
  nodes: {a: device, b: device, s: switch}
  links:
    - {between: [a, s], bandwidth: 100 GB/s, latency: 1 us, kind: nvlink}
    - {between: [s, b], bandwidth: 50 GB/s, latency: 2 us, kind: pcie}
    - {between: [b, a], bandwidth: 10 GB/s, latency: 3 us, kind: ethernet, one_way: true}
"""
    cluster = build_cluster(parse(text).check(Profile).hardware("islands"), 2)
    assert cluster.devices == ("a", "b")
    assert cluster.graph.edges["s", "b"] == {"capacity": 5e10, "latency": 2e-6, "kind": "pcie"}
    assert not cluster.graph.has_edge("a", "b")
    wrong = text.replace("nvlink", "string").replace("50 GB/s", "0 GB/s")
    found = problems(wrong)
    assert "topology.links.0.kind: 'string' is unknown" in found
    assert "topology.links.1.bandwidth: 0 GB/s must be above zero" in found
    assert "p.yaml:7:17: topology.links.0.between: 'z' is not one of the nodes a, b, s" in problems(
        text.replace("[a, s]", "[a, z]")
    )
    assert "p.yaml:8:17: topology.links.1.between: joins 'b' to itself" in problems(text.replace("[s, b]", "[b, b]"))
    islands = problems(text.replace("[s, b]", "[s, a]").replace("[b, a]", "[b, s]"))
    assert "p.yaml:7:5: topology.links: no path lets a send to b; join them by links" in islands


def test_options_of_a_scenario_become_choices():
    options = FabricOptions.model_validate(
        {"shape": (4, 4, 8), "degraded": [{"between": ("device0", "device1"), "remaining": 0.5}]}
    )
    cluster = build_cluster(load_profile("tpu_v5p"), 128, **options.choices())
    assert cluster.options["shape"] == (4, 4, 8)
    assert cluster.graph.edges["device0", "device1"]["capacity"] == 5e10
    with pytest.raises(InvalidInput, match=r"degraded\.0: write either a node that is down or the two ends"):
        parse("degraded: [{remaining: 0.5}]").check(FabricOptions)
    assert FabricOptions().choices() == {"degraded": ()}
    assert math.prod(cluster.options["shape"]) == cluster.ranks
