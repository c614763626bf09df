"""Small random boxes and balls with every awkward feature, and slow independent solvers for them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from scipy import optimize


@dataclass
class Case:
    """One problem; all arrays of shape ``(n,)`` in float64."""

    row: np.ndarray
    constant: float
    lower: np.ndarray
    upper: np.ndarray
    center: np.ndarray
    radius: float
    p: float
    weights: np.ndarray | None

    def tensors(self):
        """rows (1, 1, n), lower, upper, center (1, n), radius (1,), weights (1, n) or None."""
        row, lower, upper, center = (torch.from_numpy(a)[None] for a in (self.row, self.lower, self.upper, self.center))
        weights = None if self.weights is None else torch.from_numpy(self.weights)[None]
        return row[None], lower, upper, center, torch.tensor([self.radius], dtype=torch.float64), weights

    @property
    def scale(self) -> np.ndarray:
        return np.ones_like(self.row) if self.weights is None else self.weights


@st.composite
def cases(draw, norms=(0.0, 1.0, 2.0, math.inf), infinite=True):
    """A box, a ball and a half-space: zeros, ties, degenerate and infinite limits, a centre outside the box."""
    n = draw(st.integers(1, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    p = draw(st.sampled_from(norms))
    row = random.normal(size=n) * random.choice([0.0, 1.0, 1.0, 100.0], size=n)
    if draw(st.booleans()):
        row = np.round(row)
    center = random.uniform(-1, 1, n)
    away = random.uniform(-2, 2, n) if draw(st.booleans()) else np.zeros(n)
    lower = center + away - random.uniform(0, 1, n) * (random.random(n) < 0.8)
    upper = center + away + random.uniform(0, 1, n) * (random.random(n) < 0.8)
    if infinite and draw(st.booleans()):
        lower = np.where(random.random(n) < 0.4, -np.inf, lower)
        upper = np.where(random.random(n) < 0.4, np.inf, upper)
    weights = draw(st.sampled_from(["none", "positive", "mask"]))
    w = {"none": None, "positive": random.uniform(0.2, 3, n), "mask": (random.random(n) < 0.6) * 1.5}[weights]
    if p == 0 and weights == "positive":
        w = np.full(n, 0.5)
    radius = float(random.uniform(0, 2.5)) if p else float(random.integers(0, n + 1)) * (1 if w is None else w.max())
    return Case(row, float(random.normal()), lower, upper, center, radius, p, w)


def _finite(limits: np.ndarray) -> np.ndarray:
    """A large box in place of an infinite one, for the solvers."""
    return np.clip(limits, -1e4, 1e4)


def supports(case: Case):
    """For p = 0: every set of changed elements that the radius allows, as a box."""
    n = len(case.row)
    for changed in itertools.product([False, True], repeat=n):
        mask = np.array(changed)
        lower, upper = np.where(mask, case.lower, case.center), np.where(mask, case.upper, case.center)
        if ((case.center >= case.lower) & (case.center <= case.upper) | mask).all():
            yield float(case.scale[mask].sum()), lower, upper


def linear_program(case: Case, cost_x: np.ndarray, cost_t: float, radius: float | None, halfspace: bool):
    """min cost_x·x + cost_t·t with ‖w(x − c)‖_p <= t (p = 1 or inf), t <= radius, and the half-space if asked."""
    n = len(case.row)
    w = np.diag(case.scale)
    eye = np.eye(n)
    size = n if case.p == 1 else 1
    zero = np.zeros((n, size))
    each = -eye if case.p == 1 else -np.ones((n, 1))
    a = [np.hstack([w, each]), np.hstack([-w, each])]
    b = [w @ case.center, -w @ case.center]
    if radius is not None:
        a.append(np.hstack([np.zeros((1, n)), np.ones((1, size))]))
        b.append(np.array([radius]))
    if halfspace:
        a.append(np.hstack([case.row[None], zero[:1]]))
        b.append(np.array([-case.constant]))
    limits = list(zip(_finite(case.lower), _finite(case.upper))) + [(0, None)] * size
    cost = np.concatenate([cost_x, np.full(size, cost_t)])
    return optimize.linprog(cost, np.vstack(a), np.concatenate(b), bounds=limits, method="highs")


def slsqp(function, gradient, constraint, case: Case) -> float | None:
    """Best of some SLSQP runs of a convex problem, or None where no run ended feasible."""
    limits = list(zip(_finite(case.lower), _finite(case.upper)))
    best = None
    for start in (case.center, np.clip(case.center + 0.1, *zip(*limits)), np.clip(0.0, *zip(*limits))):
        x = np.clip(start, *zip(*limits))
        run = optimize.minimize(
            function, x, jac=gradient, bounds=limits, constraints=[constraint], method="SLSQP",
            options={"maxiter": 300, "ftol": 1e-14},
        )  # fmt: skip
        point = np.clip(run.x, *zip(*limits))
        if constraint["fun"](point) >= -1e-8:
            best = function(point) if best is None else min(best, function(point))
    return best
