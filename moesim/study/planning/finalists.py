"""Finalists of a plan through the engine: the decode step that users met, under every overlap and number of replicas.

The search prices steps by kernel tables, which know no overlap, with the fewest spare slots. Here the typical decode
step of a finalist (its mean batch, its mean context) is simulated whole, on the network graph, with routing from the
plan's own trace.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd

from moesim.errors import Infeasible, InvalidInput
from moesim.model.architecture import MoEModel
from moesim.spec.assembly.step import assemble
from moesim.spec.reading.loading import Document
from moesim.spec.studies.plan_file import Plan
from moesim.study.planning.bench import scenario_data
from moesim.study.planning.bounds import Lengths
from moesim.study.planning.serve_candidate import Evaluation
from moesim.study.step.run import run_assembly

_STEP_KEYS = ("model", "cluster", "parallelism", "precision", "routing", "placement", "overlap", "network", "seed")


def simulate_finalist(plan: Plan, model: MoEModel, evaluation: Evaluation, lengths: Lengths, file: str) -> pd.DataFrame:
    """One row an overlap and number of spare slots: label, overlap, spare_slots, step_s, gain (of the step over the
    first row), hottest_rank_over_mean (mean layer), note (why it could not run, or "")."""
    space = plan.search[evaluation.candidate.layout.space]
    rows: list[dict[str, object]] = []
    for overlap, spare in itertools.product(dict.fromkeys(space.overlap), dict.fromkeys(space.spare_slots)):
        row = {"label": evaluation.candidate.label(), "overlap": overlap, "spare_slots": spare}
        nothing = {"step_s": np.nan, "gain": np.nan, "hottest_rank_over_mean": np.nan}
        try:
            metrics = _step(plan, model, evaluation, overlap, spare, lengths, file)
        except (InvalidInput, Infeasible) as error:
            rows.append(row | nothing | {"note": str(error)})
            continue
        seconds, hottest = metrics["step_time_s"], metrics["hottest_rank"]
        first = next((found["step_s"] for found in rows if not found["note"]), seconds)
        uneven = hottest["per_layer_over_mean"] if hottest else 1.0
        row |= {"step_s": seconds, "gain": first / seconds - 1, "hottest_rank_over_mean": uneven, "note": ""}
        rows.append(row)
    return pd.DataFrame(rows)


def _step(
    plan: Plan, model: MoEModel, evaluation: Evaluation, overlap: str, spare: int, lengths: Lengths, file: str
) -> dict[str, object]:
    layout = replace(evaluation.candidate.layout, spare_slots=spare)
    scenario = scenario_data(plan, model, layout)
    context = round(lengths.input + lengths.output / 2)
    workload = {"kind": "decode", "sequences_per_rank": max(1, evaluation.look.typical), "context": context}
    data = {key: scenario[key] for key in _STEP_KEYS} | {"overlap": {"kind": overlap}, "workload": workload}
    document = Document(file, data, {}, {})
    return run_assembly(document, assemble(document)).metrics
