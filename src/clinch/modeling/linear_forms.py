"""Linear forms written as text: ``output[7] - 2 * relu2[3] <= 0.5``.

The text is parsed into a syntax tree and walked; only names, indices, numbers, ``+ - * /`` and one comparison are
known. Nothing is ever evaluated as Python.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from clinch.errors import ProblemError
from clinch.modeling.model import SymbolicNetwork

#: longest text that is read
LIMIT = 10_000

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.LtE: operator.le,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
}
_GRAMMAR = (
    "write names of layers with indices, numbers, + - * / and parentheses, such as output[7] - 2*relu2[3]; "
    "quote a layer whose name is not a word: 'features.3'[0]"
)


#: what names in a text stand for: layers of a network, or anything that has arithmetic and comparisons
Names = SymbolicNetwork | Mapping[str, Any]


def parse_form(text: str, names: Names) -> Any:
    """A linear form, such as an objective: ``output[7] - output[2]``.

    Names: ``input``, ``output``, or any layer.

    Raises:
        ProblemError: anything else than a linear form.
        UnknownLayer: a name that the network does not have.
    """
    tree = _parse(text)
    if isinstance(tree, ast.Compare):
        raise ProblemError(f"'{text}' is a comparison where a form is needed: leave the comparison out.")
    form = _evaluate(tree, text, names)
    if isinstance(form, (int, float)):
        raise ProblemError(f"'{text}' is a number and looks at no layer: {_GRAMMAR}.")
    return form


def parse_constraint(text: str, names: Names) -> Any:
    """A linear (in)equality: ``output[0] + 0.5 <= output[1]``; one of ``<=``, ``>=``, ``==``.

    Raises:
        ProblemError: anything else.
        UnknownLayer: a name that the network does not have.
    """
    tree = _parse(text)
    if not isinstance(tree, ast.Compare) or len(tree.ops) != 1 or type(tree.ops[0]) not in _COMPARE:
        raise ProblemError(
            f"'{text}' needs exactly one of <=, >=, ==. Strict conditions: add the margin, a <= b - 1e-3."
        )
    left, right = _evaluate(tree.left, text, names), _evaluate(tree.comparators[0], text, names)
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        raise ProblemError(f"'{text}' compares two numbers and looks at no layer: {_GRAMMAR}.")
    return _COMPARE[type(tree.ops[0])](left, right)


def _parse(text: str) -> ast.expr:
    if len(text) > LIMIT:
        raise ProblemError(
            f"The linear form has {len(text)} characters; at most {LIMIT} are read. Use the Python interface."
        )
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ProblemError(f"'{_short(text)}' cannot be read: {_GRAMMAR}.") from None


def _evaluate(tree: ast.expr, text: str, names: Names) -> Any:
    try:
        return _walk(tree, text, names)
    except RecursionError:
        raise ProblemError(f"'{_short(text)}' has too many terms. Use the Python interface.") from None


def _walk(tree: ast.expr, text: str, names: Names) -> Any:
    match tree:
        case ast.Constant(value=bool()):
            pass
        case ast.Constant(value=int() | float() as constant):
            return constant
        case ast.Name(id=name) | ast.Constant(value=str() as name):
            return _meant(name, names)
        case ast.Subscript(value=ast.Name() | ast.Constant(value=str()), slice=index):
            return _walk(tree.value, text, names)[_index(index, text)]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_walk(operand, text, names)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _walk(operand, text, names)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            sides = _walk(left, text, names), _walk(right, text, names)
            if isinstance(op, ast.Mult) and not any(isinstance(side, int | float) for side in sides):
                raise ProblemError(f"'{_short(text)}' multiplies two names: {_GRAMMAR}.")
            try:
                return _BINARY[type(op)](*sides)
            except ZeroDivisionError:
                raise ProblemError(f"'{_short(text)}' divides by zero.") from None
        case _:
            pass
    raise ProblemError(f"'{_short(ast.unparse(tree))}' in '{_short(text)}' is not linear arithmetic: {_GRAMMAR}.")


def _meant(name: str, names: Names) -> Any:
    if isinstance(names, Mapping):
        if name not in names:
            raise ProblemError(f"There is no '{_short(name)}'. Write one of: {', '.join(names)}.")
        return names[name]
    if name == "input":
        return names.input
    return names.output if name == "output" else names[name]


def _index(tree: ast.expr, text: str) -> int | tuple[int, ...]:
    parts = tree.elts if isinstance(tree, ast.Tuple) else [tree]
    index = []
    for part in parts:
        negative = isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.USub)
        inner = part.operand if isinstance(part, ast.UnaryOp) and negative else part
        if not (isinstance(inner, ast.Constant) and type(inner.value) is int):
            raise ProblemError(
                f"'{_short(ast.unparse(part))}' in '{_short(text)}' is not an index: "
                "write whole numbers, output[7] or input[0, 3]."
            )
        index.append(-inner.value if negative else inner.value)
    return tuple(index) if isinstance(tree, ast.Tuple) else index[0]


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
