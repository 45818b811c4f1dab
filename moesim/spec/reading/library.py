"""Where the files stand that ship with moesim, and how a name or a path in a scenario finds one.

A checkout keeps hardware profiles and scenarios beside the package; the wheel carries them inside it.
"""

from __future__ import annotations

from pathlib import Path

import moesim
from moesim.errors import InvalidInput, Problem
from moesim.spec.reading.complaints import did_you_mean

_PACKAGE = Path(moesim.__file__).resolve().parent

# kind -> (folder, suffix of its files, words for an error)
_SHELVES = {
    "hardware": ("hardware_profiles", ".yaml", "hardware profile"),
    "scenario": ("scenarios", ".yaml", "scenario"),
    "plan": ("scenarios/plans", ".yaml", "plan"),
    "model": ("model/catalogue", ".yaml", "model"),
    "trace": ("routing/captures", ".safetensors", "router trace"),
}


def folder(kind: str) -> Path:
    """Folder of the shipped files of a kind: ``hardware``, ``scenario``, ``model`` or ``trace``."""
    name = _SHELVES[kind][0]
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def names(kind: str) -> tuple[str, ...]:
    """Names that `find` knows, sorted."""
    suffix = _SHELVES[kind][1]
    return tuple(sorted(path.name.removesuffix(suffix) for path in folder(kind).glob(f"*{suffix}")))


def find(kind: str, name_or_path: str | Path, beside: str | Path | None = None, field: str = "") -> Path:
    """The file of a shipped name, or the path itself.

    A name wins over a file of the same name; ``-`` and ``_`` are one, and case does not matter. A relative path is
    looked for from the working directory, then from the folder of `beside` (the scenario that names it). field: what
    to call it in an error. Raises InvalidInput with the closest name, or all of them.
    """
    wanted = str(name_or_path)
    _, suffix, words = _SHELVES[kind]
    known = names(kind)
    for name in known:
        if _same(name) == _same(wanted):
            return folder(kind) / f"{name}{suffix}"
    bases = (Path(), Path(beside).parent) if beside else (Path(),)
    for candidate in (base / wanted for base in bases):
        if wanted and candidate.exists():
            return candidate
    if "/" in wanted or wanted.endswith((".yaml", ".yml", ".json", ".safetensors")):
        raise InvalidInput(Problem(f"no such file: {wanted}", field))
    hint = did_you_mean(wanted, known) or f"; write a path or one of {', '.join(known) or 'none (nothing is shipped)'}"
    raise InvalidInput(Problem(f"no {words} is named {wanted!r}{hint}", field))


def _same(name: str) -> str:
    return name.lower().replace("-", "_")
