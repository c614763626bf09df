"""The anytime attack of ``solve()``: upper bounds for every objective, reported as they are found.

Distances: lanes are ranked by their linearised distance, the best of them run averaged linearisation
(:mod:`clinch.attacks.averaged`) in ever smaller company, a few run the shrinking ball
(:mod:`clinch.attacks.shrinking`), and the winner is refined. Other objectives: projected gradient over the region
(:mod:`clinch.attacks.minimise`).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from clinch.attacks.averaged import averaged_steps, linearised_distance, retract
from clinch.attacks.lanes import ANY, Lanes, disjunctive_clause, lanes_of, tightened
from clinch.attacks.minimise import LANES_PER_START, minimise_steps
from clinch.attacks.polish import polish_from
from clinch.attacks.result import AttackResult, Best, HasQuery, query_of
from clinch.attacks.shrinking import shrinking_steps
from clinch.attacks.sparse import prune
from clinch.geometry.projection import project_into
from clinch.ledger import Ledger
from clinch.query import Distance, Query

#: lanes per problem that are run at all
LANES = 64
#: lanes per problem that are left after the first stage
KEPT = 12
#: and after the second
FINALISTS = 2
#: restarts of each finalist, for each start asked for
RESTARTS = 4
#: walks and steps of each, where other objectives than distances are not attacked thoroughly
QUICK = (4, 15)
#: how far behind the incumbent a finalist may lie to be polished
RUNNER_UP = 0.1
#: finalists through one atom whose values differ by less are taken for the same point
SAME_POINT = 5e-4
#: how far an element without limits may move from the centre where only the number of moved elements counts
REACH = 100.0
#: elements of one batch of lanes while ranking, so that memory stays bounded
BATCH = 1 << 24


def attack(
    query: Query, ledger: Ledger, *, starts: int = 2, steps: int = 60, seed: int = 0, thorough: bool = True
) -> None:
    """Attack all problems of a query; what is found goes to the ledger.

    Args:
        query: the float64 normal form.
        ledger: receives the points and says when to stop.
        starts: attempts per disjunct, the first from the centre, the others from random points.
        steps: steps of the longest stage.
        seed: of the random starts.
        thorough: False ends a distance's attack after the short stages that rank the disjuncts, and gives every other
            objective a few short walks: enough where an exact search with walks of its own comes next.
    """
    _run(query, ledger, starts, steps, seed, thorough)


def nearest_by_projection(
    problem: HasQuery | Query, *, starts: int = 2, steps: int = 60, seed: int = 0
) -> AttackResult:
    """The same attack by itself.

    Args:
        problem: a problem, or its normal form.
        starts: attempts per disjunct, the first from the centre, the others from random points.
        steps: steps of the longest stage.
        seed: of the random starts.

    Returns:
        Points, feasibility, values and row counts; see :class:`AttackResult`.
    """
    return _run(query_of(problem), None, starts, steps, seed).result()


def _run(query: Query, ledger: Ledger | None, starts: int, steps: int, seed: int, thorough: bool = True) -> Best:
    best = Best(query, "attack", ledger)
    generator = torch.Generator().manual_seed(seed)
    tight = _within_reach(tightened(best))
    everyone = torch.arange(query.size, device=tight.device)
    first = lanes_of(best, tight, everyone, torch.full_like(everyone, ANY))
    feasible = first.read(best.anchor, gradients=False).feasible
    best.report()
    if not isinstance(tight.objective, Distance):
        lanes, length = (LANES_PER_START * starts, steps) if thorough else QUICK
        minimise_steps(best, tight, count=lanes, steps=length, generator=generator)
    elif query.clauses:
        # a feasible anchor is the nearest point there is, unless a ball has pushed it away from the box's own
        closest = torch.maximum(torch.minimum(tight.objective.center, tight.region.upper), tight.region.lower)
        done = feasible & (best.anchor == closest).flatten(1).all(1)
        problems = (~done).nonzero().flatten()
        if len(problems):
            _nearest(best, tight, problems, starts, steps, generator, thorough)
    best.report()
    return best


def _within_reach(tight: Query) -> Query:
    """For p = 0 an element may move as far as it likes: without limits of its own it gets some, to move to."""
    objective, region = tight.objective, tight.region
    if not isinstance(objective, Distance) or objective.p != 0:
        return tight
    lower = torch.maximum(region.lower, objective.center - REACH)
    upper = torch.minimum(region.upper, objective.center + REACH)
    return replace(tight, region=replace(region, lower=lower, upper=upper))


def _nearest(
    best: Best, tight: Query, problems: Tensor, starts: int, steps: int, generator: torch.Generator, thorough: bool
) -> None:
    """All stages for a distance objective."""
    objective = tight.objective
    assert isinstance(objective, Distance)
    ranked = _ranked(best, tight, problems)
    if not ranked.size:
        return
    lanes, z = _with_random_starts(ranked, starts, generator)
    if objective.p != 0:
        z, value, aim = averaged_steps(lanes, z, steps=6, step_size=(0.8, 0.5), averaging=(0.5, 0.5), overshoot=1.02)
        lanes, z = _best_lanes(lanes, z, torch.where(torch.isfinite(value), value, aim), KEPT)
        z, value, aim = averaged_steps(lanes, z, steps=12, step_size=(0.5, 0.3), averaging=(0.5, 0.5), overshoot=1.01)
        lanes, z = _best_lanes(lanes, z, torch.where(torch.isfinite(value), value, 1.1 * aim), FINALISTS)
        if best.exhausted or not thorough:
            return
    else:
        lanes, z = _best_lanes(lanes, z, linearised_distance(lanes, lanes.read(z), z)[0], KEPT)
    _shrink(best, tight, lanes, problems, steps, generator)
    if objective.p == 0:
        prune(best, tight, problems)
        return
    best.report()
    _refine(best, *_restarted(lanes, z, starts, steps, generator), steps)


def _restarted(lanes: Lanes, z: Tensor, starts: int, steps: int, generator: torch.Generator) -> tuple[Lanes, Tensor]:
    """The finalists, joined by the best of some restarts around them: one atom can have several local optima."""
    anchor = lanes.best.anchor[lanes.problem]
    reach = (z - anchor).flatten(1).abs().amax(1).view(-1, *[1] * (z.dim() - 1))
    every = torch.arange(lanes.size, device=z.device).repeat(RESTARTS * starts)
    noise = torch.rand(z[every].shape, generator=generator).to(z) * 2 - 1
    crowd = lanes.take(every)
    start = project_into(crowd.query.region, anchor[every] + reach[every] * noise)
    point, value, _ = averaged_steps(
        crowd, start, steps=max(1, steps // 3), step_size=(0.5, 0.1), averaging=(0.3, 0.9), overshoot=1.01
    )
    joined, best_of = _best_lanes(crowd, point, value, FINALISTS)
    both = torch.cat([lanes.problem, joined.problem]), torch.cat([lanes.atom, joined.atom])
    order = both[0].argsort(stable=True)
    where = torch.cat([torch.arange(lanes.size, device=z.device), torch.searchsorted(lanes.problem, joined.problem)])
    return lanes.take(where[order]).with_atoms(both[1][order]), torch.cat([z, best_of])[order]


def _refine(best: Best, lanes: Lanes, z: Tensor, steps: int) -> None:
    """The longest stage: what is left, through its own atom and through any, from the best point known."""
    known = torch.isfinite(best.value).to(z.device)[lanes.problem]
    incumbent = torch.where(known.view(-1, *[1] * (z.dim() - 1)), best.x[lanes.problem], z)
    anywhere = lanes.with_atoms(torch.full_like(lanes.atom, ANY))
    finals: list[tuple[Tensor, Tensor]] = []
    for wish, start in ((lanes, z), (anywhere, incumbent)):
        point, value, aim = averaged_steps(
            wish, start, steps=steps, step_size=(0.4, 0.03), averaging=(0.8, 0.95), overshoot=1.005
        )
        # a finalist that circles just short of its goal is polished too
        finals.append((point, torch.where(torch.isfinite(value), value, aim)))
        if best.exhausted:
            return
    found = torch.isfinite(best.value).nonzero().flatten().to(z.device)
    chosen = found[torch.isin(found, lanes.problem)]
    first = torch.searchsorted(lanes.problem.contiguous(), chosen)
    retract(anywhere.take(first), best.x[chosen])
    best.report()
    if best.ledger is not None:
        _polish_runners_up(best.ledger, lanes, *finals[0])


def _polish_runners_up(ledger: Ledger, lanes: Lanes, points: Tensor, value: Tensor) -> None:
    """Each finalist may lie on a better piece than the incumbent: polish those that are not far behind."""
    problem, number = lanes.problem.cpu(), value.to("cpu", torch.float64)
    close = (number <= (1 + RUNNER_UP) * ledger.value[problem]).nonzero().flatten()
    order = close[number[close].argsort(stable=True)]
    order = order[(lanes.atom.cpu()[order]).argsort(stable=True)]
    order = order[problem[order].argsort(stable=True)]
    last, row = torch.roll(order, 1), order
    same = (problem[row] == problem[last]) & (lanes.atom.cpu()[row] == lanes.atom.cpu()[last])
    same &= number[row] - number[last] <= SAME_POINT * number[row]
    same[:1] = False
    chosen = row[~same]
    chosen = chosen[number[chosen].argsort(stable=True)]
    polish_from(lanes.best.query, ledger, points[chosen.to(points.device)], problem[chosen])


def _ranked(best: Best, tight: Query, problems: Tensor) -> Lanes:
    """Lanes for the atoms of the most disjunctive clause, the nearest by linearisation first, grouped by problem."""
    main = disjunctive_clause(tight)
    if main is None:
        return lanes_of(best, tight, problems, torch.full_like(problems, ANY))
    atoms = (tight.clause == main).nonzero().flatten()
    size = max(1, tight.region.lower[0].numel())
    height = max(1, BATCH // (size * len(atoms)))
    chosen: list[tuple[Tensor, Tensor]] = []
    for part in problems.split(height):
        problem, atom = part.repeat_interleave(len(atoms)), atoms.repeat(len(part))
        lanes = lanes_of(best, tight, problem, atom)
        z = best.anchor[problem]
        distance = linearised_distance(lanes, lanes.read(z), z)[0].reshape(len(part), -1)
        order = distance.argsort(dim=1, stable=True)[:, :LANES]
        # an atom that cannot hold, even by linearisation at the centre, is tried only where nothing else is left
        hope = torch.isfinite(distance.gather(1, order))
        hope[:, :KEPT] = True
        chosen.append((part.unsqueeze(1).expand_as(order)[hope], atoms[order][hope]))
        if best.exhausted:
            break
    return lanes_of(best, tight, torch.cat([c[0] for c in chosen]), torch.cat([c[1] for c in chosen]))


def _with_random_starts(lanes: Lanes, starts: int, generator: torch.Generator) -> tuple[Lanes, Tensor]:
    """Each lane at its linearised solution and, for further starts, about as far away in a random direction."""
    anchor = lanes.best.anchor[lanes.problem]
    _, point = linearised_distance(lanes, lanes.read(anchor), anchor)
    points = [point]
    reach = (point - anchor).flatten(1).abs().amax(1).clamp(min=1e-3).view(-1, *[1] * (anchor.dim() - 1))
    for _ in range(max(1, starts) - 1):
        noise = torch.rand(anchor.shape, generator=generator).to(anchor) * 2 - 1
        points.append(project_into(lanes.query.region, point + reach * noise))
    every = torch.arange(lanes.size, device=anchor.device).repeat(len(points))
    order = lanes.problem[every].argsort(stable=True)
    return lanes.take(every[order]), torch.cat(points)[order]


def _best_lanes(lanes: Lanes, z: Tensor, value: Tensor, count: int) -> tuple[Lanes, Tensor]:
    """The ``count`` best lanes of each problem through different atoms, grouped by problem."""
    order = value.argsort(stable=True)
    order = order[_first_of_each(lanes.problem[order] * (lanes.query.atoms.count + 1) + lanes.atom[order])]
    order = order[lanes.problem[order].argsort(stable=True)]
    grouped = lanes.problem[order]
    first = torch.searchsorted(grouped.contiguous(), grouped.contiguous())
    rank = torch.arange(len(order), device=order.device) - first
    chosen = order[rank < count]
    return lanes.take(chosen), z[chosen]


def _first_of_each(key: Tensor) -> Tensor:
    """Positions of the first appearance of each key, in increasing order."""
    _, group = key.unique(return_inverse=True)
    place = torch.arange(len(key), device=key.device)
    first = torch.full((int(group.max()) + 1,), len(key), device=key.device).scatter_reduce(0, group, place, "amin")
    return first.sort()[0]


def _shrink(best: Best, tight: Query, lanes: Lanes, problems: Tensor, steps: int, generator: torch.Generator) -> None:
    """Shrinking balls: one lane through any atom from the anchor, one from a random point, one for each lane left."""
    anyone = torch.full_like(problems, ANY)
    problem = torch.cat([problems, problems, lanes.problem])
    crowd = lanes_of(best, tight, problem, torch.cat([anyone, anyone, lanes.atom]))
    z = best.anchor[problem].clone()
    objective = crowd.query.objective
    assert isinstance(objective, Distance)
    distance = linearised_distance(crowd, crowd.read(z), z)[0]
    found = best.value.to(z)[problem]
    radius = torch.where(torch.isfinite(found), 1.5 * found, 4 * distance)
    radius = torch.where(torch.isfinite(radius), radius, _half_way(objective, crowd.query))
    if objective.p == 0:
        radius = radius.clamp(min=max(4.0, 0.08 * z[0].numel()))
    second = slice(len(problems), 2 * len(problems))
    noise = torch.rand(z[second].shape, generator=generator).to(z) * 2 - 1
    reach = (best.x[problem[second]] - z[second]).flatten(1).abs().amax(1).view(-1, *[1] * (z.dim() - 1))
    z[second] = z[second] + noise * reach
    shrinking_steps(crowd, project_into(crowd.query.region, z), radius, 2 * steps)


def _half_way(objective: Distance, query: Query) -> Tensor:
    """Half the distance to the farthest corner of the box; 1 where the box is unbounded."""
    far = torch.maximum((query.region.upper - objective.center).abs(), (query.region.lower - objective.center).abs())
    distance = objective.value(objective.center + far, {}) / 2
    return torch.where(torch.isfinite(distance), distance, torch.ones_like(distance))
