"""The report of one simulated training step."""

from __future__ import annotations

from moesim.report.html import plots
from moesim.report.html.page import Figure, Page, Section
from moesim.report.html.step import headline, memory_section, sure
from moesim.report.html.words import assumptions, provenance, sentence, source
from moesim.report.training import COLOURS, spans
from moesim.study.step.train import TrainingResult
from moesim.units import format_seconds


def training_page(result: TrainingResult) -> Page:
    """What a training step takes and why, with the pipeline and the memory."""
    metrics = result.metrics
    changes = f" Changed: {', '.join(metrics['changes'])}." if metrics["changes"] else ""
    step, throughput, exposed, hbm = headline(metrics)
    mfu = Figure("MFU", f"{metrics['mfu']:.1%}", f"{metrics['microbatches']} microbatches")
    bubble = Figure("pipeline bubble", f"{metrics['bubble_share']:.1%}", "of the step")
    return Page(
        title=metrics["title"],
        asked=f"How long does one training step take? {sentence(metrics['description'])}{changes}",
        answer=_answer(metrics),
        sure=sure(metrics),
        why=_why(metrics),
        headline=(step, throughput, mfu, bubble, exposed, hbm),
        sections=(
            _breakdown(metrics),
            _pipeline(result),
            memory_section(metrics),
            *assumptions(result.document, result.assembly.scenario),
            provenance(metrics["provenance"]),
        ),
        source=source(metrics, f"scenario {metrics['scenario']}"),
    )


def _answer(metrics: dict) -> str:
    flops = metrics["model_flops_per_s_per_device"] / 1e12
    share = metrics["hbm_bytes"] / metrics["hbm"]["capacity"]
    return (
        f"A step takes {format_seconds(metrics['step_time_s'])}: {metrics['tokens_per_s']:,.0f} tokens/s, "
        f"{metrics['tokens_per_s_per_device']:,.0f} per device, {flops:,.0f} model TFLOP/s per device "
        f"({metrics['mfu']:.1%} MFU). It fills {share:.0%} of the HBM of the fullest rank."
    )


def _why(metrics: dict) -> str:
    step = metrics["step_time_s"]
    longest = ", ".join(f"{kind} {value / step:.0%}" for kind, value in list(metrics["breakdown_s"].items())[:3])
    told = (
        f"The average rank computes {metrics['computing_s'] / step:.0%} of the step, stands still for collectives in "
        f"{metrics['exposed_communication_s'] / step:.0%} and for its neighbours in the pipeline in "
        f"{metrics['bubble_share']:.0%}. The largest parts are {longest}."
    )
    if rank := metrics.get("hottest_rank"):
        told += f" The hottest rank of a layer computes {rank['per_layer_over_mean']:.2f} × the mean of its layer."
    return told


def _breakdown(metrics: dict) -> Section:
    told = "Mean over ranks; the parts add up to the step. exposed: the rank stands still for that collective."
    parts = metrics["breakdown_s"]
    return Section(
        "Where the time goes", told, plots.breakdown(parts, {}, metrics["step_time_s"]), height=90 + 24 * len(parts)
    )


def _pipeline(result: TrainingResult) -> Section:
    drawn = plots.figure(barmode="overlay", legend={"orientation": "h", "y": -0.2})
    bars: dict[str, list[tuple[int, float, float]]] = {}
    for row, track in enumerate(result.timeline.tracks):
        for phase, begin, end in spans(track):
            bars.setdefault(phase, []).append((row, begin / 1e12, (end - begin) / 1e12))
    for phase in (phase for phase in COLOURS if phase in bars):
        rows, begins, lengths = zip(*bars[phase], strict=True)
        drawn.add_bar(
            name=phase, orientation="h", y=rows, base=begins, x=lengths, width=0.84,
            marker={"color": COLOURS[phase], "line": {"width": 0}},
            hovertemplate=f"{phase}, stage %{{y}}<br>from %{{base:.3f}} s, %{{x:.3f}} s long<extra></extra>",
        )  # fmt: skip
    drawn.update_yaxes(title="pipeline rank", autorange="reversed", dtick=max(1, len(result.timeline.tracks) // 16))
    drawn.update_xaxes(title="s")
    told = "What the first rank of each pipeline stage computes when; white is waiting."
    return Section("Timeline of the pipeline", told, drawn, height=200 + 26 * max(len(result.timeline.tracks), 4))
