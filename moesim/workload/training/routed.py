"""Routing of a training step: which tokens reach which expert slots, and what the experts then cost.

Every microbatch of every rank has its own tokens: ranks read a line of tokens on and on, as data loaders read a corpus.
A step draws `windows` different sets of routes for the ranks of one expert-parallel group; group g works on draw
``(microbatch + g) mod windows``, so no two neighbours in time or among the replicas see the same one. With as many
windows as microbatches nothing is used twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from moesim.cost.exchange import KERNELS
from moesim.placement.line_traffic import line_traffic
from moesim.routing.dropping import drop_over_capacity
from moesim.routing.replay import Routes
from moesim.workload.training import parts
from moesim.workload.training.job import Job
from moesim.workload.training.kernels import BF16, Passes, Span, beside, cast, moving, padded_rows, products, streamed

# Experts one by one have their operands cast one by one, before each of two products: the amax of a tensor, or the
# layout of block scales that the product wants, and the cast itself (Transformer Engine: split_quantize, swizzle).
_CAST_KERNELS = 2 * 2


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """Routes as counts, one row a draw and MoE layer. tokens: [draw, layer, ep rank, slot] token-expert pairs.
    entering: [draw, layer, ep rank] tokens that arrive. copies: [draw, layer, source, destination]. dropped: [layer]
    share of choices beyond the experts' capacity, alone: [layer] share of tokens left without any; None where experts
    take all."""

    tokens: np.ndarray
    entering: np.ndarray
    copies: np.ndarray
    dropped: np.ndarray | None = None
    alone: np.ndarray | None = None

    @property
    def count(self) -> int:
        """Number of draws."""
        return len(self.tokens)


def count_draws(job: Job, line: Routes) -> Draws:
    """Count each draw's routes over the ranks of one expert-parallel group.

    line: routes of the tokens that the ranks read on and on, one rank after the other and one draw after the other.
    """
    ep, tokens = job.parallelism.ep, job.owned_tokens
    begin = (np.arange(job.windows)[:, None] * ep + np.arange(ep)) * tokens
    node = job.cluster.node[job.parallelism.ep_groups[0]]
    level, place = KERNELS[job.kernel].level if ep > 1 else "expert", begin
    counted, dropped, alone = [], [], []  # [layer][draw], [layer], [layer]
    for layer, chosen in enumerate(line.ids):
        count = None if line.count is None else line.count[layer]
        if job.capacity is not None:
            chosen, count, share = _within_capacity(job, chosen, count, begin)
            dropped.append(share)
            alone.append(float((count == 0).mean()))
            place = np.arange(begin.size).reshape(begin.shape) * tokens  # what is left lies draw after draw
        counted.append(line_traffic(job.placement, layer, chosen, place, tokens, level=level, node=node, count=count))
    names = ("tokens", "entering", "copies")
    parts = (np.array([[getattr(t, name) for t in row] for row in counted]).swapaxes(0, 1) for name in names)
    return Draws(*parts) if job.capacity is None else Draws(*parts, np.array(dropped), np.array(alone))


def _within_capacity(
    job: Job, ids: np.ndarray, count: np.ndarray | None, begin: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """One layer's line of routes (ids [token, k], count [token]), laid out draw after draw, without what its experts
    have no room for; and the share of choices dropped. begin: [draw, rank] place on the line."""
    ep, tokens = job.parallelism.ep, job.owned_tokens
    ranks = np.arange(ep + 1) * tokens
    kept, counts, shares = [], [], []
    for places in begin:
        read = (places[:, None] + np.arange(tokens)).ravel() % len(ids)
        held = None if count is None else count[None, read]
        routes = Routes(ids[None, read], held, ranks, read[None], 0, False)
        limit = job.capacity
        routes, share = drop_over_capacity(routes, job.placement.experts, factor=limit.factor, group=limit.group)
        kept.append(routes.ids[0])
        counts.append(routes.count[0])
        shares.append(float(share[0]))
    return np.concatenate(kept), np.concatenate(counts), float(np.mean(shares))


def draw_of(job: Job, variant: int) -> np.ndarray:
    """[expert_dp, expert_tp] the draw of each expert-parallel group of a stage, in microbatches of a variant."""
    groups = np.arange(job.parallelism.expert_dp * job.parallelism.expert_tp)
    return ((variant + groups) % job.windows).reshape(job.parallelism.expert_dp, job.parallelism.expert_tp)


@dataclass(frozen=True, slots=True, eq=False)
class ExpertCosts:
    """Seconds of the experts for the draw that the first rank of an expert-tensor-parallel group works on.

    passes, activation: arrays [draw, layer, ep rank]; activation is that part of passes.
    """

    passes: Passes
    activation: Passes

    def of(self, job: Job, row: int, variant: int, activation: bool = False) -> Passes:
        """Costs [ranks of a stage], in the order of the stage's ranks, of a MoE layer in microbatches of a variant."""
        priced = self.activation if activation else self.passes
        first = draw_of(job, variant)[:, 0]  # [expert_dp]

        def ranks(array: np.ndarray | float) -> np.ndarray:
            chosen = np.broadcast_to(array, self._shape)[first, row]  # [expert_dp, ep]
            return np.repeat(chosen.ravel(), job.parallelism.expert_tp)

        return Passes(*(part.each(ranks) for part in (priced.forward, priced.input, priced.weight)))

    @property
    def _shape(self) -> tuple[int, ...]:
        return np.shape(self.passes.forward.seconds)


def expert_costs(job: Job, draws: Draws) -> ExpertCosts:
    """Price the routed experts of every draw, layer and rank; equal loads are priced once.

    With expert tensor parallelism the ranks that split an expert gather each other's tokens.
    """
    shifts = [(np.arange(draws.count) + part) % draws.count for part in range(job.parallelism.expert_tp)]
    tokens = sum(draws.tokens[shift] for shift in shifts)
    entering = sum(draws.entering[shift] for shift in shifts)
    columns = np.stack(
        [entering.astype(float), tokens.sum(axis=-1), padded_rows(tokens), np.count_nonzero(tokens, axis=-1)], axis=-1
    )
    distinct, where = np.unique(columns.reshape(-1, 4), axis=0, return_inverse=True)
    priced, activation = _experts(job, *distinct.T)
    shape = tokens.shape[:-1]

    def spread(part: Span) -> Span:
        return part.each(lambda value: np.broadcast_to(value, len(distinct))[where.ravel()].reshape(shape))

    return ExpertCosts(*(Passes(spread(p.forward), spread(p.input), spread(p.weight)) for p in (priced, activation)))


def _experts(
    job: Job, entering: np.ndarray, pairs: np.ndarray, rows: np.ndarray, touched: np.ndarray
) -> tuple[Passes, Passes]:
    """Experts of ranks: permute, both grouped products, activation, un-permute with the gates, and back again. Also the
    activation alone."""
    experts = job.model.layers[job.model.moe_layers[0]].experts
    hidden, ffn = job.model.expert_hidden, experts.ffn // job.parallelism.expert_tp
    width = (1 + experts.gated) * ffn
    wire = (entering + pairs) * hidden * BF16.bytes
    up = products(job, rows, width, hidden, *job.formats.experts, touched)
    down = products(job, rows, hidden, ffn, *job.formats.experts, touched)
    # Permute, and un-permute with sums: gates weigh the inner activations, so that the way back moves gradients alone.
    # Tokens that were dispatched in the experts' own format arrive cast, along one axis; the other copy is still made.
    moved = streamed(job, wire, wire) + streamed(job, wire, wire) + _laid_out(job)
    activation = parts.activation(job, pairs, ffn, experts.gated)
    if job.grouped_gemm == "fused_mlp":
        up, down = _with_activation(job, up, down, pairs, width, ffn)
        inner = _casts(job, pairs * hidden, pairs * hidden, touched)
    else:
        inner = activation + _casts(job, pairs * (hidden + ffn), pairs * (width + hidden), touched)
        inner = inner + (_biases(job, pairs, touched) if experts.bias else Passes())
        inner = inner + (_clamps(job, pairs * width) if experts.clamped else Passes())
    return moved + up + down + inner, activation


def _laid_out(job: Job) -> Passes:
    """What a rank moves where its dispatch takes a copy an expert, laid out by the sender, who also adds copies up."""
    if job.parallelism.ep == 1 or not KERNELS[job.kernel].laid_out:
        return Passes()
    copies = job.owned_tokens * job.model.layers[job.model.moe_layers[0]].experts.top_k
    moved = 2.0 * (job.owned_tokens + copies) * job.model.expert_hidden * BF16.bytes
    return streamed(job, moved, moved, kernels=2)


def _casts(job: Job, forward: np.ndarray, backward: np.ndarray, touched: np.ndarray) -> Passes:
    """Casts of so many elements; of experts one by one, one by one."""
    often = _CAST_KERNELS * touched if job.grouped_gemm == "per_expert" else 1
    narrow = job.formats.experts[1]
    return Passes(*(moving(cast(job, elements, narrow, often), often) for elements in (forward, backward)))


def _with_activation(
    job: Job, up: Passes, down: Passes, pairs: np.ndarray, width: int, ffn: int
) -> tuple[Passes, Passes]:
    """Both products where the first one's kernel also applies the activation and casts it, and the gradient's kernel of
    the second undoes it: pre-activations are read back for their gradients, casts are written along both axes, beside
    the products themselves (Transformer Engine's grouped MLP of CuTe DSL: a GLU and a quantising grouped GEMM)."""
    narrow = job.formats.experts[1].bytes
    written = pairs * ffn * 2 * narrow / job.machine.device.hbm_bytes_per_s
    again = pairs * width * (BF16.bytes + 2 * narrow) / job.machine.device.hbm_bytes_per_s
    return replace(up, forward=beside(up.forward, written)), replace(down, input=beside(down.input, again))


def _biases(job: Job, pairs: np.ndarray, touched: np.ndarray) -> Passes:
    """Passes over HBM that biases of the second product take; a grouped kernel adds them as it writes, and its gradient
    is read once more for theirs.

    Experts one by one have them weighed by FP32 gates and added in FP32, all outputs copied together, and cast:
    Megatron-Core's TEGroupedMLP (``_apply_bias``). Per element forward 4 + (2 + 4 + 4) + (4 + 4) + (4 + 2) bytes;
    backward the cast and the output's gradient, 6 each, and of biases and gates a product and its sum, 12 each.
    """
    elements = pairs * job.model.expert_hidden
    if job.grouped_gemm != "per_expert":
        return streamed(job, 0.0 * elements, elements * BF16.bytes)
    return streamed(job, 28 * elements, 36 * elements, kernels=2 + 2 * touched)


def _clamps(job: Job, elements: np.ndarray) -> Passes:
    """Clamps before the activation, which grouped kernels and compilers fuse with it. Experts one by one: both halves
    clamped and copied together, 4 + 4 bytes an element; backward 6 for the clamps and 4 to join the halves' gradients
    (Megatron-Core, weighted_bias_quick_geglu_impl)."""
    if job.grouped_gemm != "per_expert":
        return Passes()
    return streamed(job, 8 * elements, 10 * elements, kernels=3)
