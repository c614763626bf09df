"""Activation-descent regularisation (ADR-GD): the input and the pattern of its ReLUs are optimised side by side.

Each ReLU i has variables ``σ_i``; ``a(σ) = 1 − sigmoid(α(σ − 0.5 + 10⁻⁶))`` switches its neurons in a surrogate
network ψ (:mod:`clinch.attacks.gated_network`), ``σ < 0.5`` is on. With the pre-activations ``ẑ_i(x)`` of the network
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
from torch import Tensor

from clinch.attacks.activation_steps import CLASSIFIER, SMALL, PatternRuns, PatternSettings
from clinch.attacks.core.arguments import Attacked, attack_method, objective_of, radius_of
from clinch.attacks.core.attack_query import Answer, Loss
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.classification import ClassQuery
from clinch.attacks.core.gradient_steps import cosine
from clinch.attacks.core.losses import loss_of
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.problem_query import ProblemQuery
from clinch.attacks.core.restarts import starts
from clinch.attacks.core.result import AttackResult, HasQuery, query_of
from clinch.attacks.core.units import TYPICAL
from clinch.attacks.gated_network import GatedNetwork, relu_layers
from clinch.attacks.minimise import random_starts
from clinch.errors import ProblemError, UnsupportedByEngine
from clinch.geometry.projection import project_into
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.load import load
from clinch.network.network import Network
from clinch.query import Distance, Query
from clinch.runtime.gradients import with_gradients

#: first step of the input in radii, and the last one in first ones: chosen on the robust network of ``adr-mnist``
STEP, LAST = 0.25, 0.02


@attack_method
def activation_descent(
    net: Attacked,
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
        norm: 1, 2 or ``cl.inf``.
        steps: of each run.
        step_size: of the input, one or ``(B,)``; None: ``eps/4``.
        last: size of the last step, in first ones.
        steepest: whether steps are the steepest in the norm (Euclidean for p = 1).
        restarts: runs of each input; all but the first start at random points of the ball.
        random_start: whether the first does so too; None: only where there are several.
        settings: of the pattern variables: ``CLASSIFIER``, ``ROBUST_CLASSIFIER`` or your own.
        layers: names of the ReLUs that have variables; None: all. The others switch by their own sign.
        loss: L: ``"margin"`` or a key of :data:`clinch.attacks.LOSSES`; None: cross-entropy, for a problem the margin.
        seed: of random starts, noise and probes.

    Returns:
        Points inside the ball; see :class:`AttackResult`. Probes count as rows sent forward.

    Raises:
        ClinchError: an argument that does not fit, in one line, before any gradient is spent; a network that cannot be
            read into a graph.

    Example:
        >>> from clinch.attacks.activation_steps import ROBUST_CLASSIFIER
        >>> activation_descent(net, x, y, eps=0.25, settings=ROBUST_CLASSIFIER).success.double().mean()
        tensor(1., dtype=torch.float64)
    """
    if steps < 1 or restarts < 1 or not 0 < last <= 1:
        raise ProblemError(f"steps={steps} and restarts={restarts} must be at least 1, last={last} in (0, 1].")
    objective = objective_of(net, x, y, target=target, bounds=bounds, norm=norm, scaled=False)
    radius, named = radius_of(objective, eps), loss_of(objective.query, loss, published=not settings.normalise)
    if objective.norm.counts:
        raise ProblemError(
            "Activation descent has no step for norm=0. Take frank_wolfe or pgd, or norm 1, 2 or cl.inf."
        )
    size = _step_sizes(radius, step_size)
    reading = _reading(objective)
    surrogate = GatedNetwork(reading.graph, reading.nodes, relu_layers(reading.graph, layers))
    best_points = BestPoints(objective, record=history, progress=progress, steps=steps)
    draws = objective.draws(seed)
    noisy = restarts > 1 if random_start is None else random_start
    indices, _, z = starts(best_points, radius, restarts=restarts, noisy=noisy, draws=draws.at(-1))
    runs = PatternRuns(surrogate, z, settings, draws.runs(indices), objective.p if steepest else None)
    sizes = [cosine(1.0, last, k, steps) for k in range(steps)]
    _descend(
        best_points, indices, runs, objective.within(radius[indices], indices), size[indices], sizes, named, reading
    )
    return best_points.result(radius)


class _Reading(NamedTuple):
    """How a goal reads a network: its graph in the model's dtype, the nodes it looks at, and what it says of their
    activations for the indices ``(L,)`` of the points."""

    graph: Graph
    nodes: list[int]
    answer: Callable[[Mapping[int, Tensor], Tensor], Answer]


def _reading(objective: AttackObjective) -> _Reading:
    query = objective.query
    if isinstance(query, ProblemQuery):
        return _Reading(query.tight.graph, query.nodes, lambda seen, indices: query.answer_from(dict(seen), indices))
    assert isinstance(query, ClassQuery)
    net = query.model.net
    network = load(net, None if isinstance(net, Network) else tuple(objective.x.shape[1:]))
    graph = network.graph_as(objective.x.dtype, network.device)
    scores = graph.deciding(graph.output)
    return _Reading(graph, [scores], lambda seen, indices: query.answer_from(seen[scores], indices))


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
    best_points: BestPoints, indices: Tensor, runs: PatternRuns, ball: Region, size: Tensor, sizes: Sequence[float],
    named: Loss | None, reading: _Reading,
) -> None:  # fmt: skip
    """Runs of indices ``(L,)``; those whose input reaches its goal leave."""
    objective = best_points.objective
    forward, backward = runs.passes
    for share in sizes:
        if not len(indices):
            return
        seen = runs.look()
        best_points.update(runs.z.detach(), indices, reading.answer(seen, indices).margin.detach())
        lowered = _loss(reading, indices, named)
        slope = runs.step(seen, lowered, share * size.to(runs.z), lambda z, ball=ball: project_into(ball, z))
        objective.count(indices, forward=forward, backward=backward)
        best_points.note_gradient(slope, indices)
        best_points.step()
        going = ~best_points.success[indices]
        if not bool(going.all()):
            indices, ball, size = indices[going], ball.take(going), size[going]
            runs.keep(going)
    if len(indices):
        best_points.update(runs.z, indices, objective.look(runs.z, indices))


def _loss(reading: _Reading, indices: Tensor, named: Loss | None) -> Callable[[Mapping[int, Tensor]], Tensor]:
    which = torch.arange(len(indices), device=indices.device)

    def lowered(values: Mapping[int, Tensor]) -> Tensor:
        answer = reading.answer(values, indices)
        return answer.margin if named is None else named(answer, indices, which)

    return lowered


#: step of the input, in Euclidean radii of the region: the published one on the small random networks
REGION_STEP = 0.16


@with_gradients
def minimise_by_activation_descent(
    problem: HasQuery | Query,
    *,
    steps: int = 3000,
    starts: int = 5,
    spread: bool = False,
    step_size: float | None = None,
    last: float = 1.0,
    settings: PatternSettings = SMALL,
    layers: Sequence[str] | None = None,
    seed: int = 0,
) -> AttackResult:
    """Minimise or maximise a problem's objective by :func:`activation_descent`'s iteration.

    The surrogate's objective takes the place of the loss; with ``Maximize(z[0])`` over a box and the default arguments
    that is the setting of Yu and Gao 2024 (arXiv 2406.00494, section 6.4). While a point violates a clause of the
    problem, its step follows the clause instead of the objective; points that violate one never count.

    Args:
        problem: a problem whose objective is no distance, or its normal form.
        steps: of each run.
        starts: runs of each problem.
        spread: whether all runs but the first start at random points; otherwise they differ in their noise alone.
        step_size: Euclidean length of a step; None: 0.16 radii of the region.
        last: length of the last step, in first ones; below 1 they shrink along half a cosine.
        settings: of the pattern variables: ``SMALL``, ``LARGE`` or your own.
        layers: names of the ReLUs that have variables; None: all.
        seed: of random starts, noise and probes.

    Returns:
        Points, feasibility, values in the minimising sense and row counts; see :class:`AttackResult`.

    Raises:
        ProblemError: an argument that does not fit.
        UnsupportedByEngine: the objective is a distance.

    Example:
        >>> problem = cl.Problem(cl.Maximize(net.output[0]), [net.input >= -1, net.input <= 1])
        >>> -minimise_by_activation_descent(problem, starts=1, steps=20).value
        tensor([35.1818], dtype=torch.float64)
    """
    if steps < 1 or starts < 1 or not 0 < last <= 1 or (step_size is not None and not 0 < step_size < torch.inf):
        raise ProblemError(
            f"steps={steps} and starts={starts} must be at least 1, last={last} in (0, 1], step_size={step_size} "
            "positive and finite."
        )
    stated = query_of(problem)
    if isinstance(stated.objective, Distance):
        raise UnsupportedByEngine("Activation descent follows outputs, and the objective is a distance. Use nearest.")
    gates, query = relu_layers(stated.graph, layers), ProblemQuery(stated, needed=False, lowers=True)
    objective = AttackObjective(query)
    best_points = BestPoints(objective)
    indices = torch.arange(objective.size, device=objective.x.device).repeat_interleave(starts)
    own, draws = query.tight.take(indices), objective.draws(seed).runs(indices)
    start = objective.start[indices]
    if spread:
        start = random_starts(own.region, start, starts, draws.at(-1))
    runs = PatternRuns(GatedNetwork(own.graph, own.nodes, gates), start, settings, draws)
    size = REGION_STEP * _radius(own.region) if step_size is None else runs.z.new_full((own.size,), step_size)
    _minimise(best_points, own, indices, runs, [size * cosine(1.0, last, k, steps) for k in range(steps)])
    return best_points.result()


def _minimise(best_points: BestPoints, own: Query, indices: Tensor, runs: PatternRuns, sizes: Sequence[Tensor]) -> None:
    """All steps of L runs; what is found goes to the best points."""
    forward, backward = runs.passes
    for size in sizes:
        if best_points.exhausted:
            return
        seen = runs.look()
        violated = _note(best_points, own, indices, runs.z.detach(), seen)
        runs.step(seen, _objective(own, violated), size, lambda z: project_into(own.region, z))
        best_points.objective.count(indices, forward=forward, backward=backward)
    with torch.no_grad():
        _note(best_points, own, indices, runs.z, runs.surrogate.evaluate(runs.z))
    best_points.objective.count(indices, forward=1)


def _note(best_points: BestPoints, own: Query, indices: Tensor, z: Tensor, seen: Mapping[int, Tensor]) -> Tensor:
    """Keep the feasible points; which of them violate a clause."""
    activations = {**seen, 0: z}
    violation = own.violation(own.atoms.values(activations)).detach()
    violated = violation > 0
    margin = torch.where(violated, violation, -1.0)
    best_points.update(z, indices, margin, own.objective.value(z, activations).detach())
    return violated


def _objective(own: Query, violated: Tensor) -> Callable[[Mapping[int, Tensor]], Tensor]:
    """The violation where there is one, elsewhere the objective."""

    def lowered(values: Mapping[int, Tensor]) -> Tensor:
        activations = dict(values)
        value = own.objective.value(activations[0], activations)
        if not own.clauses:
            return value
        return torch.where(violated, own.violation(own.atoms.values(activations)), value)

    return lowered


def _radius(region: Region) -> Tensor:
    """``(L,)`` half the diagonal of the box, or the radius of a smaller ball in it."""
    half = ((region.upper - region.lower) / 2).flatten(1)
    length = torch.linalg.vector_norm(torch.where(half.isfinite(), half, TYPICAL), dim=1)
    for ball in region.balls:
        length = torch.minimum(length, ball.radius) if not ball.norm.counts and ball.weights is None else length
    return length
