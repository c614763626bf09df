"""The certificate as a file: safetensors with JSON in the metadata, described in docs/certificates.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from clinch.certify.layers import MALFORMED, Array, Layer, Refused, digest, number, place, read_layers

VERSION = 1
#: names of the metadata's entries
CERTIFICATE, NETWORK = "clinch-certificate", "clinch-network"
#: kinds of nodes of the tree
LEAF, AT_RELU, AT_INPUT, AT_CLAUSE = 0, 1, 2, 3
#: bytes of JSON beyond which a file is refused
LONGEST = 2**24


class Certificate(NamedTuple):
    """Header and tensors of a certificate."""

    header: dict[str, Any]
    tensors: dict[str, Array]

    def numbers(self, name: str, shape: tuple[int, ...]) -> Array:
        """A floating-point tensor as float64; refused where it is missing, not finite or of another shape."""
        found = number(self.tensors, name)
        if found.shape != shape:
            raise Refused(f"The tensor '{name}' has the shape {found.shape}; expected {shape}.")
        return found

    def whole(self, name: str, shape: tuple[int, ...], least: int, most: int) -> Array:
        """An integer tensor as int64, every entry of which lies in ``[least, most]``."""
        found = self.tensors.get(name)
        if found is None or found.dtype.kind not in "iu" or found.shape != shape:
            raise Refused(f"The tensor '{name}' is missing, holds no integers, or has another shape than {shape}.")
        if found.size and not (least <= int(found.min()) and int(found.max()) <= most):
            raise Refused(f"The tensor '{name}' has entries outside {least} to {most}.")
        return found.astype(np.int64)

    def rows(self, prefix: str, layers: list[Layer], count: int) -> dict[int, Array]:
        """Linear forms ``(count, size)`` by position of the layer they look at."""
        names = [name for name in self.tensors if name.startswith(prefix)]
        return {(at := place(layers, name.removeprefix(prefix))): self.numbers(name, (count, layers[at].size))
                for name in sorted(names)}  # fmt: skip


def read_file(path: Path, entry: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """JSON header and tensors of a file, whose digest must be the one that the header states.

    Raises:
        Refused: no safetensors file, no such entry, or contents that were changed.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(entry, "")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if not text or len(text) > LONGEST:
            raise Refused(f"'{path.name}' has no metadata '{entry}', or too much of it.")
        header = json.loads(text)
    except (SafetensorError, OSError, *MALFORMED) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Refused(f"'{path.name}' cannot be read: {reason}.") from None
    if not isinstance(header, dict) or digest({**header, "sha256": ""}, tensors) != header.get("sha256"):
        raise Refused(f"The contents of '{path.name}' are not those its digest states: it was changed or cut.")
    return header, tensors


def write_file(path: Path, entry: str, header: dict[str, Any], tensors: dict[str, Array]) -> None:
    """Write header, with its digest, and tensors."""
    tensors = {name: np.ascontiguousarray(t) for name, t in tensors.items()}
    header = {**header, "sha256": digest({**header, "sha256": ""}, tensors)}
    save_file(tensors, path, {entry: json.dumps(header)})


def read_certificate(path: Path) -> Certificate:
    """Read a certificate.

    Raises:
        Refused: it cannot be read, was changed, or has another version.
    """
    header, tensors = read_file(path, CERTIFICATE)
    if header.get("version") != VERSION:
        raise Refused(f"The certificate has version {header.get('version')!r}; this checker reads version {VERSION}.")
    return Certificate(header, tensors)


def read_network(path: Path) -> tuple[list[Layer], str]:
    """Layers and hash of a neutral layer list (``.safetensors``) or an ONNX file (``.onnx``, ``.onnx.gz``).

    Raises:
        Refused: it cannot be read, or holds a layer that the checker does not know.
    """
    if path.name.lower().endswith((".onnx", ".onnx.gz")):
        from clinch.certify.onnx_layers import read_onnx

        return read_onnx(path)
    header, tensors = read_file(path, NETWORK)
    return read_layers(header, tensors), header["sha256"]


class Leaves(NamedTuple):
    """What holds on each of D leaves, read off the path from the root.

    Attributes:
        signs: ``(D, U)`` of the ReLUs' inputs, all ReLU layers in a row; lower, upper: ``(D, n)`` or ``(1, n)``;
        choice: ``(D, C)`` the atom of each clause that holds, −1 where none was chosen.
    """

    signs: Array
    lower: Array
    upper: Array
    choice: Array


def leaves_of(certificate: Certificate, lower: Array, upper: Array, relus: int, clauses: list[Array]) -> Leaves:
    """Walk the tree from its root: every inner node's children cover it, so that the leaves cover the region.

    A node at a ReLU has the children "input >= 0" and "input <= 0", one at an input element x_i "x_i <= t" and
    "x_i >= t", one at a clause a child per atom. Children stand side by side from the position ``tree.first`` on.

    Raises:
        Refused: some node is no child of exactly one other, or splits what is split or cannot be.
    """
    count = len(certificate.tensors.get("tree.kind", ()))
    kind = certificate.whole("tree.kind", (count,), LEAF, AT_CLAUSE)
    first = certificate.whole("tree.first", (count,), -1, count - 1)
    index = certificate.whole("tree.index", (count,), -1, max(relus, len(lower), len(clauses)))
    threshold = certificate.numbers("tree.threshold", (count,))
    extents = np.array([0, relus, len(lower), len(clauses)])
    sizes = np.array([len(atoms) for atoms in clauses] or [0])
    inner = kind != LEAF
    if not count or (inner & ((index < 0) | (index >= extents[kind]))).any():
        raise Refused("A node of the tree splits something that is not there.")
    table = np.full((len(clauses), max((len(atoms) for atoms in clauses), default=0)), -1)
    for c, atoms in enumerate(clauses):
        table[c, : len(atoms)] = atoms
    sizes = np.append((table >= 0).sum(1), 0)
    children = np.where(kind == AT_CLAUSE, sizes[np.where(kind == AT_CLAUSE, index, -1)], np.where(inner, 2, 0))
    # before there is room for each of them
    if children.sum() != count - 1:
        raise Refused("The tree does not cover the region: its nodes have more children, or fewer, than there are.")
    parent, side = _positions(children)
    child = first[parent] + side
    if (np.sort(child) != np.arange(1, count)).any() or (child <= parent).any():
        raise Refused("The tree does not cover the region: a node is missing, or belongs to two others.")
    boxes = bool((kind == AT_INPUT).any())
    box = (lower[None], upper[None]) if boxes else (lower[None, :0], upper[None, :0])
    single = np.where(sizes[:-1] == 1, table[:, :1].sum(1), -1)
    state, level = Leaves(np.zeros((1, relus), np.int8), *box, single[None]), np.zeros(1, dtype=np.int64)
    found: list[tuple[Array, Leaves]] = []
    while len(level):
        ended = ~inner[level]
        found.append((level[ended], Leaves(*(t[ended] for t in state))))
        above, side = _positions(children[level])
        at = level[above]
        state = _step(Leaves(*(t[above] for t in state)), kind[at], index[at], threshold[at], side, table)
        level = first[at] + side
    order = np.argsort(np.concatenate([nodes for nodes, _ in found]))
    leaves = Leaves(*(np.concatenate(parts)[order] for parts in zip(*(leaf for _, leaf in found))))
    return leaves if boxes else leaves._replace(lower=lower[None], upper=upper[None])


def _positions(children: Array) -> tuple[Array, Array]:
    """The parent of every child, parents in order, and which of its children each is."""
    parent = np.repeat(np.arange(len(children)), children)
    return parent, np.arange(len(parent)) - (np.cumsum(children) - children)[parent]


def _step(state: Leaves, kind: Array, at: Array, threshold: Array, side: Array, table: Array) -> Leaves:
    """What holds on children whose parents' ``state`` is given, one row each."""
    rows = (kind == AT_RELU).nonzero()[0]
    if (state.signs[rows, at[rows]] != 0).any():
        raise Refused("The tree splits a ReLU twice.")
    state.signs[rows, at[rows]] = np.where(side[rows] == 0, 1, -1)
    for which, limits in ((0, state.upper), (1, state.lower)):
        rows = ((kind == AT_INPUT) & (side == which)).nonzero()[0]
        inside = (state.lower[rows, at[rows]] <= threshold[rows]) & (threshold[rows] <= state.upper[rows, at[rows]])
        if not inside.all():
            raise Refused("The tree splits an input element outside of its limits.")
        limits[rows, at[rows]] = threshold[rows]
    rows = (kind == AT_CLAUSE).nonzero()[0]
    if (state.choice[rows, at[rows]] >= 0).any():
        raise Refused("The tree splits a clause twice.")
    state.choice[rows, at[rows]] = table[at[rows], side[rows]]
    return state
