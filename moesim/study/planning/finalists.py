"""Finalists of a plan served again with steps through the engine: overlap, replicas of experts and the real trace."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd

from moesim.errors import Infeasible, InvalidInput
from moesim.model.architecture import MoEModel
from moesim.spec.loading import Document
from moesim.spec.plan_file import Plan
from moesim.spec.serving_constants import load_fitted
from moesim.spec.serving_scenario import serving_assembly
from moesim.study.planning.candidates import Candidate
from moesim.study.planning.serve_candidate import Bench, Evaluation, scenario_data
from moesim.study.serve import build_fleet

_WINDOWS = 4  # of the trace a batch size: half of a plan's interval comes from elsewhere


def simulate_finalist(plan: Plan, model: MoEModel, evaluation: Evaluation, file: str) -> pd.DataFrame:
    """One row an overlap and number of spare slots: label, overlap, spare_slots, ttft_s and tpot_s at the percentile,
    meets. Steps are simulated on the network with routing from the plan's trace; servers are as many as planned.

    A disaggregated plan is looked at without its prefill pool's own steps: those stay priced by the stack's tables.
    """
    space = plan.search[evaluation.candidate.layout.space]
    rows = []
    for overlap, spare in itertools.product(dict.fromkeys(space.overlap), dict.fromkeys(space.spare_slots)):
        layout = replace(evaluation.candidate.layout, spare_slots=spare)
        row = {"label": evaluation.candidate.label(), "overlap": overlap, "spare_slots": spare}
        try:
            look = _bench(plan, model, replace(evaluation.candidate, layout=layout), overlap, file).look(
                plan.load.rate / evaluation.servers
            )
        except (InvalidInput, Infeasible) as error:
            rows.append(row | {"ttft_s": np.nan, "tpot_s": np.nan, "meets": False, "note": str(error)})
            continue
        good = look.ttft_s <= plan.slo.ttft and look.tpot_s <= plan.slo.tpot
        rows.append(row | {"ttft_s": look.ttft_s, "tpot_s": look.tpot_s, "meets": good, "note": ""})
    return pd.DataFrame(rows)


def _bench(plan: Plan, model: MoEModel, candidate: Candidate, overlap: str, file: str) -> Bench:
    data = scenario_data(plan, model, candidate.layout, candidate.max_sequences)
    data |= {"overlap": {"kind": overlap}, "steps": {"kind": "simulated", "windows": _WINDOWS}}
    served = serving_assembly(Document(file, data, {}, {}))
    gaps = np.random.default_rng((plan.seed, 5)).exponential(size=len(served.requests))
    return Bench(build_fleet(served, load_fitted()), served.requests, gaps, plan)
