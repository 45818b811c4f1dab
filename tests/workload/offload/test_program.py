"""Exact timelines of two layers on one rank, and what the copies add up to on a real replay."""

import numpy as np
import pytest

from moesim.engine.simulate import simulate
from moesim.hardware.device import MemoryTier
from moesim.network.coflow import rates
from moesim.workload.emitter import Emitter
from moesim.workload.offload.caches import Residency
from moesim.workload.offload.plan import Plan
from moesim.workload.offload.program import ExpertSeconds, join, offloaded, stalls
from moesim.workload.offload.tiers import fill_tiers
from moesim.workload.parts import Chunk, MoEBlock, Piece


class TwoLayers:
    """The part of a deployment that emitting looks at."""

    class model:
        moe_layers = (0, 1)

    class parallelism:
        ep_index = np.array([0])


def block_of(layer):
    """A MoE block of 1 s router, no shared expert, nothing to send."""
    chunk = Chunk(None, Piece("experts", np.array([9.0])), None)
    return MoEBlock(layer, Piece("router", np.array([1.0])), None, (chunk,))


def step(missing, ahead, fetch_s=5.0, prefetch_s=5.0):
    """A step of two layers, each: attention 1 s, router 1 s, resident expert 2 s, copied expert 1 s.

    missing: [layer] the second expert is not in HBM. ahead: [layer] it is copied ahead.
    """
    used = np.ones((1, 2, 1, 2), dtype=bool)
    resident = used.copy()
    resident[0, :, 0, 1] = ~np.array(missing)
    prefetched = np.zeros_like(used)
    prefetched[0, :, 0, 1] = ahead
    demand = np.array(missing) & ~np.array(ahead)
    homes = fill_tiers((MemoryTier("host", 1e9, 1.0, 0.0),), np.ones((2, 1, 2)), np.array([5.0, 5.0]), copies=1)
    plan = Plan(
        tokens=used.astype(int), residency=Residency(used, resident), prefetched=prefetched,
        fetch_s=(demand * fetch_s).reshape(1, 2, 1), prefetch_s=(np.array(ahead) * prefetch_s).reshape(1, 2, 1),
        homes=homes, recall=None,
    )  # fmt: skip
    copied = np.array(missing, dtype=float).reshape(1, 2, 1)
    emit_block = offloaded(TwoLayers, plan, ExpertSeconds(np.full((1, 2, 1), 2.0), copied), 0)
    emit = Emitter(np.array([0]))
    after = ()
    for layer in (0, 1):
        after = (emit.compute("attention", layer, np.array([1.0]), after),)
        after = emit_block(emit, block_of(layer), after)
    emit.compute("head", -1, np.array([1.0]), after)
    return emit.program(), plan


def run(program):
    track = simulate([program], rates, np.zeros(0)).tracks[0]
    return track, (track.end[:, 0] / 1e12).tolist()


def test_everything_in_hbm_never_waits():
    track, ends = run(step([False, False], [False, False])[0])
    assert ends == [1, 2, 4, 5, 6, 8, 9]
    assert not stalls(track).any()


def test_a_miss_stalls_for_what_resident_experts_do_not_hide():
    program, plan = step([False, True], [False, False])
    track, ends = run(program)
    # layer 1: router until 6, fetch 6-11, resident expert 6-8, stall 8-11, copied expert 11-12
    assert [op.kind for op in program.ops] == [
        "attention", "router", "experts", "attention", "router", "fetch", "experts", "experts", "head",
    ]  # fmt: skip
    assert ends == [1, 2, 4, 5, 6, 11, 8, 12, 13]
    assert stalls(track).sum() == pytest.approx(3)
    assert plan.moved_bytes().sum() == 5


def test_a_copy_ahead_hides_behind_the_layer_before():
    program, _ = step([False, True], [False, True])
    track, ends = run(program)
    # copied ahead 2-7 behind layer 0; layer 1's resident expert runs until 8, so nothing waits
    assert [op.kind for op in program.ops].count("prefetch") == 1
    assert ends == [1, 2, 7, 4, 5, 6, 8, 9, 10]
    assert not stalls(track).any()


def test_a_wrong_guess_delays_the_next_fetch():
    # layer 1 needs its second expert on demand while a wrong guess for it is still on the copy engine
    _, plan = step([False, True], [False, False])
    wrong = Plan(
        plan.tokens, plan.residency, plan.prefetched, plan.fetch_s, np.array([[[0.0], [7.0]]]), plan.homes, None
    )
    emit_block = offloaded(TwoLayers, wrong, ExpertSeconds(np.full((1, 2, 1), 2.0), np.array([[[0.0], [1.0]]])), 0)
    emit, after = Emitter(np.array([0])), ()
    for layer in (0, 1):
        after = (emit.compute("attention", layer, np.array([1.0]), after),)
        after = emit_block(emit, block_of(layer), after)
    track, _ = run(emit.program())
    # wrong copy 2-9, fetch 9-14; the resident expert ends at 8
    assert stalls(track).sum() == pytest.approx(6)


def test_steps_follow_each_other():
    program, _ = step([True, False], [False, False])
    joined = join([program, program])
    _, once = run(program)
    track, twice = run(joined)
    assert twice == once + [end + once[-1] for end in once]
    assert stalls(track).sum() == pytest.approx(2 * 3)
