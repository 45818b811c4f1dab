"""Expert placement what-ifs: what each policy would do to a step, and what it costs to get there.

Policies learn on the earlier part of the scenario's trace (or on another workload); the simulated step replays the
later part, and another workload, neither of which any policy has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from moesim.errors import InvalidInput, Problem
from moesim.placement.optimum import MOST_VARIABLES, variables
from moesim.placement.policies import POLICIES, REPLICATING
from moesim.spec.assembly.drawing import site_of
from moesim.spec.assembly.placing import Site
from moesim.spec.assembly.step import assemble
from moesim.spec.model.file import load_model
from moesim.spec.reading.complaints import did_you_mean
from moesim.spec.reading.kinds import Kind
from moesim.spec.reading.loading import Document
from moesim.spec.step.scenario import Scenario
from moesim.spec.step.scenario_file import read_scenario
from moesim.study.placing.bench import Bench, Judged
from moesim.study.placing.table import cross_node_bytes, policy_table
from moesim.study.placing.workloads import Workloads, workloads
from moesim.study.results.notebook import small_table
from moesim.study.results.record import origin, rounded

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class PlacementStudy:
    """What `moesim place` prints and draws. table: `policy_table`. learned_load: [moe_layer, expert] that policies saw.
    skipped: policies left out, with the reason."""

    base: str
    document: Document
    workloads: Workloads
    judged: tuple[Judged, ...]
    table: pd.DataFrame
    learned_load: np.ndarray
    every: int
    skipped: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<PlacementStudy of {len(self.judged)} policies>"

    def _repr_html_(self) -> str:
        best = self.table.loc[self.table["amortised_step_time_s"].idxmin()]
        first = self.table.iloc[0]
        gain = first["amortised_step_time_s"] / best["amortised_step_time_s"] - 1
        told = [
            ("learned on", self.workloads.learned.name),
            ("judged on", self.workloads.judged.name),
            ("fastest", f"{best['name']}, {gain:.1%} over {first['name']} with re-balancing"),
        ]
        return small_table("Placement of experts", told) + self.table.to_html(index=False, float_format="{:.4g}".format)


def place(
    name_or_path: str,
    changes: Iterable[str] = (),
    *,
    policies: Sequence[str | dict] = (),
    redundant: int | None = None,
    learn_share: float = 0.5,
    learn: str | None = None,
    judge_on: Sequence[str] = (),
    base: str = "contiguous",
    every: int = 1000,
    progress: Progress = lambda *_: None,
) -> PlacementStudy:
    """Compare placement policies on a scenario.

    policies: names, or mappings as a scenario's ``placement:`` (``{kind: eplb, replica_choice: nearest}``); all that
    fit the case by default. redundant: expert slots of a layer beyond one for each expert; the scenario's by default.
    learn_share, learn, judge_on: see `moesim.study.placing.workloads.workloads`. base: the policy in force before.
    every: steps between re-balancings, over which their cost is spread (SGLang re-balances every 1,000 by default).
    Raises InvalidInput naming the option, Infeasible when the slots do not fit in HBM.
    """
    document = read_scenario(name_or_path, changes)
    if every < 1:
        raise InvalidInput(Problem(f"{every} steps; write 1 or more", "every"))
    checked = document.check(Scenario)
    if checked.offload is not None:
        message = "experts outside HBM are not placed on ranks by loads; leave offload out, or use moesim offload"
        raise document.locate(InvalidInput(Problem(message, "offload")))
    fewest = document.with_value("placement", {"kind": "contiguous", "slots_per_rank": _fewest(document, checked)})
    assembly = assemble(fewest)
    if assembly.routes is None:
        raise InvalidInput(Problem(f"{assembly.deployment.model.name} has no experts to place", "model", document.file))
    where = assembly.deployment
    site = site_of(
        assembly.scenario, where.model, where.cluster, where.network, where.parallelism, where.precision, assembly.trace
    )
    parts = workloads(assembly, site, document.file, learn_share, learn, judge_on)
    slots = _slots(document, site, checked.placement.slots_per_rank, redundant)
    kinds, skipped = _kinds(document, site, slots, policies)
    bench = Bench(document, assembly, site, parts)
    start = bench.place(_kind(document, site, slots, {"kind": base}, "base")[1], parts.learned)
    judged = []
    for number, (name, kind) in enumerate(kinds):
        progress(f"placing by {name}", number, len(kinds))
        judged.append(bench.judge(name, kind, start))
    progress("policies", len(kinds), len(kinds))
    return PlacementStudy(
        base, document, parts, tuple(judged), policy_table(judged, every), bench.load(parts.learned), every, skipped
    )


def place_json(study: PlacementStudy) -> dict[str, object]:
    """The study as ``moesim place --json`` prints it; NaN becomes null."""
    rows = []
    for each, row in zip(study.judged, study.table.to_dict("records"), strict=True):
        options = {key: value for key, value in each.kind.model_dump().items() if key != "kind"}
        others = [
            {
                "workload": name,
                "step_time_s": result.metrics["step_time_s"],
                "hottest_rank_over_mean": result.metrics["hottest_rank"]["per_layer_over_mean"],
                "cross_node_bytes": cross_node_bytes(result),
            }
            for name, result in list(each.results.items())[1:]
        ]
        rows.append({"name": row.pop("name"), "kind": each.kind.kind, "options": options, **row, "others": others})
    parts = study.workloads
    return rounded(
        {
            **origin(study.document),
            "seed": study.document.check(Scenario).seed,
            "learned_on": parts.learned.name,
            "judged_on": parts.judged.name,
            "also_judged_on": [other.name for other in parts.others],
            "synthetic": parts.judged.trace.synthetic,
            "base": study.base,
            "rebalanced_every_steps": study.every,
            "policies": rows,
            "skipped": study.skipped,
        }
    )


def _fewest(document: Document, scenario: Scenario) -> int:
    """Slots a rank that hold every expert once."""
    model = load_model(scenario.model, beside=document.file)
    experts = max((layer.experts.routed for layer in model.layers if layer.experts), default=1)
    return -(-experts // scenario.parallelism.ep)


def _slots(document: Document, site: Site, stated: int, redundant: int | None) -> int:
    """Slots a rank for a budget of redundant slots, or those that the scenario states."""
    experts, ranks = site.geometry.experts, site.parallelism.ep
    if redundant is None:
        return stated
    slots, rest = divmod(experts + redundant, ranks)
    if rest or redundant < 0 or slots > experts:
        least = -(-experts // ranks) * ranks - experts
        choices = ", ".join(str(least + ranks * step) for step in range(3))
        message = f"{experts} experts and {redundant} redundant slots do not fill {ranks} ranks alike"
        raise InvalidInput(Problem(f"{message}; write {choices} …", "redundant"))
    return slots


def _kinds(
    document: Document, site: Site, slots: int, policies: Sequence[str | dict]
) -> tuple[list[tuple[str, Kind]], dict[str, str]]:
    """(name, kind) of every policy to judge, and those left out with the reason."""
    if policies:
        problems, kinds = [], []
        for policy in policies:
            try:
                kinds.append(_kind(document, site, slots, {"kind": policy} if isinstance(policy, str) else policy))
            except InvalidInput as error:
                problems += error.problems
        if problems:
            raise InvalidInput(problems)
        return kinds, {}
    skipped = {}
    size = variables(site.geometry.experts, site.parallelism.ep, slots)
    if size > MOST_VARIABLES:
        skipped["optimal"] = f"{size:,} variables a layer; it is for small cases of at most {MOST_VARIABLES:,}"
    if site.alone:
        skipped |= dict.fromkeys(("affinity", "topology_aware"), "every rank holds all tokens and none is sent")
    return [_kind(document, site, slots, {"kind": name}) for name in POLICIES if name not in skipped], skipped


def _kind(document: Document, site: Site, slots: int, wanted: dict, field: str = "policy") -> tuple[str, Kind]:
    """Check one policy's keys. The scenario's replica choice and arrangement of sequences stand unless it has its own.

    Policies that do not replicate get the fewest slots that hold all experts: more would only hold idle copies.
    """
    name = wanted.get("kind")
    if name not in POLICIES:
        hint = did_you_mean(str(name), POLICIES) or f"; write one of {', '.join(POLICIES)}"
        raise InvalidInput(Problem(f"no placement policy is named {name!r}{hint}", field))
    common = {key: document.data["placement"][key] for key in ("replica_choice", "sequences")
              if key in document.data["placement"]}  # fmt: skip
    fewest = -(-site.geometry.experts // site.parallelism.ep)
    keys = common | {"slots_per_rank": slots if name in REPLICATING else fewest} | wanted
    kind = document.with_value("placement", keys).check(Scenario).placement
    own = ", ".join(f"{key}: {value}" for key, value in wanted.items() if key != "kind")
    return f"{name} ({own})" if own else name, kind
