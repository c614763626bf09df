"""Hashes that tell studies apart: of a network's function, of data, of any settings."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from clinch.modeling.model import SymbolicNetwork


def fingerprint(*parts: Any) -> str:
    """SHA-256 of numbers, texts, tensors, arrays and of containers and data classes of them, as hexadecimal text.

    Tensors count by dtype, shape and bytes; equal parts have equal hashes in every process.

    Example:
        >>> fingerprint("inf", 0.1) == fingerprint("inf", 0.1)
        True
    """
    digest = hashlib.sha256()
    for part in parts:
        _feed(digest, part)
    return digest.hexdigest()


def model_fingerprint(network: SymbolicNetwork) -> str:
    """Hash of a network's layers: operators, parameters, shapes and how they are joined; names do not count.

    Args:
        network: from :func:`clinch.load`.
    """
    graph = network.graph_as(network.dtype, "cpu")
    return fingerprint(str(network.dtype), [(node.op, node.inputs, node.shape) for node in graph.nodes])


def _feed(digest: Any, part: Any) -> None:
    """Every part is preceded by its kind and size, so that no two sequences of parts read the same."""
    if isinstance(part, torch.Tensor):
        part = part.detach().to("cpu").contiguous().numpy()
    if isinstance(part, np.ndarray):
        digest.update(f"array {part.dtype} {part.shape};".encode())
        digest.update(np.ascontiguousarray(part).tobytes())
    elif isinstance(part, bytes):
        digest.update(f"bytes {len(part)};".encode())
        digest.update(part)
    elif dataclasses.is_dataclass(part) and not isinstance(part, type):
        fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
        _feed(digest, (type(part).__qualname__, fields))
    elif isinstance(part, Mapping):
        _feed(digest, sorted(part.items()))
    elif isinstance(part, (tuple, list)):
        digest.update(f"sequence {len(part)};".encode())
        for entry in part:
            _feed(digest, entry)
    else:
        text = repr(part)
        digest.update(f"{type(part).__name__} {len(text)};{text}".encode())
