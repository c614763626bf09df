"""The store: transactions, hashes that guard against mixing, full disks, tables."""

import csv
import importlib.util
import sqlite3

import pytest

from clinch.study.store import COLUMNS, FILE, Row, Store, StoreError

IDENTITY = {"model": "net", "model_hash": "a" * 64, "data": "digits", "data_hash": "b" * 64}
ROWS = [
    Row(0, 7, "robust", None, 0.1, 0.5, "LINEAR_RELAXATION", "CROWN", None, 1, 0.25),
    Row(1, None, "failed", method="read", error="ValueError: no image, or none, of a kind"),
    Row(3, 2, "attacked", 0.05, None, -1.0, None, "attack", None, 1, 0.5, found=b"\x00\x01"),
]


def test_rows_come_back_as_they_were_put(tmp_path):
    with Store(tmp_path / "run", IDENTITY) as store:
        store.put(ROWS[::-1])
    with Store(tmp_path / "run", IDENTITY) as store:
        assert list(store.rows()) == [row._replace(found=None) for row in ROWS]
        assert [row.image for row in store.rows(limit=3)] == [0, 1]
        assert [row.image for row in store.rows(status="failed")] == [1]
        assert store.found(3) == b"\x00\x01" and store.found(0) is None and store.found(9) is None
        assert store.images() == {0, 1, 3} and store.images(1) == {0}
        assert store.counts() == {"attacked": 1, "failed": 1, "robust": 1}
        store.put([ROWS[0]._replace(status="open")])
        assert store.counts() == {"attacked": 1, "failed": 1, "open": 1}
        assert store.identity == {"version": "3", **IDENTITY}


@pytest.mark.parametrize("part", ["model", "data"])
def test_another_study_is_refused_by_name(tmp_path, part):
    with Store(tmp_path, IDENTITY) as store:
        store.put(ROWS)
    other = {**IDENTITY, part: "another", f"{part}_hash": "c" * 64}
    with pytest.raises(StoreError, match=rf"another study: its {part} is .* this one's is another \(cccc"):
        Store(tmp_path, other)
    with Store(tmp_path, IDENTITY) as store:
        assert len(store.images()) == 3


def test_a_batch_is_written_whole_or_not_at_all(tmp_path):
    with Store(tmp_path, IDENTITY) as store:
        store.put(ROWS[:1])
        with pytest.raises(StoreError, match="NOT NULL"):
            store.put([ROWS[1], ROWS[2]._replace(status=None)])
        assert store.images() == {0}
        store.put(ROWS[1:])
        assert store.images() == {0, 1, 3}


def test_the_tables_are_made_all_at_once_or_not_at_all(tmp_path, monkeypatch):
    class Interrupted(sqlite3.Connection):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.set_authorizer(lambda action, name, *rest: (action, name) == (sqlite3.SQLITE_CREATE_TABLE, "results"))

    with monkeypatch.context() as patched:
        connect = sqlite3.connect
        patched.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **k, factory=Interrupted))
        with pytest.raises(StoreError):
            Store(tmp_path, {"model_hash": "a1"})
    with Store(tmp_path, {"model_hash": "a1"}) as store:
        store.put([Row(0, 7, "robust")])
        assert store.counts() == {"robust": 1}


def test_a_full_disk_loses_nothing_that_was_stored(tmp_path):
    with Store(tmp_path, IDENTITY) as store:
        store.put(ROWS)
        pages = store._database.execute("PRAGMA page_count").fetchone()[0]
        store._database.execute(f"PRAGMA max_page_count={pages + 1}")
        big = [Row(10 + i, 0, "attacked", found=bytes(1000)) for i in range(100)]
        with pytest.raises(StoreError, match=r"full\. Make room and run the same command again") as caught:
            store.put(big)
        assert "\n" not in str(caught.value)
        assert store.images() == {0, 1, 3}
    with Store(tmp_path, IDENTITY) as store:
        store.put(big)
        assert len(store.images()) == 103


def test_files_that_are_none_of_ours(tmp_path):
    (tmp_path / FILE).write_bytes(b"not a database, but long enough to be read as one" * 40)
    with pytest.raises(StoreError, match="no run of Clinch: name another folder"):
        Store(tmp_path, IDENTITY)
    (tmp_path / "file").write_text("a file")
    with pytest.raises(StoreError, match="Cannot make the folder"):
        Store(tmp_path / "file" / "run", IDENTITY)
    with pytest.raises(StoreError, match="There is no run in"):
        Store(tmp_path / "nowhere", create=False)


def test_another_writer_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("clinch.study.store.PATIENCE", 0.01)
    with Store(tmp_path, IDENTITY) as store:
        other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="Another process writes"):
            store.put(ROWS)
        other.execute("ROLLBACK")
        other.close()
        store.put(ROWS)


def test_csv_has_every_row_and_quotes_what_needs_it(tmp_path):
    with Store(None, IDENTITY) as store:
        store.put(ROWS)
        store.export(tmp_path / "rows.csv")
        with pytest.raises(StoreError, match="no ending of a table"):
            store.export(tmp_path / "rows.txt")
        with pytest.raises(StoreError, match="Cannot write"):
            store.export(tmp_path / "nowhere" / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert tuple(read[0]) == COLUMNS
    assert [row["status"] for row in read] == ["robust", "failed", "attacked"]
    assert read[1]["error"] == ROWS[1].error and read[1]["label"] == "" and float(read[2]["value"]) == 0.05


def test_parquet_is_written_or_says_what_is_missing(tmp_path):
    with Store(None, IDENTITY) as store:
        store.put(ROWS)
        if importlib.util.find_spec("pyarrow") is None:
            with pytest.raises(StoreError, match=r'pip install "clinch-nn\[parquet\]"'):
                store.export(tmp_path / "rows.parquet")
            return
        store.export(tmp_path / "rows.parquet")
    from pyarrow import parquet

    read = parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert [tuple(row.values()) for row in read] == [row[: len(COLUMNS)] for row in ROWS]
