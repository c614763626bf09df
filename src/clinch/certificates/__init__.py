"""Certificates: proofs of bounds that the small program in :mod:`clinch.checker` checks without trusting the solver."""

from clinch.certificates.produce import SavedProof, certify

__all__ = ["SavedProof", "certify"]
