"""Whether certificates prove a question that a user has written down.

The question is lowered from the user's own file, never from anything in a certificate, and compared with what a
certificate states in numbers, see :mod:`clinch.certificates.implication`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from clinch.certificates.implication import NotProven, Statement, proven, value_of
from clinch.certificates.layer_list import layer_list, places
from clinch.checker.check import check
from clinch.checker.layers import Refused, read_layers
from clinch.checker.layers import places as positions_of
from clinch.checker.question import CertifiedQuery, certified_query
from clinch.checker.rigorous import Ball, Box
from clinch.checker.words import Checked
from clinch.errors import CertificateError, NetworkError, ProblemError
from clinch.io.files import MODEL_LIMIT, read_limited
from clinch.network.network import Network
from clinch.query import Distance, Linear, Query
from clinch.solver.solution import relative_gap

#: relative gap between a certificate's point and bound that is allowed where the question names none
GAP = 1e-3
#: what a certificate may lie below the bound that was reported, relatively
SLACK = 1e-4


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked.

    Attributes:
        name: of the file.
        queries: every problem of every one of them is to be proven.
        network: that they are about.
        nothing: why no input can meet what is asked, where the file's own limits contradict each other.
        gap: relative gap at which the optimum of an objective counts as proven.
    """

    name: str
    queries: tuple[Query, ...]
    network: Network
    nothing: str = ""
    gap: float = GAP

    @property
    def size(self) -> int:
        """Number of problems."""
        return sum(query.size for query in self.queries)

    def problems(self) -> Iterator[Query]:
        """One after the other, each as a batch of one."""
        for query in self.queries:
            for b in range(query.size):
                yield query.take(torch.tensor([b]))


@dataclass(frozen=True)
class Answer:
    """Whether a question is proven.

    Attributes:
        proven: whether all of it is.
        bounds: of every problem the proven bound of its objective in the user's sense, rounded to the weaker side;
            infinity of the sense's sign where nothing is feasible; None where nothing is proven.
        reason: what is missing, empty where nothing is.
    """

    proven: bool
    bounds: tuple[float | None, ...]
    reason: str = ""


def read_question(path: Path, model: Path, *, run_code: bool = False) -> Question:
    """The question of a problem file or of a specification over a model.

    Args:
        path: ``PROBLEM.toml``, or ``SPEC.vnnlib`` (also ``.gz``).
        model: the ONNX file that a specification is about; a problem file names its own.
        run_code: see :func:`clinch.cli.problem_file.read_problem`.

    Raises:
        ProblemError: neither of these files, or a specification about no ONNX file.
        ClinchError: whatever reading them raises.
    """
    name = path.name.lower()
    if name.endswith((".vnnlib", ".vnnlib.gz")):
        from clinch.network.load import load
        from clinch.vnnlib.problems import state
        from clinch.vnnlib.reader import read_specification

        if not model.name.lower().endswith((".onnx", ".onnx.gz")):
            raise ProblemError(f"A specification is about an ONNX file. Name that one in place of '{model.name}'.")
        network = load(model)
        stated = state(read_specification(path), network)
        return Question(path.name, stated.queries, network, stated.reason if not stated.queries else "")
    if not name.endswith(".toml"):
        raise ProblemError(f"'{path.name}' is no question: name a PROBLEM.toml or a SPEC.vnnlib.")
    from clinch.cli.problem_file import read_problem

    found = read_problem(path, run_code=run_code)
    return Question(path.name, (found.problem.query,), found.network, gap=float(found.options.get("gap", GAP)))


def answer(question: Question, checked: Sequence[Checked], asked: float | None = None) -> Answer:
    """Whether accepted certificates prove a question: each of its problems by one of them.

    An objective's optimum counts as proven where a certificate's point is feasible for the question and the bound is
    within the question's gap of its value; with a bound that is asked for, that one counts alone.

    Args:
        question: of :func:`read_question`.
        checked: certificates that the checker has accepted.
        asked: the bound that is to be proven, in the user's sense; None: the optimum.
    """
    aligned: list[Statement | NotProven] = []
    for one in checked:
        try:
            aligned.append(_aligned(question, one))
        except NotProven as reason:
            aligned.append(reason)
    bounds: list[float | None] = []
    missing = ""
    for b, query in enumerate(question.problems()):
        bound, reason = _best(query, aligned, asked, question.gap)
        bounds.append(bound)
        if reason and not missing:
            missing = f"{'' if question.size == 1 else f'problem {b} of {question.size}: '}{reason}"
    return Answer(not missing, tuple(bounds), missing)


def _best(
    query: Query, aligned: Sequence[Statement | NotProven], asked: float | None, gap: float
) -> tuple[float | None, str]:
    """The best bound that one of the certificates proves, and what is missing: of the one that went furthest."""
    bound, value, furthest = -math.inf, math.inf, NotProven(-1, "there is no certificate")
    for one in aligned:
        try:
            if isinstance(one, NotProven):
                raise one
            stated = stated_as(query, one.positions)
            bound = max(bound, proven(stated, one))
            value = min(value, value_of(stated, one))
        except NotProven as reason:
            furthest = max(furthest, reason, key=lambda r: r.stage)
    if bound == -math.inf:
        return None, str(furthest)
    shown = query.sense * bound + 0.0
    if bound == math.inf:
        return shown, ""
    if asked is not None:
        weaker = bound < query.sense * asked
        return shown, f"it proves the bound {shown!r}, which is weaker than {asked!r}" if weaker else ""
    apart = float(relative_gap(*(torch.tensor([t], dtype=torch.float64) for t in (value, bound))))
    if apart <= gap + SLACK:
        return shown, ""
    best = "it has no input that shows how good that is"
    if value < math.inf:
        reached = f"{query.sense * value + 0.0!r}: a gap of {100 * apart:.3g} %, more than {100 * gap:.3g} %"
        best = f"its best input has {reached}"
    return shown, f"it proves the bound {shown!r}, and {best}; where it is a bound that you ask for, name it (--bound)"


# --- one network, one way to name its layers --------------------------------------------------------------------------


def _aligned(question: Question, one: Checked) -> Statement:
    """Match the layers of question and certificate; refuses another network.

    Input and output are the first layer and the last one. Where a question looks at hidden layers, the certificate is
    checked once more with the layer list of the question's own graph, in which layer i is node i.
    """
    graph = question.network.graph_as(torch.float64, "cpu")
    try:
        header, tensors = layer_list(graph)
        own = header["sha256"]
    except CertificateError:
        header, tensors, own = {}, {}, ""
    file = question.network.file
    if one.sha256 != own and (file is None or one.sha256 != _hash(file)):
        raise NotProven(0, f"the question is about another network than the one checked, {question.network.name}")
    layers, bound = one.layers, one.report.bound
    nodes = {node for query in question.queries for node in query.nodes}
    positions = {0: 0, graph.output: len(layers) - 1}
    if not nodes <= set(positions):
        names = places(graph)
        unnamed = sorted(nodes - set(names))
        if unnamed or not own:
            where = graph.nodes[unnamed[0]].name if unnamed else "a hidden layer"
            raise NotProven(0, f"certificates cannot name {where!a}, which the question looks at")
        layers = read_layers(header, tensors)
        try:
            bound = check(one.certificate, layers, own).bound
        except Refused as reason:
            raise NotProven(0, f"with the layers of the question's network: {reason}") from None
        found = positions_of(layers)
        positions = {node: found[name] for node, name in names.items()}
    if any(layers[at].size != graph.nodes[node].size for node, at in positions.items() if node in {0, *nodes}):
        raise NotProven(0, "its layers have other sizes than the question's")
    with np.errstate(all="ignore"):
        query = certified_query(one.certificate, layers)
    point = None if one.report.value is None else one.certificate.numbers("point.x", (layers[0].size,))[None]
    return Statement(layers, query, bound, positions, point)


def _hash(file: Path) -> str:
    return hashlib.sha256(read_limited(file, MODEL_LIMIT, NetworkError)).hexdigest()


def stated_as(query: Query, positions: dict[int, int]) -> CertifiedQuery:
    """One problem of a question as a certificate would state it."""
    region, objective = query.region, query.objective
    box = Box(*(t.reshape(1, -1).numpy() for t in (region.lower, region.upper)))
    # one that counts elements, or that has no limit, only makes the question's region smaller
    balls = [
        _ball(ball.center, ball.weights, ball.p, float(ball.radius[0]))
        for ball in region.balls if ball.norm.certified and math.isfinite(float(ball.radius[0]))
    ]  # fmt: skip
    distance = isinstance(objective, Distance)
    form = objective.form if isinstance(objective, Linear) else None
    kind = "distance" if distance else "none" if query.feasibility else "linear" if form is not None else "norm"
    ball = _ball(objective.center, objective.weights, objective.p, 0.0) if distance else None
    rows = {positions[node]: t[0].flatten(1).numpy() for node, t in query.atoms.coefficients.items()}
    own = {} if form is None else {positions[node]: t[0].flatten(1).numpy() for node, t in form.coefficients.items()}
    k = query.atoms.count
    sizes = {i: t.shape[1] for i, t in {**rows, **own}.items()}
    forms = {i: np.concatenate([own.get(i, np.zeros((1, n))), rows.get(i, np.zeros((k, n)))]) for i, n in sizes.items()}
    constants = np.append(0.0 if form is None else float(form.constant[0, 0]), query.atoms.constant[0].numpy())
    clauses = [(query.clause == c).nonzero().flatten().numpy() for c in range(query.clauses)]
    return CertifiedQuery(kind, forms, constants, clauses, box, balls, ball)


def _ball(center: torch.Tensor, weights: torch.Tensor | None, p: float, radius: float) -> Ball:
    flat = center.reshape(-1).numpy()
    return Ball(flat, radius, p, np.ones_like(flat) if weights is None else weights.reshape(-1).numpy())
