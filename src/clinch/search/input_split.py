"""Branch and bound over boxes of the input: the exact engine where few input elements are free (ACAS Xu).

Every box gets linear lower limits of objective and atoms by CROWN (:mod:`clinch.search.input_bounding`), in deep
networks with the limits of its parent's activations to start from; the objective's are raised by the conditions that
have to hold (:mod:`clinch.geometry.tied_minimum`). They close it, or show that it has nothing better than the incumbent
(:mod:`clinch.search.objective_cutoff`), or cut it down (:mod:`clinch.geometry.clip`), or say along which element to
halve it (:mod:`clinch.search.input_branching`). Relaxations become exact as boxes shrink, so that this ends for any
operator that has one, whether or not it bends at kinks. For the general method see Wang et al. 2018 (ReluVal, arXiv
1804.10829); boxes are bounded in batches, and problems with an objective are searched best bound first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from clinch.geometry.clip import clip_to_ball, clip_to_clauses
from clinch.geometry.linear_minimum import flatten_ball
from clinch.query import Distance, Linear, Query
from clinch.search.boxes import UNBOUNDED, Boxes
from clinch.search.branch_and_bound import BestFirst, Branched
from clinch.search.input_bounding import Bounder, BoxBounds, folded
from clinch.search.input_branching import Faces, look_at_faces, split_scores, weighed_scores, weighs
from clinch.search.ledger_goal import LedgerGoal
from clinch.search.objective_cutoff import Cutoff, layers_of
from clinch.search.part_record import BoxRecorder
from clinch.search.sign_descent import walk
from clinch.solver.ledger import Ledger
from clinch.solver.settings import GeneralSplit, InputSplit

#: the name under which points and bounds are reported
WHO = "input split"


def input_split(query: Query, ledger: Ledger, settings: InputSplit | None = None) -> None:
    """Search until every problem is closed or the ledger's budget is spent.

    Takes any objective and any clauses; a linear objective without coefficients asks for any feasible input or the
    proof that there is none.

    Args:
        query: the float64 normal form, with finite limits of every input element.
        ledger: receives points and bounds; problems it has closed already are left out.
        settings: of the search; None: the usual ones.

    Raises:
        UnsupportedOperator: a layer has no interval rule or no linear relaxation; names it.
    """
    BoxSearch(query, ledger, settings).run()


class BoxSearch:
    """One search over the problems that a ledger has not closed. :meth:`run` may be called again after the ledger's
    time was up: the open boxes are kept.

    Arguments and errors: see :func:`input_split`.
    """

    def __init__(self, query: Query, ledger: Ledger, settings: InputSplit | None = None) -> None:
        settings = InputSplit() if settings is None else settings
        self.ledger = ledger.on(query.device)
        #: this query's problems in the ledger
        self.problems = (~self.ledger.closed).nonzero().flatten()
        query = query.take(self.problems)
        self.goal = BoxGoal(self.ledger, self.problems, folded(query), settings)
        self.work = BoxWork(self.goal, settings)
        self.tree: BestFirst[Boxes, BoxEvaluation] = BestFirst(
            query.size, self.goal, self.work, self.work, batch=max(1, settings.batch // 2),
            first_batch=max(1, min(settings.first_batch, settings.batch) // 2), seconds=settings.round_seconds,
            device=query.device,
        )  # fmt: skip
        self.planted = False
        #: what certificates start from; None: nobody has asked for it
        self.recorder: BoxRecorder | None = None
        if self.ledger.trees is not None:
            self.recorder = self.work.recorder = BoxRecorder(self.problems)
            self.ledger.trees.append(self.recorder)

    @property
    def done(self) -> bool:
        """Whether no box is left."""
        return not len(self.problems) or (self.planted and not len(self.tree.store))

    def run(self) -> None:
        """Work on the boxes of smallest bound until none is left."""
        if not len(self.problems) or self.ledger.exhausted:
            return
        with self.goal.at_work():
            if not self.planted:
                self._plant()
            try:
                self.tree.run()
            finally:
                if self.recorder is not None:
                    self.recorder.leave_open(self.tree.store.nodes())

    def _plant(self) -> None:
        """One box per problem: of a distance problem that has an incumbent, the box around the incumbent's ball."""
        region = self.goal.query.narrowed(self.goal.value).region
        if isinstance(self.goal.query.objective, Distance):
            self.goal.cap(self.goal.value)  # nothing outside of the incumbent's ball is better
        self.work.width = (region.upper - region.lower).flatten(1)
        roots = Boxes.whole(region.lower, region.upper, self.work.bounder.width, self.work.settings.levels)
        boxes = self.work.inside(roots if self.recorder is None else replace(roots, place=roots.problem))
        # what is not bounded before the time is over waits as it is
        self.tree.store.push(boxes)
        self.planted = True


class BoxGoal(LedgerGoal):
    """The ledger, as a search over boxes reports to it.

    Args:
        query: the folded query of the search's problems.
        settings: of the search.
    """

    def __init__(self, ledger: Ledger, problems: Tensor, query: Query, settings: InputSplit | GeneralSplit) -> None:
        super().__init__(ledger, problems, WHO)
        self.query, self.settings, self.walking = query, settings, 0.0
        #: ``(B,)`` what was cut away from boxes may be as good as this
        self.ceiling = query.region.lower.new_full((query.size,), torch.inf)
        self._worked, self._began = 0.0, self.seconds

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """The search's own time runs."""
        self._began = self.seconds
        try:
            yield
        finally:
            self._worked += self.seconds - self._began

    def cap(self, bound: Tensor) -> None:
        """Parts of boxes are left out that hold nothing below a bound ``(B,)``."""
        self.ceiling = torch.minimum(self.ceiling, bound)

    def cutoffs(self) -> Tensor:
        """``(B,)`` what is enough, raised so that a bound cut off at it still is after rounding."""
        target, value = self.ledger.target[self.problems], self.value
        rounding = 4 * torch.finfo(value.dtype).eps * value.abs()
        return torch.where(torch.isfinite(value), target + rounding, target)

    def targets(self) -> Tensor:
        """What is enough; −infinity where a problem is closed."""
        return torch.where(self.ledger.closed[self.problems], -torch.inf, self.cutoffs())

    def offer(self, found: BoxEvaluation) -> None:
        """Offer the best feasible points among centres, faces and minimisers of the linear limits; walk from others."""
        query, boxes, faces = self.query, found.nodes, found.faces
        shape = boxes.lower.shape[1:]
        low, high = (t.flatten(1).unsqueeze(1) for t in (boxes.lower, boxes.upper))
        rows = found.found.rows
        corners = torch.where(rows > 0, low, torch.where(rows < 0, high, (low + high) / 2))
        count = corners.shape[1]
        local = query.take(boxes.problem.repeat_interleave(count))
        with torch.no_grad():
            value, atoms = local.evaluate(corners.reshape(-1, *shape))
        size, width = len(boxes), query.atoms.count
        points, values = corners, value.reshape(size, count)
        atoms = atoms.expand(size * count, width).reshape(size, count, width)
        if faces is not None:
            points = torch.cat([faces.points.flatten(2), points], 1)
            values = torch.cat([faces.value, values], 1)
            atoms = torch.cat([faces.atoms, atoms], 1)
        problem = boxes.problem.repeat_interleave(points.shape[1])
        violation = query.violation(atoms.reshape(len(problem), width))
        self._offer_points(points.reshape(-1, *shape), values.reshape(-1), violation, problem)

    def _offer_points(self, points: Tensor, values: Tensor, violation: Tensor, problem: Tensor) -> None:
        """Offer what is feasible and better than the incumbent; walk on from what is nearest to that."""
        if self.query.region.discrete is not None:
            points, values, violation = self._on_values(points, problem)
        better = values < self.value[problem]
        good = (better & (violation <= 0)).nonzero().flatten()
        if len(good):
            best = good[values[good].argsort()]
            # atoms say nothing of balls and planes: what lies outside of them comes last, as rounding may be all of it
            outside = ~self.query.region.take(problem[best]).contains(points[best])
            best = best[outside.to(torch.uint8).argsort(stable=True)][: self.settings.offered]
            self.ledger.offer(points[best], self.who, self.problems[problem[best]])
        if (
            self.walking > self.settings.walk_share * (self._worked + self.seconds - self._began + 0.1)
            or self.ledger.exhausted
        ):
            return
        began = self.seconds
        order = torch.where(better, violation, torch.inf).nan_to_num(torch.inf, torch.inf, -torch.inf)
        first = order.argsort()[: self.settings.walkers]
        found = walk(self.query.take(problem[first]), points[first])
        feasible = found.value < self.value[problem[first]]
        if bool(feasible.any()):
            self.ledger.offer(found.x[feasible], self.who, self.problems[problem[first]][feasible])
        self.walking += self.seconds - began

    def _on_values(self, points: Tensor, problem: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points moved to the values of discrete elements, with objective and violation there."""
        local = self.query.take(problem)
        points = local.region.on_values(points)
        with torch.no_grad():
            values, atoms = local.evaluate(points)
        return points, values, local.violation(atoms.expand(len(points), local.atoms.count))

    def prove(self, bound: Tensor) -> None:
        """The smallest over boxes, and over what was cut away from them."""
        super().prove(torch.minimum(bound, self.ceiling))


class BoxEvaluation:
    """Boxes with CROWN's bounds, and what the network says at their faces.

    Attributes:
        found: the bounds.
        narrowed: ``(D,)`` whether boxes were cut down since they were bounded.
    """

    def __init__(self, found: BoxBounds, work: BoxWork, narrowed: Tensor | None = None) -> None:
        self.found, self._work = found, work
        self.narrowed = torch.zeros_like(found.boxes.problem, dtype=torch.bool) if narrowed is None else narrowed

    @property
    def nodes(self) -> Boxes:
        """The boxes."""
        return self.found.boxes

    def take(self, index: Tensor) -> BoxEvaluation:
        """The same for some boxes."""
        return BoxEvaluation(self.found.take(index), self._work, self.narrowed[index])

    @cached_property
    def faces(self) -> Faces | None:
        """Centres of boxes and faces, None where weights say where to halve."""
        work = self._work
        return None if work.by_weights else look_at_faces(work.goal.query, self.found, work.width)


class BoxWork:
    """Bounds boxes, cuts them down and halves them.

    Attributes:
        width: ``(B, n)`` of the problems' whole boxes.
        recorder: writes the splits down; None: nobody does.
    """

    width: Tensor
    recorder: BoxRecorder | None = None

    def __init__(self, goal: BoxGoal, settings: InputSplit) -> None:
        self.goal, self.settings, query = goal, settings, goal.query
        self.bounder = Bounder(query)
        layers = layers_of(query)
        self.cutoff = None if layers is None else Cutoff(query, layers)
        aims = isinstance(query.objective, Linear) and not query.feasibility
        # where points are all that is asked for, those on the faces are worth their time
        self.by_weights = aims and weighs(query.graph, self.bounder.bent, self.bounder.below)

    def bound(self, nodes: Boxes, fresh: bool) -> BoxEvaluation:
        """CROWN's bounds."""
        return BoxEvaluation(self.bounder(nodes, self.goal.over), self)

    def refine(self, found: BoxEvaluation) -> BoxEvaluation:
        """Boxes under the cutoff, cut down to what may be feasible and better than the incumbent; infinite bounds where
        nothing is left."""
        cut = self._cut(self._under_cutoff(found.found))
        before, after = found.nodes, cut.boxes
        narrowed = ((before.lower != after.lower) | (before.upper != after.upper)).flatten(1).any(1)
        return BoxEvaluation(cut, self, narrowed)

    def _under_cutoff(self, found: BoxBounds) -> BoxBounds:
        """Boxes that may hold something better than the incumbent, with the objective's limits that hold there."""
        cutoffs, form = self.goal.cutoffs(), self.goal.query.atoms.count
        target = cutoffs[found.boxes.problem]
        if self.cutoff is None or not bool(torch.isfinite(target).all()):
            return found
        nothing, rows, offset = self.cutoff(found, target, form)
        self.goal.cap(cutoffs)
        found.rows[:, form], found.offset[:, form] = rows, offset
        return _without(found, nothing)

    def _cut(self, found: BoxBounds) -> BoxBounds:
        """Boxes without what the clauses exclude, and without what is proven to be no better than the incumbent."""
        boxes, query = found.boxes, self.goal.query
        count = query.atoms.count
        low, high = boxes.lower.flatten(1), boxes.upper.flatten(1)
        low, high = clip_to_clauses(low, high, found.rows[:, :count], found.offset[:, :count], query.clause)
        if isinstance(query.objective, Linear) and query.objective.nodes:
            cutoffs = self.goal.cutoffs()
            self.goal.cap(cutoffs)
            offset = found.offset[:, count:] - cutoffs[boxes.problem].unsqueeze(1)
            one = torch.zeros(1, dtype=torch.long, device=low.device)
            low, high = clip_to_clauses(low, high, found.rows[:, count:], offset, one)
        low, high = self._in_balls(_shaped(boxes, low, high))
        return _without(replace(found, boxes=self._cut_down(boxes, low, high)), (low > high).any(1))

    def _cut_down(self, boxes: Boxes, low: Tensor, high: Tensor) -> Boxes:
        """Boxes with limits ``(D, n)`` inside their own."""
        if self.recorder is not None:
            boxes = replace(boxes, place=self.recorder.cut(boxes, low, high))
        return _shaped(boxes, low, high)

    def inside(self, boxes: Boxes) -> Boxes:
        """Boxes cut down to the region's balls, to the incumbent's and to values; those that are left."""
        low, high = self._in_balls(boxes)
        left = ~(low > high).any(1)
        boxes = self._cut_down(boxes, low, high)
        return boxes if bool(left.all()) else boxes.take(left)

    def _in_balls(self, boxes: Boxes) -> tuple[Tensor, Tensor]:
        """The boxes' limits, ``(D, n)``, cut down to the balls and to the values of discrete elements; where
        ``lower > upper`` nothing is left."""
        low, high = boxes.lower.flatten(1), boxes.upper.flatten(1)
        query = self.goal.query
        balls = [ball.take(boxes.problem) for ball in query.region.balls]
        if isinstance(query.objective, Distance):
            cutoffs = self.goal.cutoffs()
            self.goal.cap(cutoffs)
            balls.append(query.objective.take(boxes.problem).ball(cutoffs[boxes.problem]))
        for ball in balls:
            low, high = clip_to_ball(low, high, flatten_ball(ball))
        discrete = query.region.discrete
        return (low, high) if discrete is None else discrete.inwards(low, high)

    def choose(self, found: BoxEvaluation) -> Boxes:
        """Each box's best element; where few are at work also the next ones: a halved element has half of its score."""
        query = self.goal.query
        if found.faces is None:
            scores = weighed_scores(query, found.found, self.width)
        else:
            scores = split_scores(query, found.found, found.faces, self.width)
        levels, few = self.settings.levels, self.settings.few
        elements = found.nodes.problem.new_full((len(scores), levels), -1)
        for level in range(levels if len(scores) <= 2 * few else 1):
            best, at = scores.max(1)
            elements[:, level] = torch.where(best > -torch.inf, at, -1)
            scores = scores.scatter(1, at.unsqueeze(1), best.unsqueeze(1) / 2)
        # what was cut down to a point has the bound of the box that it was
        again = found.narrowed & (elements[:, 0] == -1)
        elements[:, 0] = torch.where(again, UNBOUNDED, elements[:, 0])
        return replace(found.nodes, elements=elements)

    def priority(self, nodes: Boxes) -> None:
        """By bounds."""

    def split(self, nodes: Boxes) -> Branched[Boxes]:
        """Halves of boxes, and of those while they are few; points cannot be halved."""
        first = nodes.elements[:, 0]
        fresh, leaves, boxes = (nodes.take(rows) for rows in (first == UNBOUNDED, first == -1, first >= 0))
        done: list[Boxes] = []
        for _ in range(self.settings.levels):
            going = boxes.elements[:, 0] >= 0
            if not bool(going.all()):
                done.append(boxes.take(~going))
                boxes = boxes.take(going)
            if not len(boxes):
                break
            places = None if self.recorder is None else self.recorder.halved(boxes)
            boxes = boxes.halves()
            boxes = boxes if places is None else replace(boxes, place=places)
            if len(boxes) > self.settings.few:
                break
        return Branched(self.inside(Boxes.cat([*done, boxes])), fresh, leaves)


def _shaped(boxes: Boxes, low: Tensor, high: Tensor) -> Boxes:
    return replace(boxes, lower=low.reshape(boxes.lower.shape), upper=high.reshape(boxes.upper.shape))


def _without(found: BoxBounds, nothing: Tensor) -> BoxBounds:
    """Infinite bounds where nothing is left."""
    if not bool(nothing.any()):
        return found
    bound = torch.where(nothing, torch.inf, found.boxes.bound)
    return replace(found, boxes=replace(found.boxes, bound=bound))
