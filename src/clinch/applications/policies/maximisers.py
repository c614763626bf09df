"""Ways to find the best action near the actor's: a table that another method joins with one row.

A maximiser reads a :class:`Question` and returns, for every state, the best action that it *saw* and its value by the
critic itself. The actor's own action is always among those, so that no refinement makes the critic's value worse.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clinch import bounds
from clinch.attacks.activation_descent import minimise_by_activation_descent
from clinch.attacks.core.gradient_steps import cosine
from clinch.errors import UnsoundResult
from clinch.modeling.model import load
from clinch.modeling.problem import Maximize, Problem

#: seconds for all states together that :func:`exact` may take
EXACT_SECONDS = 10.0
#: relative gap at which :func:`exact` stops
EXACT_GAP = 1e-3
#: how far rounding in float64 may carry a value past a bound, relative to it
ROUNDING = 1e-9


class Question(NamedTuple):
    """Where the critic is to be maximised, for B states with A action elements.

    Attributes:
        critic: ``(N, S + A) → (N, 1)``, the state's features first.
        state: ``(B, S)`` features of the states.
        action: ``(B, A)`` the actor's.
        lower: ``(B, A)`` the smallest actions allowed; ``upper`` the largest.
    """

    critic: nn.Module
    state: Tensor
    action: Tensor
    lower: Tensor
    upper: Tensor

    def value(self, actions: Tensor) -> Tensor:
        """Q-values ``(B, R)`` of actions ``(B, R, A)``; gradients flow."""
        state = self.state.unsqueeze(1).expand(-1, actions.shape[1], -1)
        return self.critic(torch.cat([state, actions], 2).flatten(0, 1)).view(actions.shape[:2])

    def double(self) -> Question:
        """The same question in float64, with a copy of the critic."""
        return Question(copy.deepcopy(self.critic).double(), *(t.double() for t in self[1:]))

    def box(self) -> tuple[Tensor, Tensor]:
        """The limits of the critic's whole input ``(B, S + A)`` in float64; of the state both are the state itself."""
        return torch.cat([self.state, self.lower], 1).double(), torch.cat([self.state, self.upper], 1).double()


class Best(NamedTuple):
    """What a maximiser found.

    Attributes:
        action: ``(B, A)``.
        value: ``(B,)`` the critic there.
    """

    action: Tensor
    value: Tensor


#: question, steps, restarts, random numbers -> the best action seen
Maximiser = Callable[[Question, int, int, torch.Generator], Best]


def gradient(question: Question, steps: int, restarts: int, generator: torch.Generator) -> Best:
    """Projected sign gradient whose steps shrink to zero: ``a ← P(a + s_k·½(u − l)⊙sign ∇_a Q(s, a))``, s_k from 1 to 0
    by half a cosine, from the actor's action and R − 1 uniform ones at once; the best action of all steps counts.

    Args:
        question: states and boxes.
        steps: gradient steps.
        restarts: R.
        generator: of the starts.
    """
    low, high = question.lower.unsqueeze(1), question.upper.unsqueeze(1)
    half = (high - low) / 2
    a = starts(question, restarts, generator)
    best, most = a.clone(), torch.full_like(a[..., 0], -torch.inf)
    for k in range(steps + 1):
        a.requires_grad_(k < steps)
        with torch.set_grad_enabled(k < steps):
            value = question.value(a)
        better = value.detach() > most
        best = torch.where(better.unsqueeze(2), a.detach(), best)
        most = torch.where(better, value.detach(), most)
        if k < steps:
            (slope,) = torch.autograd.grad(value.sum(), a)
            a = (a.detach() + cosine(1.0, 0.0, k, steps) * half * slope.sign()).clamp(low, high)
    return chosen(best, most)


def exact(question: Question, steps: int, restarts: int, generator: torch.Generator) -> Best:
    """The maximum that ``cl.Maximize`` finds, beside that of :func:`gradient`; far slower, for small critics."""
    found = gradient(question, steps, restarts, generator)
    action, _ = searched(question, EXACT_SECONDS, EXACT_GAP)
    return better(question, found.action, action)


def activation_descent(question: Question, steps: int, restarts: int, generator: torch.Generator) -> Best:
    """ADR-GD on the action with the state fixed (:func:`clinch.attacks.minimise_by_activation_descent`)."""
    seed = int(torch.randint(2**31, (1,), generator=generator))
    found = minimise_by_activation_descent(
        stated(question), steps=steps, starts=restarts, spread=True, last=0.02, seed=seed
    )
    return better(question, question.action, found.x[:, question.state.shape[1] :])


#: what ``method=`` can name
MAXIMISERS: dict[str, Maximiser] = {"gradient": gradient, "activation_descent": activation_descent, "exact": exact}


def starts(question: Question, restarts: int, generator: torch.Generator) -> Tensor:
    """``(B, R, A)``: the actor's action, then uniform ones of the box."""
    size, width = question.action.shape
    draw = torch.rand((size, restarts, width), generator=generator).to(question.action)
    low, high = question.lower.unsqueeze(1), question.upper.unsqueeze(1)
    a = low + draw * (high - low)
    a[:, 0] = question.action
    return a.clamp(low, high)


def better(question: Question, action: Tensor, other: Tensor) -> Best:
    """The better of two actions ``(B, A)`` for each state; a row of the other that is not finite does not count."""
    other = torch.where(other.isfinite().all(1, keepdim=True), other, action).to(action)
    both = torch.stack([action, other.clamp(question.lower, question.upper)], 1)
    with torch.no_grad():
        return chosen(both, question.value(both))


def chosen(actions: Tensor, values: Tensor) -> Best:
    """The best of the actions ``(B, R, A)`` of each state; NaN counts as the worst."""
    value, which = values.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).max(1)
    return Best(actions[torch.arange(len(which)), which], value)


# --- bounds: no action does better --------------------------------------------------------------------------------


def relaxed(question: Question) -> Tensor:
    """``(B,)`` float64, at least the critic's maximum over each box: ``−min(−Q)`` by CROWN (arXiv 1811.00866)."""
    low, high = question.box()
    network = load(question.critic, input_shape=low.shape[1:])
    return -bounds.crown(network, bounds.box(low, high), -low.new_ones(1, 1)).flatten().cpu()


def stated(question: Question) -> Problem:
    """``maximize Q(s, a)`` over the boxes: B problems on the critic itself, with states that have no room."""
    low, high = question.box()
    network = load(question.critic, input_shape=low.shape[1:])
    return Problem(Maximize(network.output[0]), [network.input >= low, network.input <= high])


def searched(question: Question, seconds: float, gap: float) -> tuple[Tensor, Tensor]:
    """What ``solve()`` says of :func:`stated`: the best actions ``(B, A)``, NaN where none, and bounds ``(B,)`` in
    float64."""
    solution = stated(question).solve(time_limit=seconds, gap=gap)
    action = solution.x[:, question.state.shape[1] :].to(question.action)
    return action, torch.as_tensor(solution.bound, dtype=torch.float64)


def proven(question: Question, action: Tensor, bound: str, seconds: float) -> tuple[Best, Tensor]:
    """A certified interval of each maximum.

    Args:
        question: states and boxes.
        action: ``(B, A)`` the best so far.
        bound: ``"crown"``, or ``"search"`` for ``solve()``, which may find a better action too.
        seconds: that the search may take, all states together.

    Returns:
        The better of the actions with its value in float64, and bounds ``(B,)`` that hold for every action of the box.

    Raises:
        UnsoundResult: an action's value lies above its bound.
    """
    wide = question.double()
    if bound == "crown":
        other, upper = action, relaxed(question)
    else:
        other, upper = searched(question, seconds, EXACT_GAP)
    best = better(wide, action.double(), other.double())
    best = Best(best.action.to(action), best.value)
    value = best.value.cpu()
    if bool((value > upper + ROUNDING * upper.abs().clamp(min=1.0)).any()):
        raise UnsoundResult(f"An action's value lies above the bound by '{bound}'. Please report this with the critic.")
    return best, upper
