"""How many of a policy's actions can be changed within eps: an interval, attacked below and proven above."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from clinch import bounds
from clinch.applications.arguments import network_of
from clinch.applications.policies.observations import ObservationAttack
from clinch.attacks.core.classification import Model
from clinch.errors import ProblemError, UnsoundResult
from clinch.modeling.model import SymbolicNetwork
from clinch.modeling.norms import norm
from clinch.modeling.problem import Minimize, Problem
from clinch.runtime.arguments import as_seconds, as_tensor
from clinch.runtime.short import short_repr
from clinch.solver.solution import Status


class ActionShares(NamedTuple):
    """What is known of each observation, and of them all.

    Attributes:
        changed: ``(B,)`` an observation within eps was found at which the policy acts otherwise.
        fixed: ``(B,)`` proven: there is none.
    """

    changed: Tensor
    fixed: Tensor

    __repr__ = short_repr

    @property
    def interval(self) -> tuple[float, float]:
        """The share of observations whose action can be changed: attacked, and at most."""
        return float(self.changed.double().mean()), float((~self.fixed).double().mean())


def action_shares(attack: ObservationAttack, observations: Tensor, *, time_limit: float = 0.0) -> ActionShares:
    """The share of observations whose action can be changed within eps, as an interval.

    Below: what the attack changes, checked by the network in its own dtype and in float64. Above: the observations of
    which it is not proven that ``f_y(s′) − f_c(s′) > 0`` on the whole ball for every action c ≠ y; CROWN (arXiv
    1811.00866) for all of them, and ``solve()`` for those that neither side decides.

    Args:
        attack: network, eps, norm and range.
        observations: ``(B, *shape)``.
        time_limit: seconds that ``solve()`` may take, all observations together; 0: CROWN alone.

    Raises:
        ProblemError: "noise" or "none" as attack. UnsupportedOperator: the network has a layer without bounds.
        UnsoundResult: attack and proof contradict each other.

    Example:
        >>> action_shares(ObservationAttack(network, eps=0.005), observations).interval
        (0.0, 0.0)
    """
    if attack.attack in ("none", "noise"):
        raise ProblemError(f"attack='{attack.attack}' looks for nothing. Take 'worst' or 'pgd'.")
    time_limit = as_seconds(time_limit)
    found = attack(observations)
    x, y = as_tensor(observations, "observations", "a tensor (B, *shape)").to(found.observation), found.clean
    changed = _confirmed(attack.network, found.observation, y)
    network = network_of(attack.network, x)
    low, high = attack.bounds or (-torch.inf, torch.inf)
    ball = bounds.ball(x, attack.eps, attack.norm, lower=low, upper=high)
    scores = attack.scores(x)
    eye = torch.eye(scores.shape[1], dtype=torch.float64, device=x.device)
    margin = bounds.crown(network, ball, eye[y].unsqueeze(1) - eye)
    fixed = (margin.scatter(1, y.unsqueeze(1), torch.inf) > 0).all(1)
    left = ~fixed & ~changed
    if time_limit > 0 and bool(left.any()):
        z, s = network.output, network.input
        limits = [] if attack.bounds is None else [s >= low, s <= high]
        other = [norm(s - x[left], attack.norm) <= attack.eps, z.argmax(margin=0.0) != y[left]]
        solution = Problem(Minimize(0), [*limits, *other]).solve(time_limit=time_limit)
        status = solution.status if isinstance(solution.status, tuple | list) else [solution.status]
        fixed[left] = torch.tensor([one is Status.INFEASIBLE for one in status])
        # a point of the search may be a tie, and NaN where there is none: both fail the strict comparison
        changed[left] = _confirmed(attack.network, solution.x.to(x), y[left])
    if bool((fixed & changed).any()):
        raise UnsoundResult("The attack changed an action that CROWN proves cannot change. Please report the network.")
    return ActionShares(changed, fixed)


def _confirmed(network: nn.Module | SymbolicNetwork, z: Tensor, y: Tensor) -> Tensor:
    """Whether another action is strictly better at z in the network's dtype and in float64."""
    model = Model(network)
    with torch.no_grad():
        scores = [model(z), model.finest(z)]
    others = [f.scatter(1, y.unsqueeze(1), -torch.inf).amax(1) > f.gather(1, y.unsqueeze(1)).squeeze(1) for f in scores]
    return others[0] & others[1]
