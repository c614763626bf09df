"""A problem: what to optimise over the inputs of a network, and what must hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch

from clinch.errors import ProblemError, ShapeError
from clinch.modeling.canonicalize import lower, of_inputs
from clinch.modeling.constraints import Constraint
from clinch.modeling.differences import Replaced, without_differences
from clinch.modeling.expressions import LinearExpression
from clinch.modeling.functions import compact
from clinch.modeling.joint import JointNetwork, values_of, whole
from clinch.modeling.mathematics import mathematics
from clinch.modeling.norms import NormBall, NormExpression
from clinch.modeling.symbols import as_tensor, common_network, merge_batches
from clinch.query import Distance, FormsNorm, Query
from clinch.runtime import html
from clinch.runtime.gradients import with_gradients
from clinch.solve import capabilities, solve
from clinch.solver.check_points import check_points

if TYPE_CHECKING:
    from clinch.network.network import Network
    from clinch.solver.settings import Settings
    from clinch.solver.solution import Event, Solution


@dataclass(frozen=True, eq=False)
class Objective:
    """What is optimised: a scalar linear expression of any layers, or a norm (:class:`Minimize`, :class:`Maximize`).

    A number, as in ``Minimize(0)``, asks for any input that satisfies the constraints.
    """

    expression: LinearExpression | NormExpression | float
    sense: ClassVar[int] = 1

    def __post_init__(self) -> None:
        e = self.expression
        constant = isinstance(e, int | float) and not isinstance(e, bool) and math.isfinite(e)
        if not constant and not isinstance(e, (LinearExpression, NormExpression)):
            raise ProblemError(
                f"The objective is a {type(e).__name__}. Write a scalar expression of a network's layers, such as "
                "cl.norm(net.input - x0, 2) or net.output[7] - net.output[2]; for no objective 0."
            )
        if isinstance(e, LinearExpression) and e.size != 1:
            raise ShapeError(
                f"The objective must be a scalar, shape (); this one has shape {e.shape}. Index it or write .sum()."
            )

    @property
    def network(self) -> Network | None:
        """The network whose input is searched; None where the objective is a number."""
        e = self.expression
        if isinstance(e, LinearExpression):
            return e.network
        return e.expression.network if isinstance(e, NormExpression) else None

    def over(self, network: Network) -> LinearExpression | NormExpression:
        """The expression; a number becomes one of that network without terms."""
        e = self.expression
        if isinstance(e, LinearExpression | NormExpression):
            return e.over(network)
        return LinearExpression(network, (), {}, torch.full((1, 1), float(e), dtype=torch.float64))


class Minimize(Objective):
    """Find the input with the smallest value of the expression."""

    sense: ClassVar[int] = 1


class Maximize(Objective):
    """Find the input with the largest value of the expression."""

    sense: ClassVar[int] = -1


class Checked(NamedTuple):
    """What :meth:`Problem.check` found, of a batch a tensor each.

    Attributes:
        feasible: whether every condition holds, by the model itself and in float64.
        value: the objective, the worse of both; NaN where it is not finite.
        violation: by how much the worst condition fails, at most 0 where all hold: in the units of activations, of
            inputs outside their limits or values the distance to them.
    """

    feasible: Any
    value: Any
    violation: Any


class Problem:
    """An objective and constraints over the inputs of one network; everything is checked here, before work is spent.

    Constants with one more axis in front than the expression they meet state a *batch*: B independent problems of one
    shape. Every field of the solution then has a leading B.

    Inputs live in the model's dtype, and so does what they are compared with: limits of the box, centres of balls and
    of distances are rounded to it. Everything else is float64.

    Args:
        objective: ``Minimize(...)`` or ``Maximize(...)``.
        constraints: conditions that must all hold, on the input and on any layers.

    Attributes:
        query: the normal form that engines read, float64.
        size: number of problems B.
        batched: whether a batch was stated, be it of one.

    Raises:
        ProblemError: the parts belong to two networks, or one of them has no meaning; its subclasses say more.

    Example:
        >>> x, z = net.input, net.output
        >>> problem = cl.Problem(cl.Minimize(cl.norm(x - x0, 2)), [x >= 0, x <= 1, z.argmax() != 4])
        >>> problem.solve(time_limit=60).value
        0.4864
    """

    @with_gradients
    def __init__(self, objective: Objective, constraints: Constraint | Sequence[Constraint] = ()) -> None:
        if not isinstance(objective, Objective):
            raise ProblemError("The first argument must say what to optimise: cl.Minimize(...) or cl.Maximize(...).")
        self.constraints = (constraints,) if isinstance(constraints, Constraint) else tuple(constraints)
        for position, constraint in enumerate(self.constraints):
            if not isinstance(constraint, Constraint):
                raise ProblemError(
                    f"Constraint {position} is a {type(constraint).__name__}. Write comparisons of layers, such "
                    "as net.input >= 0 or net.output.argmax() == 7."
                )
        named = [*([objective.network] if objective.network else []), *(c.network for c in self.constraints)]
        if not named:
            raise ProblemError("Neither objective nor constraints name a network. Write constraints on its layers.")
        network = common_network(named)
        self.objective = objective
        self._replaced: Replaced = {}
        expression, conditions = objective.over(network), [one.over(network) for one in self.constraints]
        if isinstance(network, JointNetwork):
            expression, conditions, self._replaced = without_differences(expression, conditions)
        conditions = [
            one.as_atoms() if isinstance(one, NormBall) and not of_inputs(one.norm) else compact(one)
            for one in conditions
        ]
        network = common_network(part.network for part in (expression, *conditions))
        self.network = network
        self._expression, conditions = expression.over(network), [one.over(network) for one in conditions]
        batch = merge_batches([self._expression.batch, *(c.batch for c in conditions)])
        self.batched = batch is not None
        self.query: Query = lower(network, self._expression, objective.sense, conditions, batch or 1)

    @property
    def size(self) -> int:
        """Number of problems B."""
        return self.query.size

    def solve(
        self,
        time_limit: float | None = 60.0,
        gap: float | None = 1e-3,
        seed: int = 0,
        solver: str | None = None,
        progress: Callable[[Event], None] | None = None,
        bounds: Sequence[str] = (),
        device: torch.device | str | None = None,
        memory_limit: int | None = None,
        keep: str | PathLike[str] | None = None,
        certificate: bool = False,
        settings: Settings | Mapping[str, Any] | None = None,
    ) -> Solution:
        """The best input found and the best bound proven within the time.

        Args:
            time_limit: seconds for all problems together; reaching it is a normal ending. None: no limit.
            gap: relative gap between value and bound at which a problem counts as solved; None: 0.
            seed: of every random choice; on a CPU the same seed gives the same answer.
            solver: name of one engine, or ``"highs"``, ``"scip"``, ``"gurobi"`` for a mixed-integer program in that
                library; None lets Clinch choose and combine.
            progress: called with an :class:`clinch.solver.solution.Event` after every improvement.
            bounds: names of layers; ``solution.bounds["relu2"]`` then holds proven limits of that layer's activations.
            device: where to compute, such as ``"cuda"``; None: where the model is. Linear programs and all checks stay
                on the CPU, and the solution's tensors are there.
            memory_limit: bytes that the solve may take, by a limit of the whole process while it runs (Linux); None: no
                limit. Running out of memory is a normal ending: the best input and bound so far are returned, with a
                note.
            keep: a JSON file that holds the best inputs and bounds while the solve runs, and outlives a crash.
            certificate: whether the bound is to be proven once more in a form that ``clinch check`` reads, for which
                ``time_limit`` counts again; see :attr:`clinch.Solution.certificate`.
            settings: how the engine works, such as ``cl.settings.Milp(backend="scip")`` with ``solver="milp"``; without
                a solver how all share the time, such as ``cl.settings.Portfolio(attack_share=0.1)``. Also the fields by
                name, as ``{"backend": "scip"}``.

        Raises:
            ProblemError: a time limit, gap, solver or setting that has no meaning, or a device that is not there.
            UnknownLayer: bounds names a layer that the network does not have.
            UnsupportedByEngine: the named solver cannot take this problem.
        """
        stated = self._certifiable() if certificate else self
        if stated is not self:
            return stated.solve(
                time_limit, gap, seed, solver, progress, bounds, device, memory_limit, keep, certificate, settings
            )
        solution = solve(
            self, time_limit=time_limit, gap=gap, seed=seed, solver=solver, progress=progress, bounds=bounds,
            device=device, memory_limit=memory_limit, keep=keep, certificate=certificate, settings=settings,
        )  # fmt: skip
        return (
            replace(solution, variables=self._variables(solution))
            if isinstance(self.network, JointNetwork)
            else solution
        )

    def _certifiable(self) -> Problem:
        """The same problem with an objective that certificates take, where there is one: a norm of activations as a
        layer of its own."""
        e = self.objective.expression
        if not isinstance(self.query.objective, FormsNorm) or not isinstance(e, NormExpression) or not e.kind.certified:
            return self
        return Problem(type(self.objective)(e.as_expression()), self.constraints)

    def _variables(self, solution: Solution) -> dict[Any, torch.Tensor]:
        """The best value of each variable, those among them that a difference stands for."""
        network = self.network
        assert isinstance(network, JointNetwork)
        own = {root: whole(root, root.shape) for root in network.roots}
        x = solution.x if solution.batched else solution.x.unsqueeze(0)
        found = {root: values_of(e.over(network), network, x) for root, e in (own | self._replaced).items()}
        return {root: value if solution.batched else value[0] for root, value in found.items()}

    def check(self, x: Any) -> Checked:
        """What an input is worth, by your own model in its own dtype and in float64: for inputs from elsewhere.

        Mixed-integer solvers meet conditions up to tolerances, and often report inputs that the model sees otherwise.

        Args:
            x: one input, ``(*input_shape)``; for a batch ``(B, *input_shape)``, one of each problem.

        Raises:
            ShapeError: another shape.

        Example:
            >>> problem.check(x0).feasible
            False
        """
        points = as_tensor(x, "input")
        points = points if self.batched else points.unsqueeze(0)
        found = check_points(self.query, points, torch.arange(len(points)))
        kept = self.network.dtype
        moved = (found.x.double() - points.to(kept).double()).flatten(1).abs().amax(1)
        violation = torch.maximum(found.violation, torch.where(moved > 0, moved, -torch.inf))
        value = torch.where(found.value.isfinite(), found.value * self.query.sense, torch.nan)
        sides = (violation <= 0, value, violation)
        return Checked(*(side if self.batched else side[0].item() for side in sides))

    def explain(self) -> str:
        """The problem as mathematics, then in words what it consists of and which engines can take it."""
        rows = [
            ("network", f"{self.network.name}, input {tuple(self.network.input_shape)}, {self._dtype}"),
            ("problems", f"{self.size}{'' if self.batched else ' (no batch axis)'}"),
            ("variables", f"{self.query.graph.nodes[0].size} inputs"),
            ("objective", self._objective()),
            ("box", self._box()),
            ("balls", self._balls()),
            *((("discrete", self._discrete()),) if self.query.region.discrete else ()),
            ("clauses", self._clauses()),
            *((name, str(answer)) for name, answer in capabilities(self.query).items()),
        ]
        width = max(len(name) for name, _ in rows) + 2
        return "\n".join([*mathematics(self.query), "", *(f"{name:<{width}}{text}" for name, text in rows)])

    def _repr_html_(self) -> str:
        """What a notebook shows: the problem as mathematics, and in words."""
        return html.lines(self.explain())

    def __repr__(self) -> str:
        size = f"{self.size} problems" if self.batched else "one problem"
        return f"<Problem over {self.network.name}: {size}, {len(self.constraints)} constraints>"

    # --- the lines of explain() -----------------------------------------------------------------------------------

    @property
    def _dtype(self) -> str:
        return str(self.network.dtype).removeprefix("torch.")

    def _layers(self, nodes: list[int]) -> str:
        return ", ".join(self.network.graph.layer_name(node) for node in nodes) or "constants"

    def _objective(self) -> str:
        if self.query.feasibility:
            return "none: any input that satisfies the constraints"
        verb = "minimise" if self.query.sense == 1 else "maximise"
        e, objective = self._expression, self.query.objective
        if isinstance(e, LinearExpression):
            return f"{verb} a linear form of {self._layers(objective.nodes)}"
        weighted = "weighted " if e.weights is not None else ""
        if isinstance(objective, Distance):
            return f"{verb} the {weighted}distance of the input from a constant, p = {e.p:g}"
        layers = self._layers(objective.nodes)
        return f"{verb} the {weighted}norm of {e.expression.size} linear forms of {layers}, p = {e.p:g}"

    def _box(self) -> str:
        lower, upper = self.query.region.lower, self.query.region.upper
        bounded = lower.isfinite() & upper.isfinite()
        count, total = int(bounded.all(0).sum()), bounded[0].numel()
        if not count:
            return f"none of {total} inputs is bounded on both sides"
        low, high = float(lower[bounded].min()), float(upper[bounded].max())
        return f"{count} of {total} inputs bounded, between {low:g} and {high:g}"

    def _discrete(self) -> str:
        discrete = self.query.region.discrete
        assert discrete is not None
        groups = f", {len(discrete.groups)} groups of which one is 1" if discrete.groups else ""
        return f"{int(discrete.elements.sum())} inputs with {discrete.gaps:,} gaps between their values{groups}"

    def _balls(self) -> str:
        balls = self.query.region.balls
        text = [f"p = {ball.p:g}, radius {float(ball.radius.min()):g}" for ball in balls]
        return "; ".join(text) or "none besides the box"

    def _clauses(self) -> str:
        query = self.query
        if not query.clauses:
            return "none"
        sizes = torch.bincount(query.clause)
        kinds = [f"{int((sizes == s).sum())} of {s} atom{'' if s == 1 else 's'}" for s in sizes.unique().tolist()]
        return (
            f"{query.clauses} with {query.atoms.count} atoms on {self._layers(query.atoms.nodes)}: {', '.join(kinds)}"
        )
