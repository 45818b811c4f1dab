"""Judge fits of serving stacks by whole curves, models and hardware that they have not seen, and hand on the best.

Everything that is fitted is fitted again without the fold: constants, effects of known groups, and intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from moesim.spec.serving.constants import Fitted, load_fitted
from moesim.study.validation.serving.fit import constants_of, errors, fit, predicted, start
from moesim.study.validation.serving.fit_effects import fit_effects
from moesim.study.validation.serving.runs import Runs, build_runs
from moesim.study.validation.serving.scores import chosen_by_prediction

CURVE = ("model", "hardware", "software", "image", "precision", "input_len", "output_len", "gpus", "ep")


def folds(table: pd.DataFrame, by: str) -> np.ndarray:
    """[row] fold number. by: ``curve`` (five folds of whole curves), ``model`` or ``hardware`` (one fold each)."""
    if by != "curve":
        return pd.factorize(table[by])[0]
    names = table[[c for c in CURVE if c in table]].fillna("").astype(str).agg("|".join, axis=1)
    curve = pd.factorize(names)[0]
    order = np.random.default_rng(0).permutation(curve.max() + 1)
    return (order % 5)[curve]


def held_out(runs: Runs, x: np.ndarray, by: str) -> tuple[np.ndarray, np.ndarray]:
    """(TTFT, TPOT) [run] predicted by constants and effects that were fitted without the run's fold."""
    fold = folds(runs.table, by)
    found = np.full((2, fold.size), np.nan)
    for number in np.unique(fold):
        out = fold == number
        rest = runs.subset(~out)
        fitted = fit(rest, x, evaluations=8)
        effects = fit_effects(rest.table, *errors(rest, *predicted(rest, fitted)))
        found[:, out] = predicted(runs.subset(out), fitted, effects)
    return found[0], found[1]


def summary(runs: Runs, ttft: np.ndarray, tpot: np.ndarray, fold: np.ndarray) -> dict[str, float]:
    """MAPE and median of absolute errors, share of runs inside 80 % intervals that the other folds give, and the
    median share of the best throughput that choosing by prediction reaches; fractions."""
    of_ttft, of_tpot = errors(runs, ttft, tpot)
    stated = {}
    for name, error in (("tpot", of_tpot), ("ttft", of_ttft)):
        stated |= {
            f"{name}_mape": float(np.nanmean(np.abs(error))),
            f"{name}_median": float(np.nanmedian(np.abs(error))),
        }
        stated[f"{name}_coverage"] = _coverage(error, fold)
    chosen = chosen_by_prediction(runs.table.assign(predicted_ttft_s=ttft, predicted_tpot_s=tpot))
    stated["choice_median"] = float(chosen["share_of_best"].median())
    return stated


def _coverage(error: np.ndarray, fold: np.ndarray) -> float:
    inside, known = 0, 0
    for number in np.unique(fold):
        out = (fold == number) & np.isfinite(error)
        others = error[fold != number] if (fold != number).any() else error
        low, high = interval([others])
        ratio = 1 / (1 + error[out])
        inside, known = inside + int(((low <= ratio) & (ratio <= high)).sum()), known + int(out.sum())
    return inside / max(known, 1)


def interval(error: Sequence[np.ndarray]) -> tuple[float, float]:
    """Factors (low, high) on a prediction that hold 80 % of the measurements: order statistics of held-out errors."""
    ratios = 1 / (1 + np.concatenate([e[np.isfinite(e)] for e in error]))
    low, high = np.quantile(ratios, [0.1, 0.9])
    return float(min(low, 0.99)), float(max(high, 1.01))


def fit_serving(
    table: pd.DataFrame, *, source: str, date: str, rounds: int = 2, progress: Callable[[int, int], None] | None = None
) -> tuple[Fitted, Runs, np.ndarray]:
    """Constants of every stack and effects of known groups, with the errors on unseen curves, models and hardware.

    Intervals of known groups come from unseen curves, those of others from unseen models and hardware. Also hands back
    the runs and the vector of constants, for study.
    """
    servers: dict = {}
    x = start()
    for _ in range(rounds):
        runs = build_runs(table, servers, constants_of(x), progress)
        x = fit(runs, x)
    effects = fit_effects(runs.table, *errors(runs, *predicted(runs, x)))
    found = {by: held_out(runs, x, by) for by in ("curve", "model", "hardware")}
    stated = {"in sample": summary(runs, *predicted(runs, x, effects), np.zeros(len(runs.table), dtype=int))}
    stated |= {f"unseen {by}": summary(runs, *pair, folds(runs.table, by)) for by, pair in found.items()}
    of = {by: errors(runs, *pair) for by, pair in found.items()}
    known = [interval([of["curve"][i]]) for i in range(2)]
    unknown = [interval([of["model"][i], of["hardware"][i]]) for i in range(2)]
    fitted = Fitted(constants_of(x), effects, *unknown, *known, stated, source, date, load_fitted().simulated)
    return fitted, runs, x
