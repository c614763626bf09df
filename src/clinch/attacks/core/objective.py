"""How an attack asks the network about each input of a batch: the one thing that methods are written against."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from clinch.attacks.core.attack_query import Answer, AttackQuery, Loss, Losses
from clinch.attacks.core.batches import parts_of
from clinch.attacks.core.differentiation import gradient_of, gradients_of, in_order
from clinch.attacks.core.draws import Draws, fingerprint
from clinch.attacks.core.passes import Passes, Surrogates
from clinch.attacks.core.settings import AttackSettings, S, part_of
from clinch.attacks.core.units import Units, range_of
from clinch.geometry.norms import Norm, norm_of
from clinch.geometry.projection import project_into
from clinch.geometry.region import Ball, Region
from clinch.geometry.rounding import round_down, round_up
from clinch.runtime.gradients import with_gradients

#: how often an input is asked for a surrogate gradient that is zero as well
TRIES = 3
#: how much smaller than asked for the balls of p = 1 and 2 are, in roundings of the model's dtype
BALL_ROUNDING = 16


class Slope(NamedTuple):
    """A loss and its gradient at L points.

    Attributes:
        loss: ``(L,)``.
        margin: ``(L,)``.
        gradient: ``(L, *input_shape)``; zero where there is none or it is not finite.
        blind: ``(L,)`` where it is zero.
    """

    loss: Tensor
    margin: Tensor
    gradient: Tensor
    blind: Tensor


class Slopes(NamedTuple):
    """M losses and their gradients at L points.

    Attributes:
        losses: ``(L, M)``.
        margin: ``(L,)``.
        gradients: ``(L, M, *input_shape)``; zero where there is none or it is not finite.
        surrogate: ``(L, M)`` where the true gradient is zero, and that of
            :meth:`AttackQuery.surrogate_answer` stands in its place.
    """

    losses: Tensor
    margin: Tensor
    gradients: Tensor
    surrogate: Tensor


Each = TypeVar("Each", Slope, Slopes)


class AttackObjective:
    """B inputs with what is wanted of each, and the passes that attacks spend on them.

    Args:
        query: labels or a problem as attacks read them.
        scaled: whether to work in the units of :mod:`clinch.attacks.core.units`; otherwise in the user's.

    Attributes:
        query: what is asked.
        units: from the units of attacks to those of the user.
        x: ``(B, *input_shape)`` where distances are measured from, in the units of attacks, on the model's device.
        region: where points must stay, besides any ball of the attack's own; in those units, as all points are.
        p: the norm of distances, 0, any number from 1 on, or infinity; ``weights`` its weights
            ``(B, *input_shape)`` or None.
        todo: ``(A,)`` inputs that are worth an attack: those that do not reach the objective as they are.
        settings: of the attack that is at work; None: the usual ones.
    """

    settings: AttackSettings | None = None

    @with_gradients
    def __init__(self, query: AttackQuery, *, scaled: bool = False) -> None:
        self.query, self.p, self.weights = query, query.objective.p, query.objective.weights
        units = Units.of(
            query.objective.center,
            query.limits.lower,
            query.limits.upper,
            query.dtype,
            query.region.discrete,
            query.grid,
        )
        self._use(units)
        self._passes = Passes(torch.full((len(self.x),), query.spent, dtype=torch.int64, device=self.x.device))
        self._surrogates = Surrogates(torch.zeros(len(self.x), dtype=torch.bool, device=self.x.device))
        #: the rows of the last question
        self._everyone = torch.arange(0, device=self.x.device)
        self.todo = self._unreached()
        if scaled:
            units = units.scaled(self._sizes())
        query.within_reach(units)
        self._use(units)
        if query.steps and len(self.todo):  # like the clean prediction this is not counted
            spent = self._passes
            self._passes = Passes(torch.zeros_like(spent.forward))
            self.slope(self.start[self.todo], self.todo)
            self._passes = spent

    def _use(self, units: Units) -> None:
        """Work in these units."""
        self.units, self.x, region = units, units.start, units.region(self.query.region)
        self._planes = self.query.region.planes  # in the user's units
        self.region = Region(region.lower.contiguous(), region.upper.contiguous(), region.balls, region.planes)

    def _unreached(self) -> Tensor:
        """Inputs whose start is not the answer already: it may miss the objective, or a ball may have pushed it away
        from the point of the box that is next to x."""
        everyone, start = torch.arange(self.size, device=self.x.device), self.start
        if self.query.lowers:
            return everyone
        closest = torch.maximum(torch.minimum(self.x, self.region.upper), self.region.lower)
        return (~(self.verdict(start, everyone)[0] & (start == closest).flatten(1).all(1))).nonzero().flatten()

    def _sizes(self) -> Tensor:
        """``(B,)`` the widest range of an element, or the width of the ball that reaches the linearised boundary."""
        size = range_of(self.region.lower, self.region.upper)
        indices = self.todo[~size[self.todo].isfinite()]
        if len(indices) and self.query.clauses:
            size[indices] = 2 * linearised_distance(self, indices)
        return size

    def view(self, indices: Tensor, query: AttackQuery) -> AttackObjective:
        """Inputs ``(N,)``, which may repeat, with what another query wants of each; their passes are counted anew."""
        other = copy.copy(self)
        other.query, other.x, other.region = query, self.x[indices], self.region.take(indices)
        other._planes = None if self._planes is None else self._planes.take(indices)
        other.units, other.weights = self.units.take(indices), None if self.weights is None else self.weights[indices]
        other.todo = torch.arange(len(indices), device=self.x.device)
        other._passes, other._surrogates = Passes(torch.zeros_like(other.todo)), self._surrogates.take(indices)
        return other

    def numbers(self, kind: type[S]) -> S:
        """The settings of a method, or of a part of it: those given for the attack, or the usual ones."""
        return part_of(self.settings, kind)

    @property
    def forward(self) -> Tensor:
        """``(B,)`` rows sent forward so far."""
        return self._passes.forward

    @property
    def backward(self) -> Tensor:
        """``(B,)`` the same for gradients."""
        return self._passes.backward

    @property
    def size(self) -> int:
        """Number of inputs B."""
        return len(self.x)

    @property
    def width(self) -> int:
        """Number of candidates K."""
        return self.query.width

    @property
    def multi_constraint(self) -> bool:
        """Whether all candidates share conditions: the clauses besides the largest."""
        return self.query.clauses > 1

    @property
    def fingerprint(self) -> Tensor:
        """``(B,)`` a hash of each input and of what is wanted of it, which its random numbers are drawn from."""
        return self.query.fingerprint(fingerprint(self.x))

    def draws(self, seed: int) -> Draws:
        """The random numbers of each input ``(B,)``, which no other input has a part in."""
        return Draws.of(self.fingerprint, seed)

    @property
    def start(self) -> Tensor:
        """``(B, *input_shape)`` the points of the region next to x: x itself where that lies inside."""
        return project_into(self.region, self.x)

    def answer(self, z: Tensor, indices: Tensor) -> Answer:
        """What the network says about points ``(L, *input_shape)`` of the given inputs ``(L,)``, uncounted."""
        return self.query.answer(self.point(z, indices), indices)

    def verdict(self, z: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Whether points reach the objective ``(L,)``, and their margin ``(L,)``: see :meth:`AttackQuery.check`."""
        return self.query.check(self.settled(z.to(self.x), indices), indices)

    # --- asking -------------------------------------------------------------------------------------------------------

    def look(self, z: Tensor, indices: Tensor) -> Tensor:
        """Margins ``(L,)`` without gradients."""
        with torch.no_grad():
            margins = [self.answer(z[part], indices[part]).margin for part in parts_of(z)]
        self.count(indices, forward=1)
        return torch.cat(margins)

    def slope(self, z: Tensor, indices: Tensor, loss: Loss | None = None) -> Slope:
        """A loss (None: the margin) and its gradient at points ``(L, *input_shape)``: one pass each way."""
        self.count(indices, forward=1, backward=1)
        groups = self._groups(z, indices)
        if len(groups) == 1:
            return self._slope(z, indices, loss, *groups[0])
        return _joined(
            [self._slope(z[rows], indices[rows], loss, rows, closed) for rows, closed in groups],
            [rows for rows, _ in groups],
        )

    def _slope(self, z: Tensor, indices: Tensor, loss: Loss | None, which: Tensor, closed: bool) -> Slope:
        plain = None if closed else self._plain_slope(z, indices, loss, which)
        if plain is not None:
            return plain
        x = self.units.leaf(z, indices)
        with torch.enable_grad():
            answer = self._answer(x, indices, closed)
            value = answer.margin if loss is None else loss(answer, indices, which)
        margin = (value if loss is None else answer.margin).detach()
        gradients = self.units.pulled(gradient_of(value, x).unsqueeze(1), indices)
        blind = ~gradients.flatten(1).any(1)
        if bool(blind.any()):
            dead = self._dead(blind, margin, indices)

            def again(answer: Answer) -> Tensor:
                return (answer.margin if loss is None else loss(answer, indices[dead], which[dead])).unsqueeze(1)

            if len(dead):
                gradients = gradients.index_copy(0, dead, self._revived(z[dead], indices[dead], again))
                blind = ~gradients.flatten(1).any(1)
        gradient = self._tangent(gradients, indices).squeeze(1)
        return Slope(value.detach().to(z), margin.to(z), gradient, blind)

    def _plain_slope(self, z: Tensor, indices: Tensor, loss: Loss | None, which: Tensor) -> Slope | None:
        """Without autograd; None for other than plain networks, and where gradients are zero or not finite."""
        found = self.query.plain_slope(self.units.placed(z.detach(), indices), indices, loss, which)
        if found is None:
            return None
        gradients = self.units.pulled(found.gradient.unsqueeze(1), indices)
        sizes = torch.linalg.vector_norm(gradients.flatten(1), 1, dim=1).tolist()
        if 0.0 in sizes or not math.isfinite(sum(sizes)) or not math.isfinite(found.loss.sum().item()):
            return None
        sighted = indices.new_zeros(len(z), dtype=torch.bool)
        gradient = self._tangent(gradients, indices).squeeze(1)
        return Slope(found.loss.to(z), found.margin.to(z), gradient, sighted)

    def _groups(self, z: Tensor, indices: Tensor, times: int = 1) -> list[tuple[Tensor, bool]]:
        """The rows of parts that the network takes at once, and whether their inputs' true gradients are zero."""
        if not self._surrogates.some:
            if len(z) != len(self._everyone):
                self._everyone = torch.arange(len(z), device=z.device)
            parts = parts_of(z, times)
            return [(self._everyone[part] if len(parts) > 1 else self._everyone, False) for part in parts]
        closed, found = self._surrogates.closed[indices], []
        for rows, flag in (((~closed).nonzero().flatten(), False), (closed.nonzero().flatten(), True)):
            if len(rows) or not (flag or len(z)):
                found += [(rows[part], flag) for part in parts_of(z[: len(rows)], times)]
        return found

    def _answer(self, x: Tensor, indices: Tensor, closed: bool) -> Answer:
        """The answer at the model's inputs, with the gradients to follow: where the true ones are zero surrogates."""
        found = self.query.surrogate_answer(x, indices) if closed else None
        return self.query.answer(x, indices) if found is None else found

    def _dead(self, blind: Tensor, margin: Tensor, indices: Tensor) -> Tensor:
        """Points short of their goal whose gradients are all zero, ``blind (L,)``, and that may have a surrogate: an
        input for which there was none a few times is not asked about again."""
        if not self.query.revives:
            return indices[:0]
        open_ = ~self._surrogates.closed[indices] & (self._surrogates.hopeless[indices] < TRIES)
        return (blind & (margin >= 0) & open_).nonzero().flatten()

    def _revived(self, z: Tensor, indices: Tensor, values: Callable[[Answer], Tensor]) -> Tensor:
        """Surrogate gradients ``(L, M, *input_shape)`` of values ``(L, M)``; from now on they are asked for at once
        where there are any."""
        point = self.units.leaf(z, indices)
        with torch.enable_grad():
            answer = self.query.surrogate_answer(point, indices)
            if answer is None:
                return torch.zeros_like(z).unsqueeze(1)
            found = values(answer)
        self.count(indices, forward=1, backward=found.shape[1])
        gradients = self.units.pulled(gradients_of(found, point), indices)
        alive = gradients.flatten(1).any(1)
        self._surrogates.hopeless += torch.bincount(indices[~alive], minlength=self.size)
        self._surrogates.close(indices[alive])
        return gradients

    def slopes(self, z: Tensor, indices: Tensor, losses: Losses) -> Slopes:
        """Several losses and the gradient of each at points ``(L, *input_shape)``: one pass forward, one backward for
        each loss. A positive loss whose gradient is zero gets that of :meth:`AttackQuery.surrogate_answer`, at two
        passes more."""
        return _joined([self._slopes(z[part], indices[part], losses, _positions(part, z)) for part in parts_of(z)])

    def _slopes(self, z: Tensor, indices: Tensor, losses: Losses, which: Tensor) -> Slopes:
        x = self.units.leaf(z, indices)
        with torch.enable_grad():
            answer = self.query.answer(x, indices)
            values = losses(answer, which)
        self.count(indices, forward=1, backward=values.shape[1])
        gradients = self.units.pulled(gradients_of(values, x), indices)
        wanted = values.detach() > 0
        if self.query.lowers:  # the objective, which is the first, is never low enough
            wanted[:, 0] |= self.query.steps
        dead = wanted & (gradients == 0).flatten(2).all(2)
        some = dead.any(1).nonzero().flatten()
        if len(some):
            point = self.units.leaf(z[some], indices[some])
            with torch.enable_grad():
                surrogate = self.query.surrogate_answer(point, indices[some])
            if surrogate is not None:
                with torch.enable_grad():
                    again = losses(surrogate, which[some])
                self.count(indices[some], forward=1, backward=values.shape[1])
                gradients[dead] = self.units.pulled(gradients_of(again, point), indices[some])[dead[some]]
        return Slopes(values.detach(), answer.margin.detach(), self._tangent(gradients, indices), dead)

    def jacobian(
        self, z: Tensor, indices: Tensor, which: Tensor | None = None, own: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The candidates ``which (L, T)`` of each point (None: all K), ``(L, T)``, and their gradients
        ``(L, T, *input_shape)``: one pass forward, T backward. ``own``: without what candidates share."""
        count = self.width if which is None else which.shape[1]
        self.count(indices, forward=1, backward=count)
        found, groups = [], self._groups(z, indices, count)
        for rows, closed in groups:
            some = indices[rows]
            point = self.units.leaf(z[rows], some)
            wanted = None if which is None else which[rows]

            def chosen(answer: Answer, wanted: Tensor | None = wanted) -> Tensor:
                every = answer.own if own else answer.candidates
                return every if wanted is None else every.gather(1, wanted)

            with torch.enable_grad():
                answer = self._answer(point, some, closed)
                candidates = chosen(answer)
            gradients = self.units.pulled(gradients_of(candidates, point), some)
            dead = self._dead(~gradients.flatten(1).any(1), answer.margin.detach(), some)
            if len(dead):
                again = partial(chosen, wanted=None if wanted is None else wanted[dead])
                gradients = gradients.index_copy(0, dead, self._revived(z[rows[dead]], some[dead], again))
            found.append((candidates.detach().to(z), self._tangent(gradients, some)))
        values, slopes = zip(*found)
        return in_order(values, rows := [rows for rows, _ in groups]), in_order(slopes, rows)

    def count(self, indices: Tensor, forward: int = 0, backward: int = 0) -> None:
        """Note passes of the given indices, which may repeat."""
        self._passes.add(indices, self.query.cost * forward, self.query.cost * backward)

    def state(self) -> dict[str, Tensor]:
        """What has been spent, and which inputs have no true gradient, by name."""
        return {
            "forward": self.forward, "backward": self.backward, "hopeless": self._surrogates.hopeless,
            "closed": self._surrogates.closed,
        }  # fmt: skip

    def restored(self) -> None:
        """To be called when the tensors of :meth:`state` have been written to."""
        self._surrogates.some = bool(self._surrogates.closed.any())

    # --- units -------------------------------------------------------------------------------------------------------

    def point(self, z: Tensor, indices: Tensor) -> Tensor:
        """The model's inputs at points ``(L, *input_shape)``: in the user's units, the model's dtype and the limits."""
        return self.units.point(z, indices)

    def settled(self, z: Tensor, indices: Tensor) -> Tensor:
        """The same, on the region's planes to the last bit: what rounding has moved off them is moved back."""
        x, planes = self.point(z, indices), self._planes
        if planes is None:
            return x
        lower, upper = (side[indices] if len(side) > 1 else side for side in (self.units.lower, self.units.upper))
        return planes.take(indices).settled(x, lower, upper, self.units.x[indices], self.norm.counts)

    def working(self, x: Tensor, indices: Tensor) -> Tensor:
        """Inputs of the model as points."""
        return self.units.back(x.to(self.x.device), indices)

    def lengths(self, values: Tensor, indices: Tensor | slice) -> Tensor:
        """Distances ``(L,)`` between points in the user's units."""
        return values if self.norm.counts else self.units.lengths(values, indices)

    def shortened(self, values: Tensor, *, steps: bool = False) -> Tensor:
        """Radii ``(B,)`` of the user, or ``steps`` of elements, between points."""
        return values if self.norm.counts and not steps else self.units.shortened(values)

    # --- distances and balls ------------------------------------------------------------------------------------------

    @property
    def norm(self) -> Norm:
        """What p stands for."""
        return norm_of(self.p)

    def distance(self, z: Tensor, indices: Tensor) -> Tensor:
        """``‖w ⊙ (z − x)‖_p``, ``(L,)``."""
        return self.norm.value(z - self.x[indices], None if self.weights is None else self.weights[indices])

    def lowered(self, z: Tensor, indices: Tensor) -> Tensor:
        """What the attack lowers at points that reach the objective, ``(L,)`` in float64: the distance, unless a
        problem has another objective."""
        value = self.query.value(self.point(z, indices), indices)
        return self.distance(z.double(), indices) if value is None else value

    def outside(self, z: Tensor, indices: Tensor) -> Tensor | None:
        """How far points lie outside the region's balls and planes ``(L,)``, 0 inside; None where it has none."""
        balls = [ball.take(indices) for ball in self.region.balls]
        found = [(ball.distance(z) - ball.radius).clamp(min=0) for ball in balls]
        if self.region.planes is not None:
            planes = self.region.planes.take(indices)
            away = planes.excess(z).abs().amax(1)
            found.append(torch.where(away > planes.rounding(z), away, 0.0).to(z))
        return torch.stack(found).amax(0) if found else None

    def _tangent(self, gradients: Tensor, indices: Tensor) -> Tensor:
        """Gradients ``(L, M, *input_shape)`` along the region's planes, see :meth:`Planes.tangent`."""
        planes = self.region.planes
        if planes is None or not bool(planes.equal.any()):
            return gradients
        q = 6.0 if self.norm.counts else self.norm.dual.p
        each = indices.repeat_interleave(gradients.shape[1])
        return planes.take(each).tangent(gradients.flatten(0, 1), q).reshape(gradients.shape)

    def within(self, radius: Tensor, indices: Tensor) -> Region:
        """The region cut by balls with radii ``(L,)``, float64, small enough that all that the model's dtype says to
        lie inside does so in exact arithmetic too."""
        region, center = self.region.take(indices), self.x[indices]
        weights = None if self.weights is None else self.weights[indices]
        if not self.norm.is_box:
            shrunk = radius if self.norm.counts else radius * (1 - BALL_ROUNDING * torch.finfo(center.dtype).eps)
            return region.within(Ball(center, shrunk.to(center), self.p, weights))
        exact = None if weights is None else weights.double()
        box = Region(region.lower.double(), region.upper.double()).within(Ball(center.double(), radius, self.p, exact))
        lower, upper = round_up(box.lower, center.dtype).to(center), round_down(box.upper, center.dtype).to(center)
        lower, upper = self.units.within_grid(torch.minimum(lower, upper), upper, indices)
        return Region(lower, upper, region.balls, region.planes)


def linearised_distance(objective: AttackObjective, indices: Tensor) -> Tensor:
    """Euclidean distances ``(L,)`` from the given inputs to where their margin would vanish if it was linear."""
    slope = objective.slope(objective.start[indices], indices)
    steepness = torch.linalg.vector_norm(slope.gradient.double().flatten(1), dim=1)
    return slope.margin.double().abs() / steepness


def taken(slope: Slope | Slopes, which: Tensor) -> Slope | Slopes:
    """Those of the chosen points, in that order."""
    return type(slope)(*(column[which] for column in slope))


def _positions(part: slice, z: Tensor) -> Tensor:
    return torch.arange(part.start, min(part.stop, len(z)), device=z.device)


def _joined(parts: list[Each], rows: list[Tensor] | None = None) -> Each:
    """Parts after each other, or in the order of their rows."""
    if len(parts) == 1:
        return parts[0]
    return type(parts[0])(*(in_order(column, rows) for column in zip(*parts)))
