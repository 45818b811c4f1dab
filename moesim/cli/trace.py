"""``moesim trace`` and ``moesim import-trace``: look at router traces, and read those of other systems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.completion import complete_trace
from moesim.cli.options import JsonOption
from moesim.cli.output import note, note_written, print_json, print_table, say


def trace(
    traces: Annotated[
        list[str],
        typer.Argument(
            help="Shipped captures or .safetensors files; several are compared.", autocompletion=complete_trace
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for pictures.")] = None,
    json: JsonOption = False,
) -> None:
    """Judge the health of router traces: balance, collapse, locality, layer dependence, drift."""
    from moesim.spec.reading import library
    from moesim.study.inspection.trace_health import comparison_as_json, examine, health_as_json

    seen = [examine(library.find("trace", name)) for name in traces]
    if out is not None:
        from moesim.report.figures.traces import write_trace_report

        note_written(write_trace_report(seen, out))
    if json:
        print_json(health_as_json(seen[0]) if len(seen) == 1 else comparison_as_json(seen))
        return
    for each in seen:
        _print_health(each)
    if len(seen) > 1:
        _print_comparison(seen)


def _print_health(seen) -> None:
    from moesim.routing.verdicts import verdicts

    kind = "synthetic" if seen.synthetic else "captured"
    size = f"{seen.tokens:,} tokens, {seen.layers} MoE layers, {seen.experts} experts top-{seen.top_k}"
    say(f"{seen.name} ({kind}): {size}")
    moments = seen.moments
    rows = [
        ("hottest expert / mean", f"{moments.max_over_mean:.2f}"),
        ("Gini", f"{moments.gini:.3f}"),
        ("entropy ratio", f"{moments.entropy_ratio:.3f}"),
        *(
            (f"hottest rank / mean at EP{ranks}", f"{value:.2f}")
            for ranks, value in (moments.hottest_rank or {}).items()
        ),
        *((f"autocorrelation at lag {lag}", f"{value:.3f}") for lag, value in (moments.autocorrelation or {}).items()),
    ]
    if moments.next_layer_hit is not None:
        rows.append(
            (
                "next layer foretold",
                f"{moments.next_layer_hit:.2f} (by popularity alone {moments.next_layer_popularity:.2f})",
            )
        )
    print_table(rows)
    for verdict in verdicts(seen):
        say(f"  {verdict.level}: {verdict.text}")
    say()


def _print_comparison(seen) -> None:
    from moesim.study.inspection.trace_health import comparison

    table = comparison(seen).set_index("trace").T
    print_table(
        ((name, *(_cell(value) for value in row)) for name, row in zip(table.index, table.to_numpy(), strict=True)),
        header=("", *table.columns),
        right=range(1, len(seen) + 1),
    )


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:.3g}"
    return str(value)


def import_trace(
    log: Annotated[Path, typer.Argument(help="A routing log, or a folder of TensorRT-LLM statistics.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Trace (or load table, from counts) to write.")],
    format: Annotated[str | None, typer.Option("--format", help="Format of the log; found from its content.")] = None,
    experts: Annotated[
        int | None, typer.Option("--experts", help="Routed experts, where the log does not say.")
    ] = None,
    keep_dummies: Annotated[bool, typer.Option("--keep-dummies", help="Keep rows that look like warm-up.")] = False,
) -> None:
    """Read routing logs of transformers, SGLang, vLLM, Megatron, veRL, NeMo-RL, TensorRT-LLM, JSON lines and .npz."""
    from moesim.routing.importers import import_routes
    from moesim.routing.load import write_load_table
    from moesim.routing.trace import RouterTrace, write_trace

    read = import_routes(log, format=format, experts=experts, keep_dummies=keep_dummies, read_pt=_read_pt)
    if isinstance(read, RouterTrace):
        write_trace(out, read)
        dropped = read.metadata.get("dropped")
        say(f"{read.tokens:,} tokens, {read.layers} layers, {read.experts} experts top-{read.top_k}")
        if dropped:
            say(f"dropped: {dropped}")
    else:
        write_load_table(out, read)
        say(f"counts only: a load table of {read.load.shape[0]} layers and {read.load.shape[1]} experts; use it with")
        say(f"  routing: {{kind: bootstrap, table: {out}}}")
    note(f"wrote {out}")


def _read_pt(path: Path) -> object:
    from moesim.cli.capture import need_torch

    need_torch()
    from moesim.lab.pt_files import read_pt

    return read_pt(path)
