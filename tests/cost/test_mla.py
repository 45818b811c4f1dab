"""Multi-head latent attention: one stored head that tensor parallelism replicates, published and measured anchors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from moesim.cost.family import default_fit
from moesim.cost.fitting import cross_validate
from moesim.cost.machine import Machine
from moesim.cost.mla import DECODE, PREFILL, mla_decode, mla_prefill
from moesim.hardware.device import Device
from moesim.hardware.precision import PRECISIONS

BF16, FP8 = PRECISIONS["bf16"], PRECISIONS["fp8"]
H200 = Device("h200", "gpu", {"bf16": 989.4e12, "fp8": 1978.9e12}, 141e9, 4.8e12, 132, 50e6)
H800 = Device("h800", "gpu", {"bf16": 989.4e12, "fp8": 1978.9e12}, 80e9, 3.35e12, 132, 50e6)
LATENT = {"kv_lora_rank": 512, "rope_dim": 64}
EXPANDED = {"qk_dim": 192, "v_dim": 128}
TABLE = Path(__file__).parents[3] / "shared" / "measurements" / "mla.parquet"


def _rows(batch, new, earlier, heads):
    numbers = np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, dtype=float)) for v in (batch, new, earlier, heads)))
    columns = dict(zip(("batch_size", "isl", "step", "num_heads"), numbers, strict=True))
    dtype = np.full(len(numbers[0]), "bfloat16")
    return columns | {"dtype": dtype, "kv_cache_dtype": dtype}


def test_bounds_by_hand():
    memory_s, compute_s = DECODE.bounds(H200, DECODE.prepare(H200, _rows(64, 1, 8191, 16)))
    assert memory_s == pytest.approx(64 * 8192 * 576 * 2 / 4.8e12)
    assert compute_s == pytest.approx(2 * 64 * 16 * 8192 * (576 + 512) / 989.4e12)
    memory_s, compute_s = PREFILL.bounds(H200, PREFILL.prepare(H200, _rows(1, 4, 0, 8)))
    assert memory_s == pytest.approx(4 * 8 * 320 * 2 / 4.8e12)
    assert compute_s == pytest.approx(2 * 8 * (1 + 2 + 3 + 4) * 320 / 989.4e12)


def test_fewer_heads_on_a_rank_read_the_same_latents():
    machine = Machine(H200)
    costs = [mla_decode(machine, batch=256, context=32768, heads=h, kv=BF16, **LATENT).seconds for h in (1, 16)]
    assert costs[0] == pytest.approx(costs[1], rel=0.05)


def test_no_parameter_or_choice_for_what_latent_attention_has_not():
    assert not {"t_u", "t_i2", "c_2", "t_w", "t_p"} & set(DECODE.parameters)
    assert "unpacked" not in DECODE.choices
    rows = DECODE.prepare(H200, _rows([1, 64], 1, 1000, 128))
    fitted = default_fit(DECODE)
    assert (DECODE.predict(H200, rows, fitted.parameters, fitted.choices) > 0).all()


def test_absorbed_prefill_does_more_work_than_expanded():
    rows, fitted = PREFILL.prepare(H200, _rows(4, 8192, 0, 16)), default_fit(PREFILL)
    plain, absorbed = (
        PREFILL.predict(H200, rows, fitted.parameters, fitted.choices | {"absorbed": flag}) for flag in (False, True)
    )
    assert absorbed / plain == pytest.approx((576 + 512) / (192 + 128), rel=0.25)


def test_costs_broadcast_and_grow():
    machine = Machine(H200)
    decode = mla_decode(
        machine, batch=np.array([[1], [128]]), context=np.array([64, 65536]), heads=16, kv=FP8, **LATENT
    )
    assert decode.seconds.shape == (2, 2)
    assert decode.limit[0, 0] == 0
    assert decode.limit[1, 1] == 1
    prefill = mla_prefill(machine, batch=1, new_tokens=np.array([128, 8192]), context=0, heads=16, kv=BF16, **EXPANDED)
    assert (np.diff(prefill.seconds) > 0).all()
    assert prefill.limit[1] == 2


def test_defaults_stay_below_and_near_flashmla():
    """FlashMLA's README: up to 3,000 GB/s memory-bound and 660 TFLOP/s compute-bound dense decode on H800 SXM5."""
    machine = Machine(H800)
    few = mla_decode(machine, batch=128, context=65536, heads=1, kv=BF16, **LATENT).seconds
    assert 0.8 < 128 * 65536 * 576 * 2 / few / 3.0e12 < 1.05
    many = mla_decode(machine, batch=128, context=8192, heads=128, kv=BF16, **LATENT).seconds
    assert 0.6 < 2 * 128 * 128 * 8192 * (576 + 512) / many / 660e12 < 1.05


@pytest.mark.parametrize(("family", "phase", "median"), [(DECODE, "decode", 0.08), (PREFILL, "prefill", 0.05)])
def test_held_out_heads_of_a_measured_kernel(family, phase, median):
    pandas = pytest.importorskip("pandas")
    if not TABLE.exists():
        pytest.skip("measured tables are optional local data")
    table = pandas.read_parquet(TABLE).query("hardware == 'h200' and phase == @phase and kernel == 'default'")
    table = table[table.kv_cache_dtype == "fp8"]
    rows = {column: table[column].to_numpy() for column in table if column != "row_id"}
    error = np.abs(cross_validate(family, H200, rows, {"kernel": "default"}) / rows["latency_s"] - 1)
    assert np.median(error) < median
    assert np.quantile(error, 0.9) < 0.25
