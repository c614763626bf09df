"""Proofs of other verifiers in APTP: a property as in VNN-LIB 1.0, and the activation patterns that were looked at.

An activation pattern tree proof (NeurIPS 2025, *Generating and checking DNN verification proofs*) declares the neurons,
``(declare-pwl N_1 ReLU)``, numbered from 1 through all ReLU layers, and states a disjunction of patterns::

    (assert (or (and (< N_4 0)) (and (< N_2 0) (>= N_4 0)) ...))

Each pattern is a leaf of the verifier's tree; the file holds no multipliers. It proves the property where the patterns
leave nothing out and none of them has a counterexample.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from clinch.errors import SpecificationError
from clinch.io.files import SPECIFICATION_LIMIT, read_limited
from clinch.vnnlib.reader import meaning
from clinch.vnnlib.specification import Specification
from clinch.vnnlib.syntax import Expression, Group, Word, parse

_NEURON = re.compile(r"N_([1-9]\d{0,17})")
#: neuron, from 0 through all ReLU layers -> +1 where its input is at least 0, −1 where it is below
Pattern = dict[int, int]


class PatternProof(NamedTuple):
    """What an APTP file says.

    Attributes:
        specification: the property that is proven unsatisfiable.
        patterns: activation patterns, of which every input that meets it has one.
    """

    specification: Specification
    patterns: list[Pattern]


def read_aptp(path: str | Path) -> PatternProof:
    """Read an ``.aptp`` file.

    Raises:
        SpecificationError: it cannot be read, has no patterns, or says something else of a neuron than its sign.
    """
    try:
        text = read_limited(path, SPECIFICATION_LIMIT, SpecificationError).decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpecificationError(f"Cannot read {path}: {error}. Save it as UTF-8.") from None
    return parse_aptp(text, Path(path).name)


def parse_aptp(text: str, name: str = "proof") -> PatternProof:
    """Read the text of an APTP file.

    Raises:
        SpecificationError: see :func:`read_aptp`.

    Example:
        >>> text = "(declare-const X_0 Real) (declare-const Y_0 Real) (declare-pwl N_1 ReLU) (assert (<= X_0 1)) "
        >>> parse_aptp(text + "(assert (or (and (< N_1 0)) (and (>= N_1 0))))").patterns
        [{0: -1}, {0: 1}]
    """
    rest: list[Group] = []
    declared: set[int] = set()
    stated: Group | None = None
    for group in parse(text):
        words = _words(group)
        if words[:1] == ["declare-pwl"]:
            if words[-1].lower() != "relu" or len(words) < 3:
                raise _wrong(name, group, "only ReLU neurons are known: (declare-pwl N_1 ReLU)")
            declared |= {_neuron(name, group, word) for word in words[1:-1]}
        elif words[:1] == ["assert"] and any(_NEURON.fullmatch(word) for word in words):
            if stated is not None:
                raise _wrong(name, group, "there are two assertions about neurons; a proof has one")
            stated = group
        else:
            rest.append(group)
    if stated is None:
        raise SpecificationError(f"{name}: there is no (assert (or (and (>= N_1 0) ...) ...)): no pattern is stated.")
    return PatternProof(meaning(rest, name), [_pattern(name, one, declared) for one in _parts(name, stated)])


def _words(expression: Expression) -> list[str]:
    if isinstance(expression, Word):
        return [expression.text]
    return [word for item in expression.items for word in _words(item)]


def _wrong(name: str, where: Expression, what: str) -> SpecificationError:
    return SpecificationError(f"{name}, line {where.line}: {what}.")


def _neuron(name: str, where: Expression, word: str) -> int:
    match = _NEURON.fullmatch(word)
    if match is None:
        raise _wrong(name, where, f"'{word:.40}' is no neuron; they are called N_1, N_2, ...")
    return int(match[1]) - 1


def _parts(name: str, stated: Group) -> list[Expression]:
    """The patterns of ``(assert (or ...))``, or of a single ``(assert (and ...))``."""
    inner = stated.items[1] if len(stated.items) == 2 else None
    if not isinstance(inner, Group) or not inner.items or not isinstance(inner.items[0], Word):
        raise _wrong(name, stated, "write (assert (or (and ...) ...))")
    return list(inner.items[1:]) if inner.items[0].text == "or" else [inner]


def _pattern(name: str, part: Expression, declared: set[int]) -> Pattern:
    items: Iterable[Expression] = [part]
    if isinstance(part, Group) and part.items and isinstance(part.items[0], Word) and part.items[0].text == "and":
        items = part.items[1:]
    found: Pattern = {}
    for item in items:
        words = [word.text for word in item.items if isinstance(word, Word)] if isinstance(item, Group) else []
        if len(words) != 3 or words[0] not in ("<", "<=", ">=", ">") or not _is_zero(words[2]):
            raise _wrong(name, item, "a pattern consists of (< N_1 0) and (>= N_1 0)")
        at, sign = _neuron(name, item, words[1]), 1 if words[0] in (">=", ">") else -1
        if at not in declared:
            raise _wrong(name, item, f"the neuron {words[1]} is not declared")
        if found.setdefault(at, sign) != sign:
            raise _wrong(name, item, f"a pattern has {words[1]} on both sides")
    return found


def _is_zero(word: str) -> bool:
    try:
        return float(word) == 0
    except ValueError:
        return False
