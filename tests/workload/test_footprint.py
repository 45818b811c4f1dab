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
