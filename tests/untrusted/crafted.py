"""Small files that ask for much, or mean nothing: one for each way we know to hurt a reader that a command has.

A case writes its files into a folder and says how a command is called with them. What must come of each is one line on
standard error and exit code 2. ``benchmarks/proofs/crafted_files.py`` measures memory and time of each.
"""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
import struct
import zipfile
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

#: the demo's network needs no file
MODEL = "clinch.demo:network"
STATED = f'model = "{MODEL}"\ninput_shape = [8, 8]\n'
OBJECTIVE = '[objective]\nmaximize = "output[0]"\n'
NORM = '[objective]\nminimize = "norm"\np = 2\n'


@dataclass(frozen=True)
class Case:
    """A command with crafted files, and the environment it needs."""

    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)


CASES: dict[str, Callable[[Path], Case]] = {}


def case(name: str) -> Callable[[Callable[[Path], Case]], Callable[[Path], Case]]:
    """Keep a case under a name."""

    def keep(make: Callable[[Path], Case]) -> Callable[[Path], Case]:
        CASES[name] = make
        return make

    return keep


# --- what files are made of -------------------------------------------------------------------------------------------


def zeros_gz(path: Path, mebibytes: int, start: bytes = b"", each: bytes = b"\0") -> None:
    """A file that unpacks to so many MiB of one byte, or of a short text, after a beginning."""
    one = gzip.compress(each * (2**20 * 16 // len(each)), 9)
    path.write_bytes((gzip.compress(start) if start else b"") + one * (mebibytes // 16))


def model_bytes(dims: list[int] | None = None, raw: bytes | None = None) -> bytes:
    """A network of two inputs and outputs, its weights of another size, if asked for."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones((2, 2), np.float32), "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if dims is not None:
        model.graph.initializer[0].dims[:] = dims
    if raw is not None:
        model.graph.initializer[0].raw_data = raw
    return model.SerializeToString()


def npy(shape: tuple[int, ...], body: bytes = b"", descr: str = "<f8") -> bytes:
    """A file of NumPy whose header may lie."""
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def safetensors(path: Path, header: dict[str, object] | bytes, size: int = 0, length: int | None = None) -> None:
    """A file of weights whose header may lie, with so many bytes (a hole in the file) behind it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text) if length is None else length) + text)
        file.truncate(8 + len(text) + size)


def png(width: int, height: int, extra: bytes = b"") -> bytes:
    """A picture of one colour: many pixels in few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows, packer = b"\0" * (1 + width // 8), zlib.compressobj(9)
    body = b"".join(packer.compress(rows) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def progressive(scans: int) -> bytes:
    """A JPEG of 4096 by 4096 grey pixels, each of whose scans says nothing new about any of them."""
    import io

    stream = io.BytesIO()
    Image.new("L", (4096, 4096)).save(stream, "JPEG", progressive=True)
    content = stream.getvalue()
    first = content.rindex(b"\xff\xda")
    return content[:first] + content[first:-2] * scans + b"\xff\xd9"


# --- models -----------------------------------------------------------------------------------------------------------


def _model_case(content: bytes | None, name: str, folder: Path) -> Case:
    path = folder / name
    if content is None:
        # the length of the weights, then weights of zeros: 2,000 MiB in 2 MB
        zeros_gz(path, 2000, model_bytes()[:-1])
    else:
        path.write_bytes(content)
    return Case(["supports", str(path)])


CASES["onnx.gz that grows"] = partial(_model_case, None, "m.onnx.gz")
CASES["onnx of impossible weights"] = partial(_model_case, model_bytes([2**31, 2**31]), "m.onnx")
CASES["onnx of weights of a negative size"] = partial(_model_case, model_bytes([-2, -2]), "m.onnx")
CASES["onnx of too few weights"] = partial(_model_case, model_bytes([20000, 20000], b"\0" * 16), "m.onnx")
CASES["onnx of zeros"] = partial(_model_case, bytes(2**20), "m.onnx")
CASES["onnx of nested groups"] = partial(_model_case, b"\x0b" * 10**6, "m.onnx")


@case("onnx.gz of members without end")
def _members(folder: Path) -> Case:
    (folder / "m.onnx.gz").write_bytes(gzip.compress(b"") * 200_000)
    return Case(["verify", str(folder / "m.onnx.gz"), str(folder / "m.onnx.gz")])


# --- specifications ---------------------------------------------------------------------------------------------------

X, Y = b"(declare-const X_0 Real)\n", b"(declare-const Y_0 Real)\n"
_DECLARED = b"(vnnlib-version <2.0>)(declare-network f (declare-input X float32 %b)(declare-output Y float32 [1]))"
SPECIFICATIONS: dict[str, bytes | tuple[bytes, bytes]] = {
    "words": (X + Y + b"(assert (and ", b"a "), "numbers": (X + Y + b"(assert (<= X_0 (+ ", b"1 "),
    "open parentheses": (b"", b"("), "assertions": (X + Y, b"(assert(<= X_0 1))"),
    "empty assertions": (X + Y, b"(assert)"),
    "disjunctions": (X + Y + b"(assert (or ", b"(and (<= Y_0 1))"), "one word": (X + Y, b"a"), "blanks": (X + Y, b" "),
    "declarations": (b"", b"(declare-const X_0 Real)"), "a text": (X + Y + b'"', b"a"), "comments": (X + Y, b";\n"),
    "line feeds": (X, b"\n"), "a sum of the same": (X + Y + b"(assert (<= 1 (+ ", b"X_0 "),
    "impossible extents": _DECLARED % b"[100000,100000]" + b"(assert (<= X[0,0] 1))",
    "many extents": _DECLARED % (b"[" + b"1," * 10**6 + b"1]") + b"(assert (<= X[0] 1))",
    "alternating": X + Y + b"(assert " + b"(or (and (<= Y_0 1) (<= Y_0 2))" * 40 + b")" * 41,
    "a product of cases": X + Y + b"(assert (or (<= Y_0 1) (<= Y_0 2)))" * 60, "not text": b"\xff\xfe" * 100,
    "an index beyond": b"(declare-const X_99999999 Real)" + Y + b"(assert (<= X_99999999 1))",
    "NaN": X + Y + b"(assert (<= X_0 nan))", "infinity": X + Y + b"(assert (<= X_0 1e999))",
}  # fmt: skip


def _specification_case(content: bytes | tuple[bytes, bytes], folder: Path) -> Case:
    path = folder / "p.vnnlib.gz"
    if isinstance(content, tuple):
        start, each = content
        whole = start + each * ((2**26 - 2**12) // len(each))
        path.write_bytes(gzip.compress(whole, 6))
    else:
        path.write_bytes(gzip.compress(content))
    (folder / "m.onnx").write_bytes(model_bytes())
    return Case(["verify", str(folder / "m.onnx"), str(path), "--timeout", "5"])


CASES.update({f"vnnlib of {name}": partial(_specification_case, c) for name, c in SPECIFICATIONS.items()})


# --- problem files ----------------------------------------------------------------------------------------------------

M = 2**20
_NUMBERS = ", ".join(["0.5"] * 64)
_X0 = f"{STATED}x0 = [{_NUMBERS}]\nrange = [0, 1]\n"
PROBLEMS: dict[str, str | Callable[[], str]] = {
    "a long list": lambda: f"{STATED}x0 = [{'1,' * (M // 2 - 200)}]\n{NORM}",
    "many lists": lambda: f"{STATED}x0 = [{'[],' * (M // 2 - 200)}]\n{NORM}",
    "deep lists": lambda: f"{STATED}x0 = {'[' * M}",
    "lists within lists": lambda: f"{STATED}x0 = {'[' * 90}1{']' * 90}\n{NORM}",
    "deep tables": lambda: f"{STATED}x0 = {'{a=' * M}",
    "a long key": lambda: "a." * M + "a = 1\n",
    "a long key of texts": lambda: '"a".' * (M // 2) + "a = 1\n",
    "a long name of a table": lambda: "[" + "a." * M + "a]\n",
    "many tables": lambda: "".join(f"[a{i}]\n" for i in range(M // 4)),
    "many tables in a list": lambda: STATED + "[[constraints]]\n" * (M // 8),
    "deep tables again and again": lambda: "".join(f"[{'a.' * 80}a{i}]\n" for i in range(20_000)),
    "a long number": lambda: f"{STATED}x0 = {'9' * (3 * M)}\n",
    "a long fraction": lambda: f"{STATED}x0 = 0.{'1' * (3 * M)}\n{NORM}",
    "a long text": lambda: f'model = "{"a" * (3 * M)}"\n',
    "a long name of a model": lambda: f'model = "{"a" * (3 * M)}.onnx"\n{OBJECTIVE}',
    "a long name of a module": lambda: f'model = "clinch.{"a" * M}:a"\ninput_shape = [1]\n{OBJECTIVE}',
    "a long name of a function": lambda: f'model = "clinch.demo:{"a" * M}"\ninput_shape = [1]\n{OBJECTIVE}',
    "a long name of an array": lambda: f'{STATED}x0 = "{"a" * M}.npy"\n{NORM}',
    "a long name of a layer": lambda: f'{STATED}range = [0, 1]\n[objective]\nmaximize = "{"a" * 9000}[0]"\n',
    "a long key of a table": lambda: f'{"a" * M} = 1\n',
    "escapes": lambda: f'model = "{chr(92) + "n" * 1}{(chr(92) + "n") * (1 * M)}"\n',
    "constraints": lambda: f"{STATED}range = [0, 1]\n{OBJECTIVE}" + "[[constraints]]\nclass = 1\n" * 100_000,
    "cases": lambda: f"{_X0}{NORM}[[constraints]]\nany = [{'{class = 1},' * 250_000}]\n",
    "deep cases": lambda: f"{_X0}{NORM}[[constraints]]\n" + "not = {" * 900 + "class = 1" + "}" * 900,
    "rows chosen again and again": lambda: (
        f'{STATED}range = [0, 1]\nx0 = {{dataset = "digits", index = [{"0," * (M // 2 - 200)}]}}\n{NORM}'
    ),
    "rows with true": f'{STATED}range = [0, 1]\nx0 = {{dataset = "digits", index = [true, 1]}}\n{NORM}',
    "classes": lambda: f"{_X0}{NORM}[[constraints]]\nclass = [{'1,' * (M // 2 - 200)}]\n",
    "a huge class": f"{_X0}{NORM}[[constraints]]\nclass = {10**30}\n",
    "a class too large": f"{_X0}{NORM}[[constraints]]\nclass = 10\n",
    "a true class": f"{_X0}{NORM}[[constraints]]\nclass = true\n",
    "a huge shape": f'model = "{MODEL}"\ninput_shape = [1000000000]\n{OBJECTIVE}',
    "a shape beyond 64 bits": f'model = "{MODEL}"\ninput_shape = [{10**30}]\n{OBJECTIVE}',
    "a long shape": lambda: f'model = "{MODEL}"\ninput_shape = [{"1," * (M // 2 - 200)}]\n{OBJECTIVE}',
    "NaN in x0": f"{STATED}range = [0, 1]\nx0 = [{_NUMBERS[:-3]}nan]\n{NORM}",
    "huge numbers in x0": f"{STATED}range = [0, 1]\nx0 = [{_NUMBERS[:-3]}{10**400}]\n{NORM}",
    "true in x0": f"{STATED}range = [0, 1]\nx0 = [{_NUMBERS[:-3]}true]\n{NORM}",
    "dates in x0": f"{STATED}range = [0, 1]\nx0 = [1979-05-27]\n{NORM}",
    "texts in x0": f'{STATED}range = [0, 1]\nx0 = ["0.5"]\n{NORM}',
    "true in the range": f"{STATED}range = [false, true]\n{OBJECTIVE}",
    "NaN in the range": f"{STATED}range = [nan, 1]\n{OBJECTIVE}",
    "a falling range": f"{STATED}range = [1, 0]\n{OBJECTIVE}",
    "a NaN radius": f"{_X0}{OBJECTIVE}[[constraints]]\nball = 2\nradius = nan\n",
    "a negative radius": f"{_X0}{OBJECTIVE}[[constraints]]\nball = 2\nradius = -1\n",
    "radii": lambda: f"{_X0}{OBJECTIVE}[[constraints]]\nball = 2\nradius = [{'1,' * (M // 2 - 200)}]\n",
    "NaN weights": f"{_X0}{NORM}weights = nan\n", "negative weights": f"{_X0}{NORM}weights = -1\n",
    "a NaN margin": f"{_X0}{NORM}[[constraints]]\nnot_class = 1\nmargin = nan\n",
    "an infinite margin": f"{_X0}{NORM}[[constraints]]\nnot_class = 1\nmargin = inf\n",
    "a norm of true": f'{_X0}[objective]\nminimize = "norm"\np = true\n',
    "a norm of NaN": f'{_X0}[objective]\nminimize = "norm"\np = nan\n',
    "a huge norm": f'{_X0}[objective]\nminimize = "norm"\np = {10**400}\n',
    "a NaN limit": f"{_X0}{NORM}[[constraints]]\nnot_class = 1\n[solve]\ntime_limit = nan\n",
    "a huge limit": f"{_X0}{NORM}[[constraints]]\nnot_class = 1\n[solve]\ntime_limit = {10**400}\n",
    "a NaN gap": f"{_X0}{NORM}[[constraints]]\nnot_class = 1\n[solve]\ngap = nan\n",
    "a device of its own": f'{_X0}{NORM}[[constraints]]\nnot_class = 1\n[solve]\ndevice = "a:b:c"\n',
    "a huge index in a form": f'{_X0}[objective]\nmaximize = "output[{10**30}]"\n',
    "a huge coefficient": f'{_X0}[objective]\nmaximize = "{10**400} * output[0]"\n',
    "a form of powers": f'{_X0}[objective]\nmaximize = "9**9**9**9 * output[0]"\n',
    "a form of products": lambda: f'{_X0}[objective]\nmaximize = "{"9*" * 4900}output[0]"\n',
    "a layer of its own": f'{_X0}[objective]\nmaximize = "__class__[0]"\n',
    "more bytes than are read": lambda: "#" * (5 * M), "more entries than are read": lambda: f"x = [{'1,' * M}]\n",
    "not text": "\x00\x01",
}  # fmt: skip


def _problem_case(content: str | Callable[[], str], folder: Path) -> Case:
    path = folder / "p.toml"
    path.write_text(content if isinstance(content, str) else content())
    return Case(
        ["solve", str(path), "--time-limit", "3"] if "[solve]" not in path.read_text() else ["solve", str(path)]
    )


CASES.update({f"toml with {name}": partial(_problem_case, c) for name, c in PROBLEMS.items()})


def _array_case(write: Callable[[Path], None], name: str, folder: Path) -> Case:
    write(folder / name)
    (folder / "p.toml").write_text(f'{STATED}x0 = "{name}"\n{NORM}')
    return Case(["solve", str(folder / "p.toml")])


def _hole(path: Path) -> None:
    content = npy((2**27 - 16,))
    with path.open("wb") as file:
        file.write(content)
        file.truncate(len(content) + 8 * (2**27 - 16))


def _stored(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("a.npy", "w") as member:
        member.write(npy((10**8,), descr="|u1"))
        for _ in range(100):
            member.write(bytes(10**6))


def _bombed(path: Path, mebibytes: int) -> None:
    zeros_gz(path, mebibytes, npy((mebibytes // 16 * 16 * 2**20,), descr="|u1"))


CASES["npy that is a hole"] = partial(_array_case, _hole, "x.npy")
CASES["npy packed by gzip"] = partial(_array_case, partial(_bombed, mebibytes=1008), "x.npy")
CASES["npz that grows, as x0"] = partial(_array_case, _stored, "x.npz")
CASES["npz within gzip"] = partial(
    _array_case, lambda path: (_stored(path), path.write_bytes(gzip.compress(path.read_bytes())))[0], "x.npz"
)
CASES["npy with another shape"] = partial(_array_case, lambda path: path.write_bytes(npy((3,), bytes(24))), "x.npy")


# --- images -----------------------------------------------------------------------------------------------------------


def _image_case(make: Callable[[], bytes], folder: Path, ending: str = "png") -> Case:
    (folder / "images" / "a").mkdir(parents=True)
    (folder / "images" / "a" / f"x.{ending}").write_bytes(make())
    return Case(["evaluate", MODEL, "--data", str(folder / "images"), "--eps", "0.1", "--input-shape", "8,8"])


def _webp() -> bytes:
    bits = (16383 | 16383 << 14).to_bytes(4, "little")
    body = b"WEBPVP8L" + struct.pack("<I", 5) + b"\x2f" + bits + b"\0"
    return b"RIFF" + struct.pack("<I", len(body)) + body


CASES["png of 1.6 billion pixels"] = partial(_image_case, lambda: png(40_000, 40_000))
CASES["png of 16 million pixels"] = partial(_image_case, lambda: png(4096, 4096))
CASES["png with texts that grow"] = partial(
    _image_case,
    lambda: png(8, 8, b"".join(
        struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
        for body in [b"k\0\0" + zlib.compress(bytes(2**26), 9)] * 50
    )),
)  # fmt: skip
CASES["jpeg of scans without end"] = partial(_image_case, lambda: progressive(3000), ending="jpg")
CASES["webp of 268 million pixels"] = partial(_image_case, _webp, ending="webp")
CASES["bmp of impossible extents"] = partial(
    _image_case,
    lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0),
    ending="bmp",
)
CASES["ppm of numbers without end"] = partial(_image_case, lambda: b"P3 4096 4096 255\n" + b"1" * 2**25, ending="ppm")
CASES["ppm of comments without end"] = partial(
    _image_case, lambda: b"P3 4096 4096 255\n" + b"#\n" * 2**24, ending="ppm"
)
CASES["ppm of text numbers"] = partial(_image_case, lambda: b"P3 2300 2300 255\n" + b"1 " * (3 * 2300**2), ending="ppm")


# --- arrays as data ---------------------------------------------------------------------------------------------------


def _data_case(x: np.ndarray, y: np.ndarray, folder: Path) -> Case:
    np.savez(folder / "d.npz", x=x, y=y)
    return Case(["evaluate", MODEL, "--data", str(folder / "d.npz"), "--eps", "0.1", "--input-shape", "8,8"])


_ONES = np.full((3, 8, 8), 0.5, np.float32)
CASES["npz with a label too large"] = partial(_data_case, _ONES, np.array([0, 1, 10]))
CASES["npz with huge labels"] = partial(_data_case, _ONES, np.array([0, 1, 2**62]))
CASES["npz of another shape"] = partial(_data_case, _ONES[:, :5], np.array([0, 1, 2]))
CASES["npz of values to 255"] = partial(_data_case, _ONES * 255, np.array([0, 1, 2]))
CASES["npz of NaN"] = partial(_data_case, _ONES * np.nan, np.array([0, 1, 2]))
CASES["npz without axes"] = partial(_data_case, _ONES[:, 0, 0], np.array([0, 1, 2]))
CASES["npz of empty images"] = partial(_data_case, _ONES[:, :0], np.array([0, 1, 2]))


# --- certificates and weights -----------------------------------------------------------------------------------------


def _certificate_case(write: Callable[[Path], None], folder: Path) -> Case:
    write(folder / "c.safetensors")
    (folder / "m.onnx").write_bytes(model_bytes())
    return Case(["check", str(folder / "c.safetensors"), str(folder / "m.onnx")])


def _entry(size: int, dtype: str = "F64") -> dict[str, object]:
    return {"dtype": dtype, "shape": [size // 8], "data_offsets": [0, size]}


HEADERS: dict[str, Callable[[Path], None]] = {
    "a hole of 8 GiB": lambda p: safetensors(p, {"a": _entry(2**33)}, 2**33),
    "a header without end": lambda p: safetensors(p, b"{}", 0, 2**62),
    "a deep header": lambda p: safetensors(p, b"[" * 10**7),
    "a long header": lambda p: safetensors(p, b"{" + b'"a":{},' * 10**7 + b'"b":1}'),
    "a header of many entries": lambda p: safetensors(p, b"{" + b'"a":{},' * (4 * 2**20) + b'"b":1}'),
    "deep metadata": lambda p: safetensors(p, {"__metadata__": {"clinch-certificate": "[" * 10**6}}),
    "long metadata": lambda p: safetensors(p, {"__metadata__": {"clinch-certificate": "1" * 9 * 10**7}}),
    "a long number": lambda p: safetensors(p, {"__metadata__": {"clinch-certificate": "1" * 10**6}}),
    "nothing": lambda p: p.write_bytes(b""),
}
CASES.update({f"certificate with {name}": partial(_certificate_case, write) for name, write in HEADERS.items()})


# --- runs -------------------------------------------------------------------------------------------------------------


def _run_case(write: Callable[[Path], object], command: list[str], folder: Path) -> Case:
    (folder / "run").mkdir()
    write(folder / "run" / "results.sqlite")
    return Case([*command, str(folder / "run")])


def _endless(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            "CREATE VIEW study AS WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n) "
            "SELECT k AS key, k AS value FROM n; CREATE TABLE results (image INTEGER);"
        )


RUNS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo, "a device": lambda p: p.symlink_to("/dev/zero"), "views without end": _endless,
    "text": lambda p: p.write_text("not a run"), "nothing": lambda p: p.write_bytes(b""),
}  # fmt: skip
COMMANDS = {
    "report": ["report"], "figure": ["figure"],
    "evaluate --out": ["evaluate", MODEL, "--eps", "0.1", "--limit", "1", "--methods", "bounds", "--out"],
}  # fmt: skip
for _kind, _write in RUNS.items():
    for _name, _command in COMMANDS.items():
        if not (_kind == "nothing" and _name.startswith("evaluate")):
            CASES[f"run for {_name}: {_kind}"] = partial(_run_case, _write, _command)


@case("names of classes from a device")
def _names(folder: Path) -> Case:
    return Case(["report", str(folder), "--classes", "/dev/zero"])
