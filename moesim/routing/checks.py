"""Whether a router trace is one: shapes and offsets at once, ids by a scan in small chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from moesim.errors import InvalidInput, Problem

if TYPE_CHECKING:
    from moesim.routing.trace import RouterTrace

_SCAN_BYTES = 4 * 2**20


def shape_problems(trace: RouterTrace, file: str = "") -> list[Problem]:
    """What is wrong with shapes, dtypes, sizes and offsets: the checks that need no look at the ids."""
    found: list[Problem] = []

    def wrong(name: str, message: str) -> None:
        found.append(Problem(message, field=name, file=file))

    ids = trace.ids
    if ids.ndim != 3:
        wrong("ids", f"has shape {ids.shape}; write [token, layer, k]")
        return found
    if ids.dtype.kind not in "iu":
        wrong("ids", f"is {ids.dtype}; write integers")
    if 0 in ids.shape:
        wrong("ids", f"is empty ({' x '.join(map(str, ids.shape))} tokens x layers x k); capture some text first")
    if trace.experts < max(1, trace.top_k):
        wrong("experts", f"{trace.experts} experts cannot give {trace.top_k} different choices a token")
    if trace.groups < 1 or trace.experts % trace.groups:
        wrong("groups", f"{trace.groups} groups do not divide {trace.experts} experts")
    offsets = np.asarray(trace.offsets)
    if offsets.ndim != 1 or len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != trace.tokens:
        wrong("offsets", f"must run from 0 to the {trace.tokens} tokens")
    elif np.any(offsets[1:] <= offsets[:-1]):
        wrong("offsets", "must rise: every sequence has at least one token")
    if trace.labels and len(trace.labels) != len(offsets) - 1:
        wrong("labels", f"{len(trace.labels)} labels for {len(offsets) - 1} sequences")
    wanted = {"gates": ids.shape, "count": ids.shape[:2]} | dict.fromkeys(
        ("phase", "step", "positions", "token_ids"), ids.shape[:1]
    )
    for name, shape in wanted.items():
        array = getattr(trace, name)
        if array is not None and array.shape != shape:
            wrong(name, f"has shape {array.shape} where ids ask for {shape}")
    if trace.gates is not None and trace.gates.dtype != np.uint8:
        wrong("gates", f"is {trace.gates.dtype}; code gate weights with encode_gates")
    return found


def check_trace(trace: RouterTrace, file: str = "") -> None:
    """Scan a whole trace in small chunks: ids in range, no expert twice in a row, counts and phases possible.

    488 MB take a few seconds and a few megabytes of memory. Raises InvalidInput with every problem found.
    """
    found = shape_problems(trace, file)
    if found:
        raise InvalidInput(found)
    rows = max(1, _SCAN_BYTES // (trace.layers * trace.top_k * trace.ids.itemsize))
    for start in range(0, trace.tokens, rows):
        part = slice(start, start + rows)
        count = None if trace.count is None else trace.count[part]
        found += _id_problems(trace.ids[part], count, trace.experts, start, file)
        if len(found) > 8:  # a wholly wrong file would otherwise list itself
            break
    if trace.phase is not None and trace.phase.max() > 1:
        found.append(Problem("holds values other than 0 (prefill) and 1 (decode)", field="phase", file=file))
    if found:
        raise InvalidInput(found)


def _id_problems(ids: np.ndarray, count: np.ndarray | None, experts: int, start: int, file: str) -> list[Problem]:
    """Problems in ids [token, layer, k], the first of each kind, told by token and layer."""
    planes = np.ascontiguousarray(ids.transpose(2, 0, 1))  # k contiguous planes: comparisons run at memory speed
    k = len(planes)
    found = []

    def report(bad: np.ndarray, message: str) -> None:
        token, layer = np.unravel_index(np.argmax(bad), bad.shape)
        row = ids[token, layer].tolist()
        found.append(Problem(f"{message}: {row} at token {start + token}, layer {layer}", field="ids", file=file))

    def valid(plane: int) -> np.ndarray | bool:
        return True if count is None else count > plane

    if count is not None and count.max(initial=0) > k:
        found.append(Problem(f"counts up to {count.max()} choices where ids hold {k}", field="count", file=file))
    if planes.dtype.kind == "i" and planes.min() < 0:
        bad = np.any([(plane < 0) & valid(i) for i, plane in enumerate(planes)], axis=0)
        if bad.any():
            report(bad, "negative ids are padding, not choices; drop those rows (moesim import-trace does)")
    if int(planes.max()) >= experts:
        bad = np.any([(plane >= experts) & valid(i) for i, plane in enumerate(planes)], axis=0)
        if bad.any():
            report(bad, f"ids must lie below the {experts} experts")
    twice = np.zeros(planes.shape[1:], dtype=bool)
    for later in range(1, k):
        for earlier in range(later):
            same = planes[later] == planes[earlier]
            twice |= same & valid(later)
    if twice.any():
        report(twice, "an expert repeated in a row")
    return found
