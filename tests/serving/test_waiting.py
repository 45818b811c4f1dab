import pytest

from moesim.serving.batch import Sequence
from moesim.serving.waiting import Waiting


def _made(order, priorities):
    waiting = Waiting(order)
    waiting.inbox.extend(Sequence(index, 10, 5, 4, priority) for index, priority in enumerate(priorities))
    return waiting


@pytest.mark.parametrize(("order", "expected"), [("fcfs", [0, 1, 2, 3]), ("priority", [1, 3, 0, 2])])
def test_the_order_of_admission(order, expected):
    waiting = _made(order, [2, 0, 2, 1])
    waiting.look()
    found = []
    while waiting.queue:
        found.append(waiting.first().index)
        waiting.pop()
    assert found == expected


def test_a_request_that_lost_its_cache_goes_to_the_front_but_not_past_its_priority():
    for order, expected in (("fcfs", 9), ("priority", 0)):
        waiting = _made(order, [0, 0])
        waiting.look()
        waiting.put_back(Sequence(9, 10, 5, 4, priority=1))
        assert waiting.first().index == expected


def test_only_first_come_first_served_stands_behind_others():
    for order, behind in (("fcfs", True), ("priority", False)):
        waiting = _made(order, [0, 0])
        assert waiting.stands_behind_others() is behind


def test_everything_leaves_a_server_that_fails_in_order():
    waiting = _made("priority", [1, 0])
    waiting.look()
    waiting.inbox.append(Sequence(7, 10, 5, 4))
    assert [sequence.index for sequence in waiting.empty()] == [1, 0, 7]
    assert len(waiting) == 0
