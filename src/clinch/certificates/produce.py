"""From a solved problem to a certificate that the checker has accepted."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from clinch.certificates.checked_lines import CheckedNetwork
from clinch.certificates.float32 import running_in_float32
from clinch.certificates.layer_list import layer_list, places
from clinch.certificates.lemmas import LemmaSearch
from clinch.certificates.part_proof import Claimed, PartProof
from clinch.certificates.proof_search import BATCH, ProofSearch, halves_boxes
from clinch.checker.certificate import CERTIFICATE, NETWORK, VERSION, Certificate, write_file
from clinch.checker.check import Report, check, hull, point_limits
from clinch.checker.layers import Layer, Refused, read_layers
from clinch.checker.question import CertifiedQuery, certified_query
from clinch.errors import CertificateError, NetworkError
from clinch.io.files import MODEL_LIMIT, read_limited, replacing
from clinch.query import Distance, Forms, FormsNorm, Linear, Query
from clinch.runtime import deadline
from clinch.search.part_record import RecordedParts
from clinch.search.tree import Recorded
from clinch.solver.ledger import Recorder

#: by how much the certified bound may lie below the reported one, relative and absolute
SLACK, LEAST_SLACK = 1e-6, 1e-8
#: what a leaf's bound has to reach where nothing feasible is claimed
CLOSED = 1e-7
#: what is allowed, relatively, for the rounding of a point's value
ROUNDED = 1e-9
#: factors to that where rounding costs more
MORE_SLACK = (10.0, 100.0)
#: share of the time for the proof; the checker has what is left
PROOF_SHARE = 0.7
#: share of the time, and number of nodes for each known leaf, of a proof from nothing that is tried before these where
#: the search had not come to its end, or had halved boxes for a distance: then at least so many nodes
SHARE, SMALL, FEW = 0.5, 1 / 64, 32
#: share of the time for another plan, as long as there are more
MOST = 0.8
#: share of the time for lemmas
LEMMA_SHARE = 0.5
#: nodes of a certificate from another verifier's tree, beside each of its own
EXTRA = 2.0


@dataclass(frozen=True, eq=False)
class SavedProof:
    """A certificate and the network that it is about, as the neutral layer list.

    Attributes:
        certificate: header and tensors.
        network: header and tensors of the layer list.
        report: what the checker found: the certified bound in the minimising sense, its margin and rounding.
        found, checked: seconds spent on the proof and on checking it.
    """

    certificate: Certificate
    network: tuple[dict[str, Any], dict[str, np.ndarray]]
    report: Report
    found: float
    checked: float

    def save(self, path: str | Path) -> Path:
        """Write ``path`` and, beside it, the layer list ``<stem>.network.safetensors``, whose path is returned."""
        path = Path(path)
        beside = path.with_name(path.stem + ".network.safetensors")
        for target, entry, content in ((beside, NETWORK, self.network), (path, CERTIFICATE, self.certificate)):
            with replacing(target) as unfinished:
                write_file(unfinished, entry, *content)
        return beside


def certify(
    query: Query,
    bound: Tensor,
    x: Tensor | None = None,
    *,
    time_limit: float = 60.0,
    onnx: str | Path | None = None,
    trees: Sequence[Recorder] = (),
    problems: Sequence[int] | None = None,
    float32: bool = False,
) -> list[SavedProof | CertificateError]:
    """Prove bounds once more, in a way that can be checked; every proof is checked before it is returned.

    The bound certified lies below the one given by at most 1e-6 of it (1e-5 or 1e-4 where the checker's allowance for
    rounding asks for it), or further where the time is over; the header states it.

    Args:
        query: B problems in normal form.
        bound: ``(B,)`` proven bounds in the minimising sense; infinity: nothing is feasible.
        x: ``(B, *input_shape)`` best inputs, NaN where there is none.
        time_limit: seconds for each problem.
        onnx: the file the network was read from, so that the certificate can be checked against it as well.
        trees: what searches of this query have recorded (:attr:`clinch.solver.ledger.Ledger.trees`), to start from:
            the smallest tree of each problem that came to its end, else that of the best bound. Where it leads to no
            proof that is accepted, all is proven from nothing.
        problems: which ones; None: all.
        float32: whether the proof is to hold for the network as it runs in float32 too, in any order of summation.

    Returns:
        For each of these problems its certificate, or the reason why there is none.

    Raises:
        CertificateError: no problem of this query can have one: a layer or an objective without a place in the format.

    Example:
        >>> import torch, clinch as cl
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1)).eval()
        >>> net = cl.load(model, input_shape=(2,))
        >>> problem = cl.Problem(cl.Minimize(net.output[0]), [net.input.between(0, 1)])
        >>> solution = problem.solve(certificate=True)
        >>> solution.certificate.report.bound <= solution.bound
        True
    """
    query, about = _as_the_format(query, onnx, float32)
    found: list[SavedProof | CertificateError] = []
    for b in range(query.size) if problems is None else problems:
        one = query.take(torch.tensor([b]))
        point = None if x is None or bool(x[b].isnan().any()) else x[b].to("cpu", torch.float64)
        try:
            records = [record for tree in reversed(trees) if (record := tree.of(b)) is not None]
            ended = [record for record in records if record.finished]
            known = min(ended, key=lambda record: record.leaves) if ended else max(records, key=_proven, default=None)
            found.append(_certify_by(one, float(bound[b]), point, time_limit, about, known))
        except (CertificateError, Refused) as reason:
            found.append(reason if isinstance(reason, CertificateError) else CertificateError(str(reason)))
    return found


def _proven(record: Recorded | RecordedParts) -> float:
    """The bound of a tree that did not come to its end, as far as it is known."""
    leaves = record.domains if isinstance(record, Recorded) else record.parts
    return float(leaves.bound.min()) if leaves is not None and len(leaves) else -math.inf


def _check_supported(query: Query) -> None:
    objective = query.objective
    if isinstance(objective, FormsNorm) or (isinstance(objective, Distance) and not objective.norm.certified):
        raise CertificateError(
            "Certificates take linear objectives and distances with p = 1, 2 or infinity. "
            "State such an objective, or solve without a certificate."
        )
    if any(not ball.norm.certified for ball in query.region.balls):
        raise CertificateError("Certificates take balls with p = 1, 2 or infinity. Bound the input by one of these.")
    names = places(query.graph)
    for node in query.nodes:
        if node not in names:
            raise CertificateError(
                f"Layer '{query.graph.nodes[node].name}' is neither input, output, a ReLU nor read by one, so that a "
                "certificate cannot name it. State the problem on one of these."
            )


class About(NamedTuple):
    """What a proof is about: the layer list, hashes of the files that state it, whether it is to hold in float32."""

    network: tuple[dict[str, Any], dict[str, np.ndarray]]
    hashes: list[str]
    float32: bool = False


def _as_the_format(query: Query, onnx: str | Path | None, float32: bool = False) -> tuple[Query, About]:
    """The query as certificates state it, and what they are about.

    Raises:
        CertificateError: the format has no place for a layer or for the objective.
    """
    # the format knows conditions of linear forms: a gap between values is one of them, or the other
    query = query.to(torch.float64, "cpu").with_gaps_as_clauses()
    _check_supported(query)
    network = layer_list(query.graph)
    hashes = [network[0]["sha256"]]
    if onnx is not None:
        hashes.append(hashlib.sha256(read_limited(onnx, MODEL_LIMIT, NetworkError)).hexdigest())
    return query, About(network, hashes, float32)


def _certify_by(
    query: Query, bound: float, point: Tensor | None, seconds: float, about: About,
    known: Recorded | RecordedParts | None,
) -> SavedProof:  # fmt: skip
    """The first plan that proves all of the bound, the cheapest one first; else the largest bound that any has proven.

    Where the checker's allowance for rounding is larger than the slack, the same plan is tried once more with a larger
    slack.
    """
    end, plans = deadline.clock() + seconds, _plans(known, isinstance(query.objective, Distance))
    failed, best = CertificateError("There is no proof."), None
    try:
        with deadline.until(end):
            for plan in plans:
                left = PROOF_SHARE * (end - deadline.clock())
                share = left * (1.0 if plan is plans[-1] else MOST if plan.weaker else SHARE)
                try:
                    found = _with_slack(query, bound, point, share, about, plan)
                except CertificateError as reason:
                    failed = reason
                    continue
                if bound - found.report.bound <= MORE_SLACK[-1] * _slack(bound) or found.report.bound == math.inf:
                    return found
                if best is None or found.report.bound > best.report.bound:
                    best = found
    except deadline.OutOfTime:
        failed = CertificateError("The bound was not proven and checked again within the time; raise it.")
    if best is None:
        raise failed
    return best


def _with_slack(
    query: Query, bound: float, point: Tensor | None, seconds: float, about: About, plan: Plan
) -> SavedProof:
    """What a plan proves, with as little slack as rounding allows."""
    end, failed = deadline.clock() + seconds, CertificateError("There is no proof.")
    for slack in (1.0, *MORE_SLACK):
        try:
            return _certify_one(query, bound, point, end - deadline.clock(), about, plan._replace(slack=slack))
        except Refused as reason:
            failed = CertificateError(str(reason))
    raise failed


def _slack(bound: float) -> float:
    """By how much the certified bound is to lie below the one reported."""
    return max(LEAST_SLACK, SLACK * abs(bound))


class Plan(NamedTuple):
    """How to look for a proof.

    Attributes:
        known: leaves to start from; most: nodes of the tree.
        weaker: a smaller bound than the one asked for is of use.
        slack: factor to :data:`SLACK`.
        stranger: the known leaves are another verifier's, of which only the splits are known.
        lemmas: how often limits of activations are made narrower first; from the second time on, those of inputs alone
            that could contradict the claim.
    """

    known: Recorded | RecordedParts | None = None
    most: float = math.inf
    weaker: bool = True
    slack: float = 1.0
    stranger: bool = False
    lemmas: int = 0


def _plans(known: Recorded | RecordedParts | None, distance: bool) -> list[Plan]:
    """From the known leaves, and from nothing; first with few nodes where the leaves go far beyond the bound, or are
    boxes, of which distances need many. Narrower limits come first where the search has had some."""
    if known is None:
        return [Plan()]
    boxes, most = distance and isinstance(known, RecordedParts), SMALL * known.leaves
    small = [] if known.finished and not boxes else [Plan(most=max(most, FEW * boxes), weaker=False)]
    plans = [Plan(known)]
    if isinstance(known, Recorded):
        narrower = [Plan(known, lemmas=1), Plan(known, lemmas=2)]
        plans = [*narrower, *plans] if known.sharpened else [*plans, *narrower]
    return [*small, *plans, Plan()]


def certify_tree(query: Query, known: Recorded, time_limit: float, onnx: str | Path | None = None) -> SavedProof:
    """Prove that a problem has no feasible input from the splits of another verifier's tree.

    Leaves get multipliers by ascent; those that it does not close are split on, until there are :data:`EXTRA` times as
    many nodes as the tree has.

    Args:
        query: one problem without objective. known: the tree, of splits at ReLUs.
        time_limit: seconds. onnx: the file the network was read from.

    Raises:
        CertificateError: a leaf is not closed, or the format has no place for something.
    """
    query, about = _as_the_format(query, onnx)
    plan = Plan(known, EXTRA * len(known.tree) + BATCH, stranger=True)
    end = deadline.clock() + time_limit
    try:
        with deadline.until(end):
            return _certify_one(query, math.inf, None, PROOF_SHARE * time_limit, about, plan)
    except (Refused, deadline.OutOfTime) as reason:
        raise CertificateError(str(reason) or "The time is over.") from None


def _certify_one(
    query: Query, bound: float, point: Tensor | None, seconds: float, about: About, plan: Plan
) -> SavedProof:
    began = time.perf_counter()
    if not bound > -math.inf:
        raise CertificateError("No bound is proven, so that there is nothing to certify. Give the solve more time.")
    positions: list[int] = []
    layers = read_layers(*about.network, positions)
    header, stated = _statement(query)
    header |= {"version": VERSION, "networks": about.hashes, "point": None}
    certified = certified_query(Certificate(header, stated), layers)
    layers = _Watched(running_in_float32(layers, certified.box) if about.float32 else layers)
    claim, tensors = _prove(query, bound, seconds, plan, CheckedNetwork(layers, positions), certified)
    header |= {"claim": claim}
    found = time.perf_counter() - began
    certificate = Certificate(header, {**tensors, **stated})
    if point is not None and claim["kind"] == "bound":
        certificate.tensors["point.x"] = point.flatten().numpy()
        value, violation = point_limits(certificate, layers)
        if math.isfinite(value) and violation < math.inf:
            # intervals end elsewhere by a few roundings where the layers were read from another file
            room = ROUNDED * max(1.0, abs(value))
            stated_point = {"value": value + room, "violation": max(violation + ROUNDED, 0.0)}
            certificate = certificate._replace(header={**header, "point": stated_point})
    began = time.perf_counter()
    report = check(certificate, layers, about.hashes[0])
    return SavedProof(certificate, about.network, report, found, time.perf_counter() - began)


class _Watched(list[Layer]):
    """Layers that the checker, which knows no deadlines, finds no more of once the time is over."""

    def __getitem__(self, which: Any) -> Any:
        deadline.look()
        return super().__getitem__(which)

    def __iter__(self) -> Iterator[Layer]:
        deadline.look()
        return super().__iter__()


def _prove(
    query: Query, bound: float, seconds: float, plan: Plan, checked: CheckedNetwork, certified: CertifiedQuery
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Claim, and tensors of tree and leaves."""

    distance, end = isinstance(query.objective, Distance), deadline.clock() + seconds

    def searched(query: Query, claimed: float | None, target: float) -> tuple[float, dict[str, np.ndarray]]:
        """Smallest bound of what is open, infinity where nothing is, and the tensors."""
        goal = None if distance else claimed
        if not plan.lemmas:
            return grown(query, goal, target, checked)
        share = deadline.clock() + LEMMA_SHARE * seconds
        lemmas = LemmaSearch(query, certified.better_than(goal), goal, checked, lambda: deadline.clock() > share)
        for number in range(plan.lemmas):
            lemmas.round(conditions=number > 0)
        least, tensors = grown(query, goal, target, lemmas.sharpened)
        return least, tensors | lemmas.tensors()

    def grown(
        query: Query, goal: float | None, target: float, checked: CheckedNetwork
    ) -> tuple[float, dict[str, np.ndarray]]:
        parts = checked.bends and not (distance and target == 0) and not isinstance(plan.known, Recorded)
        left = end - deadline.clock()
        if isinstance(plan.known, RecordedParts) or parts:
            known = plan.known if isinstance(plan.known, RecordedParts) else None
            search = PartProof(Claimed(query, certified, goal, target), left, known, plan.most, checked)
        else:
            own = halves_boxes(query) and plan.known is None
            search = ProofSearch(query, target, left, own, plan.known, plan.most, checked, plan.stranger)
        search.run()
        return search.least, search.tensors()

    if bound == math.inf or query.feasibility:
        if bound < math.inf:
            raise CertificateError("The problem has no objective and a feasible input: there is no bound to certify.")
        nothing = Linear(Forms({}, torch.zeros(1, 1, dtype=torch.float64)))
        least, tensors = searched(replace(query, objective=nothing), None, CLOSED)
        if least < math.inf and plan.stranger:
            raise CertificateError("Leaves of the tree are not closed, nor when they are split on.")
        if least < math.inf:
            raise CertificateError("Infeasibility was not proven again within the time; raise it.")
        return {"kind": "infeasible"}, tensors
    slack = plan.slack * _slack(bound)
    claimed = bound - slack
    if distance and claimed <= 0:
        claimed, slack = 0.0, 0.0
    least, tensors = searched(_narrowed(query, claimed, certified), claimed, claimed + slack / 2)
    if least < math.inf:
        if not plan.weaker:
            raise CertificateError("The bound was not proven again within a share of the time.")
        claimed = min(claimed, least - slack / 2)
        if not math.isfinite(claimed):
            raise CertificateError("The bound was not proven again within the time; raise it.")
    return {"kind": "bound", "value": max(claimed, 0.0) if distance else claimed}, tensors


def _narrowed(query: Query, claimed: float, certified: CertifiedQuery) -> Query:
    """The query in the ball of a claimed distance, its box as the checker cuts it."""
    if certified.ball is None:
        return query
    narrowed = query.narrowed(torch.tensor([claimed], dtype=torch.float64))
    box = hull(certified.box, certified.ball._replace(radius=claimed))
    lower, upper = (torch.from_numpy(side).reshape(query.region.lower.shape) for side in box)
    return replace(narrowed, region=replace(narrowed.region, lower=lower, upper=upper))


def _statement(query: Query) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and tensors of the query."""
    objective, names = query.objective, places(query.graph)
    tensors: dict[str, Any] = {
        "region.lower": query.region.lower.flatten(),
        "region.upper": query.region.upper.flatten(),
        "atoms.constant": query.atoms.constant[0],
        "atoms.clause": query.clause,
    }
    for node, rows in query.atoms.coefficients.items():
        tensors[f"atoms.rows.{names[node]}"] = rows[0].flatten(1)
    for i, ball in enumerate(query.region.balls):
        tensors |= _ball_tensors(f"ball.{i}.", ball.center, ball.weights) | {f"ball.{i}.radius": ball.radius}
    stated: dict[str, Any] = {"balls": [ball.p for ball in query.region.balls], "sense": query.sense}
    if isinstance(objective, Distance):
        stated |= {"objective": "distance", "p": "inf" if objective.norm.is_box else objective.p}
        tensors |= _ball_tensors("objective.", objective.center, objective.weights)
    elif query.feasibility:
        stated["objective"] = "none"
    else:
        assert isinstance(objective, Linear)
        stated["objective"] = "linear"
        tensors["objective.constant"] = objective.form.constant[0]
        for node, rows in objective.form.coefficients.items():
            tensors[f"objective.rows.{names[node]}"] = rows[0].flatten(1)
    stated["labels"] = list(query.labels)
    return {"query": stated}, {name: t.detach().cpu().numpy() for name, t in tensors.items()}


def _ball_tensors(prefix: str, center: Tensor, weights: Tensor | None) -> dict[str, Tensor]:
    weights = torch.ones_like(center) if weights is None else weights
    return {prefix + "center": center.flatten(), prefix + "weights": weights.flatten()}
