"""A placement study as a table and as plain data."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from moesim.placement.optimum import simple_bound
from moesim.study.placing.bench import Judged
from moesim.study.step.links import traffic_matrix
from moesim.study.step.metrics import expert_load
from moesim.study.step.run import Result


def policy_table(judged: Sequence[Judged], every: int) -> pd.DataFrame:
    """One row a policy; seconds, bytes, and loads over their mean.

    Columns: name, slots_per_rank; of the judged step step_time_s with its interval, hottest_rank_over_mean (mean over
    layers) and least_hottest_over_mean (what no placement in these slots can beat on these tokens), hottest_link and
    its utilisation, cross_node_bytes, hbm_bytes; other_step_time_s and other_hottest_rank_over_mean on the first other
    workload; gap_to_bound (hottest rank over its proven bound - 1, on the learned loads); migration_bytes and
    migration_s from the base; break_even_steps after which that has paid against the first policy of the table;
    rebalance_bytes, rebalance_s to what the policy would learn from the judged part, and amortised_step_time_s with
    that every `every` steps; in_sample_over_mean (hottest rank after learning from the judged part itself).
    """
    later, *others = judged[0].results
    before = judged[0].results[later].metrics["step_time_s"]
    rows = []
    for each in judged:
        result = each.results[later]
        metrics, link = result.metrics, result.metrics["hottest_link"] or {}
        step = metrics["step_time_s"]
        saved = before - step
        row = {
            "name": each.name,
            "slots_per_rank": each.placement.slots_per_rank,
            "step_time_s": step,
            "step_time_low_s": metrics["step_time_low_s"],
            "step_time_high_s": metrics["step_time_high_s"],
            "hottest_rank_over_mean": metrics["hottest_rank"]["per_layer_over_mean"],
            "least_hottest_over_mean": _least(each, result),
            "hottest_link": f"{link['from']} → {link['to']}" if link else "",
            "hottest_link_utilisation": link.get("utilisation", 0.0),
            "cross_node_bytes": cross_node_bytes(result),
            "hbm_bytes": metrics["hbm_bytes"],
            "gap_to_bound": each.gap,
            "in_sample_over_mean": each.in_sample,
            "migration_bytes": each.migration.bytes,
            "migration_s": each.migration.seconds,
            "break_even_steps": each.migration.seconds / saved if saved > 0 else float("nan"),
            "rebalance_bytes": each.rebalance.bytes,
            "rebalance_s": each.rebalance.seconds,
            "amortised_step_time_s": step + each.rebalance.seconds / every,
        }
        for name in others[:1]:
            metrics = each.results[name].metrics
            row["other_step_time_s"] = metrics["step_time_s"]
            row["other_hottest_rank_over_mean"] = metrics["hottest_rank"]["per_layer_over_mean"]
        rows.append(row)
    return pd.DataFrame(rows)


def cross_node_bytes(result: Result) -> float:
    """Bytes that dispatch and combine of a step send from one server to another."""
    deployment = result.assembly.deployment
    node = deployment.cluster.node
    return float(traffic_matrix(deployment, result.step)[node[:, None] != node[None, :]].sum())


def _least(each: Judged, result: Result) -> float:
    load = expert_load(result.step, each.placement)
    bound = simple_bound(load, each.placement.ranks, each.placement.slots_per_rank)
    return float((bound / (load.sum(axis=1) / each.placement.ranks)).mean())
