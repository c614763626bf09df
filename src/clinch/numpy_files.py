"""NumPy's own files ``.npy`` and ``.npz``, read as numbers and nothing else: no pickles, no surprise in size.

The format is described in ``numpy.lib.format``. The header's shape is compared with the bytes that are there before
anything is allocated, and a member of an ``.npz`` is unpacked up to a limit only.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np

from clinch.errors import ProblemError
from clinch.files import ARRAY_LIMIT, read_limited

_MAGIC = b"\x93NUMPY"
#: kinds of dtypes that are numbers: boolean, whole, natural, real
_NUMBERS = "biuf"
_MOST_DIMENSIONS = 32


def read_npy(path: str | Path, *, limit: int = ARRAY_LIMIT) -> np.ndarray:
    """The array of an ``.npy`` file, as float64.

    Args:
        path: of the file.
        limit: largest size in bytes, of the file and of the array.

    Raises:
        ProblemError: missing, damaged, too large, or of other things than real numbers (pickled objects, text).
    """
    return _numbers(read_limited(path, limit, ProblemError), str(path), limit)


def names_in_npz(path: str | Path, *, limit: int = ARRAY_LIMIT) -> list[str]:
    """The names of the arrays in an ``.npz`` file (arguments and errors: :func:`read_npy`)."""
    with _archive(path, limit) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def read_npz(path: str | Path, name: str, *, limit: int = ARRAY_LIMIT) -> np.ndarray:
    """One array of an ``.npz`` file, as float64 (arguments and errors: :func:`read_npy`)."""
    where = f"{path}:{name}"
    with _archive(path, limit) as archive:
        try:
            member = archive.getinfo(f"{name}.npy" if f"{name}.npy" in archive.namelist() else name)
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ProblemError(f"{where} is compressed in an unusual way. Save it with numpy.savez_compressed.")
            if member.file_size > limit:
                raise ProblemError(f"{where} holds more than {limit:,} bytes; at most that many are read.")
            with archive.open(member) as stream:
                raw = stream.read(limit + 1)
        except ProblemError:
            raise
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, KeyError, RuntimeError) as error:
            raise ProblemError(f"{where} cannot be read as numbers: {error}.") from None
    return _numbers(raw, where, limit)


def _archive(path: str | Path, limit: int) -> zipfile.ZipFile:
    raw = read_limited(path, limit, ProblemError)
    try:
        return zipfile.ZipFile(io.BytesIO(raw))
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, KeyError, RuntimeError) as error:
        raise ProblemError(f"{path} cannot be read as numbers: {error}.") from None


def _numbers(raw: bytes, where: str, limit: int) -> np.ndarray:
    stream = io.BytesIO(raw)
    try:
        if not raw.startswith(_MAGIC):
            raise ValueError("it is not a file of NumPy")
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} holds names of fields, not numbers")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = header(stream)
    except Exception as error:
        # the header is text that NumPy parses with several parsers: whatever they raise, the file is at fault
        raise ProblemError(f"{where} cannot be read as numbers: {error}.".replace("\n", " ")) from None
    if dtype.hasobject or dtype.kind not in _NUMBERS or dtype.subdtype is not None:
        kind = "pickled objects" if dtype.hasobject else f"values of type {dtype}"
        raise ProblemError(
            f"{where} cannot be read: it holds {kind}, not "
            "numbers. Save an array of real numbers (numpy.save of x.astype(float))."
        )
    count = math.prod(shape)
    if len(shape) > _MOST_DIMENSIONS or any(n < 0 for n in shape) or count * dtype.itemsize != len(raw) - stream.tell():
        raise ProblemError(f"{where} cannot be read as numbers: its size does not fit its shape {shape!s:.80}.")
    if count * np.dtype(np.float64).itemsize > limit:
        raise ProblemError(f"{where} has {count:,} numbers; at most {limit // 8:,} are read.")
    array = np.frombuffer(raw, dtype, offset=stream.tell()).reshape(shape, order="F" if by_columns else "C")
    return array.astype(np.float64, order="C")
