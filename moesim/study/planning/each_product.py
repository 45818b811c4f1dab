"""The cheapest way on each product alone: what the search over all of them leaves out as too dear."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from moesim.spec.hardware.profile import load_profile
from moesim.spec.model.file import load_model
from moesim.study.planning.plan import PlanResult, candidate_table
from moesim.study.planning.search import mean_lengths, search


def cheapest_on_each(
    result: PlanResult, *, jobs: int = 1, progress: Callable[[str, int, int], None] | None = None
) -> pd.DataFrame:
    """One row a product, in the order of the plan's search: the columns of `candidate_table`, product and closest.

    closest: what comes nearest on a product on which nothing meets the objectives, and what it misses; "" elsewhere.
    Each product but the recommended one is searched again, alone, so that the dearer ones get their own best.
    """
    plan, file, lengths = result.plan, result.document.file, mean_lengths(result.plan)
    model, rows = load_model(plan.model, beside=file), []
    names = list(dict.fromkeys(space.hardware for space in plan.search))
    best = result.candidates.iloc[0] if result.found else None
    for number, name in enumerate(names):
        if progress is not None:
            progress(f"plans on {name}", number, len(names))
        hardware = load_profile(name, beside=file)
        if best is not None and best["hardware"] == hardware.name:
            rows.append(best.to_dict() | {"product": hardware.title, "closest": ""})
            continue
        spaces = tuple(space for space in plan.search if space.hardware == name)
        alone = plan.model_copy(update={"search": spaces, "runners_up": 1})
        found = search(alone, model, {name: hardware}, file, jobs=jobs)
        row: dict[str, object] = {"product": hardware.title, "closest": ""}
        if found.meeting():
            row |= candidate_table(alone, {name: hardware}, found, lengths).iloc[0].to_dict()
        elif closest := found.closest():
            row["closest"] = f"{closest.candidate.label()}: {closest.binds}"
        else:
            row["closest"] = "nothing could be served"
        rows.append(row)
    if progress is not None:
        progress("plans on each product", len(names), len(names))
    return pd.DataFrame(rows)
