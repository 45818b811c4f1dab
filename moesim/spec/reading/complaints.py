"""Pydantic's validation errors in the words of someone who edits a YAML file: what is wrong, what to write."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

FieldPath = tuple[str | int, ...]
Complaint = tuple[FieldPath, str, bool]


class Wrong(ValueError):
    """Raised by a validator of a whole model to name fields at fault: ``raise Wrong(("ep", "must divide …"), …)``."""

    def __init__(self, *problems: tuple[str, str]):
        self.problems = problems
        super().__init__("; ".join(f"{field}: {message}" for field, message in problems))


def complaints(error: ValidationError, schema: type[BaseModel], data: dict) -> list[Complaint]:
    """Every problem as (field, message, whether the key rather than the value is at fault), in the order of the file.

    A value that fits no member of a union is one complaint, not one for each member.
    """
    merged: dict[FieldPath, tuple[list[str], bool]] = {}
    details = error.errors(include_url=False)
    fields = [_field(detail["loc"], data, detail["type"] == "missing") for detail in details]
    for detail, (field, skipped) in zip(details, fields, strict=True):
        deeper = any(len(other) > len(field) and other[: len(field)] == field for other, _ in fields)
        if skipped and deeper:
            continue  # one member of the union fits in shape; its own problems say more
        for inside, message, at_key in _say(detail, field, schema):
            messages, _ = merged.setdefault(inside, ([], at_key))
            if message not in messages:
                messages.append(message)
    return [(field, "; or ".join(messages), at_key) for field, (messages, at_key) in merged.items()]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'bandwidth'?"`` for a word close to a known one, else an empty string."""
    plain = {_plain_word(name): name for name in known}
    close = get_close_matches(_plain_word(word), plain, n=1, cutoff=0.6)
    return f"; did you mean {plain[close[0]]!r}?" if close else ""


def one_of(known: Iterable[str]) -> str:
    """``"write one of a, b, c"``."""
    return "write one of " + ", ".join(known)


def _plain_word(word: str) -> str:
    return word.lower().replace("-", "_")


def _field(loc: FieldPath, data: object, missing: bool) -> tuple[FieldPath, bool]:
    """`loc` without the names of union members, which are not in the file; and whether it ended with one."""
    path: FieldPath = ()
    skipped = False
    for index, part in enumerate(loc):
        if (isinstance(data, dict) and part in data) or (isinstance(data, list) and isinstance(part, int)):
            data, path, skipped = data[part], (*path, part), False
        elif missing and index == len(loc) - 1:
            return (*path, part), False
        else:
            skipped = True
    return path, skipped


def _say(detail: Mapping, field: FieldPath, schema: type[BaseModel]) -> Iterator[Complaint]:
    kind, ctx, value = detail["type"], detail.get("ctx", {}), detail.get("input")
    if kind == "value_error" and isinstance(ctx.get("error"), Wrong):
        for name, message in ctx["error"].problems:
            inside = (int(part) if part.isdigit() else part for part in name.split(".") if part)
            yield (*field, *inside), message, False
        return
    if kind == "extra_forbidden":
        known = tuple(_keys_at(schema, detail["loc"][:-1]))
        yield field, f"unknown key{did_you_mean(str(field[-1]), known) or '; known here: ' + ', '.join(known)}", True
        return
    yield field, _message(kind, ctx, value, detail, schema), False


def _message(kind: str, ctx: Mapping, value: object, detail: Mapping, schema: type[BaseModel]) -> str:
    match kind:
        case "missing":
            return f"missing; write '{detail['loc'][-1]}: {_example(schema, detail['loc'])}'"
        case "value_error":
            return str(ctx["error"])
        case "literal_error" | "enum":
            known = [word.strip("'") for word in ctx["expected"].replace(" or ", ", ").split(", ")]
            return f"{value!r} is unknown{did_you_mean(str(value), known)}; {one_of(known)}"
        case "union_tag_invalid":
            known = [word.strip("'") for word in ctx["expected_tags"].split(", ")]
            return f"kind {ctx['tag']!r} is unknown{did_you_mean(str(ctx['tag']), known)}; {one_of(known)}"
        case "union_tag_not_found":
            return f"has no {ctx['discriminator'].strip(chr(39))}; write one"
        case "int_type" | "int_parsing" | "int_from_float":
            return f"write a whole number, not {_show(value)}"
        case "float_type" | "float_parsing" | "finite_number":
            return f"write a number, not {_show(value)}"
        case "string_type":
            quote = f"; put it in quotes: '{value}'" if isinstance(value, (int, float)) else ""
            return f"write text, not {_show(value)}{quote}"
        case "bool_type" | "bool_parsing":
            return f"write true or false, not {_show(value)}"
        case "list_type" | "tuple_type":
            return f"write a list, e.g. [a, b], not {_show(value)}"
        case "model_type" | "dict_type" | "model_attributes_type":
            keys = ", ".join(_keys_at(schema, detail["loc"]))
            return f"write a mapping{' with the keys ' + keys if keys else ''}, not {_show(value)}"
    message = detail["msg"]
    message = message.removeprefix("Input ")
    return f"{message[0].lower()}{message[1:]}, not {_show(value)}"


def _show(value: object) -> str:
    """The user's own text; containers only by kind."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    return repr(value)


def _example(schema: type[BaseModel], loc: FieldPath) -> str:
    """What a missing key could hold: the field's example, that of its unit, or the kind of value."""
    for model in _models_at(schema, loc[:-1]):
        info = _fields(model).get(loc[-1])
        if info is None:
            continue
        if info.examples:
            return str(info.examples[0])
        for extra in info.metadata:
            if hasattr(extra, "example"):
                return extra.example
        return f"{{{info.discriminator}: …}}" if info.discriminator else _kind_of_value(info.annotation)
    return "…"


def _kind_of_value(annotation: object) -> str:
    names = {int: "<whole number>", float: "<number>", str: "<text>", bool: "true"}
    if annotation in names:
        return names[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "{" + ", ".join(f"{name}: …" for name, info in _fields(annotation).items() if info.is_required()) + "}"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return str(arguments[0])
    return {tuple: "[…]", list: "[…]", dict: "{…}"}.get(origin, "…")


def _keys_at(schema: type[BaseModel], loc: FieldPath) -> Iterator[str]:
    seen = set()
    for model in _models_at(schema, loc):
        yield from (name for name in _fields(model) if not (name in seen or seen.add(name)))


def _models_at(schema: object, loc: FieldPath) -> list[type[BaseModel]]:
    """The models that may stand at `loc` of a value of `schema`; loc may hold names of union members."""
    annotations = [schema]
    for part in loc:
        members = [member for annotation in annotations for member in _members(annotation)]
        inner = [annotation for member in members for annotation in _inside(member, part)]
        # a part that no member knows is the name or tag of a union member
        annotations = inner or [member for member in members if _tagged(member, part)] or members
    members = [member for annotation in annotations for member in _members(annotation)]
    return [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]


def _members(annotation: object) -> list:
    """The annotation without Annotated, and a union as its members."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [member for argument in typing.get_args(annotation) for member in _members(argument)]
    return [annotation]


def _inside(annotation: object, part: str | int) -> list:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        info = _fields(annotation).get(part)
        return [info.annotation] if info else []
    arguments = typing.get_args(annotation)
    if not arguments:
        return []
    origin = typing.get_origin(annotation)
    if isinstance(part, int):
        return [arguments[0]] if origin in (tuple, list) else []
    return [arguments[-1]] if isinstance(origin, type) and issubclass(origin, Mapping) else []


def _tagged(annotation: object, tag: str | int) -> bool:
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return False
    literals = (typing.get_args(info.annotation) for info in annotation.model_fields.values())
    return annotation.__name__ == tag or any(tag in values for values in literals)


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Fields by the key that the file uses."""
    return {info.alias or name: info for name, info in model.model_fields.items()}
