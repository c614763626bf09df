"""Crafted files through the command line: one line and exit code 2; ``benchmarks`` measure them."""

from __future__ import annotations

import os
import sys
from functools import cache

import pytest
import torch
from crafted import CASES, HEADERS, MODEL
from safetensors.torch import save_file
from torch import nn

from clinch.cli import models, problem_file, run
from clinch.io.data import DataError
from clinch.io.published import load_weights, read_columns

LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pipes, devices and limits are Linux's")
#: what takes seconds or hundreds of megabytes before its end is seen
LARGE = (
    "vnnlib of words", "vnnlib of numbers", "vnnlib of assertions", "vnnlib of empty assertions",
    "vnnlib of disjunctions",
    "vnnlib of declarations", "vnnlib of a sum of the same", "vnnlib of blanks", "vnnlib of line feeds",
    "vnnlib of comments", "toml with a long list", "toml with radii", "toml with classes", "toml with constraints",
    "toml with rows chosen again and again", "toml with cases", "npy that is a hole", "npy packed by gzip",
    "onnx.gz that grows", "certificate with a hole of 8 GiB", "certificate with long metadata",
    "certificate with a long header", "certificate with a header of many entries", "toml with a huge shape",
)  # fmt: skip


_LOAD = models.load_model


@cache
def _demo():
    return _LOAD(MODEL, input_shape=(8, 8))


@pytest.fixture(autouse=True)
def one_network(monkeypatch):
    """The demo's network is read once for all files that name it."""

    def load(source, *, input_shape=None, folder=None):
        if source == MODEL and input_shape == (8, 8):
            return _demo()
        return _LOAD(source, input_shape=input_shape, folder=folder)

    monkeypatch.setattr(problem_file, "load_model", load)
    monkeypatch.setattr(models, "load_model", load)


def check(name, folder, capsys, monkeypatch):
    case = CASES[name](folder)
    for variable, value in case.environment.items():
        monkeypatch.setenv(variable, value)
    code = run(case.arguments)
    captured = capsys.readouterr()
    if "certificate" in name:
        # what a certificate does not prove is the honest negative answer, on standard output
        assert code == 1 and captured.out.startswith("REFUSED. ") and captured.out.count("\n") == 1, captured.out[
            -2000:
        ]
        return
    assert code == 2, captured.err[-2000:]
    assert captured.err.startswith("clinch: ") and captured.err.count("\n") == 1, captured.err[-2000:]
    assert len(captured.err) < 1000


@LINUX
@pytest.mark.parametrize("name", [name for name in CASES if name not in LARGE])
def test_crafted_files(name, tmp_path, capsys, monkeypatch):
    check(name, tmp_path, capsys, monkeypatch)


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_large_crafted_files(name, tmp_path, capsys, monkeypatch):
    check(name, tmp_path, capsys, monkeypatch)


# --- what others have published ---------------------------------------------------------------------------------------


def module() -> nn.Module:
    return nn.Linear(3, 2)


def test_weights_are_those_of_the_file(tmp_path):
    state = module().state_dict()
    save_file(state, tmp_path / "w.safetensors")
    other = module()
    load_weights(other, tmp_path / "w.safetensors")
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())


@LINUX
@pytest.mark.parametrize(
    "kind", [*HEADERS, "another shape", "another name", "a name less", "a pipe", "a device", "missing"]
)
def test_crafted_weights(kind, tmp_path):
    path, state = tmp_path / "w.safetensors", module().state_dict()
    if kind in HEADERS:
        HEADERS[kind](path)
    elif kind == "another shape":
        save_file({**state, "weight": torch.zeros(2, 4)}, path)
    elif kind == "another name":
        save_file({**state, "w\nx": torch.zeros(2)}, path)
    elif kind == "a name less":
        save_file({"weight": state["weight"]}, path)
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    with pytest.raises(DataError) as caught:
        load_weights(module(), path)
    assert len(str(caught.value)) < 600


def test_columns_are_those_of_the_file(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,c\n1,x,3\n-2.5e-1,y,0\n")
    assert read_columns(tmp_path / "t.csv", ["c", "a"]) == {"c": (3.0, 0.0), "a": (1.0, -0.25)}


@pytest.mark.parametrize(
    "content",
    [b"", b"a\n1\n", b"a,b\n1,x\n", b"a,b\n1,nan\n", b"a,b\n1\n", b"a,b\n1,1e999\n", b"\xff\xfe\0a",
     b"a,b\n1," + b"1" * 10**6, b'a,b\n1,"' + b"\n" * 10**5, b"a,b\n" + b"1,2" * 2**23],
)  # fmt: skip
def test_crafted_tables(content, tmp_path):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_columns(tmp_path / "t.csv", ["a", "b"])
    assert len(str(caught.value)) < 600
