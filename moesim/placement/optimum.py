"""The least possible hottest rank, by mixed-integer programming: how far from it the greedy policies stay.

Variables of one layer: y[e, c] says that expert e has c copies; x[e, r, c] that one of them is on rank r; z is the load
of the hottest rank. Minimise z subject to

    Σ_c y[e, c] = 1,   Σ_r x[e, r, c] = c y[e, c],   Σ_{e, c} x[e, r, c] = slots,   Σ_{e, c} x[e, r, c] load_e / c ≤ z

which is linear because the load of a copy is known once c is. Solved by HiGHS (`scipy.optimize.milp`).
"""

from __future__ import annotations

import numpy as np

from moesim.placement.balance import eplb, replicate_hot
from moesim.placement.evidence import Evidence
from moesim.placement.packing import check_room
from moesim.placement.placement import Placement

MOST_VARIABLES = 20_000  # of one layer: beyond, HiGHS does not come near the bound in a minute


def optimal(
    load: np.ndarray,
    ranks: int,
    evidence: Evidence | None = None,
    *,
    slots_per_rank: int,
    time_limit_s: float = 10.0,
) -> Placement:
    """The placement with the least hottest rank of every layer, for small cases: mixed-integer programming.

    time_limit_s: for each layer; when it ends, the better one of the best found and of the greedy policies stands.
    `Placement.bound` holds a load [layer] that no placement's hottest rank can go below, so hottest / bound - 1 is the
    proven gap. Raises ValueError beyond `MOST_VARIABLES`.
    """
    check_room(load.shape[1], ranks, slots_per_rank)
    if not time_limit_s > 0:
        raise ValueError(f"time_limit_s is {time_limit_s:g}; write seconds above 0")
    size = variables(load.shape[1], ranks, slots_per_rank)
    if size > MOST_VARIABLES:
        raise ValueError(
            f"optimal is for small cases: {load.shape[1]} experts on {ranks} ranks with {slots_per_rank} slots make "
            f"{size:,} variables a layer, more than {MOST_VARIABLES:,}; compare with the bound of moesim place instead"
        )
    heuristics = [policy(load, ranks, evidence, slots_per_rank=slots_per_rank) for policy in (replicate_hot, eplb)]
    placed, bounds, solved = [], [], {}
    for layer, row in enumerate(load.astype(float)):
        # Layers that differ only in their experts' numbers (a short trace replayed in blocks) are solved once.
        hottest_first = np.argsort(-row, kind="stable")
        key = row[hottest_first].tobytes()
        if key not in solved:
            solved[key] = _solve(row[hottest_first], ranks, slots_per_rank, time_limit_s)
        found, bound = solved[key]
        found = None if found is None else hottest_first[found]
        candidates = [held for held in (found, *(each.expert[layer] for each in heuristics)) if held is not None]
        placed.append(min(candidates, key=lambda held, row=row: hottest(row, held)))
        bounds.append(max(bound, simple_bound(row[None], ranks, slots_per_rank)[0]))
    return Placement("optimal", np.stack(placed).astype(np.int32), load.shape[1], bound=np.array(bounds))


def variables(experts: int, ranks: int, slots_per_rank: int) -> int:
    """Binary variables of one layer."""
    return experts * (ranks + 1) * _most_copies(experts, ranks, slots_per_rank)


def hottest(load: np.ndarray, held: np.ndarray) -> float:
    """Load of the hottest rank when experts [rank, slot] share their load [expert] evenly over their copies."""
    return float((load / np.bincount(held.ravel(), minlength=len(load)))[held].sum(axis=1).max())


def simple_bound(load: np.ndarray, ranks: int, slots_per_rank: int) -> np.ndarray:
    """Load [layer] that the hottest rank of no placement goes below, for loads [layer, expert] of any size.

    The larger one of the mean rank, and of what the hottest expert leaves on each rank when it has all the copies that
    the spare slots allow.
    """
    copies = _most_copies(load.shape[1], ranks, slots_per_rank)
    return np.maximum(load.sum(axis=1) / ranks, load.max(axis=1) / copies)


def _most_copies(experts: int, ranks: int, slots_per_rank: int) -> int:
    return min(ranks, ranks * slots_per_rank - experts + 1)


def _solve(load: np.ndarray, ranks: int, slots: int, time_limit_s: float) -> tuple[np.ndarray | None, float]:
    """Expert [rank, slot] (None if none was found in time) and the proven lower bound of one layer's loads [expert],
    hottest first."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    experts, copies = len(load), _most_copies(len(load), ranks, slots)
    x, y, total = _constraints(load, ranks, slots, copies)
    cost = np.zeros(x.size + y.size + 1)
    cost[-1] = 1
    matrix, low, high = total
    scale = load.sum() / ranks or 1.0
    lower = np.append(np.zeros(x.size + y.size), simple_bound(load[None], ranks, slots)[0] / scale * (1 - 1e-9))
    upper = np.append(np.ones(x.size + y.size), np.inf)
    integrality = np.append(np.ones(x.size + y.size), 0)
    result = milp(
        cost,
        integrality=integrality,
        bounds=Bounds(lower, upper),
        constraints=LinearConstraint(matrix, low, high),
        options={"time_limit": time_limit_s, "mip_rel_gap": 1e-6},
    )
    bound = (result.mip_dual_bound or 0.0) * scale
    if result.x is None:
        return None, bound
    chosen = result.x[x].reshape(experts, ranks, copies).sum(axis=2) > 0.5
    return np.stack([np.flatnonzero(chosen[:, rank]) for rank in range(ranks)]), bound


def _constraints(load: np.ndarray, ranks: int, slots: int, copies: int):
    """Numbers of the variables x [expert, rank, copies] and y [expert, copies], and (matrix, low, high).

    Loads are in units of the mean rank, so that the solver's tolerances mean the same for any trace.
    """
    from scipy.sparse import coo_array

    experts = len(load)
    x = np.arange(experts * ranks * copies).reshape(experts, ranks, copies)
    y = x.size + np.arange(experts * copies).reshape(experts, copies)
    z = x.size + y.size
    per_copy = load[:, None] / (np.arange(copies) + 1) / (load.sum() / ranks or 1.0)
    rows, columns, values, low, high = [], [], [], [], []

    def add(terms: list[tuple[np.ndarray, np.ndarray | float]], least: float, most: float) -> None:
        for variable, factor in terms:
            variable = np.ravel(variable)
            columns.append(variable)
            rows.append(np.full(variable.size, len(low)))
            values.append(np.broadcast_to(np.ravel(factor), variable.size))
        low.append(least)
        high.append(most)

    # Ranks are alike: say where the hottest expert stands, so that the solver need not try its other places.
    for count in range(copies):
        add([(x[0, : count + 1, count], 1.0), (y[0, count], -(count + 1.0))], 0, 0)
    for expert in range(experts):
        add([(y[expert], 1.0)], 1, 1)
        for count in range(copies):
            add([(x[expert, :, count], 1.0), (y[expert, count], -(count + 1.0))], 0, 0)
    for rank in range(ranks):
        add([(x[:, rank], 1.0)], slots, slots)
        add([(x[:, rank], per_copy), (np.array([z]), -1.0)], -np.inf, 0)
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return x, y, (coo_array(entries, shape=(len(low), z + 1)).tocsr(), np.array(low), np.array(high))
