"""Estimate the effects of known groups (`moesim.serving.effects`) from what physics leaves unexplained.

A ridge regression of log errors: each term is drawn towards zero with the standard deviation that such terms have, so
that a group with few runs keeps little. Losses grow linearly beyond the usual scatter of a run, as in the fit of the
constants: odd runs do not bend a group.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from moesim.serving.effects import FEATURES, Effects, features, group_name, image_name, slope_name
from moesim.study.validation.serving.rows import stack_of

LEVEL_SPREAD = 0.1  # standard deviation (log) of a group, and of an image about its group
SLOPE_SPREAD = 0.06  # of a slope, per scale of its feature
_SCATTER = (0.15, 0.07)  # of one run about its group: TTFT, TPOT
_ROUNDS = 5


def fit_effects(table: pd.DataFrame, ttft: np.ndarray, tpot: np.ndarray) -> Effects:
    """Effects of the groups of a table. ttft, tpot: [row] predicted over measured, minus 1; NaN where not scored."""
    keys = row_keys(table)
    levels = [_indicator(keys["group"]), _indicator(keys["image"])]
    slopes, load = _indicator(keys["slope"]), row_features(table)
    columns = [columns for _, columns in levels] + [slopes[1] * load[:, [i]] for i in range(len(FEATURES))]
    spread = [LEVEL_SPREAD] * len(levels) + [SLOPE_SPREAD] * len(FEATURES)
    penalty = np.concatenate([np.full(c.shape[1], s**-2.0) for c, s in zip(columns, spread, strict=True)])
    design = np.hstack(columns)
    found = np.stack(
        [_shrunk(design, penalty, -np.log1p(e), s) for e, s in zip((ttft, tpot), _SCATTER, strict=True)], axis=1
    )
    groups, images, *rest = np.split(found, np.cumsum([c.shape[1] for c in columns])[:-1])
    by_name = np.stack(rest, axis=2)  # [name, TTFT or TPOT, feature]
    return Effects(
        {name: tuple(map(float, u)) for name, u in zip(levels[0][0], groups, strict=True)},
        {name: tuple(map(float, u)) for name, u in zip(levels[1][0], images, strict=True)},
        {name: tuple(tuple(map(float, f)) for f in v) for name, v in zip(slopes[0], by_name, strict=True)},
    )


def row_keys(table: pd.DataFrame) -> pd.DataFrame:
    """[row] names of group, image and slope; the image's is empty where none is recorded."""
    stack = table["software"].map(stack_of)
    image = table["image"].fillna("") if "image" in table else pd.Series("", index=table.index)
    named = [*zip(stack, table["model"], table["hardware"], table["precision"], image, strict=True)]
    groups = [group_name(*names) for *names, _ in named]
    images = [image_name(group, str(name)) for group, (*_, name) in zip(groups, named, strict=True)]
    return pd.DataFrame({"group": groups, "image": images, "slope": [slope_name(n[0], n[1]) for n in named]})


def row_features(table: pd.DataFrame) -> np.ndarray:
    """[row, FEATURES]"""
    return features(*(table[name].to_numpy(dtype=float) for name in FEATURES))


def row_factors(effects: Effects, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(TTFT, TPOT) factors [row] on predictions of a table."""
    stack = table["software"].map(stack_of)
    image = table["image"].fillna("") if "image" in table else pd.Series("", index=table.index)
    rows = zip(stack, table["model"], table["hardware"], table["precision"], image, row_features(table), strict=True)
    ttft, tpot = np.array([effects.factors(*row) for row in rows]).reshape(-1, 2).T
    return ttft, tpot


def _indicator(names: pd.Series) -> tuple[list[str], np.ndarray]:
    """(different names, [row, name] 1 where a row has it); rows without a name have none."""
    code, found = pd.factorize(names.where(names != ""))
    return list(found), (code[:, None] == np.arange(len(found))).astype(float)


def _shrunk(design: np.ndarray, penalty: np.ndarray, target: np.ndarray, scatter: float) -> np.ndarray:
    """Coefficients under the soft-L1 loss, by reweighted ridge regressions; rows whose target is NaN do not count."""
    known = np.isfinite(target)
    design, target = design[known], target[known]
    found = np.zeros(design.shape[1])
    for _ in range(_ROUNDS):
        weight = 1 / np.sqrt(1 + ((target - design @ found) / scatter) ** 2)
        weighted = (design * weight[:, None]).T / scatter**2
        found = np.linalg.solve(weighted @ design + np.diag(penalty), weighted @ target)
    return found
