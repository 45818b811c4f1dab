import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.placement.policies import contiguous, replicate_hot
from moesim.placement.traffic import LEVELS, choose_slots, layer_traffic


def test_copies_by_hand_at_each_level():
    # four ranks on two servers, one expert each; one token on rank 0 chooses the experts of ranks 1, 2 and 3
    placement = contiguous(np.ones((1, 8)), 4, slots_per_rank=2)
    ids, source, node = np.array([[2, 4, 5, 6]]), np.array([0]), np.array([0, 0, 1, 1])

    def pairs(level):
        traffic = layer_traffic(placement, 0, ids, source, level=level, node=node)
        assert traffic.tokens.ravel().tolist() == [0, 0, 1, 0, 1, 1, 1, 0]
        assert traffic.entering.tolist() == ([0, 1, 2, 1] if level == "expert" else [0, 1, 1, 1])
        return {(int(s), int(d)): int(traffic.copies[s, d]) for s, d in np.argwhere(traffic.copies)}

    assert pairs("expert") == {(0, 1): 1, (0, 2): 2, (0, 3): 1}
    assert pairs("rank") == {(0, 1): 1, (0, 2): 1, (0, 3): 1}
    # one copy crosses to rank 2, the peer of rank 0, which keeps one and hands one to rank 3
    assert pairs("node") == {(0, 1): 1, (0, 2): 1, (2, 2): 1, (2, 3): 1}


@pytest.mark.parametrize("level", LEVELS)
def test_choices_beyond_a_tokens_count_are_neither_sent_nor_computed(level):
    placement = contiguous(np.ones((1, 4)), 4, slots_per_rank=1)
    ids, source, node = np.array([[1, 2], [3, 0], [2, 1]]), np.array([0, 0, 1]), np.array([0, 0, 1, 1])
    traffic = layer_traffic(placement, 0, ids, source, level=level, node=node, count=np.array([1, 0, 2]))
    assert traffic.tokens.ravel().tolist() == [0, 2, 1, 0]
    pairs = {(int(s), int(d)) for s, d in np.argwhere(traffic.copies)}
    assert pairs == ({(0, 1), (1, 1), (1, 2)} if level != "node" else {(0, 1), (1, 1), (1, 3), (3, 2)})


def test_replicas_take_turns():
    placement = replicate_hot(np.array([[9.0, 1.0]]), 3, slots_per_rank=1)
    chosen = choose_slots(placement, 0, np.zeros((6, 1), dtype=np.uint8))
    assert np.bincount(chosen.ravel()).max() == 3


def test_an_unknown_level_is_named():
    placement = contiguous(np.ones((1, 2)), 2, slots_per_rank=1)
    with pytest.raises(ValueError, match="'token' is not one of expert, rank, node"):
        layer_traffic(placement, 0, np.array([[0]]), np.array([0]), level="token", node=np.zeros(2, int))


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 4))
def test_coarser_levels_send_no_more_across_servers(seed, servers, per_server):
    rng = np.random.default_rng(seed)
    ranks = servers * per_server
    placement = contiguous(np.ones((1, 12 * ranks)), ranks, slots_per_rank=12)
    ids = np.argsort(rng.random((20, 12 * ranks)), axis=1)[:, :4]
    source = np.sort(rng.integers(0, ranks, 20))
    node = np.repeat(np.arange(servers), per_server)
    apart = node[:, None] != node[None, :]
    across = []
    for level in LEVELS:
        traffic = layer_traffic(placement, 0, ids, source, level=level, node=node)
        assert traffic.tokens.sum() == ids.size
        across.append(traffic.copies[apart].sum())
    assert across[0] >= across[1] >= across[2]
    reached = len({(t, node[r]) for t in range(20) for r in ids[t] // 12 if node[r] != node[source[t]]})
    assert across[2] == reached
