"""What a study leaves on disk, and the images it reads, as targets of fuzzing."""

from __future__ import annotations

import io
import random
import sqlite3
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path

import numpy as np
import torch
from mutations import spoilt_bytes
from PIL import Image

import clinch as cl
from clinch.io.data import DataError
from clinch.study import evaluate, open_run
from clinch.study.sources import open_source

SHAPE = (1, 4, 4)
_VALUES = (
    None, -1, 0, 2**62, 1e300, float("inf"), float("nan"), "", "robust", "closed", "[]", "{}", "null", "[" * 5000,
    "9" * 5000, "1,4,4", "0", "4096,4096,4096", "float32", "\x1b[2J", "\ud7ff", b"", b"\xff" * 8, b"\0" * 16,
)  # fmt: skip
_STATEMENTS = (
    "DROP TABLE results", "DROP TABLE study", "DELETE FROM results", "ALTER TABLE results RENAME COLUMN bound TO b",
    "ALTER TABLE results RENAME TO old; CREATE VIEW results AS SELECT * FROM old",
    "ALTER TABLE results RENAME TO old; CREATE VIEW results AS SELECT * FROM results",
    "ALTER TABLE results RENAME TO old; CREATE TABLE results AS SELECT * FROM old JOIN (SELECT 1 UNION SELECT 2)",
    "ALTER TABLE study RENAME TO old; CREATE VIEW study AS WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 "
    "FROM n) SELECT key, value FROM old UNION ALL SELECT k, k FROM n",
    "PRAGMA user_version = 9", "PRAGMA journal_mode = WAL", "UPDATE results SET image = -image",
    "UPDATE study SET value = key", "UPDATE results SET found = x'00'",
)  # fmt: skip


@cache
def runs() -> list[bytes]:
    """Results of two small studies: a radius, and distances with the inputs kept."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(16, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)
    ).eval()
    x = torch.rand(4, *SHAPE)
    net, data = cl.load(model, input_shape=SHAPE), (x, model(x).argmax(1))
    found = []
    for question in ({"eps": 0.05}, {"norm": 2}):
        with tempfile.TemporaryDirectory() as folder:
            evaluate(net, data, out=folder, time_limit=1, **question)
            found.append((Path(folder) / "results.sqlite").read_bytes())
    return found


def read_run(path: Path) -> None:
    """What the commands that read a run look at."""
    run = open_run(path)
    run.found([0, 1, 2, 3])
    assert str(run) and (run.template.eps is None or run.interval)


def spoilt_run(content: bytes, rng: random.Random) -> bytes:
    """A cell, a table or a setting of the file changed by SQLite itself."""
    with closing(sqlite3.connect(":memory:")) as database:
        try:
            database.deserialize(content)
            database.execute("PRAGMA writable_schema = ON")
            if rng.random() < 0.15:
                database.executescript(rng.choice(_STATEMENTS))
            else:
                table = rng.choice(["results", "study"])
                columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
                rows = [row[0] for row in database.execute(f"SELECT rowid FROM {table} LIMIT 99")]
                database.execute(
                    f"UPDATE OR REPLACE {table} SET {rng.choice(columns)} = ? WHERE rowid = ?",
                    (rng.choice(_VALUES), rng.choice(rows)),
                )
            database.commit()
            return database.serialize()
        except (sqlite3.Error, IndexError, ValueError, MemoryError):
            return spoilt_bytes(content, rng)


# --- images ---------------------------------------------------------------------------------------------------------


def images() -> list[bytes]:
    """Pictures of several modes and formats, each under the name of a PNG: the content decides."""
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4) * 15
    pictures = [
        (Image.fromarray(grey), "PNG"),
        (Image.fromarray(grey.astype(np.uint16) * 200), "PNG"), (Image.fromarray(grey), "JPEG"),
        (Image.fromarray(grey), "BMP"), (Image.fromarray(grey), "PPM"),
    ]  # fmt: skip
    found = []
    for picture, kind in pictures:
        stream = io.BytesIO()
        picture.save(stream, kind)
        found.append(stream.getvalue())
    return found


def read_image(path: Path) -> None:
    """The image as the only one of a folder of classes; its error, as the study writes it, is raised."""
    folder = path.parent / "classes" / "0"
    folder.mkdir(parents=True, exist_ok=True)
    path.replace(folder / path.name)
    (error,) = open_source(folder.parent).read([0], SHAPE, torch.float32).errors
    if error is not None:
        if not error.startswith("DataError: ") or "\n" in error:
            raise AssertionError(error)
        raise DataError(error)
