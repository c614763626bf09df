"""Subdomains by signs of ReLUs and atoms of clauses, bounded by ascent of the dual function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from clinch.bounds.ascent import Ascent, ascend
from clinch.bounds.domains import Domains, Relaxed, fresh_domains, unlimited
from clinch.query import Linear
from clinch.search.node_store import Nodes
from clinch.search.refine_under_cutoff import UnderCutoff
from clinch.solver.settings import BranchAndBound

#: more rounds of bounds under the cutoff where subdomains are few, and how many that is
ROUNDS, FEW = 4, 8
#: by how much, relatively, the cutoff lies beyond what is enough
BEYOND = 1e-12


@dataclass(frozen=True)
class Subdomains(Nodes):
    """Subdomains with the split that comes next.

    Attributes:
        branch: ``(D,)`` row of the relaxation that each belongs to.
        split, choice, alpha, beta, mu, pace, held: as in :class:`clinch.bounds.domains.Domains`; multipliers wait in
            single precision: any give a valid bound, and they are most of the memory.
        elements: ``(D, L)`` open elements to split next, the best first, −1 where there is none.
        clause: ``(D,)`` a clause to split instead, −1 for none.
    """

    branch: Tensor
    split: Tensor
    choice: Tensor
    alpha: Tensor
    beta: Tensor
    mu: Tensor
    pace: Tensor
    held: Tensor
    elements: Tensor
    clause: Tensor

    LIGHT: ClassVar[frozenset[str]] = frozenset({"alpha", "beta", "mu"})

    @property
    def domains(self) -> Domains:
        """What the dual function reads."""
        return Domains(
            self.branch, self.split, self.choice, self.alpha, self.beta, self.mu, self.bound, self.pace, self.held
        )  # fmt: skip

    def holding(self, d: Domains) -> Self:
        """The same nodes with other splits, choices, multipliers and bounds."""
        return replace(
            self, split=d.split, choice=d.choice, alpha=d.alpha, beta=d.beta, mu=d.mu, bound=d.bound, pace=d.pace
        )

    @classmethod
    def cat(cls, parts: Sequence[Any]) -> Self:
        """All nodes of all parts, in that order; those that hold no bounds get some that say nothing beside others."""
        width = max(part.held.shape[2] for part in parts)
        padded = [
            part if part.held.shape[2] == width else replace(part, held=unlimited(part.domains)) for part in parts
        ]
        return super().cat(padded)

    def undecided(self) -> Self:
        """The same without a next split."""
        return replace(self, elements=torch.full_like(self.elements, -1), clause=torch.full_like(self.clause, -1))

    @classmethod
    def of(cls, d: Domains, owner: Tensor, place: Tensor, levels: int) -> Subdomains:
        """Domains as nodes.

        Args:
            owner: ``(R,)`` problem of each row of the relaxation; place: ``(D,)`` in the tree.
            levels: number of elements L that a node can name.
        """
        none = d.problem.new_full((len(d), levels + 1), -1)
        return Subdomains(
            problem=owner[d.problem], bound=d.bound, place=place, branch=d.problem, split=d.split, choice=d.choice,
            alpha=d.alpha, beta=d.beta, mu=d.mu, pace=d.pace, held=d.held, elements=none[:, 1:], clause=none[:, 0],
        )  # fmt: skip


@dataclass(frozen=True)
class DualEvaluation:
    """Subdomains after an ascent."""

    nodes: Subdomains
    ascent: Ascent

    def take(self, index: Tensor) -> DualEvaluation:
        """The same for some of them."""
        return DualEvaluation(self.nodes.take(index), self.ascent.take(index))


class DualBounder:
    """Bounds subdomains by the dual function of a relaxation; a tighter one of the same layout may take its place.

    Args:
        relaxed: the relaxation.
        targets: ``(B,)`` bounds that are large enough.
        stop: asked now and then; once true, the best so far has to do.
        settings: how many steps.
    """

    def __init__(
        self, relaxed: Relaxed, targets: Callable[[], Tensor], stop: Callable[[], bool], settings: BranchAndBound
    ) -> None:
        self.relaxed, self.targets, self.stop, self.settings = relaxed, targets, stop, settings
        self._under = UnderCutoff(relaxed) if settings.under_cutoff else None
        #: ``(B,)`` what bounds under the cutoff leave out may be as good as this
        self.ceiling = torch.full_like(targets(), torch.inf)

    def bound(self, nodes: Subdomains, fresh: bool) -> DualEvaluation:
        """Bounds after a few steps; more where there is no parent to start from."""
        return self.ascend(nodes, self.settings.root_steps if fresh else self.settings.node_steps)

    def refine(self, found: DualEvaluation) -> DualEvaluation:
        """Subdomains with bounds of their open neurons under the cutoff; infinite bounds where nothing is left.

        Few subdomains are bounded anew with these at once, round after round: all others will profit.
        """
        under = self._under
        if under is None or not under.suits:
            return found
        found = self._under_cutoff(found, under)
        for _ in range(ROUNDS if len(found.nodes) <= FEW else 0):
            if self.stop() or under.resting or bool((found.nodes.bound >= self.targets()[found.nodes.problem]).all()):
                break
            found = self._under_cutoff(self.ascend(found.nodes, self.settings.root_steps), under)
        return found

    def _under_cutoff(self, found: DualEvaluation, under: UnderCutoff) -> DualEvaluation:
        """One round."""
        targets, objective = self.targets(), self.relaxed.query.objective
        cutoff = torch.zeros_like(found.nodes.bound)  # of a distance: no input meets conditions that sum to more
        if isinstance(objective, Linear):
            # a little more, so that a bound that ends there closes its problem whatever rounding does
            cutoffs = torch.where(torch.isfinite(targets), targets + BEYOND * (1 + targets.abs()), targets)
            cutoff = cutoffs[found.nodes.problem]
            self.ceiling = torch.minimum(self.ceiling, cutoffs)
        d = under(self.relaxed, found.ascent, cutoff)
        return DualEvaluation(replace(found.nodes, held=d.held, bound=d.bound), found.ascent._replace(domains=d))

    def ascend(self, nodes: Subdomains, steps: int) -> DualEvaluation:
        """Bounds after so many steps."""
        target = self.targets()[nodes.problem]
        ascent = ascend(self.relaxed, nodes.domains, steps, target=target, stop=self.stop)
        return DualEvaluation(nodes.holding(ascent.domains), ascent)


def fresh_nodes(
    relaxed: Relaxed, branch: Tensor, choice: Tensor, owner: Tensor, place: Tensor, levels: int
) -> Subdomains:
    """Whole branches ``(D,)`` with chosen atoms ``(D, C)`` as nodes."""
    return Subdomains.of(fresh_domains(relaxed, branch, choice), owner, place, levels)
