"""Attacks on what a policy sees: observations changed a little so that its action changes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from clinch.attacks.activation_descent import activation_descent
from clinch.attacks.core.arguments import objective_of
from clinch.attacks.core.batches import parts_of
from clinch.attacks.core.classification import Model, check_p
from clinch.attacks.core.restarts import random_offset
from clinch.attacks.core.result import AttackResult
from clinch.attacks.pgd import pgd
from clinch.attacks.portfolio import worst
from clinch.errors import ProblemError, ShapeError
from clinch.geometry.projection import project_into
from clinch.modeling.model import SymbolicNetwork
from clinch.runtime.arguments import as_number, as_tensor, checked_outputs, checked_range
from clinch.runtime.short import short_repr

#: passes for each observation that :func:`worst` may spend; a policy is attacked at every step of an episode
PASSES = 500
#: steps of projected gradient
STEPS = 40

#: network, observations, actions, and eps, norm, bounds, seed, target -> points
Attack = Callable[..., AttackResult]


def _pgd(net: nn.Module | SymbolicNetwork, x: Tensor, y: Tensor, **where: Any) -> AttackResult:
    return pgd(net, x, y, steps=STEPS, random_start=True, **where)


def _worst(net: nn.Module | SymbolicNetwork, x: Tensor, y: Tensor, **where: Any) -> AttackResult:
    return worst(net, x, y, passes=PASSES, **where)


def _activation_descent(net: nn.Module | SymbolicNetwork, x: Tensor, y: Tensor, **where: Any) -> AttackResult:
    return activation_descent(net, x, y, steps=STEPS, random_start=True, **where)


#: what ``attack=`` can name besides "none" and "noise": another attack joins with its row
ATTACKS: dict[str, Attack] = {"pgd": _pgd, "activation_descent": _activation_descent, "worst": _worst}
#: perturbations that ask for no gradient
PLAIN = ("none", "noise")
AIMS = ("any", "least")


class Perturbed(NamedTuple):
    """Perturbed observations.

    Attributes:
        observation: ``(B, *shape)`` in the network's dtype, within eps of the true one and inside the range.
        clean: ``(B,)`` the actions at the true observations.
        action: ``(B,)`` the actions at the perturbed ones.
    """

    observation: Tensor
    clean: Tensor
    action: Tensor

    __repr__ = short_repr

    @property
    def changed(self) -> Tensor:
        """``(B,)`` where the policy now acts otherwise."""
        return self.clean != self.action


@dataclass
class ObservationAttack:
    """Perturbs observations within eps so that the action of largest score changes.

    For a policy with scores f (Q-values or logits) and its action y = argmax f(s), Yu and Gao's section 6.3:

        s′ = argmax { L(f(s′), y) : ‖s′ − s‖_p ≤ eps, lowest ≤ s′ ≤ highest }

    with L the loss of the attack, as for a classifier whose label is the action (Activation-Descent Regularization,
    ICML 2024; the setting of Oikarinen et al. 2021, arXiv 2008.01976). Where no other action can be reached the best
    attempt is shown.

    Args:
        network: scores ``(N, actions)`` of observations ``(N, *shape)``: an ``nn.Module`` in evaluation mode or what
            ``cl.load`` returned; :func:`clinch.applications.policies.networks.policy_network` takes it out of a
            stable-baselines3 model.
        eps: how far the perturbed observation may be.
        attack: ``"none"``, ``"noise"`` (uniform in the ball's cube, projected into the ball) or a key of
            :data:`ATTACKS`: ``"pgd"``, ``"worst"``.
        norm: 0, 1, 2 or ``cl.inf``.
        bounds: the range of observations; None: no limits.
        aim: ``"any"`` other action, or ``"least"``: the action with the least score, and any other where that is not
            reached.
        seed: of the random parts.

    Raises:
        ProblemError: an argument that does not fit. NetworkError: a model that cannot be attacked.

    Example:
        >>> attack = ObservationAttack(network, eps=0.02)
        >>> attack(observations).changed.double().mean()
        tensor(0.2500, dtype=torch.float64)
    """

    network: nn.Module | SymbolicNetwork
    eps: float
    attack: str = "worst"
    norm: float = math.inf
    bounds: tuple[float, float] | None = (0.0, 1.0)
    aim: str = "any"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.attack not in (*PLAIN, *ATTACKS):
            raise ProblemError(f"There is no attack '{self.attack}'. Choose one of: {', '.join((*PLAIN, *ATTACKS))}.")
        self.eps = as_number(self.eps, "eps")
        if not 0 < self.eps < math.inf:
            raise ProblemError(f"eps={self.eps} must be above 0 and finite.")
        if self.bounds is not None:
            self.bounds = checked_range(self.bounds)
        if self.aim not in AIMS:
            raise ProblemError(f"aim={self.aim!r} is not known. Write 'any' or 'least'.")
        check_p(self.norm, any_p=False)
        self._model = Model(self.network)
        self._generator = torch.Generator().manual_seed(self.seed)

    def scores(self, observations: Tensor) -> Tensor:
        """The policy's scores ``(B, actions)`` of observations ``(B, *shape)``."""
        x = self._read(observations)
        with torch.no_grad():
            found = torch.cat([checked_outputs(self._model, x[part]) for part in parts_of(x)])
        if found.dim() != 2 or len(found) != len(x):
            raise ShapeError(
                f"For {len(x)} observations the network returns shape {tuple(found.shape)}; expected one row of scores "
                "for each, one score for each action."
            )
        return found

    def __call__(self, observations: Tensor) -> Perturbed:
        """Perturb a batch.

        Args:
            observations: ``(B, *shape)``.

        Raises:
            ShapeError, NonFiniteError, ProblemError: observations that do not fit the network or leave ``bounds``.
        """
        x = self._read(observations)
        scores = self.scores(x)
        clean = scores.argmax(1)
        if self.attack == "none":
            return Perturbed(x, clean, clean)
        z = self._noisy(x) if self.attack == "noise" else self._attacked(x, scores)
        return Perturbed(z, clean, self.scores(z).argmax(1))

    def _read(self, observations: Tensor) -> Tensor:
        """Observations ``(B, *shape)`` in the network's dtype, where it is."""
        x = as_tensor(observations, "observations", "a tensor (B, *shape)").to(self._model.device, self._model.dtype)
        if x.dim() < 2:
            raise ShapeError(f"observations have shape {tuple(x.shape)}; expected (B, *shape), for one o[None].")
        return x

    def _noisy(self, x: Tensor) -> Tensor:
        objective = objective_of(
            self.network, x, self.scores(x).argmax(1), bounds=self.bounds, norm=self.norm, scaled=False
        )
        everyone, radius = torch.arange(len(x), device=x.device), x.new_full((len(x),), self.eps, dtype=torch.float64)
        offset = random_offset(objective, radius, objective.draws(self._seed()))
        return project_into(objective.within(radius, everyone), x + offset)

    def _seed(self) -> int:
        """The next one: the same observation at another time meets other random numbers."""
        return int(torch.randint(2**31, (1,), generator=self._generator))

    def _attacked(self, x: Tensor, scores: Tensor) -> Tensor:
        attack, clean = ATTACKS[self.attack], scores.argmax(1)
        where: dict[str, Any] = {"eps": self.eps, "norm": self.norm, "bounds": self.bounds, "seed": self._seed()}
        z, todo = x.clone(), torch.ones(len(x), dtype=torch.bool, device=x.device)
        if self.aim == "least":
            found = attack(self.network, x, clean, target=scores.argmin(1), **where)
            z, todo = found.x, ~found.success
        if bool(todo.any()):
            z[todo] = attack(self.network, x[todo], clean[todo], **where).x
        return z
