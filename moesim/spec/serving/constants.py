"""Reading and writing the fitted constants of serving stacks: a YAML file that ships with the package."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import get_type_hints

from pydantic import create_model

import moesim
from moesim.serving.effects import FEATURES, Effects
from moesim.serving.simulated import Factors
from moesim.serving.stack import Constants
from moesim.spec.reading.loading import Spec, read

SHIPPED = Path(moesim.__file__).parent / "serving" / "constants.yaml"


# Every constant is written, also those that have a default in code.
_Stack = create_model("Stack", __base__=Spec, **{name: (of, ...) for name, of in get_type_hints(Constants).items()})
_Pair = tuple[float, float]
_Slopes = tuple[float, float, float, float]


class _Effects(Spec):
    groups: dict[str, _Pair]
    images: dict[str, _Pair]
    slopes: dict[str, tuple[_Slopes, _Slopes]]


class _Simulated(Spec):
    factors: dict[str, _Pair]
    ttft_interval: _Pair
    tpot_interval: _Pair
    errors: dict[str, dict[str, float]]


class _File(Spec):
    source: str
    date: str
    errors: dict[str, dict[str, float]]
    ttft_interval: _Pair
    tpot_interval: _Pair
    known_ttft_interval: _Pair
    known_tpot_interval: _Pair
    stacks: dict[str, _Stack]
    effects: _Effects
    simulated: _Simulated


@dataclass(frozen=True, slots=True)
class FittedSimulation:
    """What simulated steps are fitted with: a `Factors` of each stack, 80 % intervals of their own, errors by what the
    fit had not seen. Written by ``benchmarks/simulated_steps.py``."""

    factors: dict[str, Factors]
    ttft_interval: tuple[float, float]
    tpot_interval: tuple[float, float]
    errors: dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Fitted:
    """Constants by stack, effects of known groups, factors (low, high) of 80 % intervals for unknown and for known
    groups, and the errors of the fit by way of holding out.

    errors: ``{"in sample": {"tpot_mape": …}, "unseen model": …}``. source: of the measurements, in words. simulated: of
    simulated steps; all else is of the stacks' own.
    """

    stacks: dict[str, Constants]
    effects: Effects
    ttft_interval: tuple[float, float]
    tpot_interval: tuple[float, float]
    known_ttft_interval: tuple[float, float]
    known_tpot_interval: tuple[float, float]
    errors: dict[str, dict[str, float]]
    source: str
    date: str
    simulated: FittedSimulation


def load_fitted(path: str | Path = SHIPPED) -> Fitted:
    """Constants from a file, by default those that ship. Raises InvalidInput with every problem of the file."""
    file = read(path).check(_File)
    stacks = {name: Constants(**stack.model_dump()) for name, stack in file.stacks.items()}
    effects = Effects(**file.effects.model_dump())
    unknown, known = (file.ttft_interval, file.tpot_interval), (file.known_ttft_interval, file.known_tpot_interval)
    found = file.simulated.model_dump()
    simulated = FittedSimulation(**found | {"factors": {k: Factors(*pair) for k, pair in found["factors"].items()}})
    return Fitted(stacks, effects, *unknown, *known, file.errors, file.source, file.date, simulated)


def fitted_text(fitted: Fitted) -> str:
    """The YAML of `load_fitted`; four significant digits."""
    lines = [
        "# Constants of serving stacks, written by `moesim fit-serving TABLE`; meanings: moesim/serving/stack.py.",
        f"source: {fitted.source}",
        f"date: '{fitted.date}'",
        "errors:  # by what a fit had not seen; fractions",
    ]
    for name, errors in fitted.errors.items():
        lines.append(f"  {name}: {_errors(errors)}")
    for group, origin in (("", "unseen models and hardware"), ("known_", "unseen curves of known groups")):
        for name in ("ttft", "tpot"):
            low, high = getattr(fitted, f"{group}{name}_interval")
            lines.append(
                f"{group}{name}_interval: [{low:.4g}, {high:.4g}]  # 80 % factors on a prediction, from {origin}"
            )
    lines.append("stacks:")
    for name, constants in fitted.stacks.items():
        lines.append(f"  {name}:")
        values = asdict(constants)
        for field in fields(Constants):
            value = values[field.name]
            lines.append(f"    {field.name}: {value if isinstance(value, int) else f'{value:.4g}'}")
    lines.append("effects:  # ln factors on (TTFT, TPOT); meanings: moesim/serving/effects.py")
    for level in ("groups", "images"):
        lines.append(f"  {level}:")
        lines += [f"    '{name}': {_list(terms)}" for name, terms in sorted(getattr(fitted.effects, level).items())]
    lines.append(f"  slopes:  # over {', '.join(FEATURES)}")
    lines += [f"    '{name}': [{', '.join(map(_list, v))}]" for name, v in sorted(fitted.effects.slopes.items())]
    return "\n".join(lines + _simulated_lines(fitted.simulated)) + "\n"


def _simulated_lines(simulated: FittedSimulation) -> list[str]:
    lines = ["simulated:  # steps of `steps: {kind: simulated}`, by benchmarks/simulated_steps.py"]
    lines.append("  factors:  # on kernels of steps that only decode, and of those that hold prompts")
    lines += [f"    {name}: [{each.decode:.3f}, {each.prompts:.3f}]" for name, each in simulated.factors.items()]
    for name in ("ttft", "tpot"):
        low, high = getattr(simulated, f"{name}_interval")
        lines.append(f"  {name}_interval: [{low:.4g}, {high:.4g}]  # 80 % factors on a prediction")
    return [*lines, "  errors:", *(f"    {name}: {_errors(errors)}" for name, errors in simulated.errors.items())]


def _errors(errors: dict[str, float]) -> str:
    return f"{{{', '.join(f'{key}: {value:.3f}' for key, value in errors.items())}}}"


def _list(values: tuple[float, ...]) -> str:
    return f"[{', '.join(f'{value:.4f}' for value in values)}]"
