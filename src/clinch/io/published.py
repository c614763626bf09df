"""Weights and tables that others have published, as files of the data folder: safetensors and CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from clinch.io.data import DataError
from clinch.io.files import SHRINKS, open_ordinary, read_limited

#: bytes of a table, and of what a file of weights says about itself, at most
TABLE_LIMIT, _HEADER = 2**24, 2**22


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Put the tensors of a safetensors file into a module, whose names and shapes they must have.

    Shapes are compared before a tensor is read: a file may state any.

    Raises:
        DataError: no such file, damaged, or of another module.
    """
    wanted = module.state_dict()
    with open_ordinary(path, DataError) as (start, _):
        # the library makes room for every entry of a header, and ends the process where there is none
        if int.from_bytes(start.read(8), "little") > _HEADER:
            raise DataError(f"{path} has a header of more than {_HEADER:,} bytes. Fetch it again.")
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            if names != wanted.keys():
                odd = min(names ^ wanted.keys())
                there = "has a tensor" if odd in names else "lacks the tensor"
                raise DataError(f"{path} {there} '{odd:.100}': it holds the weights of another network.")
            for name, tensor in wanted.items():
                shape = tuple(file.get_slice(name).get_shape())
                if shape != tuple(tensor.shape):
                    raise DataError(
                        f"{path}: '{name}' has shape {shape!s:.80}, the network's is {tuple(tensor.shape)}: it holds "
                        "the weights of another network."
                    )
            module.load_state_dict({name: file.get_tensor(name) for name in wanted})
    except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:
        if isinstance(error, DataError):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path} cannot be read as weights: {reason:.200}. Fetch it again.") from None


def read_columns(path: str | Path, names: Sequence[str]) -> dict[str, tuple[float, ...]]:
    """Columns of finite numbers of a CSV file, by the names in its first line.

    Raises:
        DataError: no such file, no text, without one of the columns, or with a cell in them that is no number.
    """
    try:
        text = read_limited(path, TABLE_LIMIT, DataError, shrinks=SHRINKS).decode("utf-8-sig")
        lines = list(csv.DictReader(text.splitlines()))
    except (UnicodeDecodeError, csv.Error, MemoryError) as error:
        raise DataError(f"{path} cannot be read as a table: {error}. Fetch it again.") from None
    found: dict[str, tuple[float, ...]] = {}
    for name in names:
        try:
            found[name] = tuple(float(line[name]) for line in lines)
        except KeyError:
            raise DataError(f"{path} has no column '{name}'. Fetch it again.") from None
        except (TypeError, ValueError):
            raise DataError(f"{path} has a cell in '{name}' that is no number. Fetch it again.") from None
        if not lines or not all(map(math.isfinite, found[name])):
            raise DataError(f"{path} has no finite numbers in '{name}'. Fetch it again.")
    return found
