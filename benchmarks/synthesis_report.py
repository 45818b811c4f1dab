"""How well synthetic traces imitate real ones: moments wanted and reached, as Markdown.

    python benchmarks/synthesis_report.py LOG [LOG ...] > reports/synthesis.md

LOG: routing logs that ``moesim import-trace`` reads. Those with tokens are imitated by the fitted latent-factor model,
those with counts by ``bootstrap`` and by a lognormal with clusters. The committed report was made from per-token logs
of DeepSeek-V2-Lite on four tasks (deepseek-ai/ESFT) and counts of DeepSeek-R1 under twelve workloads (SGLang); neither
is part of this project.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moesim.routing import synthesis
from moesim.routing.health import LAGS, Moments, load_moments, moments
from moesim.routing.importers import import_routes
from moesim.routing.latent import Geometry
from moesim.routing.load import LoadTable, expert_load
from moesim.routing.trace import RouterTrace

DEEPSEEK_V3 = Geometry(layers=58, experts=256, top_k=8, groups=8, kept_groups=4)
GROUPS = 8  # of DeepSeek-R1; counts do not tell
TOP_K = 8


TRACE_COLUMNS = ("trace", "max/mean", "Gini", "EP8", *(f"lag {lag}" for lag in LAGS), "hit", "popularity", "CPU s")
COUNT_COLUMNS = ("counts", "EP8", "EP32", "EP64", "EP128", "max/mean", "Gini")
INTRODUCTION = """# Synthetic traces against real ones

Made by `python benchmarks/synthesis_report.py LOG …`, which names the logs. Moments are means over layers.

## Fitted latent-factor model

As many tokens as the real trace; hit: share of the next layer's choices foretold, popularity: by popularity alone.
"Moved" is fitted to the same moments with the routers of DeepSeek-V3: 58 layers, 256 experts, top-8, 4 of 8 groups;
popularity and EP8 are then another model's.
"""
COUNTS = """
## Loads

Each cell is real / `bootstrap` / `lognormal` with clusters, on 8,192 tokens. The lognormal is fitted to EP8, EP32,
max/mean and Gini; EP64 and EP128 are not fitted.
"""


def traces_table(traces: list[RouterTrace]) -> list[str]:
    """Rows of real, fitted and moved moments."""
    lines = _head(TRACE_COLUMNS)
    for trace in traces:
        lines.append(_row(trace.name, moments(trace), ""))
        for name, geometry in (("fitted", Geometry(trace.layers, trace.experts, trace.top_k)), ("moved", DEEPSEEK_V3)):
            began = time.process_time()
            made = synthesis.fitted(geometry, source=trace, rng=np.random.default_rng(0))
            lines.append(_row(f"… {name}", moments(made), f"{time.process_time() - began:.1f}"))
    return lines


def counts_table(tables: list[LoadTable]) -> list[str]:
    """Real, bootstrapped and lognormal loads, a row a table."""
    lines = _head(COUNT_COLUMNS)
    for table in tables:
        table = dataclasses.replace(table, top_k=TOP_K, groups=GROUPS)
        geometry = Geometry(*table.load.shape, TOP_K, GROUPS)
        options = synthesis.fit_lognormal(table, np.random.default_rng(0))
        made = (
            synthesis.bootstrap(geometry, table=table, rng=np.random.default_rng(0)),
            synthesis.lognormal(geometry, like=table, rng=np.random.default_rng(0), **options),
        )
        seen = [load_moments(load, GROUPS) for load in (table.load, *map(expert_load, made))]
        columns = [[each.hottest_rank[ranks] for each in seen] for ranks in (8, 32, 64, 128)]
        columns += [[each.max_over_mean for each in seen], [each.gini for each in seen]]
        cells = (" / ".join(f"{value:.2f}" for value in column) for column in columns)
        lines.append(f"| {table.name} | {' | '.join(cells)} |")
    return lines


def _head(columns: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]


def _row(name: str, seen: Moments, cost: str) -> str:
    values = [f"{seen.max_over_mean:.2f}", f"{seen.gini:.3f}", f"{seen.hottest_rank[8]:.2f}"]
    values += [f"{value:.3f}" for value in seen.autocorrelation.values()]
    values += [f"{seen.next_layer_hit:.3f}", f"{seen.next_layer_popularity:.3f}", cost]
    return f"| {name} | {' | '.join(values)} |"


def main(paths: list[str]) -> None:
    """Print the report of these logs."""
    read = [import_routes(Path(path)) for path in paths]
    print(INTRODUCTION)
    print("\n".join(traces_table([each for each in read if isinstance(each, RouterTrace)])))
    print(COUNTS)
    print("\n".join(counts_table([each for each in read if isinstance(each, LoadTable)])))


if __name__ == "__main__":
    main(sys.argv[1:])
