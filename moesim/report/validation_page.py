"""The validation page: how good the cost models of kernels are, as Markdown with figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from moesim.files import write_text
from moesim.hardware.device import Hardware
from moesim.report.figures.validation import draw_predicted_against_measured, draw_residuals_by_size
from moesim.study.validation.kernels.evidence import errors, judged
from moesim.study.validation.kernels.published import published_kernels

# Devices of one generation, each measured: what one predicts of the other stands for hardware that nobody measured.
SIBLINGS = {"h100": "h200", "h200": "h100", "b200": "gb200_nvl72", "gb200_nvl72": "b200"}
# Part of the evidence -> (its rows, highest median and P90 error allowed with whole shapes held out)
_PARTS: dict[str, tuple[Callable[[pd.DataFrame], pd.Series], float, float]] = {
    "gemm": (lambda rows: rows["family"] == "gemm", 0.05, 0.17),
    "moe, balanced": (lambda rows: (rows["family"] == "experts") & (rows["distribution"] == "balanced"), 0.07, 0.24),
    "moe, power law": (lambda rows: (rows["family"] == "experts") & (rows["distribution"] != "balanced"), 0.08, 0.26),
    "attention": (lambda rows: rows["family"].str.startswith("attention"), 0.07, 0.23),
    "mla": (lambda rows: rows["family"].str.startswith("mla"), 0.05, 0.20),
    "collective": (lambda rows: rows["family"] == "collective", 0.07, 0.26),
    "all-to-all": (lambda rows: rows["family"] == "exchange", 0.06, 0.19),
}
_SIBLING_TARGET = (0.09, 0.28)
_SIZE = {
    "gemm": "m", "experts": "num_tokens", "attention_decode": "step", "attention_prefill": "isl", "mla_decode": "step",
    "mla_prefill": "isl", "collective": "message_elements", "exchange": "tokens_per_rank",
}  # fmt: skip

_INTRODUCTION = """\
# How good the cost models of kernels are

Kernel and collective times were measured by NVIDIA and published with AIConfigurator 0.12.0 (Apache-2.0). Errors are
|predicted / measured - 1|.

**Held-out shapes**: five folds; whole shapes (gemm: n and k; experts: hidden, inner width, experts, top-k; attention:
heads, KV heads, head dimension; latent attention: heads) are left out together, never single rows, and all parameters
*and* all discrete choices of a kernel are fitted anew in each fold, from generic starting values. The forms of the
equations were chosen while looking at the same tables; no untouched test set exists. A kernel measured at one shape
only cannot be held out and is listed apart.
"""


def write_validation(
    evidence: pd.DataFrame,
    figures: list[Mapping[str, object]],
    lookup: Callable[[str], Hardware],
    folder: str | Path,
) -> Path:
    """Write ``validation.md`` and its figures into a folder; returns the page.

    evidence: `Calibration.rows` of all tables and hardware, one after another. figures: published figures, as
    `moesim.study.validation.kernels.published` reads them, may be empty. lookup: profiles by name.
    """
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    rows = judged(evidence, lookup, SIBLINGS)
    rows = rows if "distribution" in rows else rows.assign(distribution="")  # only tables of experts have it
    sections = [
        _INTRODUCTION,
        "## Held-out shapes\n\n" + _held_out(rows),
        "## By hardware and software\n\n" + _by_stack(rows),
        _BORROWED + _borrowed(rows),
        _DEFAULTS + _table([{"table": n} | _percent(p, "default") for n, p in _parts(rows)]),
        "## Physical floors\n\n" + _floors(rows),
        "## Kernels measured at one shape\n\n" + _single_shapes(rows),
    ]
    if figures:
        sections.append(_PUBLISHED + _published(figures, lookup))
    sections.append("## Figures\n\nHeld-out predictions.\n\n" + _pictures(rows, folder))
    page = folder / "validation.md"
    write_text(page, "\n".join(section.rstrip("\n") + "\n" for section in sections))
    return page


_BORROWED = """\
## Hardware left out, borrowed from its sibling

All parameters come from the sibling (H100 and H200, B200 and GB200, both directions); only datasheet numbers change,
and the host: what one eager operator takes is the profile's own (`host.launch`), which the floors of host-launched
kernels on all four, these among them, were fitted to together. Target: median 9 %, P90 28 %. Kernels that the sibling
does not have are left out.

"""
_DEFAULTS = """\
## Without any calibration

What a profile with `calibration: none` gets: stated defaults and the datasheet.

"""
_PUBLISHED = """\
## Published kernel figures

Figures of vendors and authors, each in its own software, without the activation quantisation that our tables include;
predicted with the nearest measured kernel.

"""


def _parts(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    found = [(name, rows[which(rows)]) for name, (which, _, _) in _PARTS.items()]
    return [(name, part) for name, part in found if len(part)]


def _percent(rows: pd.DataFrame, way: str) -> dict[str, object]:
    """Errors of one way of predicting in percent; way: ``held_out``, ``sibling`` or ``default``."""
    low, high = ("low_s", "high_s") if way == "held_out" else (f"{way}_low_s", f"{way}_high_s")
    found = errors(rows, f"{way}_s", low, high)
    if not found["rows"]:
        return {"rows": 0}
    share = {name: f"{100 * found[name]:.1f}" for name in ("median", "p90", "mape")}
    names = {"median": "median %", "p90": "P90 %", "mape": "mean %"}
    return {"rows": f"{found['rows']:,}"} | {names[n]: value for n, value in share.items()} | {
        "coverage of 80 % intervals": f"{100 * found['coverage']:.0f} %", "high / low": f"{found['width']:.2f}",
    }  # fmt: skip


def _held_out(rows: pd.DataFrame) -> str:
    lines = []
    for name, part in _parts(rows):
        _, median, p90 = _PARTS[name]
        found = errors(part, "held_out_s", "low_s", "high_s")
        target = "-" if np.isnan(median) else f"{100 * median:.0f} / {100 * p90:.0f}"
        met = "-" if np.isnan(median) else "yes" if found["median"] <= median and found["p90"] <= p90 else "**no**"
        lines.append({"table": name} | _percent(part, "held_out") | {"target median / P90": target, "met": met})
    return _table(lines)


def _by_stack(rows: pd.DataFrame) -> str:
    return _table([
        {"table": name, "hardware": hardware, "software": software} | _percent(some, "held_out")
        for name, part in _parts(rows)
        for (hardware, software), some in part.groupby(["hardware", "software"])
        if np.isfinite(some["held_out_s"]).any()
    ])  # fmt: skip


def _borrowed(rows: pd.DataFrame) -> str:
    lines = []
    for name, part in _parts(rows):
        found = errors(part, "sibling_s", "sibling_low_s", "sibling_high_s")
        met = bool(found["rows"]) and all(
            found[key] <= limit for key, limit in zip(("median", "p90"), _SIBLING_TARGET, strict=True)
        )
        lines.append({"table": name} | _percent(part, "sibling") | {"met": "yes" if met else "**no**"})
    return _table(lines)


def _floors(rows: pd.DataFrame) -> str:
    lines = []
    for name, part in _parts(rows):
        beaten = part["latency_s"] < part["floor_s"]
        below = (part["held_out_s"] < part["floor_s"] * (1 - 1e-9)) | (part["after_s"] < part["floor_s"] * (1 - 1e-9))
        most = (part["floor_s"] / part["latency_s"]).max()
        lines.append({
            "table": name, "rows": f"{len(part):,}", "measured rows that beat the floor": int(beaten.sum()),
            "by at most": f"{most:.2f}x" if beaten.any() else "-", "predictions below the floor": int(below.sum()),
        })  # fmt: skip
    return (
        "The floor of a row is the larger of its bytes over datasheet bandwidth and its FLOPs over datasheet peak. "
        "Measured rows below it ran from the cache, or did less work than the table says.\n\n" + _table(lines)
    )


def _single_shapes(rows: pd.DataFrame) -> str:
    alone = rows[~np.isfinite(rows["held_out_s"])]
    if alone.empty:
        return "None."
    known = [c for c in ("family", "hardware", "software", "kernel", "dtype") if c in alone]
    lines = []
    for key, part in alone.groupby(known, dropna=False):
        error = np.abs(part["after_s"] / part["latency_s"] - 1)
        fitted = {"rows": len(part), "fitted median %": f"{100 * error.median():.1f}"}
        lines.append(dict(zip(known, key, strict=True)) | fitted | {"P90 %": f"{100 * error.quantile(0.9):.1f}"})
    return "In sample, since nothing can be held out.\n\n" + _table(lines)


def _published(figures: list[Mapping[str, object]], lookup: Callable[[str], Hardware]) -> str:
    found = published_kernels(figures, lookup)
    found = found[found["reason"] == ""]
    ratio = found["predicted_s"] / found["published_s"]
    inside = ((found["low_s"] <= found["published_s"]) & (found["published_s"] <= found["high_s"])).mean()
    summary = (
        f"{len(found)} figures: median error {100 * (ratio - 1).abs().median():.0f} %, {100 * inside:.0f} % inside"
    )
    lines = [
        {
            "figure": row.what, "hardware": row.hardware, "published µs": f"{row.published_s * 1e6:.1f}",
            "predicted µs": f"{row.predicted_s * 1e6:.1f} ({row.low_s * 1e6:.1f}-{row.high_s * 1e6:.1f})",
            "ratio": f"{row.predicted_s / row.published_s:.2f}", "source": row.source,
        }
        for row in found.itertuples()
    ]  # fmt: skip
    return f"{summary} their interval.\n\n" + _table(lines)


def _pictures(rows: pd.DataFrame, folder: Path) -> str:
    lines = []
    for family, part in rows.groupby("family", sort=True):
        if not np.isfinite(part["held_out_s"]).any():
            continue
        for name, draw in (("scatter", draw_predicted_against_measured), ("residuals", draw_residuals_by_size)):
            path = folder / "figures" / f"{family}_{name}.png"
            options = {"predicted": "held_out_s", "title": str(family).replace("_", " ")}
            draw(part, *((_SIZE[family],) if name == "residuals" else ()), path, **options)
            lines.append(f"![{family}, {name}](figures/{path.name})")
    return "\n".join(lines)


def _table(lines: list[dict[str, object]]) -> str:
    """A Markdown table; columns in order of first appearance."""
    columns = list(dict.fromkeys(column for line in lines for column in line))
    head = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return "\n".join(head + [f"| {' | '.join(str(line.get(c, '-')) for c in columns)} |" for line in lines]) + "\n"
