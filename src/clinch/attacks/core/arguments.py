"""From the arguments that all attacks share to a goal, with every check made before a gradient is spent."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clinch.attacks.core.classification import Labels, check_p
from clinch.attacks.core.objective import Goal
from clinch.attacks.core.query_objective import Conditions
from clinch.attacks.core.result import HasQuery
from clinch.errors import ProblemError, ShapeError, UnsupportedByEngine
from clinch.network.network import Network
from clinch.query import Distance, Query


def goal_of(
    net: nn.Module | Network | HasQuery | Query | Goal,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    norm: float = torch.inf,
    outputs: str = "logits",
    any_p: bool = False,
    scaled: bool = True,
) -> Goal:
    """The goal of an attack: classifier, inputs and labels, or a problem alone.

    Args:
        net: a classifier, or a problem (``cl.Problem`` or its normal form); a goal is returned as it is.
        x: ``(B, *input_shape)``; None for a problem.
        y: ``(B,)`` labels; None for a problem.
        target: one wanted class or ``(B,)``; None: any class but the label.
        bounds: the range of inputs; None: no limits. A problem states its own.
        norm: 0, 1, 2 or infinity; a problem whose objective is a distance has its own.
        outputs: ``"logits"`` or ``"probabilities"``.
        any_p: whether the attack takes every p >= 1 (but not 0), instead of 0, 1, 2 and infinity.
        scaled: whether the attack works in the units of :mod:`clinch.attacks.core.units`; otherwise in the user's.

    Raises:
        ProblemError: labels without inputs, or inputs for a problem; and what :class:`Labels` and
            :class:`Conditions` raise.
    """
    if isinstance(net, Goal):
        if x is not None or y is not None or target is not None:
            raise ProblemError("A goal states its own inputs and conditions. Leave out x, y and target.")
        if norm not in (torch.inf, net.p):
            raise ProblemError(f"norm={norm:g}, but the goal measures distances with norm={net.p:g}. Leave norm out.")
        return net
    if isinstance(net, nn.Module | Network) or not (isinstance(net, Query) or hasattr(net, "query")):
        if x is None or y is None:
            raise ProblemError("A classifier is attacked at inputs x with labels y. Pass both, or a cl.Problem alone.")
        return Labels(
            net, x, y, target=target, bounds=bounds, p=norm, outputs=outputs, any_p=any_p, scaled=scaled,  # type: ignore[arg-type]
        )  # fmt: skip
    if x is not None or y is not None or target is not None:
        raise ProblemError("A problem states its own inputs and conditions. Leave out x, y and target.")
    goal = Conditions(net, norm, scaled=scaled)
    check_p(goal.p, any_p)
    return goal


def nearest_goal_of(
    net: nn.Module | Network | HasQuery | Query | Goal,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    norm: float = torch.inf,
) -> Goal:
    """:func:`goal_of` for attacks that look for the smallest distance.

    Raises:
        UnsupportedByEngine: a problem with another objective than a distance, or a goal that is a matter of degree; and
            what :func:`goal_of` raises.
    """
    goal = goal_of(net, x, y, target=target, bounds=bounds, norm=norm)
    _check_enough(goal)
    if isinstance(goal, Conditions) and not isinstance(goal.query.objective, Distance):
        raise UnsupportedByEngine(
            "This attack looks for the smallest distance, and the problem's objective is none. Use "
            "clinch.attacks.minimise instead."
        )
    return goal


def check_norm(goal: Goal, method: str, norms: tuple[float, ...]) -> Goal:
    """The goal itself, where a method that looks for the smallest distance can measure distances to it.

    Raises:
        UnsupportedByEngine: another norm than the method has a meaning for, or weights, or a goal that is a matter of
            degree.
    """
    _check_enough(goal)
    if goal.p not in norms:
        known = " or ".join("cl.inf" if p == torch.inf else f"{p:g}" for p in norms)
        raise UnsupportedByEngine(f"{method} has no meaning for norm={goal.p:g}. Use norm={known}, or another attack.")
    if goal.weights is not None:
        raise UnsupportedByEngine(f"{method} measures distances without weights. Use solve() for them.")
    return goal


def _check_enough(goal: Goal) -> None:
    if goal.partial:
        raise UnsupportedByEngine(
            "This attack looks for the smallest distance, and the goal is as much as possible within a ball. State how "
            "much is enough, such as share=0.5 of the pixels."
        )


def radius_of(goal: Goal, eps: float | Tensor | None) -> Tensor:
    """Radii ``(B,)`` in float64.

    Raises:
        ProblemError: not positive and finite, or missing.
        ShapeError: neither one number nor one for each input.
    """
    if eps is None:
        balls = goal.region.balls
        if len(balls) != 1 or balls[0].p != goal.p:
            raise ProblemError("eps is missing. Give the radius of the ball to attack in, such as eps=0.1.")
        return balls[0].radius.double()
    radius = torch.as_tensor(eps, dtype=torch.float64, device=goal.x.device)
    if radius.dim() and tuple(radius.shape) != (goal.size,):
        raise ShapeError(f"eps has shape {tuple(radius.shape)}; expected one number or ({goal.size},).")
    if not bool((radius > 0).all() and radius.isfinite().all()):
        raise ProblemError(f"eps={eps} must be positive and finite.")
    return goal.shortened(radius.expand(goal.size)).clone()


def steps_of(goal: Goal, step_size: float | Tensor, radius: Tensor) -> Tensor:
    """Step sizes that a user states, one or ``(B,)``, like radii ``(B,)`` of :func:`radius_of`.

    Raises:
        ProblemError: not positive and finite, or neither one number nor one for each input.
    """
    size = torch.as_tensor(step_size).to(radius)
    if size.dim() > 1 or (size.dim() and len(size) not in (1, len(radius))):
        raise ShapeError(f"step_size has shape {tuple(size.shape)}; expected one number or ({goal.size},).")
    if not bool((size > 0).all() and size.isfinite().all()):
        raise ProblemError(f"step_size={step_size} must be positive and finite.")
    return goal.shortened(size.expand(len(radius)), steps=True)
