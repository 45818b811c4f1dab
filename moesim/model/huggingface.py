"""A Hugging Face ``config.json`` as a `MoEModel`; `moesim.model.huggingface_families` knows the architectures."""

from __future__ import annotations

import json
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
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(Problem(f"cannot be read: {error.strerror}", file=str(file))) from None
    except UnicodeDecodeError as error:
        raise InvalidInput(Problem(f"is not UTF-8 text (byte {error.start})", file=str(file))) from None
    except json.JSONDecodeError as error:
        raise InvalidInput(Problem(error.msg, file=str(file), line=error.lineno, column=error.colno)) from None
    if not isinstance(data, dict):
        raise InvalidInput(Problem("write a mapping of keys and values here", file=str(file), line=1, column=1))
    return from_hf_dict(data, str(file), name=file.parent.name if file.name == "config.json" else file.stem)


def from_hf_dict(data: dict, file: str = "config.json", name: str = "model") -> MoEModel:
    """`from_hf_config` for a configuration that is already in memory, e.g. ``config.to_dict()`` of transformers."""
    inner = data.get("text_config")
    text = inner if isinstance(inner, dict) and data.get("model_type") not in FAMILIES else data
    config = Config(file, text)
    family = text.get("model_type")
    if family not in FAMILIES:
        raise InvalidInput(
            Problem(
                f"{family!r} is not an architecture that moesim reads; it reads {', '.join(sorted(FAMILIES))}. "
                "For another one write a model file (any of moesim's catalogue is an example)",
                "model_type",
                file,
            )
        )
    model = FAMILIES[family](config)
    weights, experts = _native(config, data.get("quantization_config") or text.get("quantization_config") or {})
    if config.problems:
        raise InvalidInput(config.problems)
    return replace(model, name=name, title=name, native=weights, native_experts=experts)


# torch and transformers call their 16-bit formats apart; size and peak are the same.
_DTYPES = {"bfloat16": "bf16", "float16": "bf16", "float32": "fp32"}
_QUANTISED = {"fp8": ("fp8_block", ""), "mxfp4": ("bf16", "mxfp4")}


def _native(config: Config, quantisation: dict) -> tuple[str, str]:
    """Released precision of the weights, and of the experts where it differs."""
    method = quantisation.get("quant_method")
    if method in _QUANTISED:
        return _QUANTISED[method]
    return _DTYPES.get(str(config.get("dtype", config.get("torch_dtype", "bfloat16"))), "bf16"), ""
