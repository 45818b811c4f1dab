"""Decode steps with offloaded experts, simulated: hit rates, bytes moved, and the stall of every layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from moesim.engine.simulate import simulate
from moesim.engine.timeline import Timeline
from moesim.network.fidelity import FIDELITIES
from moesim.placement.traffic import LayerTraffic
from moesim.spec.assembly.step import Assembly
from moesim.workload.footprint import Footprint, expert_bytes, footprint
from moesim.workload.inference import Step, inference_steps
from moesim.workload.offload.caches import CACHES
from moesim.workload.offload.memory import offloaded_footprint
from moesim.workload.offload.plan import Plan
from moesim.workload.offload.program import expert_seconds, join, offloaded, stalls
from moesim.workload.overlap import per_block


def simulate_offload(assembly: Assembly, plan: Plan | None = None) -> tuple[Step, Timeline]:
    """All decode steps of a scenario that offloads, one after another. plan: instead of the scenario's own policy's.

    The step that is returned holds the whole program and the traffic of all steps together.
    """
    job, deployment = assembly.offload, assembly.deployment
    plan = plan or job.plan
    seconds = expert_seconds(deployment, plan, entering=int(assembly.batch.tokens.sum()))
    overlaps = [per_block(offloaded(deployment, plan, seconds, step)) for step in range(len(job.routes))]
    steps = inference_steps(deployment, assembly.batch, job.routes, overlaps)
    program = join([step.program for step in steps])
    rates = FIDELITIES[deployment.fidelity].rates
    traffic = tuple(
        tuple(map(_together, zip(*parts, strict=True))) for parts in zip(*(s.traffic for s in steps), strict=True)
    )
    return replace(steps[0], programs=(program,), traffic=traffic), simulate(
        [program], rates, deployment.network.capacity
    )


def offload_needs(assembly: Assembly, step: Step) -> Footprint:
    """HBM with the kept experts only."""
    deployment = assembly.deployment
    needs = footprint(deployment, assembly.batch, step.most_received, **assembly.scenario.memory.shares())
    return offloaded_footprint(needs, expert_bytes(deployment), assembly.offload.kept)


def offload_metrics(assembly: Assembly, timeline: Timeline, plan: Plan | None = None) -> dict[str, object]:
    """What a replay found, per step: shares of the experts touched, bytes, stalls; and the same layer by layer."""
    job = assembly.offload
    plan = plan or job.plan
    layers = layer_table(assembly, timeline, plan)
    policy, kept = job.policy, job.kept.capacity
    touched = max(int(plan.residency.touched.sum()), 1)
    stall = float(layers["stall_s"].sum())
    return {
        "steps": len(job.routes),
        "cache": policy.cache,
        "prefetch": policy.prefetch,
        "tiers": [tier.name for tier in job.homes.tiers],
        "tier_bytes": dict(zip((tier.name for tier in job.homes.tiers), job.homes.held, strict=True)),
        "slots_per_layer": float(kept.mean()),
        "staging": job.kept.staging,
        "hit_rate": int(plan.residency.hits.sum()) / touched,
        "prefetched_share": int(plan.covered.sum()) / touched,
        "fetched_share": int(plan.fetched.sum()) / touched,
        "prefetches_used": int(plan.covered.sum()) / ahead if (ahead := int(plan.prefetched.sum())) else None,
        "prediction_recall": plan.recall,
        "moved_bytes": float(plan.moved_bytes().sum(axis=(1, 2)).mean()),
        "stall_s": stall,
        "slowest_stall_s": float(layers["slowest_stall_s"].sum()),
        "stall_share": stall * len(job.routes) / timeline.makespan_s,
        "layers": layers.to_dict("records"),
    }


def layer_table(assembly: Assembly, timeline: Timeline, plan: Plan) -> pd.DataFrame:
    """One row a MoE layer, per step: hit_rate, prefetched_share, moved_bytes (all ranks), stall_s (mean over ranks),
    slowest_stall_s (of the rank that waits longest in each step's layer, which the others wait for at a collective)."""
    track, moe_layers = timeline.tracks[0], assembly.deployment.model.moe_layers
    steps = len(plan.tokens)
    waits = stalls(track)
    by_layer = np.zeros((len(assembly.deployment.model.layers), 2))
    layer_of = np.array([op.layer for op in track.program.ops])
    both = np.stack([waits.mean(axis=1), waits.max(axis=1)], axis=1)
    np.add.at(by_layer, layer_of[layer_of >= 0], both[layer_of >= 0])
    mean_and_most = by_layer[list(moe_layers)] / steps
    touched = np.maximum(_per_layer(plan.residency.touched), 1)
    return pd.DataFrame(
        {
            "layer": moe_layers,
            "hit_rate": _per_layer(plan.residency.hits) / touched,
            "prefetched_share": _per_layer(plan.covered) / touched,
            "moved_bytes": plan.moved_bytes().sum(axis=(0, 2)) / steps,
            "stall_s": mean_and_most[:, 0],
            "slowest_stall_s": mean_and_most[:, 1],
        }
    )


def compare_policies(assembly: Assembly, policies: Iterable[tuple[str, str]] | None = None) -> pd.DataFrame:
    """One row for each (cache, prefetch), by default all caches under the scenario's prefetch: the same steps, tokens
    and room, another policy. The scenario's own options hold where a policy is the scenario's."""
    own = assembly.offload.policy
    rows = []
    for cache, prefetch in policies or [(cache, own.prefetch) for cache in CACHES]:
        policy = replace(
            own,
            cache=cache,
            prefetch=prefetch,
            cache_options=own.cache_options if cache == own.cache else {},
            prefetch_options=own.prefetch_options if prefetch == own.prefetch else {},
        )
        plan = assembly.offload.replanned(policy)
        _, timeline = simulate_offload(assembly, plan)
        found = offload_metrics(assembly, timeline, plan)
        steps, tokens = found["steps"], int(assembly.batch.tokens.sum())
        rows.append(
            {
                "cache": cache,
                "prefetch": prefetch,
                "hit_rate": found["hit_rate"],
                "prefetched_share": found["prefetched_share"],
                "prediction_recall": found["prediction_recall"],
                "moved_bytes": found["moved_bytes"],
                "stall_s": found["stall_s"],
                "slowest_stall_s": found["slowest_stall_s"],
                "tpot_s": timeline.makespan_s / steps,
                "tokens_per_s": tokens * steps / timeline.makespan_s,
                "layers": found["layers"],
            }
        )
    return pd.DataFrame(rows)


def _together(steps: Sequence[LayerTraffic]) -> LayerTraffic:
    """A layer's traffic over several steps: tokens and copies add up, buffers hold the most that entered at once."""
    entering = np.max([step.entering for step in steps], axis=0)
    return LayerTraffic(sum(step.tokens for step in steps), entering, sum(step.copies for step in steps))


def _per_layer(chosen: np.ndarray) -> np.ndarray:
    """Count [layer] of what is chosen [step, layer, rank, slot]."""
    return chosen.sum(axis=(0, 2, 3))
