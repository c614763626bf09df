"""Szegedy's box-constrained L-BFGS with a line search on the weight of the distance, by SciPy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from clinch.attacks.core.arguments import goal_of
from clinch.attacks.core.best_points import Progress, Track
from clinch.attacks.core.classification import Labels
from clinch.attacks.core.losses import loss_of
from clinch.attacks.core.objective import Answer, Loss
from clinch.attacks.core.result import AttackResult
from clinch.attacks.linear_model import draw_back
from clinch.errors import ProblemError, UnsupportedByEngine
from clinch.network.network import Network
from clinch.runtime.gradients import with_gradients

#: ends of the line search, relative to the weight from which on x itself is stationary
LEAST, MOST = 1e-3, 4.0


@with_gradients
def lbfgs(
    net: nn.Module | Network,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    steps: int = 40,
    searches: int = 9,
    halvings: int = 10,
    sharpness: float = 1.0,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """``min_r c·‖r‖₂ + CE(z(x + r), t)  s.t.  x + r in the range``, with the largest c whose minimiser gives t.

    Szegedy et al. 2014 (arXiv 1312.6199, section 4.1), by SciPy's L-BFGS-B. The line search is a bisection of log c
    between 1/1000 of ``‖∇CE(x)‖₂``, from which on x itself is stationary, and 4 times that; it starts each minimisation
    at the last one that reached its target. Without ``target`` the nearest over all other classes. Where we differ:
    a minimiser counts whatever other class it gives, and the nearest is drawn back along its ray.

    SciPy takes one input and one target at a time, so that this is a reference, far slower than the other attacks.

    Args:
        net: a classifier.
        x: ``(B, *input_shape)``.
        y: ``(B,)`` labels.
        steps: L-BFGS iterations of each minimisation.
        searches: values of c tried for each target.
        halvings: forward passes of the bisection at the end.
        sharpness: κ of ``CE(κ·z, t)/κ``. 1 is the paper's, whose minimiser also moves away from the third class and
            further; the larger κ is, the less do other classes than the two nearest ones matter.
        target: one class or ``(B,)``; None: any class but the label.
        bounds: the range of inputs; None: no limits.
        history: whether to keep the course of the attack, one line for each c of each target.
        progress: called at the same time.

    Returns:
        The nearest points found; see :class:`AttackResult`.

    Raises:
        ClinchError: an argument that does not fit, in one line, before any gradient is spent.

    Example:
        >>> lbfgs(net, x[:1], y[:1], steps=5, searches=4).distance
        tensor([0.4882], dtype=torch.float64)
    """
    if steps < 1 or searches < 1 or halvings < 0:
        raise ProblemError(f"steps={steps} and searches={searches} must be at least 1, halvings={halvings} at least 0.")
    if not 0 < sharpness < torch.inf:
        raise ProblemError(f"sharpness={sharpness} must be positive and finite.")
    goal = goal_of(net, x, y, target=target, bounds=bounds, norm=2)
    if not isinstance(goal, Labels):
        raise UnsupportedByEngine("L-BFGS lowers a loss of class scores, and a problem has none. Use deepfool or pgd.")
    losses = _losses(goal, sharpness)
    track = Track(goal, record=history, progress=progress, steps=len(losses) * searches)
    for wanted, function in losses:
        aimed = [int(row) for row in goal.todo if wanted is None or int(goal.y[row]) != wanted]
        lanes = [_Lane(track, row, function, steps) for row in aimed]
        for search in range(searches):
            for lane in lanes:
                lane.search(first=search == 0)
            track.step()
    draw_back(track, halvings)
    return track.result()


def _losses(goal: Labels, sharpness: float) -> list[tuple[int | None, Loss]]:
    """Cross-entropy of the goal's own target, or of each class in turn."""
    classes = [None] if goal.target is not None else range(goal.classes)
    return [(t, _sharpened(goal, t, sharpness)) for t in classes]


def _sharpened(goal: Labels, target: int | None, sharpness: float) -> Loss:
    classes = None if target is None else torch.full_like(goal.y, target)
    plain = loss_of(goal, "cross-entropy", classes, published=True)
    assert plain is not None

    def loss(answer: Answer, rows: Tensor, which: Tensor) -> Tensor:
        assert answer.logits is not None
        return plain(answer._replace(logits=sharpness * answer.logits), rows, which) / sharpness

    return loss


class _Lane:
    """One input on its way to one class."""

    def __init__(self, track: Track, row: int, loss: Loss, steps: int) -> None:
        self.track, self.loss, self.steps = track, loss, steps
        self.rows = torch.tensor([row], device=track.goal.x.device)
        self.x = track.goal.x[self.rows]
        region = track.goal.region.take(self.rows)
        self.lower, self.upper = region.lower, region.upper
        room = ((limit - self.x).double().flatten().cpu().numpy() for limit in (self.lower, self.upper))
        self.limits = list(zip(*room)) if bool(self.lower.isfinite().any()) else None
        self.r = np.zeros(self.x.numel())
        self.low, self.high = 0.0, 0.0

    def search(self, first: bool) -> None:
        """Minimise for the next c and halve the bracket."""
        if first:
            scale = float(np.linalg.norm(self.evaluate(self.r)[1]))
            self.low, self.high = np.log(max(scale, 1e-30) * LEAST), np.log(max(scale, 1e-30) * MOST)
        if self.high <= self.low:
            return
        log_c = self.low if first else (self.low + self.high) / 2
        from scipy.optimize import minimize as scipy_minimize

        found = scipy_minimize(
            partial(_weighted, self.evaluate, np.exp(log_c)), self.r, jac=True, method="L-BFGS-B", bounds=self.limits,
            options={"maxiter": self.steps},
        )  # fmt: skip
        if self.reached(found.x):
            self.low, self.r = log_c, found.x
        elif first:
            self.high = self.low  # not even nearly without the distance
        else:
            self.high = log_c

    def evaluate(self, r: np.ndarray) -> tuple[float, np.ndarray]:
        """The loss at x + r and its gradient."""
        slope = self.track.goal.slope(self.point(r), self.rows, self.loss)
        if not self.r.any():
            self.track.note_gradient(slope.gradient, self.rows)
        return float(slope.loss), slope.gradient.double().flatten().cpu().numpy()

    def reached(self, r: np.ndarray) -> bool:
        """Whether a minimiser reaches the goal; it is kept."""
        z = self.point(r)
        margin = self.track.goal.look(z, self.rows)
        self.track.update(z, self.rows, margin)
        return bool(margin < 0)

    def point(self, r: np.ndarray) -> Tensor:
        """x + r in the model's dtype, inside the range."""
        z = self.x.double() + torch.as_tensor(r, device=self.x.device).reshape(self.x.shape)
        return torch.maximum(torch.minimum(z.to(self.x), self.upper), self.lower)


def _weighted(
    evaluate: Callable[[np.ndarray], tuple[float, np.ndarray]], c: float, r: np.ndarray
) -> tuple[float, np.ndarray]:
    """``c·‖r‖₂ + loss`` and its gradient; at r = 0 the distance has the subgradient 0."""
    value, gradient = evaluate(r)
    length = float(np.linalg.norm(r))
    return value + c * length, gradient + (c / length * r if length > 0 else 0.0)
