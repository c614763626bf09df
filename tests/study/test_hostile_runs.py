"""Runs of strangers: one that is no plain run is one line and exit code 2; none chooses what is read, or takes all.

The crafted files are small; what they would take if they were believed is not.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest
import torch

import clinch as cl
import clinch.study.store as store
from clinch.cli import run as command
from clinch.study import evaluate, open_run
from clinch.study.measures import DistanceIntervals
from clinch.study.report.content import MOST_CLASSES
from clinch.study.store import StoreError

#: bytes of an expression that doubles a text with every term
LONG = "||".join(["a"] * 8000)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run on arrays of a file, with inputs found."""
    folder = tmp_path_factory.mktemp("plain")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)).eval()
    x = torch.rand(6, 16)
    np.savez(folder / "data.npz", x=x.numpy(), y=model(x).argmax(1).numpy())
    evaluate(cl.load(model, input_shape=(16,)), str(folder / "data.npz"), norm=2, methods="cheap", out=folder / "run")
    return folder


def crafted(plain, target, *statements):
    """A copy of the run, changed by SQL; ``writable_schema`` lets it say what SQLite would refuse to make."""
    shutil.copytree(plain / "run", target)
    with closing(sqlite3.connect(target / "results.sqlite")) as database:
        for statement, *values in ((s,) if isinstance(s, str) else s for s in statements):
            database.execute(statement, values)
        database.commit()
    return target


def schema(table, old, new):
    """Another definition of a table over the same pages."""
    return [
        "PRAGMA writable_schema = ON",
        ("UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE name = ?", old, new, table),
    ]


def study(key, value):
    return ("UPDATE study SET value = ? WHERE key = ?", value, key)


REFUSED = {
    "a generated column of zeros": schema("results", "found BLOB", "found BLOB AS (zeroblob(900000000))"),
    "a generated column that doubles": schema(
        "results", "error TEXT", f"error TEXT AS ({'replace(' * 40}'aaaa'{', char(97), zeroblob(9))' * 40})"),
    "a generated column of 24 kB": schema("results", "proof TEXT", f"a TEXT, proof TEXT AS ({LONG})"),
    "a generated fact": schema("study", "value TEXT NOT NULL", "value TEXT AS (printf('%.*c', 900000000, key))"),
    "a default that is an expression": schema("results", "size REAL", "size REAL DEFAULT (randomblob(9))"),
    "a check": schema("results", "size REAL", "size REAL CHECK (size > 0)"),
    "a view": ["ALTER TABLE results RENAME TO old", "CREATE VIEW results AS SELECT * FROM old"],
    "a view without end": [
        "ALTER TABLE study RENAME TO old",
        "CREATE VIEW study AS WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n) "
        "SELECT k AS key, k AS value FROM n"],
    "a trigger": ["CREATE TRIGGER t AFTER INSERT ON study BEGIN DELETE FROM results; END"],
    "an index on an expression": ["CREATE INDEX i ON results (abs(image))"],
    "another table": ["CREATE TABLE more (x)"],
    "another column": ["ALTER TABLE results ADD COLUMN more"],
    "a far image": ["UPDATE results SET image = 9999999 WHERE image = 5"],
    "an image beyond all": ["UPDATE results SET image = 4611686018427387904 WHERE image = 5"],
    "an image below zero": ["UPDATE results SET image = -1 WHERE image = 5"],
    "more images than any data has": [study("images", "99999999999999999")],
    "an input of any size": [study("input_shape", "65536,65536")],
    "an input of 2 GiB": [study("input_shape", "8192,16384"), study("dtype", "float64")],
    "a fact of 2 MiB": [study("notes", "[" + "1," * 2**20 + "1]")],
    "an error of 2 MiB": [("UPDATE results SET error = ?", "x" * 2**21)],
    "a label that is bytes": [("UPDATE results SET label = ?", b"1" * 100)],
    "a status of its own": ["UPDATE results SET status = 'PROVEN' WHERE image = 5"],
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(plain, tmp_path_factory):
    root = tmp_path_factory.mktemp("crafted")
    return {name: crafted(plain, root / str(k), *statements) for k, (name, statements) in enumerate(REFUSED.items())}


@pytest.mark.parametrize("name", REFUSED)
def test_a_crafted_run_is_one_line(folders, capsys, name):
    for arguments in (["report", folders[name]], ["figure", folders[name], "--out", folders[name] / "a.png"]):
        assert command(list(map(str, arguments))) == 2
        out = capsys.readouterr()
        assert not out.out and out.err.startswith("clinch: ") and out.err.count("\n") == 1 and len(out.err) < 600
    assert not (folders[name] / "report.html").exists()


def test_none_of_them_takes_the_memory(folders):
    """One process reads all of them: its peak is that of the largest."""
    code = (
        "import resource, sys\nfrom clinch.cli import run\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (120, 120))\n"
        "codes = {run(['report', folder]) for folder in sys.argv[1:]}\n"
        # not ru_maxrss, which begins with what the process that started this one had
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(codes, int(peak.split()[1]) * 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, folders.values())], capture_output=True, text=True)
    codes, _, peak = done.stdout.strip().rpartition(" ")
    assert codes == "{2}", done.stderr
    assert int(peak) < 2**30


@pytest.mark.parametrize("name", ["a trigger", "a generated column of zeros", "another table"])
def test_a_study_does_not_go_on_in_a_crafted_run(plain, folders, name):
    with pytest.raises(StoreError, match="Cannot use"):
        store.Store(folders[name])


def test_a_damaged_tree_comes_to_an_end(plain, monkeypatch):
    monkeypatch.setattr(store, "_PACE", 3)
    monkeypatch.setattr(store, "MOST_STEPS", 9)
    with pytest.raises(StoreError, match="does not come to an end"):
        open_run(plain / "run")


# --- what is read is the user's to say --------------------------------------------------------------------------------


def test_a_run_does_not_choose_what_is_read(plain, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(plain)
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder").mkdir()
    places = ["data.npz", str(plain / "data.npz"), str(tmp_path / "pipe.npz"), str(tmp_path / "folder"), "/dev/zero"]
    for k, named in enumerate([*places, ".", "", "no-such", "mnist:/etc", "a\x1b[2J\nb"]):
        folder = tmp_path / f"run{k}"
        crafted(plain, folder, study("data", named))
        with monkeypatch.context() as patch:
            patch.setattr("clinch.study.runs.open_source", None)
            assert command(["report", str(folder)]) == 0
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert "which only you can name" in page and "--data" in page
        capsys.readouterr()
    # what the user names is read, and compared with the run's hash
    folder = crafted(plain, tmp_path / "own")
    assert command(["report", str(folder), "--data", str(plain / "data.npz")]) == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "only you can name" not in page and page.count("data:image/png") >= 3


def test_evaluate_shows_the_data_that_it_was_given(plain, tmp_path, monkeypatch):
    (tmp_path / "model.py").write_text(
        "import torch\n\n\ndef make():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(16, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)).eval()\n"
    )
    arguments = ["evaluate", tmp_path / "model.py:make", "--data", plain / "data.npz", "--norm", "l2",
                 "--methods", "cheap", "--out", tmp_path / "run", "--report", tmp_path / "page.html",
                 "--time-limit", 20]  # fmt: skip
    assert command(list(map(str, arguments))) in (0, 1)
    assert "only you can name" not in (tmp_path / "page.html").read_text(encoding="utf-8")


# --- many images, many classes ----------------------------------------------------------------------------------------


def test_ten_million_images_without_a_row_are_a_number(plain, tmp_path):
    folder = crafted(plain, tmp_path / "run", study("images", "10000000"))
    run = open_run(folder)
    assert run.tally.images == 10**7 and len(run.known.value) == len(run.rows) and run.known.unknown == 10**7 - 6
    assert command(["report", str(folder)]) == 0


def test_a_number_of_unknown_images_says_what_a_row_for_each_would():
    value = torch.tensor([0.0, 0.3, torch.inf, 0.7], dtype=torch.float64)
    bound = torch.tensor([0.0, 0.1, 0.2, 0.7], dtype=torch.float64)
    beyond, size = torch.tensor([False, False, True, False]), torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    radii = torch.linspace(0, 1, 21, dtype=torch.float64)
    for kept in (slice(0, 0), slice(0, 1), slice(1, 4), slice(0, 4)):
        for unknown in (1, 2, 7):
            short = DistanceIntervals(value[kept], bound[kept], beyond[kept], unknown)
            nothing = torch.zeros(unknown, dtype=torch.float64)
            long = DistanceIntervals(
                torch.cat([value[kept], nothing + torch.inf]), torch.cat([bound[kept], nothing]),
                torch.cat([beyond[kept], nothing.bool()]),
            )  # fmt: skip
            sizes = torch.cat([size[kept], nothing + 1])
            for name, one, other in (
                ("robust", short.robust(radii), long.robust(radii)),
                ("fooled", short.fooled(radii), long.fooled(radii)),
                ("eps", short.eps(), long.eps()), ("eps", short.eps(0.3), long.eps(0.3)),
                ("rho1", short.rho1(size[kept]), long.rho1(sizes)),
            ):  # fmt: skip
                for a, b in zip(one, other):
                    assert torch.allclose(torch.as_tensor(a), torch.as_tensor(b), rtol=1e-9), name
            assert torch.equal(short.jumps(), long.jumps())


def test_a_page_has_so_many_classes(plain, tmp_path):
    insert = (
        "INSERT INTO results (image, label, status, value, bound, method, passes, seconds) WITH RECURSIVE n(k) AS "
        "(SELECT 6 UNION ALL SELECT k + 1 FROM n WHERE k < ?) SELECT k, k, 'open', 1.0, 0.5, 'm', 1, 0.0 FROM n"
    )
    folder = crafted(plain, tmp_path / "run", (insert, MOST_CLASSES + 50), study("images", "2000"))
    assert command(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"first {MOST_CLASSES:,} of" in page and page.count('<th scope="row">') == MOST_CLASSES
    assert command(["figure", str(folder), "--kind", "classes", "--out", str(tmp_path / "a.png")]) == 2
