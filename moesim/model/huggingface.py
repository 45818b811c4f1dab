"""A Hugging Face ``config.json`` as a `MoEModel`; `moesim.model.huggingface_families` knows the architectures."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

from moesim.errors import InvalidInput, Problem
from moesim.model.architecture import MoEModel
from moesim.model.huggingface_config import Config
from moesim.model.huggingface_families import FAMILIES


def from_hf_config(path: str | Path) -> MoEModel:
    """Read a ``config.json``, or the folder that holds it.

    Raises InvalidInput for text that is not JSON, for an unknown ``model_type`` and for all missing fields at once.
    """
    file = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
    try:
        text = file.read_text(encoding="utf-8")
        data = json.loads(text)
    except OSError as error:
        raise InvalidInput(Problem(f"cannot be read: {error.strerror}", file=str(file))) from None
    except UnicodeDecodeError as error:
        raise InvalidInput(Problem(f"is not UTF-8 text (byte {error.start})", file=str(file))) from None
    except json.JSONDecodeError as error:
        raise InvalidInput(Problem(error.msg, file=str(file), line=error.lineno, column=error.colno)) from None
    if not isinstance(data, dict):
        raise InvalidInput(Problem("write a mapping of keys and values here", file=str(file), line=1, column=1))
    name = file.resolve().parent.name if file.name == "config.json" else file.stem
    try:
        return from_hf_dict(data, str(file), name)
    except InvalidInput as error:
        raise InvalidInput(_at_line(problem, text) for problem in error.problems) from None


def from_hf_dict(data: dict, file: str = "config.json", name: str = "model") -> MoEModel:
    """`from_hf_config` for a configuration that is already in memory, e.g. ``config.to_dict()`` of transformers."""
    inner = data.get("text_config")
    text = inner if isinstance(inner, dict) and "num_hidden_layers" not in data else data
    config = Config(file, text)
    family = text.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise InvalidInput(
            Problem(
                f"{family!r} is not an architecture that moesim reads; it reads {', '.join(sorted(FAMILIES))}. "
                "For another one write a model file (any of moesim's catalogue is an example)",
                "model_type",
                file,
            )
        )
    model = FAMILIES[family](config)
    _check_geometry(config, model)
    quantisation = Config(file, data).get("quantization_config", {}) or config.get("quantization_config", {})
    weights, experts = _native(config, quantisation)
    if config.problems:
        raise InvalidInput(config.problems)
    return replace(model, name=name, title=name, native=weights, native_experts=experts)


def _check_geometry(config: Config, model: MoEModel) -> None:
    for experts in {layer.experts for layer in model.layers if layer.experts is not None}:
        if experts.top_k > experts.routed:
            config.wrong("num_experts_per_tok", f"{experts.top_k} of {experts.routed} experts cannot be chosen")
        if experts.routed % experts.groups or not 1 <= experts.kept_groups <= experts.groups:
            config.wrong(
                "n_group", f"{experts.groups} groups, {experts.kept_groups} kept: not of {experts.routed} experts"
            )
    for attention in {layer.attention for layer in model.layers}:
        if attention.kind == "gqa" and attention.heads % attention.kv_heads:
            config.wrong("num_key_value_heads", f"{attention.kv_heads} must divide the {attention.heads} heads")


def _at_line(problem: Problem, text: str) -> Problem:
    """The problem with the place of its key; a missing key is placed at the beginning."""
    key = re.search(rf'"{re.escape(problem.field)}"\s*:', text) if problem.field else None
    before = text[: key.start()] if key else ""
    return replace(problem, line=before.count("\n") + 1, column=len(before) - before.rfind("\n"))


# FP16 has the size and the peak of BF16, in which a file that names no format is taken to be released.
_DTYPES = {"bfloat16": "bf16", "float16": "bf16", "float32": "fp32"}
_QUANTISED = {"fp8": ("fp8_block", ""), "mxfp4": ("bf16", "mxfp4"), "awq": ("int4", ""), "gptq": ("int4", "")}


def _native(config: Config, quantisation: dict) -> tuple[str, str]:
    """Released precision of the weights, and of the experts where it differs."""
    method = quantisation.get("quant_method")
    if method in _QUANTISED:
        return _QUANTISED[method]
    return _DTYPES.get(config.get("dtype", config.get("torch_dtype", "bfloat16")), "bf16"), ""
