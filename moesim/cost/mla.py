"""Multi-head latent attention (DeepSeek-V2/V3): a token's keys and values are stored as one latent, for all heads.

Decode runs absorbed: all H query heads of a rank share the stored head, whose latent and rotary dims (512 + 64 in
DeepSeek-V3) are the keys and whose latent dims are the values; tensor parallelism replicates it. Prefill expands the
latent to H heads of their own keys and values (192 and 128 dims). The equations are those of
`moesim.cost.attention_decode` and `moesim.cost.attention_prefill` with these dims.

Some prefill kernels run absorbed too (choice ``absorbed``: the table of FlashAttention-3 in SGLang on Hopper). Steps
are never priced by such a table where a kernel that expands was measured: stacks expand the latent of prompts
(`forward_mha` in SGLang's deepseek_v2.py), which is 3.4 times fewer FLOPs.

Valid for 1 to 128 heads a rank, batches to 1,024 and contexts to 131,072; fitted at DeepSeek-V3's dims only. Known
error: docs/cost-models/attention.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from moesim.cost import attention
from moesim.cost.attention import element_bytes
from moesim.cost.attention_decode import decode_seconds
from moesim.cost.attention_prefill import prefill_seconds
from moesim.cost.calibration import estimate
from moesim.cost.dtypes import table_dtype
from moesim.cost.estimate import Cost
from moesim.cost.family import Family, Rows
from moesim.cost.machine import Machine
from moesim.hardware.device import Device
from moesim.hardware.precision import Precision

# DeepSeek-V3 (technical report, section 4.2), the only dims in the measured tables.
KV_LORA_RANK, ROPE_DIM, QK_DIM, V_DIM = 512, 64, 192, 128


def mla_decode(
    machine: Machine, *, batch: object, context: object, heads: int, kv_lora_rank: int, rope_dim: int, kv: Precision
) -> Cost:
    """Cost of one layer's absorbed attention for one new token in each of ``batch`` sequences (arrays broadcast).

    context: tokens that the new one attends to, itself included. heads: query heads of this rank. kv_lora_rank,
    rope_dim: dims of the stored latent. kv: format of the cache.
    """
    step = np.maximum(np.asarray(context, dtype=float) - 1, 0)
    rows = {"batch_size": batch, "isl": 1, "step": step, "num_heads": heads}
    rows |= {"kv_lora_rank": kv_lora_rank, "rope_dim": rope_dim}
    return _cost(machine, DECODE, rows, "decode", kv)


def mla_prefill(
    machine: Machine, *, batch: object, new_tokens: object, context: object, heads: int, qk_dim: int, v_dim: int,
    kv: Precision,
) -> Cost:  # fmt: skip
    """Cost of one layer's causal attention for ``new_tokens`` in each of ``batch`` sequences (arrays broadcast).

    context: tokens of each sequence already in the cache; the tables only have 0. qk_dim, v_dim: dims of one expanded
    head (192 and 128 in DeepSeek-V3). The rest as in `mla_decode`.
    """
    rows = {"batch_size": batch, "isl": new_tokens, "step": context, "num_heads": heads}
    return _cost(_expanding(machine), PREFILL, rows | {"qk_dim": qk_dim, "v_dim": v_dim}, "prefill", kv)


def _expanding(machine: Machine) -> Machine:
    """The machine without absorbed prefill kernels, unless it has no others."""
    fits = machine.fits.get(PREFILL.name, ())
    expanded = tuple(fit for fit in fits if not fit.choices.get("absorbed"))
    return (
        machine if len(expanded) in (0, len(fits)) else replace(machine, fits={**machine.fits, PREFILL.name: expanded})
    )


def _cost(machine: Machine, family: Family, rows: dict[str, object], phase: str, kv: Precision) -> Cost:
    cache = table_dtype(kv, kv)
    rows |= {"dtype": "bfloat16", "kv_cache_dtype": cache}
    return estimate(machine, family, rows, {"phase": phase, "dtype": "bfloat16", "kv_cache_dtype": cache})


def decode_geometry(device: Device, rows: Rows) -> Rows:
    """Adds the absorbed geometry: one stored head of latent + rotary dims."""
    latent = _column(rows, "kv_lora_rank", KV_LORA_RANK)
    stored = latent + _column(rows, "rope_dim", ROPE_DIM)
    one = np.ones_like(latent)
    return _common(rows) | {"stored_heads": one, "key_dim": stored, "value_dim": latent, "stored_dims": stored}


def prefill_geometry(device: Device, rows: Rows) -> Rows:
    """Adds the expanded geometry: every head has keys and values of its own."""
    key, value = _column(rows, "qk_dim", QK_DIM), _column(rows, "v_dim", V_DIM)
    common = _common(rows)
    return common | {"stored_heads": common["heads"], "key_dim": key, "value_dim": value, "stored_dims": key + value}


def _predict_decode(device: Device, rows: Rows, parameters: Mapping[str, float], choices: Mapping[str, object]):
    return decode_seconds(device, rows, _ABSENT | parameters, _ONLY | choices)


def _predict_prefill(device: Device, rows: Rows, parameters: Mapping[str, float], choices: Mapping[str, object]):
    if choices["absorbed"]:
        one = np.ones_like(rows["batch"])
        absorbed = {"stored_heads": one, "key_dim": one * (KV_LORA_RANK + ROPE_DIM), "value_dim": one * KV_LORA_RANK}
        rows = dict(rows) | absorbed
    return prefill_seconds(device, rows, _ABSENT_IN_PREFILL | parameters, choices)


def _common(rows: Rows) -> dict[str, np.ndarray]:
    number = {c: np.asarray(rows[c], dtype=float) for c in _NUMERIC}
    context = number["isl"] + number["step"]
    return dict(rows) | {
        "batch": number["batch_size"], "new_tokens": number["isl"], "earlier": number["step"],
        "context": context, "visible": context, "window": np.full_like(context, np.inf), "heads": number["num_heads"],
        "kv_bytes": element_bytes(rows["kv_cache_dtype"]), "query_bytes": element_bytes(rows["dtype"]),
    }  # fmt: skip


def _column(rows: Rows, name: str, measured: int) -> np.ndarray:
    """[rows] a dimension: tables do not have the column, because they only hold DeepSeek-V3's."""
    return np.asarray(rows.get(name, np.full(len(rows["num_heads"]), measured)), dtype=float)


_NUMERIC = ("batch_size", "isl", "step", "num_heads")
# What MLA has not: a second kernel, windows, head dims that vary.
_ABSENT = {"t_u": 0.0, "t_i2": 0.0, "c_2": 0.0, "t_w": 0.0, "t_p": 0.0}
_ONLY = {"unpacked": "never", "late_dims": "odd"}
_ABSENT_IN_PREFILL = {"t_p": 0.0, "alpha": 1.0}
# Medians of the fits on four NVIDIA devices, where they differ from those of grouped-query attention.
_DECODE_START = {"e_c": 0.9, "c_0": 2.5e-7, "t_i": 2.2e-6, "t_r": 8e-9, "t_s": 1.2e-6, "t_n": 1.6e-7, "t_b": 1.4e-8}
_DECODE_START |= {"rho": 0.2, "phi": 0.5, "q": 0.4}
_PREFILL_START = {"t0": 1.2e-5, "e_c": 0.8, "c_s": 1.2e-11, "t_t": 2e-6, "c_m": 2e-12, "t_q": 5e-10}
_GROUP = attention.DECODE.group

DECODE = replace(
    attention.DECODE,
    name="mla_decode",
    columns=(*_GROUP, *_NUMERIC),
    shape=("num_heads",),
    numeric=("batch_size", "step", "num_heads"),
    parameters={
        name: replace(parameter, start=_DECODE_START.get(name, parameter.start))
        for name, parameter in attention.DECODE.parameters.items()
        if name not in _ABSENT
    },
    choices={
        **{n: c for n, c in attention.DECODE.choices.items() if n not in _ONLY},
        "tile_rows": (64, "16_then_64", 32, 128, 16),
    },
    predict=_predict_decode,
    prepare=decode_geometry,
)
PREFILL = replace(
    attention.PREFILL,
    name="mla_prefill",
    columns=(*_GROUP, *_NUMERIC),
    shape=("num_heads",),
    size="isl",
    numeric=("batch_size", "isl", "num_heads"),
    parameters={
        name: replace(parameter, start=_PREFILL_START.get(name, parameter.start))
        for name, parameter in attention.PREFILL.parameters.items()
        if name not in _ABSENT_IN_PREFILL
    },
    choices={"absorbed": (False, True)} | dict(attention.PREFILL.choices),
    predict=_predict_prefill,
    prepare=prefill_geometry,
)
