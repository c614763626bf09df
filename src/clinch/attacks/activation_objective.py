"""Activation descent on the objective of a problem, such as the largest output of a network over a box."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from clinch.attacks.activation_steps import SMALL, Lanes, PatternSettings
from clinch.attacks.goal import along
from clinch.attacks.lanes import tightened
from clinch.attacks.result import AttackResult, Best, HasQuery, query_of
from clinch.attacks.schedule import cosine
from clinch.attacks.switched import Switched, relu_layers
from clinch.errors import ProblemError, UnsupportedByEngine
from clinch.geometry.projection import project_into
from clinch.geometry.region import Region
from clinch.query import Distance, Query

#: step of the input, in Euclidean radii of the region: the published one on the small random networks
STEP = 0.16
#: radius of an input without limits
UNBOUNDED = 1.0


def minimise_by_activation_descent(
    problem: HasQuery | Query,
    *,
    steps: int = 3000,
    starts: int = 5,
    spread: bool = False,
    step_size: float | None = None,
    last: float = 1.0,
    settings: PatternSettings = SMALL,
    layers: Sequence[str] | None = None,
    seed: int = 0,
) -> AttackResult:
    """Minimise or maximise a problem's objective by :func:`activation_descent`'s iteration.

    The surrogate's objective takes the place of the loss; with ``Maximize(z[0])`` over a box and the default arguments
    that is the setting of Yu and Gao 2024 (arXiv 2406.00494, section 6.4). While a point violates a clause of the
    problem, its step follows the clause instead of the objective; points that violate one never count.

    Args:
        problem: a problem whose objective is no distance, or its normal form.
        steps: of each lane.
        starts: lanes of each problem.
        spread: whether all lanes but the first start at random points; otherwise they differ in their noise alone.
        step_size: Euclidean length of a step; None: 0.16 radii of the region.
        last: length of the last step, in first ones; below 1 they shrink along half a cosine.
        settings: of the pattern variables: ``SMALL``, ``LARGE`` or your own.
        layers: names of the ReLUs that have variables; None: all.
        seed: of random starts, noise and probes.

    Returns:
        Points, feasibility, values in the minimising sense and row counts; see :class:`AttackResult`.

    Raises:
        ProblemError: an argument that does not fit.
        UnsupportedByEngine: the objective is a distance.

    Example:
        >>> problem = cl.Problem(cl.Maximize(net.output[0]), [net.input >= -1, net.input <= 1])
        >>> -minimise_by_activation_descent(problem, starts=5).value
    """
    if steps < 1 or starts < 1 or not 0 < last <= 1 or (step_size is not None and not 0 < step_size < torch.inf):
        raise ProblemError(
            f"steps={steps} and starts={starts} must be at least 1, last={last} in (0, 1], step_size={step_size} "
            "positive and finite."
        )
    query = query_of(problem)
    if isinstance(query.objective, Distance):
        raise UnsupportedByEngine("Activation descent follows outputs, and the objective is a distance. Use nearest.")
    gates = relu_layers(query.graph, layers)
    best = Best(query, "activation descent")
    generator = torch.Generator().manual_seed(seed)
    tight = tightened(best)
    problem_of = torch.arange(tight.size, device=tight.device).repeat_interleave(starts)
    own = tight.take(problem_of)
    lanes = Lanes(
        Switched(own.graph, own.nodes, gates), _starts(best, own, starts, spread, generator), settings, generator
    )
    size = STEP * _radius(own.region) if step_size is None else lanes.z.new_full((own.size,), step_size)
    _descend(best, own, problem_of, lanes, [size * cosine(1.0, last, k, steps) for k in range(steps)])
    return best.result()


def _descend(best: Best, own: Query, problem_of: Tensor, lanes: Lanes, sizes: Sequence[Tensor]) -> None:
    """All steps of L lanes; what is found goes to ``best``."""
    forward, backward = lanes.passes
    for size in sizes:
        if best.exhausted:
            return
        seen = lanes.look()
        violated = _note(best, own, problem_of, lanes.z.detach(), seen)
        lanes.step(seen, _objective(own, violated), size, lambda z: project_into(own.region, z))
        best.count(problem_of, forward=forward, backward=backward)
    with torch.no_grad():
        _note(best, own, problem_of, lanes.z, lanes.surrogate.evaluate(lanes.z))
    best.count(problem_of, forward=1)


def _note(best: Best, own: Query, problem_of: Tensor, z: Tensor, seen: Mapping[int, Tensor]) -> Tensor:
    """Keep the feasible points; which of them violate a clause."""
    activations = {**seen, 0: z}
    violated = own.violation(own.atoms.values(activations)).detach() > 0
    best.update(z, own.objective.value(z, activations).detach(), own.region.contains(z) & ~violated, problem_of)
    return violated


def _objective(own: Query, violated: Tensor) -> Callable[[Mapping[int, Tensor]], Tensor]:
    """The violation where there is one, elsewhere the objective."""

    def objective(values: Mapping[int, Tensor]) -> Tensor:
        activations = dict(values)
        value = own.objective.value(activations[0], activations)
        if not own.clauses:
            return value
        return torch.where(violated, own.violation(own.atoms.values(activations)), value)

    return objective


def _radius(region: Region) -> Tensor:
    """``(L,)`` half the diagonal of the box, or the radius of a smaller ball in it."""
    half = ((region.upper - region.lower) / 2).flatten(1)
    length = torch.linalg.vector_norm(torch.where(half.isfinite(), half, UNBOUNDED), dim=1)
    for ball in region.balls:
        length = torch.minimum(length, ball.radius) if ball.p and ball.weights is None else length
    return length


def _starts(best: Best, own: Query, starts: int, spread: bool, generator: torch.Generator) -> Tensor:
    """The reference point of each problem; if wanted random points of its box for all lanes but the first."""
    region, anchor = own.region, best.anchor.repeat_interleave(starts, 0)
    if not spread:
        return anchor
    draw = torch.rand(anchor.shape, generator=generator, dtype=torch.float64).to(anchor)
    width = region.upper - region.lower
    near = anchor + (2 * draw - 1) * UNBOUNDED
    point = torch.where(width.isfinite(), region.lower.nan_to_num() + draw * width.nan_to_num(), near)
    first = torch.arange(len(anchor), device=anchor.device) % starts == 0
    return torch.where(along(first, anchor), anchor, project_into(region, point))
