"""Write reports/serving.md: predictions of measured serving runs, how good they are and on what they rest.

python benchmarks/serving_report.py TABLE     # a table of serving runs with measured ttft_s and tpot_s
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from moesim.report.figures.serving import draw_predictions
from moesim.spec.serving.constants import load_fitted
from moesim.study.validation.serving.predict import predict_serving
from moesim.study.validation.serving.scores import chosen_by_prediction, serving_statistics

ROOT = Path(__file__).parent.parent
SUMMARY = {
    "tpot_mape": "TPOT MAPE", "tpot_median": "median", "tpot_coverage": "in 80 %", "ttft_mape": "TTFT MAPE",
    "ttft_median": "median", "ttft_coverage": "in 80 %", "choice_median": "best chosen",
}  # fmt: skip
GROUP = ("software", "model", "hardware", "precision")


def main(path: str) -> None:
    table = pd.read_parquet(path)
    begin = time.process_time()
    predicted = predict_serving(table)
    seconds = time.process_time() - begin
    balanced = predict_serving(table, sigma=0.0)
    draw_predictions(predicted, ROOT / "reports" / "figures" / "serving_predictions.png")
    (ROOT / "reports" / "serving.md").write_text(report(predicted, balanced, seconds), encoding="utf-8")


def report(predicted: pd.DataFrame, balanced: pd.DataFrame, seconds: float) -> str:
    fitted, choices = load_fitted(), chosen_by_prediction(predicted)
    share = choices["share_of_best"]
    change = balanced["predicted_tpot_s"] / predicted["predicted_tpot_s"] - 1
    lines = [
        "# Serving: predicted against measured",
        "",
        f"{len(predicted)} closed-loop runs published by InferenceX and others, simulated in {seconds:.0f} s of CPU",
        f"time; {int((predicted['reason'] != '').sum())} refused. Made by `python benchmarks/serving_report.py TABLE`.",
        "Errors are |predicted / measured − 1|. TTFT of SGLang without warm-up is not scored (cold servers).",
        "",
        "![Predicted against measured](figures/serving_predictions.png)",
        "",
        "## Errors by what the fit had not seen",
        "",
        "Curve: model, hardware, stack, image, precision, lengths, GPUs and EP, with all its concurrencies (five",
        "folds). Folds fit everything again: constants, effects of known groups, 80 % intervals. Mechanisms and the",
        "values expected of the constants were chosen on all runs, so that errors on truly new models may be somewhat",
        "higher. Best chosen: share of the best measured throughput per GPU that the configuration predicted best",
        "reaches, median over models, lengths and concurrencies.",
        "",
        markdown(
            ("not seen", *(SUMMARY[key] for key in next(iter(fitted.errors.values())))),
            [(name, *(f"{value:.1%}" for value in errors.values())) for name, errors in fitted.errors.items()],
        ),
        "",
        "## Errors by group, all runs in the fit",
        "",
        statistics(predicted),
        "",
        "## Choosing by prediction",
        "",
        f"For {len(choices)} combinations of model, lengths and concurrency with several configurations, the",
        f"configuration predicted best reaches {share.median():.1%} of the best measured throughput per GPU in "
        f"the median, {share.quantile(0.1):.1%} in the worst tenth.",
        "",
        "## Routing",
        "",
        "None of these runs has a trace: lognormal popularity of experts (σ = 0.9) is assumed. Balanced routing with",
        f"the same constants changes the predicted TPOT by {change.median():+.1%} in the median "
        f"({np.nanquantile(change, 0.1):+.1%} to {np.nanquantile(change, 0.9):+.1%} from the lowest to the highest",
        "tenth): balanced tokens touch more experts, and load the busiest rank less.",
        "",
        "## Effects of known groups",
        "",
        "What runs of a known group add to ln of the physical prediction (`moesim/serving/effects.py`), shrunk to 0;",
        "slopes are over log2 of concurrency, prompt length, output length and GPUs, per 2, 1.5, 1.5 and 1 octaves.",
        "",
        effects(fitted),
        "",
        "## Constants",
        "",
        f"Fitted {fitted.date} to: {fitted.source}.",
        "",
        constants(fitted),
        "",
    ]
    return "\n".join(lines)


def statistics(predicted: pd.DataFrame) -> str:
    found = serving_statistics(predicted, GROUP)
    header = (*GROUP, "runs", "TPOT MAPE", "median", "bias", "in 80 %", "TTFT MAPE", "median", "bias", "in 80 %")
    parts = ("mape", "median", "bias", "coverage")
    names = [f"{name}_{part}" for name in ("tpot", "ttft") for part in parts]
    rows = [
        (
            *(row[name] for name in GROUP),
            row["rows"],
            *(percent(name, row.get(name)) for name in names),
        )
        for row in found.to_dict("records")
    ]
    return markdown(header, rows)


def percent(name: str, value: float | None) -> str:
    if value is None or pd.isna(value):
        return ""
    return f"{value:+.0%}" if "bias" in name else f"{value:.1%}"


def effects(fitted) -> str:
    rows = [(name, *(f"{u:+.3f}" for u in terms)) for name, terms in sorted(fitted.effects.groups.items())]
    levels = markdown(("group", "TTFT", "TPOT"), rows)
    rows = [
        (name, *(f"{v:+.3f}" for v in (*ttft, *tpot))) for name, (ttft, tpot) in sorted(fitted.effects.slopes.items())
    ]
    names = ("concurrency", "prompt", "output", "GPUs")
    header = ("stack and model", *(f"{metric}, {name}" for metric in ("TTFT", "TPOT") for name in names))
    return levels + "\n\n" + markdown(header, rows)


def constants(fitted) -> str:
    names = list(fitted.stacks)
    rows = []
    for name in ("dense", "expert_bytes", "expert_flops", "attention", "prefill_attention", "communication", "prefill"):
        rows.append((name, *(f"{getattr(fitted.stacks[stack], name):.2f}" for stack in names)))
    for name in ("kernel", "eager", "prompt", "fixed", "sequence", "frontend_fixed", "frontend_request"):
        rows.append((name, *(f"{getattr(fitted.stacks[stack], name) * 1e6:,.1f} µs" for stack in names)))
    rows.append(("ageing, a year", *(f"{fitted.stacks[stack].ageing:.2f}" for stack in names)))
    return markdown(("constant", *names), rows)


def markdown(header: tuple, rows: list[tuple]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
