"""Studies as rows of a table: the same columns for a study, for each of its classes, and for several studies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clinch.study.template import FAILED, OPEN

if TYPE_CHECKING:
    from clinch.study.evaluation import Evaluation


def columns(found: Evaluation) -> dict[str, str]:
    """A study's measures as texts by the names of their columns; shares in per cent, intervals as ``low .. high``."""
    measures, tally = found.measures(), found.tally
    missing = tally.images - tally.seen + tally.counts.get(OPEN, 0) + tally.counts.get(FAILED, 0)
    row = {"images": str(tally.images), "open": str(missing), "accuracy %": _interval(measures["accuracy"], 100)}
    if "robust" in measures:
        row["robust %"] = _interval(measures["robust"], 100)
        row["fooled %"] = _interval(measures["fooling_ratio"], 100)
    row["rho1"], row["eps 99 %"] = _interval(measures["rho1"]), _interval(measures["eps_99"])
    row["rho2"] = "" if measures["rho2"] is None else f"{measures['rho2']:.4g}"
    return row


def class_rows(found: Evaluation, most: int | None = None) -> list[dict[str, str]]:
    """One row per class, of at most so many: its label and the study's columns."""
    return [{"class": str(label), **columns(part)} for label, part in found.classes(most).items()]


def heads_of(rows: Sequence[dict[str, str]]) -> list[str]:
    """The names of all columns, in the order in which they come up; those of a longer row keep their places."""
    longest = max(rows, key=len, default={})
    return list(dict.fromkeys([*longest, *(name for row in rows for name in row)]))


def text_table(rows: Sequence[dict[str, str]]) -> str:
    """Aligned plain text, a line of names and one line per row."""
    heads = heads_of(rows)
    table = [heads, *([row.get(name, "") for name in heads] for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(heads))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in table)


def _interval(ends: tuple[float, float] | None, factor: float = 1.0) -> str:
    """One number where the ends are equal as written."""
    if ends is None:
        return ""
    low, high = (f"{factor * end:.2f}" if factor != 1.0 else f"{end:.4g}" for end in ends)
    return low if low == high else f"{low} .. {high}"
