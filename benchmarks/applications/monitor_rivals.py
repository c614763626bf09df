"""Three plain ways to solve the monitor problem, written out for comparison: none of Clinch's engines is used here.

The problem of one image: minimise ‖x − x0‖₂ with x in [0, 1], class y by 1e-3, and one of 20 activations outside its
box by its margin. A *side* is one way out: the top or the bottom of one neuron. On the pre-activations ẑ = W₂h₁ + b₂ a
top is ``ẑ_j >= upper_j + margin_j`` and a bottom ``ẑ_j <= lower_j − margin_j`` (only where that limit is not negative:
a ReLU gives nothing below zero).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

CLASS_MARGIN = 1e-3
#: atoms must hold by this much in the rivals' own arithmetic, so that rounding cannot undo them
SAFETY = 1e-7


@dataclass(frozen=True)
class Sides:
    """One image's problem in float64: network 784-50-20-10, sides as rows ``sign·ẑ_j + offset <= 0``."""

    weights: list[Tensor]
    x0: Tensor
    label: int
    neuron: Tensor
    sign: Tensor
    offset: Tensor

    @staticmethod
    def of(state: dict[str, Tensor], x0: Tensor, label: int, lower: Tensor, upper: Tensor, margin: Tensor) -> Sides:
        """From the network's state dict and the monitor's limits of the image's class."""
        weights = [state[key].double() for key in ("1.weight", "1.bias", "3.weight", "3.bias", "5.weight", "5.bias")]
        index = torch.arange(len(upper))
        bottom = lower - margin
        possible = bottom >= 0
        neuron = torch.cat([index, index[possible]])
        sign = torch.cat([-torch.ones(len(upper)), torch.ones(int(possible.sum()))]).double()
        offset = torch.cat([upper + margin, -bottom[possible]])
        return Sides(weights, x0.double().flatten(), label, neuron, sign, offset)

    @property
    def count(self) -> int:
        """Number of sides."""
        return len(self.neuron)

    def atoms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Sides ``(N, S)`` and class conditions ``(N, 9)`` at points ``(N, 784)``: satisfied where <= 0."""
        w1, b1, w2, b2, w3, b3 = self.weights
        pre = (x @ w1.T + b1).relu() @ w2.T + b2
        z = pre.relu() @ w3.T + b3
        others = torch.arange(z.shape[1]) != self.label
        return self.sign * pre[:, self.neuron] + self.offset, z[:, others] - z[:, [self.label]] + CLASS_MARGIN

    def feasible(self, x: Tensor) -> Tensor:
        """Which points ``(N, 784)`` satisfy everything, the class and at least one side."""
        sides, classes = self.atoms(x)
        inside = ((x >= 0) & (x <= 1)).all(1)
        return inside & (sides.amin(1) <= -SAFETY) & (classes.amax(1) <= -SAFETY)

    def distance(self, x: Tensor) -> Tensor:
        """``‖x − x0‖₂`` of points ``(N, 784)``."""
        return (x - self.x0).norm(dim=1)


@dataclass(frozen=True)
class Answer:
    """The nearest point a rival found (infinity: none) and its CPU seconds."""

    value: float
    seconds: float


Rival = Callable[[Sides], float]


def timed(rival: Rival, problem: Sides) -> Answer:
    """Run one rival on one image."""
    start = time.process_time()
    value = rival(problem)
    return Answer(value, time.process_time() - start)


def _lane_loss(problem: Sides, x: Tensor) -> tuple[Tensor, Tensor]:
    """Lane k's own side and the worst class condition, each ``(S,)``, at points ``(S, 784)``."""
    sides, classes = problem.atoms(x)
    return sides.diagonal(), classes.amax(1)


# --- projected gradient and bisection -----------------------------------------------------------------------------


def projected_gradient(problem: Sides, *, steps: int = 60, rounds: int = 14, restarts: int = 2, seed: int = 0) -> float:
    """Each side is a lane: normalised gradient steps on its violation in the ball of radius b, bisection on b."""
    generator = torch.Generator().manual_seed(seed)
    best = torch.full((problem.count,), torch.inf, dtype=torch.float64)
    for restart in range(restarts):
        low = torch.zeros(problem.count, dtype=torch.float64)
        high = torch.full((problem.count,), 12.0, dtype=torch.float64)
        start = problem.x0.expand(problem.count, -1).clone()
        if restart:
            start = (start + 0.05 * torch.randn(start.shape, generator=generator, dtype=torch.float64)).clamp(0, 1)
        for _ in range(rounds):
            radius = (low + high) / 2
            x, reached = _descend(problem, start, radius, steps)
            found = torch.isfinite(reached)
            best = torch.minimum(best, reached)
            high = torch.where(found, torch.minimum(radius, reached), high)
            low = torch.where(found, low, radius)
            start = torch.where(found[:, None], x, start)
    return float(best.min())


def _descend(problem: Sides, start: Tensor, radius: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Nearest feasible iterate of each lane, and its distance (infinity: none)."""
    x = _into_ball(problem, start, radius)
    kept, reached = x.clone(), torch.full_like(radius, torch.inf)
    for step in range(steps):
        x.requires_grad_(True)
        side, worst = _lane_loss(problem, x)
        loss = (side + SAFETY).clamp(min=-1e-4) + (worst + SAFETY).clamp(min=-1e-4)
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        with torch.no_grad():
            better = problem.feasible(x) & (problem.distance(x) < reached)
            reached = torch.where(better, problem.distance(x), reached)
            kept = torch.where(better[:, None], x, kept)
            length = 0.5 * radius * (1 - step / steps)
            move = gradient / gradient.norm(dim=1, keepdim=True).clamp(min=1e-12)
            x = _into_ball(problem, x - length[:, None] * move, radius)
    return kept, reached


def _into_ball(problem: Sides, x: Tensor, radius: Tensor) -> Tensor:
    """Into ball and box: x0 lies in the box, so clipping after scaling only brings a point nearer."""
    delta = x.detach() - problem.x0
    scale = (radius / delta.norm(dim=1).clamp(min=1e-12)).clamp(max=1)
    return (problem.x0 + scale[:, None] * delta).clamp(0, 1)


# --- penalty and Adam ---------------------------------------------------------------------------------------------


def penalty_adam(problem: Sides, *, steps: int = 250, rounds: int = 6) -> float:
    """Each side is a lane: ``‖δ‖² + c·(violations)`` by Adam, c by bisection in the logarithm."""
    lanes = problem.count
    best = torch.full((lanes,), torch.inf, dtype=torch.float64)
    low, high = torch.full((lanes,), -3.0).double(), torch.full((lanes,), 3.0).double()
    for _ in range(rounds):
        c = 10 ** ((low + high) / 2)
        x = problem.x0.expand(lanes, -1).clone().requires_grad_(True)
        adam = torch.optim.Adam([x], lr=0.02)
        ever = torch.zeros(lanes, dtype=torch.bool)
        for step in range(steps):
            adam.param_groups[0]["lr"] = 0.02 * (1 - 0.95 * step / steps)
            side, worst = _lane_loss(problem, x)
            violation = (side + 1e-4).clamp(min=0) + (worst + 1e-4).clamp(min=0)
            loss = (x - problem.x0).square().sum(1) + c * violation
            adam.zero_grad()
            loss.sum().backward()
            adam.step()
            with torch.no_grad():
                x.clamp_(0, 1)
                ok = problem.feasible(x)
                ever |= ok
                best = torch.where(ok, torch.minimum(best, problem.distance(x)), best)
        high = torch.where(ever, (low + high) / 2, high)
        low = torch.where(ever, low, (low + high) / 2)
    return float(best.min())


# --- SLSQP, one side at a time ------------------------------------------------------------------------------------


class _OutOfTime(Exception):
    """The time box of the image is used up."""


def slsqp_per_side(problem: Sides, *, seconds: float = 60.0) -> float:
    """SciPy's SLSQP on ``‖x − x0‖²`` with exact gradients, sides in the order of their first-order distance."""
    deadline = time.process_time() + seconds
    best = np.inf
    for k in _first_order(problem):
        try:
            point = _slsqp(problem, k, deadline)
        except _OutOfTime:
            break
        x = torch.from_numpy(np.clip(point, 0, 1))[None]
        if bool(problem.feasible(x)):
            best = min(best, float(problem.distance(x)))
    return best


def _first_order(problem: Sides) -> list[int]:
    """Sides by ``value / ‖gradient‖`` at x0."""
    x = problem.x0.expand(problem.count, -1).clone().requires_grad_(True)
    side = problem.atoms(x)[0].diagonal()
    (gradient,) = torch.autograd.grad(side.sum(), x)
    return (side / gradient.norm(dim=1).clamp(min=1e-12)).argsort().tolist()


def _slsqp(problem: Sides, k: int, deadline: float) -> np.ndarray:
    x0 = problem.x0.numpy()

    def conditions(x: np.ndarray) -> np.ndarray:
        if time.process_time() > deadline:
            raise _OutOfTime
        side, classes = problem.atoms(torch.from_numpy(x)[None])
        return -torch.cat([side[0, [k]], classes[0]]).numpy() - 1e-6

    def jacobian(x: np.ndarray) -> np.ndarray:
        def rows(t: Tensor) -> Tensor:
            side, classes = problem.atoms(t[None])
            return -torch.cat([side[0, [k]], classes[0]])

        return torch.autograd.functional.jacobian(rows, torch.from_numpy(x)).numpy()

    return minimize(
        lambda x: float(np.square(x - x0).sum()),
        x0,
        jac=lambda x: 2 * (x - x0),
        method="SLSQP",
        bounds=[(0.0, 1.0)] * len(x0),
        constraints=[{"type": "ineq", "fun": conditions, "jac": jacobian}],
        options={"maxiter": 60, "ftol": 1e-9},
    ).x


RIVALS: dict[str, Rival] = {
    "PGD + bisection": projected_gradient,
    "penalty Adam": penalty_adam,
    "SLSQP per side": slsqp_per_side,
}


def rivals_of(slsqp_seconds: float) -> dict[str, Rival]:
    """:data:`RIVALS`, with so much time for SLSQP."""
    return {**RIVALS, "SLSQP per side": partial(slsqp_per_side, seconds=slsqp_seconds)}
