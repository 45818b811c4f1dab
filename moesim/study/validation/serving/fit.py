"""Fit the constants of serving stacks to measured closed-loop runs.

Few parameters: each has one value for all stacks and, where stacks differ by nature, a deviation a stack that is drawn
towards zero (ridge on log deviations). Loss: soft L1 of log errors. `moesim.study.validation.serving.judge` says how
good a fit is on what it has not seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.serving.effects import Effects
from moesim.serving.stack import Constants, combine
from moesim.study.validation.serving.fit_effects import row_factors
from moesim.study.validation.serving.runs import SHAPE, STACKS, Runs
from moesim.study.validation.serving.scores import scored

LOSS_SCALE = 0.1  # log error from which the loss grows linearly
TTFT_WEIGHT = 0.4  # repeats of a run differ by 4 % (median) in TTFT and 0.8 % in TPOT
POOLING = 0.75  # weight of a stack's log deviation against a log error
_STEP = 1e-5  # of finite differences in log constants


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
    "prefill_attention": Free(1.0, 0.1, by_stack=False),
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


def predicted(runs: Runs, x: np.ndarray, effects: Effects | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(TTFT, TPOT) [run] under a vector of constants, and under the effects of known groups where they are given."""
    values = _values(x)
    of_step = runs.stack[runs.run]
    graphs = np.array([GRAPH_TOKENS[stack] for stack in STACKS])[of_step]
    constants = Constants(**{name: v[of_step] for name, v in values.items()}, graph_tokens=graphs)
    sequences, prefill_tokens = (runs.steps[:, SHAPE.index(name)] for name in ("sequences", "prefill_tokens"))
    seconds = combine(runs.parts, runs.counts, constants, sequences, prefill_tokens)
    seconds = seconds * np.exp(constants.ageing * runs.age[runs.run])
    ttft, tpot = (np.bincount(runs.run, seconds * weight, runs.stack.size) for weight in runs.weights)
    front = values["frontend_fixed"] + values["frontend_request"] * runs.serial[:, None]
    ttft = ttft + front[np.arange(runs.stack.size), runs.stack]
    if effects is None:
        return ttft, tpot
    of_ttft, of_tpot = row_factors(effects, runs.table)
    return ttft * of_ttft, tpot * of_tpot


def errors(runs: Runs, ttft: np.ndarray, tpot: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(TTFT, TPOT) [run]: predicted over measured, minus 1; NaN where TTFT is not scored."""
    judged = np.where(scored(runs.table), runs.table["ttft_s"], np.nan)
    return ttft / judged - 1, tpot / runs.table["tpot_s"].to_numpy() - 1


def fit(runs: Runs, x: np.ndarray | None = None, evaluations: int = 12) -> np.ndarray:
    """The vector of constants that explains the runs best."""
    from scipy.optimize import least_squares

    x = start() if x is None else x
    shared = len(PARAMETERS)
    centre, spread = start()[:shared], np.array([free.spread for free in PARAMETERS.values()])
    reach = np.concatenate([40 * spread, np.full(x.size - shared, 1.5)])
    judged = scored(runs.table)

    def of_runs(x: np.ndarray) -> np.ndarray:
        ttft, tpot = errors(runs, *predicted(runs, x))
        return np.concatenate([np.log1p(tpot), TTFT_WEIGHT * np.log1p(ttft[judged])])

    def residuals(x: np.ndarray) -> np.ndarray:
        prior = LOSS_SCALE * (x[:shared] - centre) / spread
        return np.concatenate([of_runs(x), prior, POOLING * x[shared:]])

    def slopes(x: np.ndarray) -> np.ndarray:
        """A stack's deviation moves the runs of that stack as the shared value does, and no others."""
        here, steps = of_runs(x), _STEP * np.eye(x.size)[:shared]
        together = np.stack([(of_runs(x + step) - here) / _STEP for step in steps], axis=1)
        mine = np.concatenate([runs.stack, runs.stack[judged]])[:, None] == np.arange(len(STACKS))
        apart = together[:, [free.by_stack for free in PARAMETERS.values()], None] * mine[:, None]
        weights = np.concatenate([LOSS_SCALE / spread, np.full(x.size - shared, POOLING)])
        return np.concatenate([np.hstack([together, apart.reshape(here.size, -1)]), np.diag(weights)])

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
