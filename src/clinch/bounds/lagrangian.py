"""The dual function of a query over domains: one number per choice of multipliers, every one of them a proven bound.

A *domain* is a part of one problem's region: some kinks (ReLUs, leaky ReLUs) are fixed to one side, and for some
clauses one atom is chosen to hold. On a domain every choice of

* ``alpha`` in [a, 1]: slopes of the lower lines of the open kinks (α-CROWN, Xu et al. 2020, arXiv 2011.13824),
* ``beta`` >= 0: multipliers of the split kinks' sign conditions (β-CROWN, Wang et al. 2021, arXiv 2103.06624),
* ``mu`` >= 0: multipliers of the chosen atoms,

gives by one backward pass a linear lower limit of ``[objective +] Σ μ_k atom_k(x) + Σ ∓β_j ẑ_j(x)``, and a bound:

* distance objectives: where the limit ``<λ, x> + κ`` of the weighted constraints must be <= 0, a half-space; its
  distance from the centre within the box is the bound. The half-space does not change with the scale of the
  multipliers, so that no scale has to be found and ‖·‖_p needs no treatment of its own;
* linear objectives: the exact minimum of ``<λ, x> + κ`` over box ∩ ball.

:func:`ascend` improves the multipliers by gradient steps; whatever they are, the bound holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from clinch.bounds.concretise import Concretiser
from clinch.bounds.crown import linear_lower, never
from clinch.network.ops.base import Interval, Lines, Relaxation
from clinch.network.ops.relu import LeakyReLU
from clinch.query import Forms, Linear, Query


class Kink(NamedTuple):
    """The elements of one splittable node that some problem leaves open.

    Attributes:
        node: position of the node; its only input is what gets split.
        op: its operator.
        which: flat positions of the open elements.
        columns: their place among all open elements of the network.
        slope: ``(B, size)`` slope of each element where it is stable.
        bounds: ``(B, len(which))`` limits of the open elements' inputs.
    """

    node: int
    op: LeakyReLU
    which: Tensor
    columns: slice
    slope: Tensor
    bounds: Interval


@dataclass(frozen=True)
class Relaxed:
    """A query with everything about its relaxation that does not depend on the domain."""

    query: Query
    kinks: tuple[Kink, ...]
    fixed: Mapping[int, Relaxation]

    @cached_property
    def concretise(self) -> Concretiser:
        """The last step of the dual function, prepared."""
        return Concretiser(self.query)

    @property
    def width(self) -> int:
        """Number of open elements U: domains hold tensors ``(D, U)``."""
        return self.kinks[-1].columns.stop if self.kinks else 0

    @property
    def floor(self) -> Tensor:
        """``(U,)`` smallest admissible slope of each open element."""
        dtype = self.query.dtype
        parts = [torch.full((len(kink.which),), kink.op.negative_slope, dtype=dtype) for kink in self.kinks]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=dtype)


def relax_query(query: Query, bounds: Mapping[int, Interval], which: Mapping[int, Tensor] | None = None) -> Relaxed:
    """Collect the open elements of a query.

    Args:
        query: B problems.
        bounds: limits of the inputs of non-affine nodes over ``query.region``.
        which: node -> flat positions to treat as open (default: all that are open for some problem). Pass an earlier
            result's positions to keep the layout of domains when the limits have been tightened.
    """
    graph, kinks, fixed, start = query.graph, [], {}, 0
    for i in graph.ancestors(query.nodes):
        node = graph.nodes[i]
        if not i:
            continue
        if not isinstance(node.op, LeakyReLU):
            fixed[i] = graph.relax(i, [] if node.op.affine else [bounds[j] for j in node.inputs])
            continue
        lower, upper = (t.flatten(1) for t in bounds[node.inputs[0]])
        open_ = ((lower < 0) & (upper > 0)).any(0).nonzero().flatten() if which is None else which[i]
        columns = slice(start, start + len(open_))
        slope = node.op.relax([Interval(lower, upper)], graph.shapes(i)).upper_slope
        kinks.append(Kink(i, node.op, open_, columns, slope, Interval(lower[:, open_], upper[:, open_])))
        start = columns.stop
    return Relaxed(query, tuple(kinks), fixed)


@dataclass(frozen=True)
class Domains:
    """D domains: which problem, what is split, what is chosen, and the multipliers found so far.

    Attributes:
        problem: ``(D,)``.
        split: ``(D, U)`` int8: +1 where the element's input is >= 0, −1 where it is <= 0, 0 where it is open.
        choice: ``(D, C)`` chosen atom of each clause, −1 where none is chosen.
        alpha: ``(D, U)``; beta: ``(D, U)``; mu: ``(D, K)``, zero for atoms that are not chosen.
        bound: ``(D,)`` best proven bound, its parent's included.
    """

    problem: Tensor
    split: Tensor
    choice: Tensor
    alpha: Tensor
    beta: Tensor
    mu: Tensor
    bound: Tensor

    def __len__(self) -> int:
        return len(self.problem)

    def take(self, index: Tensor) -> Domains:
        """The chosen domains; an index may repeat."""
        return Domains(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    @staticmethod
    def cat(parts: list[Domains]) -> Domains:
        """All domains of the parts, in that order."""
        return Domains(*(torch.cat([getattr(p, name) for p in parts]) for name in Domains.__dataclass_fields__))

    def allowed(self, atoms: int) -> Tensor:
        """``(D, K)`` which atoms are chosen."""
        mask = torch.zeros(len(self), atoms + 1, dtype=torch.bool)
        mask.scatter_(1, torch.where(self.choice < 0, atoms, self.choice), True)
        return mask[:, :atoms]


def fresh_domains(relaxed: Relaxed, problem: Tensor, choice: Tensor, split: Tensor | None = None) -> Domains:
    """Domains without a parent's multipliers: CROWN's slopes, and weight one on the atoms that make the difference.

    Those are the atoms chosen among several; where a domain has none, all its atoms. Starting from every condition at
    once takes the ascent several times longer.

    Args:
        problem: ``(D,)``; choice: ``(D, C)``; split: ``(D, U)``, None: no splits.
    """
    query, count = relaxed.query, len(problem)
    slopes = [_default_slope(kink, problem) for kink in relaxed.kinks]
    alpha = torch.cat(slopes, 1) if slopes else torch.zeros(count, 0)
    alpha = torch.maximum(alpha.to(query.dtype), relaxed.floor)
    split = torch.zeros(count, relaxed.width, dtype=torch.int8) if split is None else split
    domains = Domains(
        problem, split, choice, alpha, torch.zeros_like(alpha),
        torch.zeros(count, query.atoms.count, dtype=query.dtype), torch.full((count,), -torch.inf, dtype=query.dtype),
    )  # fmt: skip
    allowed = domains.allowed(query.atoms.count)
    decisive = allowed & (query.clause_sizes > 1)[query.clause]
    weight = torch.where(decisive.any(1, keepdim=True), decisive, allowed)
    return replace(domains, mu=weight.to(query.dtype))


def _default_slope(kink: Kink, problem: Tensor) -> Tensor:
    lower, upper = kink.bounds.take(problem)
    return (upper > -lower).double()


@dataclass(frozen=True)
class _DomainLines(Relaxation):
    """Lines of one splittable node on domains: stable elements have one slope, open ones their own lines.

    ``seen`` receives the coefficients on the open elements' outputs, which branching looks at.
    """

    kink: Kink
    domains: Domains
    lines: Lines
    seen: dict[int, Tensor]

    def backward(self, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        kink, shape = self.kink, rows.shape
        rows = rows.flatten(2).expand(len(self.domains), -1, -1)
        open_rows = rows[:, :, kink.which]
        self.seen[kink.node] = open_rows.detach()[:, 0]
        positive, negative = open_rows.clamp(min=0), open_rows.clamp(max=0)
        low_slope, low_offset, high_slope, high_offset = (t.unsqueeze(1) for t in self.lines)
        offset = (positive * low_offset + negative * high_offset).sum(2)
        d = self.domains
        multipliers = d.beta[:, kink.columns] * d.split[:, kink.columns]
        carried = rows * kink.slope[d.problem].unsqueeze(1)
        open_part = positive * low_slope + negative * high_slope - multipliers.unsqueeze(1)
        carried = carried.index_copy(2, kink.which, open_part)
        return [carried.reshape(len(d), *shape[1:])], offset


def _domain_relaxations(relaxed: Relaxed, d: Domains, seen: dict[int, Tensor]) -> dict[int, Relaxation]:
    made = {i: relaxation.take(d.problem) for i, relaxation in relaxed.fixed.items()}
    for kink in relaxed.kinks:
        bounds, split = kink.bounds.take(d.problem), d.split[:, kink.columns]
        inside = Interval(
            torch.where(split > 0, bounds.lower.clamp(min=0), bounds.lower),
            torch.where(split < 0, bounds.upper.clamp(max=0), bounds.upper),
        )
        made[kink.node] = _DomainLines(kink, d, kink.op.relax_with(inside, d.alpha[:, kink.columns]), seen)
    return made


class Dual(NamedTuple):
    """The dual function at some multipliers.

    Attributes:
        bound: ``(D,)``; point: ``(D, *input_shape)`` the minimisers; rows: ``(D, U)`` coefficients on open elements.
        ascent: ``(D,)`` numbers whose gradient by the multipliers is the bound's direction of ascent.
        start: where the concretisation of nearby multipliers may start.
    """

    bound: Tensor
    point: Tensor
    rows: Tensor
    ascent: Tensor
    start: Tensor | None


def evaluate(relaxed: Relaxed, d: Domains, start: Tensor | None = None) -> Dual:
    """The proven bound of each domain for its present multipliers (``d.bound`` is not looked at)."""
    query = relaxed.query
    seen: dict[int, Tensor] = {}
    rows, offset = linear_lower(query.graph, _weighted_forms(query, d), _domain_relaxations(relaxed, d, seen))
    rows, offset = rows.flatten(2)[:, 0], offset[:, 0]
    with torch.no_grad():
        found = relaxed.concretise(rows.detach(), offset.detach(), d.problem, start)
    ascent = found.weight * ((rows * found.point).sum(1) + offset)
    coefficients = [seen.get(k.node, torch.zeros(len(d), len(k.which), dtype=query.dtype)) for k in relaxed.kinks]
    at_kinks = torch.cat(coefficients, 1) if coefficients else rows.detach()[:, :0]
    point = found.point.reshape(len(d), *query.graph.input_shape)
    return Dual(found.bound, point, at_kinks, ascent, found.start)


def _weighted_forms(query: Query, d: Domains) -> Forms:
    """``[objective +] Σ μ_k atom_k`` as one form per domain; split kinks' inputs join in on the way back."""
    coefficients, constant = {}, d.mu.new_zeros(len(d))
    for node, c in query.atoms.coefficients.items():
        flat = c.flatten(2)
        mixed = d.mu @ flat[0] if c.shape[0] == 1 else torch.einsum("dk,dkn->dn", d.mu, flat[d.problem])
        coefficients[node] = mixed.reshape(len(d), 1, *c.shape[2:])
    constant = constant + (d.mu * query.atoms.constant[d.problem]).sum(1)
    if isinstance(query.objective, Linear):
        form = query.objective.form.take(d.problem)
        constant = constant + form.constant[:, 0]
        for node, c in form.coefficients.items():
            coefficients[node] = coefficients[node] + c if node in coefficients else c.expand(len(d), *c.shape[1:])
    return Forms(coefficients, constant.unsqueeze(1))


class Ascent(NamedTuple):
    """Domains after :func:`ascend`, with what branching and attacks look at: the minimiser ``(D, *input_shape)`` and
    coefficients ``(D, U)`` on the open elements' outputs, both at each domain's best evaluation.
    """

    domains: Domains
    point: Tensor
    rows: Tensor


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
    allowed = d.allowed(relaxed.query.atoms.count)
    adam = _Adam((1.0, 3.0, 1.0), step_size, steps)
    best = _Best(d, relaxed)
    active, start = torch.arange(len(d)), None
    for step in range(steps):
        last = step == steps - 1 or (step > 0 and stop())
        with torch.set_grad_enabled(not last):
            moving = [t.detach().requires_grad_(not last) for t in (d.alpha, d.beta, d.mu)]
            d = replace(d, alpha=moving[0], beta=moving[1], mu=moving[2])
            dual = evaluate(relaxed, d, start)
        start = dual.start
        best.update(active, d, dual)
        if last:
            break
        grads = torch.autograd.grad(dual.ascent.sum(), moving, allow_unused=True, materialize_grads=True)
        alpha, beta, mu = adam.step(moving, grads)
        d = replace(
            d,
            alpha=torch.minimum(torch.maximum(alpha, relaxed.floor), torch.ones_like(alpha)),
            beta=beta.clamp(min=0) * (d.split != 0),
            mu=mu.clamp(min=0) * allowed,
        )
        going = best.reached[active] < (torch.inf if target is None else target[active])
        if not bool(going.any()):
            break
        if int(going.sum()) < 0.75 * len(active):
            keep = going.nonzero().flatten()
            active, allowed, d = active[keep], allowed[keep], d.take(keep)
            start = None if start is None else start[keep]
            adam.keep(keep)
    return best.result()


class _Best:
    """The best evaluation of every domain so far."""

    def __init__(self, d: Domains, relaxed: Relaxed) -> None:
        self.domains = d
        self.alpha, self.beta, self.mu = d.alpha.clone(), d.beta.clone(), d.mu.clone()
        self.reached = torch.full_like(d.bound, -torch.inf)
        self.point = relaxed.query.region.lower[d.problem].clone()
        self.rows = torch.zeros_like(d.alpha)

    def update(self, active: Tensor, d: Domains, dual: Dual) -> None:
        """Take over the evaluations that are better; ``active`` says which domains were evaluated."""
        better = (dual.bound > self.reached[active]).nonzero().flatten()  # false for NaN
        at = active[better]
        self.reached[at] = dual.bound.detach()[better]
        for mine, new in zip(
            (self.alpha, self.beta, self.mu, self.point, self.rows), (d.alpha, d.beta, d.mu, dual.point, dual.rows)
        ):
            mine[at] = new.detach()[better]

    def result(self) -> Ascent:
        """Everything found; a bound is never below the parent's."""
        bound = torch.maximum(self.reached, self.domains.bound)
        domains = replace(self.domains, alpha=self.alpha, beta=self.beta, mu=self.mu, bound=bound)
        return Ascent(domains, self.point, self.rows)


class _Adam:
    """Adam ascent with cosine decay on tensors of different rates; every domain's entries move by themselves."""

    def __init__(self, factors: tuple[float, ...], step_size: float, steps: int) -> None:
        self.factors, self.step_size, self.steps, self.count = factors, step_size, steps, 0
        self.moments: list[tuple[Tensor, Tensor]] = []

    def step(self, tensors: list[Tensor], grads: tuple[Tensor, ...]) -> list[Tensor]:
        """The tensors after one step."""
        if not self.moments:
            self.moments = [(torch.zeros_like(t), torch.zeros_like(t)) for t in tensors]
        rate = self.step_size * 0.5 * (1 + math.cos(math.pi * self.count / self.steps))
        self.count += 1
        moved = []
        for factor, tensor, grad, (first, second) in zip(self.factors, tensors, grads, self.moments):
            grad = grad.nan_to_num(0.0, 0.0, 0.0)
            first.mul_(0.8).add_(grad, alpha=0.2)
            second.mul_(0.98).addcmul_(grad, grad, value=0.02)
            scale = (second / (1 - 0.98**self.count)).sqrt() + 1e-12
            moved.append(tensor.detach() + rate * factor / (1 - 0.8**self.count) * first / scale)
        return moved

    def keep(self, index: Tensor) -> None:
        """Go on with the chosen domains only."""
        self.moments = [(first[index], second[index]) for first, second in self.moments]
