"""Spans of kernels: what changes their seconds leaves their launches."""

import pytest

from moesim.workload.training.kernels import Span, _beside


def test_traffic_beside_a_product_lengthens_it_and_launches_nothing():
    found = _beside(Span(3.0, 2.0, 4.0, kernels=5), 4.0)
    assert (found.seconds, found.kernels) == (5.0, 5)
    assert found.low / found.seconds == pytest.approx(2 / 3)
