"""Segmentation: pixels that a perturbation changes, pixels that none can, and figures drawn on the output.

Attacks take a :class:`Pixels` goal in the place of a network and labels, ``cl.attacks.apgd(Pixels(net, x), eps=0.1)``.
What they leave open is closed from the other side: CROWN's limits of every pixel's differences of scores prove pixels
that no perturbation in the ball changes, so that the largest number that any of them changes lies in an interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clinch.applications.arguments import network_of
from clinch.applications.segmentation.pixels import Pixels, checked_map, pixel_scores
from clinch.attacks.apgd import apgd
from clinch.attacks.core.classification import Model, checked_inputs
from clinch.attacks.core.result import AttackResult
from clinch.bounds.crown import activation_bounds, never, relaxations_from
from clinch.bounds.refine import write_bounds
from clinch.bounds.regions import ball
from clinch.errors import NetworkError, UnsoundResult
from clinch.geometry.region import Region
from clinch.modeling.model import SymbolicNetwork
from clinch.network.graph import Graph, Node
from clinch.network.ops.base import Interval
from clinch.network.ops.convolution import Convolution
from clinch.runtime.arguments import checked_range
from clinch.runtime.short import short_repr

#: what a difference of scores must keep to prove anything, in units of the largest score: rounding of the bound itself
ROUNDING = 1e-10
#: gradient steps of the attack that stands beside a proof
STEPS = 100


# --- measures -----------------------------------------------------------------------------------------------------


class Measures(NamedTuple):
    """What became of the pixels that count, one number for each of B inputs.

    Attributes:
        changed: share whose class is not y.
        taken: share that has its target; None without a target.
        agreement: mean intersection over union with y; 1 where nothing has changed.
        target_agreement: the same with the target map; None without one.
    """

    changed: Tensor
    taken: Tensor | None
    agreement: Tensor
    target_agreement: Tensor | None

    __repr__ = short_repr


def measures(goal: Pixels, z: Tensor) -> Measures:
    """Measure the network's classes at points ``(B, *input_shape)`` against a goal's classes and target map.

    Args:
        goal: what was wanted; its ``counted`` pixels are measured.
        z: the points, such as an attack's ``x``.

    Example:
        >>> measures(goal, cl.attacks.apgd(goal, eps=0.1).x).changed
        tensor([0., 0.], dtype=torch.float64)
    """
    found = pixel_scores(goal.model, z.to(goal.x)).flatten(2).argmax(1)
    number = goal.counted.sum(1).double()

    def share(hits: Tensor) -> Tensor:
        return (hits & goal.counted).sum(1) / number

    agreement = intersection_over_union(found, goal.y, goal.classes, goal.counted)
    if goal.target is None:
        return Measures(share(found != goal.y), None, agreement, None)
    wanted = intersection_over_union(found, goal.target, goal.classes, goal.counted)
    return Measures(share(found != goal.y), share(found == goal.target), agreement, wanted)


def intersection_over_union(a: Tensor, b: Tensor, classes: int, counted: Tensor | None = None) -> Tensor:
    """Mean over classes c of ``|{a = c} ∩ {b = c}| / |{a = c} ∪ {b = c}|``, classes that neither map has left out.

    Args:
        a: classes ``(B, *places)``.
        b: same shape.
        classes: their number.
        counted: booleans of that shape, the pixels that count; None: all.

    Returns:
        ``(B,)`` float64.

    Example:
        >>> intersection_over_union(torch.tensor([[0, 0, 1]]), torch.tensor([[0, 1, 1]]), 2)
        tensor([0.5000], dtype=torch.float64)
    """
    one_hot = torch.nn.functional.one_hot
    in_a, in_b = one_hot(a.flatten(1), classes).bool(), one_hot(b.flatten(1), classes).bool()
    if counted is not None:
        in_a, in_b = in_a & counted.flatten(1).unsqueeze(2), in_b & counted.flatten(1).unsqueeze(2)
    both, either = (in_a & in_b).sum(1).double(), (in_a | in_b).sum(1).double()
    return (both / either.clamp(min=1)).sum(1) / (either > 0).sum(1)


# --- proofs -------------------------------------------------------------------------------------------------------


def unchangeable(
    net: nn.Module | SymbolicNetwork, x: Tensor, y: Tensor | None = None, *, eps: float | Tensor,
    norm: float = torch.inf, target: Tensor | int | None = None, bounds: tuple[float, float] | None = (0.0, 1.0),
) -> Tensor:  # fmt: skip
    """Which pixels no perturbation changes: CROWN proves ``z_y − z_c > 0`` on all of ball ∩ range for every c ≠ y.

    With a target map: which pixels no perturbation gives their target, ``z_c − z_t > 0`` for some c. The differences of
    all pairs of classes are one more 1 × 1 convolution on the scores, so that each pixel's limits see only its own
    receptive field (:mod:`clinch.bounds.patches`), all pixels at once.

    Args:
        net: segmentation network with outputs ``(N, C, *places)``.
        x: ``(B, *input_shape)``.
        y: ``(B, *places)``; None: what the network says of x.
        eps: radius, one or ``(B,)``.
        norm: 1, 2 or ``cl.inf``; for 0 nothing useful follows.
        target: see :class:`Pixels`.
        bounds: the range of inputs; None: no limits.

    Returns:
        Booleans ``(B, *places)``: True is proven, False says nothing.

    Raises:
        ClinchError: an argument that does not fit, or a layer without a relaxation.

    Example:
        >>> unchangeable(net, x, eps=0.01).double().mean()
        tensor(1., dtype=torch.float64)
    """
    model = Model(net)
    x = checked_inputs(model, x, bounds)
    scores = pixel_scores(model, x)
    shape, classes = (len(x), *scores.shape[2:]), scores.shape[1]
    if target is not None:
        wanted = checked_map(target, "target", shape, classes, x.device)
    else:
        wanted = scores.flatten(2).argmax(1) if y is None else checked_map(y, "y", shape, classes, x.device)
    low, high = (-torch.inf, torch.inf) if bounds is None else checked_range(bounds)
    region = ball(x, eps, norm, lower=low, upper=high)
    network = network_of(net, x)
    limits = _differences(network, region, wanted)
    slack = ROUNDING * (1 + scores.double().flatten(1).abs().amax(1).view(-1, 1))
    proven = limits.lower.amin(2) > slack if target is None else limits.upper.amin(2) < -slack
    return proven.reshape(shape)


def _differences(network: SymbolicNetwork, region: Region, wanted: Tensor) -> Interval:
    """Limits ``(B, P, C)`` of ``z_w − z_c`` over the region for every pixel's class w ``(B, P)``; for c = w they say
    nothing: infinity below, so that they never are the least, and above."""
    graph = network.graph_as(region.lower.dtype, region.lower.device)
    shape = graph.nodes[graph.output].shape
    if len(shape) not in (2, 3, 4):
        raise NetworkError(f"Scores of shape {shape} have no proof; expected (C, *places) with 1 to 3 places' axes.")
    classes, (first, second) = shape[0], torch.triu_indices(shape[0], shape[0], 1)
    pairs = len(first)
    kernel = region.lower.new_zeros(pairs, classes, *[1] * (len(shape) - 1))
    kernel[torch.arange(pairs), first], kernel[torch.arange(pairs), second] = 1.0, -1.0
    ones, none = (1,) * (len(shape) - 1), (0,) * (len(shape) - 1)
    node = Node("differences", Convolution(kernel, None, ones, none, ones, 1), (graph.output,), (pairs, *shape[1:]))
    graph = Graph((*graph.nodes, node))
    j = graph.output
    held = activation_bounds(graph, region, {j})
    relaxations = relaxations_from(graph, held, {j})
    flat = wanted.unsqueeze(1)
    one, two = (side.to(flat.device).view(1, -1, 1) for side in (first, second))
    open_ = (flat == one) | (flat == two)
    lower = torch.full(open_.shape, -torch.inf, dtype=region.lower.dtype, device=flat.device)
    upper = -lower
    write_bounds(graph, j, open_.flatten(1), region, relaxations, (lower.flatten(1), upper.flatten(1)), never)
    return _of_each_class(Interval(lower, upper), wanted, classes, first, second)


def _of_each_class(limits: Interval, wanted: Tensor, classes: int, first: Tensor, second: Tensor) -> Interval:
    """From limits of all pairs ``(B, pairs, P)``, ``z_first − z_second``, to those of ``z_w − z_c``, ``(B, P, C)``."""
    place = torch.zeros(classes, classes, dtype=torch.long, device=wanted.device)
    number = torch.arange(len(first), device=wanted.device)
    place[first, second], place[second, first] = number, number
    at, other = place[wanted], torch.arange(classes, device=wanted.device)
    lower, upper = (t.transpose(1, 2).gather(2, at) for t in limits)
    forward, itself = wanted.unsqueeze(2) < other, wanted.unsqueeze(2) == other
    low, high = torch.where(forward, lower, -upper), torch.where(forward, upper, -lower)
    return Interval(low.masked_fill(itself, torch.inf), high.masked_fill(itself, torch.inf))


@dataclass(frozen=True, repr=False)
class Changeable:
    """How many pixels one perturbation can change, from both sides, for B inputs.

    Attributes:
        changed: ``(B, *places)`` counted pixels that the attack's point changes, in the model's dtype and in float64.
        fixed: ``(B, *places)`` counted pixels that no perturbation changes, proven.
        attack: the attack's result.
        value: ``(B,)`` number changed; ``bound`` the number of counted pixels that are not proven: the largest number
            that any perturbation of the ball changes lies between the two.
        bound: see there.
    """

    changed: Tensor
    fixed: Tensor
    attack: AttackResult
    value: Tensor
    bound: Tensor

    __repr__ = short_repr


def changeable(
    net: nn.Module | SymbolicNetwork, x: Tensor, y: Tensor | None = None, *, eps: float | Tensor,
    norm: float = torch.inf, target: Tensor | int | None = None, counted: Tensor | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0), steps: int = STEPS, restarts: int = 1, seed: int = 0,
) -> Changeable:  # fmt: skip
    """The largest number of pixels that a perturbation within a ball changes, as an interval for each input.

    Below, the best point of APGD on the soft count (:func:`clinch.attacks.apgd` on :class:`Pixels`); above,
    the pixels that :func:`unchangeable` leaves open.

    Args:
        net: segmentation network with outputs ``(N, C, *places)``.
        x: ``(B, *input_shape)``.
        y: ``(B, *places)``; None: what the network says of x.
        eps: radius, one or ``(B,)``.
        norm: 1, 2 or ``cl.inf``.
        target: see :class:`Pixels`: then the number of pixels that take their target.
        counted: see :class:`Pixels`.
        bounds: the range of inputs; None: no limits.
        steps: of the attack; ``restarts`` its runs.
        restarts: see there.
        seed: of the random starts.

    Raises:
        ClinchError: an argument that does not fit. UnsoundResult: attack and proof contradict each other.

    Example:
        >>> found = changeable(net, x, eps=0.02)
        >>> found.value <= found.bound
        tensor([True, True])
    """
    goal = Pixels(net, x, y, target=target, counted=counted, bounds=bounds, norm=norm)
    wanted = (goal.size, *goal.places)
    fixed = unchangeable(
        net, x, goal.y.reshape(wanted), eps=eps, norm=norm, bounds=bounds,
        target=None if goal.target is None else goal.target.reshape(wanted),
    )  # fmt: skip
    fixed = fixed & goal.counted.reshape(wanted).to(fixed.device)
    attack = apgd(goal, eps=eps, steps=steps, restarts=restarts, seed=seed)
    changed = goal.changed(attack.x)
    wrong = changed & fixed.to(changed.device)
    if bool(wrong.any()):
        where = tuple(wrong.nonzero()[0].tolist())
        raise UnsoundResult(f"APGD changes pixel {where}, and CROWN says that nothing does. Please report it.")
    value, held = changed.flatten(1).sum(1), fixed.flatten(1).sum(1)
    return Changeable(changed, fixed, attack, value, goal.counted.sum(1) - held.to(value.device))
