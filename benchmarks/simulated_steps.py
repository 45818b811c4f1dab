"""Fit what simulated steps of serving take of their kernels' time (`moesim.serving.simulated.Factors`), two factors a
stack, to measured runs, and write them with intervals and held-out errors to moesim/serving/constants.yaml.

python benchmarks/simulated_steps.py TABLE     # of serving runs with measured ttft_s and tpot_s; 20 minutes on one core

A closed loop runs the same steps however long they take (`moesim.study.validation.serving.runs`), so that TTFT and TPOT
are nearly linear in both factors: three simulations of a run tell all others.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.optimize import least_squares

from moesim.network.fidelity import FIDELITIES
from moesim.routing import synthesis
from moesim.routing.latent import Geometry
from moesim.routing.replay import Routes, replay
from moesim.serving.fleet import Fleet, Frontend, Pool
from moesim.serving.loads import REALISTIC_SIGMA
from moesim.serving.memory import kv_capacity
from moesim.serving.simulate import simulate
from moesim.serving.simulated import Factors, SimulatedSteps
from moesim.serving.stack import Constants, kernel_counts
from moesim.spec.serving.constants import SHIPPED, FittedSimulation, fitted_text, load_fitted
from moesim.study.validation.serving.judge import interval
from moesim.study.validation.serving.rows import ServingRow, deployment, load, policy, read_row, stack_of
from moesim.workload.deployment import Deployment
from moesim.workload.overlap import OVERLAPS

WINDOWS, TOKENS = 2, 2048  # of a batch size; of routing
FIGURES = ("ttft", "tpot")
_TRIED = (Factors(1.0, 1.0), Factors(0.7, 1.0), Factors(1.0, 0.7))


def main(path: str) -> None:
    table = pd.read_parquet(path)
    rows = [read_row(record) for record in table.to_dict("records")]
    table = table.assign(stack=table["software"].map(stack_of))
    fitted = load_fitted()
    chosen, responses = [], []
    for members in _by_configuration(rows):
        constants = fitted.stacks[stack_of(rows[members[0]].configuration.software)]
        found = _responses([rows[i] for i in members], constants)
        print(f"{rows[members[0]].configuration}: {len(members)} runs", flush=True)
        chosen += members
        responses += found
    runs = table.iloc[chosen].reset_index(drop=True)
    response = np.array(responses)  # [run, figure, tried]
    measured = runs[["ttft_s", "tpot_s"]].to_numpy(dtype=float, copy=True)
    cold = (runs["stack"] == "sglang") & (runs["warmed_up"] == False)  # noqa: E712  (missing is neither)
    measured[cold.to_numpy(), 0] = np.nan
    write(runs, response, measured)


def write(runs: pd.DataFrame, response: np.ndarray, measured: np.ndarray) -> None:
    """Fit, hold out, and write."""
    everything = np.zeros(len(runs))
    stated, held = {}, []
    for name, fold in (
        ("in sample", everything),
        ("unseen model", runs["model"]),
        ("unseen hardware", runs["hardware"]),
    ):
        error = np.full(measured.shape, np.nan)
        for group in pd.unique(fold):
            out = np.asarray(fold == group)
            kept = ~out if name != "in sample" else out
            for stack in runs["stack"].unique():
                of = (runs["stack"] == stack).to_numpy()
                # A stack without other runs takes the factors of all of them.
                known = kept & of if (kept & of).any() else kept
                at = of & out
                error[at] = predicted(response[at], fit(response[known], measured[known])) / measured[at] - 1
        stated[name] = summary(error)
        print(name, stated[name])
        if name != "in sample":
            held.append(error)
    factors = {}
    for stack in load_fitted().stacks:
        of = (runs["stack"] == stack).to_numpy()
        factors[stack] = fit(response[of], measured[of])
    intervals = [interval([error[:, figure] for error in held]) for figure in range(2)]
    simulated = FittedSimulation(factors, *intervals, stated)
    SHIPPED.write_text(fitted_text(replace(load_fitted(), simulated=simulated)), encoding="utf-8")


def fit(response: np.ndarray, measured: np.ndarray) -> Factors:
    """Least |ln| errors, softened, with factors held near one where runs say little."""

    def misses(x: np.ndarray) -> np.ndarray:
        error = np.log(predicted(response, Factors(*np.exp(x))) / measured)
        return np.append(error[np.isfinite(error)], x)

    return Factors(*np.exp(least_squares(misses, [0.0, 0.0], loss="soft_l1", f_scale=0.1).x))


def predicted(response: np.ndarray, factors: Factors) -> np.ndarray:
    """[run, figure] seconds, linear between and beyond the factors that were tried."""
    whole, decode, prompts = np.moveaxis(response, 2, 0)
    step = 1 - _TRIED[1].decode
    return whole - (1 - factors.decode) / step * (whole - decode) - (1 - factors.prompts) / step * (whole - prompts)


def summary(error: np.ndarray) -> dict[str, float]:
    found = {}
    for figure, column in zip(FIGURES, np.abs(error).T, strict=True):
        known = column[np.isfinite(column)]
        found |= {f"{figure}_mape": float(known.mean()), f"{figure}_median": float(np.median(known))}
    return found


def _by_configuration(rows: list[ServingRow]) -> list[list[int]]:
    """Rows of each configuration: of up to four lengths and images the smallest, a middle and the largest load."""
    groups: dict[tuple, dict[tuple, list[int]]] = {}
    for i in sorted(range(len(rows)), key=lambda i: (rows[i].input_len, rows[i].output_len, rows[i].concurrency)):
        row = rows[i]
        curves = groups.setdefault(row.configuration, {})
        curves.setdefault((row.input_len, row.output_len, row.image), []).append(i)
    return [
        [curve[i] for curve in list(curves.values())[:4] for i in sorted({0, len(curve) // 2, len(curve) - 1})]
        for curves in groups.values()
    ]


def _responses(rows: list[ServingRow], constants: Constants) -> list[np.ndarray]:
    """[figure, tried] seconds of each run."""
    placed = replace(deployment(rows[0].configuration), fidelity="flow")
    pool, counts = pool_of(placed), kernel_counts(placed)
    first = SimulatedSteps(
        placed, pool, overlap=OVERLAPS["none"], rates=FIDELITIES["flow"].rates, counts=counts,
        constants=constants, factors=_TRIED[0], windows=WINDOWS,
    )  # fmt: skip
    steps = [first.under(factors) for factors in _TRIED]
    slower = [np.exp(constants.ageing * row.age) for row in rows]
    return [
        np.array([served(row, each, constants) for each in steps]).T * slow
        for row, slow in zip(rows, slower, strict=True)
    ]


def pool_of(placed: Deployment) -> Routes | None:
    """The routing that runs without a trace are given."""
    model = placed.model
    if not model.moe_layers:
        return None
    experts = model.layers[model.moe_layers[0]].experts
    geometry = Geometry(len(model.moe_layers), experts.routed, experts.top_k, 1, 1)
    ranks, rng = placed.parallelism.attention_dp, np.random.default_rng(7)
    trace = synthesis.lognormal(geometry, sigma=REALISTIC_SIGMA, rng=rng, tokens=TOKENS)
    return replay(
        trace, moe_layers=geometry.layers, experts=experts.routed, top_k=experts.top_k, ranks=ranks,
        tokens_per_rank=TOKENS // ranks, phase="decode", rng=rng,
    )  # fmt: skip


def served(row: ServingRow, steps: SimulatedSteps, constants: Constants) -> tuple[float, float]:
    """Mean TTFT and TPOT in seconds."""
    placed, rules, requests = steps.deployment, policy(row), load(row)
    capacity = kv_capacity(placed, rules, row.input_len + row.output_len // 2)
    pool = Pool(rules, steps, capacity, placed.parallelism.attention_dp)
    fleet = Fleet(pool, frontend=Frontend(constants.frontend_fixed, constants.frontend_request))
    outcome = simulate(requests, fleet, rng=np.random.default_rng(0), journal_rows=1000).outcome
    return float(np.nanmean(outcome.ttft_s())), float(np.nanmean(outcome.tpot_s(requests.output_len)))


if __name__ == "__main__":
    main(sys.argv[1])
