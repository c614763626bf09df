"""Files that a stranger may have written: read up to a limit, written whole or not at all.

Every reader of files gets its bytes from :func:`read_limited`, so that a compressed file cannot grow without end.
Limits are in bytes of the uncompressed content and far above what honest files need: 2 GiB for models (the limit of
protocol buffers), 64 MiB for specifications, 4 MiB for problem files, 1 GiB for arrays and images.
"""

from __future__ import annotations

import difflib
import gzip
import io
import itertools
import os
import secrets
import stat
import unicodedata
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import IO

from clinch.errors import ClinchError

MODEL_LIMIT = 2**31 - 1
SPECIFICATION_LIMIT = 2**26
PROBLEM_LIMIT = 2**22
ARRAY_LIMIT = 2**30
#: files of a folder that are looked at for the one that is meant
MOST_NAMES = 1000

#: endings of files that can run code when they are opened
PICKLED = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib")
#: how many times larger than in its file an array, an image or a model may be, beyond so many bytes: honest ones
#: shrink less
SHRINKS, SMALL = 100, 2**26
#: how a file that is packed by gzip begins
GZIP = b"\x1f\x8b"
_CHUNK = 2**20


def missing(path: str | PathLike[str]) -> str:
    """What to say of a file that is not there: the file of its folder that is meant, where one is alike.

    Example:
        >>> missing("nowhere.onnx")
        'There is no file nowhere.onnx.'
    """
    text = f"There is no file {path!s:.400}."
    with suppress(OSError, ValueError):
        path = Path(path)
        names = [entry.name for entry in itertools.islice(path.parent.iterdir(), MOST_NAMES) if entry.is_file()]
        alike = difflib.get_close_matches(path.name, names, 1, cutoff=0.8)
        text += f" There is {path.parent / alike[0]}." if alike else ""
    return text


def read_limited(
    path: str | PathLike[str], limit: int, error: type[ClinchError], *, shrinks: int | None = None
) -> bytes:
    """The content of a file, unpacked where it is compressed by gzip.

    Unpacking stops at the limit, so that a file of a few bytes cannot fill the memory.

    Args:
        path: an ordinary file; pipes and devices, which may never end, are refused.
        limit: largest size of the (uncompressed) content, in bytes.
        error: what is raised.
        shrinks: how many times larger than the compressed file the content may be, beyond :data:`SMALL`;
            None: any times.

    Raises:
        ClinchError: of the given type: the file is missing, not ordinary, damaged or larger than the limit.
    """
    path = Path(path)
    with open_ordinary(path, error) as (stream, size):
        try:
            # one byte more than allowed: larger files are noticed without being read. Not more than the file has:
            # room for what is asked for is made before.
            content = stream.read(1 + min(limit, size))
        except OSError as problem:
            raise error(f"Cannot read {path}: {problem.strerror or problem}.") from None
        except MemoryError:
            raise _too_large(path, error) from None
    if content[:2] == GZIP:
        limit = limit if shrinks is None else min(limit, max(SMALL, shrinks * len(content)))
        content = _unpacked(content, limit, path, error)
    if len(content) > limit:
        raise error(f"{path} holds more than {limit:,} bytes; at most that many are read. Make it smaller.")
    return content


@contextmanager
def open_ordinary(path: str | PathLike[str], error: type[ClinchError]) -> Iterator[tuple[IO[bytes], int]]:
    """An ordinary file, open for reading, and its size; whatever else lies there is not waited for.

    Args:
        path: of the file, or of a link to one.
        error: what is raised.

    Raises:
        ClinchError: of the given type: the file is missing, may not be read, or is a folder, a pipe or a device.
    """
    try:
        # without this flag to open a pipe waits for whoever writes to it
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise error(f"Cannot read {path}: No such file.") from None
    except (OSError, ValueError) as problem:
        raise error(f"Cannot read {path}: {getattr(problem, 'strerror', None) or problem}.") from None
    with os.fdopen(number, "rb") if stat.S_ISREG((status := os.fstat(number)).st_mode) else _closed(number) as stream:
        if stream is None:
            raise error(f"Cannot read {path}: It is no ordinary file.")
        yield stream, status.st_size


def is_there(path: str | PathLike[str]) -> bool:
    """Whether an ordinary file has that name, which may be too long for one."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


@contextmanager
def _closed(number: int) -> Iterator[None]:
    """What was opened, closed again."""
    os.close(number)
    yield None


def _unpacked(content: bytes, limit: int, path: Path, error: type[ClinchError]) -> bytes:
    """All members of a gzip file, up to one byte more than the limit."""
    parts: list[bytes] = []
    left = limit + 1
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            # piece by piece: room for what is asked for is made before
            while left and (part := stream.read(min(_CHUNK, left))):
                parts.append(part)
                left -= len(part)
        return b"".join(parts)
    except MemoryError:
        raise _too_large(path, error) from None
    except EOFError:
        raise error(f"Cannot read {path}: Compressed file ended too early. Fetch it again.") from None
    except (zlib.error, OSError) as reason:
        raise error(f"Cannot read {path}: it is a damaged gzip file ({reason}). Fetch it again.") from None


def _too_large(path: Path, error: type[ClinchError]) -> ClinchError:
    return error(f"Cannot read {path}: there is not enough memory for it. Make it smaller.")


def is_pickled(path: str | PathLike[str]) -> bool:
    """Whether a file is a pickle, by its name or its first bytes (a zip archive is how PyTorch stores one)."""
    path = Path(path)
    if path.name.lower().endswith(PICKLED):
        return True
    try:
        with open_ordinary(path, ClinchError) as (stream, _):
            start = stream.read(4)
    except (OSError, ClinchError):
        return False
    return start == b"PK\x03\x04" or (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


#: how to go on where a model is a pickle
PICKLE_ADVICE = (
    "is a pickle, which can run any code, and is not read. Write a function that builds the module and loads its "
    "weights (safetensors.torch.load_file), and name it as file.py:function; or export the module to ONNX "
    "(torch.onnx.export)."
)


@contextmanager
def replacing(path: str | PathLike[str]) -> Iterator[Path]:
    """A file to write beside its place, moved there when all is written: a full disk or a kill leaves the old one.

    Its name has the ending of the one it becomes, so that writers which choose a format by it can be handed the path.

    Raises:
        OSError: it cannot be written.

    Example:
        >>> with replacing("curve.png") as beside:
        ...     figure.savefig(beside)
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        # a pipe or a device is written to, not replaced
        yield path
        return
    target = path.resolve()
    beside = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}{target.suffix[:20]}")
    try:
        # its own file, not one that a link of this name leads to
        beside.open("xb").close()
        yield beside
        with beside.open("rb") as stream:
            os.fsync(stream.fileno())
        if target.exists():
            beside.chmod(target.stat().st_mode & 0o777)
        beside.replace(target)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


def write_whole(path: str | PathLike[str], text: str) -> None:
    """Write a text as :func:`replacing` does: as a whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as beside, beside.open("w", encoding="utf-8", newline="") as stream:
        stream.write(text)


def printable(text: str, *, lines: bool = True) -> str:
    """Text for a terminal: characters that would move the cursor, change colours or turn text around are escaped.

    Names in files are their author's choice: an escape sequence in a layer's name stays text.

    Args:
        text: of a stranger, or with names of one in it.
        lines: whether line feeds and tabs stay. Not so for a name inside a line: its line feed would begin a line that
            looks like one of ours.

    Example:
        >>> printable("layer\\x1b[2J")
        'layer\\\\x1b[2J'
        >>> printable("relu\\nPROVEN", lines=False)
        'relu\\\\nPROVEN'
    """
    if text.isascii() and text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(c if c in kept else _visible(c) for c in text)


def _visible(character: str) -> str:
    # controls, format characters such as right-to-left overrides, lone surrogates, line and paragraph separators
    if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return character
    return character.encode("unicode_escape").decode("ascii")


def cell(value: object) -> object:
    """A cell of a table for a spreadsheet: numbers as they are, texts so that none is a formula or breaks its line.

    Programs take what begins with ``=``, ``+``, ``-`` or ``@``, also after blanks, for a formula, which can read files
    and open connections; after an apostrophe it is text.

    Example:
        >>> cell("=1+1"), cell(-1.5), cell("no inputs")
        ("'=1+1", -1.5, 'no inputs')
    """
    if not isinstance(value, str):
        return value
    text = printable(value, lines=False)
    # full-width forms are formulas in some languages
    return f"'{text}" if unicodedata.normalize("NFKC", text).lstrip()[:1] in ("=", "+", "-", "@", "\u2212") else text
