"""Certificates of the cases of a specification that no input meets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from clinch.certificates.produce import SavedProof, certify
from clinch.errors import CertificateError
from clinch.solver.ledger import Ledger


def certify_cases(
    ledgers: Sequence[Ledger], onnx: Path | None, time_limit: float, *, float32: bool = False
) -> list[SavedProof | CertificateError]:
    """Prove of every problem of some ledgers that it has no feasible input, from the leaves that their searches kept.

    Args:
        ledgers: of the searches.
        onnx: the file of the network.
        time_limit: seconds for all problems together; each has an equal share of what is left.
        float32: whether the proofs are to hold in float32, see :func:`clinch.certificates.certify`.

    Returns:
        For each problem its certificate, or the reason why there is none.

    Raises:
        CertificateError: a layer without a place in the format.
    """
    end = time.monotonic() + time_limit
    left = sum(ledger.query.size for ledger in ledgers)
    found: list[SavedProof | CertificateError] = []
    for ledger in ledgers:
        nothing = torch.full((ledger.query.size,), torch.inf, dtype=torch.float64)
        for b in range(ledger.query.size):
            share = max(0.0, end - time.monotonic()) / left
            found += certify(
                ledger.query, nothing, time_limit=share, onnx=onnx, trees=ledger.trees or (), problems=[b],
                float32=float32,
            )  # fmt: skip
            left -= 1
    return found


def save_all(proofs: Sequence[SavedProof | CertificateError], path: str | Path) -> list[Path]:
    """Write what is proven: one case under the name itself, several with their number before the suffix."""
    path, written = Path(path), []
    for number, proof in enumerate(proofs):
        if isinstance(proof, SavedProof):
            target = path if len(proofs) == 1 else path.with_name(f"{path.stem}.{number}{path.suffix}")
            proof.save(target)
            written.append(target)
    return written
