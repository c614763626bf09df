"""Brightness, contrast, saturation and hue: parameters of an image, searched on a grid, at random and by gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, objective_of
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.parameter_search import Effort, Family, search_parameters
from clinch.attacks.core.result import AttackResult
from clinch.errors import ProblemError
from clinch.geometry.region import unbounded

#: brightness and two axes of colour of red, green and blue (NTSC)
YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


@attack_method
def colour(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    brightness: float = 0.2,
    contrast: float = 0.2,
    saturation: float = 0.0,
    hue: float = 0.0,
    grid: int = 5,
    random: int = 10,
    starts: int = 3,
    steps: int = 20,
    loss: str | None = "margin",
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """Change brightness and contrast of whole images, saturation and hue of coloured ones, until the goal is reached.

    ``x' = clip(m + (1 + c)·(x − m) + b·w)`` with the middle m and the width w of the range; before that the colour,
    what differs between the channels, is multiplied by ``1 + s`` and turned by h degrees in the plane of the NTSC
    standard's axes I and Q. Hosseini and Poovendran 2018 (arXiv 1804.00499) shift hue and saturation at random; where
    we differ: in that plane, which needs no case distinction, brightness and contrast besides, and by a grid, the
    smallest changes first, random parameters, and gradient steps from the best.

    Args:
        brightness: largest b, a share of the range; ``contrast`` c and ``saturation`` s are shares too, ``hue`` h is in
            degrees.
        contrast: see there.
        saturation: see there; images of three channels only.
        hue: see there, likewise.
        grid: values of each parameter; ``random`` parameters more; 0: none of them.
        random: see there.
        starts: best of these that gradient ``steps`` start from, besides the image itself.
        steps: see there; 0: none.

    Returns:
        The images; ``parameters`` has each of the four ``(B,)`` by its name. Distances are those of the images for
        p = infinity.

    Raises:
        ClinchError: an argument that does not fit, or inputs without a range.

    Example:
        >>> found = colour(net, x, y, brightness=0.5, contrast=0.5)
        >>> found.success.double().mean()
        tensor(1., dtype=torch.float64)
    """
    effort, most = Effort(grid, random, starts, steps), (brightness, contrast, saturation, hue)
    effort.check()
    if not (min(most) >= 0 and any(most) and hue <= 180 and max(most[:3]) <= 1):
        raise ProblemError(
            f"brightness={brightness}, contrast={contrast} and saturation={saturation} are shares from 0 to 1, hue="
            f"{hue} is in degrees, at most 180; one of them must be above 0."
        )
    objective = objective_of(net, x, y, target=target, bounds=bounds, scaled=False)
    shape = objective.x.shape
    if (saturation or hue) and (len(shape) != 4 or shape[1] != 3):
        raise ProblemError(f"saturation= and hue= need images (B, 3, height, width); x has shape {tuple(shape)}.")
    limits = objective.query.limits
    error = unbounded(limits, "A change of brightness")
    if error is not None:
        raise error
    low, high = limits.lower.amin().to(objective.x), limits.upper.amax().to(objective.x)

    def changed(image: Tensor, theta: Tensor) -> Tensor:
        """See :func:`colour`."""
        b, c, s, h = (theta[:, k] for k in range(4))
        image = coloured(image, s, h) if saturation or hue else image
        middle = (low + high) / 2
        return middle + along(1 + c, image) * (image - middle) + along(b * (high - low), image)

    best_points = BestPoints(objective, record=history, progress=progress, steps=steps + 1)
    family = Family(("brightness", "contrast", "saturation", "hue"), torch.tensor(most).to(objective.x), changed)
    return search_parameters(best_points, family, effort, objective.draws(seed), loss)


def coloured(x: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Images ``(L, 3, height, width)`` whose colour is ``1 + saturation (L,)`` times as strong and turned by degrees
    ``(L,)``."""
    axes = torch.tensor(YIQ, dtype=x.dtype, device=x.device)
    cos, sin = ((1 + saturation) * turn(hue * math.pi / 180) for turn in (torch.cos, torch.sin))
    one, none = torch.ones_like(cos), torch.zeros_like(cos)
    turned = torch.stack([one, none, none, none, cos, -sin, none, sin, cos], 1).reshape(-1, 3, 3)
    matrix = torch.linalg.solve(axes, turned @ axes)
    return torch.einsum("lij,ljhw->lihw", matrix, x)
