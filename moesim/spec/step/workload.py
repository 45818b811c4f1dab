"""What a scenario's step processes: the ``workload:`` block, and the part of the model that runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from moesim.errors import InvalidInput, Problem
from moesim.model.architecture import MoEModel, require_shapes
from moesim.spec.reading.loading import Spec
from moesim.spec.step.speculative import Speculative
from moesim.workload.encoding import halves

Count = Annotated[int, Field(ge=1, le=10**9)]
Tokens = Annotated[int, Field(ge=0, le=10**9)]


class Decode(Spec):
    """One decode step: every sequence gets one token, or several by drafts. context: tokens cached for each before.

    source: tokens of the encoder that each attends to, for an encoder-decoder.
    """

    kind: Literal["decode"]
    sequences_per_rank: Count
    context: Count
    source: Count | None = None
    speculative: Speculative | None = None


class Prefill(Spec):
    """One prefill step: every sequence computes `prompt` new tokens after `context` cached ones.

    source: tokens of the encoder that each attends to, for an encoder-decoder.
    """

    kind: Literal["prefill"]
    sequences_per_rank: Count
    prompt: Count
    context: Tokens = 0
    source: Count | None = None


class Encode(Spec):
    """One pass of an encoder: `source` tokens of every sequence, or an image of each for a vision model."""

    kind: Literal["encode"]
    sequences_per_rank: Count
    source: Count | None = None


def part_that_runs(model: MoEModel, work: Decode | Prefill | Encode) -> tuple[MoEModel, MoEModel | None]:
    """The layers that a step runs, and the half of an encoder-decoder that is only held.

    Raises InvalidInput when the workload means nothing to the model.
    """
    stack, name = require_shapes(model).stack, model.name
    if stack == "decoder":
        if work.kind == "encode":
            raise InvalidInput(Problem(f"{name} is a decoder; write prefill or decode", "workload.kind"))
        if work.source is not None:
            raise InvalidInput(Problem(f"{name} has no encoder to attend to; drop this", "workload.source"))
        return model, None
    if stack == "encoder":
        if work.kind != "encode":
            raise InvalidInput(Problem(f"{name} is an encoder; write encode", "workload.kind"))
        if model.classes and work.source not in (None, model.context):
            message = f"an image is {model.context} tokens to {name}; drop this"
            raise InvalidInput(Problem(message, "workload.source"))
        return model, None
    if work.source is None:
        message = f"missing; {name} attends to an encoder's output; write e.g. 'source: 512'"
        raise InvalidInput(Problem(message, "workload.source"))
    encoder, decoder = halves(model)
    return (encoder, decoder) if work.kind == "encode" else (decoder, encoder)


def encoded_tokens(model: MoEModel, work: Encode) -> int:
    """Tokens of a sequence in an encoder's pass: patches and class token of an image, else as the file says."""
    return work.source or model.context
