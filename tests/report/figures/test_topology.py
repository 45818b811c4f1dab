"""Pictures of clusters: every fabric is drawn, nothing is lost from the lines, and a failure leaves no file."""

import pytest

from moesim.hardware.fabrics import Degraded, build_cluster
from moesim.report.figures.topology import draw_topology
from moesim.report.figures.topology_layout import MOST_DOMAINS, lay_out
from moesim.spec.hardware.profile import load_profile

CASES = [
    ("h100", 8, {}), ("h100", 64, {}), ("h800", 32, {}), ("gb200_nvl72", 72, {}), ("gb200_nvl72", 144, {}),
    ("mi300x", 8, {}), ("mi300x", 16, {}), ("tpu_v5p", 64, {}), ("tpu_v6e", 128, {}), ("wse3", 1, {}),
    ("tpu_v4", 128, {"shape": (4, 4, 8), "twisted": True}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "devices", "choices"), CASES)
def test_lines_stand_for_every_link(name, devices, choices):
    cluster = build_cluster(load_profile(name), devices, **choices)
    drawing = lay_out(cluster)
    assert len(drawing.devices) == devices
    assert len(set(drawing.devices.values())) == devices  # none hides another
    drawn = {edge for _, _, edges in drawing.lines for edge in edges}
    assert drawn == set(cluster.graph.edges)


def test_big_clusters_are_cut_with_a_note():
    drawing = lay_out(build_cluster(load_profile("h100"), 512))
    assert len(drawing.boxes) == MOST_DOMAINS
    assert drawing.note == "the first 36 of 64 domains"
    pod = lay_out(build_cluster(load_profile("tpu_v5p"), 2560, shape=(16, 4, 4), slices=10))
    assert len(pod.devices) == 256
    assert pod.note == "one of 10 equal slices"


def test_a_picture_with_and_without_utilisation(tmp_path):
    cluster = build_cluster(load_profile("gb200_nvl72"), 144, degraded=[Degraded(node="nvlink0.3")])
    draw_topology(cluster, tmp_path / "kinds.png")
    draw_topology(cluster, tmp_path / "busy.png", utilisation=dict.fromkeys(cluster.graph.edges, 0.5))
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(written) == {"kinds.png", "busy.png"}
    assert all(data.startswith(b"\x89PNG") and len(data) > 10_000 for data in written.values())


def test_same_cluster_same_picture(tmp_path):
    cluster = build_cluster(load_profile("tpu_v6e"), 16)
    draw_topology(cluster, tmp_path / "a.png")
    draw_topology(cluster, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
