"""Runs read again from disk: the same numbers as the evaluation, curves, figures, and what is refused."""

import sqlite3

import pytest
import torch

import clinch as cl
from clinch.cli import run as command
from clinch.demo import network
from clinch.study import evaluate, open_run
from clinch.study.store import StoreError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    net = cl.load(network(), input_shape=(8, 8))
    ball = evaluate(net, "digits", eps=0.05, limit=40, out=folder / "ball", time_limit=20)
    far = evaluate(net, "digits", norm=2, limit=30, out=folder / "far", time_limit=2, settings={"attack_share": 0.2})
    return folder, {"ball": ball, "far": far}


@pytest.mark.parametrize("name", ["ball", "far"])
def test_a_run_says_what_the_evaluation_said(made, name):
    folder, there = made
    run, first = open_run(folder / name), there[name]
    assert run.rows == first.rows and run.template == first.template and run.notes == first.notes
    assert run.tally.counts == first.tally.counts and run.tally.images == first.tally.images
    assert run.versions == first.versions and run.model == first.model
    assert run.settings == first.settings and run.settings["attack_share"] == (
        0.2 if name == "far" else cl.settings.Portfolio().attack_share
    )
    images = [row.image for row in run.rows if row.value is not None]
    x, found = run.found(images)
    clean = run.source().read(images, run.input_shape, run.dtype).x
    assert bool(found.all())
    sizes = torch.linalg.vector_norm((x - clean).double().flatten(1), ord=run.template.norm, dim=1)
    assert torch.allclose(sizes, torch.tensor([run.rows[i].value for i in images], dtype=torch.float64))


def test_figures_are_written_and_bad_input_is_told_in_one_line(made, tmp_path, capsys):
    run = made[0] / "far"
    for kind in ("curve", "gallery", "classes", "margins"):
        assert command(["figure", str(run), "--kind", kind, "--out", str(tmp_path / f"{kind}.svg")]) == 0
        assert (tmp_path / f"{kind}.svg").stat().st_size > 5000
    capsys.readouterr()
    for arguments, words in (
        ([tmp_path, "--out", tmp_path / "a.png"], "There is no run in"),
        ([run, "--kind", "pie"], "There is no figure 'pie'"),
        ([run, "--out", tmp_path / "a.txt"], "no ending of a figure"),
        ([run, "--out", tmp_path / "none" / "a.png"], "Cannot write"),
    ):
        assert command(["figure", *map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1


def test_files_that_are_no_run_are_refused_and_not_written_to(made, tmp_path):
    (tmp_path / "results.sqlite").write_text("no database, only text" * 50)
    with pytest.raises(StoreError, match="not a database"):
        open_run(tmp_path)
    content = (made[0] / "ball" / "results.sqlite").read_bytes()
    for change, words in (
        ("UPDATE results SET status = 'fine'", "damaged"),
        ("UPDATE study SET value = '9' WHERE key = 'version'", "version 9"),
        ("DELETE FROM results", "no result yet"),
        ("UPDATE results SET value = 'x'", "damaged"),
        ("UPDATE study SET value = '[1]' WHERE key = 'template'", "no question"),
        ("UPDATE study SET value = '[1]' WHERE key = 'versions'", "damaged"),
        ("UPDATE study SET value = '-1' WHERE key = 'images'", "damaged"),
    ):
        (tmp_path / "results.sqlite").write_bytes(content)
        with sqlite3.connect(tmp_path / "results.sqlite") as database:
            database.execute(change)
        database.close()
        with pytest.raises(StoreError, match=words):
            open_run(tmp_path)
