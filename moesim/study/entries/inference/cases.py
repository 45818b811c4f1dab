"""From a published inference figure to a scenario: a load for `moesim serve`, or one step for `moesim run`.

Steps stand for figures of pools that only compute prompts or only decode (`pools`); loads for everything else
(`closed_loops`). `traffic` says how many sequences are under way, `choice` on which deployment where only a speed is
stated.
"""

from __future__ import annotations

import math
from dataclasses import replace

from moesim.study.entries.calibration.factors import years_ago
from moesim.study.entries.deployment.server import Server, domain, occurs, server_of
from moesim.study.entries.inference.choice import best_at_speed
from moesim.study.entries.inference.closed_loops import PRESET, load
from moesim.study.entries.inference.lengths import Lengths, lengths_of
from moesim.study.entries.inference.pools import decode_step, overlap_of, prefill_step
from moesim.study.entries.inference.traffic import Traffic, traffic_of
from moesim.study.entries.reading import words
from moesim.study.entries.reading.case import Assumptions, Case, NotStated
from moesim.study.entries.reading.entry import Entry
from moesim.study.entries.reading.quantity import Quantity
from moesim.study.entries.runs.runner import Runner

_BASELINE_YEARS = 1.0  # that a baseline is older than what a document made of it


def inference_case(entry: Entry, quantity: Quantity, runner: Runner) -> Case:
    """The case of an entry. Raises NotStated."""
    assume = Assumptions()
    if quantity.what == "tokens" and quantity.side == "" and "inferencex" in entry.source.lower():
        quantity = replace(quantity, side="total")
        assume.note("tokens in and out, as InferenceX counts them")
    server = server_of(entry, assume)
    lengths = lengths_of(entry, assume)
    traffic = traffic_of(entry, server, assume)
    if traffic.speed and quantity.what == "tokens" and not server.stated.any_degree:
        server, traffic = fastest(entry, server, lengths, traffic, assume)
    text = f"{entry.metric} {entry.parallelism}".lower()
    if quantity.what in ("tpot", "ttft") and traffic.sequences is None:
        raise NotStated("a latency without the number of requests under way")
    prompts = quantity.side == "input" or "prefill-only" in text
    decoding = bool(occurs(r"\bdecode", text)) or (server.ep > 8 and quantity.what in ("tokens", "speedup"))
    decoding = decoding and quantity.side != "total" and traffic.most is None
    if prompts and quantity.what in ("tokens", "speedup"):
        document, kind = prefill_step(entry, server, lengths, assume, overlap_of(server, text)), "prefill"
    elif decoding and quantity.what in ("tokens", "speedup", "user"):
        document, kind = decode_step(server, lengths, traffic, assume, overlap_of(server, text)), "decode"
    else:
        document, kind = load(server, lengths, traffic, assume, runner), "load"
    base = None
    if quantity.what == "speedup":
        base = {**document, "overlap": {"kind": "none"}}
        hooks = {"hooks": True} if kind == "decode" else {}
        document = {**document, "overlap": {"kind": "two_batch"} | hooks}
    tokens = sum(traffic.acceptance**i for i in range(traffic.drafts + 1)) if kind == "decode" else 1.0
    return Case(
        entry.id,
        document,
        quantity,
        f"{server.stack or 'unknown'} {kind}",
        tuple(assume.texts),
        age=_age(entry, server, assume),
        base=base,
        kept=tokens,
        devices=entry.devices if quantity.per == "system" else None,
    )


def _age(entry: Entry, server: Server, assume: Assumptions) -> float | None:
    """Years from the software, else the document, to April 2026; a baseline of optimisations is older than they are."""
    years = years_ago(words.version(entry.software) or words.appeared(entry.source, server.hardware.name))
    if not occurs(r"\bbaseline\b", entry.parallelism.lower()):
        return years
    assume.note(f"a baseline is {_BASELINE_YEARS:g} year older than what was made of it")
    return (years or 0.0) + _BASELINE_YEARS


def fastest(
    entry: Entry, server: Server, lengths: Lengths, traffic: Traffic, assume: Assumptions
) -> tuple[Server, Traffic]:
    """The deployment that serves most users at the speed that each of them gets, and the traffic with how many."""
    gained = sum(traffic.acceptance**i for i in range(traffic.drafts + 1))
    best, most = best_at_speed(
        server,
        PRESET.get(server.stack, "vllm"),
        step_s=gained / traffic.speed,
        queries=1 + traffic.drafts,
        lengths=lengths,
        steps=lengths.output / gained if lengths.output and traffic.prompts is None else math.inf,
        devices=entry.devices or domain(server.hardware),
    )
    how = (
        f"attention DP and EP over {best.devices}"
        if best.attention_dp > 1
        else f"tensor parallelism over {best.devices}"
    )
    assume.note(f"{how} devices, the best at that speed")
    return best, replace(traffic, most=most)
