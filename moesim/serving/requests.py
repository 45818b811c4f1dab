"""Requests as arrays, one row a request: what a client asks for, and what became of it.

Metrics are those of the common benchmarks (`vllm bench serve`, SGLang's bench_serving, InferenceX):

- TTFT: first token received minus submitted; it holds queueing.
- TPOT: (last token − first token) / (output length − 1): the first token is excluded; undefined for one token.
- end-to-end latency: last token minus submitted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moesim.errors import InvalidInput, Problem

# What became of a request. Unfinished ones belong to runs that stopped early (interrupted, overloaded).
STATUSES = ("unfinished", "finished", "rejected")
UNFINISHED, FINISHED, REJECTED = range(3)


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """What clients ask for; all arrays [request].

    arrival_s: when each is submitted, ascending; NaN in a closed loop, where completions decide. input_len, output_len:
    tokens. priority: smaller goes first. prefix: hashes of the blocks that a prompt begins with, one tuple a request,
    or None where nothing is shared; block_tokens: tokens of such a block. in_flight: requests of a closed loop that are
    under way at all times, None in an open loop. warmup: first requests that metrics leave out.
    """

    arrival_s: np.ndarray
    input_len: np.ndarray
    output_len: np.ndarray
    priority: np.ndarray
    prefix: tuple[tuple[int, ...], ...] | None = None
    block_tokens: int = 16
    in_flight: int | None = None
    warmup: int = 0

    def __len__(self) -> int:
        return self.input_len.size


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What became of requests; all arrays [request], NaN where something never happened.

    submitted_s, first_token_s, finished_s: the client's clock. status: index into `STATUSES`. cached_tokens: prompt
    tokens that the prefix cache held. preemptions: times that it lost its cache. replica: which one decoded it, or −1.
    """

    submitted_s: np.ndarray
    first_token_s: np.ndarray
    finished_s: np.ndarray
    status: np.ndarray
    cached_tokens: np.ndarray
    preemptions: np.ndarray
    replica: np.ndarray

    def ttft_s(self) -> np.ndarray:
        """Seconds from submission to the first token."""
        return self.first_token_s - self.submitted_s

    def tpot_s(self, output_len: np.ndarray) -> np.ndarray:
        """Seconds per output token after the first; NaN for outputs of one token."""
        later = np.where(output_len > 1, output_len - 1, np.nan)
        return (self.finished_s - self.first_token_s) / later


def blank_outcome(count: int) -> Outcome:
    """The outcome of `count` requests of which nothing is known yet."""
    nan = [np.full(count, np.nan) for _ in range(3)]
    zero = [np.zeros(count, dtype=np.int64) for _ in range(3)]
    return Outcome(*nan, *zero, np.full(count, -1))


def open_loop(arrival_s: np.ndarray, input_len: np.ndarray, output_len: np.ndarray, **more: object) -> Requests:
    """Requests that come at given times. Raises InvalidInput naming the first row of each kind of mistake."""
    arrival = np.asarray(arrival_s, dtype=float)
    problems = []
    bad = ~np.isfinite(arrival) | (arrival < 0)
    if bad.any():
        row = int(bad.argmax())
        problems.append(Problem(f"request {row} arrives at {arrival[row]:g} s; write times from 0 on", "arrival_s"))
    falling = np.flatnonzero(np.diff(arrival) < 0)
    if falling.size:
        row = int(falling[0]) + 1
        before = f"{arrival[row]:g} s after {arrival[row - 1]:g} s"
        problems.append(Problem(f"request {row} arrives at {before}; sort the requests by arrival", "arrival_s"))
    return _checked(arrival, input_len, output_len, problems, **more)


def closed_loop(input_len: np.ndarray, output_len: np.ndarray, in_flight: int, **more: object) -> Requests:
    """Requests of which `in_flight` are under way at all times: so many at once, then each when another ends."""
    problems = [] if in_flight >= 1 else [Problem(f"{in_flight} is not a number of requests from 1 on", "in_flight")]
    arrival = np.full(np.size(input_len), np.nan)
    return _checked(arrival, input_len, output_len, problems, in_flight=in_flight, **more)


def _checked(
    arrival: np.ndarray, input_len: np.ndarray, output_len: np.ndarray, problems: list[Problem], **more: object
) -> Requests:
    lengths = [np.asarray(length, dtype=np.int64) for length in (input_len, output_len)]
    for name, length in zip(("input_len", "output_len"), lengths, strict=True):
        if (length < 1).any():
            row = int((length < 1).argmax())
            problems.append(Problem(f"request {row} has {length[row]} tokens; write 1 or more", name))
    if problems:
        raise InvalidInput(problems)
    priority = np.asarray(more.pop("priority", np.zeros(arrival.size, dtype=np.int64)))
    return Requests(arrival, *lengths, priority, **more)
