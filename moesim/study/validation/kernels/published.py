"""Published kernel figures (throughputs and latencies of vendors and authors) beside what the cost models say."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd

from moesim.cost.calibration import answer, machine_for
from moesim.cost.gemm import GEMM
from moesim.errors import InvalidInput
from moesim.hardware.device import Hardware
from moesim.study.validation.kernels.validate import predict_table

# Free text of published figures -> profile, dtype of the tables
_HARDWARE = {
    "H800 SXM5": "h800", "H800": "h800", "H100": "h100", "H200": "h200", "B200": "b200", "GB200": "gb200_nvl72",
    "TPU7x Ironwood": "tpu_v7x",
}  # fmt: skip
_DTYPE = {"FP8": "fp8_block", "FP4": "nvfp4", "NVFP4": "nvfp4", "bf16": "bfloat16"}
# Who published it -> the measured kernel that is the same code, or that calls it
_KERNEL = {"DeepGEMM": "sglang_deepgemm_gemm_nt_f8f8bf16", "cuBLASLt": "torch_flow", "JAX": "linear"}
_DENSE = re.compile(r"dense GEMM throughput M=(\d+) N=(\d+) K=(\d+)")
_SQUARE = re.compile(r"GEMM throughput (\d+)(?:\^3)?$")
_CONTIGUOUS = re.compile(r"grouped GEMM contiguous throughput groups=(\d+) M/group=(\d+) N=(\d+) K=(\d+)")
_FUSED_TOKENS = re.compile(r"(\d+) tokens")


def published_kernels(figures: Iterable[Mapping[str, object]], lookup: Callable[[str], Hardware]) -> pd.DataFrame:
    """Dense and grouped products and fused MoE kernels of ``figures``, one row each: published_s and predicted_s.

    figures: mappings with id, source, kind, hardware, precision, software, batch, metric, value, unit. Columns: id,
    source, hardware, what, published_s, predicted_s, low_s, high_s, note, reason. Figures of other kinds, of devices
    without a profile and "up to" figures without sizes are left out.
    """
    rows = pd.DataFrame([row for figure in figures if figure.get("kind") == "kernel" for row in _row(figure)])
    rows = rows[[_known(name, lookup) for name in rows["hardware"]]]
    products, experts = rows[rows["table"] == "gemm"], rows[rows["table"] == "moe"]
    found = pd.concat([_products(products, lookup), predict_table(experts.reset_index(drop=True), lookup)])
    columns = ["id", "source", "hardware", "what", "published_s", "predicted_s", "low_s", "high_s", "note", "reason"]
    return found[columns].reset_index(drop=True)


def _products(rows: pd.DataFrame, lookup: Callable[[str], Hardware]) -> pd.DataFrame:
    """Products as their authors time them: operands quantised before, and kernels replayed without a host."""
    parts = []
    for (hardware, dtype, kernel), part in rows.groupby(["hardware", "dtype", "kernel"]):
        machine = machine_for(lookup(hardware), None, lookup)
        columns = {column: part[column].to_numpy(float) for column in ("m", "n", "k")}
        columns |= {"dtype": np.full(len(part), dtype), "quantise": np.zeros(len(part))}
        given = answer(machine, GEMM, columns, {"dtype": dtype, "kernel": kernel})
        note = " ".join(given.fits[0].key.values()) or "uncalibrated: stated defaults"
        cost = given.cost
        parts.append(part.assign(predicted_s=cost.seconds, low_s=cost.low, high_s=cost.high, note=note, reason=""))
    return pd.concat(parts)


def _known(name: str, lookup: Callable[[str], Hardware]) -> bool:
    try:
        return bool(lookup(name))
    except InvalidInput:
        return False


def _row(figure: Mapping[str, object]) -> list[dict[str, object]]:
    hardware = _HARDWARE.get(str(figure["hardware"]))
    dtype = _DTYPE.get(str(figure["precision"]))
    if hardware is None or dtype is None:
        return []
    metric, value = str(figure["metric"]), float(figure["value"])
    base = {"id": figure["id"], "source": figure["source"], "what": metric, "hardware": hardware, "dtype": dtype}
    base |= {"software": str(figure["software"]), "kernel": _KERNEL.get(str(figure["software"]).split()[0], "")}
    sizes = None
    if match := _DENSE.match(metric):
        sizes = [int(size) for size in match.groups()]
    elif match := _SQUARE.search(metric):
        sizes = [int(match.group(1))] * 3
    elif match := _CONTIGUOUS.match(metric):
        groups, rows, n, k = (int(size) for size in match.groups())
        sizes = [groups * rows, n, k]  # long contiguous groups run as one tall product
    if sizes is not None:
        m, n, k = sizes
        return [base | {"table": "gemm", "m": m, "n": n, "k": k, "published_s": 2.0 * m * n * k / (value * 1e12)}]
    tokens = _FUSED_TOKENS.match(str(figure["batch"]))
    if metric == "fused MoE prefill kernel latency" and tokens:
        # DeepSeek-R1's routed experts, all on one device
        moe = {"num_tokens": int(tokens.group(1)), "hidden_size": 7168, "expert_ffn": 2048, "top_k": 8, "experts": 256}
        moe |= {"expert_tp": 1, "ep": 1, "distribution": "balanced", "published_s": value * 1e-6}
        return [base | {"table": "moe", "software": "vllm"} | moe]
    return []
