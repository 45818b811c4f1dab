"""Write reports/published.md: published figures of training and inference beside what moesim predicts for them.

python benchmarks/published_report.py PUBLISHED.yaml              # the report, from the calibration that ships
python benchmarks/published_report.py PUBLISHED.yaml --fit        # fit and write the calibration first
python benchmarks/published_report.py PUBLISHED.yaml --fit=training   # of one kind of run alone: training, load …
python benchmarks/published_report.py PUBLISHED.yaml --scenarios  # write scenarios/published as well
"""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from moesim.cli.validate_serving import cache_folder
from moesim.errors import MoesimError
from moesim.report.figures.published import draw_published
from moesim.study.entries.calibration.factors import SHIPPED, Calibration, load_calibration, run_and_format
from moesim.study.entries.deployment.server import model_named, routing
from moesim.study.entries.fitting.fit import calibration_text, figures, fit_calibration
from moesim.study.entries.fitting.score import rank_correlations, statistics, with_errors
from moesim.study.entries.prediction.files import scenario_text
from moesim.study.entries.prediction.predict import (
    ADDED,
    CONVERTED_KINDS,
    Prediction,
    converted_share,
    predict_entries,
    rescaled,
)
from moesim.study.entries.reading.entry import Entry, read_entries
from moesim.study.entries.runs.runner import Runner

ROOT = Path(__file__).parent.parent
SCENARIOS = ROOT / "scenarios" / "published"
# What is kept as scenarios: each stack, product and model once or twice.
_IDS = """
    isca-006 dgxc-001 dgxc-002 dgxc-004 dgxc-007 dgxc-012 dgxc-020 mgb-013 mgb-017
    mbridge-001 mbridge-002 mbridge-005 mbridge-009 mbridge-023 mbridge-024 mbridge-029 mbridge-042 mbridge-043
    mbridge-046 mbridge-057 mbridge-058 mbridge-059 mbridge-060 mbridge-065 mbridge-072 mbridge-073 mbridge-077
    mbridge-081 mbridge-138 mbridge-163 mbridge-168
    tpu-001 tpu-003 tpu-009 tpu-012 tpu-013 tpu-017 tpu-019
    dsprod-002 sgl-001 sgl-002 sgl-004 sgl-008 sgl-009 vllm-002 vllm-004 vllm-005 vllm-006 vllm-009 vllm-013
    trtbest-001 trtbest-003 trtmin-007 trtpo-001 trtpo-003 trtpo-014 trtpo-015 trtpo-021 trtpo-040 trtpo-061
    trtpo-073 trtpo-078 trtpo-087 trtpo-095 mlperf41-002 mlperf60-001 tpuinf-004
"""
KEPT = frozenset(_IDS.split())
RUNS = ("any training", "any load", "any decode", "any prefill")  # every figure belongs to one of them
# Scenarios of which the gap between forced balance and real routing is simulated.
GAPS = ("mgb-017", "mbridge-023", "mbridge-043", "mbridge-002", "mbridge-029", "sgl-004")


def main(path: str, options: set[str]) -> None:
    entries, table = read_entries(path)
    rows = [row for row, entry in enumerate(entries) if entry.kind in CONVERTED_KINDS]
    entries, table = [entries[row] for row in rows], table.iloc[rows].reset_index(drop=True)
    runner = Runner(cache_folder())
    plain = predict_entries(entries, runner, Calibration(), progress=_progress, jobs=2)
    fitted_runs = {option.partition("=")[2] for option in options if option.split("=")[0] == "--fit"}
    if fitted_runs:
        fit(plain, table, fitted_runs - {""})
    fitted = [rescaled(prediction, load_calibration()) for prediction in plain]
    if "--scenarios" in options:
        write_scenarios(entries, table, fitted)
    predicted, simulated = (_joined(table, found) for found in (fitted, plain))
    draw_published(predicted, ROOT / "reports" / "figures" / "published.png")
    gaps = routing_gaps(entries, plain, runner)
    (ROOT / "reports" / "published.md").write_text(report(predicted, simulated, gaps), encoding="utf-8")


def fit(plain: list[Prediction], table: pd.DataFrame, runs: set[str]) -> None:
    """Fit the calibration that ships. runs: the kinds of run to fit, others stay as they are; empty = all."""
    found = [f for f in figures(plain, table["value"], table["source"]) if not runs or f.run in runs]
    calibration, errors = fit_calibration(found)
    if runs:
        written = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
        kept = written["stacks"]
        kept = {name: stack for name, stack in kept.items() if run_and_format(name)[0] not in runs}
        shipped = load_calibration()
        stacks = {name: shipped.stacks[name] for name in kept} | dict(calibration.stacks)
        calibration = Calibration(stacks)
        errors["all"] = written.get("errors", {})  # of the last complete fit
        errors |= {name: stack["errors"] for name, stack in kept.items() if "errors" in stack}
    words = "published.yaml of the shared measurements, entries with a value"
    SHIPPED.write_text(calibration_text(calibration, errors, source=words, date=date.today().isoformat()))
    load_calibration.cache_clear()


def _progress(done: int, total: int) -> None:
    print(f"\r{done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _joined(table: pd.DataFrame, found: list[Prediction]) -> pd.DataFrame:
    return table.assign(**{name: [getattr(p, name) for p in found] for name in ADDED})


def write_scenarios(entries: list[Entry], table: pd.DataFrame, found: list[Prediction]) -> None:
    SCENARIOS.mkdir(parents=True, exist_ok=True)
    for old in SCENARIOS.glob("*.yaml"):
        old.unlink()
    for entry, value, prediction in zip(entries, table["value"], found, strict=True):
        if entry.id in KEPT and prediction.case is not None and np.isfinite(prediction.predicted):
            case = prediction.case
            model, hardware = case.document["model"], case.document["cluster"]["hardware"]
            where = entry.source.removeprefix("github ").split(" @")[0]
            words = f"{entry.metric[:1].upper()}{entry.metric[1:]}: {entry.model} on {entry.hardware}. From {where}."
            name = f"{entry.kind}-{model}-{hardware}-{entry.id}.yaml"
            (SCENARIOS / name).write_text(scenario_text(case, entry, value, words), encoding="utf-8")


def routing_gaps(entries: list[Entry], found: list[Prediction], runner: Runner) -> list[tuple[str, str, float]]:
    """(id, what, slowdown of real routing against forced balance) of `GAPS`."""
    gaps = []
    for entry, prediction in zip(entries, found, strict=True):
        case = prediction.case
        if entry.id not in GAPS or case is None or "load" in case.document or not np.isfinite(prediction.predicted):
            continue
        model = model_named(str(case.document["model"]))
        real = {**case.document, "routing": routing(model, balanced=False)}
        if "windows" in real["workload"]:
            real["workload"] = {**real["workload"], "windows": 2}
        level = {**real, "routing": {"kind": "balanced"}}
        try:
            gap = runner.run(real).total_s / runner.run(level).total_s - 1
        except MoesimError:
            continue
        what = f"{entry.kind}: {entry.model} on {entry.devices or ''} {entry.hardware}, {entry.parallelism}"
        gaps.append((entry.id, what, gap))
    return gaps


def report(predicted: pd.DataFrame, simulated: pd.DataFrame, gaps: list) -> str:
    known, plain = with_errors(predicted), with_errors(simulated)
    size, raw = known["error"].abs(), plain["error"].abs()
    ranks = rank_correlations(predicted)
    lines = [
        "# Published figures: predicted beside what was printed",
        "",
        f"{len(predicted)} published figures of training and inference; {converted_share(predicted):.1%} state enough",
        "to become a scenario; nothing is dropped for its error.",
        "`python benchmarks/published_report.py PUBLISHED.yaml --fit --scenarios` makes this page, the calibration and",
        "[scenarios/published](../scenarios/published); docs/measured-tables.md says how.",
        "",
        "| | median error | P90 | median Spearman within a source and unit |",
        "|---|---|---|---|",
        f"| calibrated by stack (in sample) | {size.median():.1%} | {size.quantile(0.9):.1%} "
        f"| {np.median(list(ranks.values())):.3f} of {len(ranks)} |",
        f"| simulation alone, nothing fitted | {raw.median():.1%} | {raw.quantile(0.9):.1%} "
        f"| {np.median(list(rank_correlations(simulated).values())):.3f} |",
        "",
        "![predicted over published](figures/published.png)",
        "",
        "## By stack, and on what a fit had not seen",
        "",
        "Median / P90 of the absolute error. Only `moesim/study/entries/calibration/calibration.yaml` is fitted:",
        "factors on kinds of work, host seconds a layer and ageing of each stack; no constant of a source or of a",
        "single figure. Unseen entry: a tenth of the figures at a time.",
        "",
        *_stacks(),
        "",
        "## By source",
        "",
        *_sources(predicted),
        "",
        "## Forced balance against real routing",
        "",
        "Benchmark recipes and runs of which a note says that balance was forced (or routing random) run balanced, all",
        "others replay a capture or lognormal popularity. The same scenario under both, real over balanced step time:",
        "",
        "| id | what | slower by |",
        "|---|---|---|",
        *(f"| {name} | {what} | {gap:+.1%} |" for name, what, gap in gaps),
        "",
        "## Largest errors",
        "",
        "| id | published | predicted | unit | error | assumed |",
        "|---|---|---|---|---|---|",
        *_worst(known),
        "",
        "## Not predicted",
        "",
        *_reasons(predicted),
        "",
    ]
    return "\n".join(lines)


def _stacks() -> list[str]:
    data = yaml.safe_load(SHIPPED.read_text(encoding="utf-8")) if SHIPPED.exists() else {"stacks": {}}
    every = sum(stack["entries"] for name, stack in data["stacks"].items() if name in RUNS)
    kept = {"**all**": {"entries": every, "errors": data.get("errors", {})}} | data["stacks"]
    folds = ("in sample", "unseen entry", "unseen model", "unseen hardware", "unseen source")
    lines = ["| stack | figures | " + " | ".join(folds) + " |", "|---|---|" + "---|" * len(folds)]
    for name, stack in kept.items():
        errors = stack.get("errors", {})
        if not errors:
            continue
        found = [errors.get(fold) for fold in folds]
        cells = (f"{error['median']:.1%} / {error['p90']:.1%}" if error else "" for error in found)
        lines.append(f"| {name} | {stack['entries']} | " + " | ".join(cells) + " |")
    return lines


def _sources(predicted: pd.DataFrame) -> list[str]:
    lines = [
        "| source | entries | predicted | median | P90 | Spearman | in the interval |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in statistics(predicted).to_dict("records"):
        numbers = (row["median_ape"], row["p90_ape"], row["coverage"])
        median, p90, inside = ("" if value != value else f"{value:.1%}" for value in numbers)
        rank = "" if row["spearman"] != row["spearman"] else f"{row['spearman']:.2f}"
        name = row["source"].replace("|", "/").removeprefix("github ")
        name = name if len(name) <= 80 else f"{name[:79]}…"
        lines.append(f"| {name} | {row['entries']} | {row['predicted']} | {median} | {p90} | {rank} | {inside} |")
    return lines


def _worst(known: pd.DataFrame) -> list[str]:
    worst = known.loc[known["error"].abs().sort_values(ascending=False).index].head(25)
    return [
        f"| {row['id']} | {row['value']:.5g} | {row['predicted']:.5g} | {row['unit']} | {row['error']:+.0%} "
        f"| {row['assumed'].replace('|', '/')} |"
        for row in worst.to_dict("records")
    ]


def _reasons(predicted: pd.DataFrame) -> list[str]:
    missing = predicted[predicted["reason"] != ""]
    lines = ["| reason | entries |", "|---|---|"]
    for reason, part in missing.groupby("reason"):
        lines.append(f"| {reason.replace('|', '/')[:220]} | {', '.join(part['id'])} |")
    return lines


if __name__ == "__main__":
    main(sys.argv[1], set(sys.argv[2:]))
