"""Rotations and translations: three parameters of an image, searched on a grid, at random and by gradients."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, objective_of
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.parameter_search import Effort, Family, search_parameters
from clinch.attacks.core.result import AttackResult
from clinch.errors import ProblemError


@attack_method
def rotation_translation(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    rotation: float = 30.0,
    translation: float = 0.1,
    scaling: float = 0.0,
    grid: int = 7,
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
    """Turn and shift images, bilinearly and with margins of zeros, until the goal is reached.

    A grid, the smallest changes first, then random parameters, then gradient steps from the best: the three attacks of
    Engstrom et al. 2017 (arXiv 1712.02779), who found the grid to be the strongest alone. Where we differ: they go one
    after the other on what is left, the grid has as many values of each parameter (31 · 5 · 5 there), and scaling is a
    fourth parameter. Inputs without rows and columns are one row.

    Args:
        rotation: largest angle in degrees.
        translation: largest shift along each side, as a share of it.
        scaling: largest change of size, as a share.
        grid: values of each parameter; ``random`` parameters more, worst-of-k; 0: none of them.
        random: see there.
        starts: best of these that gradient ``steps`` start from, besides the image itself.
        steps: see there; 0: none.

    Returns:
        The images; ``parameters`` has ``"angle"`` in degrees, ``"down"`` and ``"right"`` in shares of the sides, and
        ``"scale"``, each ``(B,)``. Distances are those of the images for p = infinity.

    Raises:
        ClinchError: an argument that does not fit.

    Example:
        >>> found = rotation_translation(net, x, y)
        >>> found.success.double().mean(), sorted(found.parameters)
        (tensor(1., dtype=torch.float64), ['angle', 'down', 'right', 'scale'])
    """
    effort = Effort(grid, random, starts, steps)
    effort.check()
    if not (0 <= rotation <= 180 and 0 <= translation <= 1 and 0 <= scaling < 1 and rotation + translation + scaling):
        raise ProblemError(
            f"rotation={rotation} is in degrees, at most 180, translation={translation} a share of the sides, scaling="
            f"{scaling} below 1; one of them must be above 0."
        )
    objective = objective_of(net, x, y, target=target, bounds=bounds, scaled=False)
    best_points = BestPoints(objective, record=history, progress=progress, steps=steps + 1)
    reach = torch.tensor([rotation, translation, translation, scaling]).to(objective.x)
    family = Family(("angle", "down", "right", "scale"), reach, moved)
    return search_parameters(best_points, family, effort, objective.draws(seed), loss)


def moved(x: Tensor, theta: Tensor) -> Tensor:
    """Images ``(L, …, height, width)`` turned by degrees, shifted by shares of their sides and scaled ``(L, 4)``."""
    shape = x.shape
    image = x.reshape(len(x), -1, *(shape[-2:] if len(shape) > 2 else (1, shape[-1])))
    height, width = image.shape[-2:]
    angle, size = theta[:, 0] * math.pi / 180, 1 / (1 + theta[:, 3])
    cos, sin = angle.cos() * size, angle.sin() * size
    # from places of the result to places of the image, in halves of its sides
    rows = [
        torch.stack([cos, -sin * height / width, -2 * (cos * theta[:, 2] - sin * theta[:, 1] * height / width)], 1),
        torch.stack([sin * width / height, cos, -2 * (sin * theta[:, 2] * width / height + cos * theta[:, 1])], 1),
    ]
    places = F.affine_grid(torch.stack(rows, 1), list(image.shape), align_corners=False)
    return F.grid_sample(image, places, align_corners=False).reshape(shape)
