"""From the text of a VNN-LIB file to its meaning: versions 1.0 and 2.0, linear conditions.

Version 1.0 is a part of SMT-LIB: ``(declare-const X_0 Real)`` and assertions over ``X_i`` and ``Y_j``. Version 2.0
declares tensors with types and shapes, ``(declare-network f (declare-input X float32 [1,5]) ...)``, and writes elements
as ``X[0,3]``; hidden tensors are declared with their name in the ONNX file. Several networks may be declared, each with
an input and an output. The standard's further kinds of problem (several inputs or outputs of one network, integers,
products of variables) are refused with their line.

Numbers are read as float64. The package ``vnnlib`` reads version 2.0 only, and refuses numbers with exponents.
"""

from __future__ import annotations

import gc
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise, product
from os import PathLike
from pathlib import Path

from clinch.errors import SpecificationError
from clinch.io.files import SPECIFICATION_LIMIT, printable, read_limited
from clinch.vnnlib.specification import Atom, Declaration, Formula, Junction, Specification, Variable
from clinch.vnnlib.syntax import Expression, Group, Word, parse, taken

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
# indices of at most 18 digits: longer ones are no index of anything, and Python refuses to read very long ones
_SCALAR = re.compile(r"([XY])_(0|[1-9]\d{0,17})")
_ELEMENT = re.compile(r"([A-Za-z]\w*)(?:\[(\d{1,18}(?:,\d{1,18})*)\])?")
_SHAPE = re.compile(r"([A-Za-z]\w*)\[((?:\d{1,18}(?:,\d{1,18})*)?)\]")
#: commands of SMT-LIB that say nothing about the property
_IGNORED = {"check-sat", "get-model", "exit", "set-logic", "set-info", "set-option"}
#: of a declared tensor
_MOST_ELEMENTS = 2**27
_TYPES = ("real", "float16", "float32", "float64")

#: coefficients by variable, and a constant
Linear = tuple[dict[Variable, float], float]


def read_specification(path: str | PathLike[str], *, limit: int = SPECIFICATION_LIMIT) -> Specification:
    """Read a ``.vnnlib`` or ``.vnnlib.gz`` file.

    Args:
        path: of the file.
        limit: largest size of the uncompressed text, in bytes.

    Raises:
        SpecificationError: there is no such file, it is too large, not VNN-LIB, or says what is not supported; names
            line and column.
    """
    try:
        text = read_limited(path, limit, SpecificationError).decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpecificationError(f"Cannot read {path}: {error}. Save it as UTF-8.") from None
    return parse_specification(text, Path(path).name)


def parse_specification(text: str, name: str = "specification") -> Specification:
    """Read the text of a VNN-LIB file.

    Args:
        text: its content; the version is 2.0 where it says so or declares a network, else 1.0.
        name: for messages.

    Raises:
        SpecificationError: malformed, an undeclared variable, a product of variables, ...; names the line.

    Example:
        >>> spec = parse_specification("(declare-const X_0 Real) (declare-const Y_0 Real) (assert (<= X_0 1))")
        >>> spec.version, spec.input.size
        ('1.0', 1)
    """
    try:
        with _uncollected():
            return meaning(parse(text), name)
    except RecursionError:
        raise SpecificationError(f"{name}: its expressions are nested too deeply.") from None
    except MemoryError:
        raise SpecificationError(f"{name}: there is not enough memory for it. Split it.") from None
    except SpecificationError as error:
        raise SpecificationError(printable(f"{name}, {error}")) from None


def meaning(groups: list[Group], name: str) -> Specification:
    """What the parenthesised expressions of a file mean; see :func:`parse_specification`."""
    return _Reading(name).read(groups)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector, which would look at millions of words again and again: none is in a circle."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Reading:
    """The declarations so far, and the assertions read with them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.version = "1.0"
        self.tensors: dict[str, Declaration] = {}
        self.networks: list[str] = []
        self.equal: dict[str, str] = {}
        #: of version 1.0: line of each declared element
        self.elements: dict[Variable, int] = {}
        self.assertions: list[Formula] = []

    def read(self, commands: list[Group]) -> Specification:
        """All commands of a file, in order."""
        commands.reverse()
        # what is read of a command takes the place of its words
        while commands:
            self._command(commands.pop())
        if self.version == "1.0":
            self._gather_elements()
        for kind, network in product(("input", "output"), self.networks or ("",)):
            if not self._declared(kind, network):
                raise SpecificationError(
                    f"line 1: the file declares no {kind} of the network{network and ' '}{network}."
                )
        if not self.assertions:
            raise SpecificationError("line 1: the file asserts nothing. Add (assert ...).")
        formula = Junction(True, tuple(self.assertions))
        return Specification(self.name, self.version, self.tensors, formula, tuple(self.networks), self.equal)

    def _command(self, command: Group) -> None:
        head, rest = _head(command)
        if head == "assert":
            if len(rest) != 1:
                raise _wrong(command, f"assert takes one formula, not {len(rest)}")
            self.assertions.append(self._formula(rest[0]))
        elif head == "declare-const":
            self._declare_element(command, rest)
        elif head == "declare-network":
            self._declare_network(command, rest)
        elif head == "vnnlib-version":
            self._declare_version(command, rest)
        elif head not in _IGNORED:
            raise _wrong(command, f"'{head:.40}' is not a command of VNN-LIB")

    # --- declarations ---------------------------------------------------------------------------------------------

    def _declare_version(self, command: Group, rest: list[Expression]) -> None:
        text = rest[0].text.strip("<>") if len(rest) == 1 and isinstance(rest[0], Word) else ""
        if text.partition(".")[0] not in ("1", "2"):
            raise _wrong(command, "write (vnnlib-version <2.0>); versions 1 and 2 are known")
        self.version = f"{text.partition('.')[0]}.0"

    def _declare_element(self, command: Group, rest: list[Expression]) -> None:
        if len(rest) != 2 or not all(isinstance(part, Word) for part in rest):
            raise _wrong(command, "write (declare-const X_0 Real)")
        name, kind = (part.text for part in rest if isinstance(part, Word))
        found = _SCALAR.fullmatch(name)
        if found is None:
            raise _wrong(command, f"'{name:.40}' is no name for a variable: inputs are X_0, X_1, ..., outputs Y_0, ...")
        if kind != "Real":
            raise _wrong(command, f"the type of {name} is '{kind:.40}'; version 1.0 knows Real")
        variable = found[1], int(found[2])
        if variable in self.elements or self.tensors:
            raise _wrong(command, f"{name} is declared twice, or beside a declare-network")
        self.elements[variable] = command.line

    def _gather_elements(self) -> None:
        """The tensors X and Y of version 1.0 from their elements, which must be numbered without gaps."""
        for name, kind in (("X", "input"), ("Y", "output")):
            lines = {i: line for (tensor, i), line in self.elements.items() if tensor == name}
            if not lines:
                continue
            missing = next((i for i in range(len(lines)) if i not in lines), None)
            if missing is not None:
                last = max(lines)
                raise SpecificationError(f"line {lines[last]}: {name}_{last} is declared, but {name}_{missing} is not.")
            self.tensors[name] = Declaration(name, kind, (len(lines),), "real", None, min(lines.values()))

    def _declare_network(self, command: Group, rest: list[Expression]) -> None:
        if self.elements:
            raise _wrong(command, "a network beside declare-const, which is version 1.0")
        self.version = "2.0"
        if not rest or not isinstance(rest[0], Word):
            raise _wrong(command, "the network has no name: write (declare-network f (declare-input ...) ...)")
        if rest[0].text in self.networks:
            raise _wrong(command, f"the network {rest[0].text:.40} is declared twice")
        self.networks.append(rest[0].text)
        for part in rest[1:]:
            if not isinstance(part, Group):
                raise _wrong(part, f"'{part.text:.40}' is not a declaration")
            self._declare_tensor(part)

    def _declare_tensor(self, part: Group) -> None:
        head, rest = _head(part)
        kind = head.removeprefix("declare-")
        if head in ("equal-to", "isomorphic-to"):
            self._relate(part, head, rest)
            return
        if kind not in ("input", "output", "hidden"):
            raise _wrong(part, f"'{head:.40}' declares no input, hidden or output tensor")
        words = [word.text for word in rest if isinstance(word, Word)]
        quoted = words[-1].strip('"') if words and words[-1].startswith('"') else None
        shape = _SHAPE.fullmatch(words[1]) if len(words) > 1 else None
        if len(words) != len(rest) or len(words) != 2 + (quoted is not None) or shape is None:
            raise _wrong(part, f'write ({head} X float32 [1,5]), for a hidden tensor with its "name" in the ONNX file')
        name, dtype = words[0], shape[1].lower()
        if name in self.tensors:
            raise _wrong(part, f"{name:.40} is declared twice")
        if dtype not in _TYPES:
            raise _wrong(part, f"the type of {name:.40} is {shape[1]:.40}; supported are {', '.join(_TYPES)}")
        if kind != "hidden" and self._declared(kind, self.networks[-1]):
            raise _wrong(part, f"a second {kind}; one input and one output of each network are supported")
        if kind == "hidden" and quoted is None:
            raise _wrong(part, f'{name:.40} is hidden: add its "name" in the ONNX file')
        extents = tuple(int(n) for n in shape[2].split(",") if n)
        if 0 in extents:
            raise _wrong(part, f"{name:.40} has no elements")
        if math.prod(extents) > _MOST_ELEMENTS:
            raise _wrong(part, f"{name:.40} has more than {_MOST_ELEMENTS:,} elements")
        self.tensors[name] = Declaration(name, kind, extents, dtype, quoted, part.line, self.networks[-1])

    def _declared(self, kind: str, network: str) -> bool:
        return any(t.kind == kind and t.network == network for t in self.tensors.values())

    def _relate(self, part: Group, head: str, rest: list[Expression]) -> None:
        """Another network's function, or its layers with other weights: the file says which weights."""
        other = rest[0].text if len(rest) == 1 and isinstance(rest[0], Word) else ""
        if other not in self.networks[:-1]:
            raise _wrong(part, f"write ({head} f) with the name of a network that is declared before")
        if head == "equal-to":
            self.equal[self.networks[-1]] = self.equal.get(other, other)

    # --- formulas -------------------------------------------------------------------------------------------------

    def _formula(self, expression: Expression) -> Formula:
        if isinstance(expression, Word):
            if expression.text in ("true", "false"):
                return Junction(expression.text == "true", ())
            raise _wrong(expression, f"'{expression.text:.40}' is not a condition")
        head, rest = _head(expression)
        if head in _COMPARISONS:
            return self._comparison(head, rest, expression)
        if head in ("and", "or", "not", "=>"):
            expression.items.clear()
            parts = tuple(self._formula(part) for part in taken(rest))
            if not parts or (head == "not" and len(parts) != 1) or (head == "=>" and len(parts) != 2):
                raise _wrong(expression, f"'{head}' with {len(parts)} conditions has no meaning")
            if head == "not":
                return parts[0].negated()
            if head == "=>":
                return Junction(False, (parts[0].negated(), *parts[1:]))
            return Junction(head == "and", parts)
        raise _wrong(expression, f"'{head:.40}' is not known; conditions are {' '.join(_COMPARISONS)} and or not =>")

    def _comparison(self, head: str, rest: list[Expression], where: Group) -> Formula:
        if len(rest) < 2 or (head == "!=" and len(rest) != 2):
            raise _wrong(where, f"'{head}' compares two numbers, not {len(rest)}")
        sides = [self._linear(part) for part in rest]
        parts = tuple(_compared(head, left, right, where.line) for left, right in pairwise(sides))
        return parts[0] if len(parts) == 1 else Junction(True, parts)

    def _linear(self, expression: Expression) -> Linear:
        """A linear form of variables."""
        if isinstance(expression, Word):
            if _NUMBER.fullmatch(expression.text):
                return {}, _finite(float(expression.text), expression)
            return {self._variable(expression): 1.0}, 0.0
        head, rest = _head(expression)
        if head not in ("+", "-", "*", "/") or not rest or (head == "/" and len(rest) != 2):
            raise _wrong(expression, f"'{head:.40}' with {len(rest)} operands is not arithmetic; known are + - * /")
        total = self._linear(rest[0])
        if head == "-" and len(rest) == 1:
            return _scaled(total, -1.0)
        for part in rest[1:]:
            other = self._linear(part)
            if head in "+-":
                total = _sum(total, other, 1.0 if head == "+" else -1.0)
                continue
            if head == "/" and (other[0] or not other[1]):
                raise _wrong(expression, "only division by a number other than 0 is linear")
            if total[0] and other[0]:
                raise _wrong(expression, "a product of variables is not linear")
            factor, form = (other[1], total) if not other[0] else (total[1], other)
            total = _scaled(form, 1 / factor if head == "/" else factor)
        for value in (*total[0].values(), total[1]):
            _finite(value, expression)
        return total

    def _variable(self, word: Word) -> Variable:
        """The declared element that a word names."""
        scalar = _SCALAR.fullmatch(word.text)
        if scalar is not None and (scalar[1], int(scalar[2])) in self.elements:
            return scalar[1], int(scalar[2])
        found = _ELEMENT.fullmatch(word.text)
        tensor = self.tensors.get(found[1]) if found else None
        if found is None or tensor is None:
            raise _wrong(word, f"'{word.text:.40}' is not declared, and not a number")
        index = tuple(int(n) for n in found[2].split(",")) if found[2] else ()
        if len(index) != len(tensor.shape) or any(i >= n for i, n in zip(index, tensor.shape)):
            raise _wrong(word, f"{word.text:.40} does not fit the shape {list(tensor.shape)!s:.80} of {tensor.name}")
        position = 0
        for i, extent in zip(index, tensor.shape):
            position = position * extent + i
        return tensor.name, position


_COMPARISONS = ("<=", ">=", "<", ">", "=", "==", "!=")


def _compared(head: str, left: Linear, right: Linear, line: int) -> Formula:
    if head in (">=", ">"):
        left, right = right, left
    terms, constant = _sum(left, right, -1.0)
    if head in ("<=", ">=", "<", ">"):
        return Atom(terms, constant, head in "<>", line)
    below = Atom(terms, constant, False, line)
    equal = Junction(True, (below, Atom({v: -c for v, c in terms.items()}, -constant, False, line)))
    return equal.negated() if head == "!=" else equal


def _sum(left: Linear, right: Linear, sign: float) -> Linear:
    terms = dict(left[0])
    for variable, coefficient in right[0].items():
        value = terms.pop(variable, 0.0) + sign * coefficient
        if value:
            terms[variable] = value
    return terms, left[1] + sign * right[1]


def _scaled(form: Linear, factor: float) -> Linear:
    return {v: c * factor for v, c in form[0].items() if c * factor}, form[1] * factor


def _finite(value: float, where: Expression) -> float:
    if not math.isfinite(value):
        raise _wrong(where, "a number is too large for float64")
    return value


def _head(group: Group) -> tuple[str, list[Expression]]:
    """The operator of a group and its operands."""
    if not group.items or not isinstance(group.items[0], Word):
        raise _wrong(group, "a pair of parentheses without an operator in front")
    return group.items[0].text, group.items[1:]


def _wrong(where: Expression, what: str) -> SpecificationError:
    return SpecificationError(f"line {where.line}, column {where.column}: {what}.")
