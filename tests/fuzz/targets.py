"""The readers of files as targets of fuzzing: valid files, ways to spoil them, and what may come out.

A reader may return or raise a ClinchError; everything else is a defect. ``MEMORY`` is what one file may take.
"""

from __future__ import annotations

import gzip
import io
import random
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import proofs
import studies
from models import MODELS, checked, dense
from mutations import spoilt_bytes, spoilt_model, spoilt_text

import clinch
from clinch.cli.problem_file import read_problem
from clinch.errors import ClinchError
from clinch.io.data import read_idx
from clinch.io.numpy_files import names_in_npz, read_npy, read_npz
from clinch.runtime import memory
from clinch.vnnlib import read_specification
from clinch.vnnlib.cases import cases_of

MEMORY = 2**31

# --- valid files ----------------------------------------------------------------------------------------------------

SPECIFICATIONS = [
    "; a comment\n(declare-const X_0 Real)\n(declare-const X_1 Real)\n(declare-const Y_0 Real)\n"
    "(assert (>= X_0 -1.5e-1))\n(assert (<= X_0 1))\n(assert (and (>= X_1 0) (<= X_1 (/ 1 3))))\n"
    "(assert (or (and (<= Y_0 X_0)) (and (>= (+ Y_0 (* 2 X_1)) 0.5))))\n(check-sat)\n",
    "(vnnlib-version <2.0>)\n(declare-network f\n(declare-input X float32 [1,2])\n"
    '(declare-hidden H float32 [1,3] "relu")\n(declare-output Y float32 [1,2]))\n'
    "(assert (and (<= X[0,0] 1) (>= X[0,0] 0)))\n(assert (not (or (< X[0,1] 0) (> X[0,1] 1))))\n"
    "(assert (=> (<= Y[0,0] Y[0,1]) (!= H[0,2] 1)))\n",
]
PROBLEMS = [
    'model = "net.onnx"\nrange = [0, 1]\nx0 = [0.1, 0.2]\n[objective]\nminimize = "norm"\np = 2\n'
    "[[constraints]]\nnot_class = 1\nmargin = 1e-3\n[solve]\ntime_limit = 5\ngap = 0.01\nseed = 3\n",
    'model = "net.onnx"\ninput_shape = [2]\nrange = ["low.npy", [1, 1]]\nx0 = {file = "x.npz:a", index = [0, 1]}\n'
    '[objective]\nmaximize = "output[0] - 2 * output[1]"\n[[constraints]]\nball = "inf"\nradius = [0.5, 0.25]\n'
    '[[constraints]]\nany = [{linear = "output[0] <= 0.5"}, {not = {class = [0, 1]}}]\n'
    '[[constraints]]\nmonitor = "h"\nlower = [0, 0, 0]\nupper = [1, 1, 1]\noutside = false\nmargin = 0.1\n',
]


def _saved(save: Callable[..., None], *arrays: np.ndarray, **named: np.ndarray) -> bytes:
    stream = io.BytesIO()
    save(stream, *arrays, **named)
    return stream.getvalue()


def _idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


_GRID = np.arange(12.0).reshape(3, 4)

# --- readers --------------------------------------------------------------------------------------------------------


def _onnx(path: Path) -> None:
    clinch.load(path)


def _specification(path: Path) -> None:
    cases_of(read_specification(path))


def _problem(path: Path) -> None:
    onnx.save(MODELS["dense"](), str(path.parent / "net.onnx"))
    np.save(path.parent / "low.npy", np.zeros(2))
    np.savez(path.parent / "x.npz", a=np.array([[0.1, 0.2], [0.3, 0.4]]))
    read_problem(path).problem.explain()


def _npz(path: Path) -> None:
    for name in names_in_npz(path):
        read_npz(path, name)


@dataclass(frozen=True)
class Target:
    """A reader, the name its file needs, and valid files."""

    name: str
    file: str
    read: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]
    words: tuple[bytes, ...] = ()
    #: changes one thing of a file's content so that it can still be parsed
    spoil: Callable[[bytes, random.Random], bytes] | None = None
    #: what may be raised
    errors: tuple[type[Exception], ...] = (ClinchError,)
    #: a packed file is read, too
    packed: bool = True


def targets() -> dict[str, Target]:
    text = (b"(", b")", b"1e999", b"-0.0", b"nan", b"[", b"]", b'"', b"\0", b"\x1b[2J", b"99999999999999999999", b"1_0")
    toml = (
        *text,
        b"'''",
        b"{",
        b"}",
        b"=",
        b"inf",
        b"true",
        b"1979-05-27",
        b"0x7f",
        b"../net.onnx",
        b"os:getcwd",
        b"[[",
    )
    found = [
        Target(
            "onnx", "model.onnx", _onnx,
            lambda: [make().SerializeToString() for make in MODELS.values()], spoil=spoilt_model,
        ),
        Target("vnnlib", "property.vnnlib", _specification, lambda: [s.encode() for s in SPECIFICATIONS], text),
        Target("toml", "problem.toml", _problem, lambda: [p.encode() for p in PROBLEMS], toml),
        Target(
            "idx",
            "images",
            read_idx,
            lambda: [_idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4)), _idx(np.ones(3, np.uint8))],
        ),
        Target(
            "npy", "x.npy", read_npy,
            lambda: [_saved(np.save, _GRID), _saved(np.save, np.asfortranarray(_GRID).astype("f4"))],
        ),
        Target(
            "npz", "x.npz", _npz,
            lambda: [_saved(np.savez, a=_GRID, b=_GRID > 3), _saved(np.savez_compressed, a=_GRID)],
        ),
        Target(
            "certificate", "c.safetensors", proofs.read_proof, proofs.certificates, spoil=proofs.spoilt_certificate,
            errors=proofs.ERRORS, packed=False,
        ),
        Target(
            "layers", "n.safetensors", proofs.read_layer_list, proofs.layer_lists, spoil=proofs.spoilt_layers,
            errors=proofs.ERRORS, packed=False,
        ),
        Target(
            "checker-onnx", "m.onnx", proofs.read_layer_list,
            lambda: [make().SerializeToString() for make in (dense, checked)],
            spoil=spoilt_model, errors=proofs.ERRORS, packed=False,
        ),
        Target("run", "results.sqlite", studies.read_run, studies.runs, spoil=studies.spoilt_run, packed=False),
        Target("image", "x.png", studies.read_image, studies.images, packed=False),
    ]  # fmt: skip
    return {target.name: target for target in found}


def survives(target: Target, content: bytes, folder: Path) -> Exception | None:
    """Read a file's content; its typed error, None where it was read; anything else is raised."""
    path = folder / target.file
    path.write_bytes(content)
    try:
        with warnings.catch_warnings(), memory.guarded(MEMORY):
            warnings.simplefilter("ignore")
            target.read(path)
    except target.errors as error:
        return error
    return None


# --- mutations ------------------------------------------------------------------------------------------------------


def mutated(target: Target, rng: random.Random) -> bytes:
    """A valid file, spoilt in a few places; now and then packed, and spoilt again."""
    content = rng.choice(target.seeds())
    for _ in range(rng.randint(1, 4)):
        if target.spoil is not None and rng.random() < 0.85:
            content = target.spoil(content, rng)
        elif target.words and rng.random() < 0.7:
            content = spoilt_text(content, target.words, rng)
        else:
            content = spoilt_bytes(content, rng)
    if rng.random() < 0.05:
        content = gzip.compress(content)
        content = spoilt_bytes(content, rng) if rng.random() < 0.5 else content
    return content
