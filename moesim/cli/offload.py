"""``moesim offload``: experts outside HBM, under every cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moesim.cli.completion import complete_scenario
from moesim.cli.options import JsonOption, set_option
from moesim.cli.output import check_folder, note, print_json, print_table, records, say
from moesim.errors import InvalidInput, Problem


def offload(
    scenario: Annotated[
        str,
        typer.Argument(
            help="Name of a shipped scenario with an offload block, or a YAML file.", autocompletion=complete_scenario
        ),
    ],
    prefetch: Annotated[
        list[str] | None, typer.Option("--prefetch", help="Predictors to compare; by default the scenario's own.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for a picture of hit rates and stalls.")] = None,
    json: JsonOption = False,
    change: Annotated[list[str] | None, set_option("Change a field, e.g. offload.steps=32.")] = None,
) -> None:
    """Compare expert caches and prefetches on the same replayed decode steps: hit rates, bytes, stalls, tokens/s."""
    from moesim.spec.assembly.step import assemble
    from moesim.spec.step.scenario_file import read_scenario
    from moesim.study.results.record import SCHEMA_VERSION, rounded, scenario_hash
    from moesim.study.step.offload import compare_policies
    from moesim.workload.offload.caches import CACHES
    from moesim.workload.offload.prefetch import PREFETCHES

    if unknown := [name for name in prefetch or () if name not in PREFETCHES]:
        raise InvalidInput(f"--prefetch {unknown[0]}: write one of {', '.join(PREFETCHES)}")
    if out is not None:
        check_folder(out)
    document = read_scenario(scenario, change or ())
    assembly = assemble(document)
    if assembly.offload is None:
        raise document.locate(InvalidInput(Problem("missing; write 'offload: {tiers: […], …}'", "offload")), "")
    guesses = prefetch or [assembly.scenario.offload.prefetch.kind]
    table = compare_policies(assembly, [(cache, guess) for guess in guesses for cache in CACHES])
    if out is not None:
        from moesim.report.figures.offload import draw_offload

        out.mkdir(parents=True, exist_ok=True)
        draw_offload(table, out / "offload.png", assembly.title)
        note(f"wrote {out / 'offload.png'}")
    if json:
        about = {"schema_version": SCHEMA_VERSION, "scenario": assembly.name, "scenario_hash": scenario_hash(document)}
        about |= {"title": assembly.title, "seed": assembly.scenario.seed}
        about["slots_per_layer"] = float(assembly.offload.kept.capacity.mean())
        print_json(rounded(about | {"policies": records(table), "provenance": assembly.provenance()}))
        return
    say(f"{assembly.name}: {assembly.title}, {assembly.scenario.offload.steps} decode steps")
    _print_kept(assembly)
    say()
    _print_policies(table)
    say()
    for name, text in assembly.provenance().items():
        say(f"{name}: {text}")


def _print_kept(assembly) -> None:
    from moesim.units import format_bytes

    job = assembly.offload
    each = format_bytes(float(job.homes.expert_bytes.max()))
    slots = job.popularity.shape[2]
    say(f"{job.kept.capacity.mean():.3g} of {slots} experts of a layer in HBM, {each} each; the rest waits in")
    for tier, held in zip(job.homes.tiers, job.homes.held, strict=True):
        say(f"  {tier.name}: {format_bytes(held)} at {tier.bytes_per_s / 1e9:.3g} GB/s a device")


def _print_policies(table) -> None:
    from moesim.units import format_bytes, format_seconds

    rows = [
        (
            row["cache"],
            row["prefetch"],
            f"{row['hit_rate']:.1%}",
            f"{row['prefetched_share']:.1%}",
            format_bytes(row["moved_bytes"]),
            format_seconds(row["stall_s"]),
            format_seconds(row["slowest_stall_s"]),
            format_seconds(row["tpot_s"]),
            f"{row['tokens_per_s']:,.1f}",
        )
        for row in table.to_dict("records")
    ]
    header = ("cache", "prefetch", "hits", "ahead", "copied a step", "mean stall", "slowest", "TPOT", "tokens/s")
    print_table(rows, header=header, right=range(2, 9))


def print_offload(found: dict) -> None:
    """The offload part of ``moesim run``: shares, and the layers that stall longest."""
    from moesim.units import format_bytes, format_seconds

    shares = f"{found['hit_rate']:.1%} hits, {found['prefetched_share']:.1%} copied ahead"
    say(
        f"offloading    {found['steps']} steps, {found['slots_per_layer']:.3g} experts a layer in HBM "
        f"({found['cache']}): {shares}, {found['fetched_share']:.1%} on demand"
    )
    if found["prediction_recall"] is not None:
        used = found["prefetches_used"]
        say(
            f"              {found['prefetch']} knew {found['prediction_recall']:.1%} of the next layer's choices"
            + (f"; {used:.1%} of its copies were used" if used is not None else "")
        )
    stall = f"the mean rank {format_seconds(found['stall_s'])} a step ({found['stall_share']:.1%})"
    stall += f", the slowest of each layer {format_seconds(found['slowest_stall_s'])}"
    say(f"              copies of {format_bytes(found['moved_bytes'])} a step stall {stall}")
    worst = sorted(found["layers"], key=lambda layer: -layer["stall_s"])[:3]
    text = ", ".join(f"{w['layer']} ({format_seconds(w['stall_s'])}, {w['hit_rate']:.0%} hits)" for w in worst)
    say(f"              longest in layers {text}")
