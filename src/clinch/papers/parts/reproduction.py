"""What ``clinch reproduce`` runs: a published table or figure beside our own numbers, with a verdict on each claim."""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinch.errors import ProblemError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HOLDS, FAILS, CANNOT = "holds", "does not hold", "cannot be run here"

#: an entry of a table: text, a number, or None where there is none
Entry = str | float | int | None


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, and what came out.

    Attributes:
        text: the claim.
        verdict: :data:`HOLDS`, :data:`FAILS` or :data:`CANNOT`.
        reason: the numbers that decide, or why it cannot be run.
    """

    text: str
    verdict: str
    reason: str

    @staticmethod
    def that(text: str, true: bool, reason: str) -> Claim:
        """A claim that was tested."""
        return Claim(text, HOLDS if true else FAILS, reason)


@dataclass(frozen=True)
class Table:
    """Rows of entries under named columns; numbers are shown with ``digits`` significant ones."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    digits: int = 5

    def text(self, entry: Entry) -> str:
        """How an entry is shown."""
        if entry is None:
            return "–"
        return f"{entry:.{self.digits}g}" if isinstance(entry, float) else str(entry)


@dataclass(frozen=True)
class Reproduction:
    """The outcome.

    Attributes:
        name: by which it is asked for.
        source: the publication.
        setting: how it was run here, in a sentence.
        tables: theirs beside ours.
        claims: with verdicts.
        figure: a drawing, with the shared style applied where it is saved.
        seconds: that it took; seed: of every random choice; quick: whether the setting was the small one.
    """

    name: str
    source: str
    setting: str
    tables: tuple[Table, ...]
    claims: tuple[Claim, ...]
    figure: Figure = field(repr=False)
    seconds: float = 0.0
    seed: int = 0
    quick: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Everything but the figure, for JSON."""
        tables = [
            {"title": t.title, "columns": list(t.columns), "rows": [list(r) for r in t.rows]} for t in self.tables
        ]
        claims = [{"claim": c.text, "verdict": c.verdict, "reason": c.reason} for c in self.claims]
        return {
            "name": self.name, "source": self.source, "setting": self.setting, "tables": tables, "claims": claims,
            "seconds": self.seconds, "seed": self.seed, "quick": self.quick,
        }  # fmt: skip

    def to_markdown(self, picture: str = "") -> str:
        """A page with tables, verdicts and, where its file is named, the picture."""
        command = f"clinch reproduce {self.name} --seed {self.seed}" + " --quick" * self.quick
        lines = [f"# {self.name}", "", f"{self.source}. {self.setting} Repeat with `{command}`.", ""]
        lines += [f"![{self.name}]({picture})", ""] if picture else []
        for table in self.tables:
            lines += [f"## {table.title}", "", _row(table.columns), _row(["---"] * len(table.columns))]
            lines += [_row([table.text(e) for e in row]) for row in table.rows] + [""]
        lines += ["## Claims", "", _row(["claim", "verdict", "because"]), _row(["---"] * 3)]
        lines += [_row([c.text, f"**{c.verdict}**", c.reason]) for c in self.claims]
        return "\n".join(lines) + "\n"


def names() -> list[str]:
    """Names of everything that can be reproduced."""
    found = pkgutil.iter_modules([str(Path(__file__).parents[1])])
    return sorted(module.name.replace("_", "-") for module in found if not module.ispkg)


def reproduce(
    name: str, *, seed: int = 0, quick: bool = False, note: Callable[[str], None] | None = None
) -> Reproduction:
    """Run a published experiment.

    Args:
        name: one of :func:`names`.
        seed: of every random choice that the publication does not fix.
        quick: a small setting, for a look and for tests: its verdicts say nothing about the paper.
        note: told what is being worked on.

    Raises:
        ProblemError: no such name; lists those that exist.
        DataError: data or models that it needs are missing.

    Example:
        >>> names()[:2]  # reproduce("adr-random", quick=True) takes seconds
        ['adr-mnist', 'adr-random']
    """
    if name not in names():
        raise ProblemError(f"There is nothing to reproduce named '{name}'. Known are: {', '.join(names())}.")
    begun = time.monotonic()
    module = importlib.import_module(f"clinch.papers.{name.replace('-', '_')}")
    found = module.run(seed=seed, quick=quick, note=note or (lambda text: None))
    if not isinstance(found, Reproduction):
        where = f"papers/{name.replace('-', '_')}.py"
        raise TypeError(f"{where}: run() returned {type(found).__name__}; it must return a Reproduction.")
    return replace(found, name=name, seconds=time.monotonic() - begun, seed=seed, quick=quick)


def _row(entries: Any) -> str:
    return "| " + " | ".join(str(entry).replace("|", "\\|") for entry in entries) + " |"
