"""Measures of routing: how even it is in batches, and what routers choose that were trained alike."""

from __future__ import annotations

import numpy as np

from moesim.errors import InvalidInput, Problem
from moesim.model.architecture import Experts
from moesim.routing import load as loads
from moesim.routing.latent import Geometry
from moesim.routing.trace import RouterTrace
from moesim.spec.model.file import load_model
from moesim.spec.step.routing import Routing
from moesim.spec.studies.claim_file import Count, Positive, Seed, Share

_DECODING_TOKENS = 32


def routing(
    place: str,
    *,
    model: str,
    routing: Routing,
    batch_tokens: Count = 4096,
    capacity_factor: Positive = 1.25,
    ranks: Count = 8,
    top_share: Share = 0.2,
    seed: Seed = 7,
) -> dict[str, object]:
    """How even a routing is in batches of so many tokens, means over batches and layers.

    model: says how many experts there are. dropped: share of choices beyond the capacity. top_experts: share of the
    choices that the `top_share` most chosen experts take. hottest_rank: over the mean rank, contiguous experts on so
    many ranks. utilisation: mean over hottest expert. active: share of experts chosen.
    """
    experts, depth = _experts_of(model, place)
    geometry = Geometry(depth, experts.routed, experts.top_k, experts.groups, experts.kept_groups)
    trace = routing.build(geometry, max(16_384, batch_tokens), np.random.default_rng((seed, 1)), place)
    counted = _batches(trace, batch_tokens)
    most = max(round(top_share * trace.experts), 1)
    ordered = -np.sort(-counted, axis=-1)
    ranks_load = loads.hottest_rank(counted, min(ranks, trace.experts))
    return {
        "batches": len(counted),
        **_capacity_figures(counted, capacity_factor),
        "top_experts": float((ordered[..., :most].sum(axis=-1) / counted.sum(axis=-1)).mean()),
        "hottest_expert": float(loads.max_over_mean(counted).mean()),
        "hottest_rank": float(ranks_load.mean()),
        "least_hottest_rank": float(ranks_load.min()),
        "utilisation": float((1 / loads.max_over_mean(counted)).mean()),
        "active": float((counted > 0).mean()),
    }


def _batches(trace: RouterTrace, tokens: int) -> np.ndarray:
    """Choices [batch, layer, expert] in consecutive batches of so many tokens; what is left over is left out."""
    if trace.tokens < tokens:
        raise InvalidInput(Problem(f"the routing has {trace.tokens:,} tokens; write fewer", "batch_tokens"))
    starts = range(0, trace.tokens - tokens + 1, tokens)
    return np.concatenate(
        [loads.count_choices(loads.choices(trace, slice(start, start + tokens)), trace.experts) for start in starts]
    )


def _hottest(counted: np.ndarray) -> float:
    """Hottest expert over the mean one, mean over the batches and layers in which any token chose an expert."""
    return float(loads.max_over_mean(counted[counted.sum(axis=-1) > 0]).mean())


def _capacity_figures(counted: np.ndarray, factor: float) -> dict[str, float]:
    """Shares of choices beyond the capacity. dropped: of equal capacities; adaptive: of capacities as large in all that
    follow the mean load of the earlier half, judged on the later half beside equal ones (dropped_later)."""
    drops = loads.drop_share(counted, factor)
    found = {"dropped": float(drops.mean()), "worst_dropped": float(drops.mean(axis=0).max())}
    if len(counted) > 1:
        earlier, later = np.array_split(counted, 2)
        share = earlier.sum(axis=0) / earlier.sum(axis=(0, 2))[:, None]  # [layer, expert]
        room = np.ceil(factor * share * later.sum(axis=-1, keepdims=True))
        adaptive = np.maximum(later - room, 0).sum(axis=-1) / later.sum(axis=-1)
        found |= {"dropped_later": float(loads.drop_share(later, factor).mean()), "adaptive": float(adaptive.mean())}
    return found


def router(
    place: str,
    *,
    router: str,
    experts: Count = 32,
    top_k: Count = 4,
    steps: Count = 60,
    scenarios: tuple[str, ...] = ("routers-gb200",),
    capacity_factor: Positive = 1.25,
    batch_tokens: Count = 1024,
) -> dict[str, object]:
    """A router trained in the reference model for some steps, and what it chose on held-out text. Needs torch.

    held_out_loss (nats); dropped (share of choices); utilisation (mean over hottest expert); max_over_mean;
    beyond_capacity (share of choices, in batches of batch_tokens); hottest_in: over the mean expert, in ``batch`` (that
    the router saw at once) and in the ``step`` of a decoding rank with 32 tokens; step_s by scenario, whose model
    replays the choices.
    """
    from moesim.lab.compare import train_routers
    from moesim.lab.training import Schedule
    from moesim.study.comparison.compare_routers import compare_routers

    run = train_routers((router,), experts=experts, top_k=top_k, steps=steps)[0]
    row = compare_routers([run], scenarios).iloc[0]
    schedule = Schedule(steps=steps)
    seen = {"batch": schedule.sequences * schedule.length, "step": _DECODING_TOKENS}
    return {
        "held_out_loss": run.held_out_loss,
        "dropped": run.dropped,
        "utilisation": run.moments.utilisation,
        "max_over_mean": run.moments.max_over_mean,
        "beyond_capacity": float(loads.drop_share(_batches(run.trace, batch_tokens), capacity_factor).mean()),
        "hottest_in": {name: _hottest(_batches(run.trace, tokens)) for name, tokens in seen.items()},
        "step_s": {name.replace("-", "_"): float(row[f"{name}_step_s"]) for name in scenarios},
    }


def _experts_of(name: str, place: str) -> tuple[Experts, int]:
    found = load_model(name, beside=place)
    if not found.moe_layers:
        raise InvalidInput(Problem(f"{name} has no experts", "model"))
    return found.layers[found.moe_layers[0]].experts, len(found.moe_layers)
