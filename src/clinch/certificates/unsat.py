"""Certificates of VNN-LIB specifications that no input meets."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import torch

from clinch.certificates.produce import SavedProof, certify
from clinch.errors import CertificateError
from clinch.network.network import Network
from clinch.vnnlib.reader import read_specification
from clinch.vnnlib.specification import Specification


def certify_unsat(
    network: str | PathLike[str] | Network, specification: str | PathLike[str] | Specification, *,
    time_limit: float = 60.0,
) -> list[SavedProof | CertificateError]:  # fmt: skip
    """Prove once more, case by case, that no input meets a specification: what follows ``unsat``.

    A specification is a disjunction of cases; each has one certificate, and all together prove ``unsat``. That the
    cases are all that the specification says is not part of the proofs.

    Args:
        network: an ``.onnx`` or ``.onnx.gz`` file, or a network.
        specification: a ``.vnnlib`` or ``.vnnlib.gz`` file, or what was read from one.
        time_limit: seconds for all cases together; each has an equal share of what is left.

    Returns:
        For each case its certificate, or the reason why there is none.

    Raises:
        CertificateError: a layer without a place in the format.
        SpecificationError, NetworkError: a file that cannot be read.

    Example:
        >>> proofs = certify_unsat("net.onnx", "property.vnnlib")
        >>> proofs[0].save("property.safetensors")
    """
    import time

    from clinch.network.load import load
    from clinch.vnnlib.problems import state

    if not isinstance(specification, Specification):
        specification = read_specification(specification)
    loaded = network if isinstance(network, Network) else load(network)
    end = time.monotonic() + time_limit
    found: list[SavedProof | CertificateError] = []
    queries = state(specification, loaded).queries
    left = sum(query.size for query in queries)
    for query in queries:
        for b in range(query.size):
            share = max(0.0, end - time.monotonic()) / left
            one = query.take(torch.tensor([b]))
            found += certify(one, torch.tensor([torch.inf], dtype=torch.float64), time_limit=share, onnx=loaded.file)
            left -= 1
    return found


def save_all(proofs: list[SavedProof | CertificateError], path: str | Path) -> list[Path]:
    """Write what is proven: one case under the name itself, several with their number before the suffix."""
    path, written = Path(path), []
    for number, proof in enumerate(proofs):
        if isinstance(proof, SavedProof):
            target = path if len(proofs) == 1 else path.with_name(f"{path.stem}.{number}{path.suffix}")
            proof.save(target)
            written.append(target)
    return written
