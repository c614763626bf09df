"""Data of strangers through the command line: one line, exit code 2, in a process that may not take a gigabyte."""

from __future__ import annotations

import gzip
import io
import os
import resource
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from clinch.cli import run
from clinch.study.sources import DataError, open_source

#: bytes of data that a child may have, and seconds after which it counts as hanging
MEMORY, HANGING = 2**30, 300
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pipes, devices and limits are Linux's")


def clinch(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own with little memory."""
    return subprocess.run(
        [sys.executable, "-m", "clinch", *arguments], capture_output=True, text=True, timeout=HANGING,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY)),
    )  # fmt: skip


def is_one_line(ended: subprocess.CompletedProcess[str], *words: str) -> None:
    assert ended.returncode == 2, ended.stderr[-2000:]
    assert ended.stderr.startswith("clinch: ") and ended.stderr.count("\n") == 1, ended.stderr[-2000:]
    assert all(word in ended.stderr for word in words), ended.stderr


def is_refused(*arguments: str, own: bool) -> None:
    """By a command; in a process of its ``own`` where a wrong one would hang, or take all memory."""
    if own:
        is_one_line(clinch(*arguments))
    else:
        assert run(list(arguments)) == 2


def npy(header: bytes, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def stored(array: np.ndarray, **options: bool) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def archive(path, **members: bytes) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return str(path)


X, Y = stored(np.zeros((3, 64), np.float32)), stored(np.arange(3))
HUGE = b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4000000000), }\n"
LYING = b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 64), }\n"

ARRAYS = {
    "strings": (stored(np.array([["a" * 64]] * 3)), Y), "bytes": (stored(np.array([[b"ab"]] * 3)), Y),
    "structures": (stored(np.zeros(3, [("a", "f4"), ("b", "i8")])), Y),
    "dates": (stored(np.zeros((3, 64), "datetime64[s]")), Y), "spans": (stored(np.zeros((3, 64), "timedelta64[s]")), Y),
    "complex": (stored(np.zeros((3, 64), np.complex64)), Y), "void": (stored(np.zeros((3, 4), "V8")), Y),
    "objects": (stored(np.array([None] * 3), allow_pickle=True), Y),
    "sizes that do not fit": (npy(HUGE), Y), "too few values": (npy(LYING, b"\0" * 8), Y),
    "too many values": (npy(LYING, b"\0" * 4 * 3 * 65), Y), "no header": (b"\x93NUMPY\x01\x00\xff\xff", Y),
    "another version": (b"\x93NUMPY\x03\x00" + struct.pack("<I", len(LYING)) + LYING, Y),
    "code for a header": (npy(b"__import__('os').abort()\n"), Y), "nothing": (b"", Y),
    "deep header": (npy(b"[" * 60000), Y), "negative sizes": (npy(LYING.replace(b"(3,", b"(-3,")), Y),
    "negative labels": (X, stored(np.array([0, 1, -5]))), "labels of halves": (X, stored(np.array([0, 1, 0.5]))),
    "labels of complex numbers": (X, stored(np.array([0, 1j, 1]))), "labels beyond 64 bits": (
        X, stored(np.array([0, 1, 2**64 - 1], np.uint64))
    ),
    "labels in a table": (X, stored(np.zeros((3, 1), int))), "too few labels": (X, stored(np.arange(2))),
    "a number for images": (stored(np.array(1, np.float32)), Y),
}  # fmt: skip


@LINUX
@pytest.mark.parametrize("case", ARRAYS)
def test_crafted_arrays(case, tmp_path):
    x, y = ARRAYS[case]
    path = archive(tmp_path / "data.npz", x=x, y=y)
    with pytest.raises(DataError) as caught:
        open_source(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert run(["evaluate", "clinch.demo:network", "--data", path, "--eps", "0.1"]) == 2


@LINUX
def test_big_endian_and_columns_first_are_numbers_too(tmp_path):
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    for name, other in (("big", x.astype(">f4")), ("columns", np.asfortranarray(x)), ("half", x.astype(np.float16))):
        source = open_source(archive(tmp_path / f"{name}.npz", x=stored(other), y=stored(np.arange(3, dtype=">i8"))))
        batch = source.read([0, 1, 2], (4,), torch.float32)
        assert (batch.x.numpy() == x).all() and batch.y.tolist() == [0, 1, 2] and batch.errors == [None] * 3


@LINUX
def test_an_array_that_grows_without_end(tmp_path):
    """Three hundred kilobytes that would become 300 MB."""
    path, size = tmp_path / "bomb.npz", 3 * 10**8
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (3, 100000000), }\n"
    archive(path, x=npy(header, bytes(size)), y=Y)
    assert path.stat().st_size < size / 500
    is_one_line(clinch("evaluate", "clinch.demo:network", "--data", str(path), "--eps", "0.1"), "bytes")


@LINUX
@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "directory"])
def test_damaged_archives(damage, tmp_path):
    path = tmp_path / "data.npz"
    archive(path, x=stored(np.random.default_rng(0).random((3, 64)).astype(np.float32)), y=Y)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[120:180] = bytes(60)
    elif damage == "text":
        content = bytearray(b"not an archive")
    else:
        content[-10:-6] = b"\xff\xff\xff\x7f"
    path.write_bytes(content)
    assert run(["evaluate", "clinch.demo:network", "--data", str(path), "--eps", "0.1"]) == 2


def folder(tmp_path):
    """A folder of images, one of them good."""
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "images" / "a" / "good.png")
    return tmp_path / "images"


@LINUX
@pytest.mark.parametrize("kind", ["pipe", "device", "link out", "folder out", "class out", "circle", "too large"])
def test_what_lies_in_a_folder_of_images(kind, tmp_path):
    images = folder(tmp_path)
    at = images / "b" / "odd.png"
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.png").write_bytes((images / "a" / "good.png").read_bytes())
    if kind == "pipe":
        os.mkfifo(at)
    elif kind == "device":
        at.symlink_to("/dev/zero")
    elif kind == "link out":
        at.symlink_to(tmp_path / "outside" / "secret.png")
    elif kind == "folder out":
        (images / "b" / "more").symlink_to(tmp_path / "outside")
    elif kind == "class out":
        (images / "c").symlink_to(tmp_path / "outside")
    elif kind == "circle":
        at.symlink_to(at)
    else:
        with at.open("wb") as file:
            file.truncate(2**33)
    is_refused("evaluate", "clinch.demo:network", "--data", str(images), "--eps", "0.1", own=kind in ("pipe", "device"))


def png(width: int, height: int) -> bytes:
    """A picture of one colour: many pixels in few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows, packer = b"\0" * (1 + width // 8), zlib.compressobj(9)
    body = b"".join(packer.compress(rows) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@LINUX
def test_a_picture_that_grows_without_end_is_not_decoded(tmp_path):
    images = folder(tmp_path)
    (images / "a" / "good.png").unlink()
    (images / "b" / "bomb.png").write_bytes(png(40_000, 40_000))
    is_one_line(clinch("evaluate", "clinch.demo:network", "--data", str(images), "--eps", "0.1"))
    (error,) = open_source(images).read([0], (1, 8, 8), torch.float32).errors
    assert error is not None and "pixels" in error


@LINUX
@pytest.mark.parametrize("kind", ["bomb", "pipe", "no dimensions", "labels in a table", "cut"])
def test_idx_files(kind, tmp_path, monkeypatch):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images, labels = (raw / f"t10k-{name}-ubyte" for name in ("images-idx3", "labels-idx1"))
    labels.write_bytes(b"\0\0\x08\x01" + struct.pack(">I", 2) + b"\1\2")
    images.write_bytes(b"\0\0\x08\x03" + struct.pack(">III", 2, 28, 28) + bytes(2 * 28 * 28))
    if kind == "bomb":
        images.unlink()
        with gzip.open(f"{images}.gz", "wb", 9) as file:
            file.write(b"\0\0\x08\x03" + struct.pack(">III", 2**20, 1024, 2))
        with open(f"{images}.gz", "ab") as file:
            file.write(gzip.compress(bytes(2**24), 9) * 128)
    elif kind == "pipe":
        images.unlink()
        os.mkfifo(images)
    elif kind == "no dimensions":
        images.write_bytes(b"\0\0\x08\0\1")
    elif kind == "labels in a table":
        labels.write_bytes(b"\0\0\x08\x02" + struct.pack(">II", 2, 1) + b"\1\2")
    else:
        images.write_bytes(images.read_bytes()[:100])
    monkeypatch.setenv("CLINCH_DATA", str(tmp_path))
    is_refused("evaluate", "clinch.demo:network", "--data", "mnist", "--eps", "0.1", own=kind == "bomb")


@LINUX
def test_cifar_from_a_device(tmp_path, monkeypatch, capsys):
    (tmp_path / "cifar-10-batches-bin").mkdir()
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").symlink_to("/dev/zero")
    monkeypatch.setenv("CLINCH_DATA", str(tmp_path))
    assert run(["evaluate", "clinch.demo:network", "--data", "cifar10", "--eps", "0.1"]) == 2
    assert "no ordinary file" in capsys.readouterr().err


@LINUX
@pytest.mark.parametrize("name", ["a.onnx", "a.onnx.gz", "a.pt", "a.npz"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_pipes_and_devices_in_the_place_of_files(name, kind, tmp_path):
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    if name == "a.npz":
        assert run(["evaluate", "clinch.demo:network", "--data", str(path), "--eps", "0.1"]) == 2
    else:
        assert run(["verify", str(path), str(path)]) == 2 and run(["supports", str(path)]) == 2


@LINUX
@pytest.mark.parametrize("reader", ["solve", "verify", "check"])
def test_specifications_problems_and_certificates_that_are_no_files_or_grow(reader, tmp_path):
    bomb = gzip.compress(bytes(2**27), 9)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "deep").write_text("x = " + "[" * 200_000)
    (tmp_path / "bomb").write_bytes(bomb)
    for name in ("pipe", "zero", "deep", "bomb"):
        path = str(tmp_path / name)
        given = {
            "solve": ["solve", path],
            "verify": ["verify", "clinch.demo:network", path],
            "check": ["check", path, path],
        }
        # what a certificate does not prove is a negative answer
        assert run(given[reader]) in ((1, 2) if reader == "check" else (2,)), name
