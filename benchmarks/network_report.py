"""Write reports/network.md: published dispatch and combine times beside the models, and how the fidelities agree.

    python benchmarks/network_report.py FIGURES.yaml [--out reports]

FIGURES.yaml lists published figures (id, source, kind, hardware, num_devices, precision, batch, software, metric,
value, unit). Errors on measured tables stand in reports/validation.md; speed is benchmarks/test_network.py's matter.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from moesim.hardware.fabrics import build_cluster
from moesim.network.collectives import all_to_all
from moesim.network.routes import build_network
from moesim.spec.hardware.profile import load_profile
from moesim.study.validation.kernels.published_exchanges import published_exchanges

FABRICS = {
    "8 GPUs behind NVLink switches": ("h100", 8, {}),
    "32 GPUs in one NVL72 rack": ("gb200_nvl72", 32, {}),
    "16 GPUs in 2 nodes on rails": ("h100", 16, {}),
    "32 GPUs in 4 nodes, ECMP": ("h100", 32, {"spreading": "ecmp"}),
    "4x4x4 torus": ("tpu_v5p", 64, {}),
    "8 GPUs in a full mesh": ("mi300x", 8, {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", type=Path)
    parser.add_argument("--out", type=Path, default=Path("reports"))
    options = parser.parse_args()
    figures = yaml.load(options.figures.read_text(encoding="utf-8"), yaml.CSafeLoader)
    found = published_exchanges(figures, load_profile)
    text = "\n\n".join([_HEAD, _publishers(found), _times(found), _agreement()])
    path = options.out / "network.md"
    path.write_text(text + "\n", encoding="utf-8")
    print(path)


_HEAD = """\
# The network: published times and fidelities

Made by `python benchmarks/network_report.py FIGURES.yaml`. Predictions use the shipped profiles as they are. Kernels
inside one node or rack are calibrated (`reports/validation.md`); what leaving it costs DeepEP's low-latency kernels was
read off its README (`deepep1ll`), everything else is prediction."""


def _publishers(found: pd.DataFrame) -> str:
    found = found.assign(size=found["error"].abs())
    rows = []
    for publisher, part in found.groupby(found["id"].str.rpartition("-")[0]):
        middle, high, bias = part["size"].median(), part["size"].quantile(0.9), part["error"].median()
        source = part["source"].iloc[0]
        rows.append(f"| {publisher} | {source} | {len(part)} | {middle:.0%} | {high:.0%} | {bias:+.0%} |")
    head = "## Published dispatch and combine times\n\n| figures | source | times | median error | P90 | bias |\n"
    head += "|" + "---|" * 6 + "\n"
    why = (
        "\n\nThe first DeepEP release (`deepep0ll`) sent by RDMA inside a node too. UCCL and pplx on EFA, and MORI, "
        "are other kernels on other NICs: DeepEP's stand in, as a bound on what the wire allows. Two of pplx's cells "
        "are suspect at their source.\n\n"
        "What the large errors have in common, without a source to model it by: UCCL's low-latency kernels on EFA take "
        "0.4-0.9 µs for each message that leaves the node, combine 1.3-1.5 times as long as dispatch although it moves "
        "twice the bytes, and more a message the more nodes there are: a rate of messages as much as of bytes. pplx's "
        "prefill dispatches, DeepEP's among them, take as long as its combines; they are priced in FP8, like its "
        "decode dispatches, and would fit better as BF16. Its figures do not state the format."
    )
    return head + "\n".join(rows) + why


def _times(found: pd.DataFrame) -> str:
    rows = [
        f"| {r.id} | {r.hardware} | {r.kernel} | {r.what.partition(' (')[0]} | {r.ranks} | {r.tokens} "
        f"| {r.published_s * 1e6:.0f} | {r.predicted_s * 1e6:.0f} | {r.error:+.0%} | {r.note} |"
        for r in found.itertuples()
    ]
    head = "| id | profile | kernel | what | ranks | tokens | published µs | predicted µs | error | note |\n"
    return "### Each time\n\n" + head + "|" + "---|" * 10 + "\n" + "\n".join(rows)


def _agreement() -> str:
    rng = np.random.default_rng(0)
    rows = []
    for name, (profile, devices, choices) in FABRICS.items():
        network = build_network(build_cluster(load_profile(profile), devices, **choices))
        ranks, excess, arrival = np.arange(devices), [], []
        for _ in range(8):
            popularity = rng.lognormal(0, 0.8, devices)
            traffic = rng.multinomial(128, popularity / popularity.sum(), size=devices) * 7168.0
            fast, exact = (all_to_all(network, ranks, traffic, fidelity=f) for f in ("coflow", "flow"))
            excess.append(exact.wire_s / fast.wire_s - 1)
            arrival.append(np.abs(exact.arrived - fast.arrived).mean())
        rows.append(f"| {name} | {np.median(excess):.1%} | {max(excess):.1%} | {np.mean(arrival):.1%} |")
    head = "| fabric | `flow` over `coflow`, median | worst of 8 | arrivals differ by, mean |\n|---|---|---|---|\n"
    return (
        "## Fidelities\n\nOne uneven all-to-all (128 tokens a rank, popularity of ranks lognormal, σ 0.8) priced by "
        "the bottleneck link (`coflow`) and by max-min sharing of every flow (`flow`):\n\n" + head + "\n".join(rows)
        + "\n\n![Time to price an all-to-all](figures/network_scaling.png)"
    )  # fmt: skip


if __name__ == "__main__":
    main()
