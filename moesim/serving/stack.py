"""What a serving stack adds to its kernels: step times from kernel tables and a few constants a stack.

    graphed = fixed + sequence·B + Σ_c scale_c·kernels_c + L·n·kernel
    prompts = the same with the kernels but attention times `prefill`, at least L·n_e·eager while nothing is captured,
              + L·prompt/60
    all of it · exp(ageing · years before 2026-04)

B sequences on the busiest rank, L layers; kernels_c the tables of `moesim.serving.kernels`: dense products, bytes and
FLOPs of experts, decode and prefill attention, collectives; n kernels a layer that these do not price (rotary
embedding, cache write, quantisation, routing …) and n_e all kernels that the host launches one by one, both counted
from the architecture (`kernel_counts`). A step is eager when it holds prompts, unless the stack captures graphs of so
few tokens. Ageing: published runs of one configuration became faster from image to image.

Experts are priced by their bytes and FLOPs where steps only decode, and by the mean of that and of their calibrated
kernels where prompts take part: neither alone predicts runs of unseen models as well (docs/serving.md). Constants are
fitted to published serving runs by `moesim.study.validation.serving.fit`.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from math import exp, inf

import numpy as np

from moesim.model.architecture import MoEModel
from moesim.serving.grids import CONTEXTS, LENGTHS, PROMPTS, SEQUENCES, TOKENS
from moesim.serving.kernels import KernelTables, norm_over_heads
from moesim.serving.steps import Prefill
from moesim.workload.deployment import Deployment


@dataclass(frozen=True, slots=True)
class Constants:
    """Constants of one stack; times in seconds, scales as factors on tabulated kernel times.

    expert_flops is one over the share of peak that experts reach. ageing: log slowdown a year of older software.
    graph_tokens: prompts' steps of at most so many tokens on a rank run from captured graphs. frontend_fixed,
    frontend_request: see `moesim.serving.fleet.Frontend`.
    """

    dense: float
    expert_bytes: float
    expert_flops: float
    attention: float
    prefill_attention: float
    communication: float
    prefill: float
    kernel: float
    eager: float
    prompt: float
    fixed: float
    sequence: float
    frontend_fixed: float
    frontend_request: float
    ageing: float
    graph_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """Kernels a layer: `unpriced` beyond those that the cost floor prices, `eager` all that a host launches."""

    layers: int
    unpriced: float
    eager: float


def kernel_counts(deployment: Deployment) -> Counts:
    """Count kernels from the architecture and the formats, mean over the layers.

    A plain MoE layer launches 16: two norms, qkv, rotary embedding, cache write, two of attention, output, router,
    top-k, two to align tokens, two products, activation, sum; the tables price 6 of them. Further: 4 passes that
    quantise around dense products, 2 for NVFP4 experts between BF16 ones, 1 for MXFP4 with MXFP8 activations, 6 of MLA
    (4 priced), 4 (5 if quantised) of shared experts, 1 each for query-key norms and output gates, 2 more where such a
    norm spans heads on several ranks (its statistics before the all-reduce), 3 of linear attention; 4 fewer where
    experts run fused on Blackwell, all-reduce with norm (`_fused`). Un-absorbed MLA prefill launches 10 more, chunked
    linear attention 16.
    """
    model, policy = deployment.model, deployment.precision
    narrow_dense = policy.dense.compute == "fp8"
    fp4 = policy.experts.compute == "fp4"
    quantised = narrow_dense or fp4
    n = 16.0 + 4 * narrow_dense - 4 * _fused(deployment)
    n += 2 * (policy.experts.name == "nvfp4") + (
        policy.expert_activations.name == "mxfp8" and policy.experts.name == "mxfp4"
    )
    mla, linear, shared, norms, gates = (_share(model, has) for has in (_mla, _linear, _shared, _norms, _gates))
    n += 6 * mla + (4 + quantised) * shared + norms + gates + 3 * linear
    n += 2 * _share(model, norm_over_heads) * (deployment.parallelism.tp > 1)
    return Counts(len(model.layers), max(n - 6 - 4 * mla, 0.3), n + 10 * mla + 16 * linear)


def _fused(deployment: Deployment) -> bool:
    """Whether the experts are TensorRT-LLM's fused kernels, by way of FlashInfer in the other stacks.

    FP4 ones are, in every stack. FP8 ones are in SGLang, which takes them and the fused all-reduce on Blackwell by
    itself; in vLLM of the runs' time they had to be asked for, and TensorRT-LLM runs DeepGEMM's.
    """
    if "fp4" not in deployment.machine.device.peak:
        return False
    compute = deployment.precision.experts.compute
    return compute == "fp4" or (compute == "fp8" and (deployment.machine.software or "").startswith("sglang"))


def _share(model: MoEModel, has) -> float:
    return sum(map(has, model.layers)) / len(model.layers)


def _mla(layer) -> bool:
    return layer.attention is not None and layer.attention.kind == "mla"


def _linear(layer) -> bool:
    return layer.attention is not None and layer.attention.kind == "linear"


def _shared(layer) -> bool:
    return layer.experts is not None and layer.experts.shared_ffn > 0


def _norms(layer) -> bool:
    return layer.attention is not None and bool(layer.attention.qk_norm)


def _gates(layer) -> bool:
    return layer.attention is not None and layer.attention.output_gate


def combine(parts: dict, counts: Counts, c: Constants, sequences, prefill_tokens):
    """Seconds [steps] from kernel seconds by kind, and sequences and prompt tokens of the busiest rank.

    Works on arrays and on plain numbers; constants may be arrays too, as a fit over many servers has them.
    """
    prompts = np.asarray(prefill_tokens) > 0
    experts = c.expert_bytes * parts["expert_bytes"] + c.expert_flops * parts["expert_flops"]
    gpu = (
        c.dense * parts["dense"]
        + np.where(prompts, (experts + parts["experts"]) / 2, experts)
        + c.communication * parts["communication"]
        + parts["head"]
    )
    attention = c.attention * parts["attention"] + c.prefill_attention * parts["prefill_attention"]
    small = attention + counts.layers * counts.unpriced * c.kernel
    host = counts.layers * counts.eager * c.eager
    base = c.fixed + c.sequence * sequences
    eager = prompts & (np.asarray(sequences) + prefill_tokens > c.graph_tokens)
    slow = np.where(prompts, gpu * c.prefill + small, gpu + small)
    return base + np.where(eager, np.maximum(slow, host), slow) + prompts * counts.layers / 60 * c.prompt


class StackSteps:
    """Step times of one stack on one deployment: a `moesim.serving.steps.StepCost`. age: years before 2026-04.

    Windows of the experts' loads follow one another in steps that only decode; those that hold prompts take their mean.
    """

    def __init__(self, tables: KernelTables, counts: Counts, constants: Constants, age: float = 0.0):
        self._tables, self._counts, self._c = tables, counts, constants
        self._slowdown = exp(constants.ageing * age)
        self._by_sequences: dict[tuple[int, int, int], _Line] = {}
        self._bends = CONTEXTS.tolist()
        self._hottest = [_Line(TOKENS, line) for line in tables.decoding.hottest]
        self.draws = len(self._hottest)
        c = constants
        self._dense = _Line(TOKENS, c.dense * tables.dense_s + c.communication * tables.communication_s)
        experts = tables.prompts
        priced = c.expert_bytes * experts.bytes_s + c.expert_flops * experts.flops_s
        self._experts = _Line(TOKENS, ((priced + experts.kernels_s) / 2).mean(axis=0))
        self._head = _Line(SEQUENCES, tables.head_s)
        self._attention = _Plane(SEQUENCES, CONTEXTS, c.attention * tables.decode_s)
        self._prefill = _Plane(PROMPTS, LENGTHS, c.prefill_attention * tables.prefill_s)

    def decode_s(self, sequences: int, total: int, context: float, draw: int = 0) -> float:
        """As `StepCost` says."""
        line = self._by_sequences.get((sequences, total, draw))
        if line is None:
            line = self._by_sequences[sequences, total, draw] = self._decode_line(sequences, total, draw)
        return line(context / sequences)

    def hottest(self, sequences: int, total: int, draw: int = 0) -> float:
        """As `StepCost` says."""
        return self._hottest[draw](total)

    def bend(self, sequences: int, context: float) -> float:
        """As `StepCost` says."""
        places = self._bends
        i = bisect_right(places, context / sequences)
        return places[i] * sequences if i < len(places) else inf

    def mixed_s(self, sequences: int, total: int, context: float, prefill: Prefill) -> float:
        """As `StepCost` says."""
        c, counts = self._c, self._counts
        rank, tokens = sequences + prefill.tokens, total + prefill.total
        gpu = self._dense(rank) + self._experts(tokens) + self._head(sequences + prefill.prompts)
        attention = self._prefill(prefill.prompts, (2 * prefill.attended / prefill.prompts) ** 0.5)
        if sequences:
            attention += self._attention(sequences, context / sequences)
        seconds = gpu * c.prefill + attention + counts.layers * counts.unpriced * c.kernel
        if rank > c.graph_tokens:
            seconds = max(seconds, counts.layers * counts.eager * c.eager)
        seconds += c.fixed + c.sequence * sequences + counts.layers / 60 * c.prompt
        return seconds * self._slowdown

    def by_kind(self, rows: dict[str, np.ndarray]) -> dict[str, float]:
        """Seconds of the recorded steps of a server by kind of work, at their mean step; rows: `journal.Journal.table`.

        Where steps only decode: dense, experts, attention, communication, sequences (what the host spends on each) and
        host (its other overheads). Steps with prompts: prompts.
        """
        c, counts, steps = self._c, self._counts, rows["steps"]
        work = ("sequences", "total", "context", "prefill_tokens", "prefill_total", "attended", "prompts")
        parts = self._tables.parts(*(rows[name] for name in work))
        sequences, prompts = rows["sequences"], rows["prompts"] > 0
        whole = combine(parts, counts, c, sequences, rows["prefill_tokens"])
        decode = {
            "dense": c.dense * parts["dense"] + parts["head"],
            "experts": c.expert_bytes * parts["expert_bytes"] + c.expert_flops * parts["expert_flops"],
            "attention": c.attention * parts["attention"],
            "communication": c.communication * parts["communication"],
            "sequences": c.sequence * sequences,
        }
        weight = steps * self._slowdown
        found = {kind: float((seconds * weight * ~prompts).sum()) for kind, seconds in decode.items()}
        found["host"] = float(((whole - sum(decode.values())) * weight * ~prompts).sum())
        return found | {"prompts": float((whole * weight * prompts).sum())}

    def _decode_line(self, sequences: int, total: int, draw: int) -> _Line:
        """Seconds over the mean context for one batch size and window."""
        contexts = CONTEXTS.astype(float)
        one, none = np.full(contexts.size, float(sequences)), np.zeros(contexts.size)
        everything = np.full(contexts.size, float(total))
        parts = self._tables.parts(one, everything, contexts * sequences, none, none, none, none, draw)
        seconds = combine(parts, self._counts, self._c, one, none)
        return _Line(CONTEXTS, seconds * self._slowdown)


class _Line:
    """A piecewise-linear function of a plain number: flat below its first point, straight on beyond its last."""

    __slots__ = ("_slopes", "_x", "_y")

    def __init__(self, x: np.ndarray, y: np.ndarray):
        self._x, self._y = np.asarray(x, dtype=float).tolist(), np.asarray(y, dtype=float).tolist()
        self._slopes = (np.diff(y) / np.diff(x)).tolist()

    def __call__(self, x: float) -> float:
        xs = self._x
        if x >= xs[-1]:
            return self._y[-1] + (x - xs[-1]) * self._slopes[-1]
        i = bisect_right(xs, x) - 1
        return self._y[0] if i < 0 else self._y[i] + (x - xs[i]) * self._slopes[i]


class _Plane:
    """Bilinear interpolation of a table [rows, columns] at plain numbers: lines along the columns, one a row."""

    __slots__ = ("_lines", "_rows")

    def __init__(self, rows: np.ndarray, columns: np.ndarray, table: np.ndarray):
        self._rows = np.asarray(rows, dtype=float).tolist()
        self._lines = [_Line(columns, line) for line in table]

    def __call__(self, row: float, column: float) -> float:
        rows = self._rows
        i = min(max(bisect_right(rows, row) - 1, 0), len(rows) - 2)
        share = (row - rows[i]) / (rows[i + 1] - rows[i])
        return self._lines[i](column) * (1 - share) + self._lines[i + 1](column) * share
