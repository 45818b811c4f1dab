"""The parts of a model file: attention, experts, published figures."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from moesim.hardware.precision import PRECISIONS
from moesim.model.architecture import Attention, Experts
from moesim.spec.reading.complaints import Wrong, did_you_mean, one_of
from moesim.spec.reading.loading import Spec
from moesim.spec.reading.quantities import Bytes, Flops

_COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([MBT])")
_SCALE = {"M": 10**6, "B": 10**9, "T": 10**12}


def _parse_count(value: object) -> int:
    match = _COUNT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"cannot read {value!r} as a parameter count; write e.g. '671B'")
    return round(float(match[1]) * _SCALE[match[2]])


def _known_precision(value: object) -> object:
    if value not in PRECISIONS:
        raise ValueError(f"{value!r} is unknown{did_you_mean(str(value), PRECISIONS)}; {one_of(PRECISIONS)}")
    return value


ParameterCount = Annotated[int, BeforeValidator(_parse_count), Field(examples=["671B"])]
PrecisionName = Annotated[str, BeforeValidator(_known_precision), Field(examples=["bf16"])]


class GroupedQueryAttention(Spec):
    """Multi-head and grouped-query attention. window: tokens that a token sees (sliding window or chunk)."""

    kind: Literal["gqa"]
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    window: PositiveInt | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    output_gate: bool = False
    qk_norm: Literal["", "head", "full"] = ""
    sinks: bool = False

    @model_validator(mode="after")
    def _heads_divide(self) -> GroupedQueryAttention:
        if self.heads % self.kv_heads:
            raise Wrong(("kv_heads", f"{self.kv_heads} must divide the {self.heads} heads"))
        return self

    def value(self) -> Attention:
        """The value of the floors below."""
        return Attention(**self.model_dump(exclude={"window"}), window=self.window or 0)


class Indexer(Spec):
    """Sparse attention of DeepSeek-V3.2: small heads score the cache and top_k tokens are attended to."""

    heads: PositiveInt
    head_dim: PositiveInt
    top_k: PositiveInt


class LatentAttention(Spec):
    """MLA. Without q_lora_rank the query is not compressed."""

    kind: Literal["mla"]
    heads: PositiveInt
    q_lora_rank: PositiveInt | None = None
    kv_lora_rank: PositiveInt
    qk_nope_head_dim: PositiveInt
    qk_rope_head_dim: PositiveInt
    v_head_dim: PositiveInt
    indexer: Indexer | None = None

    @model_validator(mode="after")
    def _indexer_needs_query_latent(self) -> LatentAttention:
        if self.indexer and not self.q_lora_rank:
            raise Wrong(("indexer", "scores the compressed query; give q_lora_rank too"))
        return self

    def value(self) -> Attention:
        """The value of the floors below."""
        indexer = {f"indexer_{key}": size for key, size in self.indexer.model_dump().items()} if self.indexer else {}
        ranks = self.model_dump(exclude={"indexer", "q_lora_rank"})
        return Attention(
            **ranks,
            **indexer,
            q_lora_rank=self.q_lora_rank or 0,
            kv_heads=self.heads,
            head_dim=self.qk_nope_head_dim + self.qk_rope_head_dim,
        )


class LinearAttention(Spec):
    """Gated delta net: heads and head width of keys and of values. Mamba-2 has the same shapes: keys are its groups and
    state, values its heads.

    gate_rank: of the low-rank projections of decay and gate, where every channel has its own (Kimi Delta Attention).
    """

    key_heads: PositiveInt
    key_head_dim: PositiveInt
    value_heads: PositiveInt
    value_head_dim: PositiveInt
    conv_kernel: PositiveInt
    gate_rank: PositiveInt | None = None

    def value(self) -> Attention:
        """The value of the floors below."""
        return Attention(
            "linear",
            heads=self.value_heads,
            v_head_dim=self.value_head_dim,
            kv_heads=self.key_heads,
            head_dim=self.key_head_dim,
            conv_kernel=self.conv_kernel,
            gate_rank=self.gate_rank or 0,
        )


class MixtureOfAttention(Spec):
    """JetMoE's attention experts, `kv_heads` heads each; keys and values are common to them."""

    kind: Literal["moa"]
    kv_heads: PositiveInt
    head_dim: PositiveInt
    experts: PositiveInt
    top_k: PositiveInt
    output_bias: bool = False

    def value(self) -> Attention:
        """The value of the floors below."""
        return Attention(
            "moa",
            heads=self.kv_heads * self.top_k,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            attention_experts=self.experts,
            attention_top_k=self.top_k,
            output_bias=self.output_bias,
        )


class ExpertsFile(Spec):
    """Routed and shared experts. shared_ffn is the width of all shared experts together. latent: width that routed
    experts work in, where not the hidden one."""

    routed: PositiveInt
    top_k: PositiveInt
    ffn: PositiveInt
    latent: PositiveInt | None = None
    shared_ffn: PositiveInt | None = None
    gated: bool = True
    score: Literal["softmax", "sigmoid", "sparsemixer"] = "softmax"
    normalise_top_k: bool = True
    groups: PositiveInt = 1
    kept_groups: PositiveInt = 1
    routed_scaling: float = 1.0
    correction_bias: bool = False
    bias: bool = False
    output_bias: bool = False
    router_bias: bool = False
    shared_gate: bool = False
    clamped: bool = False

    @model_validator(mode="after")
    def _geometry(self) -> ExpertsFile:
        wrong = []
        if self.top_k > self.routed:
            wrong.append(("top_k", f"{self.top_k} of {self.routed} experts cannot be chosen"))
        if self.routed % self.groups:
            wrong.append(("groups", f"{self.groups} must divide the {self.routed} routed experts"))
        elif self.kept_groups > self.groups:
            wrong.append(("kept_groups", f"{self.kept_groups} of {self.groups} groups cannot be kept"))
        elif not wrong and self.kept_groups * self.routed // self.groups < self.top_k:
            wrong.append(("kept_groups", f"too few groups to choose top_k {self.top_k} from"))
        if wrong:
            raise Wrong(*wrong)
        return self

    def value(self) -> Experts:
        """The value of the floors below."""
        plain = self.model_dump(exclude={"shared_ffn", "latent"})
        return Experts(**plain, shared_ffn=self.shared_ffn or 0, latent=self.latent or 0)


class Published(Spec):
    """What the vendor states, to compare with what the shapes give.

    counting: what "active" includes: ``all`` parameters, ``without_input_embedding``, or ``without_embeddings``
    (neither input embedding nor head). kv_bytes_per_token: in BF16. training_flops_per_token: forward and backward,
    mean over sequences of 4096 tokens.
    """

    total: ParameterCount
    active: ParameterCount | None = None
    kv_bytes_per_token: Bytes | None = None
    training_flops_per_token: Flops | None = None
    counting: Literal["all", "without_input_embedding", "without_embeddings"] = "all"
    source: str


class RumourFile(Spec):
    """Totals of a model whose shapes are not public."""

    layers: PositiveInt
    routed: PositiveInt
    top_k: PositiveInt
    parameters_per_expert: ParameterCount
    other_parameters: ParameterCount
