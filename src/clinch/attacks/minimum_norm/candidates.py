"""Where the candidates of a goal are met by linearisation, and which of them are near."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from clinch.attacks.core.batches import parts_of
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.settings import AttackSettings
from clinch.attacks.minimum_norm.feasible_steps import FeasibleSteps, HalfSpaces
from clinch.geometry.projection import project_into
from clinch.solver.settings import Positive, Share

#: elements of one batch of gradients while candidates are compared, so that memory stays bounded
BATCH = 1 << 24


@dataclass(frozen=True)
class CandidateSettings(AttackSettings):
    """How candidates are ranked.

    Attributes:
        short: how much farther a candidate counts that no point of the box meets by linearisation, for each margin that
            is missing.
        met: what may be missing of the margin where one is met, by rounding and by the quick moves.
    """

    short: Positive = 100.0
    met: Share = 1e-2


class Linearised(NamedTuple):
    """Candidates of inputs, linearised at the clean input. L entries, those of one input beside each other.

    Attributes:
        indices: ``(L,)`` the input of each.
        candidate: ``(L,)``.
        move: ``(L, n)`` the shortest one of the box to where the linearised candidate is met, or as near to that as the
            box allows.
        length: ``(L,)`` of that move.
        met: ``(L,)`` whether it meets the linearised candidate; False without a gradient.
        value: ``(L,)`` at the clean input.
        steepness: ``(L,)`` Euclidean length of the gradient.
        surrogate: ``(L,)`` where that gradient is not the true one, see :class:`clinch.attacks.core.objective.Slopes`.
        missing: ``(L,)`` share of the value that is left after the move, by linearisation.
        gradient: ``(L, n)`` of the candidate at the clean input.
    """

    indices: Tensor
    candidate: Tensor
    move: Tensor
    length: Tensor
    met: Tensor
    value: Tensor
    steepness: Tensor
    surrogate: Tensor
    missing: Tensor
    gradient: Tensor

    def take(self, which: Tensor) -> Linearised:
        """The chosen entries, in that order."""
        return Linearised(*(t[which] for t in self))

    def point(self, objective: AttackObjective) -> Tensor:
        """``(L, *input_shape)`` points of the region: the ends of the moves."""
        x = objective.x[self.indices]
        return project_into(objective.region.take(self.indices), x + self.move.reshape(x.shape))

    @property
    def place(self) -> Tensor:
        """``(L,)`` the place of each entry among those of its input, 0 for the first."""
        run = torch.arange(len(self.indices), device=self.indices.device)
        return run - torch.searchsorted(self.indices.contiguous(), self.indices.contiguous())


def nearest_candidates(
    objective: AttackObjective, indices: Tensor, count: int, looked_at: int | None = None
) -> Linearised:
    """The ``count`` candidates of each row that linearisation at the clean input says to be nearest, nearest first.

    Those that cannot be met come after those that can, then those without a true gradient, then those without any.
    Costs one pass forward and one backward for each candidate. Conditions that all candidates share are not looked at.

    Args:
        objective: what is attacked.
        indices: ``(A,)`` inputs, in increasing order.
        count: candidates of each row, at most.
        looked_at: candidates whose gradients are asked for, those of least value; None: all. One more pass forward.
    """
    which = None
    if looked_at is not None and objective.width > looked_at:
        x = objective.start[indices]
        with torch.no_grad():
            values = torch.cat([objective.answer(x[part], indices[part]).own for part in parts_of(x)])
        objective.count(indices, forward=1)
        which = values.topk(looked_at, dim=1, largest=False).indices
    width = objective.width if which is None else which.shape[1]
    height = max(1, BATCH // (width * max(1, objective.x[0].numel())))
    parts = [
        linearised(objective, some, None if which is None else which[start : start + height])
        for start, some in zip(range(0, max(1, len(indices)), height), indices.split(height))
    ]
    found = parts[0] if len(parts) == 1 else Linearised(*(torch.cat(column) for column in zip(*parts)))
    found = found.take(found.value.isfinite().nonzero().flatten())
    # what a inactive neuron promises is less certain than any true gradient
    doubt = torch.where(found.steepness > 0, found.surrogate.to(torch.uint8), 2)
    order = (found.length * (1 + objective.numbers(CandidateSettings).short * found.missing)).argsort(stable=True)
    order = order[doubt[order].argsort(stable=True)]
    found = found.take(order[found.indices[order].argsort(stable=True)])
    return found.take((found.place < count).nonzero().flatten())


def linearised(objective: AttackObjective, indices: Tensor, which: Tensor | None = None) -> Linearised:
    """The candidates ``which (A, T)`` of each row ``(A,)`` (None: all), linearised at the point of the region next to
    the clean input.

    With ``h(z) ≈ h(x) + <g, z − x>``: the shortest move to where that is at most 0.
    """
    z = objective.start[indices]
    value, slope = objective.jacobian(z, indices, which, own=True)
    width = value.shape[1]
    each = indices.repeat_interleave(width)
    candidate = (torch.arange(width, device=indices.device).expand_as(value) if which is None else which).flatten()
    value, g = value.flatten(), slope.flatten(0, 1).flatten(1)
    surrogate = (
        ((g == 0).all(1) & (value > 0) & value.isfinite())
        if objective.query.surrogates
        else torch.zeros_like(each).bool()
    )
    dead = surrogate.nonzero().flatten()
    if len(dead):
        wish, point = candidate[dead], z.repeat_interleave(width, 0)[dead]
        slopes = objective.slopes(point, each[dead], lambda answer, which: answer.conditions(wish[which])[:, :1])
        g = g.index_copy(0, dead, slopes.gradients[:, 0].flatten(1))
    steepness = torch.linalg.vector_norm(g, dim=1)
    offset = (z - objective.x[indices]).flatten(1).repeat_interleave(width, 0)
    spaces = HalfSpaces.none(g).averaged(value.nan_to_num(posinf=0.0), g, offset, 0.0)
    feasible = FeasibleSteps.of(objective, each)
    move = feasible.shortest(spaces)
    short = (torch.linalg.vecdot(g, move - offset) + value) / value.abs().clamp(min=1e-12)
    missing = short.nan_to_num(posinf=1.0).clamp(min=0)
    met = (missing <= objective.numbers(CandidateSettings).met) & (steepness > 0) & value.isfinite()
    return Linearised(each, candidate, move, feasible.norm(move), met, value, steepness, surrogate, missing, g)
