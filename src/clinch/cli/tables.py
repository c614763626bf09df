"""Reading TOML tables: known keys, kinds, and arrays from files. Every complaint is one line that names the place."""

from __future__ import annotations

import difflib
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

from clinch.errors import ProblemError
from clinch.io.files import PROBLEM_LIMIT, is_there, read_limited
from clinch.io.numpy_files import names_in_npz, read_npy, read_npz

Table = dict[str, Any]

_NAMES = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}
#: values and lines of a file at most: the parser takes some microseconds for each
_MOST = 2**19
#: so many names joined by dots: a key of n of them takes the parser n² steps
_DOTTED = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){100}""")


def read_toml(path: Path) -> Table:
    """A TOML file.

    Raises:
        ProblemError: no such file, or not TOML.
    """
    try:
        text = read_limited(path, PROBLEM_LIMIT, ProblemError).decode("utf-8")
        if _DOTTED.search(text):
            raise ProblemError(f"{path} joins more than 100 names by dots. Write it flatter.")
        if text.count(",") + text.count("\n") > _MOST:
            raise ProblemError(f"{path} has more than {_MOST:,} entries. Put numbers into a file x.npy or x.npz:key.")
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProblemError(f"{path} is not TOML: {error}.") from None
    except RecursionError:
        raise ProblemError(f"{path} nests its tables or lists too deeply. Write it flatter.") from None
    except MemoryError:
        raise ProblemError(f"{path} cannot be read: there is not enough memory for it. Make it smaller.") from None
    except ProblemError:
        raise
    except ValueError as error:
        # whole numbers of thousands of digits, dates that do not exist
        raise ProblemError(f"{path} holds a value that cannot be read: {error}.") from None


def check_keys(table: Table, known: tuple[str, ...], where: str) -> None:
    """Refuse a key that is not known; the nearest known one is named.

    Raises:
        ProblemError: the first unknown key.
    """
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            hint = f"did you mean '{near[0]}'?" if near else f"known are: {', '.join(known)}."
            raise ProblemError(f"{where}: there is no key '{key:.100}'; {hint}")


def get(table: Table, key: str, kinds: tuple[type, ...], where: str, default: Any = ...) -> Any:
    """The entry of a table; whole numbers count as numbers, true and false do not.

    Raises:
        ProblemError: it is missing and has no default, or is of another kind.
    """
    if key not in table:
        if default is ...:
            raise ProblemError(f"{where}: '{key}' is missing; give {_kinds(kinds)}.")
        return default
    value = table[key]
    fits = isinstance(value, kinds) or (float in kinds and isinstance(value, int))
    if not fits or (isinstance(value, bool) and bool not in kinds):
        raise ProblemError(f"{where}: '{key}' is {value!r:.60}; give {_kinds(kinds)}.")
    if float in kinds and int not in kinds and isinstance(value, int) and abs(value) > sys.float_info.max:
        raise ProblemError(f"{where}: '{key}' is {value!r:.60}, too large for a number. Write inf, or less.")
    return value


def _kinds(kinds: tuple[type, ...]) -> str:
    return " or ".join(_NAMES[kind] for kind in kinds)


def read_array(value: Any, folder: Path, where: str) -> np.ndarray:
    """Numbers: inline (nested lists allowed), or a file ``"x.npy"``, ``"x.npz:key"`` beside the problem file.

    Raises:
        ProblemError: not numbers, or a file that cannot be read. Pickled arrays are refused.
    """
    if isinstance(value, str):
        return _array_file(value, folder, where)
    try:
        if not _numeric(value):
            raise TypeError
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ProblemError(f"{where}: {value!r:.60} is not an array of numbers with rows of one length.") from None
    return array


def _numeric(value: Any) -> bool:
    """Whether all that stands in nested lists are numbers: NumPy takes texts and true for numbers, too."""
    if isinstance(value, list):
        return all(map(_numeric, value))
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _array_file(source: str, folder: Path, where: str) -> np.ndarray:
    name, _, key = source.partition(".npz:")
    path = folder / (f"{name}.npz" if key else source)
    if path.suffix not in (".npy", ".npz"):
        raise ProblemError(f"{where}: '{source}' is not an array: write numbers, or a file x.npy or x.npz:key.")
    if not is_there(path):
        raise ProblemError(f"{where}: there is no file {path!s:.400}.")
    if path.suffix == ".npy":
        return read_npy(path)
    names = names_in_npz(path)
    if not key and len(names) == 1:
        key = names[0]
    if key not in names:
        raise ProblemError(
            f"{where}: {path} has the arrays {', '.join(names)}: write {path.name}:{names[0] if names else 'key'}."
        )
    return read_npz(path, key)
