"""How many servers of a candidate a load needs, and what binds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from moesim.errors import Infeasible, InvalidInput
from moesim.model.architecture import MoEModel
from moesim.spec.studies.plan_file import Plan
from moesim.study.planning.bench import Bench, Look, bench_for
from moesim.study.planning.candidates import Candidate

_MOST_SERVERS = 4096


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A candidate with as many servers as it needs. servers, prefill_servers: 0 where no number meets the objectives.

    look: with them; or of an empty server, which then misses already. binds: what one server less, or an empty one,
    misses. note: why it could not be looked at, or "". miss: the larger of TTFT and TPOT over what is allowed.
    """

    candidate: Candidate
    servers: int
    prefill_servers: int
    look: Look | None
    binds: str
    note: str = ""
    miss: float = math.inf

    @property
    def devices(self) -> int:
        """All of them."""
        own = self.servers * self.candidate.layout.devices
        return own + (self.prefill_servers * self.candidate.prefill.devices if self.candidate.prefill else 0)


def evaluate(bench: Bench, candidate: Candidate, least: tuple[int, int], most_servers: int) -> Evaluation:
    """Find how many servers meet the objectives: each takes its share of the load; pools by turns."""
    idle = bench.idle()
    if not bench.meets(idle):
        return Evaluation(candidate, 0, 0, idle, f"{bench.misses(idle)} on an empty server", miss=bench.miss(idle))
    if candidate.prefill is not None:
        return _evaluate_pools(bench, candidate, least, most_servers)
    rate = bench.plan.load.rate
    looks: dict[int, Look] = {}

    def meets(servers: int) -> bool:
        if servers not in looks:
            looks[servers] = bench.look(rate / servers)
        return bench.meets(looks[servers])

    servers = _fewest(meets, least[0], most_servers)
    if servers is None:
        most = max(looks)
        told = f"{bench.misses(looks[most])} on {most} servers"
        return Evaluation(candidate, 0, 0, looks[most], told, miss=bench.miss(looks[most]))
    binds = bench.misses(looks[servers - 1]) if servers - 1 in looks else ""
    return Evaluation(candidate, servers, 0, looks[servers], binds or "one server is enough")


def _fewest(meets: Callable[[int], bool], least: int, most: int) -> int | None:
    """The smallest number from `least` to `most` that meets, more always being better; None if `most` does not."""
    low, high = least - 1, least
    while not meets(high):
        if high >= most:
            return None
        low, high = high, min(most, 2 * high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle, high)
    return high


def _evaluate_pools(bench: Bench, candidate: Candidate, least: tuple[int, int], most_servers: int) -> Evaluation:
    """Decode and prefill servers: the pool whose latency misses grows, until both meet; then each is shrunk again."""
    servers, prefill = least
    rate, binds = bench.plan.load.rate, ""
    for _ in range(60):
        look = bench.look(rate, servers, prefill)
        if bench.meets(look):
            break
        binds = bench.misses(look)
        slow_tpot = look.tpot_s > bench.plan.slo.tpot and math.isfinite(look.tpot_s)
        slow_ttft = look.ttft_s > bench.plan.slo.ttft
        overload = not math.isfinite(look.tpot_s)
        servers += max(1, servers // 4) if slow_tpot or overload else 0
        prefill += max(1, prefill // 4) if (slow_ttft and not slow_tpot) or overload else 0
        if servers + prefill > most_servers:
            told = f"{binds} on {servers} + {prefill} servers"
            return Evaluation(candidate, 0, 0, look, told, miss=bench.miss(look))
    for shrink in ("prefill", "servers"):
        while True:
            fewer = (servers, prefill - 1) if shrink == "prefill" else (servers - 1, prefill)
            if min(fewer) < 1:
                break
            smaller = bench.look(rate, *fewer)
            if not bench.meets(smaller):
                binds = bench.misses(smaller) or binds
                break
            (servers, prefill), look = fewer, smaller
    return Evaluation(candidate, servers, prefill, look, binds or "one server of each is enough")


Group = list[tuple[Candidate, tuple[int, int], int]]


def look_at(plan: Plan, model: MoEModel, group: Group, file: str) -> list[Evaluation]:
    """Evaluate candidates that differ in batch limits alone, each with (least servers, most servers).

    Their kernels are priced once.
    """
    found: list[Evaluation] = []
    for candidate, least, most in sorted(group, key=lambda one: -one[0].max_sequences):
        wider = found[-1] if found else None
        if wider and wider.look and wider.look.batch <= candidate.max_sequences and math.isfinite(wider.look.ttft_s):
            # Its batches never reached this limit either: the same requests meet the same server.
            found.append(replace(wider, candidate=candidate))
            continue
        try:
            bench = bench_for(plan, model, candidate, file)
        except (InvalidInput, Infeasible) as error:
            found.append(Evaluation(candidate, 0, 0, None, "", str(error)))
            continue
        found.append(evaluate(bench, candidate, least, min(most, _MOST_SERVERS)))
    return found
