"""What the shell offers on Tab. Each function gets the word typed so far; where nothing fits, shells offer files."""

from __future__ import annotations

import typer


def complete_scenario(incomplete: str) -> list[str]:
    """Shipped scenarios."""
    return _names("scenario", incomplete)


def complete_profile(incomplete: str) -> list[str]:
    """Shipped hardware profiles."""
    return _names("hardware", incomplete)


def complete_model(incomplete: str) -> list[str]:
    """Models of the catalogue."""
    return _names("model", incomplete)


def complete_trace(incomplete: str) -> list[str]:
    """Shipped captures."""
    return _names("trace", incomplete)


def complete_claim(incomplete: str) -> list[str]:
    """Ids of the shipped claims."""
    from moesim.spec.reading.loading import read
    from moesim.study.claims.reading import shipped_files

    names = (name for path in shipped_files() for name in read(path).data["claims"])
    return sorted(name for name in names if name.startswith(incomplete))


def complete_schema(incomplete: str) -> list[str]:
    """Kinds of YAML files."""
    from moesim.spec.schema import KINDS

    return [kind for kind in KINDS if kind.startswith(incomplete)]


def complete_field(ctx: typer.Context, incomplete: str) -> list[str]:
    """Fields that the scenario on the line writes, for ``--set`` and ``--over``."""
    from moesim.errors import InvalidInput
    from moesim.spec.step.scenario_file import read_scenario

    # The option that is being typed has no value yet, so that the line is parsed only in part: the rest is in `args`.
    words = [word for word in (*ctx.params.values(), *ctx.args) if isinstance(word, str) and not word.startswith("-")]
    for word in words:
        try:
            document = read_scenario(word)
        except InvalidInput:
            continue
        paths = (path for path in document.keys if not any(isinstance(part, int) for part in path))
        return [f"{field}=" for path in paths if (field := ".".join(map(str, path))).startswith(incomplete)]
    return []


def _names(kind: str, incomplete: str) -> list[str]:
    from moesim.spec.reading.library import names

    return [name for name in names(kind) if name.startswith(incomplete)]
