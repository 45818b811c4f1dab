"""Steps of a tiny model: symmetry, conservation, what each knob does to the programs."""

from dataclasses import replace

import numpy as np
import pytest

from moesim.cost.launch import EAGER_CALL_S, KERNEL_S
from moesim.cost.memory import STREAM_SHARE
from moesim.engine.program import Program
from moesim.engine.simulate import simulate
from moesim.network.fidelity import FIDELITIES
from moesim.study.step.training_metrics import breakdown_s, training_metrics
from moesim.workload.training.activations import expert_loads, layer_bytes
from moesim.workload.training.parts import attention
from moesim.workload.training.routed import _biases
from moesim.workload.training.step import training_step


def run(assembly):
    step = training_step(assembly.job, assembly.line())
    return step, timeline_of(assembly, step.programs)


def timeline_of(assembly, programs):
    return simulate(programs, FIDELITIES[assembly.job.fidelity].rates, assembly.job.network.capacity)


LAYOUTS = {
    "plain": {},
    "one_rank": {"cluster__devices": 1, "parallelism": {}, "placement__slots_per_rank": 16},
    "tensor_parallel": {"parallelism": {"pp": 2, "tp": 2, "ep": 8}, "placement__slots_per_rank": 2},
    "expert_tensor_parallel": {"parallelism": {"pp": 2, "tp": 2, "ep": 4, "expert_tp": 2}},
    "context_parallel": {"parallelism": {"cp": 2, "ep": 8}, "placement__slots_per_rank": 2},
    "stages_inside": {"parallelism": {"pp": 2, "ep": 4, "order": ["tp", "cp", "pp", "dp"]}},
    "zero_0": {"parallelism": {"pp": 2, "ep": 4, "zero": 0}},
    "zero_2": {"parallelism": {"pp": 2, "ep": 4, "zero": 2}},
    "zero_3": {"parallelism": {"ep": 8, "zero": 3}, "placement__slots_per_rank": 2},
    "gpipe": {"schedule": {"kind": "gpipe"}},
    "pairs": {"schedule": {"kind": "1f1b", "pairs": True}},
    "interleaved": {"schedule": {"kind": "interleaved", "virtual_stages": 2}},
    "interleaved_pairs": {"schedule": {"kind": "interleaved", "virtual_stages": 2, "pairs": True}},
    "zero_bubble": {"schedule": {"kind": "zero_bubble"}},
    "dualpipe": {"schedule": {"kind": "dualpipe"}, "workload__mtp_layers": 1},
    "uneven": {"stages": [5, 3]},
    "full_recomputation": {"recomputation": {"kind": "full"}},
    "selective": {"recomputation": {"kind": "selective", "modules": ["norm", "attention", "activation", "experts"]}},
    "muon": {"optimizer": {"kind": "muon"}},
    "no_overlap": {"overlap": {"gradients": False, "parameters": False}},
    "shared_expert": {"overlap": {"shared_expert": True}},
    "fp8": {"precision": {"experts": "fp8_block", "dense": "fp8_block", "dispatch": "fp8", "combine": "bf16"}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_runs_within_its_bounds_and_divides_its_time_without_rest(assembled, layout):
    assembly = assembled(**LAYOUTS[layout])
    step, timeline = run(assembly)
    seconds = timeline.makespan_s
    assert timeline.lower_bound_s() <= seconds <= timeline.upper_bound_s()
    assert sum(breakdown_s(timeline).values()) == pytest.approx(seconds, rel=1e-9)
    metrics = training_metrics(assembly.job, step, timeline)
    assert 0 < metrics["mfu"] < 1
    assert metrics["step_time_low_s"] < seconds < metrics["step_time_high_s"]


def test_arrays_over_ranks_equal_a_program_for_every_rank(assembled):
    """The engine's symmetry: a stage's ranks as one program of arrays, or each rank as a program of its own."""
    assembly = assembled(schedule={"kind": "dualpipe"})
    step, together = run(assembly)
    alone = [
        Program(
            program.ranks[[r]],
            tuple(o if o.seconds is None else replace(o, seconds=o.seconds[[r]]) for o in program.ops),
        )
        for program in step.programs
        for r in range(program.ranks.size)
    ]
    apart = timeline_of(assembly, alone)
    ends = np.concatenate([track.end.T for track in together.tracks])
    assert np.array_equal(ends, np.concatenate([track.end.T for track in apart.tracks]))


def test_reused_draws_equal_the_full_simulation_where_draws_are_alike(assembled):
    """Under forced balance draws differ only in who talks to whom: reuse changes the step by next to nothing."""
    balanced = {"routing": {"kind": "balanced"}, "network": {"all_to_all": "nccl"}}
    full = run(assembled(**balanced, workload__windows=16))[1].makespan_s
    assert run(assembled(**balanced, workload__windows=1))[1].makespan_s == pytest.approx(full, rel=1e-3)


def test_reused_draws_of_a_trace_stay_near_the_full_simulation(assembled):
    full = run(assembled(workload__windows=8, cluster__devices=8))[1].makespan_s  # 16 microbatches
    every = run(assembled(workload__windows=16, cluster__devices=8))[1].makespan_s
    assert run(assembled(workload__windows=4, cluster__devices=8))[1].makespan_s == pytest.approx(every, rel=0.02)
    assert full == pytest.approx(every, rel=0.02)


def test_backward_costs_twice_the_forward_in_products(assembled):
    step, _ = run(assembled(cluster__devices=1, parallelism={}, placement__slots_per_rank=16, workload__sequence=4096))
    spans = step.spans
    ratio = (spans["experts_backward"].seconds + spans["experts_weights"].seconds) / spans["experts"].seconds
    assert 1.4 < ratio < 2.6
    assert 2.0 < spans["attention_backward"].seconds / spans["attention"].seconds < 3.0


def test_recomputing_everything_adds_a_forward_pass(assembled):
    one = {"cluster__devices": 1, "parallelism": {}, "placement__slots_per_rank": 16}
    kept, dropped = (breakdown_s(run(assembled(**one, recomputation={"kind": k}))[1]) for k in ("none", "full"))
    forward = sum(kept[k] for k in ("attention", "experts", "router", "shared_expert", "dense_ffn"))
    assert dropped["recomputed"] + dropped["recomputed_experts"] == pytest.approx(forward, rel=1e-6)
    assert dropped["recomputed_experts"] == pytest.approx(kept["experts"], rel=1e-6)
    assert "recomputed" not in kept


def test_skewed_routing_is_slower_than_forced_balance(assembled):
    wide = {"workload__sequence": 4096, "workload__global_batch": 32, "network": {"all_to_all": "nccl"}}
    real = run(assembled(**wide))[1].makespan_s
    assert real > 1.02 * run(assembled(**wide, routing={"kind": "balanced"}))[1].makespan_s


def test_pairs_hide_exchanges(assembled):
    wide = {"model": "mixtral-8x7b", "routing": {"kind": "balanced"}, "placement__slots_per_rank": 2}
    wide |= {"workload": {"kind": "training", "global_batch": 32, "sequence": 2048, "windows": 1}}
    wide |= {"parallelism": {"pp": 4, "ep": 4}}

    def exposed(**changes):
        found = breakdown_s(run(assembled(**wide, **changes))[1])
        return sum(s for kind, s in found.items() if kind.endswith(("dispatch", "combine")))

    assert exposed(schedule={"kind": "1f1b", "pairs": True}) < 0.5 * exposed()


def test_fp8_does_not_halve_the_step(assembled):
    """Casts, attention, norms and the wire stay: published pairs of FP8 and BF16 runs differ by 1.1 to 1.3."""
    wide = {"model": "deepseek-v3", "stages": [16, 15, 15, 15], "routing": {"kind": "balanced"}}
    wide |= {"workload": {"kind": "training", "global_batch": 64, "sequence": 4096, "windows": 1}}
    wide |= {"parallelism": {"pp": 4, "ep": 16}, "placement__slots_per_rank": 16, "memory": {"reserve": 0.0}}
    wide |= {"cluster": {"hardware": "gb300_nvl72", "devices": 64}, "network": {"all_to_all": "nvlink_one_sided"}}
    narrow = {"experts": "mxfp8", "dense": "mxfp8", "dispatch": "fp8", "combine": "bf16"}
    full = {"recomputation": {"kind": "full"}}
    wide_s = run(assembled(**wide, **full))[1].makespan_s
    assert 1.1 < wide_s / run(assembled(**wide, **full, precision=narrow))[1].makespan_s < 1.5


def test_eager_parts_last_no_less_than_their_launches(assembled):
    one = {"cluster__devices": 1, "parallelism": {}, "placement__slots_per_rank": 16, "workload__sequence": 64}
    replayed, eager = (run(assembled(**one, graphs=graphs)) for graphs in (True, False))
    job = assembled(**one).job
    before, after = breakdown_s(replayed[1]), breakdown_s(eager[1])
    for kind, spread in {"router": 1e-6, "experts": 1e-2, "experts_weights": 1e-2}.items():  # loads differ by draw
        of = replayed[0].spans[kind]
        often = before[kind] / of.seconds  # how often this part runs, over how often it was priced
        assert after[kind] == pytest.approx(often * max(of.seconds, of.kernels * EAGER_CALL_S), rel=spread)
    assert after["router"] > 2 * before["router"]  # 64 tokens: all launches
    # One copy to the host and one launch a microbatch and MoE layer, and nowhere else.
    layers = len(job.model.moe_layers)
    assert after["routing_sync"] == pytest.approx(job.microbatches * layers * (6e-6 + EAGER_CALL_S), rel=1e-6)
    assert "routing_sync" not in before


def test_graphs_may_leave_out_the_experts_alone(assembled):
    one = {"cluster__devices": 1, "parallelism": {}, "placement__slots_per_rank": 16, "workload__sequence": 64}
    replayed, partial, eager = (breakdown_s(run(assembled(**one, graphs=g))[1]) for g in (True, "partial", False))
    for kind in ("attention", "attention_backward", "router", "shared_expert"):
        assert partial[kind] == pytest.approx(replayed[kind], rel=1e-9)
    for kind in ("experts", "experts_backward", "experts_weights", "routing_sync"):
        assert partial[kind] == pytest.approx(eager[kind], rel=1e-9)
    assert partial["experts"] > replayed["experts"]


def test_experts_one_by_one_are_launched_one_by_one(assembled):
    """Two products of 16 experts and the casts of their operands, two launches each, beside three other passes."""
    one = {"cluster__devices": 1, "parallelism": {}, "placement__slots_per_rank": 16, "workload__sequence": 2048}
    one |= {"routing": {"kind": "balanced"}, "grouped_gemm": "per_expert"}
    narrow = {"experts": "fp8", "dense": "bf16", "dispatch": "bf16", "combine": "bf16"}
    fused, wide, cast = (
        run(assembled(**one | changes))[0].spans["experts"].kernels
        for changes in ({"grouped_gemm": "fused"}, {}, {"precision": narrow})
    )
    assert wide / fused == pytest.approx((2 * 16 + 3) / (2 + 3))
    assert cast / fused == pytest.approx((2 * 16 + 3 + 2 * 2 * 16) / (2 + 3))


def test_biases_of_experts_one_by_one_stream_in_fp32(assembled):
    one = {"cluster__devices": 1, "parallelism": {}, "placement__slots_per_rank": 16, "workload__sequence": 4096}
    job = assembled(**one).job
    pairs, touched = np.array([8192.0]), np.array([16.0])

    def moved(passes):
        fixed = KERNEL_S * passes.kernels
        return (passes.seconds - fixed) * STREAM_SHARE * job.machine.device.hbm_bytes_per_s / (8192 * 256)

    fused, apart = (_biases(replace(job, grouped_gemm=kind), pairs, touched) for kind in ("fused", "per_expert"))
    assert (fused.forward.seconds, moved(fused.input)) == (0, pytest.approx(2))
    assert (moved(apart.forward), moved(apart.input)) == (pytest.approx(28), pytest.approx(36))
    assert apart.forward.kernels == 2 + 2 * 16


def test_an_activation_in_the_products_kernel_needs_no_pass_of_its_own(assembled):
    one = {"cluster__devices": 1, "parallelism": {}, "placement__slots_per_rank": 16, "routing": {"kind": "balanced"}}
    one |= {"precision": {"experts": "fp8", "dense": "bf16", "dispatch": "bf16", "combine": "bf16"}}
    one |= {"workload__sequence": 4096}
    plain, fused = (run(assembled(**one, grouped_gemm=kind))[0].spans for kind in ("fused", "fused_mlp"))
    for kind in ("experts", "experts_backward"):
        assert fused[kind].seconds < plain[kind].seconds
        assert fused[kind].moved < plain[kind].moved
        assert (
            fused[kind].kernels == plain[kind].kernels * 5 / 6
        )  # both ways: two moves, products, a cast; no activation
    assert fused["experts_weights"].seconds == plain["experts_weights"].seconds


def test_the_librarys_exchange_wants_a_copy_for_every_expert_laid_out(assembled):
    """Twice (T + 2 T) hidden states of T = 4,096 tokens move on every rank."""
    wide = {"routing": {"kind": "balanced"}, "workload__sequence": 4096}
    own, copied = (
        run(assembled(**wide, network={"all_to_all": kernel}))[0].spans["experts"]
        for kernel in ("deepep_normal", "nccl")
    )
    device = assembled(**wide).job.machine.device
    moved = 2 * (1 + 2) * 4096 * 256 * 2 / (STREAM_SHARE * device.hbm_bytes_per_s) + 2 * KERNEL_S
    priced = own.kernels / 5  # how often experts were: two moves, two products and an activation
    assert (copied.moved - own.moved) / priced == pytest.approx(moved, rel=0.2)  # copies arrive a node, not an expert


def test_unfused_attention_moves_its_scores(assembled):
    """8 heads over 4,096 tokens: two products and a softmax, backward four and one; probabilities are kept."""
    one = {"cluster__devices": 1, "parallelism": {}, "placement__slots_per_rank": 16, "workload__sequence": 4096}
    fused, unfused = (assembled(**one, attention_kernel=kind) for kind in ("fused", "unfused"))
    job = unfused.job
    layer, scores = job.layer(0), 8 * 4096 * 4096
    found = attention(job, layer).kernel
    for part, reads in ((found.forward, 2), (found.input, 3)):
        assert part.seconds > scores * 2 * reads / job.machine.device.hbm_bytes_per_s
        assert part.attended == part.seconds > 3 * attention(fused.job, layer).kernel.forward.seconds
    assert (found.forward.kernels, found.input.kernels) == (3, 6)
    loads = expert_loads(job, None)
    assert (layer_bytes(job, 0, loads) - layer_bytes(fused.job, 0, loads)).max() == scores * 2
    again = replace(job, recompute=frozenset({"attention"}))
    assert layer_bytes(again, 0, loads).max() < layer_bytes(fused.job, 0, loads).max()


def test_large_microbatches_hide_their_launches(assembled):
    one = {"cluster__devices": 1, "parallelism": {}, "placement__slots_per_rank": 16, "workload__sequence": 8192}
    replayed, eager = (breakdown_s(run(assembled(**one, graphs=graphs))[1]) for graphs in (True, False))
    assert eager["experts_backward"] == replayed["experts_backward"]


def test_seconds_are_products_passes_and_attention(assembled):
    step, _ = run(assembled(precision={"experts": "fp8", "dense": "fp8", "dispatch": "bf16", "combine": "bf16"}))
    for kind, of in step.spans.items():
        assert 0 <= of.moved + of.attended <= of.seconds * (1 + 1e-9), kind
    assert step.spans["experts"].attended == 0 < step.spans["attention"].attended
    assert step.spans["optimizer"].moved == step.spans["optimizer"].seconds
    cast = step.spans["experts"].moved
    plain, _ = run(assembled(precision={"experts": "bf16", "dense": "bf16", "dispatch": "bf16", "combine": "bf16"}))
    assert cast > plain.spans["experts"].moved  # casts
