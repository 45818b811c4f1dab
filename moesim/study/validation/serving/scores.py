"""How good predictions of measured serving runs are: errors, coverage, and whether choosing by prediction is safe."""

from __future__ import annotations

import numpy as np
import pandas as pd

from moesim.study.validation.serving.rows import stack_of


def scored(table: pd.DataFrame) -> np.ndarray:
    """[rows] whether TTFT is scored: not where SGLang had not been warmed up (cold servers stall for a minute)."""
    cold = table["warmed_up"].eq(False) if "warmed_up" in table else pd.Series(False, index=table.index)
    return ~(cold & table["software"].map(stack_of).eq("sglang")).to_numpy(dtype=bool)


def serving_statistics(predicted: pd.DataFrame, by: tuple[str, ...] = ("software",)) -> pd.DataFrame:
    """How good predictions are, a row a combination of ``by`` columns and one for all: MAPE, median and P90 of the
    absolute error, bias and coverage of TPOT and TTFT; fractions."""
    by = tuple(column for column in by if column in predicted)
    parts = [(dict.fromkeys(by, "all"), predicted)]
    if by:
        grouped = predicted.groupby(list(by), sort=True, dropna=False)
        parts = [(dict(zip(by, values, strict=True)), part) for values, part in grouped] + parts
    return pd.DataFrame([labels | _statistics(part) for labels, part in parts])


def _statistics(part: pd.DataFrame) -> dict[str, float]:
    found: dict[str, float] = {"rows": len(part), "refused": int((part["reason"] != "").sum())}
    for name, judged in (("tpot", np.ones(len(part), dtype=bool)), ("ttft", scored(part))):
        if f"{name}_s" not in part:
            continue
        measured, guess = part[f"{name}_s"], part[f"predicted_{name}_s"]
        known = part[judged & np.isfinite(measured) & np.isfinite(guess)]
        if known.empty:
            continue
        error = known[f"predicted_{name}_s"] / known[f"{name}_s"] - 1
        inside = (known[f"{name}_low_s"] <= known[f"{name}_s"]) & (known[f"{name}_s"] <= known[f"{name}_high_s"])
        found |= {
            f"{name}_mape": float(error.abs().mean()),
            f"{name}_median": float(error.abs().median()),
            f"{name}_p90": float(error.abs().quantile(0.9)),
            f"{name}_bias": float(error.median()),
            f"{name}_coverage": float(inside.mean()),
        }
    return found


def throughput_per_gpu(table: pd.DataFrame, prefix: str = "") -> pd.Series:
    """Output tokens/s/GPU of a closed loop: concurrency · out / (TTFT + (out − 1)·TPOT) / GPUs."""
    seconds = table[f"{prefix}ttft_s"] + (table["output_len"] - 1) * table[f"{prefix}tpot_s"]
    return table["concurrency"] * table["output_len"] / seconds / table["gpus"]


def chosen_by_prediction(predicted: pd.DataFrame) -> pd.DataFrame:
    """Is choosing by prediction safe? For each model, lengths and concurrency with several configurations: the measured
    throughput per GPU of the one predicted best, as a share of the best measured one."""
    known = predicted[np.isfinite(predicted["predicted_tpot_s"]) & np.isfinite(predicted["tpot_s"])].copy()
    known["measured"] = throughput_per_gpu(known)
    known["predicted"] = throughput_per_gpu(known, "predicted_")
    rows = []
    keys = ["model", "input_len", "output_len", "concurrency"]
    for values, part in known.groupby(keys):
        if len(part) < 2:
            continue
        best = part.loc[part["predicted"].idxmax()]
        share = best["measured"] / part["measured"].max()
        rows.append(dict(zip(keys, values, strict=True)) | {"configurations": len(part), "share_of_best": float(share)})
    return pd.DataFrame(rows, columns=[*keys, "configurations", "share_of_best"])
