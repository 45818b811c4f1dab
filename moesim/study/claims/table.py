"""Decided claims as plain data: lines, columns and JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence

import moesim
from moesim.study.claims.verdict import VERDICTS, Decided
from moesim.study.claims.words import amount, claimed, span, told
from moesim.study.results.record import SCHEMA_VERSION, rounded


def counts(decided: Sequence[Decided]) -> dict[str, int]:
    """Number of claims by verdict, each verdict named."""
    return {verdict: sum(each.verdict == verdict for each in decided) for verdict in VERDICTS}


def figures_of(decided: Decided) -> list[str]:
    """One line a figure: what was found over the grid, and what the claim says of it."""
    lines = []
    for key, (figure, _) in decided.claim.figures.items():
        said = f" (claimed: {claimed(figure)})" if figure.decides else ""
        lines.append(f"{label(key, figure)}: {span([row[key] for row in decided.rows], figure.unit)}{said}")
    return lines


def columns_of(decided: Decided) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of a claim's grid: variables, then figures."""
    figures = decided.claim.figures
    header = [*decided.claim.steps, *(label(key, figure) for key, (figure, _) in figures.items())]
    rows = [
        [
            *(amount(row[name]) for name in decided.claim.steps),
            *(told(row[key], figure.unit) for key, (figure, _) in figures.items()),
        ]
        for row in decided.rows
    ]
    return header, rows


def label(key: str, figure: object) -> str:
    """A figure's name in words."""
    return figure.label or key.replace("_", " ")


def claims_json(decided: Sequence[Decided]) -> dict[str, object]:
    """What ``--json`` prints."""
    return rounded(
        {
            "schema_version": SCHEMA_VERSION,
            "moesim_version": moesim.__version__,
            "verdicts": counts(decided),
            "claims": [_claim(each) for each in decided],
        }
    )


def _claim(decided: Decided) -> dict[str, object]:
    claim = decided.claim
    return {
        "id": claim.id,
        "says": claim.says,
        "verdict": decided.verdict,
        "when": decided.when,
        "reason": decided.reason,
        "note": claim.note,
        "figures": {
            key: {
                "unit": figure.unit,
                "formula": figure.formula,
                "claimed_least": figure.least,
                "claimed_most": figure.most,
                "values": [None if math.isnan(row[key]) else row[key] for row in decided.rows],
            }
            for key, (figure, _) in claim.figures.items()
        },
        "over": {name: [row[name] for row in decided.rows] for name in claim.steps},
    }
