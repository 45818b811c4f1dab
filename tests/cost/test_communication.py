"""Calibrated kernels and collectives: on balanced traffic the network gives the equation back; physics always holds."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.cost.calibration import machine_for
from moesim.cost.collective_kernels import COLLECTIVE
from moesim.cost.communication import collective, library, message
from moesim.cost.exchange import KERNELS, exchange, fit_of
from moesim.cost.exchange_kernels import EXCHANGE, random_copies
from moesim.cost.family import predict
from moesim.cost.machine import Machine
from moesim.errors import InvalidInput
from moesim.hardware.fabrics import build_cluster
from moesim.hardware.precision import PRECISIONS
from moesim.network.routes import build_network
from moesim.spec.hardware.profile import load_profile

FP8, BF16 = PRECISIONS["fp8_block"], PRECISIONS["bf16"]
HIDDEN, EXPERTS = 7168, 256


@cache
def profile(name):
    return load_profile(name)


def machine(name, **options):
    return machine_for(profile(name), options.pop("software", None), profile, **options)


@cache
def network(name, devices):
    return build_network(build_cluster(profile(name), devices))


def balanced(ranks, tokens, copies):
    return np.full((ranks, ranks), tokens * copies / ranks)


def seconds(transfer):
    return float(transfer.alone(np.zeros(transfer.ranks.size)).max())


def priced(name, devices, copies, kernel, phase="dispatch", tokens=128, precision=FP8, **options):
    found = machine(name, **options)
    return exchange(
        found, network(name, devices), np.arange(devices), copies, kernel=kernel, phase=phase,
        tokens=np.full(devices, tokens), hidden=HIDDEN, experts=EXPERTS, precision=precision,
    )  # fmt: skip


@pytest.mark.parametrize("tokens", [1, 128, 4096])
@pytest.mark.parametrize(
    ("name", "devices", "kernel", "phase", "precision"),
    [
        ("h100", 8, "deepep_normal", "dispatch", FP8),
        ("h200", 8, "deepep_normal", "combine", BF16),
        ("b200", 8, "deepep_low_latency", "combine", BF16),
        ("gb200_nvl72", 8, "nvlink_one_sided", "dispatch", PRECISIONS["nvfp4"]),
        ("gb200_nvl72", 16, "nvlink_two_sided", "combine", BF16),
    ],
)
def test_balanced_traffic_in_one_domain_costs_what_the_equation_says(name, devices, kernel, phase, precision, tokens):
    found = machine(name)
    fit = fit_of(found, KERNELS[kernel], phase, precision)
    copies = {"random": random_copies(*map(np.array, (float(devices), 8.0, 256.0))), "balanced": min(devices, 8)}
    copies = float(copies.get(fit.choices["copies"], 8))
    rows = {
        "ranks": devices, "tokens_per_rank": tokens, "hidden_size": HIDDEN, "top_k": 8, "experts": EXPERTS,
        "sms": KERNELS[kernel].sms, "software": fit.key["software"], "phase": phase, "dtype": fit.key["dtype"],
    }  # fmt: skip
    expected = predict(EXCHANGE, found.device, {c: np.array([v]) for c, v in rows.items()}, fit).seconds[0]
    made = priced(name, devices, balanced(devices, tokens, copies), kernel, phase, tokens, precision)
    assert seconds(made.transfer) == pytest.approx(expected, rel=1e-6)
    assert made.source == " ".join(fit.key.values())


@given(seed=st.integers(0, 2**31), kernel=st.sampled_from(["nccl", "deepep_normal", "deepep_low_latency"]))
@settings(max_examples=20, deadline=None)
def test_no_exchange_beats_its_links(seed, kernel):
    copies = np.random.default_rng(seed).multinomial(512, np.ones(16) / 16, size=16)
    made = priced("h100", 16, copies, kernel)
    net = network("h100", 16)
    rank = np.arange(16)
    load = net.load(rank[:, None], rank[None, :], copies * HIDDEN * FP8.bytes)
    assert seconds(made.transfer) >= (load / net.capacity).max()
    assert made.transfer.sent.sum() == pytest.approx(made.transfer.received.sum())


def test_the_hottest_rank_ends_last_and_others_earlier():
    copies = balanced(8, 4096, 5.3)
    copies[:, 3] *= 3
    made = priced("h100", 8, copies, "deepep_normal", tokens=4096)
    finish = made.transfer.alone(np.zeros(8))
    assert finish.argmax() == 3
    assert finish[3] > 1.5 * np.median(finish)


def test_leaving_the_domain_costs_its_floor_and_the_nics():
    inside = seconds(priced("h100", 8, balanced(8, 128, 8), "deepep_low_latency").transfer)
    outside = seconds(priced("h100", 16, balanced(16, 128, 8), "deepep_low_latency").transfer)
    nic = 128 * 8 / 2 * HIDDEN * FP8.bytes / (0.93 * 50e9)
    assert outside - inside > 20e-6
    assert outside == pytest.approx(nic + KERNELS["deepep_low_latency"].remote_s + 13e-6, rel=0.12)


# DeepEP's README: low-latency kernels on H800 with one 400 Gb/s NIC a GPU, 128 tokens, hidden 7,168, top-8 of 256.
@pytest.mark.parametrize(
    ("ranks", "dispatch_us", "combine_us"),
    [(8, 77, 114), (16, 118, 195), (32, 155, 273), (64, 173, 314), (128, 192, 369)],
)
def test_published_low_latency_times_within_a_third(ranks, dispatch_us, combine_us):
    copies = balanced(ranks, 128, 8)
    there = seconds(priced("h800", ranks, copies, "deepep_low_latency").transfer)
    back = seconds(priced("h800", ranks, copies.T, "deepep_low_latency", "combine", precision=BF16).transfer)
    assert there * 1e6 == pytest.approx(dispatch_us, rel=0.15)
    assert back * 1e6 == pytest.approx(combine_us, rel=0.30 if ranks == 8 else 0.12)


# TensorRT-LLM's blog on one-sided all-to-all, GB200 NVL72, perfect router, BF16 both ways.
@pytest.mark.parametrize(
    ("ranks", "tokens", "dispatch_us", "combine_us"),
    [(8, 128, 31.7, 38.1), (8, 2048, 311.8, 322.6), (16, 128, 34.6, 39.9), (16, 1024, 181.2, 188.2)],
)
def test_published_one_sided_times_within_a_fifth(ranks, tokens, dispatch_us, combine_us):
    copies = balanced(ranks, tokens, 8)
    options = {"tokens": tokens, "precision": BF16}
    there = seconds(priced("gb200_nvl72", ranks, copies, "nvlink_one_sided", **options).transfer)
    back = seconds(priced("gb200_nvl72", ranks, copies, "nvlink_one_sided", "combine", **options).transfer)
    assert there * 1e6 == pytest.approx(dispatch_us, rel=0.20)
    assert back * 1e6 == pytest.approx(combine_us, rel=0.22)


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter"])
@pytest.mark.parametrize("size", [1e3, 1e6, 1e9])
def test_collectives_in_one_domain_cost_what_the_equation_says(kind, size):
    found = machine("h200", software="sglang")
    fit = library(found, kind)
    rows = {"ranks": 8, "message_elements": size / 2, "op": kind, "dtype": "bfloat16"}
    expected = predict(COLLECTIVE, found.device, {c: np.array([v]) for c, v in rows.items()}, fit).seconds[0]
    assert seconds(collective(found, network("h200", 8), kind, np.arange(8), size)) == pytest.approx(expected, rel=1e-6)


def test_a_stack_runs_its_own_all_reduce_and_nccl_for_the_rest():
    assert library(machine("h100", software="trtllm"), "all_reduce").key["kernel"].startswith("TRTLLM")
    assert library(machine("h100", software="trtllm"), "all_gather").key["kernel"].startswith("NCCL")
    assert "graph" in library(machine("h100", software="vllm"), "all_reduce").key["kernel"]
    assert "eager" in library(machine("h100", software="vllm", graphs=False), "all_reduce").key["kernel"]


def test_collectives_over_nodes_are_bound_by_nics_and_over_large_domains_by_logarithms():
    nodes = seconds(collective(machine("h100"), network("h100", 32), "all_reduce", np.arange(32), 1e9))
    assert nodes > 2 * 31 / 32 * 1e9 / (8 * 50e9)
    small = [seconds(collective(machine("gb200_nvl72"), network("gb200_nvl72", n), "all_reduce", np.arange(n), 1e4))
             for n in (8, 64)]  # fmt: skip
    assert small[1] < 2.5 * small[0]


def test_tpu_collectives_take_a_microsecond_a_hop_and_nine_tenths_of_the_links():
    found, net = machine("tpu_v5p"), network("tpu_v5p", 64)
    tiny = seconds(collective(found, net, "all_gather", np.arange(64), 64.0))
    assert 9e-6 <= tiny <= 12e-6  # three hops in each of three dimensions
    large = seconds(collective(found, net, "all_gather", np.arange(64), 1e9))
    assert large == pytest.approx(63 / 64 * 1e9 / (0.9 * 600e9), rel=0.06)


def test_a_message_over_nvlink_and_over_a_nic():
    found, net = machine("h100"), network("h100", 16)
    near = seconds(message(found, net, [0], [1], [1e9]))
    far = seconds(message(found, net, [0], [8], [1e9]))
    assert 1e9 / 450e9 < near < 2 * 1e9 / 450e9
    assert 1e9 / 50e9 < far < 2 * 1e9 / 50e9


def test_one_sided_exchanges_of_other_domains_run_as_on_gb200():
    """B200 and GB200 have the same NVLink; a domain of NVLink 4 is bound by its links, of half the rate."""
    options = {"kernel": "nvlink_one_sided", "tokens": 16384, "precision": BF16}
    copies = balanced(8, 16384, 5)
    rack, server, older = (
        seconds(priced(name, 8, copies, **options).transfer) for name in ("gb200_nvl72", "b200", "h100")
    )
    assert server == pytest.approx(rack, rel=0.05)
    assert older == pytest.approx(2 * rack, rel=0.1)


def test_exchanges_take_sms_and_memory_bandwidth_from_compute():
    found = machine("h100")
    normal = priced("h100", 8, balanced(8, 4096, 5.3), "deepep_normal", tokens=4096)
    hooked = priced("h100", 8, balanced(8, 128, 8), "deepep_low_latency")
    assert normal.occupied == 20
    assert normal.compute_share(found) >= 20 / 132
    assert hooked.occupied == 0
    assert 0 < hooked.compute_share(found) < 0.2


def test_devices_without_measurements_use_defaults_with_a_wide_interval():
    bare = Machine(load_profile("h100").device)
    net = network("h100", 8)
    options = {"kernel": "deepep_normal", "phase": "dispatch", "tokens": np.full(8, 128), "hidden": HIDDEN}
    made = exchange(bare, net, np.arange(8), balanced(8, 128, 5), experts=EXPERTS, precision=FP8, **options)
    assert made.source == "defaults"
    assert made.interval == (0.5, 2.0)


def test_bad_input_says_what_to_write():
    with pytest.raises(InvalidInput, match="write one of nccl, deepep_normal"):
        priced("h100", 8, balanced(8, 1, 1), "pigeon")
    with pytest.raises(InvalidInput, match="does not run on tpu_v5p; write one of ragged_all_to_all"):
        priced("tpu_v5p", 64, balanced(64, 1, 1), "deepep_normal")
    with pytest.raises(InvalidInput, match="cannot leave an NVLink domain"):
        priced("h100", 16, balanced(16, 1, 1), "nvlink_two_sided")
    with pytest.raises(InvalidInput, match="collective 'gossip' is unknown"):
        collective(machine("h100"), network("h100", 8), "gossip", np.arange(8), 1.0)
    device = replace(load_profile("h100").device, scale_up_bytes_per_s=None)
    rows = {"ranks": [8], "top_k": [8], "experts": [256], "hidden_size": [1], "tokens_per_rank": [1]}
    rows |= {"phase": ["dispatch"], "dtype": ["fp8"]}
    with pytest.raises(InvalidInput, match="no scale-up links"):
        EXCHANGE.bounds(device, rows)
