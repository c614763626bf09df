"""The certificate as a file: safetensors with JSON in the metadata, described in docs/certificates.md."""

from __future__ import annotations

import json
from io import SEEK_END
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from clinch.checker.layers import (
    LARGEST,
    MALFORMED,
    READ,
    VERSION,
    Array,
    Layer,
    Refused,
    digest,
    number,
    places,
    read_layers,
)

#: names of the metadata's entries
CERTIFICATE, NETWORK = "clinch-certificate", "clinch-network"
#: bytes of JSON, and of a file, beyond which it is refused
LONGEST, LARGEST_FILE = 2**24, 2**31
#: numbers that what a certificate states may take for each byte of its tensors
SHARE = 4


class Certificate(NamedTuple):
    """Header and tensors of a certificate."""

    header: dict[str, Any]
    tensors: dict[str, Array]

    def must_name(self, sha256: str) -> None:
        """Refuse a certificate of another version, or about another network than the one of this hash."""
        if self.header["version"] not in READ:
            raise Refused("The certificate has another version than the one this checker reads.")
        if sha256 not in self.header["networks"]:
            raise Refused("The certificate is about another network: the hash of this one is not among those it names.")

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

    def distinct(self, name: str, count: int) -> Array:
        """A tensor of whole numbers below ``count``, none of which stands twice."""
        found = self.whole(name, (len(self.tensors[name]),), 0, count - 1)
        if len(np.unique(found)) < len(found):
            raise Refused(f"The tensor '{name}' has an entry twice.")
        return found

    def room(self, numbers: int) -> None:
        """Refuse what would take so many numbers, where that is more than a share of the tensors' bytes."""
        if numbers > LARGEST + SHARE * sum(t.nbytes for t in self.tensors.values()):
            raise Refused("The certificate is too large for this checker, which grants it a multiple of its size.")

    def rows(self, prefix: str, layers: list[Layer], count: int) -> dict[int, Array]:
        """Linear forms ``(count, size)`` by position of the layer they look at."""
        found, known = {}, places(layers)
        for name in sorted(name for name in self.tensors if name.startswith(prefix)):
            at = known.get(name.removeprefix(prefix))
            if at is None:
                raise Refused(
                    f"'{name}': the network has no place of that name; each has one, as in docs/certificates.md."
                )
            found[at] = self.numbers(name, (count, layers[at].size))
        return found


def read_file(path: str | Path, entry: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """JSON header and tensors of a file, whose digest must be the one that the header states.

    Raises:
        Refused: no safetensors file, no such entry, or contents that were changed.
    """
    path = Path(path)
    try:
        with path.open("rb") as start:
            # the library makes room for a header's entries and for the tensors, and panics where there is none
            if int.from_bytes(start.read(8), "little") > 2 * LONGEST:
                raise Refused(f"'{path.name}' has a header of more than {2 * LONGEST} bytes.")
            if (size := start.seek(0, SEEK_END)) > LARGEST_FILE:
                raise Refused(f"'{path.name}' has more than {LARGEST_FILE} bytes.")
            np.empty(size, np.uint8)
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(entry, "")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if not text or len(text) > LONGEST:
            raise Refused(f"'{path.name}' has no metadata '{entry}', or too much of it.")
        header = json.loads(text, object_pairs_hook=_once)
    except (SafetensorError, OSError, *MALFORMED) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Refused(f"'{path.name}' cannot be read: {reason}.") from None
    version = header.get("version") if isinstance(header, dict) else None
    if version not in READ:
        raise Refused(f"'{path.name}' has version {version!r}; this checker reads version {VERSION}: write it again.")
    if digest({**header, "sha256": ""}, tensors) != header.get("sha256"):
        raise Refused(f"The contents of '{path.name}' are not those its digest states: it was changed or cut.")
    return header, tensors


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; one that has an entry twice means two things."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("an entry stands twice")
    return dict(pairs)


def write_file(path: Path, entry: str, header: dict[str, Any], tensors: dict[str, Array]) -> None:
    """Write header, with its digest, and tensors."""
    tensors = {name: np.ascontiguousarray(t) for name, t in tensors.items()}
    header = {**header, "sha256": digest({**header, "sha256": ""}, tensors)}
    save_file(tensors, path, {entry: json.dumps(header)})


def read_certificate(path: Path) -> Certificate:
    """Read a certificate.

    Raises:
        Refused: it cannot be read, was changed, has another version, or something without a meaning.
    """
    header, tensors = read_file(path, CERTIFICATE)
    try:
        extra = _unknown(header, tensors)
    except MALFORMED as error:
        raise Refused(f"The certificate is malformed: {type(error).__name__} {error}") from None
    if extra:
        raise Refused(f"The certificate has '{min(extra)}', which has no meaning in this format.")
    return Certificate(header, tensors)


#: tensors that every certificate may have, and those of its objective
FIXED = {"region.lower", "region.upper", "atoms.constant", "atoms.clause", "point.x"}
FIXED |= {f"tree.{name}" for name in ("kind", "index", "threshold", "first")}
FIXED |= {f"leaf.{name}" for name in ("columns", "alpha", "beta", "mu", "nu", "slopes")}
LEMMAS = {f"lemma.{name}" for name in ("activation", "side", "weight", "mu", "columns", "alpha")}
OBJECTIVE = {"linear": {"objective.constant"}, "distance": {"objective.center", "objective.weights"}, "none": set()}
#: entries of the header, and of what stands in it
ENTRIES = {
    "query": {"objective", "p", "balls", "sense", "labels"}, "claim": {"kind", "value"},
    "point": {"value", "violation"}, "version": (), "sha256": (), "networks": (),
}  # fmt: skip


def _unknown(header: dict[str, Any], tensors: dict[str, Array]) -> set[str]:
    """Entries and tensors that the checker would not look at."""
    query, extra = header["query"], header.keys() - ENTRIES.keys()
    for name in ("query", "claim", "point"):
        extra |= (header[name] or {}).keys() - ENTRIES[name]
    known = FIXED | OBJECTIVE[query["objective"]] | (LEMMAS if tensors.keys() >= LEMMAS else set())
    for i in range(len(query["balls"])):
        known |= {f"ball.{i}.{name}" for name in ("center", "weights", "radius")}
    forms = ("atoms.rows.", "objective.rows.") if query["objective"] == "linear" else ("atoms.rows.",)
    return extra | {name for name in tensors if name not in known and not name.startswith(forms)}


def read_network(path: Path) -> tuple[list[Layer], str]:
    """Layers and hash of a neutral layer list (``.safetensors``) or an ONNX file (``.onnx``, ``.onnx.gz``).

    Raises:
        Refused: it cannot be read, or holds a layer that the checker does not know.
    """
    if path.name.lower().endswith((".onnx", ".onnx.gz")):
        from clinch.checker.onnx_layers import read_onnx

        return read_onnx(path)
    header, tensors = read_file(path, NETWORK)
    return read_layers(header, tensors), header["sha256"]
