"""CIFAR-10 as it is published: its binary version, and the batches for Python as torchvision leaves them.

The latter are pickles. They are looked through for their pixels and labels and never unpickled, so that nothing in them
runs.
"""

from __future__ import annotations

import pickletools
from pathlib import Path

import numpy as np

from clinch.io.data import VARIABLE, DataError, data_folder
from clinch.io.files import ARRAY_LIMIT, read_limited

#: pixels of one image: three planes of 32 by 32
PIXELS = 3 * 32 * 32
#: files of each split, without their ending
BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
#: a pickle's instructions that hold a whole number
_WHOLE = {"BININT", "BININT1", "BININT2", "INT", "LONG1"}


def cifar10(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(N, 3, 32, 32)`` as bytes and labels ``(N,)``.

    Raises:
        DataError: there are none, or they are damaged.
    """
    folder = data_folder()
    binary, python = folder / "cifar-10-batches-bin", folder / "cifar-10-batches-py"
    if python.is_dir() and not binary.is_dir():
        parts = [_python(python / name) for name in BATCHES[split]]
    else:
        parts = [_binary(binary / f"{name}.bin") for name in BATCHES[split]]
    x, y = (np.concatenate(column) for column in zip(*parts))
    return x.reshape(-1, 3, 32, 32), y.astype(np.int64)


def _content(path: Path) -> bytes:
    if not path.exists():
        raise DataError(
            f"There is no file {path}. Put cifar-10-batches-bin or cifar-10-batches-py of CIFAR-10 there, or set "
            f"{VARIABLE} to its folder."
        )
    return read_limited(path, ARRAY_LIMIT, DataError)


def _binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Records of a label and three planes."""
    raw = np.frombuffer(_content(path), np.uint8)
    if not len(raw) or len(raw) % (1 + PIXELS):
        raise DataError(f"{path} has {len(raw)} bytes, no multiple of {1 + PIXELS}. Fetch it again.")
    records = raw.reshape(-1, 1 + PIXELS)
    return records[:, 1:], records[:, 0]


def _python(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A dictionary with a string of all pixels under ``data`` and a list of whole numbers under ``labels``."""
    pixels, labels, key = b"", [], ""
    try:
        for code, given, _ in pickletools.genops(_content(path)):
            if isinstance(given, str | bytes):
                text = given if isinstance(given, bytes) else given.encode("latin-1")
                if text and len(text) % PIXELS == 0:
                    pixels = text
                else:
                    key = text.decode("latin-1")
            elif key == "labels" and code.name in _WHOLE:
                labels.append(given)
    except (ValueError, UnicodeError) as error:
        raise DataError(f"{path} is damaged: {error!s:.80}. Fetch it again.") from None
    if not labels or len(pixels) != PIXELS * len(labels) or not all(0 <= label < 10 for label in labels):
        raise DataError(f"{path} holds no pixels and labels of CIFAR-10 that belong together. Fetch it again.")
    return np.frombuffer(pixels, np.uint8).reshape(-1, PIXELS), np.array(labels)
