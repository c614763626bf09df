"""What a handful of points says about a question, before anybody proves anything: inputs that meet it are often many.

Random points, corners of the box and a short walk from the best of them cost a few passes over the network. Where one
meets all conditions, bounds of a large network, which take thousands, are never needed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clinch.query import Query
from clinch.runtime import deadline
from clinch.search.sign_descent import walk
from clinch.solver.ledger import Ledger

#: the name under which points are offered
WHO = "first points"
#: points of one problem, and of all together, at most; of the first look, whose time tells how many more there may be
POINTS, ALL, FIRST = 256, 4096, 16
#: walks of one problem, and of all together, at most, and steps of each
WALKS, ALL_WALKS, STEPS = 4, 32, 40
#: a gradient step beside a look at a point, in time
STEP_COST = 4.0


def first_points(query: Query, ledger: Ledger, seed: int = 0) -> None:
    """Look for feasible inputs at the middle of the box, at random points and at corners, and on walks from these.

    Args:
        query: the float64 normal form, with finite limits of every input element.
        ledger: receives the points found, and says when to stop.
        seed: of the random points.
    """
    ledger.looked = True
    if not bool(torch.isfinite(query.region.lower).all() and torch.isfinite(query.region.upper).all()):
        return
    end = ledger.seconds + ledger.remaining
    draws = torch.Generator().manual_seed(seed)
    problems = (~ledger.closed).nonzero().flatten().to(query.device)
    most, best, seconds = max(2, min(POINTS, ALL // max(1, len(problems)))), _Best(query, problems), 0.0
    count = 1
    while len(problems) and best.count < most and ledger.seconds < end:
        began = deadline.clock()
        best.look(_drawn(query, problems, count, best.count, draws))
        if best.offer(ledger):
            return
        seconds = max((deadline.clock() - began) / (count * len(problems)), 1e-9)
        afford = (end - ledger.seconds) / seconds / len(problems)
        count = int(max(1, min(most - best.count, FIRST if best.count < FIRST else most, afford)))
    walks = int(min(ALL_WALKS, (end - ledger.seconds) / (STEP_COST * STEPS * max(seconds, 1e-9))))
    if best.count and walks > 0:
        best.walk(walks, ledger)


def _drawn(query: Query, problems: Tensor, count: int, seen: int, draws: torch.Generator) -> Tensor:
    """``(B, count, *input_shape)`` points: the middle first, then uniform ones and corners in turns."""
    region = query.region
    low, high = (t[problems].unsqueeze(1) for t in (region.lower, region.upper))
    shape = (len(problems), count, *low.shape[2:])
    share = torch.rand(shape, generator=draws, dtype=torch.float64).to(low)
    share[:, 1::2] = (share[:, 1::2] > 0.5).to(low)
    if not seen:
        share[:, 0] = 0.5
    return low + share * (high - low)


class _Best:
    """The points of smallest violation of each problem."""

    def __init__(self, query: Query, problems: Tensor) -> None:
        self.query, self.problems, self.count = query, problems, 0
        self.points: Tensor | None = None
        self.violation = query.region.lower.new_zeros(len(problems), 0)

    def look(self, points: Tensor) -> None:
        """Take in points ``(B, count, *input_shape)``."""
        size, count = points.shape[:2]
        with torch.no_grad():
            local = self.query.take(self.problems.repeat_interleave(count))
            value, atoms = local.evaluate(points.flatten(0, 1))
        violation = local.violation(atoms.expand(len(value), -1)).reshape(size, count)
        violation = violation.nan_to_num(torch.inf, torch.inf, -torch.inf)
        points = points if self.points is None else torch.cat([self.points, points], 1)
        self.violation = torch.cat([self.violation, violation], 1)
        self.count += count
        self.violation, at = self.violation.topk(min(WALKS, self.violation.shape[1]), 1, largest=False)
        self.points = points[torch.arange(size, device=at.device).unsqueeze(1), at]

    def offer(self, ledger: Ledger) -> bool:
        """Offer what seems feasible; whether nothing is left to look for."""
        assert self.points is not None
        row, column = (self.violation[:, :1] <= 0).nonzero(as_tuple=True)
        if len(row):
            ledger.offer(self.points[row, column], WHO, self.problems[row])
        return ledger.exhausted

    def walk(self, count: int, ledger: Ledger) -> None:
        """Walk from so many points, the least violated first, and offer what is feasible."""
        assert self.points is not None
        order = self.violation.flatten().argsort(stable=True)[:count]
        width = self.violation.shape[1]
        row, column = order // width, order % width
        found = walk(self.query.take(self.problems[row]), self.points[row, column], steps=STEPS)
        feasible = torch.isfinite(found.value)
        if bool(feasible.any()):
            ledger.offer(found.x[feasible], WHO, self.problems[row[feasible]])
