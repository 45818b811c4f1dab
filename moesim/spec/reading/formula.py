"""Arithmetic over named figures, as a file writes it: ``(moe.step_time_s - dense.step_time_s) / moe.moe_layers``.

Numbers, names with dots, ``+ - * / **``, brackets, and the functions in `FUNCTIONS`. Python's own parser reads it;
everything else that Python knows is refused at the door, so a formula can compute and do nothing else.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass

FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "sqrt": math.sqrt,
    "log": math.log,
    "ceil": math.ceil,
}
_BINARY = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


@dataclass(frozen=True, slots=True)
class Formula:
    """A parsed formula. names: the figures that it needs, in order of appearance."""

    text: str
    names: tuple[str, ...]
    tree: ast.expr

    def value(self, look_up: Callable[[str], float]) -> float:
        """What it comes to; NaN where a figure is NaN, infinite where it divides by zero."""
        return float(_value(self.tree, look_up))


def parse_formula(text: str) -> Formula:
    """Read a formula. Raises ValueError that says what cannot be read."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError):
        raise ValueError(
            f"cannot read {text!r}; write arithmetic, e.g. 'moe.step_time_s / dense.step_time_s'"
        ) from None
    names: dict[str, None] = {}
    _check(tree, names)
    return Formula(text, tuple(names), tree)


def _check(node: ast.expr, names: dict[str, None]) -> None:
    match node:
        case ast.Constant(value=bool() | str() | bytes() | None):
            raise ValueError(f"{ast.unparse(node)} is no number")
        case ast.Constant(value=int() | float()):
            return
        case ast.Name() | ast.Attribute():
            names[_dotted(node)] = None
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            _check(left, names)
            _check(right, names)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            _check(operand, names)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS and args:
            for argument in args:
                _check(argument, names)
        case _:
            known = "numbers, names, + - * / ** and " + ", ".join(FUNCTIONS)
            raise ValueError(f"{ast.unparse(node)!r} is no arithmetic; write {known}")


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    raise ValueError(f"{ast.unparse(node)!r} is no name")


def _value(node: ast.expr, look_up: Callable[[str], float]) -> float:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.BinOp(left=left, op=op, right=right):
            return _combined(type(op), _value(left, look_up), _value(right, look_up))
        case ast.UnaryOp(operand=operand):
            return -_value(operand, look_up)
        case ast.Call(func=ast.Name(id=name), args=args):
            values = [_value(argument, look_up) for argument in args]
            return math.nan if any(math.isnan(value) for value in values) else FUNCTIONS[name](*values)
    return look_up(_dotted(node))


def _combined(kind: type[ast.operator], left: float, right: float) -> float:
    try:
        return _BINARY[kind](left, right)
    except ZeroDivisionError:
        return math.nan if left == 0 else math.copysign(math.inf, left)
