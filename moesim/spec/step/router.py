"""The ``router:`` and ``capacity:`` blocks of a scenario: how experts are chosen, and how many tokens they take."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from moesim.errors import InvalidInput, Problem
from moesim.model.architecture import Experts
from moesim.routing.dropping import GROUPS, Limit
from moesim.routing.route_cache import KEYS, CacheQuality, measure_route_cache
from moesim.routing.trace import RouterTrace
from moesim.spec.reading.kinds import kinds
from moesim.spec.reading.loading import Spec
from moesim.spec.step.offload import earlier_and_later
from moesim.workload.routers import RouterPolicy

Key = Literal[KEYS]
_EVERY_KEY = 2**31  # entries of a cache that never forgets


def _fused() -> None:
    """The product, then one kernel for scores, choice and weights, as engines run it."""


def _unfused() -> None:
    """The product, then a kernel for every operation of the choice, as a plain framework runs it."""


def _two_stage(*, groups: int, kept_groups: int) -> None:
    """First groups of experts, then experts of the kept groups. The routes are the trace's all the same."""


def _frozen() -> None:
    """Routes fixed before serving and looked up by token (hash layers, StableMoE). The routes are the trace's."""


def _route_cache(*, key: Key, entries: int = 65536, window: int = 0) -> None:
    """Routes of known keys are looked up, the others computed; the hit rate is measured on the trace."""


KINDS = {
    "fused": _fused,
    "unfused": _unfused,
    "two_stage": _two_stage,
    "frozen": _frozen,
    "route_cache": _route_cache,
}
RouterKind = kinds(KINDS)


class Capacity(Spec):
    """Experts take at most factor · tokens · k / experts tokens of a group; later choices are dropped.

    group: tokens of one rank (GShard's local groups) or of the whole batch.
    """

    factor: Annotated[float, Field(gt=0, le=10**6)]
    group: Literal[GROUPS] = "rank"

    def limit(self) -> Limit:
        """What `moesim.routing.dropping.drop_over_capacity` takes."""
        return Limit(self.factor, self.group)


def router_of(
    chosen: RouterKind, experts: Experts | None, trace: RouterTrace | None
) -> tuple[RouterPolicy, CacheQuality | None]:
    """The router to price and, for routes that are looked up, how good they are on the later half of the trace.

    Raises InvalidInput with fields below ``router``.
    """
    options = chosen.options()
    if experts is None or chosen.kind in ("fused", "unfused"):
        return RouterPolicy(chosen.kind), None
    if chosen.kind == "two_stage":
        _check_stages(experts, **options)
        return RouterPolicy(chosen.kind, options), None
    if chosen.kind == "frozen":
        if trace.token_ids is None:
            return RouterPolicy(chosen.kind), None
        quality = measure_route_cache(*earlier_and_later(trace), key="token", entries=_EVERY_KEY)
        return RouterPolicy(chosen.kind), quality
    problems = [
        Problem(f"write a whole number of at least {least}, not {options[name]}", name)
        for name, least in (("entries", 1), ("window", 0))
        if options[name] < least
    ]
    if problems:
        raise InvalidInput(problems)
    quality = measure_route_cache(*earlier_and_later(trace), **options)
    return RouterPolicy(chosen.kind, {"hit_rate": quality.mean_hit_rate}), quality


def _check_stages(experts: Experts, groups: int, kept_groups: int) -> None:
    problems = []
    if groups < 1 or experts.routed % groups:
        problems.append(Problem(f"{groups} groups do not divide the {experts.routed} experts", "groups"))
    elif not 1 <= kept_groups <= groups:
        problems.append(Problem(f"{kept_groups} of {groups} groups cannot be kept", "kept_groups"))
    elif kept_groups * (experts.routed // groups) < experts.top_k:
        problems.append(Problem(f"too few groups to choose top_k {experts.top_k} from", "kept_groups"))
    if problems:
        raise InvalidInput(problems)
