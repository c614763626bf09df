"""The largest change of a network's output inside a ball, as an interval: found, and proven."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.applications.arguments import Loadable
from clinch.applications.regression.jacobian import Jacobian
from clinch.applications.regression.linear import SOLVERS, LinearChange, checked, linear_in, region_of
from clinch.applications.regression.proof import axes_of, prove_by_directions
from clinch.applications.regression.statement import Statement
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.problem_query import ProblemQuery
from clinch.attacks.minimise import MinimiseSettings, minimise_steps
from clinch.errors import ProblemError, UnsupportedByEngine
from clinch.geometry.projection import project_into
from clinch.modeling.problem import Problem
from clinch.query import Query
from clinch.runtime.arguments import as_gap, as_seconds
from clinch.solve import ENGINES
from clinch.solver.conclusion import conclude
from clinch.solver.ledger import Ledger
from clinch.solver.settings import Bounds, InputSplit, Portfolio
from clinch.solver.solution import Solution

#: shares of the time for projected gradient, and for directions where splitting the inputs comes next
ATTACK_SHARE, DIRECTIONS_SHARE = 0.2, 0.6
#: gradient steps of each start
STEPS = 60


@dataclass(frozen=True, eq=False, repr=False)
class Change:
    """How far the output can move at B inputs: ``value <= max ‖f(x0 + η) − f(x0)‖₂ <= bound``.

    Attributes:
        x: ``(B, *input_shape)`` inputs that reach the values, checked by the user's own model.
        value: ``(B,)`` the change found.
        bound: ``(B,)`` proven: no input of the ball changes the output by more.
        linear: the same question about the linear model, solved beforehand.
        solution: everything else: status, gap, history with who found and who proved what.
    """

    x: Tensor
    value: Tensor
    bound: Tensor
    linear: LinearChange
    solution: Solution

    def __str__(self) -> str:
        lines = [f"{'':>4}  {'linear':>11}  {'its bound':>11}  {'value':>11}  {'bound':>11}  value/bound"]
        columns = self.linear.value, self.linear.bound, self.value, self.bound
        for b, row in enumerate(zip(*(column.tolist() for column in columns))):
            share = f"{row[2] / row[3]:.4f}" if row[3] > 0 else "1"
            lines.append(f"{b:>4}  " + "  ".join(f"{number:11.6g}" for number in row) + f"  {share:>11}")
        return "\n".join([*lines, *(f"note  {note}" for note in self.solution.notes)])

    __repr__ = __str__


def largest_change(
    net: Loadable,
    x: Tensor,
    eps: float | Tensor,
    *,
    norm: float = 2,
    bounds: tuple[float, float] | None = None,
    time_limit: float | None = 10.0,
    gap: float = 1e-2,
    semidefinite: str = "low-rank",
    seed: int = 0,
) -> Change:
    """``max ‖f(x0 + η) − f(x0)‖₂ s.t. ‖η‖_p <= ε``: the worst input found, and a proven upper bound.

    Balda et al. 2018 (arXiv 1803.03607, section III) solve the linear model, see :func:`linear_change`. Here that is
    the start for projected gradient on the nonlinear problem, and what stands beside it is proven about the network
    itself: first by CROWN, then by branch and bound on linear objectives along directions of the output
    (:mod:`clinch.applications.regression.proof`), and by splitting the inputs where they are few.

    Args:
        net: a network or module; all its outputs count.
        x: ``(B, *input_shape)`` the inputs x0.
        eps: radius, one or ``(B,)``.
        norm: 1, 2 or ``cl.inf``.
        bounds: the range of inputs; None: no limits.
        time_limit: seconds for all inputs together, after the linear model, None: no limit; reaching it is a normal
            ending.
        gap: relative gap between value and bound at which an input counts as solved.
        semidefinite: see :func:`linear_change`.
        seed: of every random choice.

    Raises:
        ClinchError: an argument that does not fit, in one line, before any work.

    Example:
        >>> change = largest_change(net, x[:1], 0.01, norm=cl.inf, time_limit=5)
        >>> change.value, change.bound
        (tensor([1.2056], dtype=torch.float64), tensor([1.7337], dtype=torch.float64))
    """
    seconds, gap = as_seconds(time_limit), as_gap(gap)
    if semidefinite not in SOLVERS:
        raise ProblemError(f"semidefinite='{semidefinite}' is not known. Write {' or '.join(map(repr, SOLVERS))}.")
    network, x, radius, norm = checked(net, x, eps, norm, bounds)
    jacobian = Jacobian(network, x)
    statement = Statement(network, x, radius, norm, bounds, jacobian.value.cpu(), axes_of(jacobian))
    problem = statement.problem()
    linear = linear_in(network, x, radius, region_of(x, radius, norm, bounds), norm, semidefinite, seed)
    ledger = Ledger(problem.query, time_limit=seconds, gap=gap)
    ledger.offer(x, "the input itself")
    _work(statement, problem.query, ledger, linear, seed)
    return _result(problem, ledger, linear)


def _work(statement: Statement, query: Query, ledger: Ledger, linear: LinearChange, seed: int) -> None:
    """Points first: they say which directions the proof may leave out."""
    with ledger.share(ATTACK_SHARE):
        _attack(statement, query, ledger, linear, seed, 2 * MinimiseSettings().runs)
    few = query.region.free_elements <= Portfolio().few_inputs
    try:
        ENGINES["bounds"].run(query, ledger, seed, Bounds())
        with ledger.share(DIRECTIONS_SHARE if few else 1.0):
            prove_by_directions(statement, query, ledger, seed)
        if not ledger.exhausted:
            _attack(statement, query, ledger, linear, seed + 1, 8 * MinimiseSettings().runs)
        if few and not ledger.exhausted:
            ENGINES["input_split"].run(query, ledger, seed, InputSplit())
    except UnsupportedByEngine as reason:
        ledger.note(f"The bound stays as it is. {reason}")


def _attack(statement: Statement, query: Query, ledger: Ledger, linear: LinearChange, seed: int, runs: int) -> None:
    """Projected gradient from the linear model's answer, on its better side, and from random points."""
    asked = ProblemQuery(query, needed=False, lowers=True)
    objective = AttackObjective(asked)
    best_points = BestPoints(objective, ledger=ledger, who="projected gradient from the linear model")
    sides = [project_into(objective.region, (statement.x + sign * linear.eta).to(objective.x)) for sign in (1, -1)]
    with torch.no_grad():
        values = torch.stack([asked.tight.evaluate(side)[0] for side in sides])
    first = torch.where(along(values[0] <= values[1], objective.x), *sides)
    minimise_steps(objective, best_points, count=runs, steps=STEPS, draws=objective.draws(seed), first=first)
    best_points.report()


def _result(problem: Problem, ledger: Ledger, linear: LinearChange) -> Change:
    solution = conclude(problem, ledger)
    value, bound = (torch.as_tensor(t, dtype=torch.float64) for t in (solution.value, solution.bound))
    return Change(solution.x, value, bound, linear, solution)
