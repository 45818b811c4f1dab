"""Replay: which tokens of a trace a step of the simulated model routes, and where each of them goes.

A trace is a line of tokens, sequence after sequence. A step draws a *window*: tokens of the line, ordered by rank.

* Decode: every slot of the batch (one request in flight) owns a stretch of the line and reads one token a step from it,
  so slots sit at different positions of different sequences, and the next step brings each one's next token.
* Prefill: every rank reads a contiguous run of tokens, one sequence after another, and the next step reads on.

Where the model has more MoE layers than the trace, its layers are cut into blocks of the trace's depth. One block
shares one window, so that the dependence of a token's choices across layers survives inside it; other blocks draw
other windows (the sequences in another order). A window longer than the line, or a long replay, meets tokens again:
`Routes.reused` counts them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.routing.trace import RouterTrace

PHASES = {"prefill": 0, "decode": 1}


@dataclass(frozen=True, slots=True, eq=False)
class Routes:
    """The experts that the tokens of one step choose.

    ids: [moe_layer, token, k] expert chosen; tokens stand in the order of their ranks.
    count: [moe_layer, token] number of valid choices, or None for k everywhere. What stands in ids behind them must not
        be counted.
    offsets: [ranks + 1] first token of each rank.
    tokens: [block, token] index into the trace of each token drawn, one row a block of layers.
    reused: how many of the step's tokens (of each block) this replay has used before, in this step or an earlier one.
    synthetic: the trace is.
    """

    ids: np.ndarray
    count: np.ndarray | None
    offsets: np.ndarray
    tokens: np.ndarray
    reused: int
    synthetic: bool


def replay(
    trace: RouterTrace,
    *,
    moe_layers: int,
    experts: int,
    top_k: int,
    ranks: int,
    tokens_per_rank: int | np.ndarray,
    phase: str,
    rng: np.random.Generator,
    step: int = 0,
) -> Routes:
    """The routes of one step of a model with `moe_layers` MoE layers of `experts` experts, top `top_k`.

    ranks: data-parallel ranks; tokens_per_rank: tokens (decode: requests) of each, one number or [ranks].
    phase: ``prefill`` or ``decode``. Steps of one replay must be given equal generators (the same seed): the draws are
    then equal and `step` alone moves the windows on.
    Raises InvalidInput where the trace has another router geometry or no tokens of the phase.
    """
    check_geometry(trace, experts, top_k)
    line = _line(trace, phase)
    tokens = np.broadcast_to(np.asarray(tokens_per_rank, dtype=np.int64), (ranks,))
    offsets = np.concatenate([[0], np.cumsum(tokens)])
    batch = int(offsets[-1])
    depth = trace.layers
    blocks = -(-moe_layers // depth)
    ids = np.empty((moe_layers, batch, trace.top_k), dtype=trace.ids.dtype)
    count = None if trace.count is None else np.empty((moe_layers, batch), dtype=trace.count.dtype)
    drawn = np.empty((blocks, batch), dtype=np.int64)
    reused = 0
    window = _decode_window if phase == "decode" else _prefill_window
    for block in range(blocks):
        line = line.shuffled(rng)
        places, again = window(line, batch, step, rng)
        reused = max(reused, again)
        drawn[block] = line.tokens(places)
        layers = slice(block * depth, min((block + 1) * depth, moe_layers))
        here = layers.stop - layers.start
        rows = np.take(trace.ids, drawn[block], axis=0)  # whole rows of the file: one gather, [token, layer, k]
        ids[layers] = rows[:, :here].transpose(1, 0, 2)
        if count is not None:
            count[layers] = trace.count[drawn[block], :here].T
    return Routes(ids, count, offsets, drawn, reused, trace.synthetic)


def phase_tokens(trace: RouterTrace, phase: str) -> int:
    """Tokens of a trace that a replay of the phase may draw; one step of so many draws each of them once.

    Raises InvalidInput as `replay` does.
    """
    return _line(trace, phase).size


def split(trace: RouterTrace, share: float) -> tuple[RouterTrace, RouterTrace]:
    """Cut a trace by whole sequences into a part to learn a placement on and a part to judge it by.

    share: part of the sequences to learn on, in (0, 1); they are taken evenly along the trace, so both parts see all of
    its domains. Both parts are copies in memory. Raises InvalidInput if either would be empty.
    """
    chosen = np.diff(np.floor(np.arange(trace.sequences + 1) * share + 1e-9)) > 0
    if not 0 < share < 1 or not chosen.any() or chosen.all():
        raise InvalidInput(
            Problem(
                f"a share of {share:g} leaves one part of the {trace.sequences} sequences of {trace.name} empty; "
                "write a share between 0 and 1, or capture more sequences"
            )
        )
    return select_sequences(trace, np.flatnonzero(chosen)), select_sequences(trace, np.flatnonzero(~chosen))


def split_in_time(trace: RouterTrace, share: float) -> tuple[RouterTrace, RouterTrace]:
    """Cut a trace into its earlier sequences, to learn a placement on, and its later ones, to judge it by.

    share: part of the sequences that are earlier, in (0, 1). Sequences stand in the order of the trace, or of their
    first step where steps are recorded. Raises InvalidInput, with field ``learn_share``, if either part would be empty.
    """
    order = np.arange(trace.sequences)
    if trace.step is not None:
        order = np.argsort(np.asarray(trace.step)[trace.offsets[:-1]], kind="stable")
    earlier = int(trace.sequences * share + 1e-9)
    if not 0 < share < 1 or not 0 < earlier < trace.sequences:
        message = (
            f"a share of {share:g} leaves the earlier or the later part of the {trace.sequences} sequences of "
            f"{trace.name} empty; write a share between 0 and 1, or give a trace with more sequences"
        )
        raise InvalidInput(Problem(message, "learn_share"))
    return select_sequences(trace, np.sort(order[:earlier])), select_sequences(trace, np.sort(order[earlier:]))


def select_sequences(trace: RouterTrace, sequences: np.ndarray) -> RouterTrace:
    """The trace of these sequences only (indices, in the order given), copied into memory."""
    lengths = np.diff(trace.offsets)[sequences]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.repeat(np.asarray(trace.offsets)[sequences] - offsets[:-1], lengths) + np.arange(offsets[-1])
    arrays = {
        name: None if (array := getattr(trace, name)) is None else np.take(array, tokens, axis=0)
        for name in ("ids", "gates", "phase", "step", "positions", "token_ids", "count")
    }
    labels = tuple(trace.labels[sequence] for sequence in sequences) if trace.labels else ()
    return dataclasses.replace(trace, offsets=offsets, labels=labels, **arrays)


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    """The tokens that may be drawn, as stretches of the trace laid end to end.

    start, length: [sequences] first token and number of tokens of each stretch, in the order of the line.
    end: [sequences] place behind each stretch.
    """

    start: np.ndarray
    length: np.ndarray
    end: np.ndarray

    @property
    def size(self) -> int:
        return int(self.end[-1])

    def shuffled(self, rng: np.random.Generator) -> _Line:
        order = rng.permutation(len(self.start))
        length = self.length[order]
        return _Line(self.start[order], length, np.cumsum(length))

    def tokens(self, places: np.ndarray) -> np.ndarray:
        """Token of the trace at each place of the line."""
        sequence = np.searchsorted(self.end, places, side="right")
        return (self.start + self.length - self.end)[sequence] + places


def _line(trace: RouterTrace, phase: str) -> _Line:
    """The tokens of a phase, or all where the trace records no phases. A sequence has its prefill before its decode."""
    if phase not in PHASES:
        raise InvalidInput(f"phase {phase!r} is unknown; write prefill or decode")
    start = np.asarray(trace.offsets[:-1], dtype=np.int64)
    length = np.diff(trace.offsets).astype(np.int64)
    if trace.phase is not None:
        decoded = np.add.reduceat(trace.phase, start, dtype=np.int64)
        if phase == "decode":
            start, length = start + length - decoded, decoded
        else:
            length = length - decoded
        start, length = start[length > 0], length[length > 0]
        if not len(start):
            raise InvalidInput(
                Problem(f"the trace {trace.name} has no {phase} tokens; capture some, or one that records no phases")
            )
    return _Line(start, length, np.cumsum(length))


def _decode_window(line: _Line, batch: int, step: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Places of one decode step, and how many of them an earlier slot or step has used.

    Slots start evenly spaced on the line. With fewer sequences than slots the neighbours on a sequence are dealt to
    random ranks: a rank's requests are then as different as the trace allows. Otherwise they stay in line, and ranks
    share no sequence but those that a border cuts.
    """
    starts = np.floor((np.arange(batch) + rng.random()) * (line.size / batch)).astype(np.int64)
    gap = np.diff(starts, append=starts[0] + line.size)
    again = int(np.count_nonzero(gap <= step))
    if len(line.start) < batch:
        starts = rng.permutation(starts)
    return (starts + step) % line.size, again


def _prefill_window(line: _Line, batch: int, step: int, _: np.random.Generator) -> tuple[np.ndarray, int]:
    """Places of one prefill step: the whole batch reads one run, rank after rank, and the next step reads on."""
    places = np.arange(step * batch, (step + 1) * batch)
    return places % line.size, int(np.count_nonzero(places >= line.size))


def check_geometry(trace: RouterTrace, experts: int, top_k: int) -> None:
    """Raise InvalidInput, with what to do, unless the trace chooses top_k of so many experts."""
    # Where tokens take different numbers of experts (expert choice, dynamic k), rows are as wide as the most of them.
    usual = trace.metadata.get("top_k", trace.top_k) if trace.count is not None else trace.top_k
    if (trace.experts, usual) != (experts, top_k):
        raise InvalidInput(
            Problem(
                f"the trace {trace.name} chooses {usual} of {trace.experts} experts, the model {top_k} of "
                f"{experts}; capture a miniature with the model's geometry (moesim capture --model ...), or fit a "
                "synthetic trace to this one (routing: {kind: fitted, ...})"
            )
        )
