"""Grouped-query and multi-head attention: costs for simulations, and the families that tables are fitted by.

The equations are those of `moesim.cost.attention_decode` and `moesim.cost.attention_prefill`; this page turns a table's
columns, or a call's arguments, into their geometry. Valid for 1 to 128 heads a rank, 1 to 96 stored heads, head dims 64
to 512, batches to 2,048 and contexts to 131,072. Known error on held-out shapes: docs/cost-models/attention.md.
"""

from __future__ import annotations

import numpy as np

from moesim.cost import attention_decode, attention_prefill, attention_tpu
from moesim.cost.calibration import estimate
from moesim.cost.dtypes import formats, table_dtype
from moesim.cost.estimate import Cost
from moesim.cost.family import Family, Rows
from moesim.cost.machine import Machine
from moesim.hardware.device import Device
from moesim.hardware.precision import PRECISIONS, Precision


def gqa_decode(
    machine: Machine, *, batch: object, context: object, heads: int, kv_heads: int, head_dim: int,
    window: int | None, kv: Precision,
) -> Cost:  # fmt: skip
    """Cost of one layer's attention for one new token in each of ``batch`` sequences (arrays broadcast).

    context: tokens that the new one attends to, itself included, before the window cuts; mean over the batch. heads,
    kv_heads: of this rank. window: sliding window in tokens, None or 0 for full attention. kv: format of the cache.
    """
    rows = {"batch_size": batch, "isl": 1, "step": np.maximum(np.asarray(context, dtype=float) - 1, 0)}
    return _cost(machine, DECODE, rows, "decode", heads, kv_heads, head_dim, window, kv)


def gqa_prefill(
    machine: Machine, *, batch: object, new_tokens: object, context: object, heads: int, kv_heads: int, head_dim: int,
    window: int | None, kv: Precision,
) -> Cost:  # fmt: skip
    """Cost of one layer's causal attention for ``new_tokens`` in each of ``batch`` sequences (arrays broadcast).

    context: tokens of each sequence that are already in the cache (earlier chunks, shared prefix), 0 for a fresh
    prompt. The rest as in `gqa_decode`. Chunks after the first are outside the measured tables, which start at 0.
    """
    rows = {"batch_size": batch, "isl": new_tokens, "step": context}
    return _cost(machine, PREFILL, rows, "prefill", heads, kv_heads, head_dim, window, kv)


def _cost(
    machine: Machine, family: Family, rows: dict[str, object], phase: str, heads: int, kv_heads: int, head_dim: int,
    window: int | None, kv: Precision,
) -> Cost:  # fmt: skip
    cache = table_dtype(kv, kv)
    rows |= {"num_heads": heads, "num_kv_heads": kv_heads, "head_dim": head_dim, "window_size": window or 0}
    rows |= {"dtype": "bfloat16", "kv_cache_dtype": cache}
    return estimate(machine, family, rows, {"phase": phase, "dtype": "bfloat16", "kv_cache_dtype": cache})


def geometry(device: Device, rows: Rows) -> Rows:
    """Adds what the equations need: batch; new, earlier, visible tokens; window; heads; dims; bytes per element."""
    number = {c: np.asarray(rows[c], dtype=float) for c in _NUMERIC}
    stored = np.where(number["num_kv_heads"] == 0, number["num_heads"], number["num_kv_heads"])
    window = np.where(number["window_size"] > 0, number["window_size"], np.inf)
    context = number["isl"] + number["step"]
    return dict(rows) | {
        "batch": number["batch_size"], "new_tokens": number["isl"], "earlier": number["step"],
        "context": context, "window": window, "visible": np.minimum(context, window),
        "heads": number["num_heads"], "stored_heads": stored,
        "key_dim": number["head_dim"], "value_dim": number["head_dim"], "stored_dims": 2 * number["head_dim"],
        "kv_bytes": element_bytes(rows["kv_cache_dtype"]), "query_bytes": element_bytes(rows["dtype"]),
    }  # fmt: skip


def element_bytes(dtypes: np.ndarray) -> np.ndarray:
    """[rows] bytes of one activation of each dtype, a table's or one of `PRECISIONS`."""
    names, index = np.unique(np.asarray(dtypes, dtype=str), return_inverse=True)
    return np.array([(PRECISIONS.get(name) or formats(name)[1]).bytes for name in names])[index.reshape(-1)]


_NUMERIC = ("batch_size", "isl", "step", "num_heads", "num_kv_heads", "head_dim", "window_size")
_GROUP = ("hardware", "software", "kernel", "phase", "dtype", "kv_cache_dtype")

DECODE = Family(
    name="attention_decode",
    columns=(*_GROUP, *_NUMERIC),
    shape=("num_heads", "num_kv_heads", "head_dim"),
    size="step",
    numeric=("batch_size", "step", "num_heads", "num_kv_heads", "head_dim"),
    parameters=attention_decode.PARAMETERS,
    predict=attention_decode.decode_seconds,
    bounds=attention_decode.decode_bounds,
    choices=attention_decode.CHOICES,
    group=_GROUP,
    prepare=geometry,
    variants={"tpu": attention_tpu.DECODE},
)
PREFILL = Family(
    name="attention_prefill",
    columns=(*_GROUP, *_NUMERIC),
    shape=("num_heads", "num_kv_heads", "head_dim"),
    size="batch_size",  # some stacks prefill single tokens only: all their rows have one isl
    numeric=("batch_size", "isl", "num_heads", "num_kv_heads", "head_dim"),
    parameters=attention_prefill.PARAMETERS,
    predict=attention_prefill.prefill_seconds,
    bounds=attention_prefill.prefill_bounds,
    choices=attention_prefill.CHOICES,
    group=_GROUP,
    prepare=geometry,
    variants={"tpu": attention_tpu.PREFILL},
)
