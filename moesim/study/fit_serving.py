"""Fit the constants of serving stacks to measured closed-loop runs, and judge the fit on what it has not seen.

In a closed loop the sequence of steps hardly depends on how long they take: who runs beside whom is decided by lengths
and limits. A run is therefore simulated once, its steps kept with two weights each, and mean TTFT and TPOT are sums of
step times under these weights (`moesim.serving.journal`): thousands of constants can be tried in a minute. Runs are
simulated again with the constants found, until both agree.

Few parameters: each has one value for all stacks and, where stacks differ by nature, a deviation a stack that is drawn
towards zero (ridge on log deviations). Loss: soft L1 of log errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd

from moesim.errors import MoesimError
from moesim.serving.fleet import Fleet, Frontend, Pool, simulate
from moesim.serving.memory import kv_capacity
from moesim.serving.policy import PRESETS
from moesim.serving.stack import Constants, Counts, StackSteps, combine
from moesim.spec.serving_constants import Fitted
from moesim.study.serving_rows import ServingRow, age, load, policy, read_row, stack_of
from moesim.study.validate_serving import Server, build_server, scored

STACKS = tuple(PRESETS)
_SHAPE = ("sequences", "total", "context", "prefill_tokens", "prefill_total", "attended", "prompts")
_STEPS_PER_OCTAVE = np.array([2, 2, 0, 1.5, 1.5, 0, 1])  # how finely steps are told apart when runs are condensed
LOSS_SCALE = 0.1  # log error from which the loss grows linearly
TTFT_WEIGHT = 0.4  # repeats of a run differ by 4 % (median) in TTFT and 0.8 % in TPOT
_STEP = 1e-5  # of finite differences in log constants
POOLING = 0.5  # weight of a stack's log deviation against a log error


@dataclass(frozen=True, slots=True)
class Free:
    """A constant to fit: the value around which physics expects it, with what standard deviation (log), and whether
    stacks differ in it."""

    start: float
    spread: float
    by_stack: bool = True


# Expected values. Kernels: below 1 what tables overstate, because graphs launch a kernel while its predecessor ends and
# operands stay in the cache; bytes near datasheet bandwidth, FLOPs at a third of peak; prompts run eagerly and pay
# about twice. kernel: `moesim.cost.launch.KERNEL_S` and a gap; eager: Python and launches of one module's kernels.
PARAMETERS: dict[str, Free] = {
    "dense": Free(0.7, 0.03),
    "expert_bytes": Free(1.0, 0.03),
    "expert_flops": Free(3.0, 0.05),
    "attention": Free(0.8, 0.03, by_stack=False),
    "prefill_attention": Free(0.7, 0.03, by_stack=False),
    "communication": Free(0.9, 0.03),
    "prefill": Free(2.0, 0.08),
    "kernel": Free(4e-6, 0.05),
    "eager": Free(6e-5, 0.1),
    "prompt": Free(1.5e-3, 0.14),
    "fixed": Free(5e-4, 0.07),
    "sequence": Free(4e-6, 0.07),
    "frontend_fixed": Free(1e-2, 0.1),
    "frontend_request": Free(1e-3, 0.05),
    "ageing": Free(0.3, 0.1, by_stack=False),
}
# vLLM's default piecewise CUDA graphs reach 512 tokens, InferenceX's scripts raise it to 2048; the others run prompts
# eagerly unless a recipe says otherwise.
GRAPH_TOKENS = {"vllm": 2048, "sglang": 0, "trtllm": 0}


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """A simulated run, condensed. steps: [step, shape]; ttft_weight, tpot_weight: [step] how often a step of this shape
    counts in the mean; serial: requests in the front end before one, on average, itself included."""

    steps: np.ndarray
    ttft_weight: np.ndarray
    tpot_weight: np.ndarray
    serial: float


def schedule(row: ServingRow, server: Server, constants: Constants) -> Schedule:
    """Simulate a run and condense its journal. Raises as `kv_capacity` does."""
    rules, requests = policy(row), load(row)
    capacity = kv_capacity(server.deployment, rules, row.input_len + row.output_len // 2)
    steps = StackSteps(server.tables, server.counts, constants, row.age)
    pool = Pool(rules, steps, capacity, server.deployment.parallelism.attention_dp)
    frontend = Frontend(constants.frontend_fixed, constants.frontend_request)
    run = simulate(requests, Fleet(pool, frontend=frontend), rng=np.random.default_rng(0), journal_rows=None)
    ended = int(np.isfinite(run.outcome.finished_s).sum())
    if not ended:
        raise MoesimError("no request fits the server")
    journal = run.journals[0].table()
    shapes = np.stack([journal[name] for name in _SHAPE], axis=1)
    # A chunk of one token is no step without prompts.
    kinds = np.where(shapes > 0, np.rint(np.log2(np.maximum(shapes, 1)) * _STEPS_PER_OCTAVE), -1)
    _, of = np.unique(kinds, axis=0, return_inverse=True)
    of = of.reshape(-1)
    count = journal["steps"]
    total = np.bincount(of, count)
    steps = np.stack([np.bincount(of, count * column) / total for column in shapes.T], axis=1)
    per_step = journal["seconds"] / ended
    ttft, tpot = (np.bincount(of, count * journal[name] / ended) for name in ("waiting", "slowness"))
    at_server = float((per_step * journal["waiting"]).sum())
    front = float(np.nanmean(run.outcome.ttft_s())) - at_server
    serial = max(front - frontend.fixed_s, 0.0) / frontend.request_s
    return Schedule(steps, ttft, tpot, serial)


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """All runs of a table side by side. Arrays [step] are indexed by `run` into arrays [run].

    parts: kernel seconds by kind. counts: kernels a layer. stack: index into `STACKS`. age: years.
    """

    table: pd.DataFrame
    parts: dict[str, np.ndarray]
    steps: np.ndarray
    weights: tuple[np.ndarray, np.ndarray]
    run: np.ndarray
    counts: Counts
    stack: np.ndarray
    serial: np.ndarray
    age: np.ndarray

    def subset(self, chosen: np.ndarray) -> Problem:
        """The runs that a mask selects."""
        number = np.cumsum(chosen) - 1
        keep = chosen[self.run]
        return Problem(
            self.table[chosen].reset_index(drop=True),
            {name: part[keep] for name, part in self.parts.items()},
            self.steps[keep],
            tuple(weight[keep] for weight in self.weights),
            number[self.run[keep]],
            Counts(*(getattr(self.counts, f.name)[keep] for f in fields(Counts))),
            self.stack[chosen],
            self.serial[chosen],
            self.age[chosen],
        )


def build_problem(
    table: pd.DataFrame,
    servers: dict,
    constants: dict[str, Constants],
    progress: Callable[[int, int], None] | None = None,
) -> Problem:
    """Simulate every run with the constants given. servers: by configuration, filled in where missing; rows that
    cannot be simulated are left out."""
    kept, schedules, of_run = [], [], []
    for index, record in enumerate(table.to_dict("records")):
        if progress is not None:
            progress(index + 1, len(table))
        try:
            row = read_row(record)
            if row.configuration not in servers:
                servers[row.configuration] = build_server(row.configuration)
            stack = stack_of(row.configuration.software)
            schedules.append(schedule(row, servers[row.configuration], constants[stack]))
        except (MoesimError, ValueError):
            continue
        kept.append(index)
        of_run.append(servers[row.configuration])
    run = np.repeat(np.arange(len(kept)), [len(s.steps) for s in schedules])
    parts = [server.tables.parts(*s.steps.T) for server, s in zip(of_run, schedules, strict=True)]
    counts = [[float(getattr(server.counts, f.name)) for f in fields(Counts)] for server in of_run]
    chosen = table.iloc[kept].reset_index(drop=True)
    return Problem(
        chosen,
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]},
        np.concatenate([s.steps for s in schedules]),
        tuple(np.concatenate([getattr(s, name) for s in schedules]) for name in ("ttft_weight", "tpot_weight")),
        run,
        Counts(*np.array(counts)[run].T),
        np.array([STACKS.index(stack_of(name)) for name in chosen["software"]]),
        np.array([s.serial for s in schedules]),
        np.array([age(date) for date in chosen.get("measured", pd.Series(index=chosen.index, dtype=object))]),
    )


def start() -> np.ndarray:
    """The vector that every fit begins with: log values, then log deviations of the stacks."""
    shared = [np.log(free.start) for free in PARAMETERS.values()]
    return np.array(shared + [0.0] * (len(STACKS) * sum(free.by_stack for free in PARAMETERS.values())))


def constants_of(x: np.ndarray) -> dict[str, Constants]:
    """Constants by stack from a vector."""
    values = _values(x)
    return {
        stack: Constants(**{name: float(v[i]) for name, v in values.items()}, graph_tokens=GRAPH_TOKENS[stack])
        for i, stack in enumerate(STACKS)
    }


def _values(x: np.ndarray) -> dict[str, np.ndarray]:
    """Each parameter [stack]."""
    deviations = iter(x[len(PARAMETERS) :].reshape(-1, len(STACKS)))
    return {
        name: np.exp(x[i] + (next(deviations) if free.by_stack else np.zeros(len(STACKS))))
        for i, (name, free) in enumerate(PARAMETERS.items())
    }


def predicted(problem: Problem, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(TTFT, TPOT) [run] under a vector of constants."""
    values = _values(x)
    of_step = problem.stack[problem.run]
    graphs = np.array([GRAPH_TOKENS[stack] for stack in STACKS])[of_step]
    constants = Constants(**{name: v[of_step] for name, v in values.items()}, graph_tokens=graphs)
    sequences, prefill_tokens = (
        problem.steps[:, _SHAPE.index("sequences")],
        problem.steps[:, _SHAPE.index("prefill_tokens")],
    )
    seconds = combine(problem.parts, problem.counts, constants, sequences, prefill_tokens)
    seconds = seconds * np.exp(constants.ageing * problem.age[problem.run])
    ttft, tpot = (np.bincount(problem.run, seconds * weight, problem.stack.size) for weight in problem.weights)
    front = values["frontend_fixed"] + values["frontend_request"] * problem.serial[:, None]
    return ttft + front[np.arange(problem.stack.size), problem.stack], tpot


def errors(problem: Problem, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(TTFT, TPOT) [run]: predicted over measured, minus 1; NaN where TTFT is not scored."""
    ttft, tpot = predicted(problem, x)
    judged = np.where(scored(problem.table), problem.table["ttft_s"], np.nan)
    return ttft / judged - 1, tpot / problem.table["tpot_s"].to_numpy() - 1


def fit(problem: Problem, x: np.ndarray | None = None, evaluations: int = 12) -> np.ndarray:
    """The vector of constants that explains the runs best."""
    from scipy.optimize import least_squares

    x = start() if x is None else x
    shared = len(PARAMETERS)
    centre, spread = start()[:shared], np.array([free.spread for free in PARAMETERS.values()])
    reach = np.concatenate([40 * spread, np.full(x.size - shared, 1.5)])
    judged = scored(problem.table)

    def of_runs(x: np.ndarray) -> np.ndarray:
        ttft, tpot = errors(problem, x)
        return np.concatenate([np.log1p(tpot), TTFT_WEIGHT * np.log1p(ttft[judged])])

    def residuals(x: np.ndarray) -> np.ndarray:
        prior = LOSS_SCALE * (x[:shared] - centre) / spread
        return np.concatenate([of_runs(x), prior, POOLING * x[shared:]])

    def slopes(x: np.ndarray) -> np.ndarray:
        """A stack's deviation moves the runs of that stack as the shared value does, and no others."""
        stack, here = np.concatenate([problem.stack, problem.stack[judged]]), of_runs(x)
        runs = np.stack([(of_runs(x + step) - here) / _STEP for step in _STEP * np.eye(x.size)[:shared]], axis=1)
        of_stacks = runs[:, [free.by_stack for free in PARAMETERS.values()], None] * np.eye(len(STACKS))[stack][:, None]
        weights = np.concatenate([LOSS_SCALE / spread, np.full(x.size - shared, POOLING)])
        return np.concatenate([np.hstack([runs, of_stacks.reshape(stack.size, -1)]), np.diag(weights)])

    found = least_squares(
        residuals,
        np.clip(x, start() - reach + 1e-6, start() + reach - 1e-6),
        jac=slopes,
        bounds=(start() - reach, start() + reach),
        loss="soft_l1",
        f_scale=LOSS_SCALE,
        x_scale="jac",
        max_nfev=evaluations,
    )
    return found.x


CURVE = ("model", "hardware", "software", "image", "precision", "input_len", "output_len", "gpus", "ep")


def folds(table: pd.DataFrame, by: str) -> np.ndarray:
    """[row] fold number. by: ``curve`` (five folds of whole curves), ``model`` or ``hardware`` (one fold each)."""
    if by != "curve":
        return pd.factorize(table[by])[0]
    names = table[[c for c in CURVE if c in table]].fillna("").astype(str).agg("|".join, axis=1)
    curve = pd.factorize(names)[0]
    order = np.random.default_rng(0).permutation(curve.max() + 1)
    return (order % 5)[curve]


def held_out_errors(problem: Problem, x: np.ndarray, by: str) -> tuple[np.ndarray, np.ndarray]:
    """(TTFT, TPOT) errors [run] of fits that had not seen the run's fold."""
    fold = folds(problem.table, by)
    ttft, tpot = np.full(fold.size, np.nan), np.full(fold.size, np.nan)
    for number in np.unique(fold):
        out = fold == number
        fitted = fit(problem.subset(~out), x, evaluations=8)
        ttft[out], tpot[out] = errors(problem.subset(out), fitted)
    return ttft, tpot


def summary(ttft: np.ndarray, tpot: np.ndarray) -> dict[str, float]:
    """MAPE and median of the absolute errors; fractions."""
    return {
        "tpot_mape": float(np.nanmean(np.abs(tpot))),
        "tpot_median": float(np.nanmedian(np.abs(tpot))),
        "ttft_mape": float(np.nanmean(np.abs(ttft))),
        "ttft_median": float(np.nanmedian(np.abs(ttft))),
    }


def interval(error: Sequence[np.ndarray]) -> tuple[float, float]:
    """Factors (low, high) on a prediction that hold 80 % of the measurements: order statistics of held-out errors."""
    ratios = 1 / (1 + np.concatenate([e[np.isfinite(e)] for e in error]))
    low, high = np.quantile(ratios, [0.1, 0.9])
    return float(min(low, 0.99)), float(max(high, 1.01))


def fit_serving(
    table: pd.DataFrame, *, source: str, date: str, rounds: int = 2, progress: Callable[[int, int], None] | None = None
) -> tuple[Fitted, Problem, np.ndarray]:
    """Constants for every stack, with the errors on unseen curves, models and hardware, and intervals from the latter
    two. Also hands back the runs and the vector, for study."""
    servers: dict = {}
    x = start()
    for _ in range(rounds):
        problem = build_problem(table, servers, constants_of(x), progress)
        x = fit(problem, x)
    found = {"in sample": errors(problem, x)}
    for by in ("curve", "model", "hardware"):
        found[f"unseen {by}"] = held_out_errors(problem, x, by)
    unseen = [found["unseen model"], found["unseen hardware"]]
    intervals = [interval([pair[i] for pair in unseen]) for i in range(2)]
    stated = {name: summary(*pair) for name, pair in found.items()}
    return Fitted(constants_of(x), intervals[0], intervals[1], stated, source, date), problem, x
