"""Szegedy's box-constrained L-BFGS with a line search on the weight of the distance, by SciPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from clinch.attacks.core.arguments import attack_method, objective_of
from clinch.attacks.core.attack_query import Answer, Loss
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.classification import ClassQuery
from clinch.attacks.core.losses import loss_of
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.result import AttackResult
from clinch.attacks.core.settings import AttackSettings, Fields
from clinch.attacks.linear_model import draw_back
from clinch.errors import ProblemError, UnsupportedByEngine
from clinch.network.network import Network
from clinch.solver.settings import Positive


@dataclass(frozen=True)
class LbfgsSettings(AttackSettings):
    """Of :func:`lbfgs`.

    Attributes:
        least: first end of the line search, relative to the weight from which on x itself is stationary; ``most`` the
            other one.
    """

    least: Positive = 1e-3
    most: Positive = 4.0


@attack_method
def lbfgs(
    net: nn.Module | Network,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    steps: int = 40,
    searches: int = 9,
    halvings: int = 10,
    sharpness: float = 1.0,
    settings: LbfgsSettings | Fields | None = None,
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
        steps: L-BFGS iterations of each minimisation.
        searches: values of c tried for each target.
        halvings: forward passes of the bisection at the end.
        sharpness: κ of ``CE(κ·z, t)/κ``. 1 is the paper's, whose minimiser also moves away from the third class and
            further; the larger κ is, the less do other classes than the two nearest ones matter.
        history: whether to keep the course of the attack, one line for each c of each target.
        progress: called at the same time.

    Example:
        >>> lbfgs(net, x[:1], y[:1], steps=5, searches=4).distance
        tensor([0.4882], dtype=torch.float64)
    """
    numbers = LbfgsSettings.of(settings)
    if steps < 1 or searches < 1 or halvings < 0:
        raise ProblemError(f"steps={steps} and searches={searches} must be at least 1, halvings={halvings} at least 0.")
    if not 0 < sharpness < torch.inf:
        raise ProblemError(f"sharpness={sharpness} must be positive and finite.")
    objective = objective_of(net, x, y, target=target, bounds=bounds, norm=2)
    query = objective.query
    if not isinstance(query, ClassQuery):
        raise UnsupportedByEngine("L-BFGS lowers a loss of class scores, and a problem has none. Use deepfool or pgd.")
    classes = [None] if query.target is not None else range(query.classes)
    losses = [(wanted, _sharpened(objective, query, wanted, sharpness)) for wanted in classes]
    best_points = BestPoints(
        objective, settings=numbers, record=history, progress=progress, steps=len(losses) * searches
    )
    for wanted, function in losses:
        aimed = [int(row) for row in objective.todo if wanted is None or int(query.y[row]) != wanted]
        runs = [_Run(best_points, row, function, steps) for row in aimed]
        for search in range(searches):
            for run in runs:
                run.search(first=search == 0)
            best_points.step()
    draw_back(best_points, halvings)
    return best_points.result()


def _sharpened(objective: AttackObjective, query: ClassQuery, target: int | None, sharpness: float) -> Loss:
    """Cross-entropy of the objective's own target, or of a class."""
    classes = None if target is None else torch.full_like(query.y, target)
    plain = loss_of(objective.query, "cross-entropy", classes, published=True)
    assert plain is not None

    def loss(answer: Answer, indices: Tensor, which: Tensor) -> Tensor:
        assert answer.logits is not None
        return plain(answer._replace(logits=sharpness * answer.logits), indices, which) / sharpness

    return loss


class _Run:
    """One input on its way to one class."""

    def __init__(self, best_points: BestPoints, row: int, loss: Loss, steps: int) -> None:
        self.best_points, self.loss, self.steps = best_points, loss, steps
        self.indices = torch.tensor([row], device=best_points.objective.x.device)
        self.x = best_points.objective.x[self.indices]
        region = best_points.objective.region.take(self.indices)
        self.lower, self.upper = region.lower, region.upper
        room = ((limit - self.x).double().flatten().cpu().numpy() for limit in (self.lower, self.upper))
        self.limits = list(zip(*room)) if bool(self.lower.isfinite().any()) else None
        self.r = np.zeros(self.x.numel())
        self.low, self.high = 0.0, 0.0

    def search(self, first: bool) -> None:
        """Minimise for the next c and halve the bracket."""
        if first:
            scale = float(np.linalg.norm(self.evaluate(self.r)[1]))
            s = self.best_points.objective.numbers(LbfgsSettings)
            self.low, self.high = (float(np.log(max(scale, 1e-30) * end)) for end in (s.least, s.most))
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
        slope = self.best_points.objective.slope(self.point(r), self.indices, self.loss)
        if not self.r.any():
            self.best_points.note_gradient(slope.gradient, self.indices)
        return float(slope.loss), slope.gradient.double().flatten().cpu().numpy()

    def reached(self, r: np.ndarray) -> bool:
        """Whether a minimiser reaches the goal; it is kept."""
        z = self.point(r)
        margin = self.best_points.objective.look(z, self.indices)
        self.best_points.update(z, self.indices, margin)
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
