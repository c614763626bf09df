"""What the page of several runs shows: their measures side by side, and the images that they do not agree on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clinch.io.files import printable
from clinch.study.columns import columns, heads_of
from clinch.study.figures.certified import norm_name
from clinch.study.report.charts import ORDER, stacked
from clinch.study.report.content import MOST_CLASSES, MOST_ROWS, class_name, digits, renamed
from clinch.study.runs import Run
from clinch.study.store import Row
from clinch.study.template import radius_text

AGREE, DIFFER = "same", "differs"


def content_of_several(
    runs: Sequence[Run], title: str, names: Sequence[str], pages: Sequence[str | None]
) -> dict[str, Any]:
    """Everything that the template needs; images stand beside each other where all runs are of the same data."""
    names = [printable(name) for name in names]
    shown = [_run(run, name, page) for run, name, page in zip(runs, run_names(runs), pages)]
    one_data = len({run.identity["data_hash"] for run in runs}) == 1
    rows = _images(runs, names) if one_data else []
    notes = [] if one_data else ["The runs are of several data sets, so that their images cannot be set side by side."]
    if len(rows) > MOST_ROWS:
        notes.append(f"The table has the first {MOST_ROWS:,} of {len(rows):,} images that all runs have.")
    labels = dict.fromkeys(row.label for run in runs for row in run.rows if row.label is not None)
    return {
        "title": printable(title), "lead": _lead(runs), "runs": shown, "heads": heads_of([r["cells"] for r in shown]),
        "order": [status for status in ORDER if any(run.tally.counts.get(status) for run in runs)],
        "rows": rows[:MOST_ROWS], "statuses": [DIFFER, AGREE], "notes": notes,
        "labels": [{"label": y, "name": class_name(y, names)} for y in sorted(labels)[:MOST_CLASSES]],
    }  # fmt: skip


def run_names(runs: Sequence[Run]) -> list[str]:
    """What tells each run from the others: its model, and whatever else is not the same in all."""
    facts = [(run.model, run.data, norm_name(run), _radius(run), run.template.methods) for run in runs]
    told = [i for i in range(len(facts[0])) if i == 0 or len({fact[i] for fact in facts}) > 1]
    return [printable(", ".join(fact[i] for i in told)) for fact in facts]


def _radius(run: Run) -> str:
    return "distances" if run.template.eps is None else f"eps {radius_text(run.template.eps)}"


def _lead(runs: Sequence[Run]) -> str:
    """What all runs have in common."""
    common = [{part(run) for run in runs} for part in (lambda r: r.data, norm_name, _radius)]
    return printable(f"{len(runs)} runs; " + ", ".join(one for each in common if len(each) == 1 for one in each))


def _run(run: Run, name: str, page: str | None) -> dict[str, Any]:
    parts = stacked(run.tally.counts, run.tally.images)
    return {
        "name": name, "page": page, "parts": parts, "cells": renamed(columns(run)),
        "text": ", ".join(f"{part['count']} {part['status']}" for part in parts),
    }  # fmt: skip


def _images(runs: Sequence[Run], names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each image that every run has."""
    by_image = [{row.image: row for row in run.rows} for run in runs]
    everywhere = sorted(set.intersection(*(set(one) for one in by_image)))
    return [_line(image, [one[image] for one in by_image], names) for image in everywhere]


def _line(image: int, rows: Sequence[Row], names: Sequence[str]) -> dict[str, Any]:
    label = rows[0].label
    cells = [
        {"status": row.status, "text": row.status if row.value is None else f"{row.status} {digits(row.value)}"}
        for row in rows
    ]
    return {
        "image": image, "label": "" if label is None else str(label), "name": class_name(label, names), "cells": cells,
        "agreement": AGREE if len({row.status for row in rows}) == 1 else DIFFER,
    }  # fmt: skip
