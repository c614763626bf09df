"""Branch and bound over boxes of the input: the exact engine where few input elements are free (ACAS Xu).

Every box gets linear lower limits of objective and atoms by CROWN (:mod:`clinch.exact.box_bounds`), in deep networks
with the limits of its parent's activations to start from. They close it, or show that it has nothing better than the
incumbent (:mod:`clinch.exact.cutoff`), or cut it down (:mod:`clinch.geometry.clip`), or say along which element to
halve it (:mod:`clinch.exact.input_branching`). Relaxations become exact as boxes shrink, so that this ends
for any operator that has one, whether or not it bends at kinks. For the general method see Wang et al. 2018 (ReluVal,
arXiv 1804.10829); boxes are bounded in batches, and problems with an objective are searched best bound first.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch
from torch import Tensor

from clinch.errors import UnboundedInputError
from clinch.exact.box_bounds import Bounder, BoxBounds, folded
from clinch.exact.boxes import Boxes, Frontier
from clinch.exact.cutoff import Cutoff, layers_of
from clinch.exact.input_branching import Faces, look_at_faces, split_scores, weighed_scores, weighs
from clinch.exact.walk import walk
from clinch.geometry.clip import clip_to_ball, clip_to_clauses
from clinch.geometry.linear_minimum import flatten_ball
from clinch.ledger import Ledger
from clinch.query import Distance, Linear, Query
from clinch.solution import Proof

#: the name under which points and bounds are reported
WHO = "input split"
#: seconds after which a batch should report
ROUND_SECONDS = 0.5
#: boxes of the first batch whose time tells how many the next may have
FIRST_BATCH = 64
#: while fewer boxes than this are open each is halved more than once
FEW = 16
#: points from which to walk on, and share of the search's time for it
WALKERS, WALK_SHARE = 16, 0.15
#: points offered to the ledger at once
OFFERED = 16


def input_split(query: Query, ledger: Ledger, *, batch: int = 2048) -> None:
    """Search until every problem is closed or the ledger's budget is spent.

    Takes any objective and any clauses; a linear objective without coefficients asks for any feasible input or the
    proof that there is none.

    Args:
        query: the float64 normal form, with finite limits of every input element.
        ledger: receives points and bounds; problems it has closed already are left out.
        batch: number of boxes bounded at once, at most.

    Raises:
        UnboundedInputError: an input element has no finite limits.
        UnsupportedOperator: a layer has no interval rule or no linear relaxation; names it.
    """
    Search(query, ledger, batch).run()


class Search:
    """One search over the problems that a ledger has not closed. :meth:`run` may be called again after the ledger's
    time was up: the open boxes are kept.

    Arguments and errors: see :func:`input_split`.
    """

    def __init__(self, query: Query, ledger: Ledger, batch: int = 2048) -> None:
        self.ledger, self.batch = ledger.on(query.device), batch
        #: this query's problems in the ledger
        self.problems = (~self.ledger.closed).nonzero().flatten()
        query = query.take(self.problems)
        self.query = folded(query)
        self.bound = Bounder(self.query)
        layers = layers_of(self.query)
        self.cutoff = None if layers is None else Cutoff(self.query, layers)
        aims = isinstance(self.query.objective, Linear) and not self.query.feasibility
        # where points are all that is asked for, those on the faces are worth their time
        self.by_weights = aims and weighs(self.query.graph, self.bound.bent, self.bound.below)
        self.frontier = Frontier(query.size, query.device)
        self.finished = query.region.lower.new_full((query.size,), torch.inf)
        self.size, self.working, self.walking = min(FIRST_BATCH, batch), 0.0, 0.0
        if len(self.problems):
            self._start(query)

    @property
    def done(self) -> bool:
        """Whether no box is left."""
        return not self.frontier

    def _start(self, query: Query) -> None:
        """One box per problem: of a distance problem that has an incumbent, the box around the incumbent's ball."""
        incumbent = self.ledger.value[self.problems]
        region = query.narrowed(incumbent).region
        if not bool(torch.isfinite(region.lower).all() and torch.isfinite(region.upper).all()):
            raise UnboundedInputError(
                "Splitting the input needs finite limits of every input element. Add constraints such as x >= 0."
            )
        if isinstance(query.objective, Distance):
            self.finished = incumbent.clone()  # nothing outside of the incumbent's ball is better
        self.width = (region.upper - region.lower).flatten(1)
        which = torch.arange(query.size, device=query.device)
        bound = torch.full_like(self.finished, -torch.inf)
        self._keep(Boxes(which, region.lower, region.upper, bound))

    def _over(self) -> bool:
        return self.ledger.remaining <= 0

    def _target(self, problem: Tensor) -> Tensor:
        """What closes a problem, raised so that a bound cut off at it still does after rounding."""
        target, value = self.ledger.target[self.problems], self.ledger.value[self.problems]
        rounding = 4 * torch.finfo(value.dtype).eps * value.abs()
        return torch.where(torch.isfinite(value), target + rounding, target)[problem]

    def run(self) -> None:
        """Work on the boxes of smallest bound until none is left."""
        if not len(self.problems) or self.ledger.exhausted:
            return
        while self.frontier and not self.ledger.exhausted:
            boxes = self._wanted(self.frontier.pop(self.size))
            if len(boxes):
                began = time.monotonic()
                try:
                    self._work(boxes)
                except BaseException:
                    # whatever happened, nothing more is known about them: they stay open for the next run
                    self.frontier.push(boxes, max(1, self.batch // 2))
                    raise
                seconds = time.monotonic() - began
                self.working += seconds
                each = seconds / len(boxes)
                allowed = min(ROUND_SECONDS, max(0.1 * self.ledger.remaining, 0.02))
                self.size = int(max(1, min(self.batch, 4 * self.size, allowed / max(each, 1e-9))))
            self._report()
        self._report()

    def _wanted(self, boxes: Boxes) -> Boxes:
        """Those that may still hold something better; the others are finished."""
        closed = self.ledger.closed[self.problems][boxes.problem]
        wanted = ~(boxes.bound >= self._target(boxes.problem)) & ~closed
        self._finish(boxes.problem[~wanted], boxes.bound[~wanted])
        return boxes if bool(wanted.all()) else boxes.take(wanted.nonzero().flatten())

    def _finish(self, problem: Tensor, bound: Tensor) -> None:
        self.finished.scatter_reduce_(0, problem, bound, "amin")

    def _work(self, boxes: Boxes) -> None:
        """Bound boxes; close, cut, look for points, halve."""
        found = self.bound(boxes, self._over)
        wanted = ~(found.boxes.bound >= self._target(boxes.problem))
        self._finish(boxes.problem[~wanted], found.boxes.bound[~wanted])
        if not bool(wanted.any()):
            return
        if not bool(wanted.all()):
            found = found.take(wanted.nonzero().flatten())
        found = self._cut(self._under_cutoff(found))
        if not len(found.boxes):
            return
        faces = None if self.by_weights else look_at_faces(self.query, found, self.width)
        self._offer(found, faces)
        if faces is None:
            self._halve(found, weighed_scores(self.query, found, self.width))
        else:
            self._halve(found, split_scores(self.query, found, faces, self.width))

    def _under_cutoff(self, found: BoxBounds) -> BoxBounds:
        """Boxes that may hold something better than the incumbent, with the objective's limits that hold there."""
        target, form = self._target(found.boxes.problem), self.query.atoms.count
        if self.cutoff is None or not bool(torch.isfinite(target).all()):
            return found
        nothing, rows, offset = self.cutoff(found, target, form)
        self._finish(found.boxes.problem[nothing], target[nothing])
        found.rows[:, form], found.offset[:, form] = rows, offset
        return found.take((~nothing).nonzero().flatten()) if bool(nothing.any()) else found

    def _cut(self, found: BoxBounds) -> BoxBounds:
        """Boxes without what the clauses exclude, and without what is proven to be no better than the incumbent."""
        boxes, count = found.boxes, self.query.atoms.count
        low, high = boxes.lower.flatten(1), boxes.upper.flatten(1)
        low, high = clip_to_clauses(low, high, found.rows[:, :count], found.offset[:, :count], self.query.clause)
        if isinstance(self.query.objective, Linear) and self.query.objective.nodes:
            target = self._target(boxes.problem)
            some = torch.isfinite(target)
            self._finish(boxes.problem[some], target[some])
            rows, offset = found.rows[:, count:], (found.offset[:, count:] - target.unsqueeze(1))
            one = torch.zeros(1, dtype=torch.long, device=low.device)
            low, high = clip_to_clauses(low, high, rows, offset, one)
        shape = boxes.lower.shape
        return self._inside(replace(found, boxes=replace(boxes, lower=low.reshape(shape), upper=high.reshape(shape))))

    def _inside(self, found: BoxBounds) -> BoxBounds:
        """Boxes cut down to the region's balls and to the incumbent's; those that are left."""
        boxes = found.boxes
        low, high = self._in_balls(boxes)
        boxes = replace(boxes, lower=low.reshape(boxes.lower.shape), upper=high.reshape(boxes.upper.shape))
        left = ~(low > high).any(1)
        found = replace(found, boxes=boxes)
        return found if bool(left.all()) else found.take(left.nonzero().flatten())

    def _in_balls(self, boxes: Boxes) -> tuple[Tensor, Tensor]:
        """The boxes' limits, ``(D, n)``, cut down to the balls; where ``lower > upper`` nothing is left."""
        low, high = boxes.lower.flatten(1), boxes.upper.flatten(1)
        balls = [ball.take(boxes.problem) for ball in self.query.region.balls]
        if isinstance(self.query.objective, Distance):
            target = self._target(boxes.problem)
            some = torch.isfinite(target)
            self._finish(boxes.problem[some], target[some])
            balls.append(self.query.objective.take(boxes.problem).ball(target))
        for ball in balls:
            low, high = clip_to_ball(low, high, flatten_ball(ball))
        return low, high

    def _keep(self, boxes: Boxes) -> None:
        """Add boxes to the frontier, without what lies outside of the balls."""
        low, high = self._in_balls(boxes)
        left = ~(low > high).any(1)
        shape = boxes.lower.shape
        boxes = replace(boxes, lower=low.reshape(shape), upper=high.reshape(shape))
        boxes = boxes if bool(left.all()) else boxes.take(left.nonzero().flatten())
        if len(boxes):
            self.frontier.push(boxes, max(1, self.batch // 2))

    def _halve(self, found: BoxBounds, scores: Tensor) -> None:
        """Halve every box along its best element, several times while few are open; points cannot be halved."""
        best, element = scores.max(1)
        point = best == -torch.inf
        boxes = found.boxes
        self._finish(boxes.problem[point], boxes.bound[point])
        index = (~point).nonzero().flatten()
        boxes, scores, element = boxes.take(index), scores[index], element[index]
        while len(boxes):
            boxes = boxes.halves(element)
            if len(boxes) > FEW:
                break
            at = element.unsqueeze(1)
            scores = scores.scatter(1, at, scores.gather(1, at) / 2).repeat(2, 1)
            element = scores.argmax(1)
        self._keep(boxes)

    def _offer(self, found: BoxBounds, faces: Faces | None) -> None:
        """Offer the best feasible points among centres, faces and minimisers of the linear limits; walk from others."""
        query, shape = self.query, found.boxes.lower.shape[1:]
        low, high = (t.flatten(1).unsqueeze(1) for t in (found.boxes.lower, found.boxes.upper))
        corners = torch.where(found.rows > 0, low, torch.where(found.rows < 0, high, (low + high) / 2))
        count = corners.shape[1]
        local = query.take(found.boxes.problem.repeat_interleave(count))
        with torch.no_grad():
            value, atoms = local.evaluate(corners.reshape(-1, *shape))
        size, width = len(found.boxes), query.atoms.count
        points, values = corners, value.reshape(size, count)
        atoms = atoms.expand(size * count, width).reshape(size, count, width)
        if faces is not None:
            points = torch.cat([faces.points.flatten(2), points], 1)
            values = torch.cat([faces.value, values], 1)
            atoms = torch.cat([faces.atoms, atoms], 1)
        problem = found.boxes.problem.repeat_interleave(points.shape[1])
        violation = query.violation(atoms.reshape(len(problem), width))
        self._settle(points.reshape(-1, *shape), values.reshape(-1), violation, problem)

    def _settle(self, points: Tensor, values: Tensor, violation: Tensor, problem: Tensor) -> None:
        """Offer what is feasible and better than the incumbent; walk on from what is nearest to that."""
        incumbent = self.ledger.value[self.problems][problem]
        better = values < incumbent
        good = (better & (violation <= 0)).nonzero().flatten()
        if len(good):
            best = good[values[good].argsort()[:OFFERED]]
            self.ledger.offer(points[best], WHO, self.problems[problem[best]])
        if self.walking > WALK_SHARE * (self.working + 0.1) or self.ledger.exhausted:
            return
        began = self.ledger.seconds
        order = torch.where(better, violation, torch.inf).nan_to_num(torch.inf, torch.inf, -torch.inf)
        first = order.argsort()[:WALKERS]
        found = walk(self.query.take(problem[first]), points[first])
        feasible = found.value < self.ledger.value[self.problems][problem[first]]
        if bool(feasible.any()):
            self.ledger.offer(found.x[feasible], WHO, self.problems[problem[first]][feasible])
        self.walking += self.ledger.seconds - began

    def _report(self) -> None:
        """The proven bound of each problem: the smallest over finished and open boxes."""
        bound = torch.minimum(self.finished, self.frontier.least())
        self.ledger.prove(bound, Proof.TREE, WHO, self.problems)
