"""The text of a VNN-LIB file as nested lists of words that know their lines."""

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


class Group(NamedTuple):
    """What stands between a pair of parentheses; ``line`` is that of the opening one."""

    items: list[Word | Group]
    line: int


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
    items, open_, line = whole, [], 1
    for count, match in enumerate(_TOKEN.finditer(text)):
        token = match.group()
        first = token[0]
        if count > ITEMS:
            raise SpecificationError(f"line {line}: the file has more than {ITEMS:,} words and lines. Split it.")
        if first == "\n":
            line += 1
        elif first == "(":
            group = Group([], line)
            items.append(group)
            open_.append(group)
            if len(open_) > DEPTH:
                raise SpecificationError(f"line {line}: nested too deeply: {DEPTH} parentheses are open at once.")
            items = group.items
        elif first == ")":
            if not open_:
                raise SpecificationError(f"line {line}: this ')' closes nothing. Remove it.")
            open_.pop()
            items = open_[-1].items if open_ else whole
        elif first in '[]"' and len(token) == 1:
            raise SpecificationError(f"line {line}: '{token}' has no partner or no name in front of it.")
        elif first != ";":
            # names and operators stand there again and again: one text for all of them
            items.append(Word(intern("".join(token.split()) if "[" in token else token), line))
    if open_:
        raise SpecificationError(f"line {open_[-1].line}: the '(' of this line is not closed. Add ')'.")
    return [_group(item) for item in whole]


def taken(items: list[Expression]) -> Iterator[Expression]:
    """The items of a list, in order, each given back to the memory as soon as the next one is asked for."""
    items.reverse()
    while items:
        yield items.pop()


def _group(item: Expression) -> Group:
    if isinstance(item, Word):
        raise SpecificationError(
            f"line {item.line}: '{item.text:.40}' stands outside of parentheses. Write declarations and (assert ...)."
        )
    return item
