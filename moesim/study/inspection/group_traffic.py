"""What the collectives of each degree carry in a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.study.inspection.layout import NAMES, Layout

# The degree that each kind of collective belongs to, where its members could be those of several.
_OWNER = {
    "dispatch": "ep", "combine": "ep", "gradient_dispatch": "ep", "gradient_combine": "ep",
    "expert_gather": "expert_tp", "expert_scatter": "expert_tp", "context_exchange": "cp",
    "send": "pp", "send_forward": "pp", "send_backward": "pp",
    "all_reduce": "tp", "reduce_scatter": "tp", "all_gather": "tp",
}  # fmt: skip


def collectives(layout: Layout, axes: dict[str, np.ndarray]) -> list[dict[str, object]]:
    """One row a degree and kind of collective: calls and bytes of the mean group in one step, and the fullest call.

    Bytes are those that members send each other; what stays on a rank does not count.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for program in layout.programs:
        here = set(program.ranks.tolist())
        for op in program.ops:
            transfer = op.transfer
            # A message counts where it is sent, a collective of several programs in that of its first member.
            if transfer is None or op.kind.startswith("receive"):
                continue
            if not op.kind.startswith("send") and int(transfer.ranks[0]) not in here:
                continue
            axis = _axis_of(op.kind, transfer.ranks[transfer.group == 0], axes)
            by_group = np.bincount(transfer.group, weights=transfer.sent)
            row = found.setdefault((axis, op.kind), [0.0, 0.0, 0.0])
            row[0] += by_group.size
            row[1] += float(by_group.sum())
            row[2] = max(row[2], float(by_group.max(initial=0.0)))
    rows = []
    for (axis, kind), (calls, sent, largest) in found.items():
        name, _, times = axis.partition(" × ")
        groups = axes[name].shape[0] / int(times or 1) if name in axes else 1
        rows.append(
            {
                "axis": axis.replace(name, NAMES.get(name, name), 1),
                "collective": kind,
                "calls_per_step": calls / groups / layout.rounds,
                "bytes_per_call": sent / calls if calls else 0.0,
                "bytes_per_step": sent / groups / layout.rounds,
                "largest_call_bytes": largest,
            }
        )
    return sorted(rows, key=lambda row: -row["bytes_per_step"])


def _axis_of(kind: str, members: Sequence[int], axes: dict[str, np.ndarray]) -> str:
    """The degree whose groups these members are, the collective's own first; a message joins two members of one.

    Under DualPipe two stages hold the same weights: their groups together are ``dp × 2``.
    """
    wanted = set(np.asarray(members).tolist())
    own = _OWNER.get(kind)
    several = ""
    for axis in sorted(axes, key=lambda axis: axis != own):
        row = set(axes[axis][(axes[axis] == next(iter(wanted))).any(axis=1)][0].tolist())
        if wanted == row or (axis == own and axis in ("pp", "cp") and wanted <= row):
            return axis
        if row < wanted and len(wanted) % len(row) == 0 and axis in ("dp", "expert_dp"):
            several = several or f"{axis} × {len(wanted) // len(row)}"
    return several or own or "other"
