"""Ascent of the dual function: better multipliers for many domains at once. Whatever they are, the bound holds."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor

from clinch.bounds.crown import never
from clinch.bounds.domains import Domains, Relaxed
from clinch.bounds.dual import Dual, DualFunction, Multipliers, Plane

#: step sizes of alpha, beta and mu, relative to each other
RATES = (1.0, 3.0, 1.0)
#: Adam's averaging of gradients and of their squares
FIRST, SECOND = 0.8, 0.98
#: steps without a better bound after which a domain returns to its best multipliers, and the factor to its step size
PATIENCE, CUT = 3, 0.4
#: factor by which the next climb, from a domain or its children, starts faster than this one ended; the slowest start
QUICKEN, SLOWEST = 2.0, 0.15
#: by how much, relatively, the search for multipliers has to pass a target
CLEARANCE = 1e-5


class Ascent(NamedTuple):
    """Domains after :func:`ascend`, with what branching and attacks look at: the minimiser ``(D, *input_shape)`` and
    coefficients ``(D, U)`` on the open elements' outputs, both at the multipliers they have now.

    Attributes:
        plane: the linear limit there, of what is bounded and the conditions that hold, each times its multiplier.
        stalled: ``(D,)`` domains whose first multipliers no step has improved on.
    """

    domains: Domains
    point: Tensor
    rows: Tensor
    stalled: Tensor
    plane: Plane

    def take(self, index: Tensor) -> Ascent:
        """The chosen domains."""
        parts = self.point[index], self.rows[index], self.stalled[index]
        return Ascent(self.domains.take(index), *parts, self.plane.take(index))


@torch.no_grad()
def ascend(
    relaxed: Relaxed,
    d: Domains,
    steps: int,
    *,
    step_size: float = 0.2,
    target: Tensor | None = None,
    stop: Callable[[], bool] = never,
) -> Ascent:
    """Improve the multipliers by projected Adam steps; the best bound of each domain and its multipliers are kept.

    Any multipliers give a valid bound, so that they are searched for in single precision; the bound returned is their
    evaluation in the query's own.

    Args:
        steps: number of evaluations on the way; none evaluates the present multipliers only.
        step_size: of slopes and mu at first; beta takes three times as much. Every domain has a pace of its own: where
            some steps bring nothing, it returns to its best multipliers and goes on with smaller ones.
        target: ``(D,)`` domains whose bound has reached it are left alone.
        stop: asked after every step; once true, the best so far is returned.
    """
    if not steps:
        return _proven(relaxed, d, torch.cat([d.alpha, d.beta, d.mu], 1))
    function, width = _OfDomains(relaxed.light, d), relaxed.width
    simplex = (slice(2 * width, None), slice(width, 2 * width)) if relaxed.query.feasibility else None
    climb = Climb(function, function.packed, d.pace, target, simplex)
    climb.run(steps, step_size, stop)
    d = replace(d, pace=(QUICKEN * climb.paces).clamp(SLOWEST, 1.0))
    return _proven(relaxed, d, climb.best.to(d.alpha))._replace(stalled=~climb.moved)


def _proven(relaxed: Relaxed, d: Domains, packed: Tensor) -> Ascent:
    """The domains with these multipliers and their bound, which is never below the one they had."""
    function = DualFunction(relaxed, d)
    least, most = function.limits
    alpha, beta, mu = Multipliers.unpack(packed, relaxed.width)
    alpha = torch.minimum(torch.maximum(alpha, least), most)
    dual = function(Multipliers(alpha, beta, mu))
    bound = torch.where(dual.bound > d.bound, dual.bound, d.bound)  # false for NaN
    point = dual.point.reshape(-1, *relaxed.query.graph.input_shape)
    stalled = torch.zeros_like(d.problem, dtype=torch.bool)
    assert dual.plane is not None
    return Ascent(replace(d, alpha=alpha, beta=beta, mu=mu, bound=bound), point, dual.rows, stalled, dual.plane)


class Function(Protocol):
    """A concave function of packed multipliers on D domains, as :class:`Climb` climbs it.

    Attributes:
        least, most: ``(D, P)`` of the multipliers. rate: ``(P,)`` or ``(D, P)``, their step sizes beside each other.
    """

    least: Tensor
    most: Tensor
    rate: Tensor

    def __call__(self, packed: Tensor, start: Tensor | None, *, gradient: bool) -> Dual:
        """Bounds and direction of ascent; start: what an earlier call returned."""
        ...

    def take(self, index: Tensor) -> Self:
        """The same for some domains."""
        ...


class _OfDomains:
    """The dual function of domains, its multipliers packed."""

    def __init__(self, light: Relaxed, d: Domains) -> None:
        self.width, self.function = light.width, DualFunction(light, d)
        least, most = self.function.limits
        dtype, zero = least.dtype, torch.zeros_like
        beta, mu = d.beta.to(dtype), d.mu.to(dtype)
        unlimited = torch.where(d.split != 0, torch.inf, 0.0).to(dtype)
        allowed = torch.where(d.allowed(d.mu.shape[1]), torch.inf, 0.0).to(dtype)
        self.least = torch.cat([least, zero(beta), zero(mu)], 1)
        self.most = torch.cat([most, unlimited, allowed], 1)
        self.rate = torch.cat([least.new_full(t.shape[1:], r) for t, r in zip((d.alpha, beta, mu), RATES)])
        self.packed = torch.cat([d.alpha.to(dtype), beta, mu], 1)

    def __call__(self, packed: Tensor, start: Tensor | None, *, gradient: bool) -> Dual:
        return self.function(Multipliers.unpack(packed, self.width), start, gradient=gradient)

    def take(self, index: Tensor) -> Self:
        part = copy(self)
        part.function, part.least, part.most = self.function.take(index), self.least[index], self.most[index]
        return part


class Climb:
    """The search for multipliers: domains that are still being improved (``active``), and the best of all.

    Args:
        function: what is climbed.
        packed: ``(D, P)`` where to start.
        pace: ``(D,)`` step sizes relative to the usual ones.
        target: ``(D,)`` bounds that are enough; None: none is.
        simplex: columns of multipliers that sum to one, and of those divided with them; None: there is an objective.
    """

    def __init__(
        self, function: Function, packed: Tensor, pace: Tensor, target: Tensor | None = None,
        simplex: tuple[slice, slice] | None = None,
    ) -> None:  # fmt: skip
        self.function, self.simplex, dtype = function, simplex, packed.dtype
        zero = torch.zeros_like
        self.now = self._admissible(packed.clone())
        self.first, self.second, self.count = zero(self.now), zero(self.now), 0
        self.active = torch.arange(len(packed), device=packed.device)
        self.reached = packed.new_full((len(packed),), -torch.inf)
        #: each active domain's step size, its steps since its bound was last better, and its present bound
        self.pace, self.vain = pace.to(dtype).unsqueeze(1), torch.zeros_like(self.active)
        self.level, self.rising = (
            torch.full_like(self.reached, torch.inf),
            torch.zeros_like(self.active, dtype=torch.bool),
        )
        self.paces = pace.clone()
        self.start: Tensor | None = None
        self.target = None if target is None else _beyond(target.to(dtype))
        #: the best multipliers found, ``(D, P)``, and whether they are others than the first
        self.best, self.moved = self.now.clone(), torch.zeros_like(self.active, dtype=torch.bool)

    def run(self, steps: int, step_size: float, stop: Callable[[], bool]) -> None:
        """Take so many steps, and look at where the last one ended."""
        self.pace = self.pace * step_size
        for _ in range(steps):
            self._climb()
            self._cull()
            if not len(self.active) or stop():
                return
        self._evaluate(gradient=False)

    def _climb(self) -> None:
        """Evaluate, keep what is better, and take one Adam step; every domain's entries move by themselves."""
        gradient = self._evaluate(gradient=True).gradient
        assert gradient is not None
        gradient.nan_to_num_(0.0, 0.0, 0.0)
        self.count += 1
        self.first.lerp_(gradient, 1 - FIRST)
        self.second.mul_(SECOND).addcmul_(gradient, gradient, value=1 - SECOND)
        self._return()
        scale = (self.second / (1 - SECOND**self.count)).sqrt_().add_(1e-12)
        step = torch.div(self.first, scale).mul_(self.function.rate / (1 - FIRST**self.count))
        self.now = self._admissible(self.now.addcmul(step, self.pace))

    def _return(self) -> None:
        """Send domains that have climbed in vain for a while back to their best, without momentum and more slowly.

        Without an objective those that are rising at last go on: bounds of deep networks first lose much and then gain
        more. (Under a distance that costs: on the monitor problem of the benchmarks one image is not closed with it.)
        """
        back = self.vain >= PATIENCE
        back = (back if self.simplex is None else back & ~self.rising).nonzero().flatten()
        if len(back):
            self.now[back] = self.best[self.active[back]]
            self.first[back] = 0.0
            self.pace[back] *= CUT
            self.paces[self.active[back]] *= CUT
            self.vain[back] = 0

    def _admissible(self, packed: Tensor) -> Tensor:
        """Multipliers moved into their limits.

        Without an objective any multiple of a domain's multipliers proves as much: those of the atoms then sum to one,
        so that the bound says how far the domain is from being proven empty, and domains can be compared.
        """
        packed = packed.clamp_(self.function.least, self.function.most)
        if self.simplex is not None:
            mu, beta = (packed[:, columns] for columns in self.simplex)
            total = mu.sum(1, keepdim=True)
            total = torch.where(total > 0, total, 1.0)
            mu /= total
            beta /= total
        return packed

    def _evaluate(self, *, gradient: bool) -> Dual:
        dual = self.function(self.now, self.start, gradient=gradient)
        better = (dual.bound > self.reached[self.active]).nonzero().flatten()  # false for NaN
        at = self.active[better]
        self.vain += 1
        self.vain[better] = 0
        self.rising, self.level = dual.bound > self.level, dual.bound
        self.reached[at] = dual.bound[better]
        self.best[at] = self.now[better]
        self.moved[at] = self.count > 0
        self.start = dual.start
        return dual

    def _cull(self) -> None:
        """Leave domains alone whose bound has reached the target, once they are many."""
        if self.target is None:
            return
        going = self.reached[self.active] < self.target[self.active]
        left = int(going.sum())
        if left < 0.75 * len(self.active):
            keep = going.nonzero().flatten()
            self.active, self.function = self.active[keep], self.function.take(keep)
            self.now = self.now[keep]
            self.first, self.second = self.first[keep], self.second[keep]
            self.pace, self.vain = self.pace[keep], self.vain[keep]
            self.level, self.rising = self.level[keep], self.rising[keep]
            self.start = None if self.start is None else self.start[keep]


def _beyond(target: Tensor) -> Tensor:
    """A little more than the target, so that the evaluation in double precision reaches it too."""
    return target + CLEARANCE * (target.abs() + 0.1)
