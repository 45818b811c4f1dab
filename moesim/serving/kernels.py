"""Kernel seconds of the steps of one server, tabulated once from the cost floor and interpolated.

A step is a sum of kernels that depend on few numbers each: products on the tokens of a rank, experts on the tokens of
the server, decode attention on sequences and context, prefill attention on prompts and their length, collectives on
tokens. Tables hold them over grids; between grid points kernels are nearly straight lines.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moesim.cost.communication import collective
from moesim.cost.dtypes import peak
from moesim.cost.exchange import exchange
from moesim.cost.experts import routed_experts
from moesim.cost.experts_kernel import weight_bytes
from moesim.model import shapes
from moesim.model.architecture import Layer
from moesim.serving.loads import drawn_loads
from moesim.workload import local
from moesim.workload.deployment import Batch, Deployment

TOKENS = np.unique(np.rint(2.0 ** np.arange(0, 15.01, 0.5)).astype(int))  # 1 … 32,768
SEQUENCES = np.unique(np.rint(2.0 ** np.arange(0, 11.01, 0.5)).astype(int))  # 1 … 2,048
CONTEXTS = np.array([1, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072])
PROMPTS = np.array([1, 2, 4, 8, 16, 32, 64])
# Servers pad steps to graphs of multiples of 8 sequences. Several block-scaled products of the tables take a path some
# six times as slow for other row counts, which no server meets.
PADDED = np.maximum(8, -(-TOKENS // 8) * 8)
# 4-bit weights with wider activations are unpacked by the SMs: Marlin's experts read at most 2.7 (H100), 3.4 (H200) and
# 2.8 TB/s (B200) of them, whatever the HBM (measured tables, int4_wo and w4a16_mxfp4): 21, 26 and 19 GB/s an SM.
UNPACK_BYTES_PER_S = 23e9  # of one SM
_KERNEL_WINDOWS = 4  # of the drawn ones: kernels are dear to price and differ little between windows
LENGTHS = np.array([16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768])


@dataclass(frozen=True, slots=True, eq=False)
class KernelTables:
    """Seconds of all layers together.

    dense_s [TOKENS of a rank]: norms, projections, routers, shared experts, dense FFNs. expert_bytes_s, expert_flops_s
    [TOKENS of the server]: what the busiest rank's routed experts must move and multiply, at datasheet rates: weights
    of the experts that a token touches, and 2 FLOPs a weight and token. experts_s [the same]: what its kernels take by
    the cost floor. communication_s [TOKENS of a rank]: all-reduces, or dispatch and combine.
    head_s [SEQUENCES]. decode_s [SEQUENCES, CONTEXTS]: decode attention. prefill_s [PROMPTS, LENGTHS]: causal attention
    of fresh prompts. hottest [TOKENS of the server]: routed tokens of the hottest rank over the mean rank's, mean over
    layers.
    """

    dense_s: np.ndarray
    expert_bytes_s: np.ndarray
    expert_flops_s: np.ndarray
    experts_s: np.ndarray
    communication_s: np.ndarray
    head_s: np.ndarray
    decode_s: np.ndarray
    prefill_s: np.ndarray
    hottest: np.ndarray

    def parts(
        self,
        sequences: np.ndarray,
        total: np.ndarray,
        context: np.ndarray,
        prefill_tokens: np.ndarray,
        prefill_total: np.ndarray,
        attended: np.ndarray,
        prompts: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Seconds by kind [steps] of steps that `moesim.serving.journal` records; context is the sum over sequences."""
        rank = sequences + prefill_tokens
        mean = context / np.maximum(sequences, 1e-9)
        length = np.sqrt(2 * attended / np.maximum(prompts, 1e-9))
        return {
            "dense": np.interp(rank, TOKENS, self.dense_s),
            "expert_bytes": np.interp(total + prefill_total, TOKENS, self.expert_bytes_s),
            "expert_flops": np.interp(total + prefill_total, TOKENS, self.expert_flops_s),
            "experts": np.interp(total + prefill_total, TOKENS, self.experts_s),
            "communication": np.interp(rank, TOKENS, self.communication_s),
            "head": np.interp(sequences + prompts, SEQUENCES, self.head_s),
            "attention": (sequences > 0) * bilinear(SEQUENCES, CONTEXTS, self.decode_s, sequences, mean),
            "prefill_attention": (prompts > 0) * bilinear(PROMPTS, LENGTHS, self.prefill_s, prompts, length),
        }


def bilinear(rows: np.ndarray, columns: np.ndarray, table: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Interpolate table [rows, columns] at y and x, flat beyond its edges."""
    y, x = np.clip(y, rows[0], rows[-1]), np.clip(x, columns[0], columns[-1])
    i = np.clip(np.searchsorted(rows, y) - 1, 0, len(rows) - 2)
    j = np.clip(np.searchsorted(columns, x) - 1, 0, len(columns) - 2)
    v = (y - rows[i]) / (rows[i + 1] - rows[i])
    u = (x - columns[j]) / (columns[j + 1] - columns[j])
    low = table[i, j] * (1 - u) + table[i, j + 1] * u
    high = table[i + 1, j] * (1 - u) + table[i + 1, j + 1] * u
    return low * (1 - v) + high * v


def kernel_tables(deployment: Deployment, *, sigma: float) -> KernelTables:
    """Tabulate a deployment of one instance. sigma: of the popularity of experts, see `moesim.serving.loads`."""
    layers = _kinds(deployment.model.layers)
    experts = sum(count * _experts(deployment, layer, sigma) for layer, count in layers.items())
    return KernelTables(
        dense_s=sum(count * _dense(deployment, layer) for layer, count in layers.items()),
        expert_bytes_s=experts[0],
        expert_flops_s=experts[1],
        experts_s=experts[2],
        communication_s=_communication(deployment, layers),
        head_s=local.head_work(deployment, SEQUENCES).seconds,
        decode_s=sum(count * _decode(deployment, layer) for layer, count in layers.items()),
        prefill_s=sum(count * _prefill(deployment, layer) for layer, count in layers.items()),
        hottest=experts[3] / sum(count for layer, count in layers.items() if layer.experts is not None)
        if deployment.model.moe_layers
        else np.ones(TOKENS.size),
    )


def _kinds(layers: tuple[Layer, ...]) -> dict[Layer, int]:
    found: dict[Layer, int] = {}
    for layer in layers:
        found[layer] = found.get(layer, 0) + 1
    return found


def _dense(deployment: Deployment, layer: Layer) -> np.ndarray:
    """[TOKENS] seconds of everything that is neither attention kernel, routed expert nor collective."""
    works = [
        work
        for work in local.attention_work(deployment, layer, _batch("decode", PADDED, 1, 1), PADDED)
        if work.kind != "attention"
    ]
    works += local.dense_ffn_work(deployment, layer, PADDED)
    if layer.experts is not None:
        works += local.router_work(deployment, layer, PADDED)
        works += local.shared_expert_work(deployment, layer, PADDED, deployment.parallelism.shared_expert_tp)
    return sum((work.seconds for work in works), np.zeros(TOKENS.size))


def _experts(deployment: Deployment, layer: Layer, sigma: float) -> np.ndarray:
    """[4, TOKENS] seconds of the busiest rank's weights through HBM, of its products at peak, and of the slowest rank's
    kernels; tokens of the hottest rank over the mean rank's; means over windows."""
    if layer.experts is None:
        return np.zeros((4, TOKENS.size))
    experts, policy, device = layer.experts, deployment.precision, deployment.machine.device
    loads = drawn_loads(TOKENS, experts.routed, experts.top_k, sigma=sigma)
    loads = loads.reshape(*loads.shape[:2], deployment.parallelism.ep, -1)  # [tokens, window, rank, expert]
    products = shapes.routed_experts(layer, deployment.model.hidden, deployment.parallelism.expert_tp)
    weights = sum(product.n * product.k for product in products)
    touched = np.count_nonzero(loads, axis=3).max(axis=2).mean(axis=1)
    pairs = loads.sum(axis=3).max(axis=2).mean(axis=1)
    moved = touched * weights * weight_bytes(policy.experts) / _weight_rate(deployment)
    multiplied = 2 * pairs * weights / peak(device, policy.experts, policy.expert_activations)
    hottest = pairs / loads.sum(axis=3).mean(axis=(1, 2))
    return np.stack([moved, multiplied, _expert_kernels(deployment, layer, loads[:, :_KERNEL_WINDOWS]), hottest])


def _weight_rate(deployment: Deployment) -> float:
    """Bytes/s at which experts read their weights: HBM's, or what the SMs unpack where that is less."""
    device, policy = deployment.machine.device, deployment.precision
    if policy.experts.bits > 4.6 or policy.expert_activations.bits < 16 or device.kind != "gpu":
        return device.hbm_bytes_per_s
    return min(device.hbm_bytes_per_s, device.cores * UNPACK_BYTES_PER_S)


def _expert_kernels(deployment: Deployment, layer: Layer, loads: np.ndarray) -> np.ndarray:
    """[TOKENS] seconds of the slowest rank's expert kernels under loads [TOKENS, window, rank, expert]."""
    degrees, policy, experts = deployment.parallelism, deployment.precision, layer.experts
    everywhere = degrees.attention_dp == 1  # every rank sees all tokens, and sorts out its own
    cost = routed_experts(
        deployment.machine,
        loads,
        hidden=deployment.model.expert_hidden,
        ffn=experts.ffn / degrees.expert_tp,
        gated=experts.gated,
        weights=policy.experts,
        activations=policy.expert_activations,
        entering=np.broadcast_to(TOKENS[:, None, None].astype(float), loads.shape[:3]) if everywhere else None,
        top_k=experts.top_k if everywhere else None,
    )
    return cost.seconds.max(axis=2).mean(axis=1)


def _communication(deployment: Deployment, layers: dict[Layer, int]) -> np.ndarray:
    """[TOKENS of a rank] seconds of the collectives of all layers, everybody on time.

    A norm of queries and keys over all heads needs one more all-reduce, of two numbers a token (its latency).
    """
    degrees = deployment.parallelism
    if degrees.devices == 1:
        return np.zeros(TOKENS.size)
    seconds = np.zeros(TOKENS.size)
    for layer, count in layers.items():
        if degrees.tp > 1:
            reductions = int(layer.attention is not None) + int(bool(layer.dense_ffn))
            reduced = _all_reduce(deployment, degrees.tp_groups)
            seconds += count * (reductions * reduced + norm_over_heads(layer) * reduced[0])
        if layer.experts is not None:
            seconds += count * _between_experts(deployment, layer)
    return seconds


def norm_over_heads(layer: Layer) -> bool:
    """Whether queries and keys are normalised over all heads together, which tensor parallelism splits."""
    return layer.attention is not None and layer.attention.qk_norm == "full"


def _between_experts(deployment: Deployment, layer: Layer) -> np.ndarray:
    """[TOKENS] seconds of the collectives around the experts of one layer.

    Attention data parallelism inside a scale-up domain gathers all tokens before the experts and scatters their sums
    after, as much as an all-reduce of all ranks' tokens (vLLM's and SGLang's default, TensorRT-LLM's fallback), or
    dispatches and combines where that is shorter.
    """
    degrees = deployment.parallelism
    reduced = _all_reduce(deployment, np.arange(degrees.devices)[None], tokens=TOKENS * degrees.attention_dp)
    if degrees.attention_dp == 1:
        return reduced
    return np.minimum(reduced, _dispatch_combine(deployment, layer))


def _all_reduce(deployment: Deployment, groups: np.ndarray, tokens: np.ndarray = TOKENS) -> np.ndarray:
    width, machine = deployment.model.hidden * 2, deployment.machine
    if (machine.software or "").startswith("sglang"):  # its one-shot kernels are vLLM's, adapted; nobody measured them
        machine = replace(machine, software="vllm")
    transfers = [
        collective(machine, deployment.network, "all_reduce", groups, float(count * width), fidelity="bound")
        for count in tokens
    ]
    return np.array([(t.arrived * t.wire_s + t.latency_s).max() for t in transfers])


def _dispatch_combine(deployment: Deployment, layer: Layer) -> np.ndarray:
    """[TOKENS] seconds of both all-to-alls under even traffic (unevenness shows in the experts)."""
    degrees, policy = deployment.parallelism, deployment.precision
    ranks = np.arange(degrees.devices)
    seconds = np.empty(TOKENS.size)
    for row, tokens in enumerate(TOKENS):
        owned = np.full(ranks.size, tokens / degrees.tp)
        hit = degrees.ep * (1 - (1 - 1 / degrees.ep) ** layer.experts.top_k) / degrees.ep
        copies = np.full((ranks.size, ranks.size), tokens / degrees.tp * hit)
        parts = []
        for phase, precision in (("dispatch", policy.dispatch), ("combine", policy.combine)):
            priced = exchange(
                deployment.machine, deployment.network, ranks, copies, kernel=deployment.kernel, phase=phase,
                tokens=owned, hidden=deployment.model.expert_hidden, experts=layer.experts.routed, precision=precision,
                fidelity="bound",
            )  # fmt: skip
            transfer = priced.transfer
            parts.append((transfer.arrived * transfer.wire_s + transfer.latency_s).max())
        seconds[row] = sum(parts)
    return seconds


def _decode(deployment: Deployment, layer: Layer) -> np.ndarray:
    """[SEQUENCES, CONTEXTS] seconds of one layer's decode attention."""
    return np.stack(
        [_attention(deployment, layer, _batch("decode", SEQUENCES, 1, int(context))) for context in CONTEXTS], axis=1
    )


def _prefill(deployment: Deployment, layer: Layer) -> np.ndarray:
    """[PROMPTS, LENGTHS] seconds of one layer's causal attention."""
    return np.stack(
        [_attention(deployment, layer, _batch("prefill", PROMPTS, int(length), 0)) for length in LENGTHS], axis=1
    )


def _attention(deployment: Deployment, layer: Layer, batch: Batch) -> np.ndarray:
    works = local.attention_work(deployment, layer, batch, batch.sequences)
    return sum((w.seconds for w in works if w.kind == "attention"), np.zeros(batch.sequences.size))


def _batch(phase: str, sequences: np.ndarray, new_tokens: int, context: int) -> Batch:
    return Batch(phase, sequences, new_tokens, context)
