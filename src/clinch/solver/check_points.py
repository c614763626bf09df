"""The check every point must pass before it counts."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from clinch.errors import ProblemError, ShapeError
from clinch.geometry.rounding import round_down, round_up
from clinch.query import Activations, Query, met

#: rounding allowance of a distance computed in float64, relative to the radius it is compared with
RADIUS_ROUNDING = 1e-9
#: numbers that one slice of a check may gather; longer lists of points are checked slice by slice
SLICE = 2**24


class PointCheck(NamedTuple):
    """What the check found, N rows.

    Attributes:
        x: the points that were checked: in the model's dtype and inside the box, ``(N, *input_shape)``.
        feasible: whether each satisfies everything, ``(N,)``.
        value: float64 objective in the query's (minimising) sense, ``(N,)``; infinity where it is not finite.
        violation: by how much the worst condition fails, ``(N,)``: at most 0 exactly where feasible, infinity where
            something is not finite.
    """

    x: Tensor
    feasible: Tensor
    value: Tensor
    violation: Tensor


def check_points(query: Query, x: Tensor, problems: Tensor) -> PointCheck:
    """Evaluate points with the user's own model and with the float64 graph; both must agree that they are feasible.

    Each point is rounded to the model's dtype and clipped into the box, whose corners are rounded inwards, its discrete
    elements to their nearest values, so that what is checked is an input the model can be given. Then every atom must
    be at most 0 for the activations of the user's own model in its own dtype, and for those of the graph in float64;
    the point must lie inside every ball (distances in float64, up to 1e-9 of the radius); everything must be finite.

    The value is the larger, that is the worse, of the two evaluations: where the objective looks at activations they
    differ by rounding, and the reported value must hold for the user who runs the model as well as for the proofs,
    which are statements about the float64 graph.

    Args:
        query: the float64 normal form on the CPU.
        x: points ``(N, *input_shape)``, any floating dtype and device.
        problems: problem of each point, ``(N,)``.

    Raises:
        ShapeError: points or problems have another shape.
        ProblemError: a problem that the query does not have, or a query that is not float64.
    """
    _validate(query, x, problems)
    problems = problems.cpu()
    parts = [
        _check(query.take(some), x[start : start + len(some)])
        for start, some in _slices(query, problems)
    ]  # fmt: skip
    if not parts:
        empty = torch.zeros(0, dtype=torch.float64)
        return PointCheck(x.detach().cpu().to(query.network.dtype), empty.bool(), empty, empty)
    return PointCheck(*(torch.cat(column) for column in zip(*parts)))


def _validate(query: Query, x: Tensor, problems: Tensor) -> None:
    shape = tuple(query.graph.input_shape)
    if query.dtype != torch.float64 or query.device.type != "cpu":
        raise ProblemError("Points are checked against the float64 query on the CPU. Pass problem.query.")
    if tuple(x.shape[1:]) != shape or x.dim() != len(shape) + 1:
        raise ShapeError(f"The points have shape {tuple(x.shape)}; expected (N, {', '.join(map(str, shape))}).")
    if tuple(problems.shape) != (len(x),) or problems.dtype not in (torch.int64, torch.int32):
        raise ShapeError(
            f"The problems of {len(x)} points have shape {tuple(problems.shape)} and dtype {problems.dtype}; expected "
            f"({len(x)},) of int64."
        )
    if len(problems) and not 0 <= int(problems.min()) <= int(problems.max()) < query.size:
        raise ProblemError(f"A point belongs to a problem outside 0 to {query.size - 1}.")


def _slices(query: Query, problems: Tensor) -> list[tuple[int, Tensor]]:
    """Start of each slice and the problems in it: as many as keep gathered coefficients and activations small."""
    forms = [c[0].numel() for c in query.atoms.coefficients.values() if c.shape[0] > 1]
    widest = max(math.prod(node.shape) for node in query.graph.nodes)
    length = max(1, SLICE // (sum(forms) + widest + 1))
    return [(start, problems[start : start + length]) for start in range(0, len(problems), length)]


@torch.no_grad()
def _check(query: Query, given: Tensor) -> PointCheck:
    """One slice; the query has one row per point."""
    network = query.network
    lower, upper = round_up(query.region.lower, network.dtype), round_down(query.region.upper, network.dtype)
    given = given.detach().cpu()
    x = given.to(network.dtype).clamp(lower.to(network.dtype), upper.to(network.dtype))
    x = query.region.on_values(x)
    exact = x.to(torch.float64)
    atoms, values = zip(
        _evaluate(query, exact, _of_original(query, x)),
        _evaluate(query, exact, query.graph.forward(exact, query.nodes)),
    )
    value = torch.stack(values).amax(0)
    finite = given.isfinite().flatten(1).all(1) & value.isfinite()
    violation = torch.maximum(query.violation(atoms[0]), query.violation(atoms[1]))
    for side in atoms:
        finite &= side.isfinite().all(1)
    for ball in query.region.balls:
        allowed = ball.radius * (1 + RADIUS_ROUNDING)
        violation = torch.maximum(violation, ball.distance(exact) - allowed)
    inside = ((exact >= query.region.lower) & (exact <= query.region.upper)).flatten(1).all(1)
    violation = torch.where(finite & inside & ~violation.isnan(), violation, torch.inf)
    return PointCheck(x, met(violation), torch.where(finite, value, torch.inf), violation)


def _evaluate(query: Query, x: Tensor, activations: Activations) -> tuple[Tensor, Tensor]:
    """Atoms ``(N, K)`` and objective ``(N,)``; NaN in any watched activation, used or not, spoils both."""
    atoms, value = query.atoms.values(activations), query.objective.value(x, activations)
    for h in activations.values():
        broken = ~h.flatten(1).isfinite().all(1)
        value = torch.where(broken, torch.nan, value)
    return atoms, value


def _of_original(query: Query, x: Tensor) -> Activations:
    """Activations of the watched layers from the user's own model in its own dtype, as float64 on the CPU."""
    network = query.network
    activations: Activations = {0: x.to(torch.float64)} if 0 in query.nodes else {}
    watched = [node for node in query.nodes if node]
    if watched:
        names = [network.graph.nodes[node].name for node in watched]
        found = network.original(x.to(network.device), names)
        for node, name in zip(watched, names):
            shape = network.graph.nodes[node].shape
            activations[node] = found[name].detach().to("cpu", torch.float64).reshape(len(x), *shape)
    return activations
