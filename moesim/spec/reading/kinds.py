"""Plugin points in YAML: a dict of functions becomes a choice of ``kind:`` with that function's own keys.

moesim hands in a plugin's positional arguments; its keyword-only arguments are the keys that a file may set, with the
annotation as their type, the default as theirs, and the first line of the docstring as the help text. Adding a function
to such a dict is therefore all it takes to add a kind: the schema, the errors and the editor's completion follow.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Literal, Union, get_type_hints

from pydantic import Field, create_model

from moesim.spec.reading.loading import Spec


class Kind(Spec):
    """A chosen plugin: its name, and the values of its keys."""

    kind: str

    def options(self) -> dict[str, object]:
        """The keyword arguments to call the plugin with."""
        common = type(self).__base__.model_fields
        return {name: getattr(self, name) for name in type(self).model_fields if name not in common}


def kinds(functions: Mapping[str, Callable], base: type[Kind] = Kind) -> object:
    """The pydantic type of a field that chooses one of the functions: a union told apart by ``kind``.

    base: has the keys that all of them take besides their own, which `Kind.options` leaves out.
    """
    models = tuple(_model(name, function, base) for name, function in functions.items())
    if len(models) == 1:
        return models[0]
    return Annotated[Union[models], Field(discriminator="kind")]  # noqa: UP007 (a tuple cannot be spelled with |)


def _model(name: str, function: Callable, base: type[Kind]) -> type[Kind]:
    hints = get_type_hints(function)
    fields = {
        argument.name: (hints[argument.name], ... if argument.default is argument.empty else argument.default)
        for argument in inspect.signature(function).parameters.values()
        if argument.kind is argument.KEYWORD_ONLY
    }
    summary = (inspect.getdoc(function) or "").split("\n", 1)[0]
    title = "".join(part.capitalize() for part in name.split("_"))
    return create_model(title, __base__=base, __doc__=summary, kind=(Literal[name], ...), **fields)
