"""The text of a VNN-LIB file as nested lists of words that know their lines and columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from sys import intern
from typing import NamedTuple

from clinch.errors import SpecificationError

#: a comment, a bracket, a quoted name, a word with its index such as ``X[0, 3]``, or anything else
_TOKEN = re.compile(r'\n|;[^\n]*|[()]|"[^"\n]*"|[^\s()\[\]";]+(?:[^\S\n]*\[[^\]()\n]*\])?|\S')


class Word(NamedTuple):
    """A name, number, quoted name or operator; an index in brackets belongs to its name, without spaces."""

    text: str
    line: int
    column: int


class Group(NamedTuple):
    """What stands between a pair of parentheses; ``line`` and ``column`` are those of the opening one."""

    items: list[Word | Group]
    line: int
    column: int


Expression = Word | Group

#: parentheses inside each other at most, and words and groups of a file at most
DEPTH, ITEMS = 100, 5_000_000


def parse(text: str) -> list[Group]:
    """The parenthesised expressions of a file, in order.

    Raises:
        SpecificationError: a parenthesis is not closed or not opened, something stands outside of all, or there
            are too many of them.

    Example:
        >>> parse("(assert (<= X_0 0.5)) ; a limit")[0].items[0].text
        'assert'
    """
    whole: list[Word | Group] = []
    items, open_, line, before = whole, [], 1, -1
    for count, match in enumerate(_TOKEN.finditer(text)):
        token = match.group()
        first, column = token[0], match.start() - before
        if count > ITEMS:
            raise SpecificationError(f"line {line}: the file has more than {ITEMS:,} words and lines. Split it.")
        if first == "\n":
            line, before = line + 1, match.start()
        elif first == "(":
            group = Group([], line, column)
            items.append(group)
            open_.append(group)
            if len(open_) > DEPTH:
                raise SpecificationError(
                    f"line {line}, column {column}: nested too deeply: {DEPTH} parentheses are open at once."
                )
            items = group.items
        elif first == ")":
            if not open_:
                raise SpecificationError(f"line {line}, column {column}: this ')' closes nothing. Remove it.")
            open_.pop()
            items = open_[-1].items if open_ else whole
        elif first in '[]"' and len(token) == 1:
            raise SpecificationError(
                f"line {line}, column {column}: '{token}' has no partner or no name in front of it."
            )
        elif first != ";":
            # names and operators stand there again and again: one text for all of them
            items.append(Word(intern("".join(token.split()) if "[" in token else token), line, column))
    if open_:
        last = open_[-1]
        raise SpecificationError(f"line {last.line}, column {last.column}: this '(' is not closed. Add ')'.")
    return [_group(item) for item in whole]


def taken(items: list[Expression]) -> Iterator[Expression]:
    """The items of a list, in order, each given back to the memory as soon as the next one is asked for."""
    items.reverse()
    while items:
        yield items.pop()


def _group(item: Expression) -> Group:
    if isinstance(item, Word):
        raise SpecificationError(
            f"line {item.line}, column {item.column}: '{item.text:.40}' stands outside of parentheses. Write "
            "declarations and (assert ...)."
        )
    return item
