"""Every error a user can meet.

Each message is one sentence that says what was wrong and one that says what to write instead.
"""

from __future__ import annotations


class ClinchError(Exception):
    """Base of all errors raised on purpose; the command line prints its message and exits with 2."""


class NetworkError(ClinchError):
    """A model cannot be loaded: training mode, no input shape, no batch dimension, mismatch with the original."""


class UnsupportedByEngine(ClinchError):
    """An engine cannot take this problem; says what it has seen, and what to write or which engine to name instead."""


class UnsupportedOperator(NetworkError, UnsupportedByEngine):
    """An operator lacks a fact an engine needs; names the layer, its source line and what would work instead.

    Attributes:
        missing: of a model that cannot be read, a sentence for everything that is in the way.
    """

    missing: tuple[str, ...] = ()


class UnknownLayer(ClinchError, KeyError):
    """A layer name that the network does not have; lists the names it has."""

    def __str__(self) -> str:
        return str(self.args[0])


class ProblemError(ClinchError, ValueError):
    """A problem statement that has no meaning: expressions of two networks, a non-linear constraint, no objective."""


class ShapeError(ProblemError):
    """A constant whose shape does not fit what it is compared with; gives the expected and the received shape."""


class NonFiniteError(ProblemError):
    """NaN, or an infinity where a finite number is needed; names the argument."""


class EmptyRegionError(ProblemError):
    """Input bounds that contradict each other; names the first such coordinate."""


class UnboundedInputError(ProblemError, UnsupportedByEngine):
    """An engine needs finite input bounds and the problem has none; says which constraint to add."""


class SpecificationError(ProblemError):
    """A VNN-LIB file that is malformed, says what is not supported, or is about another network; names the line."""


class MissingPackage(ClinchError, ImportError):
    """An optional package is not installed; says what to install."""


class BackendError(ClinchError):
    """A solver library is missing or failed; says how to install it or which other backend to name."""


class BackendCrash(BackendError):
    """The process in which a solver library ran has ended; says how. What was known before stays."""


class WorkerError(ClinchError):
    """Workers cannot be reached, started or sent the model; says which and what to do."""


class WorkerLost(WorkerError):
    """The worker that had a task is gone: its process was killed, or its machine is lost."""


class CertificateError(ClinchError):
    """A bound cannot be certified: a layer or objective outside of the format, or a proof not found in the time."""


class UnsoundResult(ClinchError):
    """A proven bound and a checked point contradict each other; names both engines. Always a defect, never a tie."""


def one_line(error: BaseException) -> str:
    """Kind and text of an error, whoever raised it, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
