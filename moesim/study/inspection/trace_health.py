"""Examine one trace or compare several: what ``moesim trace`` prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from moesim.routing import load as loads
from moesim.routing.health import Health, health
from moesim.routing.trace import CHECKED_AT_OPEN_BYTES, check_trace, open_trace
from moesim.routing.verdicts import collapsed_layers, verdicts

SCHEMA_VERSION = 1


def examine(path: str | Path) -> Health:
    """Scan a trace file for faults, then take its health. Raises InvalidInput naming the file."""
    trace = open_trace(path)
    if trace.ids.nbytes > CHECKED_AT_OPEN_BYTES:
        check_trace(trace, str(path))
    return health(trace)


def health_as_json(seen: Health) -> dict[str, object]:
    """One trace as ``moesim trace TRACE --json`` prints it."""
    plain = ("name", "synthetic", "tokens", "layers", "experts", "top_k", "groups", "confidence", "drift")
    return {
        "schema_version": SCHEMA_VERSION,
        **{name: getattr(seen, name) for name in plain},
        "collapsed_layers": collapsed_layers(seen),
        "moments": seen.moments.as_json(),
        "drop_share": {f"{factor:g}": share for factor, share in seen.drops.items()},
        "label_correlation": seen.label_correlation,
        "labels": _labels(seen),
        "per_layer": {
            "max_over_mean": loads.max_over_mean(seen.load).tolist(),
            "gini": loads.gini(seen.load).tolist(),
            "top_share": seen.top_share.tolist(),
            "active": seen.active.tolist(),
            "choices_per_token": seen.choices_per_token.tolist(),
        },
        "verdicts": [dataclasses.asdict(verdict) for verdict in verdicts(seen)],
    }


def comparison(seen: Sequence[Health]) -> pd.DataFrame:
    """One row a trace: its moments in columns, NaN where a trace has none."""
    rows = []
    for each in seen:
        moments = each.moments
        row = {
            "trace": each.name,
            "synthetic": each.synthetic,
            "tokens": each.tokens,
            "layers": each.layers,
            "experts": each.experts,
            "top_k": each.top_k,
            "max_over_mean": moments.max_over_mean,
            "gini": moments.gini,
            "entropy_ratio": moments.entropy_ratio,
            "active": moments.active,
        }
        row |= {f"hottest_of_{ranks}_ranks": ratio for ranks, ratio in moments.hottest_rank.items() if ranks >= 8}
        row |= {f"autocorrelation_{lag}": value for lag, value in (moments.autocorrelation or {}).items()}
        row |= {
            "next_layer_hit": moments.next_layer_hit,
            "next_layer_popularity": moments.next_layer_popularity,
            "drop_share_1.25": each.drops[1.25],
            "drift": each.drift,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def load_correlations(seen: Sequence[Health]) -> pd.DataFrame:
    """Load correlation of every pair of traces [trace, trace], NaN where layers or experts differ."""
    table = np.full((len(seen), len(seen)), np.nan)
    for i, first in enumerate(seen):
        for j, second in enumerate(seen):
            if first.load.shape == second.load.shape:
                table[i, j] = loads.load_correlation(first.load, second.load).mean()
    names = [each.name for each in seen]
    return pd.DataFrame(table, index=names, columns=names)


def comparison_as_json(seen: Sequence[Health]) -> dict[str, object]:
    """Several traces as ``moesim trace A B --json`` prints them."""
    correlations = load_correlations(seen).to_numpy().tolist()
    return {
        "schema_version": SCHEMA_VERSION,
        "traces": [health_as_json(each) for each in seen],
        "load_correlation": [[None if np.isnan(value) else value for value in row] for row in correlations],
    }


def _labels(seen: Health) -> dict[str, object]:
    """Of each label its share of the choices and its own skew, which pooling hides."""
    total = seen.load.sum()
    return {
        label: {
            "share": float(load.sum() / total),
            "max_over_mean": float(loads.max_over_mean(load).mean()),
            "gini": float(loads.gini(load).mean()),
        }
        for label, load in seen.label_load.items()
    }
