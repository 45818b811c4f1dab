import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.placement.sequences import ARRANGEMENTS, Batch


def batch(sequence, label, rank, server, liking=None):
    sequence = np.array(sequence)
    if liking is None:
        liking = np.full((sequence.max() + 1, max(server) + 1), 0.5)
    return Batch(sequence, np.array(label), np.array(rank), np.array(server), np.array(liking))


def test_by_label_and_round_robin_by_hand():
    drawn = batch([0, 1, 2, 3], [0, 1, 0, 1], [0, 0, 1, 1], [0, 0, 0, 0])
    assert drawn.label[ARRANGEMENTS["by_label"](drawn)].tolist() == [0, 0, 1, 1]
    assert drawn.label[ARRANGEMENTS["round_robin"](drawn)].tolist() == [0, 1, 0, 1]


def test_sequences_go_to_the_server_of_their_experts_as_room_allows():
    # sequences 0 and 2 like server 1; 2 more than 0; 1 likes server 0; server 1 has room for one
    liking = [[0.4, 0.6], [0.7, 0.3], [0.1, 0.9]]
    drawn = batch([0, 1, 2], [0, 0, 0], [0, 0, 1], [0, 0, 1], liking)
    chosen = ARRANGEMENTS["affinity"](drawn)
    assert drawn.sequence[chosen][2] == 2
    assert set(drawn.sequence[chosen][:2]) == {0, 1}


@pytest.mark.parametrize("name", ARRANGEMENTS)
@given(st.integers(0, 2**32 - 1))
def test_every_sequence_keeps_exactly_one_place(name, seed):
    rng = np.random.default_rng(seed)
    places = int(rng.integers(1, 30))
    rank = np.sort(rng.integers(0, 4, places))
    sequence = rng.integers(0, 6, places)
    drawn = Batch(sequence, rng.integers(0, 3, 6)[sequence], rank, rank // 2, rng.random((6, 2)))
    assert sorted(ARRANGEMENTS[name](drawn)) == list(range(places))
