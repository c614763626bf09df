"""What to cite: the software, and the papers behind what was used, as BibTeX."""

from __future__ import annotations

import inspect
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from clinch.errors import ProblemError
from clinch.runtime.version import VERSION

_ARXIV = re.compile(r"arXiv[:\s]\s*(\d{4}\.\d{4,5})")
#: engines of a solve -> papers; attacks and bounds name theirs in their docstrings
ENGINES = {
    "bounds": ("1811.00866", "2011.13824"), "branch_and_bound": ("2103.06624",), "input_split": ("1804.10829",),
    "general_split": ("2405.21063",), "milp": ("1711.07356",),
}  # fmt: skip


def cite(used: Any = None) -> str:
    """BibTeX of Clinch and of the papers behind a method, or behind everything that brought a solution forward.

    Args:
        used: an attack, a bound or an engine, such as ``cl.attacks.apgd``; the name of an engine; a
            :class:`clinch.Solution`; a list of these. None: the software alone.

    Raises:
        ProblemError: nothing whose papers are known.

    Example:
        >>> [line for line in cl.cite(cl.attacks.apgd).splitlines() if line.startswith("@")]
        ['@software{clinch,', '@misc{croce2020apgd,', '@misc{croce2021mind,']
    """
    numbers = list(dict.fromkeys(_numbers(used)))
    return "\n".join([_software(), *(_entry(number) for number in numbers)])


def _numbers(used: Any) -> list[str]:
    """arXiv numbers, in the order in which they are named."""
    if used is None:
        return []
    if isinstance(used, list | tuple | set):
        return [number for one in used for number in _numbers(one)]
    if hasattr(used, "history") and hasattr(used, "proof"):
        named = [used.solver, *(event.who for event in used.history)]
        return [n for who in named for n in ENGINES.get(who, ())] or list(ENGINES["bounds"])
    if isinstance(used, str):
        if used not in ENGINES:
            raise ProblemError(
                f"'{used:.80}' is no engine: {', '.join(ENGINES)}. For an attack pass it: cl.attacks.apgd."
            )
        return list(ENGINES[used])
    if not callable(used):
        raise ProblemError(f"The papers behind a {type(used).__name__} are not known. Pass a method: cl.attacks.apgd.")
    name = getattr(used, "__name__", "")
    # what an argument rests on is not what the method rests on
    own = _ARXIV.findall(" ".join((inspect.getdoc(used) or "").partition("Args:")[0].split()))
    whole = " ".join((sys.modules[used.__module__].__doc__ or "").split())
    return own or _ARXIV.findall(whole) or list(ENGINES.get(name, ()))


@cache
def _entries() -> dict[str, str]:
    text = Path(__file__).with_name("references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@misc\{.*?^\}", text, re.MULTILINE | re.DOTALL)
    return {re.findall(r"eprint = \{([\d.]+)\}", entry)[0]: entry for entry in entries}


def _entry(number: str) -> str:
    return _entries().get(number) or (
        f"@misc{{arxiv{number},\n  title = {{arXiv:{number}}}, eprint = {{{number}}}, archivePrefix = {{arXiv}},\n}}"
    )


def _software() -> str:
    return (
        "@software{clinch,\n"
        "  title = {{Clinch: the best input of a neural network, and a proof of how much better any other could be}},\n"
        "  author = {{The Clinch developers}},\n"
        f"  version = {{{VERSION}}}, license = {{Apache-2.0}},\n"
        "}"
    )
