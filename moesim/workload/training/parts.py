"""The parts of a layer that all ranks work on alike, forward and backward: attention, FFNs, router, ends of the model.

Each function prices one microbatch on one rank. Element-wise work is counted in passes over HBM, in BF16.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from moesim.cost.attention import gqa_prefill
from moesim.cost.gemm import gemm
from moesim.cost.memory import memory_bound
from moesim.cost.mla import mla_prefill
from moesim.hardware.precision import PRECISIONS, Precision
from moesim.model import shapes
from moesim.model.architecture import Attention, Layer
from moesim.workload.training.job import Job
from moesim.workload.training.kernels import BF16, Passes, Span, linear, products, span, streamed

FP32 = PRECISIONS["fp32"]
# FlashAttention's backward pass has five products where the forward pass has two, and reaches 63 % of an A100's peak
# where that reaches 73 % (Dao, "FlashAttention-2", 2023, abstract and section 4.1).
ATTENTION_BACKWARD = 2.5 * 73 / 63
ATTENTION_BACKWARD_KERNELS = 3  # row sums of output and its gradient, the kernel itself, dQ to BF16 (FlashAttention-2)
_OUTPUT = {"o"}
_MLA_UP = {"q_b", "kv_b"}


@dataclass(frozen=True, slots=True)
class AttentionParts:
    """Attention of one layer, cut where context parallelism exchanges keys and values: norm and projections before the
    kernel, the kernel with the output projection. Of which, because they may be recomputed: norm, mla_up, kernel."""

    before: Passes
    kernel: Passes
    output: Passes
    norm: Passes
    mla_up: Passes


def attention(job: Job, layer: Layer) -> AttentionParts | None:
    """Attention on one rank; None where a layer has none."""
    if layer.attention is None:
        return None
    listed = shapes.attention_projections(layer, job.model.hidden, job.parallelism.tp)
    priced = {p.name: linear(job, job.tokens, p, *job.formats.attention) for p in listed}
    first = norm(job)
    inner = sum((passes for name, passes in priced.items() if name not in _OUTPUT), first)
    up = sum((passes for name, passes in priced.items() if name in _MLA_UP), Passes())
    output = sum((passes for name, passes in priced.items() if name in _OUTPUT), Passes())
    return AttentionParts(inner, _kernel(job, layer.attention), output, first, up)


def norm(job: Job) -> Passes:
    """Residual add and RMSNorm: read both, write both; backward reads both and the gradient, writes two gradients."""
    elements = job.owned_tokens * job.model.hidden
    return streamed(job, 4 * elements * BF16.bytes, 5 * elements * BF16.bytes)


def dense_ffn(job: Job, layer: Layer) -> Passes | None:
    """Dense feed-forward part with its norm; None where the layer has none."""
    listed = shapes.dense_ffn(layer, job.model.hidden, job.parallelism.tp)
    if not listed:
        return None
    ffn = layer.dense_ffn // job.parallelism.tp
    return norm(job) + _ffn(job, listed, ffn, layer.dense_gated, job.formats.dense)


def shared_expert(job: Job, layer: Layer) -> Passes | None:
    """Shared experts, split over tensor-parallel ranks as Megatron splits them; None where the layer has none."""
    tp = job.parallelism.tp
    listed = shapes.shared_expert(layer, job.model.hidden, tp)
    if not listed:
        return None
    return _ffn(job, listed, layer.experts.shared_ffn // tp, layer.experts.gated, job.formats.shared_expert)


def router(job: Job, layer: Layer) -> Passes:
    """Norm, the router's product and the choice among FP32 scores; backward likewise through both."""
    product = shapes.router(layer, job.model.hidden)[0]
    scores = 3 * job.owned_tokens * layer.experts.routed * FP32.bytes  # scores, their softmax, the auxiliary loss
    logits = products(job, job.owned_tokens, product.n, product.k, *job.formats.router)
    return norm(job) + logits + streamed(job, scores, scores, kernels=3)


def activation(job: Job, tokens: object, ffn: int, gated: bool) -> Passes:
    """SwiGLU (or a plain activation): reads its inputs, writes its output; backward also reads the gradient."""
    width = (1 + gated) * ffn
    return streamed(job, tokens * (width + ffn) * BF16.bytes, tokens * (2 * width + ffn) * BF16.bytes)


def embedding(job: Job) -> Passes:
    """Look up each token's row; backward adds its gradient to the row's."""
    elements = job.owned_tokens * job.model.hidden
    gradients = job.formats.gradients.bytes
    return streamed(job, 2 * elements * BF16.bytes, elements * (BF16.bytes + 2 * gradients))


def head(job: Job) -> Passes:
    """Final norm, product with the vocabulary and cross-entropy in FP32: the logits are read and written, and again for
    their gradient."""
    product = shapes.head(job.model, job.parallelism.tp)[0]
    logits = job.tokens * product.n * FP32.bytes
    return (
        norm(job) + products(job, job.tokens, product.n, product.k, BF16, BF16) + streamed(job, 2 * logits, 2 * logits)
    )


def mtp_projection(job: Job) -> Passes:
    """What a multi-token-prediction module adds to a layer: two norms, the product of 2·hidden with hidden, and a head
    of its own pass (DeepSeek-V3 report, section 2.2)."""
    hidden, tp = job.model.hidden, job.parallelism.tp
    joined = shapes.Projection("mtp", hidden // tp, 2 * hidden, "column")
    projected = linear(job, job.tokens, joined, *job.formats.dense)
    return norm(job) + norm(job) + projected + embedding(job) + head(job)


def _ffn(
    job: Job,
    listed: tuple[shapes.Projection, ...],
    ffn: int,
    gated: bool,
    precision: tuple[Precision, Precision],
) -> Passes:
    priced = (linear(job, job.tokens, p, *precision) for p in listed)
    return sum(priced, activation(job, job.tokens, ffn, gated))


def _kernel(job: Job, attention: Attention) -> Passes:
    """The attention kernel over whole causal sequences. Context parallelism deals blocks from both ends of a sequence
    to each rank, so that every rank has an equal part of the scores (Megatron's load-balanced ring)."""
    if job.unfused_attention and attention.kind != "linear":
        return _unfused(job, attention)
    kernel = _KERNELS[attention.kind]
    forward = span(kernel(job, attention)) * (1 / job.parallelism.cp)
    if attention.kind != "linear":
        forward = replace(forward, attended=forward.seconds)
    backward = replace(forward * ATTENTION_BACKWARD, kernels=ATTENTION_BACKWARD_KERNELS)
    return Passes(replace(forward, kernels=1), backward, Span())


def _unfused(job: Job, attention: Attention) -> Passes:
    """Scores of all pairs of tokens, masked ones included, as products of their own: written, read and written by the
    softmax, and read by the product with values. Backward four such products, and a softmax that reads probabilities
    and their gradients (Transformer Engine's UnfusedDotProductAttention)."""
    key, value = head_dims(attention)
    rows, seen = job.tokens * (attention.heads // job.parallelism.tp), job.sequence
    options = {"weights": BF16, "activations": BF16}
    scores, weighed, back = (
        span(gemm(job.machine, rows, n, k, **options)) for n, k in ((seen, key), (value, seen), (key, seen))
    )
    softmax = streamed(job, 2.0 * rows * seen * BF16.bytes, 3.0 * rows * seen * BF16.bytes)
    forward = scores + softmax.forward + weighed
    gradients = span(gemm(job.machine, rows, seen, value, **options)) + weighed
    backward = gradients + softmax.input + back * 2.0
    backward = replace(backward, kernels=backward.kernels + 1)
    return Passes(*(replace(part, attended=part.seconds, moved=0.0) for part in (forward, backward)))


def head_dims(attention: Attention) -> tuple[int, int]:
    """(of a query and key, of a value) of one head."""
    if attention.kind == "mla":
        return attention.qk_nope_head_dim + attention.qk_rope_head_dim, attention.v_head_dim
    return attention.head_dim, attention.v_head_dim or attention.head_dim


def _gqa(job: Job, attention: Attention):
    tp = job.parallelism.tp
    return gqa_prefill(
        job.machine,
        batch=job.microbatch,
        new_tokens=job.sequence,
        context=0,
        heads=attention.heads // tp,
        kv_heads=max(1, attention.kv_heads // tp),
        head_dim=attention.head_dim,
        window=attention.window,
        kv=BF16,
    )


def _mla(job: Job, attention: Attention):
    return mla_prefill(
        job.machine,
        batch=job.microbatch,
        new_tokens=job.sequence,
        context=0,
        heads=attention.heads // job.parallelism.tp,
        qk_dim=attention.qk_nope_head_dim + attention.qk_rope_head_dim,
        v_dim=attention.v_head_dim,
        kv=BF16,
    )


def _linear_attention(job: Job, attention: Attention):
    """Gated delta net: the FP32 state of every head once a chunk of 64 tokens, as in `moesim.workload.local`."""
    state = attention.heads // job.parallelism.tp * attention.head_dim * attention.v_head_dim
    chunks = -(-job.sequence // 64)
    return memory_bound(job.machine, 2 * job.microbatch * chunks * state * FP32.bytes)


_KERNELS = {"gqa": _gqa, "moa": _gqa, "mla": _mla, "linear": _linear_attention}


def newton_schulz(job: Job, rows: int, columns: int, count: float) -> Span:
    """Muon's orthogonalisation of `count` matrices: each step three products, X·Xᵀ, A·A and B·X (Jordan, 2024)."""
    short, long = sorted((rows, columns))
    options = {"weights": BF16, "activations": BF16}
    square = span(gemm(job.machine, short, short, long, **options)) + span(
        gemm(job.machine, short, short, short, **options)
    )
    step = square + span(gemm(job.machine, short, long, short, **options))
    return step * (job.optimizer.newton_schulz_steps * count)
