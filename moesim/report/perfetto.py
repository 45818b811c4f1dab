"""A timeline as Chrome-trace JSON, which ui.perfetto.dev and chrome://tracing open."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from moesim.engine.timeline import Timeline, Track
from moesim.files import whole_file
from moesim.network.transfer import Transfer

TICKS_PER_MICROSECOND = 10**6


def write_chrome_trace(
    timeline: Timeline, path: str | Path, bottleneck: Callable[[Transfer], tuple[str, str] | None] = lambda _: None
) -> None:
    """Write every operation of every rank: one process a rank, one thread a stream, times in microseconds.

    bottleneck: names the ends of the link that a collective waits for, which the event then shows.
    Format: "Trace Event Format" of the Chromium project, complete events (``ph: X``).
    """
    with whole_file(path) as partial, open(partial, "w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit":"ns","traceEvents":[\n')
        file.write(",\n".join(event for track in timeline.tracks for event in _events(track, bottleneck)))
        file.write("\n]}\n")


def _events(track: Track, bottleneck: Callable[[Transfer], tuple[str, str] | None]) -> Iterator[str]:
    streams = {stream: i for i, stream in enumerate(dict.fromkeys(op.stream for op in track.program.ops))}
    ranks = track.program.ranks.tolist()
    for rank in ranks:
        yield _metadata("process_name", rank, 0, f"rank {rank}")
        for stream, thread in streams.items():
            yield _metadata("thread_name", rank, thread, stream)
    for op, starts, ends in zip(track.program.ops, track.start.tolist(), track.end.tolist(), strict=True):
        head = f'{{"ph":"X","name":{json.dumps(op.name)},"cat":"{op.kind}","tid":{streams[op.stream]}'
        if op.transfer is not None and (link := bottleneck(op.transfer)):
            head += f',"args":{{"bottleneck":{json.dumps(" → ".join(link))},"bytes":{op.transfer.sent.sum():.0f}}}'
        for rank, start, end in zip(ranks, starts, ends, strict=True):
            ts, duration = start / TICKS_PER_MICROSECOND, (end - start) / TICKS_PER_MICROSECOND
            yield f'{head},"pid":{rank},"ts":{ts:.6f},"dur":{duration:.6f}}}'


def _metadata(name: str, pid: int, tid: int, value: str) -> str:
    return json.dumps({"ph": "M", "name": name, "pid": pid, "tid": tid, "args": {"name": value}})
