"""Activation-descent regularisation (ADR-GD): the input and the pattern of its ReLUs are optimised side by side.

Each ReLU i has variables ``σ_i``; ``a(σ) = 1 − sigmoid(α(σ − 0.5 + 10⁻⁶))`` switches its neurons in a surrogate
network ψ (:mod:`clinch.attacks.switched`), ``σ < 0.5`` is on. With the pre-activations ``ẑ_i(x)`` of the network
itself and the lengths ``n_ij`` of the neurons' gradients in the surrogate::

    minimise over x, σ    L(ψ(x, σ))/‖∂L/∂x‖ + c·Σ_i C_i
    C_i = max_j [ẑ_ij/n_ij]₊[σ_ij − 0.5]₊ + max_j [−ẑ_ij/n_ij]₊[0.5 − σ_ij]₊
    c ← c + r·ΣC, or c − d where ΣC ≤ 10⁻²; σ in [0.3, 0.7], c in [0.2, 10]

by normalised gradient steps, with noise on σ alone where a layer's gradient is short, and σ read from x anew every
so many steps. The point that counts is the best one under the network itself. Yu and Gao 2024 (arXiv 2406.00494,
equations 6 to 10, algorithm 1); the largest violation of a layer counts, and the lengths in the denominators are
constants, as in the authors' program.

We differ: the points stay in the range of inputs; steps are the steepest in the norm and shrink along half a
cosine, where the published ones are Euclidean and of constant length (``steepest=False, last=1.0``); the objective
is divided by the length of its own gradient, in place of logits by their norm; n is estimated by random directions
and averaged over the steps (exact where the input has no more elements than ``settings.probes``), since the exact
one costs a pass for each element of the input. ReLUs alone have variables: other pieces stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clinch.attacks.activation_steps import CLASSIFIER, Lanes, PatternSettings
from clinch.attacks.conditions import Conditions
from clinch.attacks.goal import Answer, Goal, Loss
from clinch.attacks.labels import Labels
from clinch.attacks.losses import loss_of
from clinch.attacks.result import AttackResult, HasQuery
from clinch.attacks.schedule import cosine
from clinch.attacks.starts import starts
from clinch.attacks.state import goal_of, radius_of
from clinch.attacks.switched import Switched, relu_layers
from clinch.attacks.track import Progress, Track
from clinch.errors import ProblemError
from clinch.geometry.projection import project_into
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.load import load
from clinch.network.network import Network
from clinch.query import Query
from clinch.runtime.gradients import with_gradients

#: first step of the input in radii, and the last one in first ones: chosen on the robust network of ``adr-mnist``
STEP, LAST = 0.25, 0.02


@with_gradients
def activation_descent(
    net: nn.Module | Network | HasQuery | Query,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: float | Tensor | None = None,
    norm: float = torch.inf,
    steps: int = 500,
    step_size: float | Tensor | None = None,
    last: float = LAST,
    steepest: bool = True,
    restarts: int = 1,
    random_start: bool | None = None,
    settings: PatternSettings = CLASSIFIER,
    layers: Sequence[str] | None = None,
    loss: str | None = None,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """Descend on the input and on variables for the pattern of active neurons, tied together by a Lagrangian.

    The formulas, their source (Yu and Gao 2024, arXiv 2406.00494) and where we differ: :mod:`this module
    <clinch.attacks.activation_descent>`. ``settings`` holds every number, and the switches of the four ablations.

    Args:
        net: a classifier that ``cl.load`` can read; or a problem with constraints on the network, then without x and y.
        x: ``(B, *input_shape)``.
        y: ``(B,)`` labels.
        eps: radius, one or ``(B,)``; None: that of the problem's own ball.
        norm: 1, 2 or ``cl.inf``.
        steps: of each lane.
        step_size: of the input, one or ``(B,)``; None: ``eps/4``.
        last: size of the last step, in first ones.
        steepest: whether steps are the steepest in the norm (Euclidean for p = 1).
        restarts: lanes of each input; all but the first start at random points of the ball.
        random_start: whether the first does so too; None: only where there are several.
        settings: of the pattern variables: ``CLASSIFIER``, ``ROBUST_CLASSIFIER`` or your own.
        layers: names of the ReLUs that have variables; None: all. The others switch by their own sign.
        loss: L: ``"margin"`` or a key of :data:`clinch.attacks.LOSSES`; None: cross-entropy, for a problem the margin.
        target: one class or ``(B,)``; None: any class but the label.
        bounds: the range of inputs; None: no limits.
        seed: of random starts, noise and probes.
        history: whether to keep the course of the attack.
        progress: called after each step with the numbers of steps done and planned.

    Returns:
        Points inside the ball; see :class:`AttackResult`. Probes count as rows sent forward.

    Raises:
        ClinchError: an argument that does not fit, in one line, before any gradient is spent; a network that cannot be
            read into a graph.

    Example:
        >>> activation_descent(net, x, y, eps=0.25, settings=ROBUST_CLASSIFIER).success.double().mean()
    """
    if steps < 1 or restarts < 1 or not 0 < last <= 1:
        raise ProblemError(f"steps={steps} and restarts={restarts} must be at least 1, last={last} in (0, 1].")
    goal = goal_of(net, x, y, target=target, bounds=bounds, norm=norm, scaled=False)
    radius, named = radius_of(goal, eps), loss_of(goal, loss, published=not settings.normalise)
    if goal.p == 0:
        raise ProblemError(
            "Activation descent has no step for norm=0. Take frank_wolfe or pgd, or norm 1, 2 or cl.inf."
        )
    size = _step_sizes(radius, step_size)
    reading = _reading(goal)
    surrogate = Switched(reading.graph, reading.nodes, relu_layers(reading.graph, layers))
    track = Track(goal, record=history, progress=progress, steps=steps)
    draws = goal.draws(seed)
    noisy = restarts > 1 if random_start is None else random_start
    rows, _, z = starts(track, radius, restarts=restarts, noisy=noisy, draws=draws.at(-1))
    lanes = Lanes(surrogate, z, settings, draws.lanes(rows), goal.p if steepest else None)
    sizes = [cosine(1.0, last, k, steps) for k in range(steps)]
    _descend(track, rows, lanes, goal.within(radius[rows], rows), size[rows], sizes, named, reading)
    return track.result(radius)


class _Reading(NamedTuple):
    """How a goal reads a network: its graph in the model's dtype, the nodes it looks at, and what it says of their
    activations for the rows ``(L,)`` of the points."""

    graph: Graph
    nodes: list[int]
    answer: Callable[[Mapping[int, Tensor], Tensor], Answer]


def _reading(goal: Goal) -> _Reading:
    if isinstance(goal, Conditions):
        query = goal.tight
        return _Reading(query.graph, query.atoms.nodes, lambda seen, rows: goal.answer_from(dict(seen), rows))
    assert isinstance(goal, Labels)
    net = goal.model.net
    network = load(net, None if isinstance(net, Network) else tuple(goal.x.shape[1:]))
    graph = network.graph_as(goal.x.dtype, network.device)
    return _Reading(graph, [graph.output], lambda seen, rows: goal.answer_from(seen[graph.output], rows))


def _step_sizes(radius: Tensor, step_size: float | Tensor | None) -> Tensor:
    """``(B,)``."""
    size = STEP * radius if step_size is None else torch.as_tensor(step_size).to(radius)
    if (
        size.dim() > 1
        or (size.dim() and len(size) != len(radius))
        or not bool((size > 0).all() & size.isfinite().all())
    ):
        raise ProblemError(f"step_size={step_size} must be positive and finite, one number or one for each input.")
    return size.expand(len(radius))


def _descend(
    track: Track, rows: Tensor, lanes: Lanes, ball: Region, size: Tensor, sizes: Sequence[float], named: Loss | None,
    reading: _Reading,
) -> None:  # fmt: skip
    """Lanes of rows ``(L,)``; those whose input reaches its goal leave."""
    goal = track.goal
    forward, backward = lanes.passes
    for share in sizes:
        if not len(rows):
            return
        seen = lanes.look()
        track.update(lanes.z.detach(), rows, reading.answer(seen, rows).margin.detach())
        objective = _loss(reading, rows, named)
        slope = lanes.step(seen, objective, share * size.to(lanes.z), lambda z, ball=ball: project_into(ball, z))
        goal.count(rows, forward=forward, backward=backward)
        track.note_gradient(slope, rows)
        track.step()
        going = ~track.success[rows]
        if not bool(going.all()):
            rows, ball, size = rows[going], ball.take(going), size[going]
            lanes.keep(going)
    if len(rows):
        track.update(lanes.z, rows, goal.look(lanes.z, rows))


def _loss(reading: _Reading, rows: Tensor, named: Loss | None) -> Callable[[Mapping[int, Tensor]], Tensor]:
    which = torch.arange(len(rows), device=rows.device)

    def objective(values: Mapping[int, Tensor]) -> Tensor:
        answer = reading.answer(values, rows)
        return answer.margin if named is None else named(answer, rows, which)

    return objective
