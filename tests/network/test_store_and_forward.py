"""A reference of another kind: chunks that queue at links one after another, against the array models."""

import heapq
from itertools import count

import numpy as np
import pytest

from moesim.network.collectives import all_to_all
from moesim.network.routes import build_network


def send_chunks(network, source, target, size, chunk):
    """Seconds [messages] at which each message's last chunk has arrived.

    Every rank sends its messages' chunks in turn. A link passes one chunk at a time, first come first served; a chunk
    goes on when it has arrived whole, so every hop costs chunk/capacity and the link's latency.
    """
    pair, link, share = network.routes.paths(source, target)
    assert (share == 1).all(), "the reference walks single paths"
    path = [link[pair == message].tolist() for message in range(source.size)]
    path = [_in_order(network, network.devices[s], p) for s, p in zip(source.tolist(), path, strict=True)]
    free, ends, order = np.zeros(len(network.links.ends)), np.zeros(source.size), count()
    events = []
    for message, amount in enumerate(size.tolist()):
        for turn in range(int(np.ceil(amount / chunk))):
            heapq.heappush(events, (0.0, turn, next(order), message, 0, min(chunk, amount - turn * chunk)))
    while events:
        now, turn, _, message, hop, amount = heapq.heappop(events)
        if hop == len(path[message]):
            ends[message] = max(ends[message], now)
            continue
        on = path[message][hop]
        free[on] = max(free[on], now) + amount / network.capacity[on]
        heapq.heappush(events, (free[on] + network.links.latency[on], turn, next(order), message, hop + 1, amount))
    return ends


def _in_order(network, node, links):
    ordered = []
    while links:
        step = next(i for i in links if network.links.ends[i][0] == node)
        links = [i for i in links if i != step]
        node = network.links.ends[step][1]
        ordered.append(step)
    return ordered


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("switch", lambda f: f.nvlink(8, planes=1)),
        ("ring", lambda f: f.torus((5,), ties="one_way")),
        ("torus", lambda f: f.torus((3, 5))),
        ("mesh", lambda f: f.torus((3, 3), wrap=(False, False))),
        ("rails", lambda f: f.rails(4, size=2, spreading="ecmp")),
    ],
)
def test_chunks_take_at_least_the_bound_and_little_more(fabrics, name, build):
    cluster = build(fabrics)
    if name == "rails":
        for node in [n for n in cluster.graph if n.startswith("nvlink") and n.endswith(".1")]:
            cluster.graph.remove_node(node)  # one plane, so that paths are single
    network = build_network(cluster)
    rng = np.random.default_rng(5)
    ranks = np.arange(network.ranks)
    traffic = rng.integers(20, 60, (ranks.size, ranks.size)) * 1e5
    np.fill_diagonal(traffic, 0)
    near, far = np.nonzero(traffic)
    ends = send_chunks(network, near, far, traffic[near, far], chunk=1e5)
    transfer = all_to_all(network, ranks, traffic)
    bound = transfer.wire_s
    assert ends.max() >= bound
    # Head-of-line blocking and a chunk's time on each hop: the array models have neither.
    assert ends.max() <= 1.35 * bound + transfer.latency_s.max()


def test_one_message_alone_pays_each_hop(fabrics):
    network = build_network(fabrics.torus((5,)))
    ends = send_chunks(network, np.array([0]), np.array([2]), np.array([1e6]), chunk=1e5)
    assert ends[0] == pytest.approx(1e6 / 100e9 + 1e5 / 100e9 + 2e-6)
