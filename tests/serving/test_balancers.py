from types import SimpleNamespace

from moesim.serving.balancers import BALANCERS
from moesim.serving.batch import Sequence
from moesim.serving.prefixes import PrefixCache


def _server(in_system, *blocks):
    """A server with two ranks, the second of which holds blocks of 16 tokens."""
    ranks = [SimpleNamespace(cache=PrefixCache(16)) for _ in range(2)]
    ranks[1].cache.insert(blocks, 1000)
    return SimpleNamespace(in_system=in_system, ranks=ranks)


SERVERS = (_server(3, 1), _server(2, 1, 2), _server(2, 1, 2), _server(9, 1, 2, 3))


def _chosen(name, prefix=(), turn=0):
    return BALANCERS[name](SERVERS, Sequence(0, 100, 5, 4, prefix=prefix), turn)


def test_servers_take_turns():
    assert [_chosen("round_robin", turn=turn) for turn in range(6)] == [0, 1, 2, 3, 0, 1]


def test_the_first_of_the_emptiest_servers():
    assert _chosen("least_loaded") == 1


def test_the_longest_prefix_wins_then_the_emptier_server():
    assert _chosen("kv_aware", (1, 2, 3)) == 3
    assert _chosen("kv_aware", (1, 2, 7)) == 1
    assert _chosen("kv_aware", (7,)) == 1
