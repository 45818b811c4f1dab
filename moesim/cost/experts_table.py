"""Tables of measured routed experts as a `Family`: from a row's pattern over all ranks to the loads of one rank."""

from __future__ import annotations

import numpy as np

from moesim.cost import experts_kernel
from moesim.cost.experts_loads import table_loads
from moesim.cost.fitting import Family, Rows
from moesim.hardware.device import Device

# (hidden, inner width, experts) of models whose experts have two matrices, no gate (squared ReLU, NVIDIA Nemotron 3):
# the table does not say so, but three matrices would beat the bandwidth of every device by up to 1.34x.
_UNGATED = ((2688, 1856, 128), (1024, 2688, 512), (4096, 2688, 512))
# (hidden, inner width, experts, top_k) of models that route in groups, 4 of 8 (DeepSeek-V3); again the table does not
# say so.
_GROUPED = ((7168, 2048, 256, 8),)
_ROUTES_ITSELF = ("sglang_", "monolithic", "fp8moe_triton")  # parts of names of kernels that take router logits


def prepare(device: Device, rows: Rows) -> Rows:
    """The rows with the columns of `experts_kernel`; rows that have them already (the simulator's) pass through."""
    if "pairs" in rows:
        return rows
    number = {name: np.asarray(rows[name]) for name in ("num_tokens", "experts", "top_k", "ep", "expert_tp")}
    hidden, ffn = np.asarray(rows["hidden_size"]), np.asarray(rows["expert_ffn"])
    gated = ~_is_one_of(_UNGATED, hidden, ffn, number["experts"])
    grouped = _is_one_of(_GROUPED, hidden, ffn, number["experts"], number["top_k"]) & _routes_itself(rows["kernel"])
    loads = table_loads(
        number["num_tokens"], number["experts"], number["top_k"], number["ep"], rows["distribution"], grouped
    )
    return dict(rows) | loads | {
        "hidden_size": hidden.astype(float), "width": ffn / number["expert_tp"], "gated": gated.astype(float),
        "tokens": number["num_tokens"].astype(float), "top_k": number["top_k"].astype(float),
        "local_experts": number["experts"] / number["ep"], "experts": number["experts"].astype(float),
    }  # fmt: skip


def _is_one_of(known: tuple[tuple[int, ...], ...], *columns: np.ndarray) -> np.ndarray:
    """[rows] whether the columns hold one of the known combinations."""
    matches = [[column == value for column, value in zip(columns, some, strict=True)] for some in known]
    return np.logical_or.reduce([np.logical_and.reduce(match) for match in matches])


def _routes_itself(kernel: np.ndarray) -> np.ndarray:
    """[rows] whether the kernel takes router logits and picks experts by itself."""
    names, of = np.unique(np.asarray(kernel, dtype=str), return_inverse=True)
    return np.array([any(part in name for part in _ROUTES_ITSELF) for name in names])[of.reshape(-1)]


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
)  # fmt: skip
