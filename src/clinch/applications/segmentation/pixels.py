"""What attacks on segmentation are asked: a class for every pixel, many of which are to change at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from clinch.attacks.core.attack_query import Answer, AttackQuery, Loss
from clinch.attacks.core.batches import parts_of
from clinch.attacks.core.classification import Model, check_p, checked_inputs
from clinch.attacks.core.units import working_dtype
from clinch.errors import NetworkError, ProblemError, ShapeError
from clinch.geometry.elementwise import sigmoid
from clinch.geometry.norms import norm_of
from clinch.geometry.region import Region
from clinch.modeling.model import SymbolicNetwork
from clinch.query import Distance
from clinch.runtime.arguments import as_tensor, checked_outputs, checked_range
from clinch.runtime.gradients import with_gradients


class Pixels(AttackQuery):
    """Wrong classes for pixels, or classes of one's own choice: ``cl.attacks.pgd(Pixels(...), eps=0.1)``.

    With scores ``f (C, *places)`` the margin of pixel i is ``m_i = f_{y_i} − max_{c≠y_i} f_c``, for a target map t
    ``m_i = max_{c≠t_i} f_c − f_{t_i}``; the pixel has changed (taken its target) where it is negative. The goal's
    margin is ``Σ_i [m_i]₊`` over the pixels that count: Balda et al. 2018 (arXiv 1803.03607, section III) with the sum
    of Xie et al. 2017 (arXiv 1703.08603, equation 1), in which pixels that have changed take no part. We differ in that
    the difference is to the best other class instead of a fixed one.

    Losses by name: ``"margin"`` as above; ``"sum of margins"`` ``Σ_i m_i``; ``"cross-entropy"``, its mean over the
    pixels; ``"masked cross-entropy"``, over those that have not changed yet; and, unless told otherwise, ours, ``"soft
    count"`` ``Σ_i 1/(1 + exp(−m_i))``, a smooth number of the pixels that are left: it spends no gradient on pixels
    that are out of reach (``benchmarks/results/segmentation.md`` compares them).

    Args:
        net: ``nn.Module`` in evaluation mode, or what ``cl.load`` returned; outputs ``(N, C, *places)``.
        x: ``(B, *input_shape)`` clean inputs.
        y: ``(B, *places)`` classes; None: what the network says of x.
        target: ``(B, *places)``, ``(*places)`` or one wanted class; None: any class but y.
        counted: booleans ``(B, *places)`` or ``(*places)``, the pixels that count; None: all.
        share: of the counted pixels that must change for the goal to be reached, in (0, 1]; None: as many as possible,
            so that points in a ball are ranked by the number of pixels that have changed. Attacks that look for the
            smallest distance need a share.
        bounds: the range of inputs; None: no limits.
        norm: the norm of distances: 0, 1, 2 or infinity; some attacks take any number from 1 on.

    Attributes:
        y, target, counted: ``(B, P)`` for P pixels; target None for no map.
        needed: ``(B,)`` how many must change.

    Raises:
        NetworkError, ShapeError, NonFiniteError, ProblemError: an argument that does not fit; the message says which.

    Example:
        >>> cl.attacks.apgd(Pixels(net, x, target=figure), eps=0.1, steps=100).success
        tensor([False, False])
    """

    default_loss = "soft count"

    @with_gradients
    def __init__(
        self, net: nn.Module | SymbolicNetwork, x: Tensor, y: Tensor | None = None, *,
        target: Tensor | int | None = None, counted: Tensor | None = None, share: float | None = None,
        bounds: tuple[float, float] | None = (0.0, 1.0), norm: float = torch.inf,
    ) -> None:  # fmt: skip
        check_p(norm, any_p=False)
        if share is not None and not 0 < share <= 1:
            raise ProblemError(f"share={share} is no share of the pixels. Write a number above 0, at most 1, or None.")
        self.model = Model(net)
        self.x = checked_inputs(self.model, x, bounds)
        self.objective, self.dtype, self.size = Distance(self.x, norm_of(norm).p), self.x.dtype, len(self.x)
        low, high = (-torch.inf, torch.inf) if bounds is None else checked_range(bounds)
        self.region = self.limits = Region(torch.full_like(self.x, low), torch.full_like(self.x, high))
        scores = pixel_scores(self.model, self.x)
        self.classes, self.places = scores.shape[1], tuple(scores.shape[2:])
        here = "y", (self.size, *self.places), self.classes, self.x.device
        self.y = scores.flatten(2).argmax(1) if y is None else checked_map(y, *here)
        self.target = None if target is None else checked_map(target, "target", *here[1:])
        self.counted = checked_mask(counted, self.size, self.places, self.x.device)
        number = self.counted.sum(1)
        self.graded, self._some = share is None, share is not None and share < 1
        self.needed = number if share is None else (share * number).ceil().long().clamp(min=1)

    @property
    def losses(self) -> Mapping[str, Loss]:  # type: ignore[override]
        """See :class:`Pixels`."""
        return {
            "soft count": lambda answer, indices, which: self._sum(answer, indices, sigmoid),
            "sum of margins": lambda answer, indices, which: self._sum(answer, indices, torch.clone),
            "cross-entropy": lambda answer, indices, which: self._cross_entropy(answer, indices, masked=False),
            "masked cross-entropy": lambda answer, indices, which: self._cross_entropy(answer, indices, masked=True),
        }

    def answer(self, x: Tensor, indices: Tensor) -> Answer:
        """See :meth:`AttackQuery.answer`; logits are ``(L, C, P)``."""
        scores = self.model(x).to(working_dtype(self.dtype)).flatten(2)
        return Answer(self._missing(self.margins(scores, indices), indices).unsqueeze(1), scores)

    def margins(self, scores: Tensor, indices: Tensor) -> Tensor:
        """The margins m of all pixels ``(L, P)`` from scores ``(L, C, P)``: negative where a pixel has changed."""
        wanted = (self.y if self.target is None else self.target)[indices].unsqueeze(1)
        own = scores.gather(1, wanted).squeeze(1)
        others = scores.scatter(1, wanted, -torch.inf).amax(1)
        return own - others if self.target is None else others - own

    def _missing(self, margins: Tensor, indices: Tensor) -> Tensor:
        """``(L,)``: ``Σ [m_i]₊`` over the pixels that are needed, the easiest ones, divided by their number; once all
        of them are negative the largest. As many as possible: the number of those left, with the same gradient."""
        counted, needed = self.counted[indices], self.needed[indices]
        inside = margins.masked_fill(~counted, torch.inf)
        if self._some:
            inside = inside.sort(1).values
            chosen = torch.arange(inside.shape[1], device=inside.device) < needed.unsqueeze(1)
        else:
            chosen = counted
        hardest = inside.masked_fill(~chosen, -torch.inf).amax(1)
        missing = inside.clamp(min=0).masked_fill(~chosen, 0.0).sum(1) / needed
        margin = torch.where(hardest < 0, hardest, missing)
        if not self.graded:
            return margin
        left = (chosen & ~(inside < 0)).sum(1)
        return torch.where(left > 0, margin - margin.detach() + left, margin)

    def _sum(self, answer: Answer, indices: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
        """Of a function of the margins, over the pixels that count."""
        assert answer.logits is not None
        each = of(self.margins(answer.logits, indices))
        return each.masked_fill(~self.counted[indices], 0.0).sum(1) / self.needed[indices]

    def _cross_entropy(self, answer: Answer, indices: Tensor, masked: bool) -> Tensor:
        scores = answer.logits
        assert scores is not None
        wanted, sign = (self.y, -1.0) if self.target is None else (self.target, 1.0)
        each = sign * functional.cross_entropy(scores, wanted[indices], reduction="none")
        counts = self.counted[indices]
        if masked:
            counts = counts & ~(self.margins(scores.detach(), indices) < 0)
        return each.masked_fill(~counts, 0.0).sum(1) / self.needed[indices]

    def check(self, x: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`AttackQuery.check`; a pixel must have changed in both dtypes."""
        margin = torch.cat([self._missing(self.worse(x[part], indices[part]), indices[part]) for part in parts_of(x)])
        margin = torch.where(margin.isnan() | ~x.flatten(1).isfinite().all(1), torch.inf, margin)
        return (margin < 0) & self.region.take(indices).contains(x), margin

    def worse(self, z: Tensor, indices: Tensor) -> Tensor:
        """The larger of each pixel's margins in the model's dtype and in float64, ``(L, P)`` in float64; NaN: not
        changed."""
        with torch.no_grad():
            scores = self.model(z).flatten(2), self.model.finest(z).flatten(2)
            both = [self.margins(f, indices).double().nan_to_num(nan=torch.inf) for f in scores]
        return torch.maximum(*both)

    def changed(self, z: Tensor) -> Tensor:
        """Which counted pixels have changed, or taken their target, at points ``(B, *input_shape)``: booleans
        ``(B, *places)``."""
        indices = torch.arange(self.size, device=self.x.device)
        z = z.to(self.x)
        margins = torch.cat([self.worse(z[part], indices[part]) for part in parts_of(z)])
        return ((margins < 0) & self.counted).reshape(self.size, *self.places)


def pixel_scores(model: Model, x: Tensor) -> Tensor:
    """Scores ``(N, C, *places)`` of inputs, without gradients.

    Raises:
        NetworkError: the outputs have no places, fewer than two classes, or hold NaN.
    """
    with torch.no_grad():
        scores = torch.cat([checked_outputs(model, x[part]) for part in parts_of(x)])
    if scores.dim() < 3 or len(scores) != len(x) or scores.shape[1] < 2:
        raise NetworkError(
            f"For {len(x)} inputs the network returns shape {tuple(scores.shape)}; segmentation returns "
            "(N, classes, *places), a score of each class for every pixel."
        )
    if not bool(scores.isfinite().all()):
        raise NetworkError("The network returns NaN or infinity for a clean input. Check its weights and the data.")
    return scores


def checked_map(given: Tensor | int, name: str, shape: tuple[int, ...], classes: int, device: torch.device) -> Tensor:
    """A class for every pixel, ``(B, P)``.

    Args:
        given: ``(B, *places)``, ``(*places)`` or one class.
        name: what messages call it.
        shape: ``(B, *places)``.
        classes: their number.
        device: where the result lies.

    Raises:
        ShapeError: another shape, or no whole numbers. ProblemError: a class that does not exist.
    """
    classes_map = as_tensor(given, name, "a tensor of whole numbers, one for each pixel")
    fits = tuple(classes_map.shape) in ((), shape[1:], shape)
    if not fits or classes_map.is_floating_point() or classes_map.dtype == torch.bool:
        raise ShapeError(
            f"{name} has shape {tuple(classes_map.shape)} and dtype {classes_map.dtype}; expected {shape} or "
            f"{shape[1:]} whole numbers."
        )
    wrong = (classes_map < 0) | (classes_map >= classes)
    if bool(wrong.any()):
        raise ProblemError(f"{name} holds class {int(classes_map[wrong][0])}; classes are 0 to {classes - 1}.")
    return classes_map.to(device).long().expand(shape).flatten(1)


def checked_mask(given: Tensor | None, size: int, places: tuple[int, ...], device: torch.device) -> Tensor:
    """Which pixels count, ``(B, P)``.

    Args:
        given: booleans ``(B, *places)`` or ``(*places)``; None: all.
        size: B.
        places: extents of the output.
        device: where the result lies.

    Raises:
        ShapeError: another shape or dtype. ProblemError: of some input no pixel counts.
    """
    if given is None:
        return torch.ones(size, math.prod(places), dtype=torch.bool, device=device)
    mask = as_tensor(given, "counted", "a tensor of booleans, one for each pixel")
    if mask.dtype != torch.bool or tuple(mask.shape) not in (places, (size, *places)):
        raise ShapeError(
            f"counted has shape {tuple(mask.shape)} and dtype {mask.dtype}; expected booleans {(size, *places)} or "
            f"{places}."
        )
    mask = mask.to(device).expand(size, *places).flatten(1)
    empty = (~mask.any(1)).nonzero()
    if len(empty):
        raise ProblemError(f"Of input {int(empty[0])} no pixel counts. Leave at least one in counted=.")
    return mask
