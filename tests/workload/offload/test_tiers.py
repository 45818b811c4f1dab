import numpy as np
import pytest

from moesim.errors import Infeasible, InvalidInput
from moesim.hardware.device import MemoryTier
from moesim.spec.hardware.profile import load_profile
from moesim.workload.offload.plan import spread_capacity
from moesim.workload.offload.tiers import copy_seconds, fill_tiers, tiers_of

HOST = MemoryTier("host", 40.0, 10.0, 0.5, devices=2)
DRIVE = MemoryTier("nvme", 1000.0, 2.0, 3.0, devices=2)
SIZE = np.array([10.0, 10.0])


def test_popular_experts_go_to_the_nearest_tier():
    popularity = np.array([[[4.0, 1.0], [1.0, 2.0]], [[3.0, 2.0], [4.0, 3.0]]])  # [layer, rank, slot]
    homes = fill_tiers((HOST, DRIVE), popularity, SIZE, copies=1)
    # a rank's share of the host holds two experts: on rank 0 the first of each layer, on rank 1 both of layer 1
    assert homes.home.tolist() == [[[0, 1], [1, 1]], [[0, 1], [0, 0]]]
    assert homes.held == (40.0, 40.0)


def test_experts_that_fit_nowhere_are_told_in_bytes():
    with pytest.raises(Infeasible, match=r"40 B, its share of host is 20 B, 20 bytes too few"):
        fill_tiers((HOST,), np.ones((2, 2, 2)), SIZE, copies=1)


def test_copies_follow_each_other():
    homes = fill_tiers((HOST, DRIVE), np.ones((2, 2, 2)), SIZE, copies=1)
    moved = np.zeros((1, 2, 2, 2), dtype=bool)
    moved[0, 0, 0] = True  # rank 0 copies both experts of layer 0 from the host
    moved[0, 1, 1, 0] = True  # rank 1 one of layer 1 from a drive
    assert copy_seconds(homes, moved)[0].tolist() == [[2 * (0.5 + 1.0), 0], [0, 3.0 + 5.0]]


def test_ranks_share_what_a_tier_gives_all_of_them():
    tier = MemoryTier("pool", 1000.0, 10.0, 0.0, devices=2, shared_bytes_per_s=10.0)
    homes = fill_tiers((tier,), np.ones((2, 4, 2)), SIZE, copies=1)
    moved = np.zeros((1, 2, 4, 2), dtype=bool)
    moved[0, 0, [0, 1, 2], 0] = True  # ranks 0 and 1 share, rank 2 has its pool to itself
    assert copy_seconds(homes, moved)[0, 0].tolist() == [2.0, 2.0, 1.0, 0.0]


def test_a_tier_that_is_not_there_or_lacks_a_fact_is_named():
    hardware = load_profile("rtx_4090")
    assert [tier.name for tier in tiers_of(hardware, ("host", "nvme"))] == ["host", "nvme"]
    with pytest.raises(InvalidInput, match=r"tiers.1: rtx_4090 has no memory tier 'cxl'; it has host, nvme"):
        tiers_of(hardware, ("host", "cxl"))


def test_room_spreads_evenly_over_the_layers():
    assert spread_capacity(7, 3, 8).tolist() == [3, 2, 2]
    assert spread_capacity(99, 3, 8).tolist() == [8, 8, 8]
