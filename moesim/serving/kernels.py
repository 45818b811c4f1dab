"""Kernel seconds of the steps of one server, tabulated once from the cost floor and interpolated.

A step is a sum of kernels that depend on few numbers each: products on the tokens of a rank, experts on the tokens of
the server, decode attention on sequences and context, prefill attention on prompts and their length, collectives on
tokens. Tables hold them over grids; between grid points kernels are nearly straight lines.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moesim.cost.communication import collective
from moesim.cost.exchange import exchange
from moesim.model.architecture import Layer
from moesim.serving.expert_tables import ExpertLoads, ExpertTables, expert_tables
from moesim.serving.grids import CONTEXTS, LENGTHS, PADDED, PROMPTS, SEQUENCES, TOKENS
from moesim.workload import local
from moesim.workload.deployment import Batch, Deployment


@dataclass(frozen=True, slots=True, eq=False)
class KernelTables:
    """Seconds of all layers together.

    dense_s [TOKENS of a rank]: norms, projections, routers, shared experts, dense FFNs. communication_s [TOKENS of a
    rank]: all-reduces, or dispatch and combine. head_s [SEQUENCES]. decode_s [SEQUENCES, CONTEXTS]: decode attention.
    prefill_s [PROMPTS, LENGTHS]: causal attention of fresh prompts. decoding, prompts: routed experts of steps that
    only decode, and of those that hold prompts.
    """

    dense_s: np.ndarray
    communication_s: np.ndarray
    head_s: np.ndarray
    decode_s: np.ndarray
    prefill_s: np.ndarray
    decoding: ExpertTables
    prompts: ExpertTables

    def parts(
        self,
        sequences: np.ndarray,
        total: np.ndarray,
        context: np.ndarray,
        prefill_tokens: np.ndarray,
        prefill_total: np.ndarray,
        attended: np.ndarray,
        prompts: np.ndarray,
        draw: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Seconds by kind [steps] of steps that `moesim.serving.journal` records; context is the sum over sequences.

        draw: window of the experts' loads; None = the mean over all.
        """
        rank, tokens = sequences + prefill_tokens, total + prefill_total
        mean = context / np.maximum(sequences, 1e-9)
        length = np.sqrt(2 * attended / np.maximum(prompts, 1e-9))
        return {
            "dense": np.interp(rank, TOKENS, self.dense_s),
            "expert_bytes": self._experts("bytes_s", tokens, prompts, draw),
            "expert_flops": self._experts("flops_s", tokens, prompts, draw),
            "experts": self._experts("kernels_s", tokens, prompts, draw),
            "communication": np.interp(rank, TOKENS, self.communication_s),
            "head": np.interp(sequences + prompts, SEQUENCES, self.head_s),
            "attention": (sequences > 0) * bilinear(SEQUENCES, CONTEXTS, self.decode_s, sequences, mean),
            "prefill_attention": (prompts > 0) * bilinear(PROMPTS, LENGTHS, self.prefill_s, prompts, length),
        }

    def _experts(self, name: str, tokens: np.ndarray, prompts: np.ndarray, draw: int | None) -> np.ndarray:
        """[steps] seconds of one of the experts' tables."""
        decoding, prefilling = (
            np.interp(tokens, TOKENS, table.mean(axis=0) if draw is None else table[draw % len(table)])
            for table in (getattr(self.decoding, name), getattr(self.prompts, name))
        )
        return np.where(prompts > 0, prefilling, decoding)


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


def kernel_tables(deployment: Deployment, loads: ExpertLoads) -> KernelTables:
    """Tabulate a deployment of one instance. loads: where those of experts come from."""
    layers = _kinds(deployment.model.layers)
    decoding = expert_tables(deployment, loads, "decode")
    return KernelTables(
        dense_s=sum(count * _dense(deployment, layer) for layer, count in layers.items()),
        communication_s=_communication(deployment, layers),
        head_s=local.head_work(deployment, SEQUENCES).seconds,
        decode_s=sum(count * _decode(deployment, layer) for layer, count in layers.items()),
        prefill_s=sum(count * _prefill(deployment, layer) for layer, count in layers.items()),
        decoding=decoding,
        prompts=expert_tables(deployment, loads, "prefill") if loads.changing else decoding,
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
