"""``clinch batch`` and the competition's scripts: rows, resuming, comparison with expected answers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clinch.errors import SpecificationError
from clinch.vnnlib.batch import Instance, Log, Result, read_expected, read_instances, run_instance, stem, summary, wrong

ROOT = Path(__file__).resolve().parents[2]
#: stands for clinch verify: the answer is in the specification
DECIDE = "import sys; print(open(sys.argv[2]).read().strip())"


@pytest.fixture
def sets(tmp_path):
    """Two sets: three instances, and one; the network is never read."""
    for name, words in {"first": ("sat", "unsat", "timeout"), "second": ("nonsense",)}.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "net.onnx").write_text("")
        for word in words:
            (folder / f"{word}.vnnlib").write_text(word)
        (folder / "instances.csv").write_text("".join(f"net.onnx,{word}.vnnlib,30\n" for word in words))
    (tmp_path / "first" / "expected.csv").write_text("net.onnx,sat.vnnlib,unsat,3\nnet.onnx,unsat.vnnlib,unsat,5\n")
    return tmp_path


def results(folder, tmp_path):
    command = [sys.executable, "-S", "-c", DECIDE]
    return [run_instance(instance, tmp_path, command) for instance in read_instances(folder)]


def test_a_table_counts_answers_and_names_those_that_contradict(sets, tmp_path):
    known = read_expected(sets)
    assert known == {("net", "sat"): "unsat", ("net", "unsat"): "unsat"}
    first, second, total = summary(results(sets, tmp_path), known)
    assert (first["set"], first["instances"], first["solved"], first["wrong"], first["beyond"]) == ("first", 3, 2, 1, 0)
    assert (first["sat"], first["unsat"], first["timeout"], first["error"]) == (1, 1, 1, 0)
    assert (second["error"], second["solved"]) == (1, 0)
    assert (total["set"], total["instances"], total["error"]) == ("all", 4, 1)
    assert first["worst overrun %"] == 0.0


def test_an_answer_is_wrong_only_where_both_have_decided():
    def one(answer):
        return Result("s", "n.onnx", "p.vnnlib", 1.0, answer, 0.1, 0.1)

    known = {("n", "p"): "sat"}
    assert [wrong(one(word), known) for word in ("sat", "unsat", "timeout", "error")] == [False, True, False, False]
    assert not wrong(one("unsat"), {})


def test_limits_names_and_compressed_files(sets):
    one = read_instances(sets / "first" / "instances.csv", limit=5)[0]
    assert one.limit == 5 and one.set == "first" and one.path("net.onnx").name == "net.onnx"
    (sets / "first" / "net.onnx").rename(sets / "first" / "net.onnx.gz")
    assert one.path("net.onnx").name == "net.onnx.gz"
    assert stem("onnx/net.onnx.gz") == "net" and stem("p.vnnlib") == "p"


@pytest.mark.parametrize("line", ["net.onnx,p.vnnlib", "net.onnx,p.vnnlib,soon", "net.onnx,p.vnnlib,-1", "x"])
def test_a_line_that_is_no_instance_is_named(tmp_path, line):
    (tmp_path / "instances.csv").write_text(f"# a comment\n\n{line}\n")
    with pytest.raises(SpecificationError, match="line 3: write"):
        read_instances(tmp_path)


def test_a_folder_without_instances_is_refused(tmp_path):
    with pytest.raises(SpecificationError, match=r"no instances\.csv"):
        read_instances(tmp_path)


def test_what_is_finished_is_not_run_again(clinch, sets, tmp_path, monkeypatch):
    ran = []

    def pretended(instance, folder):
        ran.append(instance.specification)
        return Result(instance.set, instance.network, instance.specification, instance.limit, "unsat", 0.1, 0.1)

    monkeypatch.setattr("clinch.vnnlib.batch.run_instance", pretended)
    table = tmp_path / "table.json"
    line = ["batch", sets / "first", "--out", tmp_path / "run", "--json", table]
    assert clinch(*line, "--only", 2).code == 0
    assert len(ran) == 2
    assert clinch(*line).code == 0
    assert len(ran) == 3
    log = tmp_path / "run" / "results.jsonl"
    log.write_text(log.read_text()[:-20])  # the process was killed while it wrote
    assert clinch(*line).code == 0 and len(ran) == 4
    assert clinch(*line).code == 0 and len(ran) == 4
    assert clinch(*line, "--no-resume").code == 0 and len(ran) == 7
    content = json.loads(table.read_text())
    assert content["sets"][0]["solved"] == 3 and len(content["results"]) == 3


@pytest.mark.parametrize("options", [["--timeout", "0"], ["--only", "0"], ["--out", "-"]])
def test_options_without_meaning_are_one_line(clinch, sets, options):
    outcome = clinch("batch", sets, *options)
    assert outcome.code == 2 and outcome.err.count("\n") == 1


def test_a_log_knows_its_instances(tmp_path):
    log = Log(tmp_path / "new")
    log.add(Result("s", "n", "p", 2.0, "sat", 1.0, 0.5, "note"))
    assert log.read()[Instance("s", "n", "p", tmp_path, 2.0).key].note == "note"
    log.clear()
    assert log.read() == {}


# --- the competition's scripts -------------------------------------------------------------------------------------


def script(name, *arguments, **environment):
    return subprocess.run(
        ["bash", ROOT / "competition" / f"{name}.sh", *map(str, arguments)], capture_output=True, text=True,
        env=os.environ | environment, check=False,
    )  # fmt: skip


def test_instances_are_run_as_the_competition_does(sets, tmp_path):
    decide = tmp_path / "decide"
    decide.write_text('#!/bin/sh\nw=$(cat "$3"); [ "$w" = nonsense ] && exit 2\necho "$w"; [ "$w" != timeout ]\n')
    decide.chmod(0o755)
    for word in ("sat", "timeout", "nonsense"):
        folder = sets / ("second" if word == "nonsense" else "first")
        files = folder / "net.onnx", folder / f"{word}.vnnlib"
        assert script("prepare_instance", "v1", "set", *files).returncode == 0
        out = tmp_path / "out.txt"
        done = script("run_instance", "v1", "set", *files, out, 10, CLINCH_COMMAND=str(decide))
        assert out.read_text() == {"nonsense": "error"}.get(word, word) + "\n"
        assert done.returncode == (1 if word == "nonsense" else 0)


@pytest.mark.parametrize("name", ["install_tool", "prepare_instance", "run_instance"])
def test_another_version_of_the_convention_and_missing_arguments_are_refused(name):
    assert script(name, "v2").returncode == 1 and "expected v1" in script(name, "v2").stderr
    assert name == "install_tool" or script(name, "v1").returncode == 1


def test_a_missing_file_is_told_while_preparing(tmp_path):
    done = script("prepare_instance", "v1", "set", tmp_path / "a.onnx", tmp_path / "b.vnnlib")
    assert done.returncode == 1 and "there is no file" in done.stderr
