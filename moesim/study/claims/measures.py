"""What a claim can measure. Each function's keyword-only arguments are the keys of a run in a claim file.

A measure gets the claim file's own path (relative paths start there) and returns nested mappings whose numbers a
formula names with dots; texts and lists in them are dropped. It raises Infeasible where something does not fit, which
is a result, and InvalidInput where the file is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from moesim.hardware.fabrics import build_cluster
from moesim.spec.hardware.fabric import FabricOptions
from moesim.spec.hardware.profile import load_profile
from moesim.spec.reading.loading import Document
from moesim.spec.step.scenario_file import read_scenario
from moesim.spec.studies.claim_file import Changes, Count, Positive
from moesim.study.claims.balance import router, routing
from moesim.study.claims.sheets import hardware, model

Measure = Callable[..., Mapping[str, object]]

# Sums over a step's operations by what they are for; a backward or exposed part counts with its operation.
PARTS = {
    "all_to_all": ("dispatch", "combine"),
    "experts": ("experts",),
    "router": ("router",),
    "all_reduce": ("all_reduce",),
}


def scenario(place: str, *, scenario: str, set: Changes = {}) -> dict[str, object]:  # noqa: B006 (never written to)
    """A scenario of any kind, run once: all that its ``--json`` prints, and a step's seconds and shares by part.

    scenario: a shipped name, or a path from the claim file. set: fields changed in it.
    """
    from moesim.study.scenarios import run_document

    metrics = dict(run_document(_changed(scenario, set, place)).metrics)
    if "breakdown_s" in metrics:
        spent = {
            part: sum(
                seconds for kind, seconds in metrics["breakdown_s"].items() if any(word in kind for word in words)
            )
            for part, words in PARTS.items()
        }
        metrics["part_s"] = spent
        metrics["share"] = {part: seconds / metrics["step_time_s"] for part, seconds in spent.items()}
    return metrics


def collective(
    place: str,
    *,
    hardware: str,
    devices: Count,
    bytes_per_rank: Positive,
    operation: Literal["all_to_all", "all_reduce", "all_gather"] = "all_to_all",
    fabric: FabricOptions = FabricOptions(),  # noqa: B008 (frozen)
) -> dict[str, object]:
    """One collective of all devices on the empty network, wire and hops without kernels.

    fabric: as a scenario's ``cluster.options``. bytes_per_rank: of a rank's whole buffer; an all-to-all sends an equal
    part to every rank. time_s: until the last rank is done; wire_s: of the fullest link; latency_s: hops. link_bytes:
    on the fullest link. sent_bytes: by a rank.
    """
    from moesim.network import collectives
    from moesim.network.routes import build_network

    found = load_profile(hardware, beside=place)
    network = build_network(build_cluster(found, devices, **fabric.choices()))
    ranks = np.arange(devices)
    if operation == "all_to_all":
        done = collectives.all_to_all(network, ranks, np.full((devices, devices), bytes_per_rank / devices))
    else:
        done = getattr(collectives, operation)(network, ranks, bytes_per_rank)
    return {
        "time_s": float(done.alone_s.max()),
        "wire_s": done.wire_s,
        "latency_s": float(done.latency_s.max()),
        "link_bytes": float(done.load.max(initial=0.0)),
        "sent_bytes": float(done.sent.max()),
        "busiest_link_share": float(
            (done.load / network.capacity[done.links]).max(initial=0.0) / max(done.wire_s, 1e-300)
        ),
    }


def arithmetic(place: str, *, values: dict[str, float]) -> dict[str, float]:
    """Stated numbers by name: what a claim itself states, to be computed with."""
    return dict(values)


MEASURES: dict[str, Measure] = {
    "scenario": scenario,
    "model": model,
    "hardware": hardware,
    "routing": routing,
    "collective": collective,
    "router": router,
    "arithmetic": arithmetic,
}


def document_of(kind: str, written: Mapping[str, object], file: str) -> Document:
    """What a run stands on, as a document whose named files `moesim.study.results.inputs.Inputs` finds.

    A scenario is checked here, so that a wrong field is told before anything runs. Raises InvalidInput.
    """
    if kind != "scenario":
        return Document(file, dict(written), {}, {})
    from moesim.study.scenarios import kind_of

    document = _changed(written["scenario"], written["set"], file)
    document.check(kind_of(document).schema)
    return document


def _changed(name: str, changes: Changes, place: str) -> Document:
    document = read_scenario(name, beside=place)
    for field, value in changes.items():
        document = document.with_value(field, value)
    return document
