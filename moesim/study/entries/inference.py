"""From a published inference figure to a scenario: a load for `moesim serve`, or one step for `moesim run`.

Steps stand for figures of pools that only compute prompts or only decode (disaggregated serving with wide EP); loads
for everything else. Where a figure does not state how many sequences are under way:

- a throughput "at" some speed of each user, or under a latency limit (MLPerf): the most that keeps to it, on the best
  deployment for it where no degrees are stated (`moesim.study.entries.choice`);
- a single stream, a minimum latency: one;
- a maximum throughput: as many as the KV cache holds at full length, at most the stack's limit. Stacks are taken to
  give layers with sliding windows as much cache as others, as TensorRT-LLM does by default;
- a latency: the entry does not state enough.

Pools with wide EP under SGLang and at DeepSeek overlap two micro-batches unless the text denies it, or where decoding
has too few sequences for it to pay (`_TWO_BATCHES_FROM`); decoding cuts its exchanges by DeepEP's hooks. Speed-ups are
over no overlap at all: SGLang's DeepEP path of 2025 computes the shared expert before dispatch (deepseek_v2.py,
`forward_deepep`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from moesim.cost.exchange import KERNELS
from moesim.errors import MoesimError
from moesim.serving.memory import kv_capacity
from moesim.serving.policy import PRESETS
from moesim.spec.assembly import assemble
from moesim.study.entries import words
from moesim.study.entries.calibration import years_ago
from moesim.study.entries.case import Assumptions, Case, NotStated
from moesim.study.entries.choice import best_at_speed
from moesim.study.entries.deployment import Server, domain, occurs, server_of
from moesim.study.entries.documents import document_of
from moesim.study.entries.entry import Entry
from moesim.study.entries.lengths import Lengths, lengths_of
from moesim.study.entries.outcome import Runner
from moesim.study.entries.quantity import Quantity
from moesim.workload.footprint import kv_bytes

_BASELINE_YEARS = 1.0
_PRESET = {"sglang": "sglang", "trtllm": "trtllm", "vllm": "vllm"}
# Sequences of a rank from which decoding overlaps two micro-batches: SGLang lost by it at 32 and won at 256.
_TWO_BATCHES_FROM = 64
ROUNDS = 3  # requests a slot of a load that keeps its server full
_LOW_LATENCY_TOKENS = 256  # of a rank, that the buffers of low-latency kernels between nodes are made for
_ALONE = r"single-stream|min[- ]latency|minimum latency|tpos|tps/user"
_SIMULATED = r"simulated mtp"
_SPEED = r"at (\d+(?:\.\d+)?) ?tok\w*/s/user"
# Drafted tokens where "MTP" stands alone: recipes of SGLang and TensorRT-LLM for one user, and for many.
_DRAFTS_ALONE, _DRAFTS = 3, 1
# Chance that a drafted token is kept, by how many are drafted, where not stated: DeepSeek-V3 reports 85-90 % for the
# second token; later ones come from the same head over its own output, of 3 TensorRT-LLM keeps 1.82 (its blog 1).
_ACCEPTANCE = {1: 0.85, 2: 0.8}
_ACCEPTANCE_OF_MORE = 0.76


@dataclass(frozen=True, slots=True)
class Traffic:
    """sequences: under way on one attention-DP rank, None: as many as fit. speed: tokens/s that every user gets.
    drafts: tokens that multi-token prediction proposes. acceptance: chance that one is kept. most: sequences beyond
    which decoding alone is too slow for the speed, None where not known. simulated: nothing drafts, tokens are doubled.
    """

    sequences: int | None
    speed: float | None
    drafts: int
    acceptance: float
    most: int | None = None
    simulated: bool = False


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
        document, kind = prefill_step(entry, server, lengths, assume, _overlap(server, text)), "prefill"
    elif decoding and quantity.what in ("tokens", "speedup", "user"):
        document, kind = decode_step(server, lengths, traffic, assume, _overlap(server, text)), "decode"
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
        kept_tokens=tokens,
        devices=entry.devices if quantity.per == "system" else None,
    )


def _age(entry: Entry, server: Server, assume: Assumptions) -> float | None:
    """Years from the software, else the document, to April 2026; a baseline of optimisations is older than they are."""
    years = years_ago(words.version(entry.software) or words.appeared(entry.source, server.hardware.name))
    if not occurs(r"\bbaseline\b", entry.parallelism.lower()):
        return years
    assume.note(f"a baseline is {_BASELINE_YEARS:g} year older than what was made of it")
    return (years or 0.0) + _BASELINE_YEARS


def traffic_of(entry: Entry, server: Server, assume: Assumptions) -> Traffic:
    """What an entry says of sequences under way and of drafts."""
    text = f"{entry.metric} {entry.batch} {entry.parallelism}".lower()
    drafts, acceptance = _drafts(text, assume)
    batch = entry.batch.lower()
    speed = re.search(_SPEED, text)
    if speed:
        return Traffic(None, float(speed[1]), drafts, acceptance)
    if occurs(_ALONE, text):
        return Traffic(1, None, drafts, acceptance)
    if limit := _mlperf_limit(entry):
        assume.note(f"at least {limit:g} tokens/s for every user (MLPerf's limit)")
        return Traffic(None, limit, drafts, acceptance)
    if server.stack == "deepseek" and "production" in entry.software.lower() and not batch:
        assume.note("20 tokens/s for every user, as DeepSeek states for its service")
        return Traffic(None, 20.0, drafts, acceptance)
    total = words.labelled(batch, "conc(?:urrency)?", "batch size", "bs") if "rank" not in batch else None
    if total:
        return Traffic(max(1, round(total / server.attention_dp)), None, drafts, acceptance)
    stated = None if occurs(r"max|peak|unstated", batch) else words.count(batch)
    if stated and "token" in batch and stated >= 4096:
        stated = None
    return Traffic(stated, None, drafts, acceptance, simulated=occurs(_SIMULATED, text))


def fastest(
    entry: Entry, server: Server, lengths: Lengths, traffic: Traffic, assume: Assumptions
) -> tuple[Server, Traffic]:
    """The deployment that serves most users at the speed that each of them gets, and the traffic with how many."""
    best, most = best_at_speed(
        server,
        _PRESET.get(server.stack, "vllm"),
        step_s=sum(traffic.acceptance**i for i in range(traffic.drafts + 1)) / traffic.speed,
        queries=1 + traffic.drafts,
        context=lengths.input + (lengths.output or 0) // 2,
        devices=entry.devices or domain(server.hardware),
    )
    how = (
        f"attention DP and EP over {best.devices}"
        if best.attention_dp > 1
        else f"tensor parallelism over {best.devices}"
    )
    assume.note(f"{how} devices, the best at that speed")
    return best, replace(traffic, most=most)


def _drafts(text: str, assume: Assumptions) -> tuple[int, float]:
    """(drafted tokens, chance that one is kept); (0, 0) without multi-token prediction."""
    if not occurs(r"\bmtp|eagle|speculative", text) or occurs(r"(no|without|w/o) (mtp|spec)", text):
        return 0, 0.0
    match = re.search(r"mtp[- ]?(\d)|mtp (\d)|(\d) (?:draft )?tokens", text)
    usual = _DRAFTS_ALONE if occurs(_ALONE, text) else _DRAFTS
    drafts = int(assume.take(next(filter(None, match.groups())) if match else None, usual, "drafted tokens:"))
    kept = re.search(r"accept\w* (?:length |rate )?(\d(?:\.\d+)?)", text)
    if kept and 1 < float(kept[1]) <= drafts + 1:
        acceptance = _chance(float(kept[1]), drafts)
    elif occurs(_SIMULATED, text):
        acceptance = 1.0
    else:
        acceptance = _ACCEPTANCE.get(drafts, _ACCEPTANCE_OF_MORE)
        assume.note(f"drafted tokens are kept with chance {acceptance}")
    return drafts, acceptance


def _chance(length: float, drafts: int) -> float:
    """The chance a with 1 + a + … + a^drafts = length."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(middle**i for i in range(drafts + 1)) < length else (low, middle)
    return round(low, 4)


def _mlperf_limit(entry: Entry) -> float | None:
    """Tokens/s that a user must get in MLPerf's server and interactive scenarios; None elsewhere.

    MLPerf Inference rules, p99 TPOT: DeepSeek-R1 80 ms server, 15 ms interactive; gpt-oss-120b 80 ms and 15 ms;
    Mixtral 200 ms. From memory, unverified.
    """
    text = entry.metric.lower()
    if "mlperf" not in f"{text} {entry.source.lower()}" or not occurs(r"server|interactive", text):
        return None
    if "interactive" in text:
        return 1 / 0.015
    return 1 / (0.2 if words.model(entry.model) == "mixtral-8x7b" else 0.08)


def load(server: Server, lengths: Lengths, traffic: Traffic, assume: Assumptions, runner: Runner) -> dict[str, object]:
    """A closed loop on one server: the file of `moesim serve`."""
    preset = assume.take(_PRESET.get(server.stack), "vllm", "serving rules of")
    rank = traffic.sequences or min(capacity(server, str(preset), lengths), traffic.most or math.inf)
    if traffic.sequences is None and traffic.most is None:
        assume.note(f"{rank * server.attention_dp} requests in flight, as many as the KV cache holds")
    in_flight = rank * server.attention_dp
    rules: dict[str, object] = {"preset": preset, "prefix_caching": False}
    if preset == "trtllm":
        rules["token_budget"] = max(PRESETS["trtllm"].token_budget, -(-(rank + lengths.input + 64) // 64) * 64)
    if traffic.drafts:
        rules |= {"draft_tokens": traffic.drafts, "acceptance": traffic.acceptance}
    document = server.document() | {
        "network": {"fidelity": "bound"},
        "load": {
            "requests": max(8, ROUNDS * in_flight),
            "arrivals": {"kind": "closed_loop", "in_flight": in_flight},
            "input": {"kind": "fixed", "tokens": lengths.input},
            "output": {"kind": "fixed", "tokens": lengths.output or 1},
        },
        "server": rules,
    }
    document["placement"] = _even_slots(server, document["placement"])
    return document if traffic.speed is None else slowed(document, traffic.speed, assume, runner)


def _even_slots(server: Server, placement: dict) -> dict:
    """Loads are priced without replicas: every rank has equally many experts."""
    if not server.model.moe_layers:
        return placement
    routed = server.model.layers[server.model.moe_layers[0]].experts.routed
    if routed % server.ep:
        raise NotStated(f"a load on {server.ep} ranks that do not divide {routed} experts is not simulated")
    return {"kind": "contiguous", "slots_per_rank": routed // server.ep}


def capacity(server: Server, preset: str, lengths: Lengths) -> int:
    """Sequences of full length that one rank's KV cache holds, at most the preset's limit. Raises NotStated."""
    step = server.document() | {"workload": {"kind": "decode", "sequences_per_rank": 1, "context": 1}}
    step["routing"] = {"kind": "balanced"}
    try:
        deployment = assemble(document_of(step)).deployment
        policy = PRESETS[preset]
        whole = lengths.input + (lengths.output or 1)
        cached = kv_capacity(deployment, policy, whole) * kv_bytes(deployment, whole) / whole
    except MoesimError as error:
        raise NotStated(f"no such server: {error}") from None
    layers = tuple(
        replace(layer, attention=replace(layer.attention, window=0)) if layer.attention else layer
        for layer in deployment.model.layers
    )
    unwindowed = replace(deployment, model=replace(deployment.model, layers=layers))
    return max(1, min(policy.max_sequences, int(cached / kv_bytes(unwindowed, whole))))


def slowed(document: dict[str, object], speed: float, assume: Assumptions, runner: Runner) -> dict[str, object]:
    """The load with the most requests in flight that still give every user `speed` tokens/s on average."""

    def with_flight(flight: int) -> dict[str, object]:
        load = {**document["load"], "requests": max(8, 2 * flight)}
        return {**document, "load": load | {"arrivals": {"kind": "closed_loop", "in_flight": flight}}}

    step = document["parallelism"]["attention_dp"]
    low, high = 1, max(1, document["load"]["arrivals"]["in_flight"] // step)
    if runner.run(with_flight(high * step)).tpot_s <= 1 / speed:
        low = high
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        low, high = (middle, high) if runner.run(with_flight(middle * step)).tpot_s <= 1 / speed else (low, middle)
    assume.note(f"{low * step} requests in flight, the most that leave every user {speed:g} tokens/s")
    return with_flight(low * step)


def _overlap(server: Server, text: str) -> dict[str, object]:
    """Two micro-batches in turns where SGLang and DeepSeek serve with wide EP."""
    if server.ep <= 8 or server.stack not in ("sglang", "deepseek"):
        return {"kind": "shared_expert"}
    if occurs(r"(without|no|w/o) (tbo|two)", text):
        return {"kind": "none"}
    return {"kind": "two_batch"}


def decode_step(
    server: Server, lengths: Lengths, traffic: Traffic, assume: Assumptions, overlap: dict[str, object]
) -> dict[str, object]:
    """One decode step of a pool that only decodes: the file of `moesim run`."""
    context = lengths.input + (lengths.output or 0) // 2
    sequences = traffic.sequences
    if sequences is None:
        preset = _PRESET.get(server.stack, "sglang")
        room = capacity(server, preset, Lengths(context, 1))
        if server.devices > domain(server.hardware):
            room = min(room, _LOW_LATENCY_TOKENS)
        sequences = room - room % 2 if room > 1 else 1
        assume.note(f"{sequences} sequences a rank")
    work: dict[str, object] = {"kind": "decode", "sequences_per_rank": sequences, "context": context}
    if traffic.drafts:
        work["speculative"] = {"draft_tokens": traffic.drafts, "acceptance": traffic.acceptance} | (
            # SGLang simulated drafts by doubling the tokens, and its attention read the cache for each of them.
            {"draft": {"kind": "lookup"}, "cache_reads": "each_token"}
            if traffic.simulated
            else {"draft": {"kind": "mtp"}}
        )
    kernel = _kernel(server, prompts=False)
    if overlap["kind"] == "two_batch" and sequences < _TWO_BATCHES_FROM:
        overlap = {"kind": "shared_expert"}
    elif overlap["kind"] == "two_batch" and KERNELS[kernel].hooks:
        overlap = {**overlap, "hooks": True}
    return server.document() | {
        "workload": work,
        "overlap": overlap,
        "network": {"all_to_all": kernel},
        "precision": _on_the_wire(server, kernel),
    }


def prefill_step(
    entry: Entry, server: Server, lengths: Lengths, assume: Assumptions, overlap: dict[str, object]
) -> dict[str, object]:
    """One step of a pool that only computes prompts."""
    prompt = lengths.input
    tokens = words.count(entry.batch) if occurs("tok", entry.batch.lower()) else None
    tokens = int(assume.take(tokens, max(8192, prompt), "new tokens a rank"))
    prompts = max(1, round(tokens / prompt))
    if overlap["kind"] == "two_batch" and prompts < 2:
        overlap = {"kind": "shared_expert"}
    return server.document() | {
        "workload": {"kind": "prefill", "sequences_per_rank": prompts, "prompt": prompt},
        "overlap": overlap,
        "network": {"all_to_all": _kernel(server, prompts=True)},
        "precision": _on_the_wire(server, _kernel(server, prompts=True)),
    }


def _on_the_wire(server: Server, kernel: str) -> dict[str, str]:
    """The server's formats; DeepEP sends tokens to FP8 experts in FP8."""
    narrow = kernel.startswith("deepep") and server.precision["experts"] == "fp8_block"
    return server.precision | ({"dispatch": "fp8_block"} if narrow else {})


def _kernel(server: Server, *, prompts: bool) -> str:
    """The all-to-all kernel of a wide expert-parallel pool."""
    if server.hardware.device.kind == "tpu":
        return "ragged_all_to_all"
    if not server.hardware.name.startswith(("h", "b", "g")):
        return "nccl"
    if server.stack == "trtllm" and server.hardware.name.startswith("gb"):
        return "nvlink_one_sided"
    return "deepep_normal" if prompts else "deepep_low_latency"
