"""What ``moesim models`` shows: each model's size and cost per token beside what its vendor states."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from moesim.model.architecture import MoEModel
from moesim.model.parameters import active_parameters, parameters
from moesim.model.per_token import forward_flops, kv_elements_per_token
from moesim.spec.model.file import ModelFile, RumouredModel, load_model, read_model_file
from moesim.spec.reading.library import find, names

SEQUENCE = 4096
_BF16_BYTES = 2
_TRAINING_PASSES = 3  # forward, and backward by inputs and by weights
_COUNTED = {
    "all": "total",
    "without_input_embedding": "without_input_embedding",
    "without_embeddings": "without_embeddings",
}


def models_table(wanted: Iterable[str] | None = None) -> pd.DataFrame:
    """One row a model of the catalogue, or of `wanted` (whatever `load_model` takes), sorted by name.

    active_parameters is counted as the vendor counts (column counting). KV bytes are BF16 and ignore windows; FLOPs are
    forward, the mean over a sequence of `SEQUENCE` tokens. Differences are (computed - published) / published; a figure
    that is not published, or cannot be computed, is NaN. unverified lists keys that nobody has read in a source.
    """
    rows = [_row(name) for name in (names("model") if wanted is None else wanted)]
    return pd.DataFrame(rows).set_index("model")


def _row(name: str) -> dict[str, object]:
    model, file = load_model(name), _file(name)
    published = file.published if file else None
    counting = published.counting if published else "all"
    total = parameters(model).total
    active = getattr(active_parameters(model), _COUNTED[counting])
    kv, flops = _per_token(model)
    training = published.training_flops_per_token if published else None
    return {
        "model": model.name,
        "title": model.title,
        "layers": model.rumour.layers if model.rumour else len(model.layers),
        **_experts(model),
        "total_parameters": total,
        **_compared("total", total, published and published.total),
        "active_parameters": active,
        "counting": counting,
        **_compared("active", active, published and published.active),
        "kv_bytes_per_token": kv,
        **_compared("kv", kv, published and published.kv_bytes_per_token),
        "forward_flops_per_token": flops,
        **_compared("flops", flops, training and training / _TRAINING_PASSES),
        "unverified": ", ".join(file.unverified) if file else "",
        "note": file.note if file else "",
        "source": file.source if file else "",
    }


def _experts(model: MoEModel) -> dict[str, object]:
    if model.rumour:
        return {"moe_layers": model.rumour.layers, "experts": model.rumour.routed, "top_k": model.rumour.top_k}
    experts = next((layer.experts for layer in model.layers if layer.experts), None)
    return {
        "moe_layers": len(model.moe_layers),
        "experts": experts.routed if experts else 0,
        "top_k": experts.top_k if experts else 0,
    }


def _per_token(model: MoEModel) -> tuple[float, float]:
    if model.rumour:
        return float("nan"), float("nan")
    length = min(SEQUENCE, model.context)
    return kv_elements_per_token(model) * _BF16_BYTES, forward_flops(model, length)


def _compared(figure: str, computed: float, published: float | None) -> dict[str, float]:
    stated = float("nan") if published is None else float(published)
    return {f"published_{figure}": stated, f"{figure}_difference": (computed - stated) / stated}


def _file(name: str) -> ModelFile | RumouredModel | None:
    """The catalogue's or the user's YAML file; None for a Hugging Face configuration or a dense twin."""
    if name not in names("model") and not name.endswith((".yaml", ".yml")):
        return None
    return read_model_file(find("model", name))
