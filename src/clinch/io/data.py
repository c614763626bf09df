"""Images for experiments: MNIST from idx files or from OpenML, and where to look for data and reference models.

Data lies in the folder that the environment variable ``CLINCH_DATA`` names, otherwise in ``shared/data`` beside the
project's folder. Pixels are float32 in [0, 1]; nothing else is done to them.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from clinch.errors import ClinchError
from clinch.io.files import ARRAY_LIMIT, SHRINKS, read_limited
from clinch.runtime.optional import required
from clinch.runtime.short import short_repr

#: name of the environment variable that names the data folder
VARIABLE = "CLINCH_DATA"
_PACKAGE = Path(__file__).resolve().parents[1]
#: what comes with the package, looked for last
_OWN = {"models": _PACKAGE / "demo" / "weights", "references": _PACKAGE / "papers" / "references"}
#: of an array
_MOST_DIMENSIONS = 32


class DataError(ClinchError):
    """A data set or a model file that is missing or damaged; says where it was looked for and what to do."""


class Images(NamedTuple):
    """Images ``(N, channels, height, width)`` with pixels in [0, 1], float32, and labels ``(N,)``."""

    x: Tensor
    y: Tensor

    __repr__ = short_repr


def data_folder() -> Path:
    """``$CLINCH_DATA`` or its folder ``data``; else ``shared/data`` beside the project's folder (it need not exist)."""
    if not (named := os.environ.get(VARIABLE)):
        return Path(__file__).resolve().parents[4] / "shared" / "data"
    inside = Path(named) / "data"
    return inside if inside.is_dir() else Path(named)


def model_file(name: str) -> Path:
    """Path of a reference model such as ``"mnist_small.onnx"``: in ``models``, inside or beside the data folder.

    Weights (``.safetensors``) are also found among those that come with the package.

    Raises:
        DataError: no such file.
    """
    return _shared_file("models", "model", name)


def reference_file(name: str) -> Path:
    """Path of a published table such as ``"balda_fooling_ratio_lenet.csv"``: in ``references``, inside or beside the
    data folder, or with the package.

    Raises:
        DataError: no such file.
    """
    return _shared_file("references", "reference", name)


def _shared_file(folder: str, kind: str, name: str) -> Path:
    root = data_folder()
    places = [root / folder / name, root.parent / folder / name, _OWN[folder] / name]
    for path in places:
        if path.is_file():
            return path
    looked = " and ".join(str(path) for path in places[:2])
    raise DataError(
        f"There is no {kind} '{name}': looked for {looked}. Set {VARIABLE} to the folder that holds {folder}/."
    )


def mnist(split: str = "test", folder: str | Path | None = None, *, few: bool = False) -> Images:
    """MNIST: 60,000 images for training or 10,000 for testing, shape ``(N, 1, 28, 28)``, in the original order.

    Read from ``MNIST/raw`` (torchvision's layout, plain or ``.gz``) in the data folder. Where there are no such files
    and no folder was named, scikit-learn fetches the data set from OpenML once and keeps it.

    Args:
        split: ``"train"`` or ``"test"``.
        folder: another data folder.
        few: only the first 2,000 images for training or 500 for testing, which come with the package.

    Raises:
        DataError: a file is missing or damaged, or OpenML cannot be reached.
    """
    if split not in ("train", "test"):
        raise DataError(f"split is 'train' or 'test', not {split!r}.")
    if few:
        with np.load(_PACKAGE / "demo" / "mnist_sample.npz", allow_pickle=False) as held:
            return _images(held[f"{split}_x"], held[f"{split}_y"])
    root = Path(folder) if folder is not None else data_folder()
    prefix = "train" if split == "train" else "t10k"
    places = [root / "MNIST" / "raw", root]
    for place in places:
        if _idx_path(place, f"{prefix}-images-idx3-ubyte"):
            x = read_idx(place / f"{prefix}-images-idx3-ubyte")
            y = read_idx(place / f"{prefix}-labels-idx1-ubyte")
            return _images(x, y)
    if folder is not None or os.environ.get(VARIABLE):
        raise DataError(f"There is no '{prefix}-images-idx3-ubyte' (or .gz) in {places[0]} or {places[1]}.")
    return _from_openml(split)


def read_idx(path: str | Path, *, limit: int = ARRAY_LIMIT) -> np.ndarray:
    """Read an idx file of unsigned bytes, plain or with ``.gz`` added to its name.

    The format: two zero bytes, a type (8: unsigned byte), the number of dimensions, each extent as a big-endian 32-bit
    number, the values.

    Args:
        path: of the file.
        limit: largest size of the uncompressed file, in bytes.

    Raises:
        DataError: missing, damaged, of another type, or larger than the limit.
    """
    found = _idx_path(Path(path).parent, Path(path).name)
    if found is None:
        raise DataError(f"There is no file {path} (or {path}.gz).")
    raw = read_limited(found, limit, DataError, shrinks=SHRINKS)
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise DataError(f"{found} is not an idx file of unsigned bytes. Fetch it again.")
    header = 4 + 4 * raw[3]
    shape = struct.unpack(f">{raw[3]}I", raw[4:header]) if len(raw) >= header else ()
    # in whole numbers without end: an extent may be as large as 2³²
    expected = header + math.prod(shape)
    if raw[3] > _MOST_DIMENSIONS:
        raise DataError(f"{found} has {raw[3]} dimensions; at most {_MOST_DIMENSIONS} are read. Fetch it again.")
    if len(raw) < header or len(raw) != expected:
        raise DataError(f"{found} has {len(raw)} bytes where its header asks for {expected}. Fetch it again.")
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _idx_path(folder: Path, name: str) -> Path | None:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def _images(x: np.ndarray, y: np.ndarray) -> Images:
    if x.ndim != 3 or y.ndim != 1 or len(x) != len(y):
        raise DataError(f"Images of shape {x.shape} but labels of shape {y.shape}: the files do not belong together.")
    pixels = torch.from_numpy(x.astype(np.float32)).div_(255.0).unsqueeze(1)
    return Images(pixels, torch.from_numpy(y.astype(np.int64)))


def _from_openml(split: str) -> Images:
    datasets = required(
        "sklearn.datasets",
        "data",
        f"or put the four idx files into MNIST/raw of a folder and set {VARIABLE} to it",
        DataError,
    )
    try:
        pixels, labels = datasets.fetch_openml(
            "mnist_784", version=1, as_frame=False, parser="liac-arff", return_X_y=True
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"MNIST is not in {data_folder()} and OpenML cannot be reached ({error}). Put the four idx files into "
            f"MNIST/raw of a folder and set {VARIABLE} to it."
        ) from None
    rows = slice(0, 60_000) if split == "train" else slice(60_000, None)
    return _images(np.asarray(pixels)[rows].reshape(-1, 28, 28).astype(np.uint8), np.asarray(labels)[rows])
