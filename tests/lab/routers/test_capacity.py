"""Capacity and what becomes of overflow: hand-made cases."""

import pytest
import torch

from moesim.errors import InvalidInput
from moesim.lab.routers import OVERFLOW_POLICIES, CapacityLimit, Routing
from moesim.lab.routers.capacity import adapted_factor, capacity, places, scheduled_factor

# Four tokens, three experts, all prefer expert 0; second choices differ.
IDS = torch.tensor([[0, 1], [0, 2], [0, 1], [0, 2]])
GATES = torch.tensor([[0.6, 0.4], [0.9, 0.1], [0.7, 0.3], [0.8, 0.2]])
SCORES = torch.tensor([[3.0, 2, 1], [3, 1, 2], [3, 2, 1], [3, 1, 2]])


def served(policy, room, scores=SCORES):
    routing = Routing(IDS, GATES, torch.zeros(()), None, scores)
    return OVERFLOW_POLICIES[policy](routing, torch.tensor(room))


def choices(routing):
    """For each token, the set of experts that compute it."""
    return [set(ids[kept].tolist()) for ids, kept in zip(routing.ids, routing.kept, strict=True)]


def test_capacity_rounds_up():
    assert capacity(1.0, 100, 2, 8) == 25
    assert capacity(1.25, 100, 2, 8) == 32


def test_places_are_queues_by_priority_then_token():
    ids = torch.tensor([[0, 1], [1, 0], [0, 1]])
    kept = torch.tensor([[True, True], [True, True], [True, False]])
    rank = torch.arange(2).expand(3, 2)
    assert places(ids, kept, rank, 2).tolist() == [[0, 1], [0, 2], [1, 0]]


def test_first_choices_and_early_tokens_are_served_first():
    assert choices(served("drop", [2, 2, 2])) == [{0, 1}, {0, 2}, {1}, {2}]
    assert served("drop", [2, 2, 2]).dropped == pytest.approx(2 / 8)


def test_the_lowest_scores_drop():
    assert choices(served("drop_lowest", [2, 2, 2])) == [{1}, {0, 2}, {1}, {0, 2}]


def test_overflow_goes_to_the_next_best_with_room():
    # Expert 0 takes tokens 0 and 1; the overflow of tokens 2 and 3 would go to 2 and 1, which have one place left each.
    assert choices(served("next_best", [2, 3, 3])) == [{0, 1}, {0, 2}, {1, 2}, {1, 2}]
    assert served("next_best", [2, 3, 3]).dropped == 0
    assert choices(served("next_best", [2, 2, 2])) == [{0, 1}, {0, 2}, {1}, {2}]  # nobody has room


def test_the_last_expert_catches_everything():
    routing = served("catch_all", [2, 1, 0])
    assert choices(routing) == [{0, 1}, {0, 2}, {2}, {2}]
    # Token 2's two overflows cannot both go to one expert; token 3 has the last expert already.
    assert routing.dropped == pytest.approx(2 / 8)


def test_a_queue_takes_room_in_the_next_step():
    limit = CapacityLimit(3, policy="queue", factor=0.75)  # room of two rows an expert
    routing = Routing(IDS, GATES, torch.zeros(()), None, SCORES)
    assert choices(limit(routing)) == [{0, 1}, {0, 2}, {1}, {2}]
    assert limit.waiting.tolist() == [2, 0, 0]
    assert choices(limit(routing)) == [{1}, {2}, {1}, {2}]  # expert 0 works off its queue
    assert limit.waiting.tolist() == [4, 0, 0]


def test_a_capacity_can_follow_a_schedule_or_the_load():
    assert scheduled_factor(0.5, 2.0, 1.0) == 1.5
    assert adapted_factor(1.0, dropped=0.2) == pytest.approx(1.1)
    assert adapted_factor(2.0, dropped=0.0) == pytest.approx(1.95)
    assert adapted_factor(1.0, dropped=0.0) == 1.0
    routing = Routing(IDS, GATES, torch.zeros(()), None, SCORES)
    falling = CapacityLimit(3, factor=2.0, end_factor=1.0)
    falling.after_step(falling(routing), 1.0)
    assert falling.factor.item() == 1.0
    adaptive = CapacityLimit(3, factor=0.75, target=0.01)
    adaptive.after_step(adaptive(routing), 0.0)
    assert adaptive.factor.item() == 1.0


def test_an_unknown_policy_is_named():
    with pytest.raises(InvalidInput, match="no overflow policy 'lose'; write one of drop, "):
        CapacityLimit(8, policy="lose")
