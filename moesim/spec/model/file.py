"""A model as one YAML file, and the one door through which every model comes.

`load_model` takes a catalogue id, a path of such a file, a Hugging Face ``config.json`` or a folder that holds one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from moesim.errors import InvalidInput, Problem
from moesim.model.architecture import Attention, MoEModel, Rumour
from moesim.model.huggingface import from_hf_config
from moesim.model.parameters import dense_twin
from moesim.model.stack import FeedForward, alternate, build_layers, moe_layers, patterned
from moesim.spec.model.parts import (
    ExpertsFile,
    GroupedQueryAttention,
    LatentAttention,
    LinearAttention,
    MixtureOfAttention,
    PrecisionName,
    Published,
    RumourFile,
)
from moesim.spec.reading.complaints import Wrong
from moesim.spec.reading.library import find
from moesim.spec.reading.loading import Spec, read

TWIN = "-dense-twin"


class ModelHead(Spec):
    """What every model file begins with. The catalogue states sources and published figures; one's own need not."""

    title: str
    source: str = ""
    note: str = ""
    unverified: tuple[str, ...] = ()
    published: Published | None = None


class RumouredModel(ModelHead):
    """A model of which only totals are said."""

    rumour: RumourFile

    def value(self, name: str) -> MoEModel:
        """The model, without layers."""
        return MoEModel(name, self.title, hidden=0, vocab=0, layers=(), rumour=Rumour(**self.rumour.model_dump()))


class ModelFile(ModelHead):
    """A model architecture.

    layers: of a decoder or encoder; an encoder-decoder has encoder_layers and decoder_layers instead.
    first_dense, moe_every, moe_layers: which layers have experts: all but the first, the last of every few, or listed.
    pattern: a letter a layer instead, as hybrid models have it: M linear attention (Mamba), * attention, E experts,
    - dense FFN, each alone in its block.
    full_attention_every: the last of so many layers attends to everything, the others in windows or linearly.
    full_attention_layers: lists those layers instead, from 0.
    unverified: keys whose value nobody has read in a source; the note says where it comes from.
    """

    stack: Literal["decoder", "encoder", "encoder_decoder"] = "decoder"
    hidden: PositiveInt
    vocab: PositiveInt | None = None
    layers: PositiveInt | None = None
    encoder_layers: PositiveInt | None = None
    decoder_layers: PositiveInt | None = None
    attention: Annotated[GroupedQueryAttention | LatentAttention | MixtureOfAttention, Field(discriminator="kind")]
    full_attention_every: PositiveInt = 1
    full_attention_layers: Annotated[tuple[int, ...], Field(min_length=1)] | None = None
    linear_attention: LinearAttention | None = None
    experts: ExpertsFile | None = None
    first_dense: int = Field(0, ge=0)
    moe_every: PositiveInt = 1
    moe_layers: tuple[int, ...] | None = None
    pattern: Annotated[str, Field(pattern=r"^[M*E-]+$")] | None = None
    dense_ffn: PositiveInt | None = None
    dense_gated: bool = True
    dense_bias: bool = False
    parallel_ffn: PositiveInt | None = None
    mtp_layers: int = Field(0, ge=0)
    tied_embeddings: bool = False
    learned_positions: bool = False
    head_bias: bool = False
    patch: PositiveInt | None = None
    classes: PositiveInt | None = None
    norm: Literal["rms", "layernorm", "layernorm_no_bias"] = "rms"
    norms_per_layer: PositiveInt = 2
    context: PositiveInt
    native: PrecisionName
    native_experts: PrecisionName | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ModelFile:
        if wrong := [*self._wrong_depth(), *self._wrong_ends(), *self._wrong_feed_forward()]:
            raise Wrong(*wrong)
        return self

    def _wrong_depth(self) -> list[tuple[str, str]]:
        if self.stack == "encoder_decoder":
            keys, others = ("encoder_layers", "decoder_layers"), ("layers",)
        else:
            keys, others = ("layers",), ("encoder_layers", "decoder_layers")
        wrong = [(key, f"missing; stack {self.stack} needs it") for key in keys if getattr(self, key) is None]
        wrong += [(key, f"stack {self.stack} has no such key") for key in others if getattr(self, key) is not None]
        windowed = self.linear_attention or getattr(self.attention, "window", None)
        if self.full_attention_every > 1 and not windowed:
            wrong.append(("full_attention_every", "give attention.window or linear_attention for the other layers"))
        if self.pattern is not None:
            return wrong + self._wrong_pattern()
        listed = self.full_attention_layers
        if self.linear_attention and self.full_attention_every == 1 and listed is None:
            wrong.append(("linear_attention", "no layer uses it; give full_attention_every or full_attention_layers"))
        if listed is not None and self.full_attention_every > 1:
            wrong.append(("full_attention_layers", "lists the layers already; drop full_attention_every"))
        if listed is not None and not windowed:
            wrong.append(("full_attention_layers", "give attention.window or linear_attention for the other layers"))
        if bad := [index for index in listed or () if not 0 <= index < self._depth()]:
            problem = f"there is no layer {bad[0]}; layers count from 0 to {self._depth() - 1}"
            wrong.append(("full_attention_layers", problem))
        return wrong

    def _wrong_pattern(self) -> list[tuple[str, str]]:
        wrong = []
        if len(self.pattern) != self.layers:
            wrong.append(("pattern", f"has {len(self.pattern)} letters for {self.layers} layers"))
        needs = {"M": self.linear_attention, "E": self.experts, "-": self.dense_ffn}
        names = {"M": "linear_attention", "E": "experts", "-": "dense_ffn"}
        wrong += [
            (names[k], f"missing; the pattern has {k!r}") for k, v in needs.items() if k in self.pattern and not v
        ]
        others = ("first_dense", "moe_every", "moe_layers", "full_attention_every", "full_attention_layers")
        wrong += [(key, "drop it; the pattern says it") for key in others if key in self.model_fields_set]
        return wrong

    def _wrong_ends(self) -> list[tuple[str, str]]:
        if self.patch is None:
            return [] if self.vocab else [("vocab", "missing; only a vision model (patch, classes) has none")]
        return [] if self.classes else [("classes", "missing; a vision model needs it")]

    def _wrong_feed_forward(self) -> list[tuple[str, str]]:
        if self.experts is None:
            return [] if self.dense_ffn else [("dense_ffn", "missing; a model without experts needs it")]
        if self.pattern is not None:
            return []
        indices = self._with_experts()
        wrong = []
        if bad := [index for index in indices if not 0 <= index < self._depth()]:
            wrong.append(("moe_layers", f"there is no layer {bad[0]}; layers count from 0 to {self._depth() - 1}"))
        if self.moe_layers is not None and (self.first_dense or self.moe_every > 1):
            wrong.append(("moe_layers", "lists the layers already; drop first_dense and moe_every"))
        if not indices:
            key = next((k for k in ("moe_layers", "first_dense", "moe_every") if k in self.model_fields_set), "experts")
            wrong.append((key, f"leaves none of the {self._depth()} layers for the experts"))
        elif len(indices) < self._depth() and not self.dense_ffn:
            wrong.append(("dense_ffn", f"missing; only {len(indices)} of {self._depth()} layers have experts"))
        return wrong

    def _depth(self) -> int:
        return self.layers or (self.encoder_layers or 0) + (self.decoder_layers or 0)

    def _with_experts(self) -> tuple[int, ...]:
        if self.experts is None:
            return ()
        if self.moe_layers is not None:
            return self.moe_layers
        return moe_layers(self._depth(), self.first_dense, self.moe_every)

    def _attentions(self) -> tuple[Attention, ...]:
        attention = self.attention.value()
        listed = self.full_attention_layers
        if self.full_attention_every == 1 and listed is None:
            return (attention,) * self._depth()
        full = self.attention.model_copy(update={"window": None}).value() if attention.window else attention
        other = self.linear_attention.value() if self.linear_attention else attention
        if listed is not None:
            return tuple(full if index in listed else other for index in range(self._depth()))
        return alternate(self._depth(), full, other, self.full_attention_every)

    def value(self, name: str) -> MoEModel:
        """The model with its layers written out."""
        same = ("hidden", "mtp_layers", "tied_embeddings", "learned_positions", "head_bias", "norm")
        same += ("norms_per_layer", "context", "native", "stack", "title")
        feed_forward = FeedForward(
            dense_ffn=self.dense_ffn or 0,
            dense_gated=self.dense_gated,
            dense_bias=self.dense_bias,
            experts=self.experts.value() if self.experts else None,
            parallel_ffn=self.parallel_ffn or 0,
        )
        if self.pattern is None:
            layers = build_layers(self._attentions(), feed_forward, self._with_experts(), self.encoder_layers)
        else:
            linear = self.linear_attention.value() if self.linear_attention else None
            layers = patterned(self.pattern, self.attention.value(), linear, feed_forward)
        return MoEModel(
            name=name,
            vocab=self.vocab or 0,
            layers=layers,
            encoder_layers=self.encoder_layers or 0,
            native_experts=self.native_experts or "",
            patch=self.patch or 0,
            classes=self.classes or 0,
            **{key: getattr(self, key) for key in same},
        )


def load_model(name_or_path: str | Path, beside: str | Path | None = None, field: str = "model") -> MoEModel:
    """The model of a catalogue id, a YAML file, a Hugging Face ``config.json`` or a folder that holds one.

    ``NAME-dense-twin`` is `dense_twin` of that model. beside: file that relative paths start from. field: what to call
    the name in an error. Raises InvalidInput with every problem of the file.
    """
    wanted = str(name_or_path)
    if wanted.endswith(TWIN):
        return _twin(load_model(wanted.removesuffix(TWIN), beside, field), field)
    path = find("model", wanted, beside, field)
    if path.is_dir():
        path = path / "config.json"
    if path.suffix == ".json":
        return from_hf_config(path)
    return read_model_file(path).value(path.stem)


def read_model_file(path: str | Path) -> ModelFile | RumouredModel:
    """A model's YAML file with its published figures. Raises InvalidInput with every problem."""
    document = read(path)
    return document.check(RumouredModel if "rumour" in document.data else ModelFile)


def _twin(model: MoEModel, field: str) -> MoEModel:
    if model.moe_layers:
        return dense_twin(model)
    raise InvalidInput(Problem(f"{model.name} has no layers with experts, so it has no dense twin", field))
