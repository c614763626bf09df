"""Fewer changed elements: put one after the other back, and let the rest make up for it.

For p = 0 a point is its set of changed elements. A round (1) pushes the changed elements of the incumbent as far beyond
the clauses as they go, (2) puts back each changed element in turn, all trials in one batch, and keeps the trial that
leaves most room, until none is left feasible.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.attacks.lanes import ANY, Lanes, lanes_of
from clinch.attacks.result import Best
from clinch.attacks.schedule import cosine
from clinch.attacks.shrinking import uphill
from clinch.query import Distance, Query

#: gradient steps on the changed elements of each round
PUSH = 20
#: incumbents with more changed elements are left alone: their trials would not fit
WIDEST = 256


def prune(best: Best, tight: Query, problems: Tensor, rounds: int = 3) -> None:
    """Lower the number of changed elements of the incumbents of the given problems ``(P,)``."""
    for _ in range(rounds):
        before = best.value.clone()
        on = problems[torch.isfinite(best.value).to(problems.device)[problems]]
        if not len(on) or best.exhausted:
            return
        lanes = lanes_of(best, tight, on, torch.full_like(on, ANY))
        _put_back(lanes, best.x[on].clone())
        _put_back(lanes, _pushed(lanes, best.x[on].clone()))
        if bool((best.value == before).all()):
            return


def _pushed(lanes: Lanes, x: Tensor) -> Tensor:
    """The point with the same changed elements that is farthest beyond the clauses, by sign steps with decay."""
    objective, region = lanes.query.objective, lanes.query.region
    assert isinstance(objective, Distance)
    changed = x != objective.center
    width = (region.upper - region.lower).nan_to_num(posinf=2.0).clamp(max=2.0)
    furthest, depth = x.clone(), torch.full((lanes.size,), torch.inf, device=x.device, dtype=x.dtype)
    for k in range(PUSH + 1):
        reading = lanes.read(x)
        room = torch.maximum(reading.primary, reading.secondary)
        deeper = room < depth
        furthest[deeper], depth = x[deeper], torch.where(deeper, room, depth)
        step = cosine(0.5, 0.02, k, PUSH) * width * uphill(reading).reshape(x.shape).sign()
        moved = torch.maximum(torch.minimum(x - step, region.upper), region.lower)
        x = torch.where(changed, moved, x)
    return furthest


def _put_back(lanes: Lanes, x: Tensor) -> None:
    """Greedy: of all single elements put back, take the one that keeps the clauses best."""
    objective = lanes.query.objective
    assert isinstance(objective, Distance)
    center = torch.maximum(torch.minimum(objective.center, lanes.query.region.upper), lanes.query.region.lower)
    active = torch.arange(lanes.size, device=x.device)
    while len(active) and not lanes.best.exhausted:
        delta = (x[active] != center[active]).flatten(1)
        active = active[(delta.sum(1) > 0) & (delta.sum(1) <= WIDEST)]
        lane, element = (x[active] != center[active]).flatten(1).nonzero(as_tuple=True)
        if not len(lane):
            return
        owner = active[lane]
        trial = x[owner].flatten(1)
        back = center[owner].flatten(1).gather(1, element.unsqueeze(1))
        trial = trial.scatter(1, element.unsqueeze(1), back).reshape(-1, *x.shape[1:])
        reading = lanes.take(owner).read(trial, gradients=False)
        room = torch.where(reading.feasible, torch.maximum(reading.primary, reading.secondary), torch.inf)
        least = x.new_full((lanes.size,), torch.inf).scatter_reduce(0, owner, room, "amin")
        trials = torch.arange(len(owner), device=x.device)
        winner = torch.where((room == least[owner]) & torch.isfinite(room), trials, len(owner))
        chosen = torch.full((lanes.size,), len(owner), device=x.device).scatter_reduce(0, owner, winner, "amin")
        active = (chosen < len(owner)).nonzero().flatten()
        x = x.clone()
        x[active] = trial[chosen[active]]
