"""``clinch evaluate``: what it prints and writes, how it goes on, its progress, its complaints."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from clinch.cli.study_progress import StudyProgress
from clinch.study import answers
from clinch.study.evaluation import Tally
from clinch.study.store import FILE, Store

MODEL = "clinch.demo:network"


def test_an_interval_a_table_and_json(clinch, tmp_path):
    run = ("evaluate", MODEL, "--eps", "0.05", "--limit", "30", "--out", tmp_path / "run", "--time-limit", "60")
    outcome = clinch(*run, "--json", tmp_path / "all.json", "--table", tmp_path / "rows.csv")
    assert outcome.code == 0, outcome.err
    content = json.loads((tmp_path / "all.json").read_text())
    low, high = content["interval"]
    assert low == high == content["counts"]["robust"] / 30 and content["images"] == 30
    assert f"{100 * low:.2f} % proven, {100 * high:.2f} % not attacked: width 0.00" in outcome.out
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["image"]) for row in rows] == list(range(30))
    assert [row["status"] for row in rows] == [row["status"] for row in content["rows"]]
    # what is found has another class than the label, which is named; what is proven has none
    for row in rows:
        assert (row["class_found"] == "") == (row["status"] == "robust") and row["class_found"] != row["label"]
    assert {row["status"] for row in rows} >= {"robust", "attacked"}
    assert "clinch:" in outcome.err and "images" in outcome.err and "proven" in outcome.err
    again = json.loads(clinch(*run, "--json", "-").out)
    assert again["rows"] == content["rows"]
    outcome = clinch(*run[:3], "0.06", *run[4:])
    assert outcome.code == 2 and "belongs to another study" in outcome.err and outcome.err.count("\n") == 1


def test_certificates_of_every_proven_image(clinch, tmp_path):
    run = ("evaluate", MODEL, "--eps", "0.01", "--limit", "4", "--time-limit", "60", "--certificates")
    outcome = clinch(*run)
    assert outcome.code == 2 and "--out" in outcome.err and outcome.err.count("\n") == 1
    outcome = clinch(*run, "--out", tmp_path / "run")
    assert outcome.code == 0 and "4 of 4 certificates in" in outcome.err
    place = tmp_path / "run" / "certificates"
    for image in range(4):
        assert clinch("check", place / f"{image}.safetensors", place / "network.safetensors").code == 0


def test_distances_and_an_exit_code_for_what_is_open(clinch):
    outcome = clinch("evaluate", MODEL, "--norm", "l2", "--limit", "3", "--time-limit", "0")
    assert outcome.code == 1 and "3 not looked at" in outcome.out
    outcome = clinch("evaluate", MODEL, "--norm", "l2", "--limit", "3", "--time-limit", "30", "--json", "-")
    content = json.loads(outcome.out)
    assert outcome.code == 0 and content["counts"] == {"closed": 3}
    assert content["distances"]["mean_gap"] <= 1e-3
    assert all(row["bound"] <= row["value"] for row in content["rows"])


@pytest.mark.slow
def test_workers_give_the_rows_of_one_process(clinch, tmp_path):
    """The model is a function of a file, whose class no worker can import by name."""
    (tmp_path / "own.py").write_text(OWN)
    run = ("evaluate", f"{tmp_path / 'own.py'}:net", "--eps", "0.05", "--limit", "12", "--json", "-")
    alone, found = clinch(*run), clinch(*run, "--workers", "2")
    assert alone.code == found.code, found.err
    rows, others = ([{**row, "seconds": 0} for row in json.loads(outcome.out)["rows"]] for outcome in (alone, found))
    assert [(row["image"], row["status"]) for row in rows] == [(row["image"], row["status"]) for row in others]
    (tmp_path / "own.py").write_text(OWN.replace("torch.manual_seed(0)", "pass"))
    outcome = clinch(*run, "--workers", "2")
    assert outcome.code == 2 and "Net has other weights in a worker" in outcome.err and outcome.err.count("\n") == 1


OWN = """
import torch
from torch import nn

class Net(nn.Sequential):
    pass

def net():
    torch.manual_seed(0)
    return Net(nn.Flatten(), nn.Linear(64, 10)).eval()
"""


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--workers", "0"), "--workers is 0"), (("--ray", "127.0.0.1:9"), "There is no Ray cluster at '127.0.0.1:9'"),
     (("--ray", "somewhere"), "write auto, local or host:port")],
)  # fmt: skip
def test_workers_that_cannot_be_had_are_one_line_and_nothing_is_lost(clinch, tmp_path, options, message):
    if "--ray" in options:
        pytest.importorskip("ray", reason="Ray is not installed")
    run = ("evaluate", MODEL, "--eps", "0.05", "--limit", "4", "--out", tmp_path / "run", "--json", "-")
    before = json.loads(clinch(*run).out)["rows"]
    outcome = clinch(*run, *options)
    assert outcome.code == 2 and message in outcome.err and outcome.err.count("\n") == 1
    assert json.loads(clinch(*run).out)["rows"] == before


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_full_disk_is_one_line_and_nothing_is_lost(clinch, tmp_path, monkeypatch, workers):
    """SQLite is told that its file may not grow, which is for it a disk that is full."""
    monkeypatch.setattr(answers, "LARGEST", 6)
    run = ("evaluate", MODEL, "--eps", "0.05", "--limit", "60", "--json", "-")
    whole = json.loads(clinch(*run).out)["rows"]
    run = (*run, "--out", tmp_path / "run", "--workers", workers)
    opened = Store.__init__

    def on_a_small_disk(self, *arguments, **options):
        opened(self, *arguments, **options)
        pages = self._database.execute("PRAGMA page_count").fetchone()[0]
        self._database.execute(f"PRAGMA max_page_count={pages + 2}")

    monkeypatch.setattr(Store, "__init__", on_a_small_disk)
    outcome = clinch(*run)
    lines = [line for line in outcome.err.splitlines() if " s  images " not in line]  # those are progress
    assert outcome.code == 2 and outcome.out == "" and len(lines) == 1
    assert lines[0].endswith("Make room and run the same command again: it goes on where it stopped.")
    monkeypatch.setattr(Store, "__init__", opened)
    with Store(tmp_path / "run", create=False) as store:
        kept = store.counts()
    assert 0 < sum(kept.values()) < 60
    after = clinch(*run)
    assert after.code == 0 and [row["status"] for row in json.loads(after.out)["rows"]] == [
        row["status"] for row in whole
    ]


def test_another_study_a_damaged_file_and_a_foreign_one_are_refused_as_they_are(clinch, tmp_path):
    run = ("evaluate", MODEL, "--eps", "0.05", "--limit", "4", "--out", tmp_path, "--json", "-")
    assert clinch(*run).code == 0
    path = tmp_path / FILE
    content = path.read_bytes()
    outcome = clinch(*run, "--norm", "l2")
    assert outcome.code == 2 and "belongs to another study" in outcome.err and outcome.err.count("\n") == 1
    assert path.read_bytes() == content
    for damage, message in ((content[:5000], "The file is damaged"), (b"photos of a cat " * 99, "no run of Clinch")):
        path.write_bytes(damage)
        outcome = clinch(*run)
        assert outcome.code == 2 and message in outcome.err and outcome.err.count("\n") == 1
        assert path.read_bytes() == damage


def test_corrupt_images_are_failed_rows_and_corrupt_data_is_one_line(clinch, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    for name, images in zip("01", pixels):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i, array in enumerate(images):
            Image.fromarray(array).save(tmp_path / "set" / name / f"{i}.png")
    broken = tmp_path / "set" / "1" / "1.png"
    broken.write_bytes(broken.read_bytes()[:40])
    run = ("evaluate", MODEL, "--eps", "0.01", "--data", tmp_path / "set", "--out", tmp_path / "run", "--json", "-")
    outcome = clinch(*run)
    rows = json.loads(outcome.out)["rows"]
    assert outcome.code == 2 and [row["image"] for row in rows if row["status"] == "failed"] == [4] and len(rows) == 6
    assert "1 of the images cannot be used" in outcome.err and "image 4: " in outcome.err and "1.png" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("clinch: ") and clinch(*run).code == 2
    assert "Error" in rows[4]["error"] and "\n" not in rows[4]["error"]
    np.savez(tmp_path / "set.npz", x=pixels[0], y=np.arange(3))
    (tmp_path / "broken.npz").write_bytes((tmp_path / "set.npz").read_bytes()[:200])
    outcome = clinch("evaluate", MODEL, "--eps", "0.01", "--data", tmp_path / "broken.npz")
    assert outcome.code == 2 and "broken.npz" in outcome.err and outcome.err.count("\n") == 1


def test_data_that_does_not_fit_the_network(clinch, tmp_path):
    np.savez(tmp_path / "set.npz", x=np.zeros((2, 5, 5)), y=np.zeros(2, dtype=np.int64))
    outcome = clinch("evaluate", MODEL, "--data", tmp_path / "set.npz", "--input-shape", "8,8")
    assert outcome.code == 2 and "the images of set.npz have shape (5, 5)" in outcome.err
    outcome = clinch("evaluate", MODEL, "--data", tmp_path / "set.npz")
    assert outcome.code == 2 and outcome.err.count("\n") == 1


def shown(console, progress):
    console.print(progress.shown())
    return console.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_a_table_or_plain_lines(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)
    tally = Tally(200, {"robust": 90, "attacked": 10, "failed": 2}, 10.0, 102, 50.0, "all images")
    with StudyProgress(True, console) as progress:
        for _ in range(3):
            progress(tally)
        text = shown(console, progress) if terminal else console.file.getvalue()
    for part in ("102 of 200 looked at, 100 answered", "45.00 % proven, 95.00 % not attacked", "10.2 images/s",
                 "10 s for all images, at most 50 s"):  # fmt: skip
        assert part in text
    if not terminal:
        assert text.count("\n") == 1 and text.startswith("clinch: 10.0 s")


def test_progress_of_distances_has_no_interval():
    console = Console(file=io.StringIO(), force_terminal=False, width=60)
    with StudyProgress(False, console) as progress:
        progress(Tally(4, {"closed": 4}, 130.0, 4, 470.0, "open images"))
    assert "proven" not in console.file.getvalue() and "at most 7 min 50 s" in console.file.getvalue()


def test_several_combinations_are_a_table_and_folders(clinch, tmp_path):
    run = ("evaluate", MODEL, "--eps", "0.02", "--eps", "0.05", "--norm", "linf", "--norm", "l2", "--methods", "cheap",
           "--limit", "10", "--out", tmp_path / "runs", "--time-limit", "60")  # fmt: skip
    outcome = clinch(*run, "--json", tmp_path / "all.json")
    lines = outcome.out.splitlines()
    assert outcome.code in (0, 1) and len(lines) == 5
    assert lines[0].split()[:5] == ["model", "data", "norm", "eps", "methods"]
    assert [line.split()[2:5] for line in lines[1:]] == [
        [norm, eps, "cheap"] for norm in ("linf", "l2") for eps in ("0.02", "0.05")
    ]
    content = json.loads((tmp_path / "all.json").read_text())["runs"]
    assert set(content) == {folder.name for folder in (tmp_path / "runs").iterdir()} and len(content) == 4
    assert all(len(each["rows"]) == 10 for each in content.values())
    outcome = clinch(*run, "--table", tmp_path / "rows.parquet")
    assert outcome.code == 2 and ".csv, .md, .tex" in outcome.err


def test_measures_of_each_class(clinch):
    outcome = clinch("evaluate", MODEL, "--eps", "0.05", "--limit", "30", "--per-class", "--json", "-")
    content = json.loads(outcome.out)
    counts = [entry["counts"].get("robust", 0) for entry in content["per_class"].values()]
    assert sum(counts) == content["counts"]["robust"]
    assert content["curve"]["radii"][0] == 0 and len(content["curve"]["low"]) == len(content["curve"]["high"])
    lines = clinch("evaluate", MODEL, "--eps", "0.05", "--limit", "30", "--per-class").out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("class "))
    assert [line.split()[0] for line in lines[start + 1 :]] == list(content["per_class"])
    for column in ("robust %", "fooled %", "rho1", "eps 99 %"):
        assert column in lines[start]


def test_a_normalisation_from_the_command_line(clinch):
    run = ("evaluate", MODEL, "--eps", "0.02", "--limit", "10", "--json", "-")
    plain, same = (json.loads(clinch(*run, *more).out) for more in ((), ("--mean", "0", "--std", "1")))
    assert [row["status"] for row in same["rows"]] == [row["status"] for row in plain["rows"]]
    half = json.loads(clinch(*run, "--mean", "0.5", "--std", "0.5").out)
    assert half["rows"] != plain["rows"]
    for more, message in (
        (("--mean", "0"), "both --mean and --std"), (("--mean", "a", "--std", "1"), "write numbers"),
        (("--mean", "0", "--std", "0"), "give positive numbers"),
    ):  # fmt: skip
        outcome = clinch(*run, *more)
        assert outcome.code == 2 and message in outcome.err and outcome.err.count("\n") == 1


def test_networks_and_images_that_come_with_the_package(clinch, tmp_path):
    outcome = clinch(
        "evaluate", "zoo:mnist-small", "--data", "mnist-sample", "--eps", "0.01", "--limit", "4", "--methods", "cheap"
    )
    assert outcome.code in (0, 1) and "robust" in outcome.out
    assert "There is no network 'mnist' in the zoo" in clinch("evaluate", "zoo:mnist", "--eps", "0.01").err
    stated = tmp_path / "far.toml"
    stated.write_text(
        'model = "zoo:mnist-small"\nrange = [0, 1]\nx0 = {dataset = "mnist-sample", index = 0}\n'
        '[objective]\nmaximize = "output[7]"\n[[constraints]]\nball = "inf"\nradius = 0.01\n'
    )
    # no consent to run code is asked where no code is named
    assert clinch("solve", stated, "--time-limit", "5").code in (0, 1)
