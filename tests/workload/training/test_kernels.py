"""Spans of kernels: what changes their seconds leaves their launches; grouped products, as one kernel or one by one."""

from dataclasses import replace

import numpy as np
import pytest

from moesim.cost.gemm import gemm
from moesim.hardware.precision import PRECISIONS
from moesim.workload.training.kernels import BF16, Span, beside, products

FP8 = PRECISIONS["fp8"]


def test_trafficbeside_a_product_lengthens_it_and_launches_nothing():
    found = beside(Span(3.0, 2.0, 4.0, kernels=5), 4.0)
    assert (found.seconds, found.kernels) == (5.0, 5)
    assert found.low / found.seconds == pytest.approx(2 / 3)


def grouped(job, experts, rows, n=768, k=2048, kind="per_expert"):
    return products(replace(job, grouped_gemm=kind), np.array([experts * rows]), n, k, BF16, BF16, np.array([experts]))


def test_products_one_by_one_are_so_many_single_products(assembled):
    job = assembled().job
    found, options = grouped(job, 8, 1024), {"weights": BF16, "activations": BF16, "quantise": False}
    assert found.forward.seconds[0] == pytest.approx(8 * gemm(job.machine, 1024, 768, 2048, **options).seconds)
    assert found.input.seconds[0] == pytest.approx(8 * gemm(job.machine, 1024, 2048, 768, **options).seconds)
    assert found.forward.kernels == found.input.kernels == found.weight.kernels == 8
    assert grouped(job, 8, 1024, kind="fused").forward.kernels == 1
    one = grouped(job, 1, 1024)
    assert one.forward.seconds == pytest.approx(grouped(job, 1, 1024, kind="fused").forward.seconds)


@pytest.mark.parametrize(("experts", "rows", "published"), [(8, 4096, 627.9), (16, 2048, 553.9)])
def test_products_one_by_one_are_as_fast_as_published_on_h100(assembled, experts, rows, published):
    """Transformer Engine 2.7's multi-stream cuBLAS in BF16 (pull request 2045), TFLOP/s; forward."""
    flops = 2 * experts * rows * 768 * 2048
    reached = flops / grouped(assembled().job, experts, rows).forward.seconds[0] / 1e12
    assert reached == pytest.approx(published, rel=0.08)


def test_small_experts_lose_most_one_by_one(assembled):
    """The fewer tokens an expert has, the less of its last wave of tiles is full."""
    job = assembled().job

    def loss(rows):
        apart, together = (grouped(job, 8, rows, kind=kind).forward.seconds[0] for kind in ("per_expert", "fused"))
        return apart / together

    assert loss(512) > loss(2048) > loss(8192) > 1
