from dataclasses import replace

import numpy as np
import pytest

from moesim.engine.simulate import simulate
from moesim.network.coflow import rates
from moesim.workload.inference import inference_step
from moesim.workload.overlap import OVERLAPS


def step_of(assembly, overlap="shared_expert"):
    return inference_step(assembly.deployment, assembly.batch, assembly.routes, OVERLAPS[overlap])


def kinds_of(step, layer):
    return [op.kind for op in step.program.ops if op.layer == layer]


def test_operations_of_a_layer_in_order(scenario):
    step = step_of(scenario())
    attention = ["norm", "projections", "attention", "projections"]
    assert kinds_of(step, 0) == [*attention, "dense_ffn"]
    assert kinds_of(step, 1) == [*attention, "router", "dispatch", "shared_expert", "experts", "combine"]
    assert [op.kind for op in step.program.ops][-1] == "head"
    serial = step_of(scenario(), "none")
    assert kinds_of(serial, 1) == [*attention, "shared_expert", "router", "dispatch", "experts", "combine"]


def test_every_chosen_expert_is_computed_once(scenario):
    assembly = scenario(placement="replicate_hot", slots=3)
    step = step_of(assembly)
    for layer, traffic in enumerate(step.traffic[0]):
        assert traffic.tokens.sum() == 8 * 16 * 2
        chosen = np.bincount(assembly.routes.ids[layer].ravel(), minlength=16)
        held = np.zeros(16, dtype=int)
        np.add.at(held, assembly.deployment.placement.expert[layer].ravel(), traffic.tokens.ravel())
        assert (held == chosen).all()


def test_dispatch_and_combine_carry_what_routing_asks_for(scenario):
    assembly = scenario()
    step = step_of(assembly)
    ops = [op for op in step.program.ops if op.kind in ("dispatch", "combine")]
    for traffic, dispatch, combine in zip(step.traffic[0], ops[::2], ops[1::2], strict=True):
        away = traffic.copies * ~np.eye(8, dtype=bool)
        # hidden 64; FP8 out, BF16 back; own experts cost no bytes
        np.testing.assert_allclose(dispatch.transfer.sent, away.sum(axis=1) * 64)
        np.testing.assert_allclose(dispatch.transfer.received, away.sum(axis=0) * 64)
        np.testing.assert_allclose(combine.transfer.sent, away.sum(axis=0) * 64 * 2)
        np.testing.assert_allclose(combine.transfer.received, away.sum(axis=1) * 64 * 2)


def test_tensor_parallel_groups_share_their_tokens_around_the_experts(scenario):
    step = step_of(scenario(dp=4, tp=2))
    assert kinds_of(step, 0)[-3:] == ["all_reduce", "dense_ffn", "all_reduce"]
    moe = kinds_of(step, 1)
    assert moe[4:] == ["reduce_scatter", "router", "dispatch", "shared_expert", "experts", "combine", "all_gather"]
    # 16 sequences of a group on two ranks: each dispatches the copies of its own eight
    assert step.traffic[0][0].copies.sum(axis=1).tolist() == [16] * 8


def test_without_data_parallel_attention_nothing_is_dispatched(scenario):
    spread = step_of(scenario(dp=1, tp=4, devices=4, ep=4, slots=4))
    assert kinds_of(spread, 1)[-4:] == ["router", "shared_expert", "experts", "all_reduce"]
    split = step_of(scenario(dp=1, tp=4, devices=4, ep=1, expert_tp=4, slots=16))
    on_ranks = [next(op.seconds for op in step.program.ops if op.kind == "experts") for step in (spread, split)]
    assert np.ptp(on_ranks[0]) > 0  # one rank holds the popular experts
    assert np.ptp(on_ranks[1]) == 0  # every rank has a quarter of each
    assert split.traffic[0][0].tokens.shape == (1, 16)


def test_one_device_needs_no_network(scenario):
    step = step_of(scenario(devices=1, dp=1, ep=1, slots=16))
    assert all(op.transfer is None for op in step.program.ops)


def test_prefill_routes_every_new_token(scenario):
    assembly = scenario(workload="{kind: prefill, sequences_per_rank: 2, prompt: 32}")
    step = step_of(assembly)
    assert step.traffic[0][0].tokens.sum() == 8 * 2 * 32 * 2
    assert step.most_received == max(
        traffic.tokens.sum(axis=1).max() for traffic in step.traffic[0]
    )  # a copy an expert


def test_costs_keep_their_intervals(scenario):
    step = step_of(scenario())
    for work in step.work.values():
        assert work.low <= work.seconds <= work.high
    total = sum(op.seconds.max() for op in step.program.ops if op.seconds is not None)
    local = (work.seconds for kind, work in step.work.items() if kind not in ("dispatch", "combine"))
    assert sum(local) == pytest.approx(total)
    split = step_of(scenario(dp=4, tp=2))
    assert split.work.keys() == {op.kind for op in split.program.ops}  # collectives have intervals too


def test_instances_have_their_own_tokens_on_their_own_ranks(scenario):
    assembly = scenario(devices=16, instances=2)
    step = step_of(assembly)
    assert step.program.ranks.tolist() == list(range(16))
    first, second = (np.stack([layer.tokens for layer in part]) for part in step.traffic)
    assert first.sum() == second.sum()
    assert (first != second).any()
    dispatch = next(op.transfer for op in step.program.ops if op.kind == "dispatch")
    assert dispatch.group.tolist() == [0] * 8 + [1] * 8
    away = [part[0].copies * ~np.eye(8, dtype=bool) for part in step.traffic]
    np.testing.assert_allclose(dispatch.sent, np.concatenate([copies.sum(axis=1) for copies in away]) * 64)


def test_instances_on_links_of_their_own_do_not_disturb_each_other(scenario):
    assembly = scenario(devices=16, instances=2, kernel="deepep_low_latency")
    capacity = assembly.deployment.network.capacity
    other = assembly.routes.ids.copy()
    other[:, 128:] = 0, 1  # every token of the second instance goes to the same two experts
    ends = []
    for ids in (assembly.routes.ids, other):
        step = inference_step(assembly.deployment, assembly.batch, replace(assembly.routes, ids=ids), OVERLAPS["none"])
        ends.append(simulate([step.program], rates, capacity).tracks[0].end)
    assert np.abs(ends[1][:, :8] - ends[0][:, :8]).max() <= len(step.program.ops)  # rounding, a tick an operation
    assert (ends[1][-1, 8:] > ends[0][-1, 8:]).all()
