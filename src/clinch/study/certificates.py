"""Certificates of the images that a study has proven, one file each in the folder of its run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clinch.certificates.produce import SavedProof, certify
from clinch.errors import CertificateError
from clinch.io.files import replacing
from clinch.modeling.model import SymbolicNetwork
from clinch.study.sources import open_source
from clinch.study.store import Row, Store
from clinch.study.template import Template

#: the folder inside a run's
FOLDER = "certificates"


class Certified(NamedTuple):
    """One image of a run.

    Attributes:
        image: its place in the data.
        file: its certificate; None where there is none.
        bound: the bound that the checker has accepted; for a radius infinity: no such input is within it.
        reason: why there is no certificate, empty where there is one.
    """

    image: int
    file: Path | None
    bound: float | None
    reason: str


def certify_run(
    folder: str | Path, network: SymbolicNetwork, data: Any, template: Template, *, time_limit: float = 60.0
) -> Iterator[Certified]:
    """Prove every answer of a run once more and write ``certificates/IMAGE.safetensors``; what is there is kept.

    Images that are robust within the radius, or have a bound of their distance above 0, get one. The layer list is the
    same for all of them and lies beside them as ``network.safetensors``.

    Args:
        folder: the ``out`` of :func:`clinch.study.evaluate`.
        network: the one that was evaluated; data: the data it was evaluated on.
        template: what was asked.
        time_limit: seconds for each image.

    Yields:
        One :class:`Certified` for each of these images.

    Raises:
        StoreError: there is no run, or it is about another network, other data or another question.
        CertificateError: a layer or a norm without a place in the format.

    Example:
        >>> found = cl.study.evaluate(net, "digits", eps=0.02, limit=3, out="certified")
        >>> [found.image for found in certify_run("certified", net, "digits", Template(math.inf, 0.02))]
        [0, 1, 2]
    """
    source = open_source(data)
    place = Path(folder) / FOLDER
    with Store(folder, create=False) as store:
        _agree(store, network, source.hash, template)
        rows = [row for row in store.rows() if _proven(row, template)]
    place.mkdir(exist_ok=True)
    for row in rows:
        target = place / f"{row.image}.safetensors"
        batch = source.read([row.image], network.input_shape, network.dtype)
        if target.is_file():
            yield Certified(row.image, target, row.bound, "")
        elif batch.errors[0] is not None:
            yield Certified(row.image, None, None, batch.errors[0])
        else:
            yield _one(row, network, template, batch.x, batch.y, target, time_limit)


def _agree(store: Store, network: SymbolicNetwork, data: str, template: Template) -> None:
    """The run is about this network, this data and this question."""
    from clinch.study.fingerprint import model_fingerprint
    from clinch.study.store import StoreError

    stated = store.identity
    asked = str(stated.get("problem", "")).rpartition(", seed ")[0]
    found = {"network": stated.get("model_hash") == model_fingerprint(network), "data": stated.get("data_hash") == data,
             "question": asked == template.text}  # fmt: skip
    wrong = [name for name, same in found.items() if not same]
    if wrong:
        raise StoreError(f"The run is about another {wrong[0]}: '{asked}'. Name what clinch evaluate was given.")


def _proven(row: Row, template: Template) -> bool:
    if template.eps is not None:
        return row.status == "robust"
    return row.bound is not None and row.bound > 0


def _one(
    row: Row, network: SymbolicNetwork, template: Template, x: Tensor, y: Tensor, target: Path, time_limit: float
) -> Certified:
    query = template.problem(network, x, y).query
    bound = math.inf if template.eps is not None else float(row.bound or 0.0)
    limits = torch.tensor([bound], dtype=torch.float64)
    proof = certify(query, limits, time_limit=time_limit, onnx=network.file)[0]
    if isinstance(proof, CertificateError):
        return Certified(row.image, None, None, str(proof))
    from clinch.checker.certificate import CERTIFICATE, NETWORK, write_file

    # one layer list for the whole run: it is large, and the same
    shared = target.with_name("network.safetensors")
    if not shared.is_file():
        with replacing(shared) as beside:
            write_file(beside, NETWORK, *proof.network)
    with replacing(target) as beside:
        write_file(beside, CERTIFICATE, *proof.certificate)
    assert isinstance(proof, SavedProof)
    return Certified(row.image, target, proof.report.bound, "")
