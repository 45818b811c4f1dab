"""Servers that only compute prompts beside those that decode: figures of disaggregated systems at a stated speed.

How many there are is not stated: who reports the best of a system takes as many as its users need, of the smallest kind
that holds the model, all ranks busy with prompts of their own. Peak figures are served without such a split, which an
ideal one equals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from moesim.study.entries.deployment.server import Server, occurs, routed_experts_of
from moesim.study.entries.inference.choice import prompt_seconds
from moesim.study.entries.reading.entry import Entry

BUSY = 0.8  # share of the time that they compute, at most: queues grow beyond
_APART = r"disaggregat"


def prompt_server(entry: Entry, server: Server) -> Server | None:
    """What computes prompts only, None where those do that decode."""
    return server if occurs(_APART, f"{entry.parallelism} {entry.metric}".lower()) else None


def enough(server: Server, document: Mapping[str, object], speed: float) -> dict[str, object]:
    """The ``prefill:`` block of a load whose users get `speed` tokens/s: as many servers as their prompts need."""
    load = document["load"]
    prompts_per_s = load["arrivals"]["in_flight"] * speed / load["output"]["tokens"]
    one = server.attention_dp / prompt_seconds(server, document["server"]["preset"], load["input"]["tokens"])
    own, rules = server.document(), {"preset": document["server"]["preset"], "prefix_caching": False}
    budget = document["server"].get("token_budget")
    return {
        "cluster": own["cluster"],
        "parallelism": own["parallelism"],
        "placement": {"kind": "contiguous", "slots_per_rank": max(1, routed_experts_of(server.model) // server.ep)},
        "server": rules | ({"token_budget": budget} if budget else {}),
        "servers": max(1, math.ceil(prompts_per_s / (BUSY * one))),
    }
