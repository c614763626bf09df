"""Random changes of certificates and layer lists that can still be written, with a digest that fits."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from clinch.checker.certificate import digest

Header = dict[str, Any]
Tensors = dict[str, np.ndarray]

#: what takes the place of a value in the header
VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 3.5, -0.0, 10**9, 2**63, 10**30, 1e308, float("nan"), float("inf"),
    -float("inf"), "", "inf", "nan", "linear", "distance", "none", "bound", "infeasible", "\ud800", "\x1b[2J",
    "x" * 300, [], [[]], {}, [1.0], [0, -1], [2**40], {"kind": "bound", "value": 0.5}, {"kind": "infeasible"},
)  # fmt: skip
REALS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-320, 1e300, -1e300, 1e-9, np.inf, -np.inf, np.nan)
WHOLES = (-1, 0, 1, 2, 3, 4, 9, 255, 2**31 - 1, -(2**31))
DTYPES = ("<f2", "<f4", "<f8", "<i1", "<i4", "<i8", "<u1", "<u8", "?")


def unpacked(content: bytes, entry: str) -> tuple[Header, Tensors]:
    """Header and tensors of a file, whatever its digest."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + size])["__metadata__"][entry]), load(content)


def packed(header: Header, tensors: Tensors, entry: str) -> bytes:
    """A file with the digest that fits."""
    tensors = {name: np.ascontiguousarray(t) for name, t in tensors.items()}
    header = {**header, "sha256": digest({**header, "sha256": ""}, tensors)}
    return save(tensors, {entry: json.dumps(header)})


def changed(header: Header, tensors: Tensors, rng: random.Random) -> tuple[str, Header, Tensors]:
    """One change of one thing, and its name."""
    header, tensors = copy.deepcopy(header), dict(tensors)
    if not tensors or rng.random() < 0.3:
        return _of_header(header, rng), header, tensors
    change = rng.choice(CHANGES)
    with np.errstate(all="ignore"):
        change(tensors, rng.choice(sorted(tensors)), rng)
    return change.__name__.strip("_").replace("_", " "), header, tensors


# --- header ---------------------------------------------------------------------------------------------------------


def _of_header(header: Header, rng: random.Random) -> str:
    place: Any = header
    # what is claimed more often than versions and hashes
    key = rng.choice([key for key in ("claim", "claim", "point", "query", *sorted(header)) if key in header])
    while isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.9:
        place = place[key]
        key = rng.choice(sorted(place)) if isinstance(place, dict) else rng.randrange(len(place))
    old, kind = place[key], rng.randrange(6)
    if isinstance(old, (int, float)) and not isinstance(old, bool) and kind < 3:
        place[key] = rng.choice([old + 1, old - 1, -old, 1.5 * old, 0.5 * old, old + 10 ** rng.uniform(-8, 0)])
        return "number of the header"
    if kind == 5:
        del place[key]
        return "entry of the header dropped"
    if kind == 4 and isinstance(place, list):
        place.insert(rng.randrange(len(place) + 1), copy.deepcopy(old))
        return "entry of the header repeated"
    place[key] = copy.deepcopy(rng.choice(VALUES))
    return "entry of the header replaced"


# --- tensors --------------------------------------------------------------------------------------------------------


def _element(tensors: Tensors, name: str, rng: random.Random) -> None:
    """An element takes a value at an end of its range."""
    new = tensors[name].copy()
    if new.size:
        value = rng.choice(REALS if new.dtype.kind == "f" else WHOLES)
        new.reshape(-1)[rng.randrange(new.size)] = np.array(value).astype(new.dtype)
    tensors[name] = new


def _element_moved(tensors: Tensors, name: str, rng: random.Random) -> None:
    """A little more or less, absolutely or relatively."""
    new = tensors[name].copy()
    if new.size:
        i, step = rng.randrange(new.size), rng.choice([-1, 1]) * 10 ** rng.uniform(-7, 0.5)
        flat = new.reshape(-1)
        if new.dtype.kind != "f":
            flat[i] = np.array(int(flat[i]) + rng.choice([-1, 1])).astype(new.dtype)
        else:
            flat[i] = flat[i] + step if rng.random() < 0.5 else flat[i] * (1 + step)
    tensors[name] = new


def _scaled(tensors: Tensors, name: str, rng: random.Random) -> None:
    if tensors[name].dtype.kind == "f":
        tensors[name] = tensors[name] * np.array(rng.choice([-1.0, 0.0, 0.5, 0.9, 1.1, 2.0]), tensors[name].dtype)


def _noise(tensors: Tensors, name: str, rng: random.Random) -> None:
    t = tensors[name]
    if t.dtype.kind == "f":
        noise = np.random.default_rng(rng.randrange(2**32)).normal(size=t.shape) * 10 ** rng.uniform(-7, 0)
        tensors[name] = (t + noise).astype(t.dtype)


def _rolled(tensors: Tensors, name: str, rng: random.Random) -> None:
    if tensors[name].ndim:
        tensors[name] = np.roll(tensors[name], rng.choice([-1, 1]), rng.randrange(tensors[name].ndim))


def _elements_exchanged(tensors: Tensors, name: str, rng: random.Random) -> None:
    new = tensors[name].copy()
    if new.size:
        flat, (i, j) = new.reshape(-1), (rng.randrange(new.size), rng.randrange(new.size))
        flat[[i, j]] = flat[[j, i]]
    tensors[name] = new


def _cut(tensors: Tensors, name: str, rng: random.Random) -> None:
    if tensors[name].ndim:
        tensors[name] = rng.choice([tensors[name][:-1], tensors[name][1:], tensors[name][:1]])


def _repeated(tensors: Tensors, name: str, rng: random.Random) -> None:
    if tensors[name].ndim:
        tensors[name] = np.concatenate([tensors[name], tensors[name][-1:]])


def _shape(tensors: Tensors, name: str, rng: random.Random) -> None:
    t = tensors[name]
    tensors[name] = rng.choice([t.reshape(-1), t.reshape(1, *t.shape), t.T, t.reshape(*t.shape, 1)])


def _dtype(tensors: Tensors, name: str, rng: random.Random) -> None:
    tensors[name] = tensors[name].astype(rng.choice(DTYPES))


def _dropped(tensors: Tensors, name: str, rng: random.Random) -> None:
    del tensors[name]


def _renamed(tensors: Tensors, name: str, rng: random.Random) -> None:
    stem = name.rpartition(".")[0]
    new = rng.choice(["input", "output", "relu:0", "before:1", "relu:9", "relu:\u00b2", "relu:-1", "radius", ""])
    tensors[f"{stem}.{new}"] = tensors.pop(name) if rng.random() < 0.5 else tensors[name]


def _exchanged(tensors: Tensors, name: str, rng: random.Random) -> None:
    same = [n for n in sorted(tensors) if tensors[n].shape == tensors[name].shape]
    other = rng.choice(same)
    tensors[name], tensors[other] = tensors[other], tensors[name]


#: the small ones more often: what is nearly right is hardest to refuse
CHANGES: tuple[Callable[[Tensors, str, random.Random], None], ...] = (
    _element, _element, _element_moved, _element_moved, _element_moved, _element_moved, _scaled, _noise, _rolled,
    _elements_exchanged, _elements_exchanged, _cut, _repeated, _shape, _dtype, _dropped, _renamed, _exchanged,
)  # fmt: skip
