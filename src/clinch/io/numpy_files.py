"""NumPy's own files ``.npy`` and ``.npz``, read as numbers and nothing else: no pickles, no surprise in size.

The format is described in ``numpy.lib.format``. The header's type and shape are compared with what is there before
anything is allocated, and a member of an ``.npz`` is unpacked up to a limit only.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from clinch.errors import ClinchError, ProblemError
from clinch.io.files import ARRAY_LIMIT, GZIP, SHRINKS, SMALL, open_ordinary, read_limited

_MAGIC = b"\x93NUMPY"
#: kinds of dtypes that are numbers: boolean, whole, natural, real
_NUMBERS = "biuf"
_MOST_DIMENSIONS = 32
#: bytes of a header at most: NumPy writes some hundred
_HEADER = 2**16
#: bytes of a zip archive's directory at most, and of the part at its end that says where the directory is
_DIRECTORY, _TAIL = 2**20, 2**16 + 22
#: bytes unpacked at once
_CHUNK = 2**22


class Header(NamedTuple):
    """What an array is said to be: its shape, whether its values lie column by column, its dtype."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype

    @property
    def numbers(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def read_npy(path: str | Path, *, limit: int = ARRAY_LIMIT) -> np.ndarray:
    """The array of an ``.npy`` file, as float64.

    Args:
        path: of the file.
        limit: largest size in bytes, of the file and of the array.

    Raises:
        ProblemError: missing, damaged, too large, or of other things than real numbers (pickled objects, text).
    """
    raw, where = read_limited(path, limit, ProblemError, shrinks=SHRINKS), str(path)
    stream = io.BytesIO(raw)
    return _doubles(_values(stream, _header(stream, where, len(raw), limit), where), where, limit)


def names_in_npz(path: str | Path, *, limit: int = ARRAY_LIMIT) -> list[str]:
    """The names of the arrays in an ``.npz`` file (arguments and errors: :func:`read_npy`)."""
    with _archive(path, limit) as archive:
        return [name.removesuffix(".npy") for name in archive.content.namelist()]


def read_npz(path: str | Path, name: str, *, limit: int = ARRAY_LIMIT) -> np.ndarray:
    """One array of an ``.npz`` file, as float64 (arguments and errors: :func:`read_npy`)."""
    where = f"{path}:{name}"
    with _archive(path, limit) as archive, _member(archive, name, where, limit) as (stream, size):
        return _doubles(_values(stream, _header(stream, where, size, limit), where), where, limit)


def header_in_npz(path: str | Path, name: str, *, limit: int = ARRAY_LIMIT) -> Header:
    """What an array of an ``.npz`` file is said to be, none of it unpacked (arguments and errors: :func:`read_npy`)."""
    where = f"{path}:{name}"
    with _archive(path, limit) as archive, _member(archive, name, where, limit) as (stream, size):
        return _header(stream, where, size, limit)


def stored_in_npz(path: str | Path, name: str, *, limit: int = ARRAY_LIMIT) -> np.ndarray:
    """One array of an ``.npz`` file in the dtype it was stored in (arguments and errors: :func:`read_npy`)."""
    where = f"{path}:{name}"
    with _archive(path, limit) as archive, _member(archive, name, where, limit) as (stream, size):
        return _values(stream, _header(stream, where, size, limit), where)


# --- archives -------------------------------------------------------------------------------------------------------

_UNREADABLE = (
    zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, KeyError, RuntimeError, NotImplementedError,
    struct.error, MemoryError,
)  # fmt: skip


class _Archive(NamedTuple):
    """An open archive, and the bytes that its file has on disk."""

    content: zipfile.ZipFile
    size: int


@contextmanager
def _archive(path: str | Path, limit: int) -> Iterator[_Archive]:
    with open_ordinary(path, ProblemError) as (stream, size):
        if size > limit:
            raise ProblemError(f"{path} holds more than {limit:,} bytes; at most that many are read. Make it smaller.")
        if stream.read(len(GZIP)) == GZIP:
            # packed once more, as every other file may be
            stream = io.BytesIO(read_limited(path, limit, ProblemError, shrinks=SHRINKS))
        _check_directory(stream, path)
        try:
            with zipfile.ZipFile(stream) as content:
                yield _Archive(content, size)
        except ClinchError:
            raise
        except _UNREADABLE as error:
            raise _unreadable(str(path), error) from None


def _check_directory(stream: IO[bytes], path: str | Path) -> None:
    """Refuse an archive whose list of members takes much by itself."""
    stream.seek(max(0, stream.seek(0, io.SEEK_END) - _TAIL))
    tail = stream.read(_TAIL)
    at = tail.rfind(b"PK\x05\x06")
    directory = struct.unpack("<I", tail[at + 12 : at + 16])[0] if 0 <= at <= len(tail) - 16 else 0
    if directory > _DIRECTORY:
        raise ProblemError(f"{path} cannot be read as numbers: it lists too many arrays. Save fewer of them.")
    stream.seek(0)


@contextmanager
def _member(archive: _Archive, name: str, where: str, limit: int) -> Iterator[tuple[IO[bytes], int]]:
    """The bytes of an array, and how many they are said to be."""
    content = archive.content
    try:
        found = content.getinfo(f"{name}.npy" if f"{name}.npy" in content.namelist() else name)
        if found.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ProblemError(f"{where} is compressed in an unusual way. Save it with numpy.savez_compressed.")
        if found.file_size > limit:
            raise ProblemError(f"{where} holds more than {limit:,} bytes; at most that many are read.")
        packed = min(found.compress_size, archive.size)
        if found.file_size > max(SMALL, SHRINKS * packed):
            raise ProblemError(
                f"{where} holds {found.file_size:,} bytes in {packed:,}, more than numbers of use shrink. "
                "Save it with numpy.savez, uncompressed."
            )
        with content.open(found) as stream:
            yield stream, found.file_size
    except ClinchError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(where, error) from None


def _unreadable(where: str, error: Exception) -> ProblemError:
    if isinstance(error, MemoryError):
        return ProblemError(f"{where} cannot be read: there is not enough memory for it. Make it smaller.")
    return ProblemError(f"{where} cannot be read as numbers: {error}.".replace("\n", " "))


# --- arrays ---------------------------------------------------------------------------------------------------------


def _header(stream: IO[bytes], where: str, size: int, limit: int) -> Header:
    """The header of an array of so many bytes, header included, checked; the stream stands behind it."""
    start = stream.read(12)
    try:
        if not start.startswith(_MAGIC):
            raise ValueError("it is not a file of NumPy")
        version, length = (start[6], start[7]), 2 if start[6] == 1 else 4
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} holds names of fields, not numbers")
        count = int.from_bytes(start[8 : 8 + length], "little")
        if len(start) < 12 or count > _HEADER:
            raise ValueError("its header is no array's")
        text = start[8 + length :] + stream.read(count - len(start[8 + length :]))
        read = np.lib.format.read_array_header_1_0 if length == 2 else np.lib.format.read_array_header_2_0
        found = Header(*read(io.BytesIO(start[8 : 8 + length] + text)))
    except Exception as error:
        # the header is text that NumPy parses with several parsers: whatever they raise, the file is at fault
        raise _unreadable(where, error) from None
    dtype, shape = found.dtype, found.shape
    if dtype.hasobject or dtype.kind not in _NUMBERS or dtype.subdtype is not None:
        kind = "pickled objects" if dtype.hasobject else f"values of type {dtype!s:.80}"
        raise ProblemError(
            f"{where} cannot be read: it holds {kind}, not numbers. Save an array of real numbers (numpy.save of "
            "x.astype(float))."
        )
    bytes_left = size - 8 - length - count
    if len(shape) > _MOST_DIMENSIONS or any(n < 0 for n in shape) or found.numbers * dtype.itemsize != bytes_left:
        raise ProblemError(f"{where} cannot be read as numbers: its size does not fit its shape {shape!s:.80}.")
    if found.numbers * dtype.itemsize > limit:
        raise ProblemError(f"{where} has {found.numbers:,} numbers; at most {limit // dtype.itemsize:,} are read.")
    return found


def _values(stream: IO[bytes], header: Header, where: str) -> np.ndarray:
    """The array behind its header, in this processor's order of bytes."""
    try:
        flat = np.empty(header.numbers, header.dtype)
        place, got = flat.view(np.uint8).data, 0
        while got < len(place) and (more := stream.readinto(place[got : got + _CHUNK])):  # type: ignore[attr-defined]
            got += more
        rest = stream.read(1)
    except _UNREADABLE as error:
        raise _unreadable(where, error) from None
    if got < len(place) or rest:
        raise ProblemError(f"{where} cannot be read as numbers: its size does not fit its shape {header.shape!s:.80}.")
    array = flat.reshape(header.shape, order="F" if header.by_columns else "C")
    return array if header.dtype.isnative else array.astype(header.dtype.newbyteorder("="))


def _doubles(array: np.ndarray, where: str, limit: int) -> np.ndarray:
    if array.size * np.dtype(np.float64).itemsize > limit:
        raise ProblemError(f"{where} has {array.size:,} numbers; at most {limit // 8:,} are read.")
    return array.astype(np.float64, order="C")
