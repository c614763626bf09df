"""Results of a study in one SQLite file that survives being killed at any moment.

One row per image, one transaction per result; the images of one batch are computed together and are one result, so
that a kill costs the batches in work, or in the search the image. Only one process writes, whoever computes. What was
committed stays, what was not is computed again: :func:`clinch.study.evaluate` cuts its batches at fixed places, so that
a resumed study ends with the rows of an uninterrupted one. Hashes of the model, of the data and of the problem template
stand in the file, and a study that differs in one of them is refused.
"""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from clinch.errors import ClinchError
from clinch.io.files import cell, replacing
from clinch.runtime.optional import required

#: the file inside the folder of a run
FILE = "results.sqlite"
#: version of the tables; a file of another version is refused
VERSION = "3"
#: seconds to wait for another process that writes
PATIENCE = 10.0

#: bytes of a text or number of a run at most; the inputs found are read with a limit of their own
MOST_TEXT = 2**20

_TABLES = """
CREATE TABLE IF NOT EXISTS study (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS results (
    image INTEGER PRIMARY KEY, label INTEGER, status TEXT NOT NULL, value REAL, bound REAL, margin REAL, proof TEXT,
    method TEXT NOT NULL, error TEXT, passes INTEGER NOT NULL,
    seconds REAL NOT NULL, size REAL, first_order REAL, class_found INTEGER,
    found BLOB
);
"""


#: what a run may take to read, in steps of SQLite's machine: far more than the largest one needs
MOST_STEPS = 4 * 10**8
_PACE = 10**5


class StoreError(ClinchError):
    """A run that cannot be read, written or continued; says why and what to do instead."""


def guard(database: sqlite3.Connection) -> None:
    """Refuse a file whose schema is not, letter by letter, the one that is written here; limit what reading may take.

    A view, a trigger, an index on an expression or a generated column is a program of the file's author, which may take
    all time and memory; a damaged tree of pages may never end.

    Raises:
        StoreError: other tables than a run's, or of another form.
        sqlite3.Error: no database.
    """
    left = iter(range(MOST_STEPS // _PACE))
    database.set_progress_handler(lambda: next(left, None) is None, _PACE)
    database.execute("PRAGMA trusted_schema=OFF")
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_TEXT)
    found = database.execute("SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT 10").fetchall()
    with closing(sqlite3.connect(":memory:")) as ours:
        ours.executescript(_TABLES)
        wanted = ours.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
    if sorted(map(repr, found)) != sorted(map(repr, wanted)):
        raise StoreError("it has not the tables of a run of clinch evaluate, or others besides them")


class Row(NamedTuple):
    """What is known about one image.

    Attributes:
        image: its place in the data, from 0.
        label: its class; None where the image could not be read.
        status: one of :data:`clinch.study.template.STATUSES`.
        value: distance of the nearest input found that is not given the label; None: none was found.
        bound: proven: no such input is nearer; for a radius, the radius itself where the image is robust; infinity
            where no input in the range has another class; None: nothing is proven.
        margin: proven lower limit of the label's output minus the largest other one over the ball; None: not bounded.
        proof: what the bound rests on, by the name of :class:`clinch.Proof`.
        method: the last method that decided or improved it.
        error: why the image failed; None elsewhere.
        passes: how many passes over all images it has been through; an open image goes on with the next one.
        seconds: spent on it, its share of a batch included.
        size: ‖x₀‖_p of the image itself, in the norm of the question.
        first_order: :func:`clinch.attacks.first_order_radius` of the image; 0 where it is misclassified; None where it
            was not computed.
        class_found: the class, besides the label, that the model prefers at the input of ``value``; None without one.
        found: the input of ``value``, the bytes of its elements in the model's dtype; None unless it was asked for.
    """

    image: int
    label: int | None
    status: str
    value: float | None = None
    bound: float | None = None
    margin: float | None = None
    proof: str | None = None
    method: str = ""
    error: str | None = None
    passes: int = 0
    seconds: float = 0.0
    size: float | None = None
    first_order: float | None = None
    class_found: int | None = None
    found: bytes | None = None


#: columns that tables have: everything but the inputs
COLUMNS = tuple(name for name in Row._fields if name != "found")


class Store(AbstractContextManager["Store"]):
    """The results of one study.

    Args:
        folder: of the run; made where it does not exist. None: in memory, for one process.
        identity: what the study is about: texts and hashes by name. A file that holds other hashes is refused.
        create: whether a folder without results is given an empty file.

    Raises:
        StoreError: the folder cannot be written, the file is none of Clinch's, or belongs to another study.

    Example:
        >>> with Store(None, {"model_hash": "a1"}) as store:
        ...     store.put([Row(0, 7, "robust")])
        ...     store.counts()
        {'robust': 1}
    """

    def __init__(
        self, folder: str | Path | None, identity: Mapping[str, str] | None = None, *, create: bool = True
    ) -> None:
        self.path = None if folder is None else Path(folder) / FILE
        if self.path is not None and not create and not self.path.is_file():
            raise StoreError(f"There is no run in {folder}: it has no file {FILE}. Name the folder given as --out.")
        self._made(folder)
        self._database: sqlite3.Connection | None = None
        try:
            with self._errors():
                self._database = sqlite3.connect(self.path or ":memory:", timeout=PATIENCE, isolation_level=None)
                self._database.execute("PRAGMA synchronous=FULL")
                if self._database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
                    self._checked()
                else:  # all tables or, where the process dies in between, none
                    self._database.executescript(f"BEGIN IMMEDIATE;{_TABLES}COMMIT;")
                if identity is not None:
                    self._agree({"version": VERSION, **identity})
        except BaseException:
            self.close()
            raise

    def _checked(self) -> None:
        """A file that is there may be a stranger's; what it holds is then limited no more: it is this study's own."""
        database = self._open
        length = database.getlimit(sqlite3.SQLITE_LIMIT_LENGTH)
        try:
            guard(database)
        except StoreError as error:
            raise StoreError(f"Cannot use {self.path}: {error}. Name another folder with --out.") from None
        database.set_progress_handler(None, 0)
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, length)

    def _made(self, folder: str | Path | None) -> None:
        if folder is None:
            return
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"Cannot make the folder {folder}: {error.strerror}. Name another with --out.") from None

    def _agree(self, identity: Mapping[str, str]) -> None:
        """Write what the study is about, or compare it with what the file says."""
        held = self.identity
        with self._transaction() as database:
            for key, value in identity.items():
                if key not in held:
                    database.execute("INSERT OR IGNORE INTO study VALUES (?, ?)", (key, value))
        other = [key for key in identity if key in held and (key.endswith("_hash") or key == "version")]
        for key in other:
            if held[key] != identity[key]:
                part = key.removesuffix("_hash")
                raise StoreError(
                    f"{self.path} belongs to another study: its {part} is {held.get(part, held[key])} "
                    f"({held[key][:12]}), this one's is {identity.get(part, identity[key])} ({identity[key][:12]}). "
                    "Name another folder with --out, or ask for the same study."
                )

    def say(self, facts: Mapping[str, str]) -> None:
        """Write further texts about the study by name, in place of what was said before."""
        with self._transaction() as database:
            database.executemany("INSERT OR REPLACE INTO study VALUES (?, ?)", facts.items())

    # --- reading ------------------------------------------------------------------------------------------------------

    @property
    def identity(self) -> dict[str, str]:
        """What the study is about: texts and hashes by name."""
        with self._errors():
            return dict(self._open.execute("SELECT key, value FROM study"))

    def rows(self, limit: int | None = None, status: str | None = None) -> Iterator[Row]:
        """Rows by image, without the inputs.

        Args:
            limit: images before this place only.
            status: rows of this status only.
        """
        where = "WHERE image < ? AND (? IS NULL OR status = ?) ORDER BY image"
        bound = 2**62 if limit is None else limit
        with self._errors():
            cursor = self._open.execute(f"SELECT {', '.join(COLUMNS)} FROM results {where}", (bound, status, status))
            for values in cursor:
                yield Row(*values)

    def found(self, image: int) -> bytes | None:
        """The input found for an image, as it was put."""
        with self._errors():
            row = self._open.execute("SELECT found FROM results WHERE image = ?", (image,)).fetchone()
        return None if row is None else row[0]

    def images(self, limit: int | None = None) -> set[int]:
        """Places of the images that have a row."""
        with self._errors():
            bound = 2**62 if limit is None else limit
            return {image for (image,) in self._open.execute("SELECT image FROM results WHERE image < ?", (bound,))}

    def counts(self, limit: int | None = None) -> dict[str, int]:
        """Number of rows of each status."""
        with self._errors():
            bound = 2**62 if limit is None else limit
            query = "SELECT status, COUNT(*) FROM results WHERE image < ? GROUP BY status ORDER BY status"
            return dict(self._open.execute(query, (bound,)))

    # --- writing ------------------------------------------------------------------------------------------------------

    def put(self, rows: Sequence[Row]) -> None:
        """Write rows in one transaction: all of them or, where the process dies, none. Older rows are replaced.

        Raises:
            StoreError: the disk is full or the file cannot be written; what was there before stays.
        """
        marks = ", ".join("?" * len(Row._fields))
        with self._transaction() as database:
            database.executemany(f"INSERT OR REPLACE INTO results VALUES ({marks})", rows)

    def export(self, target: str | Path, limit: int | None = None) -> None:
        """Write the rows, without the inputs, as a table: see :func:`write_table`."""
        write_table(target, self.rows(limit))

    def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- transactions and errors --------------------------------------------------------------------------------------

    @property
    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            raise StoreError("This store is closed. Open the run again.")
        return self._database

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors():
            database = self._open
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                # a full disk has ended the transaction already
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's errors in one line that says what to do."""
        try:
            yield
        except (sqlite3.Error, UnicodeDecodeError) as error:
            # what SQLite says of a damaged file may quote bytes that are no text
            where, text = self.path or "the store", str(error)
            hints = {
                "full": "Make room and run the same command again: it goes on where it stopped",
                "locked": "Another process writes to it: wait for it, or name another folder with --out",
                "not a database": "It is no run of Clinch: name another folder with --out",
                "malformed": "The file is damaged: name another folder with --out",
            }
            hint = next((h for word, h in hints.items() if word in text), "Name another folder with --out")
            raise StoreError(f"Cannot use {where}: {text}. {hint}.") from None


def checked_table(target: str | Path) -> Path:
    """The path of a table, its ending and what it needs checked before work is spent.

    Raises:
        StoreError: neither ``.csv`` nor ``.parquet``, or ``pyarrow`` is missing.
    """
    path = Path(target)
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise StoreError(f"'{path}' has no ending of a table: write a name that ends with .csv or .parquet.")
    if path.suffix.lower() == ".parquet":
        _pyarrow()
    return path


def _pyarrow() -> Any:
    required("pyarrow.parquet", "parquet", "or write a .csv", StoreError)
    return required("pyarrow", "parquet", "or write a .csv", StoreError)


def write_table(target: str | Path, rows: Iterable[Row]) -> None:
    """Write rows, without the inputs, as ``.csv``, or as ``.parquet`` with the extra of that name.

    The file is replaced as a whole or not at all. Texts of a ``.csv`` are no formulas, see
    :func:`clinch.io.files.cell`.

    Raises:
        StoreError: another ending, a file that cannot be written, or ``pyarrow`` is missing.
    """
    path = checked_table(target)
    try:
        if path.suffix.lower() == ".csv":
            with replacing(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(COLUMNS)
                writer.writerows(map(cell, row[: len(COLUMNS)]) for row in rows)
        else:
            _write_parquet(path, rows)
    except OSError as error:
        raise StoreError(f"Cannot write {path}: {error.strerror or error}. Name another file.") from None


def _write_parquet(path: Path, rows: Iterable[Row]) -> None:
    pyarrow = _pyarrow()
    kinds = {"image": "int64", "label": "int64", "value": "float64", "bound": "float64", "margin": "float64"}
    kinds |= {"passes": "int64", "seconds": "float64", "size": "float64", "first_order": "float64"}
    schema = pyarrow.schema([(name, kinds.get(name, "string")) for name in COLUMNS])
    table = pyarrow.Table.from_pylist([dict(zip(COLUMNS, row)) for row in rows], schema=schema)
    with replacing(path) as beside:
        pyarrow.parquet.write_table(table, beside)
