"""What a delta checkpoint has to save, from a real trace."""

import numpy as np
import pytest

from moesim.errors import InvalidInput
from moesim.resilience.checkpoints import check_storage, delta, touched_share
from moesim.routing.trace import open_trace
from moesim.spec.reading import library


@pytest.fixture(scope="module")
def trace():
    return open_trace(library.find("trace", "deepseek-v3-miniature"))


def test_more_tokens_touch_more_experts(trace):
    shares = [touched_share(trace, tokens) for tokens in (1, 16, 256, 4096, 10**6, 10**9)]
    assert shares == sorted(shares)
    assert shares[0] == pytest.approx(trace.top_k / trace.experts)
    assert 0.9 < shares[-1] <= 1.0


def test_skewed_routing_leaves_more_experts_alone_than_even_routing_would(trace):
    tokens = 64
    even = 1 - (1 - 1 / trace.experts) ** (trace.top_k * tokens)
    assert touched_share(trace, tokens) < even


def test_a_delta_saves_all_but_the_untouched_experts():
    assert delta(100.0, expert_share=0.9, touched=0.5) == pytest.approx(55.0)
    assert delta(100.0, expert_share=0.9, touched=1.0) == 100.0


def test_too_large_a_checkpoint_is_refused():
    check_storage(1e12, 3, 3e12)
    with pytest.raises(InvalidInput, match=r"3 checkpoint\(s\) of 1 TB do not fit in 2\.9 TB"):
        check_storage(1e12, 3, 2.9e12)


def test_touched_share_counts_what_the_windows_hold(trace):
    ids = np.asarray(trace.ids)
    whole = np.mean([np.unique(ids[:, layer]).size / trace.experts for layer in range(trace.layers)])
    assert touched_share(trace, ids.shape[0]) == pytest.approx(whole)
