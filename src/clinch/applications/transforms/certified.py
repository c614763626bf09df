"""What a classifier says of images under changes with few parameters: attacked, and certified by halving boxes of them.

A box of parameters is certified where CROWN proves the class of a whole box of images that holds what they make
(:func:`clinch.applications.transforms.families.enclosed`); others are halved along the parameter that moves most
pixels. As boxes of parameters shrink so do those of images. Rotations were certified by boxes of pixels and halves of
the angle in DeepPoly (Singh et al. 2019, POPL), with lines in place of boxes in DeepG (Balunović et al. 2019, NeurIPS);
where we differ: any number of changes at once, each box as tight as bilinear interpolation on rectangles of places is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.applications.arguments import Loadable, inputs_of, labels_of, network_of
from clinch.applications.transforms.families import NAMES, Transforms, changed, enclosed
from clinch.attacks.core.arguments import objective_of
from clinch.attacks.core.best_points import BestPoints
from clinch.attacks.core.parameter_search import Effort, search_parameters
from clinch.bounds.crown import crown
from clinch.errors import ProblemError
from clinch.geometry.region import Region
from clinch.modeling.model import SymbolicNetwork
from clinch.modeling.problem import Minimize, Problem
from clinch.network.activations import predicted
from clinch.network.ops.base import Interval
from clinch.runtime.arguments import as_seconds, as_whole, checked_range
from clinch.runtime.deadline import clock
from clinch.solver.solution import Status

#: boxes that are bounded at once: so many numbers of images, at most so many boxes
NUMBERS, TOGETHER = 1 << 19, 512
#: values of each parameter in the attack's grid, combinations at most, and what is tried beside it
GRID, COMBINATIONS, RANDOM, STARTS, STEPS = 9, 800, 20, 3, 20


@dataclass(frozen=True, eq=False, repr=False)
class Transformed:
    """What is known of B images.

    Attributes:
        transforms: what was changed.
        correct: ``(B,)`` whether the unchanged image has its label.
        certified: ``(B,)`` whether no change gives another label, proven.
        parameters: ``(B, 7)`` of a change that gives another label, NaN where none is known; of stickers row and
            column of the first pixel, and NaN.
        x: ``(B, *input_shape)`` that image, the unchanged one where none is known.
        boxes: ``(B,)`` of parameters that were looked at.
        seconds: of everything.
    """

    transforms: Transforms
    correct: Tensor
    certified: Tensor
    parameters: Tensor
    x: Tensor
    boxes: Tensor
    seconds: float

    @property
    def attacked(self) -> Tensor:
        """``(B,)`` whether an image with another label is known; the unchanged one counts."""
        return ~self.correct | ~self.parameters.isnan().all(1)

    @property
    def accuracy(self) -> tuple[float, float]:
        """Shares of images between which the share lies that keeps its label under all changes."""
        return float(self.certified.double().mean()), 1 - float(self.attacked.double().mean())

    def to_rows(self) -> list[dict[str, object]]:
        """A row for each image."""
        names = ("row", "column") if self.transforms.sticker else NAMES
        return [
            {
                "image": b,
                "verdict": "certified" if sure else "attacked" if wrong else "open",
                "boxes": int(self.boxes[b]),
                **{n: float(v) for n, v in zip(names, self.parameters[b]) if not v.isnan()},
            }
            for b, (sure, wrong) in enumerate(zip(self.certified.tolist(), self.attacked.tolist()))
        ]

    def __str__(self) -> str:
        low, high = self.accuracy
        count = len(self.correct)
        lines = [
            f"changes    {self.transforms}",
            f"images     {count}, {int(self.correct.sum())} with their label unchanged",
            f"certified  {int(self.certified.sum())} of {count}",
            f"attacked   {int(self.attacked.sum())} of {count}",
            f"accuracy   {low:.1%} to {high:.1%} under these changes",
            f"time       {self.seconds:.1f} s",
        ]
        return "\n".join(lines)

    __repr__ = __str__


def under_transforms(
    net: Loadable,
    x: Tensor,
    y: Tensor,
    transforms: Transforms | str,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    time_limit: float | None = 60.0,
    boxes: int = 20_000,
    seed: int = 0,
) -> Transformed:
    """Attack and certify images under all changes of a family.

    Args:
        net: a classifier, of images ``(B, …, height, width)``.
        x: ``(B, *input_shape)``. y: ``(B,)`` labels.
        transforms: how far they may be changed, or text such as ``"rotation=5,brightness=0.1"``.
        bounds: the range of pixels.
        time_limit: seconds for all of them; None: no limit.
        boxes: of parameters of one image, at most.
        seed: of the attack.

    Returns:
        Which images are certified, and changes of others that give another label, each checked by the network itself.

    Raises:
        ProblemError: changes that have no meaning, or inputs without rows and columns.

    Example:
        >>> found = under_transforms(net, x[:2], y[:2], "brightness=0.01")
        >>> found.certified
        tensor([True, True])
    """
    transforms = Transforms.read(transforms) if isinstance(transforms, str) else transforms
    network, bounds = network_of(net, x), checked_range(bounds)
    x = inputs_of(network, x, bounds)
    if x.dim() < 3:
        raise ProblemError(f"Images have rows and columns; x has shape {tuple(x.shape)}.")
    y = labels_of(network, y, len(x))
    search = _Stickers if transforms.sticker else _Parameters
    return search(network, x, y, transforms, bounds, as_seconds(time_limit), as_whole(boxes, "boxes"), seed).run()


class _Search:
    """The images, and what is known of them."""

    def __init__(
        self, network: SymbolicNetwork, x: Tensor, y: Tensor, transforms: Transforms, bounds: tuple[float, float],
        time_limit: float | None, most: int, seed: int,
    ) -> None:  # fmt: skip
        self.network, self.images, self.y, self.transforms, self.bounds = network, x, y, transforms, bounds
        self.began, self.most, self.seed = clock(), most, seed
        self.end = self.began + (float("inf") if time_limit is None else time_limit)
        self.exact = x.double()
        self.low, self.high = (self.exact.new_tensor(float(side)) for side in bounds)
        size = len(x)
        self.correct = predicted(network, x) == y
        self.certified = torch.zeros(size, dtype=torch.bool)
        self.parameters, self.found = self.exact.new_full((size, len(NAMES)), torch.nan), x.clone()
        self.boxes = torch.zeros(size, dtype=torch.long)
        #: images per pass
        self.together = max(1, min(TOGETHER, NUMBERS // max(1, self.exact[0].numel())))

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return clock() >= self.end

    @property
    def known_wrong(self) -> Tensor:
        """``(B,)`` images of which a change with another label is known."""
        return ~self.parameters.isnan().all(1)

    def result(self) -> Transformed:
        """What is known now."""
        certified = self.certified & ~self.known_wrong
        return Transformed(
            self.transforms, self.correct, certified, self.parameters, self.found, self.boxes, clock() - self.began
        )

    def lead(self, box: Interval, image: Tensor) -> Tensor:
        """``(L,)`` by how much the labels of images ``(L,)`` lead at least, all over boxes of images."""
        count = self.network.graph.nodes[self.network.graph.output].size
        eye = torch.eye(count, dtype=torch.float64)
        label = self.y[image]
        rows = eye[label].unsqueeze(1) - eye
        others = torch.arange(count).expand(len(image), -1) != label.unsqueeze(1)
        rows = rows[others].reshape(len(image), count - 1, count)
        return crown(self.network, Region(box.lower, box.upper), rows).amin(1)

    def note(self, image: Tensor, x: Tensor, parameters: Tensor) -> None:
        """Remember changed images ``(L, …)`` that the network gives another label."""
        shown = x.clamp(*self.bounds).to(self.images.dtype)
        wrong = predicted(self.network, shown) != self.y[image]
        for at in wrong.nonzero().flatten().tolist():
            b = int(image[at])
            if bool(self.parameters[b].isnan().all()):
                self.parameters[b, : parameters.shape[1]], self.found[b] = parameters[at], shown[at]


class _Parameters(_Search):
    """Boxes of parameters, halved."""

    def run(self) -> Transformed:
        """The attack, then boxes, those of all images side by side."""
        self._attack()
        image = (self.correct & ~self.known_wrong).nonzero().flatten()
        reach = torch.tensor(self.transforms.reach, dtype=torch.float64).expand(len(image), -1)
        least, most = -reach, reach.clone()
        # blurs are alike on both sides
        least[:, 4] = 0.0
        self.certified[image] = True
        weight = self._weights()
        while len(image):
            if self.late:
                self.certified[image] = False
                break
            self.boxes += torch.bincount(image, minlength=len(self.images))
            open_ = self._open(image, least, most)
            image, least, most = image[open_], least[open_], most[open_]
            if not len(image):
                break
            middle = (least + most) / 2
            for part in torch.arange(len(image)).split(self.together):
                x = changed(self.exact[image[part]], middle[part], self.low, self.high)
                self.note(image[part], x, middle[part])
            spent = self.boxes > self.most
            self.certified[spent & torch.isin(torch.arange(len(self.images)), image)] = False
            going = ~self.known_wrong[image] & ~spent[image]
            image, least, most, middle = image[going], least[going], most[going], middle[going]
            at = (weight[image] * (most - least)).argmax(1, keepdim=True)
            halves = least.scatter(1, at, middle.gather(1, at)), most.scatter(1, at, middle.gather(1, at))
            image, least, most = image.repeat(2), torch.cat([least, halves[0]]), torch.cat([halves[1], most])
        return self.result()

    def _attack(self) -> None:
        free = sum(value > 0 for value in self.transforms.reach)
        grid = min(GRID, int(COMBINATIONS ** (1 / free)) // 2 * 2 + 1)
        objective = objective_of(self.network, self.images, self.y, bounds=self.bounds, scaled=False)
        best = BestPoints(objective, steps=STEPS + 1)
        low, high = self.low.to(objective.x), self.high.to(objective.x)
        family = self.transforms.family(low, high)
        effort = Effort(grid, RANDOM, STARTS, STEPS)
        found = search_parameters(best, family, effort, objective.draws(self.seed), "margin")
        assert found.parameters is not None
        theta = torch.stack([found.parameters[name] for name in NAMES], 1).double().cpu()
        image = found.success.cpu().nonzero().flatten()
        self.note(image, found.x[image].to(self.images), theta[image])

    def _open(self, image: Tensor, least: Tensor, most: Tensor) -> Tensor:
        """``(P,)`` boxes whose images are not all certified."""
        found = torch.ones(len(image), dtype=torch.bool)
        for part in torch.arange(len(image)).split(self.together):
            if self.late:
                break
            at = image[part]
            box = enclosed(self.exact[at], least[part], most[part], self.low, self.high)
            found[part] = ~(self.lead(box, at) > 0)
        return found

    def _weights(self) -> Tensor:
        """``(B, 7)`` by how much a unit of each parameter widens the boxes of an image."""
        reach = torch.tensor(self.transforms.reach, dtype=torch.float64)
        size = len(self.exact)
        weights = self.exact.new_zeros(size, len(NAMES))
        for k in (reach > 0).nonzero().flatten().tolist():
            step = torch.zeros_like(reach)
            step[k] = reach[k] / 64
            box = enclosed(self.exact, -step.expand(size, -1), step.expand(size, -1), self.low, self.high)
            weights[:, k] = (box.upper - box.lower).flatten(1).sum(1) / step[k]
        return weights


class _Stickers(_Search):
    """A box of images for each place of a square; those that CROWN leaves open are solved."""

    def run(self) -> Transformed:
        """Image by image; places that are open after CROWN go to all engines together."""
        shape, side = self.exact.shape, self.transforms.sticker
        height, width = shape[-2:]
        if side > min(height, width):
            raise ProblemError(f"A sticker of {side} × {side} pixels is larger than images of {height} × {width}.")
        rows, columns = (torch.arange(n - side + 1) for n in (height, width))
        places = torch.cartesian_prod(rows, columns)
        inside = (torch.arange(height) >= places[:, :1]) & (torch.arange(height) < places[:, :1] + side)
        across = (torch.arange(width) >= places[:, 1:]) & (torch.arange(width) < places[:, 1:] + side)
        mask = inside.unsqueeze(2) & across.unsqueeze(1)
        todo = self.correct.nonzero().flatten()
        for number, b in enumerate(todo.tolist()):
            self._one(b, places, mask, (self.end - clock()) / (len(todo) - number))
        return self.result()

    def _one(self, b: int, places: Tensor, mask: Tensor, seconds: float) -> None:
        image = self.exact[b]
        open_ = []
        for part in torch.arange(len(places)).split(self.together):
            if self.late:
                return
            free = mask[part].reshape(len(part), *[1] * (image.dim() - 2), *mask.shape[1:])
            box = Interval(torch.where(free, self.low, image), torch.where(free, self.high, image))
            at = torch.full((len(part),), b)
            self.boxes[b] += len(part)
            open_ += part[~(self.lead(box, at) > 0)].tolist()
        if not open_:
            self.certified[b] = True
            return
        free = mask[open_].reshape(len(open_), *[1] * (image.dim() - 2), *mask.shape[1:])
        x, z = self.network.input, self.network.output
        region = [x >= torch.where(free, self.low, image), x <= torch.where(free, self.high, image)]
        left = None if self.end == float("inf") else max(0.0, min(seconds, self.end - clock()))
        asked = Problem(Minimize(0.0 * z[0]), [*region, z.argmax(margin=0.0) != int(self.y[b])])
        found = asked.solve(time_limit=left, seed=self.seed)
        statuses = found.status if isinstance(found.status, list) else [found.status]
        some = torch.isfinite(torch.as_tensor(found.value)).reshape(-1).nonzero().flatten()
        if len(some):
            self.note(torch.full((len(some),), b), found.x[some].to(self.exact), places[open_][some].double())
        self.certified[b] = all(status is Status.INFEASIBLE for status in statuses)
