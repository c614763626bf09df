"""Thousands of small random problems of every shape, and what all engines must agree on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from problems import class_at, hidden, uniform

import clinch as cl
from clinch.errors import UnsupportedByEngine
from clinch.network.network import Network
from clinch.search.engines import ENGINES
from clinch.solver.settings import BranchAndBound, Count, Portfolio
from clinch.solver.solution import Solution, Status
from clinch.testing.brute_force import MOST_INPUTS, brute_force
from clinch.testing.networks import ENCODABLE

#: engines that must close every problem they take, and how near brute force they must come
EXACT = [name for name in ("branch_and_bound", "milp", "count", "input_split", "general_split") if name in ENGINES]
GAP = 1e-4
TOLERANCE = 5e-6
#: seconds for an engine on a problem that it need not close: its points and bounds are looked at all the same
OPEN_LIMIT = 0.3

Rng = torch.Generator
Clauses = Callable[[Network, Rng, torch.Tensor], list]


def _pick(rng: Rng, options: list):
    return options[int(torch.randint(len(options), (1,), generator=rng))]


def _number(rng: Rng, low: float, high: float) -> float:
    return float(uniform(rng, (), low, high))


# --- clauses --------------------------------------------------------------------------------------------------------


def no_clause(net, rng, x0):
    return []


def one_atom(net, rng, x0):
    z = net.output.flatten()
    return [z[0] - 0.5 * z[1] >= _number(rng, -0.5, 0.8)]


def same_class(net, rng, x0):
    return [net.output.argmax(margin=1e-3) == class_at(net, x0)]


def other_class(net, rng, x0):
    return [net.output.argmax() != class_at(net, x0)]


def _box(net, rng):
    h = net[hidden(net)]
    (values,) = net.graph.forward(uniform(rng, (20, *net.input_shape)), [net.position(hidden(net))]).values()
    return h, values.amin(0) + 0.05, values.amax(0) - 0.05


def between(net, rng, x0):
    h, low, high = _box(net, rng)
    return [h.between(torch.minimum(low, high) - 0.2, high + 0.2)]


def not_between(net, rng, x0):
    h, low, high = _box(net, rng)
    return [~h.between(torch.minimum(low, high), high + 0.1, margin=1e-3)]


def disjunctions(net, rng, x0):
    z, h, x = net.output.flatten(), net[hidden(net)].flatten(), net.input.flatten()
    first = (z[0] >= z[1] + _number(rng, 0, 0.5)) & (h[0] <= 0.3)
    return [first | (z[2] >= _number(rng, 0, 0.8)), (x[0] + x[1] <= 0.8) | (h[1] >= 0.4), ~(x[2] <= -0.9)]


def equalities(net, rng, x0):
    x, z = net.input.flatten(), net.output.flatten()
    inside = net.graph.forward(uniform(rng, (1, *net.input_shape)))[net.graph.output].flatten()
    return [x[0] == _number(rng, -0.5, 0.5), z[0] - z[1] == float(inside[0] - inside[1])]


def infeasible(net, rng, x0):
    z = net.output.flatten()
    return [z[0] >= z[1] + 0.1, z[1] >= z[2] + 0.1, z[2] >= z[0] - _number(rng, 0.05, 0.15)]


CLAUSES: dict[str, Clauses] = {
    f.__name__: f
    for f in (
        no_clause, one_atom, same_class, other_class, between, not_between, disjunctions, equalities, infeasible
    )
}  # fmt: skip

# --- objectives and balls -------------------------------------------------------------------------------------------

DISTANCES = {f"distance {p:g}": p for p in (0.0, 1.0, 2.0, math.inf)}
OBJECTIVES = (*DISTANCES, "linear", "largest", "norm 1", "norm inf", "far 1", "far inf")
BALLS = (None, None, None, 1.0, 2.0, math.inf)


def objective(net: Network, rng: Rng, kind: str, x0: torch.Tensor):
    z = net.output.flatten()
    if kind in DISTANCES:
        return cl.Minimize(cl.norm(net.input - x0, DISTANCES[kind]))
    if kind == "linear":
        return cl.Minimize(z[0] - 0.5 * z[1] + 0.3 * net.input.flatten()[0])
    if kind == "largest":
        return cl.Maximize(z[1] - net[hidden(net)].flatten()[0])
    which, p = kind.split()
    size = cl.norm(z - net.graph.forward(x0.unsqueeze(0))[net.graph.output].flatten() - 0.1, float(p))
    return cl.Minimize(size) if which == "norm" else cl.Maximize(size)


@dataclass(frozen=True)
class Case:
    """One problem of the campaign and the words that make it again."""

    seed: int
    network: str
    kind: str
    clauses: str
    ball: float | None
    problem: cl.Problem

    @property
    def affine_pieces(self) -> bool:
        """Whether splitting ReLUs leaves an affine network."""
        return self.problem.query.graph.bends_only_at_kinks(self.problem.query.nodes)


def case(seed: int) -> Case:
    """The problem of a seed; every seed is another mixture."""
    rng = Rng().manual_seed(seed)
    make = ENCODABLE[seed % len(ENCODABLE)]
    net = make(rng)
    kind, clauses, ball = _pick(rng, list(OBJECTIVES)), _pick(rng, list(CLAUSES)), _pick(rng, list(BALLS))
    if kind == "distance 0" and net.graph.nodes[0].size > MOST_INPUTS:
        kind = "distance 1"
    if ball == 2.0 and kind.split()[0] in ("norm", "far"):
        ball = 1.0  # brute force has no norm of activations in an ℓ2 ball
    x0 = uniform(rng, net.input_shape)
    # some elements of the centre stand at a limit of the box
    x0 = torch.where(torch.rand(x0.shape, generator=rng) < 0.3, x0.sign(), x0)
    constraints = [net.input >= -1, net.input <= 1, *CLAUSES[clauses](net, rng, x0)]
    if ball is not None:
        constraints.append(cl.norm(net.input - uniform(rng, net.input_shape, -0.3, 0.3), ball) <= 0.9)
    return Case(seed, make.__name__, kind, clauses, ball, cl.Problem(objective(net, rng, kind, x0), constraints))


# --- the verdict ----------------------------------------------------------------------------------------------------


def minimised(problem: cl.Problem, number: float | None) -> float:
    return math.inf if number is None or math.isnan(number) else number * problem.query.sense


def must_close(engine: str | None, case: Case, exact: float) -> bool:
    """Whether an engine promises to close a problem of this kind; whatever it promises, it must be sound.

    Branch and bound ends in affine pieces, takes balls into account under linear objectives only, and there proves
    infeasibility only where the linear relaxations show it. MILP has none of these limits (it refuses ℓ2 balls). Boxes
    of the input come near every optimum, but quickly only where few elements and no clauses decide it.
    """
    if engine == "milp":
        return True
    if engine in ("input_split", "general_split"):
        few = case.problem.query.region.free_elements <= 3
        return few and case.clauses == "no_clause" and case.kind in ("linear", "largest")
    counted, linear = case.kind == "distance 0", case.kind in ("linear", "largest")
    round_ball = case.ball in (1.0, 2.0)
    if engine is None and (counted or not case.affine_pieces or case.kind not in (*DISTANCES, "linear", "largest")):
        return case.ball != 2.0  # MILP goes on where the other engines stop
    bent = not case.affine_pieces or (counted and engine != "count") or round_ball
    return not bent and not (linear and exact == math.inf)


def complaints(case: Case, *, time_limit: float = 60.0, search: BranchAndBound | None = None) -> list[str]:
    """What is wrong with any engine's answer to a problem; empty where all is well.

    Args:
        search: how branch and bound works, wherever it does; None: as usual.
    """
    search = search or BranchAndBound()
    counted = Count(branch_and_bound=search)
    settings = {None: Portfolio(branch_and_bound=search, count=counted), "branch_and_bound": search, "count": counted}
    exact = brute_force(case.problem.query)
    found = []
    for engine in (None, *EXACT):
        closing = must_close(engine, case, exact)
        try:
            seconds = time_limit if closing else OPEN_LIMIT
            solution = case.problem.solve(solver=engine, time_limit=seconds, gap=GAP, settings=settings.get(engine))
        except UnsupportedByEngine:
            continue
        found += [f"{engine}: {text}" for text in _wrong(case, solution, exact, closing)]
    return found


def _wrong(case: Case, solution: Solution, exact: float, closing: bool) -> list[str]:
    value, bound = minimised(case.problem, solution.value), minimised(case.problem, solution.bound)
    if bound == math.inf and solution.status is not Status.INFEASIBLE:
        bound = -math.inf  # no bound at all
    size = max(1.0, abs(exact)) if math.isfinite(exact) else 1.0
    said = f"value {value:.9g} bound {bound:.9g} exact {exact:.9g} status {solution.status.name}"
    wrong = []
    if bound > exact + TOLERANCE * size:
        wrong.append(f"bound passes the optimum: {said}")
    if value < exact - TOLERANCE * size:
        wrong.append(f"value is better than the optimum: {said}")
    if solution.status is Status.OPTIMAL and abs(value - exact) > 2 * GAP * size:
        wrong.append(f"called optimal and is not: {said}")
    if solution.status is Status.INFEASIBLE and exact < math.inf:
        wrong.append(f"called infeasible and is not: {said}")
    if closing and solution.status is not (Status.INFEASIBLE if exact == math.inf else Status.OPTIMAL):
        wrong.append(f"not closed: {said}")
    return wrong
