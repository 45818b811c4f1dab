"""What the routed experts of a rank cost, from the tokens that each of its experts received.

The equation and its parameters are in `moesim.cost.experts_kernel`, the kernel tables that fit them in
`moesim.cost.experts_table`. Cost follows the loads themselves: weights of an expert move only if a token touches it,
tokens are padded to tiles expert by expert, and the sum over experts is what a rank waits for. Skew therefore makes
small batches cheaper (fewer experts touched) and large ones dearer (one expert's tiles outlast the rest, seen by the
caller as the slowest rank).

Validity: 1 to 16,384 tokens entering, 1 to 512 experts a rank, hidden 1,024 to 7,168. Known errors:
``docs/cost-models``.
"""

from __future__ import annotations

import numpy as np

from moesim.cost.calibration import estimate
from moesim.cost.dtypes import table_dtype
from moesim.cost.estimate import Cost
from moesim.cost.experts_grouped import DTYPES, GROUPED, STACK
from moesim.cost.experts_loads import load_columns
from moesim.cost.experts_table import EXPERTS
from moesim.cost.machine import Machine
from moesim.hardware.precision import Precision


def routed_experts(
    machine: Machine,
    tokens: np.ndarray,
    *,
    hidden: int,
    ffn: float,
    gated: bool,
    weights: Precision,
    activations: Precision,
    entering: np.ndarray | None = None,
    top_k: float | None = None,
    kernel: str | None = None,
    grouped: bool = False,
) -> Cost:
    """Cost of the routed experts of ranks: permute, both grouped products, activation, un-permute.

    tokens: [..., slots] token-expert pairs of each local expert slot (replicas are slots). ffn: inner width of one
    expert on the rank (after tensor parallelism inside experts). entering, top_k: tokens that enter the kernel on the
    rank [...] and experts per token, where the kernel sees all of them; by default it sees its own pairs only, as after
    a dispatch. kernel: part of a kernel's name, to choose among several. grouped: tokens come from a dispatch that
    sorts for the experts, so that they run as bare grouped products where there are any
    (`moesim.cost.experts_grouped`); they lie expert by expert unless `entering` says otherwise. The result has the
    leading shape of tokens; a rank without tokens costs nothing.
    """
    tokens = np.asarray(tokens)
    shape, slots = tokens.shape[:-1], tokens.shape[-1]
    columns = {name: values.reshape(-1) for name, values in load_columns(tokens).items()}
    pairs = columns["pairs"]
    scattered = float(entering is not None)
    entering = pairs if entering is None else np.broadcast_to(np.asarray(entering, dtype=float), shape).reshape(-1)
    top_k = 1.0 if top_k is None else float(top_k)
    dtype = table_dtype(weights, activations)
    rows = columns | {
        "tokens": np.maximum(entering, pairs / top_k), "top_k": top_k, "local_experts": float(slots),
        "experts": float(slots), "hidden_size": float(hidden), "width": float(ffn), "gated": float(gated),
        "dtype": dtype,
    }  # fmt: skip
    if grouped and dtype in DTYPES and machine.device.kind == "gpu":
        wanted = {"dtype": dtype, "software": STACK, "kernel": kernel}
        cost = estimate(machine, GROUPED, rows | {"scattered": scattered}, wanted)
    else:
        cost = estimate(machine, EXPERTS, rows, {"dtype": dtype, "kernel": kernel})
    some = pairs > 0
    parts = (cost.seconds * some, cost.low * some, cost.high * some, cost.limit)
    return Cost(*(part.reshape(shape) for part in parts))
