"""Speed of placement policies: 256 experts in 58 layers on 32 ranks of four servers, 288 slots.

Run with ``pytest benchmarks/test_placement.py -s``. Limits are CPU seconds against a yardstick timed beside them, as in
`test_run.py`: at most 2 s a policy where the yardstick takes 47 ms.
"""

import time

import numpy as np
import pytest
from scipy.sparse import coo_array

from moesim.placement.evidence import Evidence
from moesim.placement.policies import POLICIES

LAYERS, EXPERTS, TOP_K, RANKS, SERVERS, TOKENS = 58, 256, 8, 32, 4, 4096
YARDSTICK_S = 0.047


@pytest.fixture(scope="module")
def case():
    """Loads [layer, expert] and the evidence: choices with groups of experts that like the same tokens."""
    rng = np.random.default_rng(0)
    taste = rng.normal(size=(64, EXPERTS))[rng.integers(0, 64, TOKENS)]
    chosen = []
    for _ in range(LAYERS):
        popular = 0.8 * rng.standard_normal(EXPERTS)
        score = popular + taste[:, rng.permutation(EXPERTS)] + rng.gumbel(size=(TOKENS, EXPERTS))
        chosen.append(np.argpartition(-score, TOP_K, axis=1)[:, :TOP_K])
    load = np.stack([np.bincount(ids.ravel(), minlength=EXPERTS) for ids in chosen]).astype(float)
    node = np.repeat(np.arange(SERVERS), RANKS // SERVERS)
    return load, Evidence(node, 8, chosen.__getitem__, None, "node", toll(node))


def toll(node):
    """A NIC out of every rank and one into every rank; a copy from a server leaves by the average of its NICs."""
    entries = []
    for server in range(SERVERS):
        for rank in np.flatnonzero(node != server):
            entries += [(1 / 8, server * RANKS + rank, out) for out in np.flatnonzero(node == server)]
            entries.append((1.0, server * RANKS + rank, RANKS + rank))
    value, row, column = zip(*entries, strict=True)
    return coo_array((value, (row, column)), shape=(SERVERS * RANKS, 2 * RANKS)).tocsr()


@pytest.mark.parametrize("name", sorted(POLICIES.keys() - {"optimal"}))  # which is for small cases
def test_a_policy_takes_2_s(benchmark, case, name):
    load, evidence = case
    benchmark.pedantic(POLICIES[name], (load, RANKS, evidence), {"slots_per_rank": 9}, rounds=1)
    begin = time.process_time()
    sum(i * i for i in range(1_500_000))
    yardstick = time.process_time() - begin
    begin = time.process_time()
    POLICIES[name](load, RANKS, evidence, slots_per_rank=9)
    seconds = time.process_time() - begin
    print(f"{name}: {seconds:.2f} s")
    assert seconds <= 2 * yardstick / YARDSTICK_S
