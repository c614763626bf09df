"""Certificates: proofs of bounds that the small program in :mod:`clinch.checker` checks without trusting the solver."""

from clinch.certificates.produce import SavedProof, certify
from clinch.runtime import renamed

__all__ = ["SavedProof", "certify"]

renamed.modules(__name__)
