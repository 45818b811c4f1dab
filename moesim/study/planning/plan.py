"""A capacity plan: the cheapest way to serve a load within objectives, what comes next to it, and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from moesim.errors import InvalidInput
from moesim.hardware.device import Hardware
from moesim.model.architecture import MoEModel
from moesim.spec.hardware.profile import load_profile
from moesim.spec.model.file import load_model
from moesim.spec.reading import library
from moesim.spec.reading.loading import Document, read
from moesim.spec.serving.constants import load_fitted
from moesim.spec.step.scenario_file import with_changes
from moesim.spec.studies.plan_file import Plan
from moesim.study.planning.economics import break_even_tokens, device_usd_per_hour, device_watts
from moesim.study.planning.finalists import simulate_finalist
from moesim.study.planning.search import Found, Lengths, mean_lengths, search, usd_per_hour
from moesim.study.planning.sensitivity import sensitivity
from moesim.study.planning.serve_candidate import Evaluation
from moesim.study.results.notebook import plan_html
from moesim.study.results.record import origin, rounded

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class PlanResult:
    """document: the plan's file with the changes. metrics: what ``--json`` prints. candidates: one row each that was
    served, cheapest first.

    finalists, sensitivity, compared: as the modules beside this one say; empty where nothing meets the objectives.
    found: something does.
    """

    document: Document
    plan: Plan
    metrics: dict[str, object]
    candidates: pd.DataFrame
    finalists: pd.DataFrame
    sensitivity: pd.DataFrame
    compared: pd.DataFrame
    found: bool

    def __repr__(self) -> str:
        return f"<PlanResult of {self.metrics['plan']}>"

    def _repr_html_(self) -> str:
        first = self.candidates.head(self.plan.runners_up + 1)
        return plan_html(self.metrics) + first.to_html(index=False, float_format="{:.4g}".format)


def make_plan(
    name_or_path: str | Path, changes: Iterable[str] = (), *, jobs: int = 1, progress: Progress | None = None
) -> PlanResult:
    """Plan a shipped file or one's own. changes: ``field=value`` texts. jobs: processes.

    Raises InvalidInput with every problem found.
    """
    document = with_changes(read(library.find("plan", name_or_path)), changes, "load.rate=40")
    return plan_of(document, jobs=jobs, progress=progress)


def plan_of(document: Document, *, jobs: int = 1, progress: Progress | None = None) -> PlanResult:
    """`make_plan` of a document."""
    plan = document.check(Plan)
    tell = progress or (lambda text, done, total: None)
    try:
        model, products, dense = _read(plan, document)
        found = search(plan, model, products, document.file, jobs=jobs, progress=lambda d, n: tell("candidates", d, n))
    except InvalidInput as error:
        raise document.locate(error) from None
    lengths = mean_lengths(plan)
    meeting = found.meeting()
    empty = pd.DataFrame()
    finalists = gains = compared = empty
    if meeting:
        best = meeting[0]
        finalists = _finalists(plan, model, meeting[: plan.finalists], lengths, document, tell)
        tell("sensitivity", 0, 1)
        pools = (best.servers, best.prefill_servers)
        gains = sensitivity(plan, model, best.candidate, pools, document.file)
        compared = _compare(plan, products, dense, best, lengths, document, jobs, tell)
        tell("sensitivity", 1, 1)
    table = candidate_table(plan, products, found, lengths)
    metrics = _metrics(document, plan, found, table, (finalists, gains, compared))
    return PlanResult(document, plan, rounded(metrics), table, finalists, gains, compared, bool(meeting))


def _read(plan: Plan, document: Document) -> tuple[MoEModel, dict[str, Hardware], list[MoEModel]]:
    """The model, the products and the dense models: what is wrong with them is said before the search."""
    model = load_model(plan.model, beside=document.file)
    dense = []
    for number, other in enumerate(plan.compare):
        try:
            dense.append(load_model(other.model, beside=document.file))
        except InvalidInput as error:
            raise document.locate(error, f"compare.{number}") from None
    products = {space.hardware: load_profile(space.hardware, beside=document.file) for space in plan.search}
    for hardware in products.values():
        device_usd_per_hour(hardware, plan.economics)
    return model, products, dense


def _finalists(
    plan: Plan, model: MoEModel, chosen: list[Evaluation], lengths: Lengths, document: Document, tell: Progress
) -> pd.DataFrame:
    rows = []
    for number, evaluation in enumerate(chosen):
        tell("finalists", number, len(chosen))
        rows.append(simulate_finalist(plan, model, evaluation, lengths, document.file))
    tell("finalists", len(chosen), len(chosen))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()


def candidate_table(plan: Plan, products: dict[str, Hardware], found: Found, lengths: Lengths) -> pd.DataFrame:
    """One row a candidate that was served.

    Columns: label, hardware, devices, servers, prefill_servers, usd_per_hour, usd_per_million_output_tokens,
    usd_per_million_tokens, ttft_s, tpot_s (at the plan's percentile), tokens_per_s_per_device, tokens_per_s_per_user,
    joules_per_token (output), meets, binds, efficient (no other that meets is better in both rates).
    """
    output = plan.load.rate * lengths.output
    rows = []
    for each in found.evaluations:
        hardware = products[each.candidate.layout.hardware]
        hourly = usd_per_hour(plan, products, each) if each.servers else math.nan
        watts = device_watts(hardware, plan.economics) * each.devices
        look = each.look
        rows.append(
            {
                "label": each.candidate.label(),
                "hardware": hardware.name,
                "devices": each.devices,
                "servers": each.servers,
                "prefill_servers": each.prefill_servers,
                "usd_per_hour": hourly,
                "usd_per_million_output_tokens": hourly / (output * 3600) * 1e6,
                "usd_per_million_tokens": hourly / ((output + plan.load.rate * lengths.input) * 3600) * 1e6,
                "ttft_s": look.ttft_s,
                "tpot_s": look.tpot_s,
                "tokens_per_s_per_device": output / each.devices if each.devices else math.nan,
                "tokens_per_s_per_user": look.tokens_per_s_per_user,
                "joules_per_token": watts / output if each.servers else math.nan,
                "meets": bool(each.servers),
                "binds": each.binds,
            }
        )
    table = pd.DataFrame(rows)
    return table.assign(efficient=_efficient(table)) if len(table) else table


def _efficient(table: pd.DataFrame) -> np.ndarray:
    rates = table[["tokens_per_s_per_device", "tokens_per_s_per_user"]].where(table["meets"], np.nan).to_numpy()
    better = (rates[None] >= rates[:, None]).all(axis=2) & (rates[None] > rates[:, None]).any(axis=2)
    return table["meets"].to_numpy() & ~better.any(axis=1)


def _compare(
    plan: Plan,
    products: dict[str, Hardware],
    models: list[MoEModel],
    best: Evaluation,
    lengths: Lengths,
    document: Document,
    jobs: int,
    tell: Progress,
) -> pd.DataFrame:
    """The dense models that the plan names, each served as cheaply as the same search allows."""
    own = usd_per_hour(plan, products, best) / (plan.load.rate * lengths.output * 3600)
    training = plan.economics.training
    rows = []
    for number, (other, model) in enumerate(zip(plan.compare, models, strict=True)):
        tell("compared models", number, len(plan.compare))
        dense = plan.model_copy(update={"model": other.model, "runners_up": 1})
        meeting = search(dense, model, products, document.file, jobs=jobs).meeting()
        row = {"model": other.model, "label": "", "usd_per_million_output_tokens": math.nan, "over_plan": math.nan}
        row["break_even_tokens"] = math.nan
        if meeting:
            theirs = usd_per_hour(dense, products, meeting[0]) / (plan.load.rate * lengths.output * 3600)
            paid = training.cost if training else None
            tokens = break_even_tokens(paid, own, other.training, theirs)
            row |= {
                "label": f"{meeting[0].servers} × {meeting[0].candidate.label()}",
                "usd_per_million_output_tokens": theirs * 1e6,
                "over_plan": theirs / own,
                "break_even_tokens": math.nan if tokens is None else tokens,
            }
        rows.append(row)
    return pd.DataFrame(rows)


def _metrics(
    document: Document,
    plan: Plan,
    found: Found,
    table: pd.DataFrame,
    studies: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame],
) -> dict[str, object]:
    meeting = found.meeting()
    labels = [each.candidate.label() for each in meeting[: plan.runners_up + 1]]
    ranked = table[table["meets"]].drop_duplicates("label").set_index("label") if len(table) else table
    chosen = [{"label": label} | ranked.loc[label].to_dict() for label in labels]
    closest = found.closest()
    fitted = load_fitted()
    finalists, gains, compared = (records(study) for study in studies)
    return {
        **origin(document, "plan"),
        "description": plan.description,
        "model": plan.model,
        "rate": plan.load.rate,
        "slo": {"percentile": plan.slo.percentile, "ttft_s": plan.slo.ttft, "tpot_s": plan.slo.tpot},
        "considered": found.considered,
        "served": len(found.evaluations),
        "dropped": found.dropped,
        "best": chosen[0] | _beside(plan, chosen[0]) if chosen else None,
        "runners_up": chosen[1:],
        "closest": None
        if closest is None or meeting
        else {"label": closest.candidate.label(), "miss": closest.miss, "binds": closest.binds},
        "intervals": {"ttft": list(fitted.ttft_interval), "tpot": list(fitted.tpot_interval)},
        "finalists": finalists,
        "sensitivity": gains,
        "compared": compared,
        "pareto": records(table[table["efficient"]]) if len(table) else [],
    }


def _beside(plan: Plan, best: dict[str, object]) -> dict[str, object]:
    """Energy, carbon and training beside the cheapest plan's costs; None for what the file does not state."""
    economics = plan.economics
    joules = float(best["joules_per_token"])
    kwh = joules / 3.6e6 * 1e6
    known = not math.isnan(joules)
    trained = economics.training.cost / economics.training.tokens_served * 1e6 if economics.training else None
    return {
        "kwh_per_million_output_tokens": kwh if known else None,
        "grams_co2e_per_million_output_tokens": kwh * economics.carbon if known and economics.carbon else None,
        "usd_training_per_million_tokens_served": trained,
    }


def records(table: pd.DataFrame) -> list[dict[str, object]]:
    """Rows as plain data; NaN becomes None."""
    return table.astype(object).where(table.notna(), None).to_dict("records")
