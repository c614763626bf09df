"""Studies as tables of a paper: CSV, Markdown and LaTeX, with intervals; and what the methods section says."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clinch.errors import ProblemError
from clinch.io.files import cell, write_whole
from clinch.runtime.citing import cite
from clinch.study.columns import heads_of
from clinch.study.template import norm_name, radius_text

if TYPE_CHECKING:
    from clinch.study.comparison import Comparison
    from clinch.study.evaluation import Evaluation

_DIGITS = r"(\d[\d.]*(e-?\d+)?|inf)"
#: endings of a table's file
TABLES = (".csv", ".md", ".tex")
_NORMS = {"linf": r"\ell_\infty", "l2": r"\ell_2", "l1": r"\ell_1", "l0": r"\ell_0"}
_LATEX = {"\\": r"\textbackslash{}", **{letter: "\\" + letter for letter in "&%$#_{}"}, "~": r"\textasciitilde{}",
          "^": r"\textasciicircum{}"}  # fmt: skip


def paper_rows(found: Comparison) -> list[dict[str, str]]:
    """One row per study with the columns that a paper shows; what is the same in all of them is left out."""
    runs = list(found.runs.values())
    rows = []
    for run, row in zip(runs, found.rows()):
        kept = {name: row[name] for name in ("model", "data", "norm")}
        if run.template.eps is not None:
            kept |= {"radius": radius_text(run.template.eps)}
        kept |= {"images": row["images"], "accuracy %": row["accuracy %"]}
        if run.template.eps is not None:
            rows.append({**kept, "robust %": row["robust %"], "open": row["open"]})
            continue
        numbers = run.distances()
        ends = "" if not numbers["count"] else f"{numbers['median_bound']:.4g} .. {numbers['median_value']:.4g}"
        rows.append({**kept, "median distance": ends, "open": row["open"]})
    same = [name for name in ("data", "norm", "images") if len(rows) > 1 and len({row[name] for row in rows}) == 1]
    return [{name: text for name, text in row.items() if name not in same} for row in rows]


def csv_table(rows: Sequence[dict[str, str]]) -> str:
    """Rows as CSV; texts are no formulas of a spreadsheet."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    heads = heads_of(rows)
    writer.writerow(heads)
    writer.writerows([cell(row.get(name, "")) for name in heads] for row in rows)
    return file.getvalue()


def markdown_table(rows: Sequence[dict[str, str]]) -> str:
    """Rows as a table of Markdown; numbers stand to the right."""
    heads = heads_of(rows)
    body = [[row.get(name, "").replace("|", "\\|").replace("\n", " ") for name in heads] for row in rows]
    sides = ["---:" if all(_number(line[k]) for line in body) else "---" for k in range(len(heads))]
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, sides, *body]) + "\n"


def latex_table(rows: Sequence[dict[str, str]], caption: str = "", label: str = "") -> str:
    """Rows as a table of LaTeX with booktabs; an interval ``a .. b`` becomes ``[a, b]``.

    Example:
        >>> print(latex_table([{"model": "a_b", "robust %": "93.10 .. 95.00"}]).splitlines()[5].strip())
        a\\_b & $[93.10, 95.00]$ \\\\
    """
    heads = heads_of(rows)
    body = [[_latex(row.get(name, "")) for name in heads] for row in rows]
    sides = "".join("r" if all(_number(row.get(name, "")) for row in rows) else "l" for name in heads)
    lines = [
        r"\begin{table}", r"  \centering", rf"  \begin{{tabular}}{{{sides}}}", r"    \toprule",
        "    " + " & ".join(_latex(name) for name in heads) + r" \\ \midrule",
        *("    " + " & ".join(line) + r" \\" for line in body), r"    \bottomrule", r"  \end{tabular}",
    ]  # fmt: skip
    lines += [f"  \\caption{{{_escaped(caption)}}}"] * bool(caption) + [f"  \\label{{{label}}}"] * bool(label)
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _number(text: str) -> bool:
    return re.fullmatch(rf"({_DIGITS}|\d+/255)?( \.\. {_DIGITS})?", text) is not None


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))


def _latex(text: str) -> str:
    if text in _NORMS:
        return f"${_NORMS[text]}$"
    if " .. " in text and _number(text):
        low, high = text.replace("inf", r"\infty").split(" .. ")
        return f"$[{low}, {high}]$"
    return _escaped(text)


def checked_paper_table(target: str | Path) -> Path:
    """The path, whose ending must be that of a table.

    Raises:
        ProblemError: another ending.
    """
    path = Path(target)
    if path.suffix.lower() not in TABLES:
        raise ProblemError(f"'{path.name:.100}' is no table: write a name that ends with {', '.join(TABLES)}.")
    return path


def write_paper_table(target: str | Path, rows: Sequence[dict[str, str]], *, caption: str = "") -> Path:
    """Write rows as the ending says: ``.csv``, ``.md`` or ``.tex``. Returns the path.

    Raises:
        ProblemError: another ending.
    """
    path = checked_paper_table(target)
    made = {".csv": csv_table, ".md": markdown_table}.get(path.suffix.lower())
    write_whole(path, made(rows) if made else latex_table(rows, caption, f"tab:{path.stem}"))
    return path


def paper_caption(found: Comparison) -> str:
    """What stands below a table of :func:`paper_rows`."""
    runs = list(found.runs.values())
    images = " and ".join(dict.fromkeys(f"the first {run.tally.images:,} images of {run.data}" for run in runs))
    if all(run.template.eps is None for run in runs):
        return f"Distances to another class for {images}: intervals from what is proven to what was found."
    return (
        f"Robust accuracy on {images}: two numbers are the share that is proven and the share that is not attacked, "
        "one number is both; open are the images between the two."
    )


def methods_text(found: Evaluation | Comparison) -> str:
    """What a paper's methods section says about a study, in LaTeX, followed by the BibTeX of what it names.

    Example:
        >>> text = methods_text(cl.study.evaluate(net, "digits", eps=0.02, limit=4, time_limit=20))
        >>> "cite{zhang2018crown" in text, "@misc{zhang2018crown," in text
        (True, True)
    """
    runs = list(getattr(found, "runs", {"": found}).values())
    one = runs[0]
    radii = sorted({run.template.eps for run in runs if run.template.eps is not None})
    norms = ", ".join(dict.fromkeys(f"${_NORMS[norm_name(run.template.norm)]}$" for run in runs))
    images = " and ".join(
        dict.fromkeys(f"the first {run.tally.images:,} images of {_escaped(run.data)}" for run in runs)
    )
    models = ", ".join(dict.fromkeys(_escaped(run.model) for run in runs))
    asked = (
        "Robust accuracy is reported as an interval: its lower end counts the images for which robustness is proven in "
        f"the whole ball ({norms}, radius {', '.join(map(radius_text, radii))}), its upper end those for which no "
        "attack succeeded."
        if radii else f"For each image the smallest {norms} distance to another class is reported as an interval of a "
        "proven lower bound and the distance of an input that the model itself misclassifies."
    )  # fmt: skip
    box = f"Inputs lie in $[{one.template.lower:g}, {one.template.upper:g}]$; a tie counts against the network."
    steps = (
        "Bounds are CROWN's~\\cite{zhang2018crown} and those of optimised slopes~\\cite{xu2021alphacrown}; attacks are "
        "automatic projected gradient descent~\\cite{croce2020apgd} and minimum-norm searches; what stays open is "
        "given to branch and bound~\\cite{wang2021betacrown}."
        if one.template.methods == "all" else f"Only {one.template.methods} methods are used."
    )  # fmt: skip
    spent = sum(run.tally.seconds for run in runs)
    versions = ", ".join(f"{name} {version}" for name, version in one.versions.items() if name in ("clinch", "torch"))
    time = (
        f"All runs together took {math.ceil(spent)}~s ({versions}; bounds in float64, every attack checked by the "
        "model itself)."
    )
    used = [_named(name) for name in ("apgd", "crown", "alpha_crown")]
    text = f"We evaluate {models} on {images} with Clinch~\\cite{{clinch}}. {asked} {box} {steps} {time}"
    return text + "\n\n" + cite([*used, "branch_and_bound"]) + "\n"


def _named(name: str) -> object:
    from clinch import attacks, bounds  # heavy, and only to be cited

    return getattr(attacks, name, None) or getattr(bounds, name)
