"""A training run planned: from a simulated step and its failures to days, device-hours, money, energy and carbon."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from moesim.errors import InvalidInput
from moesim.hardware.device import Hardware
from moesim.spec.hardware.profile import load_profile
from moesim.spec.reading import library
from moesim.spec.reading.loading import Document, read
from moesim.spec.step.scenario_file import read_scenario, with_changes
from moesim.spec.studies.plan_file import Economics, TrainingAlternative, TrainingPlan
from moesim.study.planning.economics import device_usd_per_hour, device_watts
from moesim.study.reliability.training_runs import runs_of
from moesim.study.results.record import origin, rounded

_HOUR, _DAY = 3600.0, 86400.0


@dataclass(frozen=True, slots=True, eq=False)
class TrainingPlanResult:
    """document: the plan's file. metrics: what ``--json`` prints. table: one row an alternative, cheapest first."""

    document: Document
    metrics: dict[str, object]
    table: pd.DataFrame

    def _repr_html_(self) -> str:
        return self.table.to_html(index=False)


def make_training_plan(
    name_or_path: str | Path, changes: Iterable[str] = (), *, progress: Callable[[str, int, int], None] | None = None
) -> TrainingPlanResult:
    """Plan the alternatives of a file. Raises InvalidInput and Infeasible as their scenarios do."""
    document = with_changes(read(library.find("plan", name_or_path)), changes, "tokens=1.0e12")
    return training_plan_of(document, progress=progress)


def training_plan_of(
    document: Document, *, progress: Callable[[str, int, int], None] | None = None
) -> TrainingPlanResult:
    """`make_training_plan` of a document."""
    plan = document.check(TrainingPlan)
    products = [_product(alternative, document, number) for number, alternative in enumerate(plan.alternatives)]
    try:
        for hardware in products:
            device_usd_per_hour(hardware, plan.economics)  # said before the simulation
    except InvalidInput as error:
        raise document.locate(error) from None
    rows = []
    for number, (alternative, hardware) in enumerate(zip(plan.alternatives, products, strict=True)):
        if progress is not None:
            progress("alternatives", number, len(products))
        metrics = runs_of(_run(document, alternative, plan)).metrics
        rows.append(_row(alternative, hardware, plan.economics, metrics))
    if progress is not None:
        progress("alternatives", len(products), len(products))
    table = pd.DataFrame(rows).sort_values("usd", ignore_index=True)
    table["over_cheapest"] = table["usd"] / table["usd"].min()
    metrics = {
        **origin(document, "plan"),
        "description": plan.description,
        "tokens": plan.tokens,
        "alternatives": table.astype(object).where(table.notna(), None).to_dict("records"),
    }
    return TrainingPlanResult(document, rounded(metrics), table)


def _product(alternative: TrainingAlternative, document: Document, number: int) -> Hardware:
    """The hardware of an alternative's step."""
    try:
        step = read_scenario(alternative.step.scenario, alternative.step.set, beside=document.file)
    except InvalidInput as error:
        raise document.locate(error, f"alternatives.{number}.step.scenario") from None
    return load_profile(step.data["cluster"]["hardware"], beside=step.file)


def _run(document: Document, alternative: TrainingAlternative, plan: TrainingPlan) -> Document:
    """The resilience file of one alternative."""
    data = {key: document.data[key] for key in ("failures", "recovery", "checkpoint")}
    step = {"scenario": alternative.step.scenario, "set": list(alternative.step.set)}
    data |= {"step": step, "tokens": plan.tokens, "spares": alternative.spares}
    return Document(document.file, data | {"seeds": plan.seeds, "seed": plan.seed}, {}, {})


def _row(
    alternative: TrainingAlternative, hardware: Hardware, economics: Economics, metrics: dict
) -> dict[str, object]:
    """What one alternative takes: means over its runs, with the range that holds 80 % of them for the days."""
    step, wall = metrics["step"], metrics["wall_s"]
    devices = step["devices"]
    paid = devices + alternative.spares * step["node_devices"]
    hours = wall["mean"] / _HOUR * devices if wall else math.nan
    paid_hours = wall["mean"] / _HOUR * paid if wall else math.nan
    megawatt_hours = device_watts(hardware, economics) * paid_hours / 1e6
    stretch = metrics["spent_share"]
    beside = {state: share for state, share in stretch.items() if state != "work"}
    worst = max(beside, key=beside.__getitem__)
    return {
        "name": alternative.name,
        "devices": devices,
        "days": wall["mean"] / _DAY if wall else math.nan,
        "days_low": wall["p10"] / _DAY * step["low_s"] / step["seconds"] if wall else math.nan,
        "days_high": wall["p90"] / _DAY * step["high_s"] / step["seconds"] if wall else math.nan,
        "device_hours": hours,
        "goodput": metrics["goodput"]["mean"],
        "usd": paid_hours * device_usd_per_hour(hardware, economics),
        "mwh": megawatt_hours,
        "tonnes_co2e": megawatt_hours * economics.carbon / 1e3 if economics.carbon else math.nan,
        "step_s": step["seconds"],
        "tokens_per_s": metrics["tokens_per_s"]["mean"],
        "largest_loss": worst,
        "largest_loss_share": beside[worst],
        "stopped": "; ".join(metrics["stopped"]),
    }
