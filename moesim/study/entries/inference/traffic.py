"""How many sequences are under way in a published inference figure, how fast each of them goes, and what drafts for it.

Where a figure does not state how many sequences are under way:

- a throughput "at" some speed of each user, or under a latency limit (MLPerf): the most that keeps to it, on the best
  deployment for it where no degrees are stated (`moesim.study.entries.inference.choice`);
- a single stream, a minimum latency: one;
- the maximum throughput of TensorRT-LLM's tables: as many as its benchmark tool queues
  (`moesim.study.entries.inference.bench`);
- any other maximum throughput: as many as the KV cache holds at full length, at most the stack's limit. Stacks are
  taken to give layers with sliding windows as much cache as others, as TensorRT-LLM does by default;
- a latency: the entry does not state enough.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from moesim.study.entries.deployment import mlperf
from moesim.study.entries.deployment.server import Server, occurs
from moesim.study.entries.inference.apart import prompt_server
from moesim.study.entries.reading import words
from moesim.study.entries.reading.case import Assumptions
from moesim.study.entries.reading.entry import Entry

_ALONE = r"single-stream|min[- ]latency|minimum latency|tpos|tps/user"
_SIMULATED = r"simulated mtp"
_OFFLINE = r"max(imum)? throughput"
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
    offline: all requests at once, as the stack's own benchmark of its maximum throughput sends them. statistic: over
    users, that keeps the speed. prompts: what computes only prompts (disaggregated), None where those do that decode.
    """

    sequences: int | None
    speed: float | None
    drafts: int
    acceptance: float
    most: int | None = None
    simulated: bool = False
    offline: bool = False
    statistic: str = "mean"
    prompts: Server | None = None


def traffic_of(entry: Entry, server: Server, assume: Assumptions) -> Traffic:
    """What an entry says of sequences under way and of drafts."""
    text = f"{entry.metric} {entry.batch} {entry.parallelism}".lower()
    drafts, acceptance = _drafts(text, server.stack, assume)
    batch = entry.batch.lower()
    speed = re.search(_SPEED, text)
    if speed:
        prompts = prompt_server(entry, server)
        return Traffic(None, float(speed[1]), drafts, acceptance, prompts=prompts)
    if occurs(_ALONE, text):
        return Traffic(1, None, drafts, acceptance)
    if limit := mlperf.limit(entry):
        assume.note(f"{limit * 1e3:g} ms a token for 99 % of users (MLPerf's limit)")
        return Traffic(None, 1 / limit, drafts, acceptance, statistic=mlperf.PERCENTILE)
    if server.stack == "deepseek" and "production" in entry.software.lower() and not batch:
        assume.note("20 tokens/s for every user, as DeepSeek states for its service")
        return Traffic(None, 20.0, drafts, acceptance)
    total = words.labelled(batch, "conc(?:urrency)?", "batch size", "bs") if "rank" not in batch else None
    if total:
        return Traffic(max(1, round(total / server.attention_dp)), None, drafts, acceptance)
    stated = None if occurs(r"max|peak|unstated", batch) else words.count(batch)
    if stated and "token" in batch and stated >= 4096:
        stated = None
    return Traffic(
        stated, None, drafts, acceptance, simulated=occurs(_SIMULATED, text), offline=occurs(_OFFLINE, batch)
    )


def _drafts(text: str, stack: str, assume: Assumptions) -> tuple[int, float]:
    """(drafted tokens, chance that one is kept); (0, 0) without multi-token prediction.

    SGLang counts the tokens that a step checks, with the one before the drafts (its server_args:
    speculative_num_draft_tokens = speculative_num_steps + 1)."""
    if not occurs(r"\bmtp|eagle|speculative", text) or occurs(r"(no|without|w/o) (mtp|spec)", text):
        return 0, 0.0
    match = re.search(r"mtp[- ]?(\d)|mtp (\d)|(\d) (?:draft )?tokens", text)
    usual = _DRAFTS_ALONE if occurs(_ALONE, text) else _DRAFTS
    drafts = int(assume.take(next(filter(None, match.groups())) if match else None, usual, "drafted tokens:"))
    if stack == "sglang" and occurs(r"\d (?:draft )?tokens", text):
        drafts = max(1, drafts - 1)
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
