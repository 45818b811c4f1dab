"""Measures that run nothing: what models and hardware profiles state."""

from __future__ import annotations

from dataclasses import asdict

from moesim.hardware.fabrics import build_cluster
from moesim.hardware.topology import injection_bandwidth
from moesim.model.parameters import active_parameters, parameters
from moesim.model.per_token import forward_flops, kv_elements, kv_elements_per_token
from moesim.spec.hardware.profile import load_profile
from moesim.spec.model.file import load_model
from moesim.spec.studies.claim_file import Count

_SCALE_UP = ("nvlink", "xgmi", "ici", "pcie")


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
