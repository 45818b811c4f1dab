"""What a training job of a published figure does when it does not fit: recompute more, take fewer sequences at once."""

from __future__ import annotations

from dataclasses import replace

from moesim.model.architecture import MoEModel
from moesim.study.entries.deployment.server import model_named
from moesim.study.entries.reading.case import Case

_RECOMPUTED = ("mla_up", "norm", "activation")


def lighter(document: dict[str, object]) -> list[dict[str, object]]:
    """The document with more and more recomputation, and smaller microbatches of fully sharded jobs, for jobs that do
    not fit."""
    mla = has_mla(model_named(str(document["model"])))
    modules = [m for m in _RECOMPUTED if mla or m != "mla_up"]
    choices = [
        {"kind": "selective", "modules": modules},
        {"kind": "selective", "modules": [*modules, "experts", "shared_expert"]},
        {"kind": "full"},
    ]
    everything = {**document, "recomputation": choices[-1]}
    found = [{**document, "recomputation": choice} for choice in choices]
    if document["recomputation"] == choices[-1]:
        found = [document]
    work, size = document["workload"], int(document["workload"]["microbatch"])
    while document["parallelism"]["zero"] == 3 and size > 1 and size % 2 == 0:
        size //= 2
        found.append({**everything, "workload": {**work, "microbatch": size}})
    return found


def has_mla(model: MoEModel) -> bool:
    """Whether a model has multi-head latent attention."""
    return any(layer.attention and layer.attention.kind == "mla" for layer in model.layers)


def with_recomputation(case: Case, document: dict[str, object]) -> Case:
    """The case with a lighter document, and what was assumed."""
    kind = document["recomputation"]
    words_of = "all layers" if kind["kind"] == "full" else ", ".join(kind["modules"])
    if document["workload"] != case.document["workload"]:
        words_of += f", {document['workload']['microbatch']} sequences at a time"
    return replace(case, document=document, assumed=(*case.assumed, f"recomputed, as it would not fit: {words_of}"))
