"""A run on disk, read again without its model: what :func:`clinch.study.evaluate` found, and the inputs it kept.

The file is opened for reading only, and its content is checked before it is believed: it may come from a stranger.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from sys import intern
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clinch.errors import ProblemError
from clinch.io.data import DataError
from clinch.study.evaluation import Evaluation, Tally
from clinch.study.sources import Source, is_named, open_source
from clinch.study.store import COLUMNS, FILE, MOST_TEXT, PATIENCE, VERSION, Row, StoreError, guard
from clinch.study.template import STATUSES, Template

#: what a run says about itself
REQUIRED = (
    "version",
    "model",
    "model_hash",
    "data",
    "data_hash",
    "problem",
    "problem_hash",
    "template",
    "images",
    "versions",
    "input_shape",
    "dtype",
)
#: elements of an input that are read at most, a picture of 2896 by 2896
MOST_ELEMENTS = 2**23
#: images that a run may be about, and rows that are read of it: a file may state any number
MOST_IMAGES, MOST_ROWS = 10**7, 2**19
#: images without a row below one that has it, where fewer were asked for
LEEWAY = 10_000
#: texts by which a run says what it is about
MOST_FACTS = 100
#: how an error says what to do
_ADVICE = "Name the folder given to clinch evaluate as --out"
_KINDS: dict[str, type | tuple[type, ...]] = {
    "image": int, "label": int, "status": str, "value": (int, float), "bound": (int, float), "margin": (int, float),
    "proof": str, "method": str, "error": str, "passes": int, "seconds": (int, float),
    "size": (int, float), "first_order": (int, float), "class_found": int,
}  # fmt: skip
_OPTIONAL = ("label", "value", "bound", "margin", "proof", "error", "size", "first_order", "class_found")


@dataclass(frozen=True)
class Run(Evaluation):
    """An :class:`Evaluation` that was read from disk, with access to the inputs that were found.

    Attributes:
        path: of the file.
        identity: what the run says about itself: names and hashes of model, data and problem, shape and dtype.
    """

    path: Path = field(default=Path(FILE))
    identity: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input of the model."""
        return tuple(int(n) for n in self.identity["input_shape"].split(",") if n)

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's inputs."""
        return getattr(torch, self.identity["dtype"])

    def inputs(self, images: Sequence[int]) -> Iterator[Tensor | None]:
        """The inputs found for these images, one after the other, each ``input_shape``; None where there is none.

        Raises:
            StoreError: the file cannot be read any more.
        """
        one = torch.empty(0, dtype=self.dtype)
        size = math.prod(self.input_shape) * one.element_size()
        with _reading(self.path) as database:
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, size + MOST_TEXT)
            for image in images:
                # anything else than an input's bytes, or an input that is none, is left out, the first without a look
                row = database.execute(
                    "SELECT found FROM results WHERE image = ? AND typeof(found) = 'blob' AND length(found) = ?",
                    (image, size),
                ).fetchone()
                x = None if row is None else torch.from_numpy(np.frombuffer(row[0], dtype=one.numpy().dtype).copy())
                yield None if x is None or not bool(x.isfinite().all()) else x.reshape(self.input_shape)

    def found(self, images: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The inputs that were found for these images, in one tensor.

        Args:
            images: N places in the data.

        Returns:
            Inputs ``(N, *input_shape)``, zeros where there is none, and ``(N,)`` whether there is one.

        Raises:
            StoreError: the file cannot be read any more.
        """
        x = torch.zeros((len(images), *self.input_shape), dtype=self.dtype)
        there = torch.zeros(len(images), dtype=torch.bool)
        for b, one in enumerate(self.inputs(images)):
            if one is not None:
                x[b], there[b] = one, True
        return x, there

    def source(self, data: Any = None) -> Source:
        """The data that the run is about, read again.

        Args:
            data: see :func:`clinch.study.open_source`; None: the data set that the run names, such as ``mnist``. A file
                or folder is the caller's to name: a run may be a stranger's, who does not choose what is read here.

        Raises:
            DataError: it is not there, or not named, or its hash is not the run's.
        """
        named = self.identity["data"]
        if data is None and not is_named(named):
            raise DataError(
                f"The run is about '{named:.100}', a file or folder, which only you can name: "
                "write --data with its path (data= in Python)."
            )
        source = open_source(named if data is None else data)
        if source.hash != self.identity["data_hash"]:
            raise DataError(f"{source.name} is not the data of this run: its content differs. Name the right data.")
        return source


def runs_below(folder: Path) -> list[Path]:
    """The folders of runs in a folder, as ``clinch evaluate`` makes them of several models; a run's own is itself."""
    below = sorted(path.parent for path in folder.glob(f"*/{FILE}")) if not (folder / FILE).exists() else []
    return below or [folder]


def open_run(path: str | Path) -> Run:
    """Read a run of :func:`clinch.study.evaluate` from disk; nothing is written, and the model is not needed.

    Its time is the sum of the images'.

    Args:
        path: the folder of the run, or the file ``results.sqlite`` in it.

    Raises:
        StoreError: there is no run, another file, one of another version, a damaged one, or one without any result.

    Example:
        >>> run = cl.study.open_run("run")
        >>> run.interval, run.found([0, 1])[0].shape
        ((1.0, 1.0), torch.Size([2, 8, 8]))
    """
    file = Path(path)
    file = file if file.is_file() else file / FILE
    if not file.is_file():
        raise StoreError(f"There is no run in {path}: it has no file {FILE}. {_ADVICE}.")
    with _reading(file) as database:
        identity = dict(database.execute("SELECT key, value FROM study LIMIT ?", (MOST_FACTS,)))
        _check_identity(identity, file)
        rows = tuple(_rows(database, file))
    if not rows:
        raise StoreError(f"The run {path} has no result yet. Run clinch evaluate with this folder as --out first.")
    counts = {status: sum(row.status == status for row in rows) for status in STATUSES}
    images, notes, versions, settings = _facts(identity, rows, file)
    tally = Tally(images, {s: n for s, n in counts.items() if n}, math.fsum(row.seconds for row in rows))
    names = identity["model"], identity["data"]
    return Run(_template(identity, file), *names, tally, rows, notes, versions, settings, path=file, identity=identity)


@contextmanager
def _reading(file: Path) -> Iterator[sqlite3.Connection]:
    """The file, for reading; SQLite's errors in one line."""
    database = None
    try:
        database = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=PATIENCE)
        try:
            guard(database)
        except StoreError as error:
            raise StoreError(f"{file} is no run of clinch evaluate: {error}. {_ADVICE}.") from None
        yield database
    except (sqlite3.Error, UnicodeDecodeError) as error:
        # what SQLite says of a damaged file may quote bytes that are no text
        text = str(error)
        hint = _ADVICE
        if "locked" in text:
            hint = "Another process writes to it: try again when it has finished"
        elif "interrupted" in text:
            text = "reading it does not come to an end"
        elif "readonly" in text or "unable to open" in text:
            hint = "It was killed while it wrote: run the same clinch evaluate again, which puts it in order"
        raise StoreError(f"Cannot read {file} as a run: {text}. {hint}.") from None
    finally:
        if database is not None:
            database.close()


def _check_identity(identity: Mapping[str, Any], file: Path) -> None:
    missing = [key for key in REQUIRED if not isinstance(identity.get(key), str)]
    if missing:
        raise StoreError(f"{file} is no run of clinch evaluate: it does not say its {', '.join(missing)}. {_ADVICE}.")
    if identity["version"] != VERSION:
        raise StoreError(
            f"{file} has tables of version {identity['version']}, this Clinch reads {VERSION}. Make the run again."
        )
    shape, dtype = identity["input_shape"], identity["dtype"]
    sizes = [int(n) for n in shape.split(",") if n] if re.fullmatch(r"(\d{1,9},?){0,8}", shape) else [0]
    if dtype not in ("float16", "float32", "float64") or not 0 < math.prod(sizes) <= MOST_ELEMENTS:
        raise StoreError(f"{file} is damaged: inputs of shape '{shape}' and dtype '{dtype}'. {_ADVICE}.")


def _rows(database: sqlite3.Connection, file: Path) -> Iterator[Row]:
    """Rows by image, each checked: SQLite's columns hold whatever was put there, and a damaged tree has rows again."""
    known: set[tuple[type, ...]] = set()
    before = -1
    for number, values in enumerate(database.execute(f"SELECT {', '.join(COLUMNS)} FROM results ORDER BY image")):
        kinds = tuple(map(type, values))
        row = Row(*values)
        if kinds not in known:
            _check_kinds(row, file)
            known.add(kinds)
        if row.status not in STATUSES:
            raise StoreError(f"{file} is damaged: image {row.image} has status {row.status!r:.40}. {_ADVICE}.")
        if not before < row.image < MOST_IMAGES or number >= MOST_ROWS:
            raise StoreError(
                f"{file} is damaged, or too large: its image {row.image} follows image {before}; at most {MOST_ROWS:,} "
                f"images in rising order, each below {MOST_IMAGES:,}, are read. {_ADVICE}."
            )
        before = row.image
        # one text for all rows that have it
        yield row._replace(status=intern(row.status), method=intern(row.method))


def _check_kinds(row: Row, file: Path) -> None:
    for name, kind in _KINDS.items():
        value = getattr(row, name)
        if not (isinstance(value, kind) or (value is None and name in _OPTIONAL)):
            raise StoreError(f"{file} is damaged: image {row.image} has {name} {value!r:.40}. {_ADVICE}.")


def _template(identity: Mapping[str, str], file: Path) -> Template:
    try:
        return Template.from_json(identity["template"])
    except ProblemError as error:
        raise StoreError(f"{file} is damaged: {error} {_ADVICE}.") from None


def _facts(
    identity: Mapping[str, str], rows: Sequence[Row], file: Path
) -> tuple[int, tuple[str, ...], dict[str, str], dict[str, Any]]:
    """How many images were asked for last, but at least those that have a row; notes; versions; settings."""
    try:
        images = int(identity["images"][:18])
        notes = json.loads(identity.get("notes", "[]"))
        versions = json.loads(identity["versions"])
        settings = json.loads(identity.get("settings", "{}"))
        if not 1 <= images <= MOST_IMAGES or not isinstance(notes, list):
            raise ValueError
        if not isinstance(versions, dict) or not isinstance(settings, dict):
            raise ValueError
    except (ValueError, RecursionError):
        raise StoreError(f"{file} is damaged: images, notes, versions or settings cannot be read. {_ADVICE}.") from None
    last = rows[-1].image
    # an earlier call may have asked for more, and workers end out of order: then most of those below have rows
    if last >= max(images, 2 * len(rows) + LEEWAY):
        raise StoreError(
            f"{file} is damaged: {len(rows):,} of {images:,} images have a row, among them {last}. {_ADVICE}."
        )
    return max(images, last + 1), tuple(map(str, notes)), {str(k): str(v) for k, v in versions.items()}, settings
