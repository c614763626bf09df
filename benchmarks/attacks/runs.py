"""What benchmarks of attacks inside a ball share: one measured run, and a second look at its points."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.common.second_look import ROUNDING, SecondLook
from clinch.attacks import AttackResult
from clinch.io.data import Images

#: what a radius may be exceeded by, relatively, when it is measured again in float64
AGREEMENT = 1e-6


@dataclass(frozen=True)
class Run:
    """An attack on some images.

    Attributes:
        error: share of images that are misclassified at the points found.
        seconds: CPU seconds.
        passes: mean passes of an image, forward and backward.
        wrong: what a second look does not confirm.
    """

    error: float
    seconds: float
    passes: float
    wrong: tuple[str, ...]


def measure(
    attack: Callable[[Tensor, Tensor], AttackResult], look: SecondLook, images: Images, eps: float, p: float,
    target: Tensor | None = None,
) -> Run:  # fmt: skip
    """Run an attack on images and labels, and look again at what it returns."""
    began = time.process_time()
    found = attack(images.x, images.y)
    seconds = time.process_time() - began
    scores = look.logits(found.x)
    own = torch.nn.functional.one_hot(images.y if target is None else target, scores.shape[1]).bool()
    gap = scores.masked_fill(own, -torch.inf).amax(1) - scores[own]
    holds = gap >= -ROUNDING if target is None else gap <= ROUNDING
    distance = torch.linalg.vector_norm((found.x.double() - images.x.double()).flatten(1), p, dim=1)
    wrong = []
    if not bool(holds[found.success].all()):
        wrong.append(f"onnxruntime does not confirm {int((found.success & ~holds).sum())} points")
    if bool((distance > eps * (1 + AGREEMENT)).any()) or bool(((found.x < 0) | (found.x > 1)).any()):
        wrong.append("a point leaves the ball or [0, 1]")
    return Run(float(found.success.double().mean()), seconds, float(found.passes.double().mean()), tuple(wrong))
