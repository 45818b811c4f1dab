"""Training with experts that drop what they have no room for."""

import numpy as np
import pytest

from moesim.errors import InvalidInput
from moesim.study.step.train import run_training
from moesim.workload.training.routed import count_draws


@pytest.fixture
def draws(assembled):
    def count(**changes):
        assembly = assembled(**changes)
        return count_draws(assembly.job, assembly.line())

    return count


def test_room_for_every_token_changes_nothing(draws):
    free, limited = draws(), draws(capacity={"factor": 8.0})  # 16 experts, 2 each: eight times the mean is all
    for name in ("tokens", "entering", "copies"):
        np.testing.assert_array_equal(getattr(limited, name), getattr(free, name))
    assert free.dropped is None
    assert not limited.dropped.any()


@pytest.mark.parametrize(("group", "most"), [("batch", 4 * 256 * 2 // 16), ("rank", 4 * (256 * 2 // 16))])
def test_no_expert_takes_more_than_its_capacity_and_what_is_missing_was_dropped(draws, group, most):
    free, limited = draws(), draws(capacity={"factor": 1.0, "group": group})
    assert free.tokens.max() > most
    assert limited.tokens.max() == most  # one slot an expert; four ranks of 256 tokens
    kept = limited.tokens.sum(axis=(0, 2, 3)) / free.tokens.sum(axis=(0, 2, 3))
    np.testing.assert_allclose(limited.dropped, 1 - kept)
    assert (limited.alone > 0).all()
    assert (limited.alone < limited.dropped).all()


def test_dropping_shortens_the_step_and_is_reported(document):
    whole, less = run_training(document()).metrics, run_training(document(capacity={"factor": 0.5})).metrics
    assert less["dropped"]["share"] > 0.5
    assert less["step_time_s"] < whole["step_time_s"]
    assert "dropped" not in whole


def test_a_capacity_of_nothing_is_refused(assembled):
    with pytest.raises(InvalidInput, match="factor"):
        assembled(capacity={"factor": 0})


def test_a_stated_capacity_spares_the_look_at_the_counts(document):
    """Eager and dropless, every MoE layer waits for the host; buffers of a fixed size need no counts."""
    dropless = run_training(document(graphs=False)).metrics["breakdown_s"]
    limited = run_training(document(graphs=False, capacity={"factor": 8.0})).metrics["breakdown_s"]
    assert dropless["routing_sync"] > 0
    assert "routing_sync" not in limited
