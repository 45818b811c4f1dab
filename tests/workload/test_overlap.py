"""What each overlap hides: exact timelines of a toy layer, and whole steps of a small model."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.engine.simulate import simulate
from moesim.network.coflow import rates
from moesim.network.transfer import Transfer
from moesim.workload.emitter import Emitter
from moesim.workload.inference import inference_step
from moesim.workload.overlap import OVERLAPS
from moesim.workload.parts import Chunk, Exchanged, LayerParts, MoEBlock, Piece


def local(kind, seconds):
    return Piece(kind, seconds=np.array([float(seconds)]))


def wire(kind, seconds, share=0.0):
    nothing, one = np.zeros(0), np.zeros(1)
    latency = np.array([float(seconds)])
    transfer = Transfer(kind, np.array([0]), nothing.astype(int), nothing, 0.0, one, latency, np.array([0]), one, one)
    return Piece(kind, transfer=transfer, compute_share=share)


def exchanged(kind, share=0.0):
    return Exchanged(wire(kind, 4, share), local(f"{kind}_send", 1), wire(kind, 2), local(f"{kind}_receive", 1))


class Toy:
    """Layers of 1 s projections, 2 s attention, 1 s router, 2 s shared expert, 5 s experts, 4 s dispatch and combine,
    on one rank; halves and wholes alike. A chunk has 2 s dispatch, 3 s experts, 2 s combine."""

    def __init__(self, phase="decode", layers=1, dense=0, share=0.0, divisible=2):
        self.phase, self.layers, self.first_moe, self.divisible = phase, layers + dense, dense, divisible
        self.share = share

    def __call__(self, *, batches=1, chunks=1, by="tokens", layers=slice(None)):
        whole = Chunk(exchanged("dispatch", self.share), local("experts", 5), exchanged("combine"))
        chunk = Chunk(Exchanged(wire("dispatch", 2)), local("experts", 3), Exchanged(wire("combine", 2)))

        def parts(index):
            cut = (whole,) if chunks == 1 else (chunk,) * chunks
            moe = (
                MoEBlock(index, local("router", 1), local("shared_expert", 2), cut) if index >= self.first_moe else None
            )
            return LayerParts(index, (local("projections", 1),), (local("attention", 2),), moe)

        chosen = tuple(parts(index) for index in range(self.layers)[layers])
        return (chosen,) * batches


def timeline(overlap, toy, **options):
    """(name, start, end) of every operation, in order of issue, and the end of what the head would wait for."""
    emit = Emitter(np.array([0]))
    emit.compute("head", -1, np.zeros(1), OVERLAPS[overlap](emit, toy, (), **options))
    track = simulate([emit.program()], rates, np.zeros(0)).tracks[0]
    ticks = 10**12
    rows = [(op.kind, track.start[i, 0] / ticks, track.end[i, 0] / ticks) for i, op in enumerate(track.program.ops)]
    return rows[:-1], rows[-1][2]


def test_none_runs_everything_in_a_row():
    rows, end = timeline("none", Toy(layers=2))
    assert [row[0] for row in rows[:7]] == [
        "projections", "attention", "shared_expert", "router", "dispatch", "experts", "combine"
    ]  # fmt: skip
    assert end == 2 * (1 + 2 + 2 + 1 + 4 + 5 + 4)


def test_the_shared_expert_hides_under_dispatch():
    rows, end = timeline("shared_expert", Toy())
    assert rows[3:] == [("dispatch", 4, 8), ("shared_expert", 4, 6), ("experts", 8, 13), ("combine", 13, 17)]
    assert end == 17


def test_hooks_leave_the_flight_to_the_network():
    rows, end = timeline("low_latency_hooks", Toy())
    assert rows[3:] == [
        ("dispatch_send", 4, 5), ("dispatch", 5, 7), ("shared_expert", 5, 7), ("dispatch_receive", 7, 8),
        ("experts", 8, 13), ("combine_send", 13, 14), ("combine", 14, 16), ("combine_receive", 16, 17),
    ]  # fmt: skip
    assert end == 17


def test_a_chunk_computes_while_the_next_is_dispatched():
    rows, end = timeline("pipelined_chunks", Toy(), chunks=2)
    assert rows[3:] == [
        ("dispatch", 4, 6), ("dispatch", 6, 8), ("shared_expert", 4, 6),
        ("experts", 6, 9), ("combine", 9, 11), ("experts", 9, 12), ("combine", 12, 14),
    ]  # fmt: skip
    assert end == 14


def test_two_batches_take_turns_in_prefill():
    rows, end = timeline("two_batch", Toy("prefill"))
    assert rows == [
        ("projections", 0, 1), ("attention", 1, 3), ("router", 3, 4), ("dispatch", 4, 8),
        ("projections", 4, 5), ("attention", 5, 7), ("router", 7, 8), ("dispatch", 8, 12),
        ("experts", 8, 13), ("combine", 13, 17),
        ("experts", 13, 18), ("combine", 18, 22),
        ("shared_expert", 18, 20), ("shared_expert", 20, 22),
    ]  # fmt: skip
    assert end == 22  # 34 in two rows of 17


def test_the_second_batch_is_two_stages_behind_in_decode():
    rows, end = timeline("two_batch", Toy("decode"))
    assert rows == [
        ("projections", 0, 1), ("attention", 1, 3), ("router", 3, 4),
        ("dispatch", 4, 8), ("shared_expert", 4, 6),
        ("projections", 6, 7),
        ("experts", 8, 13), ("combine", 13, 17),
        ("attention", 13, 15), ("router", 15, 16),
        ("dispatch", 17, 21), ("shared_expert", 16, 18),
        ("experts", 21, 26), ("combine", 26, 30),
    ]  # fmt: skip
    assert end == 30


def test_received_tokens_are_unpacked_where_they_are_needed():
    rows, end = timeline("two_batch", Toy("decode"), hooks=True)
    assert rows[3:] == [
        ("dispatch_send", 4, 5), ("dispatch", 5, 7), ("shared_expert", 5, 7),
        ("projections", 7, 8),
        ("dispatch_receive", 8, 9), ("experts", 9, 14), ("combine_send", 14, 15), ("combine", 15, 17),
        ("attention", 15, 17), ("router", 17, 18),
        ("dispatch_send", 18, 19), ("dispatch", 19, 21), ("shared_expert", 19, 21),
        ("combine_receive", 21, 22),
        ("dispatch_receive", 22, 23), ("experts", 23, 28), ("combine_send", 28, 29), ("combine", 29, 31),
        ("combine_receive", 31, 32),
    ]  # fmt: skip
    assert end == 32


def test_overlapped_communication_slows_compute_by_its_share():
    rows, _ = timeline("shared_expert", Toy(share=0.5))
    assert rows[4] == ("shared_expert", 4, 8)  # 2 s of work at half speed under dispatch
    assert rows[5] == ("experts", 8, 13)


def test_dense_layers_in_front_run_whole():
    rows, _ = timeline("two_batch", Toy("decode", layers=1, dense=2))
    assert [row[0] for row in rows].count("attention") == 2 + 2


def test_a_batch_of_one_is_not_cut():
    assert timeline("two_batch", Toy(divisible=1)) == timeline("shared_expert", Toy())
    assert timeline("two_batch", Toy(divisible=1), hooks=True) == timeline("low_latency_hooks", Toy())


CUTS = st.one_of(
    st.tuples(st.sampled_from(["none", "shared_expert", "low_latency_hooks"]), st.just({})),
    st.tuples(st.just("two_batch"), st.fixed_dictionaries({"hooks": st.booleans()})),
    st.tuples(
        st.just("pipelined_chunks"),
        st.one_of(
            st.fixed_dictionaries({"chunks": st.integers(1, 3), "by": st.just("experts")}),
            st.fixed_dictionaries({"chunks": st.integers(1, 16), "by": st.just("tokens")}),
        ),
    ),
)


@settings(max_examples=8)
@given(cut=CUTS, phase=st.sampled_from(["decode", "prefill"]), sequences=st.integers(2, 9))
def test_every_cut_computes_and_sends_the_same_tokens(shared_scenario, cut, phase, sequences):
    workload = {
        "decode": f"{{kind: decode, sequences_per_rank: {8 * sequences}, context: 100}}",
        "prefill": f"{{kind: prefill, sequences_per_rank: {sequences}, prompt: 16}}",
    }[phase]
    assembly = shared_scenario(workload=workload, kernel="deepep_low_latency", slots=3)
    name, options = cut

    def step(kind, **keys):
        def overlap(emit, split, after):
            return OVERLAPS[kind](emit, split, after, **keys)

        return inference_step(assembly.deployment, assembly.batch, assembly.routes, overlap)

    whole, made = step("none"), step(name, **options)
    for one, other in zip(whole.traffic[0], made.traffic[0], strict=True):
        assert one.tokens.sum() == other.tokens.sum()
        # Replicas take turns token by token, so a cut may move a token to another replica of its expert.
        assert one.copies.sum(axis=1).tolist() == other.copies.sum(axis=1).tolist()
    sent = [
        sum(op.transfer.sent.sum() for op in each.program.ops if op.kind == "dispatch") / (64 * 1.0)
        for each in (whole, made)
    ]
    away = [sum((layer.copies * ~np.eye(8, dtype=bool)).sum() for layer in each.traffic[0]) for each in (whole, made)]
    assert sent == pytest.approx(away)
    timeline = simulate([made.program], rates, assembly.deployment.network.capacity)
    assert timeline.lower_bound_s() <= timeline.makespan_s <= timeline.upper_bound_s()


def test_halves_pay_for_their_own_shapes(scenario):
    """Half the tokens an expert still read the weights of the experts they touch, and pay every floor again."""
    assembly = scenario(workload="{kind: decode, sequences_per_rank: 16, context: 100}", kernel="deepep_low_latency")
    whole, halves = (
        inference_step(assembly.deployment, assembly.batch, assembly.routes, OVERLAPS[kind]).work
        for kind in ("shared_expert", "two_batch")
    )
    for kind in ("experts", "dispatch", "combine", "router", "attention"):
        assert halves[kind].seconds > 1.5 * whole[kind].seconds  # launches and floors of a tiny model, twice
