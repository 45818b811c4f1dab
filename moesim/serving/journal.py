"""What a server did, run by run: the record behind timelines, and behind fits of step times."""

from __future__ import annotations

from itertools import chain

import numpy as np

# One row a run of equal steps. waiting: mean number of requests without a first token during the run. slowness: mean
# over the run of Σ 1/(output length − 1) over decoding requests: Σ seconds·slowness / requests is the mean TPOT.
COLUMNS = (
    "start_s", "seconds", "steps", "sequences", "total", "context", "prefill_tokens", "prefill_total", "attended",
    "prompts", "waiting", "slowness", "kv_share", "uneven",
    "hottest",
)  # fmt: skip
_WIDTH = len(COLUMNS)
_RAW_WIDTH = 16  # numbers of `Journal.add`
_BULK = 8192  # runs worked out at a time


class Journal:
    """Rows of `COLUMNS` of a server with `ranks` attention-DP ranks. most: rows kept; beyond, neighbours are joined
    two by two (None = all are kept).

    sequences, context, prefill_tokens, attended are of the busiest attention-DP rank, context at the middle of the run;
    total and prefill_total of all. kv_share: of the fullest rank's cache. uneven: sequences of the
    busiest rank over the mean rank's. hottest: routed tokens of the hottest expert rank over the mean rank's.
    """

    def __init__(self, most: int | None = 50_000, ranks: int = 1):
        self._blocks: list[np.ndarray] = []
        self._raw: list[tuple[float, ...]] = []  # written in the hot loop; its means and shares are worked out in bulk
        self._most, self._ranks = most, ranks
        self._rows = 0  # in blocks
        self._room = 0
        self._make_room()

    def __len__(self) -> int:
        return self._rows + len(self._raw)

    def add(self, run: tuple[float, ...]) -> None:
        """Append one run: start_s, end_s, steps, sequences, total, context, prefill_tokens, prefill_total, attended,
        prompts, requests that waited from its start, those that came during it, the sum of their arrivals in seconds,
        slowness, kv_share, hottest."""
        raw = self._raw
        raw.append(run)
        if len(raw) >= self._room:
            self._work_out()

    def table(self) -> dict[str, np.ndarray]:
        """Columns [run]."""
        self._work_out()
        rows = np.concatenate([np.empty((0, _WIDTH)), *self._blocks])
        return {name: rows[:, column] for column, name in enumerate(COLUMNS)}

    def _work_out(self) -> None:
        count = len(self._raw)
        # numpy takes twice as long for a list of tuples.
        raw = np.fromiter(chain.from_iterable(self._raw), float, count * _RAW_WIDTH).reshape(count, _RAW_WIDTH)
        start, end, sequences, total = raw[:, 0], raw[:, 1], raw[:, 3], raw[:, 4]
        seconds = end - start
        came = raw[:, 11] * end - raw[:, 12]
        waiting = raw[:, 10] + np.divide(came, seconds, out=np.zeros(count), where=seconds > 0)
        uneven = np.divide(sequences, total / self._ranks, out=np.ones(count), where=total > 0)
        columns = (start, seconds, *raw[:, 2:10].T, waiting, raw[:, 13], raw[:, 14], uneven, raw[:, 15])
        self._blocks.append(np.stack(columns, axis=1))
        self._raw, self._rows = [], self._rows + count
        if self._most is not None and self._rows >= 2 * self._most:
            self._halve()
        self._make_room()

    def _halve(self) -> None:
        rows = np.concatenate(self._blocks).reshape(-1, 2, _WIDTH)
        weight = rows[:, :, 1:2] + 1e-300
        joined = (rows * weight).sum(axis=1) / weight.sum(axis=1)
        joined[:, 0] = rows[:, 0, 0]
        joined[:, 1:3] = rows[:, :, 1:3].sum(axis=1)
        self._blocks, self._rows = [joined], len(joined)

    def _make_room(self) -> None:
        """Runs that may be added before the next sum: rows are joined at exactly twice `most`."""
        self._room = _BULK if self._most is None else min(_BULK, 2 * self._most - self._rows)
