"""Projected gradient with bisection on the distance: the baseline that everything else is measured against.

For a radius b, normalised gradient steps minimise ``[primary]₊/‖∇‖ + [secondary]₊/‖∇‖`` over ball(b) ∩ region; success
lowers b to half way between the largest radius that failed and the distance reached, failure raises it. One lane per
disjunct and start ("leave through the top of neuron 3"), all of them in one tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.attacks.averaged import linearised_distance, retract
from clinch.attacks.lanes import ANY, Lanes, disjunctive_clause, lanes_of, tightened
from clinch.attacks.result import AttackResult, Best, HasQuery, query_of
from clinch.attacks.schedule import cosine
from clinch.attacks.shrinking import uphill
from clinch.errors import UnsupportedByEngine
from clinch.geometry.directions import steepest_direction
from clinch.geometry.projection import project, project_into
from clinch.query import Distance, Query

#: lanes per problem
LANES = 64


def bisection(
    problem: HasQuery | Query, *, steps: int = 40, rounds: int = 12, starts: int = 2, seed: int = 0
) -> AttackResult:
    """Minimum distance by projected gradient inside balls whose radius is bisected.

    Args:
        problem: a problem whose objective is a distance, or its normal form.
        steps: gradient steps per radius.
        rounds: radii tried.
        starts: attempts per disjunct, the first from the centre, the others from random points of the ball.
        seed: of the random starts.

    Returns:
        Points, feasibility, values and row counts; see :class:`AttackResult`.

    Raises:
        UnsupportedByEngine: the objective is not a distance.
    """
    query = query_of(problem)
    if not isinstance(query.objective, Distance):
        raise UnsupportedByEngine("Bisection needs a distance as objective. Use clinch.attacks.minimise instead.")
    best = Best(query, "projected gradient + bisection")
    tight = tightened(best)
    everyone = torch.arange(query.size, device=tight.device)
    lanes_of(best, tight, everyone, torch.full_like(everyone, ANY)).read(best.anchor, gradients=False)
    if query.clauses:
        _bisect(_lanes(best, tight, starts), steps, rounds, starts, torch.Generator().manual_seed(seed))
        found = torch.isfinite(best.value).nonzero().flatten().to(tight.device)
        if len(found) and query.objective.p != 0:
            retract(lanes_of(best, tight, found, torch.full_like(found, ANY)), best.x[found])
    return best.result()


def _lanes(best: Best, tight: Query, starts: int) -> Lanes:
    """Every problem times the nearest atoms by linearisation times the starts."""
    main = disjunctive_clause(tight)
    everyone = torch.arange(tight.size, device=tight.device)
    if main is None:
        problem, atom = everyone.repeat_interleave(starts), torch.full((tight.size * starts,), ANY, device=tight.device)
        return lanes_of(best, tight, problem, atom)
    atoms = (tight.clause == main).nonzero().flatten()
    lanes = lanes_of(best, tight, everyone.repeat_interleave(len(atoms)), atoms.repeat(tight.size))
    z = best.anchor[lanes.problem]
    distance = linearised_distance(lanes, lanes.read(z), z)[0].reshape(tight.size, -1)
    order = distance.argsort(dim=1, stable=True)[:, : max(1, LANES // starts)]
    problem = everyone.unsqueeze(1).expand_as(order).flatten().repeat_interleave(starts)
    return lanes_of(best, tight, problem, atoms[order].flatten().repeat_interleave(starts))


def _bisect(lanes: Lanes, steps: int, rounds: int, starts: int, generator: torch.Generator) -> None:
    objective = lanes.query.objective
    assert isinstance(objective, Distance)
    anchor = lanes.best.anchor[lanes.problem]
    shape = (-1, *[1] * (anchor.dim() - 1))
    distance, z = linearised_distance(lanes, lanes.read(anchor), anchor)
    radius = 1.2 * torch.where(torch.isfinite(distance) & (distance > 0), distance, torch.ones_like(distance))
    low, high = torch.zeros_like(radius), torch.full_like(radius, torch.inf)
    noise = (torch.rand(anchor.shape, generator=generator).to(anchor) * 2 - 1) * radius.view(shape)
    random = (torch.arange(lanes.size, device=anchor.device) % starts != 0).view(shape)
    z = torch.where(random, z + noise, z)
    for _ in range(rounds):
        point, reached = _descend(lanes, z, radius, steps)
        success = torch.isfinite(reached)
        high = torch.where(success, torch.minimum(high, reached), high)
        low = torch.where(success, low, torch.maximum(low, radius))
        low = torch.minimum(low, high)
        if objective.p == 0:
            high_next = torch.where(torch.isfinite(high), ((low + high) / 2).floor(), (2 * radius).ceil())
        else:
            high_next = torch.where(torch.isfinite(high), (low + high) / 2, 2 * radius)
        radius = high_next
        z = torch.where((success & torch.isfinite(point).flatten(1).all(1)).view(shape), point, z)
        # a lane that cannot beat what another lane of its problem has reached is not worth its steps
        incumbent = lanes.best.value.to(radius)[lanes.problem]
        alive = (low < 0.999 * incumbent).nonzero().flatten()
        if lanes.best.exhausted or not len(alive):
            break
        lanes, z = lanes.take(alive), z[alive]
        low, high, radius = (t[alive] for t in (low, high, torch.minimum(radius, 0.999 * incumbent)))


def _descend(lanes: Lanes, z: Tensor, radius: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Normalised gradient steps inside the balls; each lane's nearest feasible point and its distance."""
    objective, region = lanes.query.objective, lanes.query.region
    assert isinstance(objective, Distance)
    ball = objective.ball(radius)
    z = project_into(region, project(z, region.lower, region.upper, ball))
    point, reached = z.clone(), torch.full_like(radius, torch.inf)
    length = radius.view(-1, *[1] * (z.dim() - 1))
    p = 2.0 if objective.p == 1 else objective.p  # one element at a time would take one step per element
    for k in range(steps + 1):
        reading = lanes.read(z, gradients=k < steps)
        better = reading.feasible & (reading.value < reached)
        point[better], reached = z[better], torch.where(better, reading.value, reached)
        if k == steps or lanes.best.exhausted:
            break
        down = steepest_direction(-uphill(reading).reshape(z.shape), p, objective.weights)
        moved = project(z + cosine(0.5, 0.02, k, steps) * length * down, region.lower, region.upper, ball)
        z = project_into(region, moved)
    return point, reached
