"""Ascent of the dual function: better multipliers for many domains at once. Whatever they are, the bound holds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from clinch.bounds.crown import never
from clinch.bounds.domains import Domains, Relaxed
from clinch.bounds.dual import Dual, DualFunction, Multipliers

#: step sizes of alpha, beta and mu, relative to each other
RATES = (1.0, 3.0, 1.0)
#: Adam's averaging of gradients and of their squares
FIRST, SECOND = 0.8, 0.98


class Ascent(NamedTuple):
    """Domains after :func:`ascend`, with what branching and attacks look at: the minimiser ``(D, *input_shape)`` and
    coefficients ``(D, U)`` on the open elements' outputs, both at each domain's best evaluation. Where the target was
    reached before the last step they are not evaluated: NaN and zero.
    """

    domains: Domains
    point: Tensor
    rows: Tensor

    def take(self, index: Tensor) -> Ascent:
        """The chosen domains."""
        return Ascent(self.domains.take(index), self.point[index], self.rows[index])


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

    Args:
        steps: number of evaluations; one evaluates the present multipliers only.
        step_size: of slopes and mu, cosine decay; beta takes three times as much.
        target: ``(D,)`` domains whose bound has reached it are left alone.
        stop: asked after every step; once true, the best so far is returned.
    """
    work = _Work(relaxed, d, d.bound.new_full((len(d),), torch.inf) if target is None else target)
    for step in range(steps - 1):
        work.climb(step_size * 0.5 * (1 + math.cos(math.pi * step / steps)))
        work.cull()
        if not len(work.active) or stop():
            break
    return work.result(relaxed, d)


class _Work:
    """Domains that are still being improved (``active``), and the best of all."""

    def __init__(self, relaxed: Relaxed, d: Domains, target: Tensor) -> None:
        self.width = relaxed.width
        self.function = DualFunction(relaxed, d)
        least, most = self.function.limits
        zero = torch.zeros_like
        unlimited = torch.where(d.split != 0, torch.inf, 0.0).to(least.dtype)
        allowed = torch.where(d.allowed(d.mu.shape[1]), torch.inf, 0.0).to(least.dtype)
        self.least = torch.cat([least, zero(d.beta), zero(d.mu)], 1)
        self.most = torch.cat([most, unlimited, allowed], 1)
        self.rate = torch.cat([t.new_full(t.shape[1:], r) for t, r in zip((d.alpha, d.beta, d.mu), RATES)])
        self.now = torch.clamp(torch.cat([d.alpha, d.beta, d.mu], 1), self.least, self.most)
        self.first, self.second, self.count = zero(self.now), zero(self.now), 0
        self.start: Tensor | None = None
        self.target = target
        self.active = torch.arange(len(d), device=d.problem.device)
        self.reached = torch.full_like(d.bound, -torch.inf)
        self.best = self.now.clone()
        self.best_start = torch.zeros_like(d.bound)

    def climb(self, rate: float) -> None:
        """Evaluate, keep what is better, and take one Adam step; every domain's entries move by themselves."""
        dual = self._evaluate(gradient=True)
        gradient = dual.gradient
        assert gradient is not None
        gradient.nan_to_num_(0.0, 0.0, 0.0)
        self.count += 1
        self.first.lerp_(gradient, 1 - FIRST)
        self.second.mul_(SECOND).addcmul_(gradient, gradient, value=1 - SECOND)
        scale = (self.second / (1 - SECOND**self.count)).sqrt_().add_(1e-12)
        step = torch.div(self.first, scale).mul_(self.rate)
        self.now = self.now.add(step, alpha=rate / (1 - FIRST**self.count)).clamp_(self.least, self.most)

    def _evaluate(self, *, gradient: bool) -> Dual:
        dual = self.function(Multipliers.unpack(self.now, self.width), self.start, gradient=gradient)
        better = (dual.bound > self.reached[self.active]).nonzero().flatten()  # false for NaN
        at = self.active[better]
        self.reached[at] = dual.bound[better]
        self.best[at] = self.now[better]
        if self.start is not None:
            self.best_start[at] = self.start[better]
        self.start = dual.start
        return dual

    def cull(self) -> None:
        """Leave domains alone whose bound has reached the target, once they are many."""
        going = self.reached[self.active] < self.target[self.active]
        left = int(going.sum())
        if left < 0.75 * len(self.active):
            keep = going.nonzero().flatten()
            self.active, self.function = self.active[keep], self.function.take(keep)
            self.now, self.least, self.most = self.now[keep], self.least[keep], self.most[keep]
            self.first, self.second = self.first[keep], self.second[keep]
            self.start = None if self.start is None else self.start[keep]

    def result(self, relaxed: Relaxed, d: Domains) -> Ascent:
        """The last multipliers count too; then the best ones of what is left are looked at once more."""
        shape = relaxed.query.graph.input_shape
        point = d.mu.new_full((len(d), *shape), torch.nan)
        rows = torch.zeros_like(d.alpha)
        if len(self.active):
            dual = self._evaluate(gradient=False)
            last = dual.bound >= self.reached[self.active]
            at = self.active
            point[at], rows[at] = dual.point.reshape(-1, *shape), dual.rows
            again = (~last).nonzero().flatten()
            if len(again):
                at = at[again]
                start = None if self.start is None else self.best_start[at]
                dual = self.function.take(again)(Multipliers.unpack(self.best[at], self.width), start)
                point[at], rows[at] = dual.point.reshape(-1, *shape), dual.rows
        alpha, beta, mu = Multipliers.unpack(self.best, self.width)
        bound = torch.maximum(self.reached, d.bound)  # never below the parent's
        return Ascent(replace(d, alpha=alpha, beta=beta, mu=mu, bound=bound), point, rows)
