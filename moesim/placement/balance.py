"""Placements that carry equal load: longest first, with replicas, and with the hierarchy of servers and groups."""

from __future__ import annotations

import numpy as np

from moesim.placement.evidence import Evidence
from moesim.placement.packing import check_room, pack, replicate, unfold
from moesim.placement.placement import Placement


def greedy(load: np.ndarray, ranks: int, evidence: Evidence | None = None, *, slots_per_rank: int) -> Placement:
    """Longest first (LPT): experts by falling load, each on the least-loaded rank with room.

    Graham's bound holds where slots are plenty: at most 4/3 of the least possible hottest rank (SIAM J. Appl. Math. 17,
    1969). Spare slots hold second copies of the hottest experts.
    load: [layer, expert] tokens; a layer without load is placed as if loads were equal.
    """
    layers, experts = load.shape
    check_room(experts, ranks, slots_per_rank)
    load = np.where(load.sum(axis=1, keepdims=True) > 0, load, 1).astype(np.float64)
    every, spare = divmod(ranks * slots_per_rank, experts)
    copies = np.full((layers, experts), every)
    hottest = np.argsort(-load, axis=1, kind="stable")[:, :spare]
    np.put_along_axis(copies, hottest, every + 1, axis=1)
    return Placement("greedy", pack(*unfold(load, copies), ranks), experts)


def replicate_hot(load: np.ndarray, ranks: int, evidence: Evidence | None = None, *, slots_per_rank: int) -> Placement:
    """Spare slots go to the hottest experts, then slots are packed so that ranks carry equal load.

    (1) Give each spare slot to the expert with the largest load per replica; (2) take slots by falling load and put
    each on the least-loaded rank that has room and does not hold the expert yet. `eplb` where servers do not matter.
    load: [layer, expert] tokens; a layer without load is placed as if loads were equal.
    """
    check_room(load.shape[1], ranks, slots_per_rank)
    return Placement("replicate_hot", pack(*replicate(load, ranks * slots_per_rank, ranks), ranks), load.shape[1])


def eplb(
    load: np.ndarray, ranks: int, evidence: Evidence | None = None, *, slots_per_rank: int, hierarchical: bool = True
) -> Placement:
    """DeepSeek's expert-parallel load balancer: groups to servers, replicas inside a server, then slots to ranks.

    Hierarchical where the servers are equal and their number divides that of the routing groups: (1) whole groups are
    packed on servers by their load, so that group-limited routing keeps a token on few servers; (2) each server gives
    its spare slots to its experts with the largest load per replica; (3) and packs its slots on its ranks. Global
    otherwise, as `replicate_hot`. From the description in DeepSeek-V3's report (arXiv 2412.19437, 3.4) and of its
    open-source EPLB; unlike that, no rank holds an expert twice. hierarchical: false for the global form everywhere,
    which DeepSeek uses in decoding: with few groups a server, the hottest groups make hot servers.
    load: [layer, expert] tokens; a layer without load is placed as if loads were equal.
    """
    layers, experts = load.shape
    check_room(experts, ranks, slots_per_rank)
    shape = server_shape(ranks, evidence)
    groups = evidence.groups if evidence else 1
    # A server with fewer experts than a rank has slots could only fill them with twins.
    if not hierarchical or shape is None or groups % shape[0] or slots_per_rank > experts // shape[0]:
        return Placement("eplb", replicate_hot(load, ranks, slots_per_rank=slots_per_rank).expert, experts)
    servers, size = shape
    load = np.where(load.sum(axis=1, keepdims=True) > 0, load, 1).astype(np.float64)
    group_load = load.reshape(layers, groups, -1).sum(axis=2)
    group = pack(np.broadcast_to(np.arange(groups), (layers, groups)), group_load, servers)  # [layer, server, place]
    member = np.arange(experts).reshape(groups, -1)[group].reshape(layers, servers, -1)  # [layer, server, expert]
    return Placement("eplb", fill_servers(load, member, size, slots_per_rank, evidence), experts)


def server_shape(ranks: int, evidence: Evidence | None) -> tuple[int, int] | None:
    """(servers, ranks of each) where there are several equal ones, else None."""
    servers = evidence.servers if evidence else []
    if len(servers) < 2 or any(len(server) * len(servers) != ranks for server in servers):
        return None
    return len(servers), len(servers[0])


def fill_servers(
    load: np.ndarray, member: np.ndarray, size: int, slots_per_rank: int, evidence: Evidence
) -> np.ndarray:
    """Expert [layer, rank, slot], when the experts [layer, server, expert] of each server of `size` ranks are known."""
    layers, servers, count = member.shape
    own = np.take_along_axis(load[:, None, :], member, axis=2).reshape(layers * servers, count)
    copy, share = replicate(own, size * slots_per_rank, size)
    placed = pack(copy, share, size).reshape(layers, servers, size * slots_per_rank)
    expert = np.take_along_axis(member, placed, axis=2).reshape(layers, servers * size, slots_per_rank)
    result = np.empty(expert.shape, dtype=np.int32)
    result[:, np.concatenate(evidence.servers)] = expert
    return result
