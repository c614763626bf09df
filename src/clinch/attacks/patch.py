"""Patches: a small rectangle of each image, or one that all images share, at a fixed or any place, without other limits
than the range."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, objective_of
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.draws import Draws
from clinch.attacks.core.gradient_steps import cosine
from clinch.attacks.core.losses import loss_of
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.result import AttackResult
from clinch.errors import ProblemError
from clinch.geometry.region import unbounded

#: first and last step relative to the range, and the weight of past gradients
STEP, MOMENTUM = (0.25, 0.01), 0.9
#: what is left of the places after each stage, and the share of the steps that a stage has
KEPT, STAGES = 4, (0.1, 0.2, 0.7)


@attack_method
def patch(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    size: tuple[int, int] | int = 5,
    place: tuple[int, int] | None = None,
    shared: bool = False,
    places: int = 64,
    steps: int = 100,
    loss: str | None = "margin",
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """Paint a rectangle over a part of each image: sign steps with momentum on its pixels, ``z ← clip(z − α·sign(g))``.

    At any place: half of the ``places`` are those where the first-order model promises most, half lie evenly; all of
    them are followed for a tenth of the steps, the best quarter for a fifth, and the best of these for the rest. The
    location-optimised patches of Rao, Stutz and Schiele 2020 (arXiv 2005.02313) move theirs while it is made. With
    ``shared=True`` one patch for all images, on the mean of their losses, at a new random place of each in each step,
    as Brown et al. 2017 (arXiv 1712.09665) without rotations and scales. A mask of any other form is ``mask=`` of any
    attack, such as :func:`nearest` or :func:`worst`.

    Args:
        size: rows and columns, or the side of a square.
        place: row and column of its first pixel; None: any place.
        shared: whether all images have the same patch.
        places: places that are tried; for a shared patch those at which the finished one is, so many evenly spread.
        steps: gradient steps of an input at each place that is left.

    Returns:
        The images; ``parameters`` has ``"row"`` and ``"column"`` of the first pixel ``(B,)`` and ``"patch"``
        ``(B, …, rows, columns)``, of a shared one ``(…, rows, columns)``, and then ``"share"`` ``(B,)`` of the places
        tried at which it reaches the goal. Distances count the elements that changed.

    Raises:
        ClinchError: an argument that does not fit, or inputs without a range.

    Example:
        >>> found = patch(net, x, y, size=3)
        >>> found.success.double().mean(), found.parameters["row"].shape
        (tensor(1., dtype=torch.float64), torch.Size([8]))
    """
    if min(places, steps) < 1:
        raise ProblemError(f"places={places} and steps={steps} must be at least 1.")
    objective = objective_of(net, x, y, target=target, bounds=bounds, norm=0.0, scaled=False)
    error = unbounded(objective.query.limits, "A patch")
    if error is not None:
        raise error
    grounds = _Grounds(objective, size, place)
    loss_of(objective.query, loss)
    best_points = BestPoints(objective, record=history, progress=progress, steps=steps)
    work = _Shared(best_points, grounds, loss) if shared else _Single(best_points, grounds, loss)
    parameters = work.run(places, steps, objective.draws(seed))
    return replace(best_points.result(), parameters=parameters)


class _Grounds:
    """Where patches may lie on images of so many channels, rows and columns; inputs without rows have one."""

    def __init__(self, objective: AttackObjective, size: tuple[int, int] | int, place: tuple[int, int] | None) -> None:
        shape = objective.x.shape[1:]
        self.rows, self.columns = shape[-2:] if len(shape) > 1 else (1, shape[-1])
        self.height, self.width = (size, size) if isinstance(size, int) else size
        if len(shape) == 1 and isinstance(size, int):
            self.height = 1
        if not (1 <= self.height <= self.rows and 1 <= self.width <= self.columns):
            raise ProblemError(
                f"size={size} is no patch of {self.rows} rows and {self.columns} columns. Write whole numbers within."
            )
        self.free = self.rows - self.height + 1, self.columns - self.width + 1
        self.fixed = None if place is None else place[0] * self.free[1] + place[1]
        if place is not None and not all(0 <= at < most for at, most in zip(place, self.free)):
            raise ProblemError(
                f"place={place} leaves the image; row and column go up to {tuple(f - 1 for f in self.free)}."
            )

    @property
    def count(self) -> int:
        """Number of places."""
        return self.free[0] * self.free[1]

    def window(self, place: Tensor, like: Tensor) -> Tensor:
        """``(L, *input_shape)`` which elements patches at places ``(L,)`` cover."""
        row, column = (place // self.free[1]).unsqueeze(1), (place % self.free[1]).unsqueeze(1)
        down, right = (torch.arange(n, device=place.device) for n in (self.rows, self.columns))
        inside = ((down >= row) & (down < row + self.height)).unsqueeze(2)
        inside = inside & ((right >= column) & (right < column + self.width)).unsqueeze(1)
        sides = (self.rows, self.columns) if like.dim() > 2 else (self.columns,)
        return inside.reshape(len(place), *[1] * (like.dim() - 3), *sides).expand(like.shape)

    def spread(self, count: int) -> list[int]:
        """At most so many places that lie evenly."""
        if self.fixed is not None:
            return [self.fixed]
        if count >= self.count:
            return list(range(self.count))
        ratio = math.sqrt(count * self.free[0] / self.free[1])
        down = min(self.free[0], max(1, round(ratio)))
        right = min(self.free[1], max(1, count // down))
        rows, columns = ([round((k + 0.5) * f / n - 0.5) for k in range(n)] for n, f in zip((down, right), self.free))
        return sorted({row * self.free[1] + column for row in rows for column in columns})


class _Single:
    """A patch for each image."""

    def __init__(self, best_points: BestPoints, grounds: _Grounds, loss: str | None) -> None:
        self.best_points, self.objective, self.grounds, self.loss = best_points, best_points.objective, grounds, loss
        self.place = torch.zeros(self.objective.size, dtype=torch.long, device=self.objective.x.device)
        self.least = self.objective.x.new_full((self.objective.size,), torch.inf)

    def run(self, places: int, steps: int, draws: Draws) -> dict[str, Tensor]:
        """Ever fewer places for ever more steps; the parameters found."""
        indices, place = self._first(places)
        z = self._start(indices, place)
        average = torch.zeros_like(z)
        several = len(indices) > len(self.objective.todo)
        done, ends = 0, [round(sum(STAGES[: k + 1]) * steps) for k in range(len(STAGES))] if several else [steps]
        for end in ends:
            worth = self.least.new_full((len(indices),), torch.inf)
            for k in range(done, end):
                z, average, place, indices, worth = self._step(z, average, place, indices, worth, k, steps)
            done, keep = max(done, end), _least(worth, indices)
            indices, place, z, average = indices[keep], place[keep], z[keep], average[keep]
        if len(indices):
            self._keep(z, indices, place, self.objective.look(z, indices))
        row, column = self.place // self.grounds.free[1], self.place % self.grounds.free[1]
        return {"row": row, "column": column, "patch": _cut(self.best_points.x, self.grounds, row, column)}

    def _start(self, indices: Tensor, place: Tensor) -> Tensor:
        """Images with a patch in the middle of the range: gradients at what lies below, often a corner, mislead."""
        x, region = self.objective.x[indices], self.objective.region.take(indices)
        return torch.where(self.grounds.window(place, x), (region.lower + region.upper) / 2, x)

    def _first(self, places: int) -> tuple[Tensor, Tensor]:
        """Inputs and places of the runs: one pass each way where there is a choice."""
        objective, grounds, indices = self.objective, self.grounds, self.objective.todo
        even = torch.tensor(grounds.spread(places), device=indices.device)
        if places < grounds.count and grounds.fixed is None and len(indices):
            slope = objective.slope(objective.x[indices], indices)
            region = objective.region.take(indices)
            gain = torch.maximum(-slope.gradient * (region.upper - objective.x[indices]),
                                 slope.gradient * (objective.x[indices] - region.lower))  # fmt: skip
            image = gain.reshape(len(indices), -1, grounds.rows, grounds.columns).sum(1, keepdim=True)
            worth = F.avg_pool2d(image, (grounds.height, grounds.width), stride=1).flatten(1)
            best = worth.topk(max(1, places // 2), dim=1).indices
            even = torch.tensor(grounds.spread(places - best.shape[1]), device=indices.device)
            each = torch.cat([best, even.expand(len(indices), -1)], 1)
        else:
            each = even.expand(len(indices), -1)
        return indices.repeat_interleave(each.shape[1]), each.reshape(-1)

    def _step(
        self, z: Tensor, average: Tensor, place: Tensor, indices: Tensor, worth: Tensor, k: int, steps: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One step of all runs; the runs of inputs that reach their goal leave."""
        if not len(indices):
            return z, average, place, indices, worth
        objective = self.objective
        slope = objective.slope(z, indices, loss_of(objective.query, self.loss))
        self.best_points.note_gradient(slope.gradient, indices)
        self._keep(z, indices, place, slope.margin)
        going = ~self.best_points.success[indices]
        z, average, place, indices = z[going], average[going], place[going], indices[going]
        worth = torch.minimum(worth[going], slope.margin[going])
        average = MOMENTUM * average + _unit(slope.gradient[going] * self.grounds.window(place, z))
        region = objective.region.take(indices)
        size = cosine(STEP[0], STEP[1], k, steps) * (region.upper - region.lower)
        z = torch.clamp(z - size * average.sign(), region.lower, region.upper)
        self.best_points.step()
        return z, average, place, indices, worth

    def _keep(self, z: Tensor, indices: Tensor, place: Tensor, margin: Tensor) -> None:
        """Remember the places of the best points."""
        best = _least(margin, indices, 1)
        better = best[margin[best] < self.least[indices[best]]]
        self.place[indices[better]], self.least[indices[better]] = place[better], margin[better]
        self.best_points.update(z[better], indices[better], margin[better])


class _Shared:
    """One patch for all images."""

    def __init__(self, best_points: BestPoints, grounds: _Grounds, loss: str | None) -> None:
        self.best_points, self.objective, self.grounds, self.loss = best_points, best_points.objective, grounds, loss
        region = self.objective.region
        self.low, self.high = region.lower.amin(), region.upper.amax()
        shape = self.objective.x.shape[1:-2] if self.objective.x.dim() > 2 else ()
        sides = (grounds.height, grounds.width) if self.objective.x.dim() > 2 else (grounds.width,)
        self.patch = torch.full((*shape, *sides), 0.5, dtype=self.objective.x.dtype, device=self.objective.x.device)
        self.patch = self.low + self.patch * (self.high - self.low)

    def run(self, places: int, steps: int, draws: Draws) -> dict[str, Tensor]:
        """The patch, and where it works."""
        objective, grounds, indices = self.objective, self.grounds, self.objective.todo
        average = torch.zeros_like(self.patch)
        for k in range(steps if len(indices) else 0):
            share = draws.at(k).take(indices).uniform(objective.x.new_empty(len(indices), 1)).squeeze(1)
            place = (share * grounds.count).long() if grounds.fixed is None else torch.full_like(indices, grounds.fixed)
            z = self._pasted(indices, place)
            slope = objective.slope(z, indices, loss_of(objective.query, self.loss))
            self.best_points.note_gradient(slope.gradient, indices)
            row, column = place // grounds.free[1], place % grounds.free[1]
            gradient = _unit(_cut(slope.gradient, grounds, row, column)) * along(slope.margin >= 0, slope.gradient)
            average = MOMENTUM * average + gradient.mean(0)
            size = cosine(STEP[0], STEP[1], k, steps) * (self.high - self.low)
            self.patch = torch.clamp(self.patch - size * average.sign(), self.low, self.high)
            self.best_points.step()
        return self._judged(places)

    def _judged(self, places: int) -> dict[str, Tensor]:
        """The finished patch at evenly spread places: of those that reach the goal the first one counts."""
        objective, grounds, indices = self.objective, self.grounds, self.objective.todo
        every = grounds.spread(places)
        best = torch.zeros(objective.size, dtype=torch.long, device=objective.x.device)
        least, hits = objective.x.new_full((objective.size,), torch.inf), objective.x.new_zeros(objective.size)
        for at in every if len(indices) else ():
            place = torch.full_like(indices, at)
            z = self._pasted(indices, place)
            margin = objective.look(z, indices)
            better = (margin < least[indices]) & (least[indices] >= 0)
            best[indices[better]], least[indices[better]] = at, margin[better]
            hits[indices] += (margin < 0).to(hits)
            self.best_points.update(z[better], indices[better], margin[better])
        return {
            "row": best // grounds.free[1], "column": best % grounds.free[1], "patch": self.patch,
            "share": hits / len(every),
        }  # fmt: skip

    def _pasted(self, indices: Tensor, place: Tensor) -> Tensor:
        """Images with the patch."""
        objective, grounds = self.objective, self.grounds
        x, region = objective.x[indices], objective.region.take(indices)
        row, column = place // grounds.free[1], place % grounds.free[1]
        down = (torch.arange(grounds.rows, device=x.device) - row.unsqueeze(1)).clamp(0, grounds.height - 1)
        right = (torch.arange(grounds.columns, device=x.device) - column.unsqueeze(1)).clamp(0, grounds.width - 1)
        flat = self.patch.reshape(-1, grounds.height, grounds.width)
        whole = flat[:, down.unsqueeze(2), right.unsqueeze(1)].transpose(0, 1).reshape(x.shape)
        return torch.clamp(torch.where(grounds.window(place, x), whole, x), region.lower, region.upper)


def _cut(images: Tensor, grounds: _Grounds, row: Tensor, column: Tensor) -> Tensor:
    """``(L, …, rows, columns)`` what lies below patches."""
    shape = images.shape
    flat = images.reshape(len(images), -1, grounds.rows, grounds.columns)
    down = row.unsqueeze(1) + torch.arange(grounds.height, device=row.device)
    right = column.unsqueeze(1) + torch.arange(grounds.width, device=row.device)
    run = torch.arange(len(flat), device=row.device).reshape(-1, 1, 1)
    found = flat.permute(0, 2, 3, 1)[run, down.unsqueeze(2), right.unsqueeze(1)].permute(0, 3, 1, 2)
    return found.reshape(len(images), *shape[1:-2], *((grounds.height,) if len(shape) > 2 else ()), grounds.width)


def _unit(gradient: Tensor) -> Tensor:
    """Gradients of mean size one; zero stays zero."""
    size = gradient.flatten(1).abs().sum(1)
    return gradient / along(torch.where(size > 0, size, 1.0), gradient)


def _least(worth: Tensor, indices: Tensor, count: int | None = None) -> Tensor:
    """The runs ``(K,)`` of least worth of each input, in the order of runs: so many, or the best quarter."""
    order = worth.argsort(stable=True)
    order = order[indices[order].argsort(stable=True)]
    ordered = indices[order]
    first = torch.searchsorted(ordered, ordered)
    number = torch.searchsorted(ordered, ordered, right=True) - first
    most = torch.ones_like(number) * count if count else (number / KEPT).ceil().long()
    place = torch.arange(len(order), device=order.device) - first
    return order[place < most].sort().values
