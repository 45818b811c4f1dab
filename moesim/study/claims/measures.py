"""What a claim can measure. Each function's keyword-only arguments are the keys of a run in a claim file.

A measure gets the claim file's own path (relative paths start there) and returns nested mappings whose numbers a
formula names with dots; texts and lists in them are dropped. It raises Infeasible where something does not fit, which
is a result, and InvalidInput where the file is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, JsonValue

from moesim.errors import InvalidInput, Problem
from moesim.hardware.fabrics import build_cluster
from moesim.hardware.topology import injection_bandwidth
from moesim.model.parameters import active_parameters, parameters
from moesim.model.per_token import forward_flops, kv_elements, kv_elements_per_token
from moesim.routing import load as loads
from moesim.routing.latent import Geometry
from moesim.routing.trace import RouterTrace
from moesim.spec.assembly import read_scenario
from moesim.spec.fabric import FabricOptions
from moesim.spec.loading import Document
from moesim.spec.model_file import load_model
from moesim.spec.profile import load_profile
from moesim.spec.routing import Routing

Count = Annotated[int, Field(ge=1, le=10**9)]
Positive = Annotated[float, Field(gt=0)]
Changes = dict[str, JsonValue]
Measure = Callable[..., Mapping[str, object]]

# Sums over a step's operations by what they are for; a backward or exposed part counts with its operation.
PARTS = {
    "all_to_all": ("dispatch", "combine"),
    "experts": ("experts",),
    "router": ("router",),
    "all_reduce": ("all_reduce",),
}
_DECODING_TOKENS = 32
_SCALE_UP = ("nvlink", "xgmi", "ici", "pcie")


def scenario(place: str, *, scenario: str, set: Changes = {}) -> dict[str, object]:  # noqa: B006 (never written to)
    """A scenario of any kind, run once: all that its ``--json`` prints, and a step's seconds and shares by part.

    scenario: a shipped name, or a path from the claim file. set: fields changed in it.
    """
    from moesim.study.scenarios import run_document

    metrics = dict(run_document(_changed(scenario, set, place)).metrics)
    if "breakdown_s" in metrics:
        spent = {
            part: sum(
                seconds for kind, seconds in metrics["breakdown_s"].items() if any(word in kind for word in words)
            )
            for part, words in PARTS.items()
        }
        metrics["part_s"] = spent
        metrics["share"] = {part: seconds / metrics["step_time_s"] for part, seconds in spent.items()}
    return metrics


def model(place: str, *, model: str, length: Count = 4096) -> dict[str, object]:
    """A model's sheet: parameters, all and active, by kind; FLOPs and cached elements a token; one expert.

    model: a name of the catalogue, NAME-dense-twin or a path. length: of a sequence, for attention and the cache.
    """
    found = load_model(model, beside=place)
    total, active = parameters(found), active_parameters(found)
    sheet: dict[str, object] = {
        "total": total.total,
        "active": active.total,
        "active_without_embeddings": active.without_embeddings,
        "by_kind": asdict(total),
        "active_by_kind": asdict(active),
        "hidden": found.hidden,
        "layers": len(found.layers),
        "moe_layers": len(found.moe_layers),
        "kv_elements_per_token": kv_elements_per_token(found),
        "kv_elements": kv_elements(found, length),
        "forward_flops": forward_flops(found, length),
        # A token meets every weight of its routers once: a product and a sum.
        "router_flops": 2 * active.router,
    }
    attention = found.layers[-1].attention
    if attention is not None:
        # What multi-head attention would cache: a key and a value for each head (DeepSeek-V2, arXiv:2405.04434, 2.1.1).
        width = attention.qk_nope_head_dim if attention.kind == "mla" else attention.head_dim
        sheet["heads"] = attention.heads
        sheet["multi_head_kv_elements"] = (
            attention.heads * (width + (attention.v_head_dim or width)) * len(found.layers)
        )
    if found.moe_layers:
        experts = found.layers[found.moe_layers[0]].experts
        sheet |= {
            "experts": experts.routed,
            "top_k": experts.top_k,
            "expert_parameters": total.routed_experts / (len(found.moe_layers) * experts.routed),
        }
    return sheet


def hardware(place: str, *, hardware: str, devices: Count = 1) -> dict[str, object]:
    """A profile's figures: peaks, HBM, links one way, memory tiers, power, price. devices: of the cluster whose links
    are counted."""
    found = load_profile(hardware, beside=place)
    cluster = build_cluster(found, devices)
    return {
        "peak": dict(found.device.peak),
        "hbm_bytes": found.device.hbm_bytes,
        "hbm_bytes_per_s": found.device.hbm_bytes_per_s,
        "scale_up_bytes_per_s": found.device.scale_up_bytes_per_s,
        "injection_bytes_per_s": sum(injection_bandwidth(cluster, kind) for kind in _SCALE_UP) / cluster.ranks,
        "host_bytes_per_s": found.host.link_bytes_per_s,
        "watts": found.watts,
        "watts_all_in": found.watts_all_in,
        "usd_per_hour": found.usd_per_hour,
        "tiers": {
            tier.name: {
                "capacity_bytes": tier.capacity_bytes,
                "bytes_per_s": tier.bytes_per_s,
                "latency_s": tier.latency_s,
                "devices": tier.devices,
                "shared_bytes_per_s": tier.shared_bytes_per_s,
            }
            for tier in found.memory_tiers
        },
    }


def routing(
    place: str,
    *,
    model: str,
    routing: Routing,
    batch_tokens: Count = 4096,
    capacity_factor: Positive = 1.25,
    ranks: Count = 8,
    top_share: Annotated[float, Field(gt=0, le=1)] = 0.2,
    seed: Annotated[int, Field(ge=0)] = 7,
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


def collective(
    place: str,
    *,
    hardware: str,
    devices: Count,
    bytes_per_rank: Positive,
    operation: Literal["all_to_all", "all_reduce", "all_gather"] = "all_to_all",
    fabric: FabricOptions = FabricOptions(),  # noqa: B008 (frozen)
) -> dict[str, object]:
    """One collective of all devices on the empty network, wire and hops without kernels.

    fabric: as a scenario's ``cluster.options``. bytes_per_rank: of a rank's whole buffer; an all-to-all sends an equal
    part to every rank. time_s: until the last rank is done; wire_s: of the fullest link; latency_s: hops. link_bytes:
    on the fullest link. sent_bytes: by a rank.
    """
    from moesim.network import collectives
    from moesim.network.routes import build_network

    found = load_profile(hardware, beside=place)
    network = build_network(build_cluster(found, devices, **fabric.choices()))
    ranks = np.arange(devices)
    if operation == "all_to_all":
        done = collectives.all_to_all(network, ranks, np.full((devices, devices), bytes_per_rank / devices))
    else:
        done = getattr(collectives, operation)(network, ranks, bytes_per_rank)
    return {
        "time_s": float(done.alone_s.max()),
        "wire_s": done.wire_s,
        "latency_s": float(done.latency_s.max()),
        "link_bytes": float(done.load.max(initial=0.0)),
        "sent_bytes": float(done.sent.max()),
        "busiest_link_share": float(
            (done.load / network.capacity[done.links]).max(initial=0.0) / max(done.wire_s, 1e-300)
        ),
    }


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
    from moesim.study.compare_routers import compare_routers

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


def arithmetic(place: str, *, values: dict[str, float]) -> dict[str, float]:
    """Stated numbers by name: what a claim itself states, to be computed with."""
    return dict(values)


MEASURES: dict[str, Measure] = {
    "scenario": scenario,
    "model": model,
    "hardware": hardware,
    "routing": routing,
    "collective": collective,
    "router": router,
    "arithmetic": arithmetic,
}


def document_of(kind: str, written: Mapping[str, object], file: str) -> Document:
    """What a run stands on, as a document whose named files `moesim.study.inputs.Inputs` finds.

    A scenario is checked here, so that a wrong field is told before anything runs. Raises InvalidInput.
    """
    if kind != "scenario":
        return Document(file, dict(written), {}, {})
    from moesim.study.scenarios import kind_of

    document = _changed(written["scenario"], written["set"], file)
    document.check(kind_of(document).schema)
    return document


def _changed(name: str, changes: Changes, place: str) -> Document:
    document = read_scenario(name, beside=place)
    for field, value in changes.items():
        document = document.with_value(field, value)
    return document


def _experts_of(name: str, place: str) -> tuple[object, int]:
    found = load_model(name, beside=place)
    if not found.moe_layers:
        raise InvalidInput(Problem(f"{name} has no experts", "model"))
    return found.layers[found.moe_layers[0]].experts, len(found.moe_layers)
