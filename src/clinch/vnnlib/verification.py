"""The verdict on a specification: what ``clinch verify`` prints and :func:`clinch.verify` returns."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import torch

from clinch.errors import CertificateError, ProblemError, SpecificationError, UnsoundResult, UnsupportedByEngine
from clinch.runtime import memory
from clinch.runtime.deadline import clock
from clinch.runtime.devices import usable_device
from clinch.search.first_points import first_points
from clinch.solve import ENGINES, search
from clinch.solver.engine import surviving
from clinch.solver.ledger import Ledger
from clinch.solver.settings import Attack, Bounds
from clinch.vnnlib.counterexample import Counterexample, counterexample_at
from clinch.vnnlib.problems import Stated, state
from clinch.vnnlib.reader import read_specification
from clinch.vnnlib.several import Joined, join
from clinch.vnnlib.specification import Specification

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

    from clinch.certificates import SavedProof
    from clinch.network.network import Network

#: largest violation of a counterexample, in the units of the file: VNN-COMP's own tolerance
TOLERANCE = 1e-4
#: seconds of the timeout that are kept for the last check and for answering, at most
RESERVE = 0.2
#: share of the time for a few points of every batch of problems
POINTS_SHARE = 0.03
#: share of the time for one attack on every batch of problems, where there are several
ATTACK_SHARE = 0.1


class Answer(enum.Enum):
    """The four words of VNN-COMP."""

    SAT = "sat"
    UNSAT = "unsat"
    TIMEOUT = "timeout"
    UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class Verdict:
    """The answer to a specification.

    Attributes:
        answer: sat: there is a counterexample; unsat: proven that there is none; timeout; unknown: the engines gave up.
        counterexample: where the answer is sat.
        reason: one sentence on what the answer rests on, or on what is missing.
        seconds: wall time from the call to the answer.
        problems: number of feasibility problems that the specification was split into.
        notes: what happened on the way that the user should know, one sentence each.
    """

    answer: Answer
    counterexample: Counterexample | None
    reason: str
    seconds: float
    problems: int
    notes: tuple[str, ...] = ()
    _searches: tuple[Ledger, ...] = field(default=(), repr=False)
    _file: Path | None = field(default=None, repr=False)

    @property
    def decided(self) -> bool:
        """Whether the answer is sat or unsat."""
        return self.answer in (Answer.SAT, Answer.UNSAT)

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, ready for JSON."""
        found = self.counterexample
        return {
            "answer": self.answer.value,
            "reason": self.reason,
            "seconds": self.seconds,
            "problems": self.problems,
            "counterexample": None if found is None else {
                "values": {name: values.tolist() for name, values in found.values.items()},
                "violation": found.violation,
                "exact": found.exact,
            },
            "notes": list(self.notes),
        }  # fmt: skip

    def certify(self, time_limit: float = 60.0, *, float32: bool = False) -> list[SavedProof | CertificateError]:
        """Prove ``unsat`` once more, case by case, in a form that ``clinch check`` reads.

        A specification is a disjunction of cases; each has one certificate, and all together prove ``unsat``. That the
        cases are all that the specification says is not part of the proofs. With ``verify(keep_leaves=True)`` they
        begin with the leaves that branch and bound has closed.

        Args:
            time_limit: seconds for all cases together; each has an equal share of what is left.
            float32: whether the proofs are to hold for the network as it runs in float32 too, whatever the order in
                which it adds, with or without fused multiply-add.

        Returns:
            For each case its certificate, or the reason why there is none.

        Raises:
            CertificateError: another answer than unsat, or a layer without a place in the format.

        Example:
            >>> proofs = clinch.verify("net.onnx", "property.vnnlib", keep_leaves=True).certify()
            >>> proofs[0].save("property.safetensors").name
            'property.network.safetensors'
        """
        from clinch.certificates.unsat import certify_cases

        if self.answer is not Answer.UNSAT:
            raise CertificateError(f"The answer is {self.answer.value}: there is nothing to certify but unsat.")
        return certify_cases(self._searches, self._file, time_limit, float32=float32)

    def in_float32(self, time_limit: float = 60.0) -> tuple[Verdict, list[SavedProof | CertificateError]]:
        """What is left of ``unsat`` where the network runs in float32, and the certificates that say so.

        Args:
            time_limit: seconds for the certificates.

        Returns:
            This verdict where every case is proven with the rounding of float32; else ``unknown``, with the reason. The
            certificates, or what is in their way, as :meth:`certify` returns them.
        """
        proofs: list[SavedProof | CertificateError]
        try:
            proofs = self.certify(time_limit, float32=True)
        except CertificateError as reason:
            proofs = [reason]
        missing = next((reason for reason in proofs if isinstance(reason, CertificateError)), None)
        if missing is None:
            return self, proofs
        text = f"In real numbers the answer is unsat; in float32 that is not proven. {missing}"
        return replace(self, answer=Answer.UNKNOWN, reason=text, _searches=()), proofs


class _FirstFound(Ledger):
    """A ledger of alternatives: one feasible point answers them all."""

    @property
    def found(self) -> bool:
        """Whether some problem has a checked point."""
        return bool(torch.isfinite(self.value).any())

    @property
    def exhausted(self) -> bool:
        """Nothing left to do: the time is over, a point is found, or every problem is proven to have none."""
        return self.found or super().exhausted


def verify(
    network: str | PathLike[str] | ModelProto | torch.nn.Module | Network | Mapping[str, Any],
    specification: str | PathLike[str] | Specification,
    *,
    timeout: float = 60.0,
    seed: int = 0,
    device: torch.device | str | None = None,
    keep_leaves: bool = False,
    memory_limit: int | None = None,
) -> Verdict:
    """Decide whether a VNN-LIB specification has a counterexample.

    Points count only where the network's own model (onnxruntime for a file, in the file's dtype) and float64 agree that
    every condition holds, without tolerance; the formula as it was read is then evaluated once more. ``unsat`` rests on
    proven bounds over the whole box, in float64.

    Args:
        network: an ``.onnx`` or ``.onnx.gz`` file, or anything that :func:`clinch.load` takes; by the names that the
            specification declares where these are several networks.
        specification: a ``.vnnlib`` or ``.vnnlib.gz`` file, or what was read from one.
        timeout: seconds of wall time from this call on; a decided answer never comes later.
        seed: of every random choice.
        device: where to compute, see :meth:`clinch.Problem.solve`; None: where the network is.
        keep_leaves: whether searches keep the leaves they close, for :meth:`Verdict.certify`.
        memory_limit: bytes that the search may take, see :meth:`clinch.Problem.solve`; None: no limit.

    Raises:
        ProblemError: a timeout that is negative or NaN, a memory limit that is not positive, or a device that is not
            there.
        SpecificationError: the file cannot be read, or is about another network.
        NetworkError, UnsupportedOperator: the network cannot be loaded.

    Example:
        >>> clinch.verify("net.onnx", "property.vnnlib", timeout=116).answer
        <Answer.UNSAT: 'unsat'>
    """
    from clinch.network.load import load

    start = clock()
    if not timeout >= 0:
        raise ProblemError(f"The timeout is {timeout:g}; give seconds, zero or more.")
    memory.check_limit(memory_limit)
    if not isinstance(specification, Specification):
        specification = read_specification(fspath(specification))
    loaded = {name: load(one) for name, one in network.items()} if isinstance(network, Mapping) else load(network)
    joined: Joined | None = None
    if len(specification.networks) > 1 or isinstance(loaded, Mapping):
        specification, loaded = join(specification, _named(specification, loaded))
        joined = specification
    place = usable_device(loaded.device if device is None else device)
    stated = state(specification, loaded)
    deadline = start + timeout
    with memory.guarded(memory_limit):
        ledgers = _search(stated, deadline - min(RESERVE, 0.1 * timeout), seed, place, keep_leaves)
    point = next((x for ledger in ledgers if (x := _point(ledger)) is not None), None)
    found = None if point is None else counterexample_at(specification, loaded, point)
    if found is not None and not found.violation <= TOLERANCE:
        raise UnsoundResult(
            f"A checked input of {specification.name} fails the formula as it was read by {found.violation:.3g}. "
            "Please report this specification."
        )
    if found is not None and joined is not None:
        found = replace(found, specification=joined.original, values=joined.restored(found.values))
    answer, reason = _answer(stated, ledgers, found, deadline)
    notes = tuple(dict.fromkeys(note for ledger in ledgers for note in ledger.notes))
    problems = sum(query.size for query in stated.queries)
    kept = found if answer is Answer.SAT else None
    seconds = clock() - start
    # whoever asks for certificates needs the searches; nobody else's memory is held by them
    searches = tuple(ledgers) if answer is Answer.UNSAT else ()
    return Verdict(answer, kept, reason, seconds, problems, notes, searches, loaded.file)


def _named(specification: Specification, loaded: Network | Mapping[str, Network]) -> Mapping[str, Network]:
    """Networks by the names that a specification declares."""
    named = loaded if isinstance(loaded, Mapping) else {}
    if not set(named) <= set(specification.networks) or (not named and specification.networks):
        given = f"networks are given for {', '.join(named)}" if named else "one network is given"
        raise SpecificationError(
            f"{specification.name} declares {', '.join(specification.networks) or 'no name of a network'}; {given}. "
            "Write verify({name: network, ...}, specification)."
        )
    return named


def _search(stated: Stated, deadline: float, seed: int, device: torch.device, keep_leaves: bool) -> list[_FirstFound]:
    """What is quick on every batch of problems first, points before bounds, then the search of one after the other
    until a point is found."""

    def left() -> float:
        return max(0.0, deadline - clock())

    queries = stated.queries
    # the first batch alone needs no round of attacks: the search begins with one
    trees = [[] if keep_leaves else None for _ in queries]
    ledgers = [_FirstFound(query, time_limit=left(), trees=tree) for query, tree in zip(queries, trees)]
    rounds: list[tuple[float, Callable[[_FirstFound], None]]] = [
        (POINTS_SHARE, lambda ledger: first_points(ledger.query.moved(device), ledger, seed)),
        (1.0, lambda ledger: _bounds(ledger, seed, device)),
        (ATTACK_SHARE, lambda ledger: ENGINES["attack"].run(ledger.query.moved(device), ledger, seed, Attack())),
    ]
    for share, work in rounds if len(queries) > 1 else rounds[:-1]:
        for ledger in ledgers:
            if ledger.exhausted:
                continue
            with ledger.share(share if share == 1.0 else share / len(queries)), surviving(ledger):
                work(ledger)
            if ledger.found:
                return ledgers
    pending = [ledger for ledger in ledgers if not ledger.exhausted]
    while pending and left() > 0:
        pending = _round(pending, seed, device)
    return ledgers


def _round(pending: list[_FirstFound], seed: int, device: torch.device) -> list[_FirstFound]:
    """Search each batch with an equal share of the time that is left; those that needed more, unless it is over."""
    again = []
    for number, ledger in enumerate(pending):
        with ledger.share(1 / (len(pending) - number)):
            search(ledger.query.moved(device), ledger, seed)
            short = ledger.remaining <= 0
        if ledger.found:
            return []
        if short and ledger.remaining > 0 and not bool(ledger.closed.all()):
            again.append(ledger)
    return again


def _bounds(ledger: _FirstFound, seed: int, device: torch.device) -> None:
    """Linear relaxations of the whole box, which searches start from too.

    A relaxation's bound of a single condition is compared with zero itself, so that it also refutes conditions that
    just fail to be met, such as ``Y_0 > 0`` of an output that is never positive.
    """
    try:
        ENGINES["bounds"].run(ledger.query.moved(device), ledger, seed, Bounds())
    except UnsupportedByEngine as reason:
        ledger.note(f"Engine 'bounds' was skipped. {reason}")


def _point(ledger: _FirstFound) -> torch.Tensor | None:
    """A checked point of some problem, in the network's dtype."""
    with_point = torch.isfinite(ledger.value).nonzero().flatten()
    return ledger.x[int(with_point[0])] if len(with_point) else None


def _answer(
    stated: Stated, ledgers: list[_FirstFound], found: Counterexample | None, deadline: float
) -> tuple[Answer, str]:
    """The word, and why."""
    proven = all(bool((ledger.bound == torch.inf).all()) for ledger in ledgers)
    if (found is not None or proven) and clock() > deadline:
        return Answer.TIMEOUT, "The answer came after the timeout."
    if found is not None:
        how = "exactly" if found.exact else f"up to {found.violation:.3g}, the rounding of an input with fixed limits"
        return Answer.SAT, f"A counterexample meets the specification {how}."
    if proven:
        if not ledgers:
            return Answer.UNSAT, f"No input meets the specification's own limits: {stated.reason}."
        return Answer.UNSAT, "Proven: no input meets the specification."
    if any(ledger.remaining <= 0 for ledger in ledgers):
        return Answer.TIMEOUT, "Neither a counterexample nor a proof was found in time."
    return Answer.UNKNOWN, "The engines ended without a counterexample and without a proof."
