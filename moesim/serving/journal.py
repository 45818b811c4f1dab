"""What a server did, run by run: the record behind timelines, and behind fits of step times."""

from __future__ import annotations

from array import array

import numpy as np

# One row a run of equal steps. waiting: mean number of requests without a first token during the run. slowness: mean
# over the run of Σ 1/(output length − 1) over decoding requests: Σ seconds·slowness / requests is the mean TPOT.
COLUMNS = (
    "start_s", "seconds", "steps", "sequences", "total", "context", "prefill_tokens", "prefill_total", "attended",
    "prompts", "waiting", "slowness", "kv_share", "uneven",
    "hottest",
)  # fmt: skip
_WIDTH = len(COLUMNS)


class Journal:
    """Rows of `COLUMNS`. most: rows kept; beyond, neighbours are joined two by two (None = all are kept).

    sequences, context, prefill_tokens, attended are of the busiest attention-DP rank, context at the middle of the run;
    total and prefill_total of all. kv_share: of the fullest rank's cache. uneven: sequences of the
    busiest rank over the mean rank's. hottest: routed tokens of the hottest expert rank over the mean rank's.
    """

    def __init__(self, most: int | None = 50_000):
        self._rows = array("d")
        self._most = most

    def __len__(self) -> int:
        return len(self._rows) // _WIDTH

    def add(self, row: tuple[float, ...]) -> None:
        """Append one run, given in the order of `COLUMNS`."""
        self._rows.extend(row)
        if self._most is not None and len(self) >= 2 * self._most:
            self._halve()

    def table(self) -> dict[str, np.ndarray]:
        """Columns [run]."""
        rows = np.array(self._rows).reshape(-1, _WIDTH)
        return {name: rows[:, column] for column, name in enumerate(COLUMNS)}

    def _halve(self) -> None:
        rows = np.array(self._rows).reshape(-1, 2, _WIDTH)
        weight = rows[:, :, 1:2] + 1e-300
        joined = (rows * weight).sum(axis=1) / weight.sum(axis=1)
        joined[:, 0] = rows[:, 0, 0]
        joined[:, 1:3] = rows[:, :, 1:3].sum(axis=1)
        self._rows = array("d", joined.ravel())
