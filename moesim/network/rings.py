"""The rings of one dimension of a torus: which link each stretch of each ring crosses, and which way it goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moesim.hardware.topology import Cluster
from moesim.network.links import Links


@dataclass(frozen=True, slots=True, eq=False)
class Dimension:
    """All rings of one dimension, n positions each.

    lead, tail: [ranks]; the stretch that a pair travels in this dimension is numbered ``lead[source] + tail[target]``,
    which is ring·n² + from·n + to. up, down: [rings, n] link leaving each position upwards and downwards, −1 = none.
    share_up, share_down: [rings, n²] part of a stretch's traffic that goes each way; both 0 where neither is open.
    crossed_up, crossed_down: [n², n] whether a stretch crosses the link leaving a position. n: positions of a ring.
    per_slice: rings of a slice.
    """

    lead: np.ndarray
    tail: np.ndarray
    up: np.ndarray
    down: np.ndarray
    share_up: np.ndarray
    share_down: np.ndarray
    crossed_up: np.ndarray
    crossed_down: np.ndarray
    n: int
    per_slice: int

    def rows(self, slices: tuple[int, int]) -> tuple[slice, int, int]:
        """Rings of the slices from first to before last, their first stretch, and how many stretches they have."""
        first, last = (border * self.per_slice for border in slices)
        stretches = self.n * self.n
        return slice(first, last), first * stretches, (last - first) * stretches

    def ways(self):
        """(links, share, crossed) upwards, then downwards."""
        return (self.up, self.share_up, self.crossed_up), (self.down, self.share_down, self.crossed_down)


def stretch_tables(
    dimensions: Sequence[Dimension], value: np.ndarray, combine: np.ufunc, slices: tuple[int, int]
) -> list[np.ndarray]:
    """For each dimension what `combine` makes of the links of each stretch, the worse of the ways in use."""
    padded, tables = np.append(value, 0.0), []
    for d in dimensions:
        rows = d.rows(slices)[0]
        ways = zip(d.ways(), (1, -1), strict=True)
        found = [
            np.where(share[rows] > 0, _along(padded[ids[rows]], way, combine), 0.0) for (ids, share, _), way in ways
        ]
        tables.append(np.maximum(*found).ravel())
    return tables


def _along(value: np.ndarray, way: int, combine: np.ufunc) -> np.ndarray:
    """[rings, n²] what combine makes of the values [rings, n] of the links from each position to each other.

    way: +1 upwards, −1 downwards. Longer stretches grow out of shorter ones.
    """
    rings, n = value.shape
    here, crossed = np.ogrid[:n, : n - 1]  # from, links crossed before the last
    table = np.zeros((rings, n, n))
    table[:, here, (here + way * (crossed + 1)) % n] = combine.accumulate(value[:, (here + way * crossed) % n], axis=2)
    return table.reshape(rings, n * n)


def dimension_of(
    cluster: Cluster,
    links: Links,
    shape: tuple[int, ...],
    coordinates: np.ndarray,
    slice_of: np.ndarray,
    axis: int,
    ties: str,
) -> Dimension:
    """The rings of one axis. coordinates: [ranks, axes]; slice_of: [ranks]; ties: ``split`` or ``one_way``."""
    n, position = shape[axis], coordinates[:, axis]
    per_slice = int(np.prod(shape)) // n
    before, after = _ring_numbers(shape, coordinates, axis)
    after = after + slice_of * per_slice
    rank_at = np.empty((per_slice * (int(slice_of[-1]) + 1), n), dtype=np.int64)
    rank_at[after + before, position] = np.arange(len(coordinates))
    up, down = (_neighbour_links(cluster, links, rank_at, way) for way in (1, -1))
    here, there, link = np.ogrid[:n, :n, :n]
    crossed_up = ((link - here) % n < (there - here) % n).reshape(n * n, n)
    crossed_down = ((here - link) % n < (here - there) % n).reshape(n * n, n)
    share_up, share_down = _shares(up, down, crossed_up, crossed_down, 0.5 if ties == "split" else 1.0)
    lead, tail = (after * n + position) * n, before * n * n + position
    return Dimension(lead, tail, up, down, share_up, share_down, crossed_up, crossed_down, n, per_slice)


def _ring_numbers(shape: tuple[int, ...], coordinates: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Parts [ranks] of a ring's number in its slice that come from the target and from the source of a message.

    On its way along `axis` it has the target's coordinates in the dimensions before and the source's in those after.
    """
    others = [a for a in range(len(shape)) if a != axis]
    strides = {a: int(np.prod([shape[b] for b in others[i + 1 :]])) for i, a in enumerate(others)}
    weights = np.array([strides.get(a, 0) for a in range(len(shape))])
    return coordinates[:, :axis] @ weights[:axis], coordinates[:, axis:] @ weights[axis:]


def _neighbour_links(cluster: Cluster, links: Links, rank_at: np.ndarray, way: int) -> np.ndarray:
    """Link [rings, n] from each position to the next in a way; rank_at: [rings, n]."""
    name, onward = cluster.devices, np.roll(rank_at, -way, axis=1)
    found = [links.id(name[a], name[b]) for a, b in zip(rank_at.ravel(), onward.ravel(), strict=True)]
    return np.array(found).reshape(rank_at.shape)


def _shares(
    up: np.ndarray, down: np.ndarray, crossed_up: np.ndarray, crossed_down: np.ndarray, tie: float
) -> tuple[np.ndarray, np.ndarray]:
    """Share [rings, n²] of each stretch that goes up, and down: the shorter way, or the only open one."""
    length_up, length_down = crossed_up.sum(axis=1), crossed_down.sum(axis=1)
    prefer_up = np.select([length_up < length_down, length_up > length_down], [1.0, 0.0], tie)
    open_up = (up < 0).astype(float) @ crossed_up.T == 0
    open_down = (down < 0).astype(float) @ crossed_down.T == 0
    moving = length_up > 0
    share_up = np.where(open_up & open_down, prefer_up, open_up) * moving
    share_down = np.where(open_up & open_down, 1 - prefer_up, open_down) * moving
    return share_up, share_down
