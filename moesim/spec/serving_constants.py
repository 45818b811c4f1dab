"""Reading and writing the fitted constants of serving stacks: a YAML file that ships with the package."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import moesim
from moesim.serving.stack import Constants
from moesim.spec.loading import Spec, read

SHIPPED = Path(moesim.__file__).parent / "serving" / "constants.yaml"


class _Stack(Spec):
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
    graph_tokens: int


class _File(Spec):
    source: str
    date: str
    errors: dict[str, dict[str, float]]
    ttft_interval: tuple[float, float]
    tpot_interval: tuple[float, float]
    stacks: dict[str, _Stack]


@dataclass(frozen=True, slots=True)
class Fitted:
    """Constants by stack, factors (low, high) of 80 % intervals, and the errors of the fit by way of holding out.

    errors: ``{"in sample": {"tpot_mape": …}, "unseen model": …}``. source: of the measurements, in words.
    """

    stacks: dict[str, Constants]
    ttft_interval: tuple[float, float]
    tpot_interval: tuple[float, float]
    errors: dict[str, dict[str, float]]
    source: str
    date: str


def load_fitted(path: str | Path = SHIPPED) -> Fitted:
    """Constants from a file, by default those that ship. Raises InvalidInput with every problem of the file."""
    file = read(path).check(_File)
    stacks = {name: Constants(**stack.model_dump()) for name, stack in file.stacks.items()}
    return Fitted(stacks, file.ttft_interval, file.tpot_interval, file.errors, file.source, file.date)


def fitted_text(fitted: Fitted) -> str:
    """The YAML of `load_fitted`; four significant digits."""
    lines = [
        "# Constants of serving stacks, written by `moesim fit-serving TABLE`; meanings: moesim/serving/stack.py.",
        f"source: {fitted.source}",
        f"date: '{fitted.date}'",
        "errors:  # by what a fit had not seen; fractions",
    ]
    for name, errors in fitted.errors.items():
        lines.append(f"  {name}: {{{', '.join(f'{key}: {value:.3f}' for key, value in errors.items())}}}")
    for name in ("ttft_interval", "tpot_interval"):
        low, high = getattr(fitted, name)
        lines.append(
            f"{name}: [{low:.4g}, {high:.4g}]  # factors on a prediction, 80 %, from unseen models and hardware"
        )
    lines.append("stacks:")
    for name, constants in fitted.stacks.items():
        lines.append(f"  {name}:")
        values = asdict(constants)
        for field in fields(Constants):
            value = values[field.name]
            lines.append(f"    {field.name}: {value if isinstance(value, int) else f'{value:.4g}'}")
    return "\n".join(lines) + "\n"
