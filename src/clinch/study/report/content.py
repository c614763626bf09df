"""What the page says, as plain values: the template turns them into markup and escapes every one."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from clinch.figures.inputs import is_image, pixels
from clinch.io.files import printable
from clinch.runtime.optional import required
from clinch.study.columns import class_rows, columns
from clinch.study.examples import Example, examples_of
from clinch.study.figures.certified import norm_name
from clinch.study.figures.gallery import magnification
from clinch.study.report.charts import curve_chart, distance_bar, stacked
from clinch.study.runs import Run
from clinch.study.store import Row
from clinch.study.template import norm_name as written_norm

#: colours of elements that were raised and lowered; legible on light and dark ground
RAISED, LOWERED = (226, 98, 16), (42, 136, 208)
#: height of the picture of an input that is no image, in pixels; its widest
STRIP, WIDEST = 24, 512


def input_picture(x: np.ndarray, low: float, high: float) -> str:
    """An input as a data URI: dark for high values where it is grey, so that the page can turn it round in the dark.

    Args:
        x: ``(H, W)``, ``(1, H, W)`` or ``(3, H, W)``; anything else is drawn as a strip, one column per element.
        low: smallest value of an element; high: largest.
    """
    shown = ((_plane(x) - low) / (high - low)).clip(0, 1)
    return _png(255 - _bytes(shown) if shown.ndim == 2 else _bytes(shown))


def difference_picture(delta: np.ndarray) -> str:
    """A difference as a data URI: as opaque as it is large against the largest one; of colours the mean."""
    shown = _plane(delta, signed=True)
    share = np.abs(shown) / max(float(np.abs(shown).max()), 1e-300)
    colour = np.where((shown > 0)[..., None], np.array(RAISED), np.array(LOWERED))
    return _png(np.concatenate([colour.astype(np.uint8), _bytes(share)[..., None]], axis=-1))


def _plane(x: np.ndarray, *, signed: bool = False) -> np.ndarray:
    """``(H, W)`` or ``(H, W, 3)``; of an input that is no image its elements beside each other."""
    if is_image(x.shape):
        # the range is applied by the caller
        return pixels(x, 0.0, 1.0, signed=signed)
    flat = x.reshape(1, -1)
    return np.repeat(flat[:, : STRIP * WIDEST], STRIP, axis=0)


def _bytes(shares: np.ndarray) -> np.ndarray:
    return np.rint(255 * shares).astype(np.uint8)


def _png(content: np.ndarray) -> str:
    images = required("PIL.Image", "report")

    stream = io.BytesIO()
    images.fromarray(content).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


#: examples of both ends
HARDEST, EASIEST = 12, 6
#: rows of the table at most; more would make the page slow to open
MOST_ROWS = 10_000
#: classes of the table of classes at most
MOST_CLASSES = 1000
#: relative difference between a stored distance and that of the stored input from which on the page says so
AGREEMENT = 1e-4
#: how the columns of measures are called on the page
HEADS = {"rho1": "ρ̂₁", "rho2": "ρ̂₂", "eps 99 %": "ε₉₉"}


def content_of(run: Run, title: str, names: Sequence[str], data: Any) -> dict[str, Any]:
    """Everything that the template needs."""
    examples = examples_of(run, HARDEST, EASIEST, data=data)
    names = [printable(name) for name in names]
    notes = [*run.notes, *_disagreements(run, examples.hardest)]
    shown = run.rows[:MOST_ROWS]
    if len(run.rows) > len(shown):
        notes.append(f"The table has the first {len(shown):,} of {len(run.rows):,} images; clinch evaluate --table "
                     "writes all.")  # fmt: skip
    labels = len({row.label for row in run.rows} - {None})
    if labels > MOST_CLASSES:
        notes.append(f"The table of classes has the first {MOST_CLASSES:,} of {labels:,}.")
    parts = stacked(run.tally.counts, run.tally.images)
    return {
        "title": printable(title), "lead": f"{_question(run)}; {run.tally.images:,} images", "norm": norm_name(run),
        "eps": run.template.eps,
        "at_radius": run.template.eps is not None, "images": run.tally.images,
        "unseen": run.tally.images - run.tally.seen, "complaint": printable(examples.complaint),
        "headline": _headline(run), "overall": parts, "measures": renamed(columns(run)), "curve": curve_chart(run),
        "hardest": _cards(run, examples.hardest, names), "easiest": _cards(run, examples.easiest, names),
        "classes": _classes(run, names), "columns": _columns(run.template.eps is not None),
        "rows": [_line(row, run.template.eps is not None, names) for row in shown],
        "statuses": [part["status"] for part in parts],
        "labels": [{"label": y, "name": class_name(y, names)} for y in run.classes(MOST_CLASSES)],
        "notes": [printable(note) for note in notes], "settings": _settings(run),
    }  # fmt: skip


def digits(number: float | None, precision: int = 4) -> str:
    """A number for people; nothing where there is none.

    Example:
        >>> digits(0.123456), digits(None), digits(float("inf"))
        ('0.1235', '', '∞')
    """
    if number is None:
        return ""
    return "∞" if number == math.inf else f"{number:.{precision}g}".replace("-", "−")


def _headline(run: Run) -> dict[str, Any]:
    """The interval of robust accuracy in percent, or means and medians of distances and bounds."""
    if run.template.eps is not None:
        low, high = (f"{100 * share:.2f}" for share in run.interval)
        return {"low": low, "high": high, "met": run.interval[0] == run.interval[1]}
    found = run.distances()
    texts = {name: digits(number) for name, number in found.items() if name not in ("count", "mean_gap")}
    return {"count": found["count"], "gap": f"{100 * found.get('mean_gap', 0.0):.2g}", **texts}


def _question(run: Run) -> str:
    """The problem as a sentence begins."""
    text = run.template.text.replace(f" {written_norm(run.template.norm)} ", f" {norm_name(run)} ")
    return text[:1].upper() + text[1:]


def renamed(row: dict[str, str]) -> dict[str, str]:
    """Measures as the page writes them: :data:`HEADS`, and intervals with a dash."""
    return {HEADS.get(name, name): text.replace(" .. ", " – ").replace("inf", "∞") for name, text in row.items()}


def class_name(label: int | None, names: Sequence[str]) -> str:
    """The name of a label; the label itself where it has none."""
    if label is None:
        return "?"
    return names[label] if 0 <= label < len(names) else str(label)


def _cards(run: Run, examples: Sequence[Example], names: Sequence[str]) -> list[dict[str, Any]]:
    """Cards whose bars share one scale."""
    ends = [end for e in examples for end in (e.row.value, e.row.bound) if end is not None and math.isfinite(end)]
    reach = max([run.template.eps or 0.0, *ends])
    return [_card(run, example, names, reach) for example in examples]


def _card(run: Run, example: Example, names: Sequence[str], reach: float) -> dict[str, Any]:
    """One image with its pictures, distances and bar."""
    row, low, high = example.row, run.template.lower, run.template.upper
    card: dict[str, Any] = {
        "image": row.image, "name": class_name(row.label, names), "status": row.status,
        "value": digits(row.value), "bound": digits(row.bound), "margin": digits(row.margin),
        "bar": distance_bar(row.value, row.bound, reach), "reach": digits(reach),
        "pictures": [], "distances": [],
    }  # fmt: skip
    for word, x in (("original", example.original), ("found", example.found)):
        if x is not None:
            card["pictures"].append({"word": word, "kind": _kind(x), "uri": input_picture(x, low, high)})
    if example.original is not None and example.found is not None:
        delta = example.found - example.original
        word = f"change × {magnification(delta, low, high)}"
        card["pictures"].append({"word": word, "kind": f"difference {_kind(delta)}", "uri": difference_picture(delta)})
        sizes = {"ℓ∞": np.abs(delta).max(), "ℓ₂": np.sqrt((delta**2).sum()), "ℓ₁": np.abs(delta).sum(),
                 "ℓ₀": (delta != 0).sum()}  # fmt: skip
        card["distances"] = [{"name": name, "text": digits(float(size), 3)} for name, size in sizes.items()]
    return card


def _kind(x: np.ndarray) -> str:
    """How a picture is shown: in colour as it is, grey on the page's ground, a strip where it is no image."""
    if not is_image(x.shape):
        return "grey strip"
    return "colour" if x.ndim == 3 and x.shape[0] == 3 else "grey"


def _disagreements(run: Run, examples: Sequence[Example]) -> list[str]:
    """A sentence where a stored distance is not that of the stored input."""
    measure = {np.inf: lambda d: np.abs(d).max(), 0.0: lambda d: (d != 0).sum(), 1.0: lambda d: np.abs(d).sum(),
               2.0: lambda d: np.sqrt((d**2).sum())}[run.template.norm]  # fmt: skip
    wrong = [
        str(e.row.image) for e in examples
        if e.original is not None and e.found is not None and e.row.value is not None
        and not math.isclose(measure(e.found - e.original), e.row.value, rel_tol=AGREEMENT)
    ]  # fmt: skip
    return [f"The stored distance is not that of the stored input at image {', '.join(wrong)}."] if wrong else []


def _classes(run: Run, names: Sequence[str]) -> dict[str, Any]:
    """Heads and rows of the table of classes: a bar of statuses and every measure."""
    rows = []
    for (label, found), texts in zip(run.classes(MOST_CLASSES).items(), class_rows(run, MOST_CLASSES)):
        tally = found.tally
        parts = stacked(tally.counts, tally.images)
        cells = renamed({name: text for name, text in texts.items() if name != "class"})
        rows.append({
            "label": label, "name": class_name(label, names), "parts": parts, "cells": cells,
            "text": ", ".join(f"{part['count']} {part['status']}" for part in parts),
        })  # fmt: skip
    heads = list(dict.fromkeys(name for row in rows for name in row["cells"]))
    return {"heads": heads, "rows": rows}


def _columns(at_radius: bool) -> list[dict[str, Any]]:
    """Headings, and whether a column holds numbers."""
    middle = ["distance", "margin ≥"] if at_radius else ["distance ≤", "distance ≥", "gap %"]
    numbers = {"image", *middle, "seconds"}
    heads = ["image", "class", "status", *middle, "method", "seconds", "error"]
    return [{"name": name, "number": name in numbers} for name in heads]


def _line(row: Row, at_radius: bool, names: Sequence[str]) -> dict[str, Any]:
    """Cells of one row of the table, in the order of :func:`_columns`."""
    if at_radius:
        middle = [digits(row.value), digits(row.margin)]
    else:
        gap = ""
        if row.value and row.bound is not None and math.isfinite(row.bound) and math.isfinite(row.value):
            gap = f"{100 * max(0.0, row.value - row.bound) / row.value:.3g}"
        middle = [digits(row.value), digits(row.bound), gap]
    cells = [str(row.image), class_name(row.label, names), row.status, *middle, printable(row.method),
             digits(row.seconds, 3), printable(row.error or "")]  # fmt: skip
    return {"label": "" if row.label is None else str(row.label), "status": row.status, "cells": cells}


def _settings(run: Run) -> list[tuple[str, str]]:
    identity, asked = run.identity, run.template
    shape = " × ".join(identity["input_shape"].split(","))
    pairs = [
        ("problem", asked.text), ("methods", asked.methods), ("model", run.model),
        ("hash of the model", identity["model_hash"]), ("data", run.data), ("hash of the data", identity["data_hash"]),
        ("hash of the problem", identity["problem_hash"]), ("inputs", f"{shape}, {identity['dtype']}"),
        ("images", f"{run.tally.images:,}"), ("time", f"{run.tally.seconds:,.1f} s, all images together"),
        ("versions", ", ".join(f"{name} {version}" for name, version in run.versions.items())),
    ]  # fmt: skip
    return [(name, printable(text)) for name, text in pairs]
