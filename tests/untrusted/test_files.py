"""Files of unknown origin: limits, compressed bombs, paths out of the folder, pickles, code, names with tricks."""

from __future__ import annotations

import ast
import gzip
import io
import json
import os
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import clinch as cl
from clinch.cli import run
from clinch.cli.problem_file import read_problem
from clinch.errors import NetworkError, ProblemError, SpecificationError, UnsupportedOperator
from clinch.io.data import DataError, read_idx
from clinch.io.files import printable, read_limited, write_whole
from clinch.io.numpy_files import read_npy, read_npz
from clinch.network.onnx_file import open_model
from clinch.runtime import memory
from clinch.vnnlib import read_specification

PACKAGE = Path(cl.__file__).parent


def model(*nodes, constants=None, shape=("n", 2), names=("x", "y")):
    nodes = nodes or (helper.make_node("MatMul", ["x", "w"], ["y"]),)
    constants = {"w": np.ones((2, 2), np.float32)} if constants is None else constants
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(names[0], TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(names[1], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


# --- sizes ----------------------------------------------------------------------------------------------------------

BOMB = gzip.compress(b"\0" * 2**26, 9)


def test_a_bomb_is_unpacked_up_to_the_limit_only(tmp_path):
    path = tmp_path / "bomb.gz"
    # two members of 64 MiB each in 130 kB
    path.write_bytes(BOMB + BOMB)
    with pytest.raises(DataError, match="holds more than 1,000 bytes"):
        read_limited(path, 1000, DataError)
    assert len(read_limited(path, 2**27, DataError)) == 2**27


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (read_idx, DataError),
        (read_specification, SpecificationError),
        (open_model, NetworkError),
        (read_npy, ProblemError),
    ],
    ids=["idx", "vnnlib", "onnx", "npy"],
)  # fmt: skip
def test_every_reader_has_a_limit(tmp_path, read, error):
    path = tmp_path / "bomb.gz"
    path.write_bytes(BOMB)
    with pytest.raises(error, match="more than 100 bytes"):
        read(path, limit=100)
    plain = tmp_path / "plain"
    plain.write_bytes(b"0" * 101)
    with pytest.raises(error, match="more than 100 bytes"):
        read(plain, limit=100)


def test_a_zip_bomb_and_a_header_that_promises_too_much(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(2**20))
    assert (tmp_path / "x.npz").stat().st_size < 20_000
    with pytest.raises(ProblemError, match="holds more than 100,000 bytes"):
        read_npz(tmp_path / "x.npz", "a", limit=100_000)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": (2**40,), "fortran_order": False, "descr": "<f8"})
    (tmp_path / "x.npy").write_bytes(header.getvalue() + bytes(80))
    with pytest.raises(ProblemError, match="size does not fit its shape"):
        read_npy(tmp_path / "x.npy")
    (tmp_path / "x.idx").write_bytes(b"\0\0\x08\x04" + b"\x80\0\0\0" * 4)
    with pytest.raises(DataError, match="its header asks for"):
        read_idx(tmp_path / "x.idx")
    with zipfile.ZipFile(tmp_path / "y.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.npy", b"")
    with pytest.raises(ProblemError, match="compressed in an unusual way"):
        read_npz(tmp_path / "y.npz", "a")


def test_arrays_are_read_as_numpy_reads_them(tmp_path):
    arrays = [np.arange(6).reshape(2, 3), np.asfortranarray(np.eye(3)[:2]), np.float32(2.5), np.zeros((0, 2))]
    arrays += [np.array([True, False]), np.arange(3, dtype=">u2")]
    for k, array in enumerate(arrays):
        np.save(tmp_path / f"{k}.npy", array)
        np.savez(tmp_path / f"{k}.npz", a=array)
        for read in (read_npy(tmp_path / f"{k}.npy"), read_npz(tmp_path / f"{k}.npz", "a")):
            assert read.dtype == np.float64 and read.shape == np.shape(array) and np.array_equal(read, array)


def test_what_is_no_ordinary_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.vnnlib")
    with pytest.raises(SpecificationError, match="no ordinary file"):
        read_specification(tmp_path / "pipe.vnnlib")


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("ConstantOfShape", ["big"], ["c"]),
        helper.make_node("Expand", ["one", "big"], ["c"]),
        helper.make_node("Tile", ["one", "big"], ["c"]),
        helper.make_node("Range", ["zero", "huge", "step"], ["c"]),
        helper.make_node("MatMul", ["column", "row"], ["c"]),
        helper.make_node("Gemm", ["column", "row"], ["c"]),
        helper.make_node("Gemm", ["row", "column", "column"], ["c"], transA=1, transB=1),
        helper.make_node("Einsum", ["column", "row"], ["c"], equation="ij,jk->ik"),
        helper.make_node("Einsum", ["column", "column"], ["c"], equation="ij,kj"),
        helper.make_node("Einsum", ["column", "row"], ["c"], equation="...,...->..."),
        helper.make_node("Add", ["column", "row"], ["c"]),
        helper.make_node("Where", ["yes", "column", "row"], ["c"]),
        helper.make_node("Max", ["column", "row"], ["c"]),
        helper.make_node("PRelu", ["column", "row"], ["c"]),
        helper.make_node("Clip", ["column", "row"], ["c"]),
        helper.make_node("DequantizeLinear", ["bytes", "row"], ["c"]),
        helper.make_node("QuantizeLinear", ["column", "row"], ["c"]),
        helper.make_node("MatMulInteger", ["bytes", "byterow"], ["c"]),
        helper.make_node("Pad", ["column", "pads"], ["c"]),
        helper.make_node("Pad", ["column", "pads"], ["c"], mode="edge"),
        helper.make_node("Resize", ["image", "", "", "sizes"], ["c"], mode="linear"),
        helper.make_node("Resize", ["image", "", "scales"], ["c"]),
        helper.make_node("OneHot", ["whole", "huge", "ends"], ["c"]),
        helper.make_node("Tile", ["four", "wraps"], ["c"]),
        helper.make_node("GatherElements", ["spots", "far"], ["c"]),
        helper.make_node("ScatterElements", ["spots", "far", "spots"], ["c"]),
        helper.make_node("Gather", ["row", "many"], ["c"]),
        helper.make_node("HannWindow", ["huge"], ["c"]),
        helper.make_node("DFT", ["image", "huge"], ["c"]),
        helper.make_node("CenterCropPad", ["one", "big"], ["c"]),
        helper.make_node("Col2Im", ["image1", "twice", "ones"], ["c"]),
        helper.make_node("AffineGrid", ["theta", "sizes"], ["c"]),
        helper.make_node("MatMul", ["square", "square"], ["c"]),
        helper.make_node("RandomNormal", [], ["c"], shape=[2**40]),
        helper.make_node("RegexFullMatch", ["one"], ["c"], pattern="(a*)*b"),
    ],
    ids=lambda node: node.op_type,
)
def test_constants_cannot_fill_the_memory(node):
    constants = {
        "big": np.array([2**40]), "one": np.ones(1, np.float32), "zero": np.array(0), "huge": np.array(2**40),
        "step": np.array(1), "column": np.ones((2**15, 1), np.float32), "row": np.ones((1, 2**15), np.float32),
        "yes": np.array(True), "bytes": np.ones((2**15, 1), np.int8), "byterow": np.ones((1, 2**15), np.int8),
        "pads": np.array([0, 0, 0, 2**40]), "image": np.ones((1, 1, 2, 2), np.float32),
        "sizes": np.array([1, 1, 2**20, 2**20]), "scales": np.array([1, 1, 1e30, 1], np.float32),
        "whole": np.array([1, 2]), "ends": np.array([0, 1], np.float32), "image1": np.ones((1, 1), np.float32),
        "four": np.ones(4, np.float32), "wraps": np.array([2**62 + 1]), "many": np.zeros(2**14, np.int64),
        "twice": np.array([2**20, 2**20]), "ones": np.array([1, 1]), "theta": np.ones((1, 2, 3), np.float32),
        "spots": np.array([1, 2]), "far": np.array([2**40, 1]), "square": np.ones((2**11, 2**11), np.int64),
    }  # fmt: skip
    used = {n: v for n, v in constants.items() if n in node.input}
    with limited_allocations(), pytest.raises(UnsupportedOperator, match="of constants"):
        cl.load(model(node, helper.make_node("Add", ["x", "c"], ["y"]), constants=used))


@contextmanager
def limited_allocations():
    """Fails what would allocate 2²⁹ bytes beyond what is used already, on systems where that can be told."""
    with memory.guarded(2**29):
        yield


def test_constants_made_one_after_the_other_cannot_fill_the_memory():
    """Each of them is small enough."""
    nodes = [helper.make_node("ConstantOfShape", ["size"], ["c0"])]
    nodes += [helper.make_node("Neg", [f"c{i}"], [f"c{i + 1}"]) for i in range(9)]
    nodes += [helper.make_node("ReduceSum", ["c9"], ["s"]), helper.make_node("Add", ["x", "s"], ["y"])]
    with limited_allocations(), pytest.raises(UnsupportedOperator, match="Neg of constants has shape"):
        cl.load(model(*nodes, constants={"size": np.array([2**23])}))


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([helper.make_node("Expand", ["x", "big"], ["y"])], {"big": np.array([1, 2**20, 2**20, 2])}),
        ([helper.make_node("Tile", ["x", "big"], ["y"])], {"big": np.array([1, 2**40])}),
        ([helper.make_node("Tile", ["x", "big"], ["y"])], {"big": np.array([1, 2**63 - 1])}),
        ([helper.make_node("Pad", ["x", "big"], ["y"])], {"big": np.array([0, 0, 0, 2**40])}),
        ([helper.make_node("Pad", ["x", "big"], ["y"], mode="edge")], {"big": np.array([0, 0, 0, 2**40])}),
        ([helper.make_node("Add", ["x", "column"], ["h"]), helper.make_node("Add", ["h", "plane"], ["y"])],
         {"column": np.ones((2**14, 1), np.float32), "plane": np.ones((2**13, 1, 1), np.float32)}),
        ([helper.make_node("Add", ["x", "column"], ["h"]), helper.make_node("Transpose", ["h"], ["t"]),
          helper.make_node("MatMul", ["h", "t"], ["y"])], {"column": np.ones((2**14, 1), np.float32)}),
        ([helper.make_node("Unsqueeze", ["x", "axes"], ["i"]), helper.make_node("Resize", ["i", "", "", "big"], ["y"])],
         {"axes": np.array([1, 2]), "big": np.array([1, 1, 2**20, 2**20])}),
        ([helper.make_node("Einsum", ["x", "x"], ["s"], equation="ij,kl->ijkl"),
          helper.make_node("Expand", ["s", "big"], ["y"])], {"big": np.array([2**40])}),
        ([helper.make_node("LRN", ["x"], ["y"], size=2**30 + 1)], {}),
        ([helper.make_node("Unsqueeze", ["x", "axes"], ["i"]),
          helper.make_node("MaxPool", ["i"], ["y"], kernel_shape=[1], pads=[2**30, 2**30], strides=[2**30])],
         {"axes": np.array([1])}),
        ([helper.make_node("Unsqueeze", ["x", "axes"], ["i"]),
          helper.make_node("Conv", ["i", "w"], ["y"], pads=[2**30, 2**30], strides=[2**30])],
         {"axes": np.array([1]), "w": np.ones((1, 1, 1), np.float32)}),
        ([helper.make_node("Unsqueeze", ["x", "axes"], ["i"]),
          helper.make_node("ConvTranspose", ["i", "w"], ["y"], strides=[2**30], pads=[2**29, 2**29])],
         {"axes": np.array([1]), "w": np.ones((1, 1, 1), np.float32)}),
    ],
    ids=lambda given: "-".join(n.op_type for n in given) if isinstance(given, list) else "",
)  # fmt: skip
def test_layers_cannot_fill_the_memory(nodes, constants):
    with limited_allocations(), pytest.raises(NetworkError, match="elements"):
        cl.load(model(*nodes, constants=constants))


@pytest.mark.parametrize("node", [helper.make_node("LRN", ["x"], ["y"], size=2)], ids=lambda node: node.op_type)
def test_what_onnxruntime_refuses_is_one_line(node):
    with pytest.raises(NetworkError, match="cannot run") as refused:
        cl.load(model(node, constants={}))
    assert str(refused.value).isprintable()


def test_a_branch_that_is_never_taken_is_not_run():
    """onnxruntime computes the constants of both branches beforehand."""

    def branch(*nodes, constants=None):
        made = [numpy_helper.from_array(v, n) for n, v in (constants or {}).items()]
        return helper.make_graph(nodes, "b", [], [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)], made)

    taken = branch(helper.make_node("Relu", ["x"], ["o"]))
    bomb = branch(
        helper.make_node("ConstantOfShape", ["big"], ["c"]), helper.make_node("Add", ["c", "x"], ["o"]),
        constants={"big": np.array([2**40])},
    )  # fmt: skip
    choice = helper.make_node("If", ["yes"], ["y"], then_branch=taken, else_branch=bomb)
    given = model(choice, constants={"yes": np.array(True)})
    before = given.SerializeToString()
    with limited_allocations():
        net = cl.load(given)
        found = net.original(torch.tensor([[-1.0, 2]]), [net.layers[-1]])[net.layers[-1]]
    assert found.tolist() == [[0, 2]] and given.SerializeToString() == before


def test_what_no_output_needs_is_not_run():
    """onnxruntime would compute it beforehand."""
    unread = [
        helper.make_node("ConstantOfShape", ["big"], ["c"]),
        helper.make_node("Conv", ["c", "c"], ["d"], kernel_shape=[2**31]),
    ]
    net = cl.load(model(*unread, helper.make_node("Relu", ["x"], ["y"]), constants={"big": np.array([2**40])}))
    assert net.original(torch.tensor([[-1.0, 2]]), [net.layers[-1]])[net.layers[-1]].tolist() == [[0, 2]]


def loop(inner, trips="trips"):
    """A loop whose state ``s`` goes through ``inner`` to ``t``."""
    kinds = {"i": TensorProto.INT64, "go": TensorProto.BOOL, "on": TensorProto.BOOL}
    ends = {
        name: helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), [])
        for name in ("i", "go", "on", "s", "t")
    }
    nodes = [helper.make_node("Identity", ["go"], ["on"]), *inner]
    body = helper.make_graph(nodes, "body", [ends["i"], ends["go"], ends["s"]], [ends["on"], ends["t"]])
    return helper.make_node("Loop", [trips, "go", "s"], ["t"], body=body)


@pytest.mark.parametrize("depth", [1, 3])
def test_a_loop_that_hardly_ends_is_not_run(depth):
    node = helper.make_node("Identity", ["s"], ["t"])
    for _ in range(depth):
        node = loop([node])
    constants = {"trips": np.array(2**62 if depth == 1 else 500), "go": np.array(True), "s": np.float32(1)}
    with pytest.raises(UnsupportedOperator, match="more than 512 times" if depth == 1 else "4096 times together"):
        cl.load(model(node, helper.make_node("Add", ["x", "t"], ["y"]), constants=constants))


def test_a_loop_without_results_is_malformed():
    made = helper.make_node("Loop", ["trips", "go"], ["c"], body=helper.make_graph([], "body", [], []))
    constants = {"trips": np.array(2**62), "go": np.array(True)}
    with pytest.raises(NetworkError, match=r"Loop.*malformed"):
        cl.load(model(made, helper.make_node("Add", ["x", "c"], ["y"]), constants=constants))


@pytest.mark.parametrize("shape", [("n", 2**40), ("n", 2**20, 2**20, 2**20), ("n", -3)])
def test_an_input_of_impossible_size_is_refused(shape):
    with pytest.raises(NetworkError, match="each extent is at least 1"):
        cl.load(model(helper.make_node("Relu", ["x"], ["y"]), shape=shape))


# --- external data --------------------------------------------------------------------------------------------------


def external(folder, location, **entries):
    """A model whose weights lie elsewhere."""
    made = model()
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    folder.mkdir(exist_ok=True)
    (folder / "net.onnx").write_bytes(made.SerializeToString())
    return folder / "net.onnx"


WEIGHTS = np.array([[1, 2], [3, 4]], np.float32)


def test_weights_beside_the_model_are_read(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(b"1234" + WEIGHTS.tobytes())
    net = cl.load(external(tmp_path, "sub/w.bin", offset=4, length=16))
    assert net.original(torch.eye(2), [net.layers[-1]])[net.layers[-1]].tolist() == WEIGHTS.tolist()


@pytest.mark.parametrize(
    "location", ["../w.bin", "/etc/hostname", "a/../../w.bin", "C:\\w.bin", "\\\\host\\w.bin", "..\\w.bin"]
)
def test_weights_outside_of_the_folder_are_not_read(tmp_path, location):
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    with pytest.raises(NetworkError, match="outside of the model's folder"):
        cl.load(external(tmp_path / "inner", location))


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    path = external(tmp_path / "inner", "w.bin")
    (tmp_path / "inner" / "w.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(NetworkError, match="a link out of the model's folder"):
        cl.load(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": 8, "length": 16}, "asks for bytes 8 to 24 of a file of 16"),
        ({"offset": -4}, "asks for bytes"),
        ({"length": 2**62}, "asks for bytes"),
        ({"offset": "many"}, "cannot be read"),
        ({"length": 8}, "cannot be read"),
    ],
)
def test_external_data_that_does_not_fit_is_refused(tmp_path, entries, message):
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    with pytest.raises(NetworkError, match=message):
        cl.load(external(tmp_path, "w.bin", **entries))


# --- code -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["net.pt", "net.pkl", "net.onnx"])
def test_a_pickled_model_is_refused_with_a_way_to_convert_it(tmp_path, name, capsys):
    torch.save(torch.nn.Linear(2, 2), tmp_path / name)
    with pytest.raises(NetworkError, match=r"is a pickle.*safetensors.*torch\.onnx\.export"):
        cl.load(tmp_path / name)
    assert run(["supports", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "is a pickle" in error


CODE = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\ndef build():\n    raise SystemExit\n"
STATED = '[objective]\nmaximize = "output[0]"\n'


def test_a_problem_file_runs_no_code_unless_it_may(tmp_path, capsys):
    (tmp_path / "evil.py").write_text(CODE)
    path = tmp_path / "problem.toml"
    for source in ("evil.py:build", "os:getcwd", "./evil.py:build"):
        path.write_text(f'model = "{source}"\ninput_shape = [2]\n{STATED}')
        with pytest.raises(ProblemError, match=r"is Python code.*--run-code"):
            read_problem(path)
        assert run(["solve", str(path)]) == 2 and not (tmp_path / "ran").exists()
    capsys.readouterr()
    (tmp_path / "good.py").write_text("from torch import nn\ndef build():\n    return nn.Linear(2, 2).eval()\n")
    path.write_text(f'model = "good.py:build"\ninput_shape = [2]\nrange = [0, 1]\n{STATED}')
    assert run(["solve", str(path), "--run-code", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["gap"] <= 1e-3


def test_the_package_imports_nothing_that_unpickles_and_starts_no_shell():
    banned = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "yaml"}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                # what a study's own processes send each other: nothing there reads a file
                spared = {"pickle"} if path == PACKAGE / "study" / "task.py" else set()
                assert not (banned - spared) & {name.partition(".")[0] for name in names}, path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                options = {k.arg: k.value for k in node.keywords}
                shell = options.get("shell")
                assert shell is None or (isinstance(shell, ast.Constant) and shell.value is False), path
                if node.func.attr == "load" and isinstance(node.func.value, ast.Name) and node.func.value.id == "np":
                    pickled = options.get("allow_pickle")
                    assert isinstance(pickled, ast.Constant) and pickled.value is False, path
                assert (getattr(node.func.value, "id", ""), node.func.attr) != ("os", "system"), path


# --- what is printed ------------------------------------------------------------------------------------------------

TRICKY = "\x1b[2J[bold]<script>\u202egnp\x9b31m\\"


def test_tricks_in_names_stay_text():
    assert printable("plain, ‖x − x₀‖, 中文\n\t") == "plain, ‖x − x₀‖, 中文\n\t"
    assert printable(TRICKY) == "\\x1b[2J[bold]<script>\\u202egnp\\x9b31m\\"
    assert printable("\ud800\u2028") == "\\ud800\\u2028"


def test_names_with_tricks_are_printed_as_text(tmp_path, capsys, monkeypatch):
    # a narrow table folds names over several lines
    monkeypatch.setenv("COLUMNS", "200")
    nodes = helper.make_node("MatMul", ["x", "w"], ["h"], name=TRICKY), helper.make_node("Relu", ["h"], ["y"])
    path = tmp_path / "net.onnx"
    path.write_bytes(model(*nodes).SerializeToString())
    assert run(["supports", str(path)]) == 0
    out = capsys.readouterr().out
    assert not set(out) & set("\x1b\u202e\x9b") and "[bold]" in out and "<script>" in out and "\\x1b" in out
    assert run(["supports", str(path), "--json", "-"]) == 0
    out = capsys.readouterr().out
    assert out.isascii() and json.loads(out)["layers"][0]["name"] == TRICKY
    nodes = (helper.make_node("RandomNormalLike", ["x"], ["y"], name=TRICKY),)
    path.write_bytes(model(*nodes).SerializeToString())
    assert run(["supports", str(path)]) == 2
    # what is in the way is listed on standard output, for people and for programs
    out = capsys.readouterr().out
    assert "RandomNormalLike" in out and not set(out) & set("\x1b\u202e\x9b") and "\\x1b" in out
    assert run(["supports", str(path), "--json", "-"]) == 2
    out = capsys.readouterr().out
    assert out.isascii() and len(json.loads(out)["missing"]) == 1


def test_a_missing_file_with_a_tricky_name(capsys):
    assert run(["verify", "\x1b[31m.onnx", "a\u202e.vnnlib"]) == 2
    assert not set(capsys.readouterr().err) & set("\x1b\u202e")


# --- what is written ------------------------------------------------------------------------------------------------


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "result.json"
    write_whole(target, "first")
    target.chmod(0o640)
    write_whole(target, "second")
    assert target.read_text() == "second" and target.stat().st_mode & 0o777 == 0o640

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(target, "third")
    assert target.read_text() == "second" and list(tmp_path.iterdir()) == [target]


FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")


@FULL
def test_what_a_full_disk_does_not_take_goes_to_standard_output(tmp_path, capsys):
    path = tmp_path / "net.onnx"
    path.write_bytes(model().SerializeToString())
    assert run(["supports", str(path), "--json", "/dev/full"]) == 2
    captured = capsys.readouterr()
    assert '"whole_network"' in captured.out
    assert captured.err.count("\n") == 1 and "No space left on device. The result stands on" in captured.err


@FULL
def test_a_full_standard_output_is_one_line(tmp_path):
    (tmp_path / "net.onnx").write_bytes(model().SerializeToString())
    command = "from clinch.cli import main; main()"
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", command, "supports", "net.onnx"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE,
            text=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1 and "No space left" in ended.stderr


def test_a_result_that_cannot_be_written_is_told_before_work(tmp_path, capsys):
    (tmp_path / "net.onnx").write_bytes(model().SerializeToString())
    (tmp_path / "p.toml").write_text(f'model = "net.onnx"\n{STATED}')
    for option in ("--json", "--keep"):
        assert run(["solve", str(tmp_path / "p.toml"), option, str(tmp_path / "nowhere" / "a.json")]) == 2
        assert "Cannot write" in capsys.readouterr().err
