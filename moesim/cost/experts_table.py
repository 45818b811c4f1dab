"""Tables of measured routed experts as a `Family`: from a row's pattern over all ranks to the loads of one rank."""

from __future__ import annotations

import numpy as np

from moesim.cost import cpu, experts_kernel, experts_tpu
from moesim.cost.experts_loads import table_loads
from moesim.cost.family import Family, Rows
from moesim.hardware.device import Device

# What the tables do not say, found where rows beat the bytes that must move, or miss every model by 2 to 7x:
# - models whose experts have two matrices and no gate (squared ReLU, Nemotron 3), by hidden, inner width, experts;
_UNGATED = ((2688, 1856, 128), (1024, 2688, 512), (4096, 2688, 512))
#   these kernels run them with a gate all the same (rows take 1.5x the time of two matrices);
_ALWAYS_GATED = ("sglang_fused_moe_triton", "w4a4nvfp4moe_flashinfer_trtllm")
# - a model that routes in groups (DeepSeek-V3), by hidden, inner width, experts, top_k;
_GROUPED = ((7168, 2048, 256, 8),)
#   the stacks whose rows start from router scores, and the kernel that always routes in groups.
_ROUTES_SCORES, _ALWAYS_GROUPED = ("sglang_", "vllm_"), ("moe_torch_flow_min_latency",)
# A power-law row is one draw, 9 to 10 % around the mean that is modelled, and kernels repeat to some 5 %.
_DRAWN_WEIGHT = 0.3


def prepare(device: Device, rows: Rows) -> Rows:
    """The rows with the columns of `experts_kernel`; rows that have them already (the simulator's) pass through."""
    if "pairs" in rows:
        return rows
    number = {name: np.asarray(rows[name]) for name in ("num_tokens", "experts", "top_k", "ep", "expert_tp")}
    hidden, ffn = np.asarray(rows["hidden_size"]), np.asarray(rows["expert_ffn"])
    gated = ~_is_one_of(_UNGATED, hidden, ffn, number["experts"]) | _named(rows["kernel"], _ALWAYS_GATED)
    grouped = _is_one_of(_GROUPED, hidden, ffn, number["experts"], number["top_k"])
    grouped = grouped & _named(rows["kernel"], _ROUTES_SCORES) | _named(rows["kernel"], _ALWAYS_GROUPED)
    loads = table_loads(
        number["num_tokens"], number["experts"], number["top_k"], number["ep"], rows["distribution"], grouped
    )
    return dict(rows) | loads | {
        "hidden_size": hidden.astype(float), "width": ffn / number["expert_tp"], "gated": gated.astype(float),
        "tokens": number["num_tokens"].astype(float), "top_k": number["top_k"].astype(float),
        "local_experts": number["experts"] / number["ep"], "experts": number["experts"].astype(float),
        "weight": np.where(np.asarray(rows["distribution"], dtype=str) == "balanced", 1.0, _DRAWN_WEIGHT),
    }  # fmt: skip


def _is_one_of(known: tuple[tuple[int, ...], ...], *columns: np.ndarray) -> np.ndarray:
    """[rows] whether the columns hold one of the known combinations."""
    matches = [[column == value for column, value in zip(columns, some, strict=True)] for some in known]
    return np.logical_or.reduce([np.logical_and.reduce(match) for match in matches])


def _named(kernel: np.ndarray, parts: tuple[str, ...]) -> np.ndarray:
    """[rows] whether the kernel's name holds one of the parts."""
    names, of = np.unique(np.asarray(kernel, dtype=str), return_inverse=True)
    return np.array([any(part in name for part in parts) for name in names])[of.reshape(-1)]


EXPERTS = Family(
    name="experts",
    columns=(
        "hardware", "software", "kernel", "dtype", "num_tokens", "hidden_size", "expert_ffn", "top_k", "experts",
        "expert_tp", "ep", "distribution",
    ),
    shape=("hidden_size", "expert_ffn", "experts", "top_k"),
    size="num_tokens",
    numeric=("tokens", "hidden_size", "width", "local_experts"),
    parameters=experts_kernel.PARAMETERS,
    predict=experts_kernel.predict,
    bounds=experts_kernel.bounds,
    choices=experts_kernel.CHOICES,
    prepare=prepare,
    select=experts_kernel.select,
    starts=experts_kernel.starts,
    variants={"cpu": cpu.EXPERTS, "tpu": experts_tpu.EXPERTS},
)  # fmt: skip
