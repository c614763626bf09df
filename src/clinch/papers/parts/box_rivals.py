"""Random networks over a box and the plain methods that stand beside activation descent there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import clinch as cl
from clinch.attacks.core.gradient_steps import cosine
from clinch.modeling.model import SymbolicNetwork

#: half width of the box
REACH = 1.0


def maximum_over_box(net: SymbolicNetwork) -> cl.Problem:
    """The largest output over ``[−1, 1]^n``."""
    return cl.Problem(cl.Maximize(net.output[0]), [net.input >= -REACH, net.input <= REACH])


class Ascent(NamedTuple):
    """Values ``(L,)`` of the last and of the best points of L lanes."""

    last: Tensor
    best: Tensor


def gradient_ascent(
    net: SymbolicNetwork, z: Tensor, steps: int, size: float, *, last: float = 1.0, sign: bool = False,
    noise: float = 0.0, rest: int = 25, seed: int = 0,
) -> Ascent:  # fmt: skip
    """Projected ascent ``z ← P(z + s·g/‖g‖₂)`` or ``P(z + s·sign(g))`` of L lanes, s from ``size`` to ``last·size``
    along half a cosine, with uniform noise every ``rest`` steps (Jin et al. 2017, arXiv 1703.00887, without its test
    for a small gradient: here none is)."""
    generator, graph = torch.Generator().manual_seed(seed), net.graph
    best = torch.full((len(z),), -torch.inf)
    value = best
    for k in range(steps + 1):
        z = z.detach().requires_grad_()
        value = graph.forward(z)[graph.output][:, 0]
        best = torch.maximum(best, value.detach())
        if k == steps:
            break
        (g,) = torch.autograd.grad(value.sum(), z)
        with torch.no_grad():
            step = g.sign() if sign else g / g.norm(dim=1, keepdim=True).clamp(min=1e-12)
            z = z + size * cosine(1.0, last, k, steps) * step
            if noise and k % rest == rest - 1:
                z = z + noise * (2 * torch.rand(z.shape, generator=generator) - 1)
            z = z.clamp(-REACH, REACH)
    return Ascent(value.detach(), best)


def multi_start(net: SymbolicNetwork, gradients: int, seed: int, steps: int = 200) -> float:
    """Sign gradient from random points, steps along half a cosine, ``gradients`` in all."""
    lanes = max(1, gradients // steps)
    generator = torch.Generator().manual_seed(seed)
    z = REACH * (2 * torch.rand(lanes, *net.input_shape, generator=generator) - 1)
    return float(gradient_ascent(net, z, steps, REACH, last=0.0, sign=True).best.max())


def lbfgs_ascent(net: SymbolicNetwork, gradients: int, seed: int) -> float:
    """SciPy's L-BFGS-B from random points until so many gradients are spent; the best of all."""
    from scipy.optimize import minimize

    graph, generator = net.graph, np.random.default_rng(seed)
    spent, best, n = 0, -np.inf, net.input_shape[0]

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        z = torch.from_numpy(x).float().unsqueeze(0).requires_grad_()
        value = -graph.forward(z)[graph.output][0, 0]
        (g,) = torch.autograd.grad(value, z)
        return float(value.detach()), g[0].double().numpy()

    while spent < gradients:
        start = generator.uniform(-REACH, REACH, n)
        limits = [(-REACH, REACH)] * n
        found = minimize(
            objective, start, jac=True, method="L-BFGS-B", bounds=limits, options={"maxfun": gradients - spent}
        )
        spent, best = spent + max(1, int(found.nfev)), max(best, -float(found.fun))
    return best
