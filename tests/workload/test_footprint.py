import pytest

from moesim.errors import Infeasible
from moesim.workload.footprint import check_fits, footprint, kv_bytes, largest_batch


def test_bytes_by_hand(scenario):
    assembly = scenario()
    needs = footprint(assembly.deployment, assembly.batch, received=40, reserve=0.1)
    assert needs.experts == 2 * 3 * (3 * 64 * 32) * 2  # slots, MoE layers, elements of an expert, BF16
    # 4 layers, keys and values of 4 heads of 16, 101 tokens, BF16
    assert kv_bytes(assembly.deployment, 101) == 4 * 2 * 4 * 16 * 101 * 2
    assert needs.kv_cache == 16 * kv_bytes(assembly.deployment, 101)
    assert needs.dispatch_buffers == 40 * 64 * (1 + 2)
    attention = 64 * (128 + 2 * 64) + 64 * 128  # qkv and o
    dense, shared, router = 3 * 64 * 256, 3 * (3 * 64 * 32), 3 * 64 * 16
    assert needs.dense_weights == 2 * (4 * attention + dense + shared + router + 2 * 1000 * 64)
    assert needs.reserve == pytest.approx(0.1 * needs.capacity)


def test_tensor_parallelism_splits_weights_and_cache(scenario):
    whole = scenario()
    split = scenario(dp=2, tp=4)
    assert kv_bytes(split.deployment, 100) == kv_bytes(whole.deployment, 100) / 4
    assert footprint(split.deployment, split.batch, 0, reserve=0).dense_weights < (
        footprint(whole.deployment, whole.batch, 0, reserve=0).dense_weights
    )


def test_the_largest_batch_fits_and_one_more_does_not(scenario):
    def needs(sequences):
        workload = f"{{kind: decode, sequences_per_rank: {sequences}, context: 1000000}}"
        assembly = scenario(devices=1, dp=1, ep=1, slots=16, workload=workload)
        return assembly, footprint(assembly.deployment, assembly.batch, 0, reserve=0.1)

    assembly, _ = needs(1)
    most = largest_batch(assembly.deployment, assembly.batch, 0, reserve=0.1)
    assert most > 1
    check_fits(needs(most)[1])
    with pytest.raises(Infeasible, match="bytes too many"):
        check_fits(needs(most + 1)[1])


def of(assembly, received=0, **memory):
    return footprint(assembly.deployment, assembly.batch, received, reserve=0.0, **memory)


def test_weights_of_a_pipeline_stand_on_their_stages(scenario):
    whole = of(scenario(devices=1, dp=1, ep=1, slots=16))
    stages = scenario(devices=2, dp=1, ep=1, pp=2, slots=16, stages=[1, 3])
    fullest = of(stages)
    assert fullest.experts == whole.experts  # all three MoE layers are on the second stage
    assert fullest.dense_ffn == 0
    assert fullest.embedding_head == whole.embedding_head / 2
    assert fullest.kv_cache == pytest.approx(whole.kv_cache * 3 / 4)


@pytest.mark.parametrize(
    "degrees",
    [
        {"dp": 4, "ep": 4, "slots": 4},
        {"dp": 1, "tp": 4, "ep": 4, "slots": 4},
        {"dp": 1, "tp": 4, "ep": 1, "expert_tp": 4, "slots": 16},
        {"dp": 2, "tp": 2, "ep": 2, "expert_tp": 2, "slots": 8},
        {"dp": 1, "cp": 2, "tp": 2, "ep": 4, "slots": 4},
        {"dp": 4, "ep": 2, "expert_tp": 2, "slots": 8},
    ],
)
def test_experts_and_cache_are_shared_out_whole(scenario, degrees):
    """Bytes over all ranks are those of one rank that holds everything, attention replicated where it is."""
    whole, parts = of(scenario(devices=1, dp=1, ep=1, slots=16)), of(scenario(devices=4, **degrees))
    assert 4 * parts.experts == whole.experts
    ranks_of_a_sequence = 4 // degrees["dp"]
    # one replica's sequences over its ranks; 101 tokens over two context-parallel ranks leave one place empty
    assert ranks_of_a_sequence * parts.kv_cache == pytest.approx(whole.kv_cache, rel=0.01)
    assert degrees.get("tp", 1) * parts.attention == whole.attention


def test_formats_by_kind(scenario):
    plain, mixed = (
        scenario(),
        scenario(
            precision="{experts: fp8, attention: fp8_block, shared_expert: fp8, "
            "dense_ffn: bf16, head: fp8, router: fp32, dispatch: fp8, combine: bf16, kv: fp8}"
        ),
    )
    one, other = of(plain), of(mixed)
    assert other.experts == one.experts / 2
    assert other.attention == one.attention * 8.25 / 16
    assert other.shared_experts == one.shared_experts / 2
    assert other.dense_ffn == one.dense_ffn
    assert other.routers == one.routers * 2
    assert other.embedding_head == one.embedding_head * 0.75
    assert other.kv_cache == one.kv_cache / 2


def test_blocks_and_fragmentation_are_stated(scenario):
    assembly = scenario()
    assert of(assembly, kv_block=64).kv_cache == of(assembly).kv_cache * 128 / 101
    needs = of(assembly, 40, fragmentation=0.25)
    assert needs.fragmentation == 0.25 * (needs.activations + needs.dispatch_buffers)


def test_low_latency_kernels_have_room_for_everything(scenario):
    assembly = scenario(kernel="deepep_low_latency")
    room = 16 * 16  # every expert has room for the 16 tokens of each rank: 2 slots on each of 8 ranks
    sent_and_received = 2 * room * (2 * 64 + 2 * 64 + 16)
    assert of(assembly, 40).dispatch_buffers == sent_and_received + room * 64 * (1 + 2)
    assert of(assembly, 10_000).dispatch_buffers == of(assembly, 40).dispatch_buffers


@pytest.mark.parametrize("kind", ["decode", "prefill"])
def test_every_remedy_fits(scenario, kind):
    """A cache of millions of tokens; what is proposed is tried."""
    workload = {
        "decode": "{kind: decode, sequences_per_rank: 64, context: 4000000}",
        "prefill": "{kind: prefill, sequences_per_rank: 2, prompt: 4, context: 60000000}",
    }[kind]
    with pytest.raises(Infeasible) as caught:
        scenario(workload=workload, devices=4, dp=4, ep=4, slots=4)
    said = str(caught.value).split("this would fit: ")[1].split("; or ")
    assert [text.partition(":")[0] for text in said][:2] == ["workload.sequences_per_rank", "workload.context"]
    for text in said:
        field, _, value = text.partition(": ")
        name = field.rpartition(".")[2]
        if field.startswith("workload"):
            before = {
                "sequences_per_rank": {"decode": "64", "prefill": "2"},
                "context": {"decode": "4000000", "prefill": "60000000"},
            }
            changed = workload.replace(f"{name}: {before[name][kind]}", f"{name}: {value}")
            scenario(workload=changed, devices=4, dp=4, ep=4, slots=4)  # assembles, so it fits
            grown = workload.replace(f"{name}: {before[name][kind]}", f"{name}: {int(value) + 1}")
            with pytest.raises(Infeasible):
                scenario(workload=grown, devices=4, dp=4, ep=4, slots=4)
        elif name == "devices":
            pairs = dict(part.strip().split(": ") for part in text.replace(" with parallelism", "").split(", "))
            degrees = {key: int(pairs[key]) for key in ("tp", "pp", "ep", "expert_tp") if key in pairs}
            degrees["slots"] = int(pairs.get("slots_per_rank", 4))
            degrees["dp"] = int(pairs.get("attention_dp", 4))
            scenario(workload=workload, devices=int(pairs["cluster.devices"]), **{"ep": 4, **degrees})
