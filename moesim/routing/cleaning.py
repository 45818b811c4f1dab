"""From the rows of somebody's log to a router trace: what is not a real choice is dropped, and counted.

Serving engines log more than routing: rows of padding (−1, or all zeros where a buffer was never filled), layers
without routers, and dummy rows of warm-up and memory profiling, which were 31 % and 87 % of two public logs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.routing.checks import check_trace
from moesim.routing.trace import RouterTrace, encode_gates, expert_dtype

DUMMY_RUN = 8  # so many tokens that agree at every layer are one dummy, repeated


@dataclass(frozen=True, slots=True, eq=False)
class RawRoutes:
    """Routing as a log tells it.

    ids: [token, layer, k] integers; negative where nothing was chosen.
    weights: [token, layer, k] gate weights, or None.
    lengths: [sequences] tokens of each; they sum to the tokens. labels: one a sequence, or ().
    phase, step, positions, token_ids: [token] or None, as in `RouterTrace`. experts: None where the log does not say.
    dropped: rows that reading already left out, by reason.
    """

    ids: np.ndarray
    lengths: np.ndarray
    weights: np.ndarray | None = None
    labels: tuple[str, ...] = ()
    phase: np.ndarray | None = None
    step: np.ndarray | None = None
    positions: np.ndarray | None = None
    token_ids: np.ndarray | None = None
    experts: int | None = None
    dropped: dict[str, int] = field(default_factory=dict)


def need(condition: bool, message: str) -> None:
    """Raise InvalidInput unless the content of a log is as it must be."""
    if not condition:
        raise InvalidInput(message)


def clean(
    raw: RawRoutes, name: str, source: str, *, experts: int | None = None, keep_dummies: bool = False
) -> RouterTrace:
    """The trace of the rows that are real, with ``metadata["dropped"]`` telling what went and why.

    experts: number of experts, which overrides the log's; where neither tells, the highest id + 1, and the metadata
    says so. Raises InvalidInput if nothing is left, or rows are neither choices nor padding.
    """
    ids = np.asarray(raw.ids)
    if ids.ndim != 3 or 0 in ids.shape or ids.dtype.kind not in "iu":
        raise InvalidInput(Problem(f"holds no choices: ids are {ids.dtype} {ids.shape}", file=name))
    routed = _routed_layers(ids)
    ids = ids[:, routed].astype(np.int64)
    empty = _unfilled(ids)
    weights = None if raw.weights is None else np.asarray(raw.weights)[:, routed]
    dummy = np.zeros(len(ids), dtype=bool)
    if not keep_dummies and not empty.all():
        dummy[~empty] = _dummies(ids[~empty], None if weights is None else weights[~empty])
    kept = ~(empty | dummy)
    dropped = raw.dropped | {
        "layers_without_router": int(np.count_nonzero(~routed)),
        "padding": int(np.count_nonzero(empty)),
        "warm_up": int(np.count_nonzero(dummy)),
    }
    if not kept.any():
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
        raise InvalidInput(Problem(f"no routed token is left ({reasons})", file=name))
    ids, weights, count = _compact(ids[kept], None if weights is None else weights[kept])
    metadata: dict[str, object] = {"dropped": dropped, "moe_layers": np.flatnonzero(routed).tolist()}
    if experts is None and (experts := raw.experts) is None:
        experts = int(ids.max()) + 1
        metadata["experts_inferred"] = "highest id + 1"
    trace = RouterTrace(
        name=name,
        ids=ids.astype(expert_dtype(experts)) if ids.max() < experts else ids,
        experts=experts,
        count=count,
        gates=None if weights is None else _shares(weights),
        source=source,
        metadata=metadata,
        **_sequences(raw, kept),
    )
    check_trace(trace, name)
    return trace


def _routed_layers(ids: np.ndarray) -> np.ndarray:
    """[layer] whether a layer chose experts: neither unset (−1) nor zero all over (dense layers in returned routes)."""
    unset = (ids < 0).all(axis=(0, 2))
    zero = (ids == 0).all(axis=(0, 2)) if ids.shape[2] > 1 else np.zeros(ids.shape[1], dtype=bool)
    return ~(unset | zero)


def _unfilled(ids: np.ndarray) -> np.ndarray:
    """[token] whether a row was never filled: no choice at any layer, or one id repeated all over."""
    unset = (ids < 0).all(axis=(1, 2))
    if ids.shape[2] == 1:
        return unset
    return unset | (ids == ids[:, :1, :1]).all(axis=(1, 2))


def _dummies(ids: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """[token] whether a row is one of a run that agrees in all layers, or has equal gates everywhere and many like it.

    Real tokens that agree at one layer differ at the next, and in their weights; dummy inputs agree in all of them.
    """
    rows = ids.reshape(len(ids), -1)
    if weights is not None:
        even = np.isclose(weights, weights[:, :, :1], rtol=1e-3, atol=0).all(axis=(1, 2)) & (weights.shape[2] > 1)
        rows = np.concatenate([rows, weights.reshape(len(ids), -1).astype(np.float32).view(np.int32)], axis=1)
    same = (rows[1:] == rows[:-1]).all(axis=1)
    run = np.concatenate([[0], np.cumsum(~same)]) if len(rows) else np.zeros(0, dtype=int)
    found = np.bincount(run)[run] >= DUMMY_RUN
    if weights is not None and even.any():
        _, pattern, times = np.unique(
            ids[even].reshape(np.count_nonzero(even), -1), axis=0, return_inverse=True, return_counts=True
        )
        found[np.flatnonzero(even)[times[pattern.ravel()] >= DUMMY_RUN]] = True
    return found


def _compact(ids: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Choices first and unused places last, with [token, layer] counts; None for them where every place is used."""
    unused = ids < 0
    if not unused.any():
        return ids, weights, None
    order = np.argsort(unused, axis=2, kind="stable")
    ids = np.maximum(np.take_along_axis(ids, order, axis=2), 0)
    if weights is not None:
        weights = np.take_along_axis(np.where(unused, 0, weights), order, axis=2)
    return ids, weights, np.count_nonzero(~unused, axis=2).astype(np.uint8)


def _shares(weights: np.ndarray) -> np.ndarray:
    """Gate weights as coded shares of their row: engines scale them differently."""
    weights = np.maximum(weights.astype(np.float32), 0)
    return encode_gates(weights / np.maximum(weights.sum(axis=2, keepdims=True), 1e-20))


def _sequences(raw: RawRoutes, kept: np.ndarray) -> dict:
    """offsets, labels and per-token arrays of the tokens kept; sequences of which nothing is left go."""
    owner = np.repeat(np.arange(len(raw.lengths)), raw.lengths)
    left = np.bincount(owner[kept], minlength=len(raw.lengths))
    arrays = {
        field: None if (array := getattr(raw, field)) is None else np.asarray(array)[kept]
        for field in ("phase", "step", "positions", "token_ids")
    }
    return arrays | {
        "offsets": np.concatenate([[0], np.cumsum(left[left > 0])]),
        "labels": tuple(label for label, tokens in zip(raw.labels, left, strict=True) if tokens) if raw.labels else (),
    }
