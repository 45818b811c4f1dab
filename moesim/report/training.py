"""Everything that ``moesim run --out`` writes of a training step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from moesim.engine.timeline import Timeline, Track
from moesim.files import write_text
from moesim.report.figures.canvas import new_figure, save_figure
from moesim.report.perfetto import write_chrome_trace
from moesim.study.step.train import TrainingResult

COLOURS = {
    "forward": "#2f5d8a",
    "backward": "#2e7d4f",
    "weight gradients": "#8bc34a",
    "recomputed": "#e0a030",
    "optimizer": "#b03060",
}
_GAP_TICKS = 10**8  # 0.1 ms: shorter pauses inside a pass do not show


def write_training_report(result: TrainingResult, folder: str | Path) -> list[Path]:
    """The pipeline (PNG), the timeline of one rank a stage (Chrome-trace JSON) and the metrics (JSON)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    picture, events, metrics = folder / "pipeline.png", folder / "timeline.json", folder / "metrics.json"
    draw_pipeline(result.timeline, picture, result.assembly.title)
    write_chrome_trace(Timeline(tuple(_first_rank(track) for track in result.timeline.tracks)), events)
    write_text(metrics, json.dumps(result.metrics, ensure_ascii=False, indent=2, allow_nan=False) + "\n")
    return [picture, events, metrics]


def draw_pipeline(timeline: Timeline, path: str | Path, title: str = "") -> None:
    """What the first rank of each pipeline stage computes when; white is waiting."""
    figure, (axes,) = new_figure(12, 1.6 + 0.32 * max(len(timeline.tracks), 4))
    for row, track in enumerate(timeline.tracks):
        by_phase: dict[str, list[tuple[float, float]]] = {}
        for phase, begin, end in spans(track):
            by_phase.setdefault(phase, []).append((begin / 1e12, (end - begin) / 1e12))
        for phase, bars in by_phase.items():
            axes.broken_barh(bars, (row + 0.08, 0.84), facecolors=COLOURS[phase], linewidth=0)
    for phase, colour in COLOURS.items():
        axes.barh(0, 0, color=colour, label=phase)
    axes.set(xlabel="s", ylabel="pipeline rank", ylim=(len(timeline.tracks), 0), title=title)
    axes.set_yticks([row + 0.5 for row in range(len(timeline.tracks))], range(len(timeline.tracks)))
    axes.legend(ncols=len(COLOURS), loc="upper left", bbox_to_anchor=(0, -0.12), frameon=False)
    save_figure(figure, path)


def spans(track: Track) -> Iterator[tuple[str, int, int]]:
    """(phase, begin, end) in ticks of the first rank's computing, neighbours of one phase as one."""
    current: tuple[str, int, int] | None = None
    for op, start, end in zip(track.program.ops, track.start[:, 0].tolist(), track.end[:, 0].tolist(), strict=True):
        if op.stream != "compute" or end == start:
            continue
        phase = _phase(op.kind)
        if current and current[0] == phase and start - current[2] < _GAP_TICKS:
            current = (phase, current[1], end)
            continue
        if current:
            yield current
        current = (phase, start, end)
    if current:
        yield current


def _phase(kind: str) -> str:
    if kind.startswith(("optimizer", "recomputed")):
        return kind.partition("_")[0]
    ending = kind.rpartition("_")[2]
    return {"backward": "backward", "weights": "weight gradients"}.get(ending, "forward")


def _first_rank(track: Track) -> Track:
    """The track of a program's first rank; its messages share a stream a kind."""
    ops = tuple(
        replace(
            op,
            seconds=None if op.seconds is None else op.seconds[:1],
            stream=op.kind if op.kind.startswith(("send_", "receive_")) else op.stream,
        )
        for op in track.program.ops
    )
    program = replace(track.program, ranks=track.program.ranks[:1], ops=ops)
    return Track(program, track.start[:, :1], track.end[:, :1])
