"""Where the branches of a goal are met by linearisation, and which of them are near."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clinch.attacks.core.objective import Goal, parts_of
from clinch.attacks.minimum_norm.feasible_steps import HalfSpaces, Room
from clinch.geometry.projection import project_into

#: elements of one batch of gradients while branches are compared, so that memory stays bounded
BATCH = 1 << 24
#: a branch that no point of the box meets by linearisation counts as so much farther, for each margin that is missing
SHORT = 100.0
#: what may be missing of the margin where a branch is met, by rounding and by the quick moves
MET = 1e-2


class Linearised(NamedTuple):
    """Branches of inputs, linearised at the clean input. L entries, those of one input beside each other.

    Attributes:
        rows: ``(L,)`` the input of each.
        branch: ``(L,)``.
        move: ``(L, n)`` the shortest one of the box to where the linearised branch is met, or as near to that as the
            box allows.
        length: ``(L,)`` of that move.
        met: ``(L,)`` whether it meets the linearised branch; False without a gradient.
        value: ``(L,)`` at the clean input.
        steepness: ``(L,)`` Euclidean length of the gradient.
        leaky: ``(L,)`` where that gradient is not the true one, see :class:`clinch.attacks.core.objective.Slopes`.
        missing: ``(L,)`` share of the value that is left after the move, by linearisation.
        gradient: ``(L, n)`` of the branch at the clean input.
    """

    rows: Tensor
    branch: Tensor
    move: Tensor
    length: Tensor
    met: Tensor
    value: Tensor
    steepness: Tensor
    leaky: Tensor
    missing: Tensor
    gradient: Tensor

    def take(self, which: Tensor) -> Linearised:
        """The chosen entries, in that order."""
        return Linearised(*(t[which] for t in self))

    def point(self, goal: Goal) -> Tensor:
        """``(L, *input_shape)`` points of the region: the ends of the moves."""
        x = goal.x[self.rows]
        return project_into(goal.region.take(self.rows), x + self.move.reshape(x.shape))

    @property
    def place(self) -> Tensor:
        """``(L,)`` the place of each entry among those of its input, 0 for the first."""
        lane = torch.arange(len(self.rows), device=self.rows.device)
        return lane - torch.searchsorted(self.rows.contiguous(), self.rows.contiguous())


def nearest_branches(goal: Goal, rows: Tensor, count: int, looked_at: int | None = None) -> Linearised:
    """The ``count`` branches of each row that linearisation at the clean input says to be nearest, nearest first.

    Those that cannot be met come after those that can, then those without a true gradient, then those without any.
    Costs one pass forward and one backward for each branch. Conditions that all branches share are not looked at.

    Args:
        goal: what is attacked.
        rows: ``(A,)`` inputs, in increasing order.
        count: branches of each row, at most.
        looked_at: branches whose gradients are asked for, those of least value; None: all. One more pass forward.
    """
    which = None
    if looked_at is not None and goal.width > looked_at:
        x = goal.start[rows]
        with torch.no_grad():
            values = torch.cat([goal.answer(x[part], rows[part]).alone for part in parts_of(x)])
        goal.count(rows, forward=1)
        which = values.topk(looked_at, dim=1, largest=False).indices
    width = goal.width if which is None else which.shape[1]
    height = max(1, BATCH // (width * max(1, goal.x[0].numel())))
    parts = [
        linearised(goal, some, None if which is None else which[start : start + height])
        for start, some in zip(range(0, max(1, len(rows)), height), rows.split(height))
    ]
    found = parts[0] if len(parts) == 1 else Linearised(*(torch.cat(column) for column in zip(*parts)))
    found = found.take(found.value.isfinite().nonzero().flatten())
    # what a switched-off element promises is less certain than any true gradient
    doubt = torch.where(found.steepness > 0, found.leaky.to(torch.uint8), 2)
    order = (found.length * (1 + SHORT * found.missing)).argsort(stable=True)
    order = order[doubt[order].argsort(stable=True)]
    found = found.take(order[found.rows[order].argsort(stable=True)])
    return found.take((found.place < count).nonzero().flatten())


def linearised(goal: Goal, rows: Tensor, which: Tensor | None = None) -> Linearised:
    """The branches ``which (A, T)`` of each row ``(A,)`` (None: all), linearised at the point of the region next to the
    clean input.

    With ``h(z) ≈ h(x) + <g, z − x>``: the shortest move to where that is at most 0.
    """
    z = goal.start[rows]
    value, slope = goal.jacobian(z, rows, which, alone=True)
    width = value.shape[1]
    each = rows.repeat_interleave(width)
    branch = (torch.arange(width, device=rows.device).expand_as(value) if which is None else which).flatten()
    value, g = value.flatten(), slope.flatten(0, 1).flatten(1)
    leaky = ((g == 0).all(1) & (value > 0) & value.isfinite()) if goal.several else torch.zeros_like(each).bool()
    dead = leaky.nonzero().flatten()
    if len(dead):
        wish, point = branch[dead], z.repeat_interleave(width, 0)[dead]
        slopes = goal.slopes(point, each[dead], lambda answer, which: answer.conditions(wish[which])[:, :1])
        g = g.index_copy(0, dead, slopes.gradients[:, 0].flatten(1))
    steepness = torch.linalg.vector_norm(g, dim=1)
    offset = (z - goal.x[rows]).flatten(1).repeat_interleave(width, 0)
    spaces = HalfSpaces.none(g).averaged(value.nan_to_num(posinf=0.0), g, offset, 0.0)
    room = Room.of(goal, each)
    move = room.shortest(spaces)
    short = (torch.linalg.vecdot(g, move - offset) + value) / value.abs().clamp(min=1e-12)
    missing = short.nan_to_num(posinf=1.0).clamp(min=0)
    met = (missing <= MET) & (steepness > 0) & value.isfinite()
    return Linearised(each, branch, move, room.norm(move), met, value, steepness, leaky, missing, g)
