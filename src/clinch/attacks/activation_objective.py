"""Activation descent on the objective of a problem, such as the largest output of a network over a box."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from clinch.attacks.activation_steps import SMALL, Lanes, PatternSettings
from clinch.attacks.minimise import random_starts
from clinch.attacks.objective import Objective
from clinch.attacks.result import AttackResult, HasQuery, query_of
from clinch.attacks.schedule import cosine
from clinch.attacks.switched import Switched, relu_layers
from clinch.attacks.track import Track
from clinch.attacks.units import TYPICAL
from clinch.errors import ProblemError, UnsupportedByEngine
from clinch.geometry.projection import project_into
from clinch.geometry.region import Region
from clinch.query import Distance, Query
from clinch.runtime.gradients import with_gradients

#: step of the input, in Euclidean radii of the region: the published one on the small random networks
STEP = 0.16


@with_gradients
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
    goal = Objective(query)
    track = Track(goal)
    rows = torch.arange(goal.size, device=goal.x.device).repeat_interleave(starts)
    own, draws = goal.tight.take(rows), goal.draws(seed).lanes(rows)
    start = goal.start[rows]
    if spread:
        start = random_starts(own.region, start, starts, draws.at(-1))
    lanes = Lanes(Switched(own.graph, own.nodes, gates), start, settings, draws)
    size = STEP * _radius(own.region) if step_size is None else lanes.z.new_full((own.size,), step_size)
    _descend(track, own, rows, lanes, [size * cosine(1.0, last, k, steps) for k in range(steps)])
    return track.result()


def _descend(track: Track, own: Query, rows: Tensor, lanes: Lanes, sizes: Sequence[Tensor]) -> None:
    """All steps of L lanes; what is found goes to the track."""
    forward, backward = lanes.passes
    for size in sizes:
        if track.exhausted:
            return
        seen = lanes.look()
        violated = _note(track, own, rows, lanes.z.detach(), seen)
        lanes.step(seen, _objective(own, violated), size, lambda z: project_into(own.region, z))
        track.goal.count(rows, forward=forward, backward=backward)
    with torch.no_grad():
        _note(track, own, rows, lanes.z, lanes.surrogate.evaluate(lanes.z))
    track.goal.count(rows, forward=1)


def _note(track: Track, own: Query, rows: Tensor, z: Tensor, seen: Mapping[int, Tensor]) -> Tensor:
    """Keep the feasible points; which of them violate a clause."""
    activations = {**seen, 0: z}
    violation = own.violation(own.atoms.values(activations)).detach()
    violated = violation > 0
    margin = torch.where(violated, violation, -1.0)
    track.update(z, rows, margin, own.objective.value(z, activations).detach())
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
    length = torch.linalg.vector_norm(torch.where(half.isfinite(), half, TYPICAL), dim=1)
    for ball in region.balls:
        length = torch.minimum(length, ball.radius) if ball.p and ball.weights is None else length
    return length
