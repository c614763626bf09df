"""Names that files of strangers carry reach no terminal, page or table as commands, turned text or lines of ours."""

from __future__ import annotations

import csv
import html
import re
import unicodedata

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, save

import clinch as cl
from clinch.cli import run
from clinch.io.files import cell, printable, replacing, write_whole
from clinch.study.store import Row, StoreError, write_table

#: clears the screen, turns text around, begins a line that looks like ours, rings, isolates, hides
EVIL = "\x1b[2J\x9b31m\u202ePROVEN\u2066\nFORGED line\rFORGED\x0bFORGED"
EVIL += "\u2028FORGED\x85FORGED\x07\u200b\u00ad\ufeff\U000e0041[red]"
#: what none of it may become
FORBIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def name(k):
    return f"n{k}{EVIL}"


def toml(text):
    return '"' + "".join(c if c.isalnum() and c.isascii() else f"\\U{ord(c):08x}" for c in text) + '"'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose every name is a trick, images it classifies, a problem and a specification about it."""
    folder = tmp_path_factory.mktemp("hostile")
    rng = np.random.default_rng(0)
    weights = {name(10): rng.normal(size=(4, 6)), name(11): rng.normal(size=(6, 3))}
    nodes = [
        helper.make_node("MatMul", [name(0), name(10)], [name(1)], name=name(20)),
        helper.make_node("Relu", [name(1)], [name(2)], name=name(21)),
        helper.make_node("MatMul", [name(2), name(11)], [name(3)], name=name(22)),
    ]
    graph = helper.make_graph(
        nodes, name(30), [helper.make_tensor_value_info(name(0), TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info(name(3), TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()],
    )  # fmt: skip
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "net.onnx")
    (folder / f"net{EVIL.replace('/', '')[:60]}.onnx").write_bytes((folder / "net.onnx").read_bytes())
    x = rng.random((4, 4)).astype(np.float32)
    net = cl.load(folder / "net.onnx")
    labels = net.original(torch.from_numpy(x), [net.layers[-1]])[net.layers[-1]].argmax(1).numpy()
    np.savez(folder / f"data{EVIL[:60]}.npz", x=x, y=labels)
    layer = toml(name(2))
    (folder / "problem.toml").write_text(
        f'model = "net.onnx"\nrange = [0, 1]\nx0 = [0.2, 0.4, 0.6, 0.8]\nobjective = {{minimize = "norm", p = 2}}\n'
        f"[[constraints]]\nmonitor = {layer}\nlower = 0\nupper = 0.01\noutside = true\n"
    )
    (folder / "unknown.toml").write_text(
        f'model = "net.onnx"\nrange = [0, 1]\nobjective = {{maximize = {toml(repr("x" + EVIL[:9]) + "[0]")}}}\n'
    )
    (folder / "spec.vnnlib").write_text(
        "".join(f"(declare-const X_{i} Real)\n" for i in range(4))
        + "".join(f"(declare-const Y_{i} Real)\n" for i in range(3))
        + "".join(f"(assert (>= X_{i} 0))(assert (<= X_{i} 1))\n" for i in range(4))
        + "(assert (>= Y_0 100))\n"
    )
    (folder / "other.vnnlib").write_text(f"(declare-const Z{EVIL[:9]}\u202e_0 Real)\n")
    return folder


def hostile(text):
    return sorted({c for c in text if c not in "\n\t" and unicodedata.category(c) in FORBIDDEN})


def model(folder):
    return next(path for path in folder.glob("*.onnx") if path.name != "net.onnx")


def commands(folder):
    certificate, data = folder / "c.safetensors", next(folder.glob("*.npz"))
    return {
        "supports": ["supports", model(folder)],
        "solve": ["solve", folder / "problem.toml", "--certificate", certificate, "--time-limit", 5],
        "solve an unknown layer": ["solve", folder / "unknown.toml"],
        "check": ["check", certificate, folder / "net.onnx", "--float32"],
        "check another model": ["check", certificate, data],
        "verify": ["verify", folder / "net.onnx", folder / "spec.vnnlib"],
        "verify a broken one": ["verify", folder / "net.onnx", folder / "other.vnnlib"],
        "evaluate": ["evaluate", model(folder), "--data", data, "--eps", 0.01, "--out", folder / "run", "--per-class",
                     "--table", folder / "rows.csv", "--time-limit", 5, "--certificates"],
        "compare": ["evaluate", model(folder), folder / "net.onnx", "--data", data, "--eps", 0.01, "--per-class"],
        "report": ["report", folder / "run", "--out", folder / "page.html", "--title", EVIL],
        "figure": ["figure", folder / "run", "--out", folder / "curve.svg"],
    }  # fmt: skip


def test_no_command_lets_a_name_speak_to_the_terminal(folder, capfd):
    """In one order: check reads what solve writes, report what evaluate keeps."""
    for title, arguments in commands(folder).items():
        code = run([str(a) for a in arguments])
        out = "".join(capfd.readouterr())
        assert not hostile(out), title
        assert not re.search(r"^\W*FORGED", out, re.MULTILINE), f"{title}\n{out}"
        assert code in ((2,) if "unknown" in title or "broken" in title else (0, 1)), f"{title}: {out}"
    page = html.unescape((folder / "page.html").read_text(encoding="utf-8"))
    assert "\\u202ePROVEN" in page and not hostile(page)
    assert not hostile((folder / "curve.svg").read_text(encoding="utf-8"))
    assert not hostile((folder / "rows.csv").read_text(encoding="utf-8"))


# --- tables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", " =", "\r=", "\uff1d", "\u2212", "\n@"])
def test_no_text_of_a_table_is_a_formula(tmp_path, start):
    text = f"{start}cmd|' /C calc'!A0{EVIL}"
    write_table(tmp_path / "rows.csv", [Row(0, 1, "failed", -1.5, method=text, error=text)])
    with (tmp_path / "rows.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    for column in ("method", "error"):
        first = unicodedata.normalize("NFKC", row[column]).lstrip()[0]
        assert first not in "=+-@" and not hostile(row[column]) and "\n" not in row[column]
    # a number stays one
    assert row["value"] == "-1.5" and row["proof"] == ""


def test_plain_texts_and_numbers_stay_as_they_are():
    for value in ("no inputs", "", "a=b", "ValueError: x - y", -3, -0.5, None):
        assert cell(value) == value
    assert printable("a\nb\t‖x‖") == "a\nb\t‖x‖" and printable("a\nb", lines=False) == "a\\nb"


# --- writing --------------------------------------------------------------------------------------------------------


def test_a_table_that_is_cut_short_leaves_the_old_one(tmp_path):
    target = tmp_path / "rows.csv"
    write_table(target, [Row(0, 1, "robust")])
    before = target.read_bytes()

    def rows():
        yield Row(0, 1, "open")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_table(target, rows())
    assert target.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["rows.csv"]
    with pytest.raises(StoreError, match="Cannot write"):
        write_table(tmp_path / "no" / "rows.csv", [])


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_figure_that_is_cut_short_leaves_the_old_one(tmp_path, monkeypatch, ending):
    from matplotlib.figure import Figure

    from clinch.figures import save

    target = tmp_path / f"a.{ending}"
    save(Figure(figsize=(1, 1)), target)
    before = target.read_bytes()
    draw = Figure.savefig

    def cut(self, path, **options):
        draw(self, path, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", cut)
    with pytest.raises(KeyboardInterrupt):
        save(Figure(figsize=(2, 2)), target)
    assert target.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_certificate_that_is_cut_short_leaves_none(tmp_path, monkeypatch):
    """A run takes an image whose file is there for done."""
    from clinch.certificates import produce

    net = cl.load(torch.nn.Sequential(torch.nn.Linear(2, 1)).eval(), input_shape=(2,))
    proof = cl.Problem(cl.Minimize(net.output[0]), [net.input.between(0, 1)]).solve(certificate=True).certificate
    written = produce.write_file

    def cut(path, *content):
        written(path, *content)
        path.write_bytes(path.read_bytes()[:-20])
        raise KeyboardInterrupt

    monkeypatch.setattr(produce, "write_file", cut)
    with pytest.raises(KeyboardInterrupt):
        proof.save(tmp_path / "c.safetensors")
    assert not list(tmp_path.iterdir())


def test_links_are_followed_and_modes_kept(tmp_path):
    target, link = tmp_path / "a.txt", tmp_path / "b.txt"
    write_whole(target, "first")
    target.chmod(0o640)
    link.symlink_to(target)
    with replacing(link) as beside:
        assert beside.suffix == ".txt" and beside.parent == tmp_path
        beside.write_text("second")
    assert link.is_symlink() and target.read_text() == "second" and target.stat().st_mode & 0o777 == 0o640
