"""Both directions of the monitor problem: the nearest input that trips a monitor, the nearest that slips past it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

import torch
from torch import Tensor

from clinch.applications.arguments import Loadable, labels_of, norm_among
from clinch.applications.monitors.arguments import opened
from clinch.applications.monitors.joined import Monitor
from clinch.applications.monitors.radius_schedule import Alternative, RadiusSchedule
from clinch.geometry.norms import NORMS
from clinch.modeling.constraints import Constraint
from clinch.modeling.model import SymbolicNetwork
from clinch.network.activations import predicted
from clinch.runtime.arguments import as_gap, as_seconds
from clinch.runtime.short import short_repr

#: margin of every class condition in logits, as in the monitor benchmark
CLASS_MARGIN = 1e-3
#: problems that are searched together where an input has several, and inputs where each has one
TOGETHER, SINGLE = 256, 4


@dataclass(frozen=True, eq=False, repr=False)
class Nearest:
    """For each of B inputs the nearest one of some kind: ``bound <= distance of the nearest <= value``.

    Attributes:
        x: ``(B, *input_shape)`` what was found, NaN where nothing was.
        value: ``(B,)`` its distance, infinity where nothing was found.
        bound: ``(B,)`` proven: nothing of the kind is nearer; infinity: there is nothing of the kind.
        start: ``(B,)`` classes of the inputs, ``end`` ``(B,)`` of what was found, −1 where nothing was.
        seconds: time spent.
        notes: what the user should know, one sentence each.
    """

    x: Tensor
    value: Tensor
    bound: Tensor
    start: Tensor
    end: Tensor
    seconds: float
    notes: tuple[str, ...] = ()

    __repr__ = short_repr


def nearest_objection(
    network: Loadable,
    monitor: Monitor,
    x: Tensor,
    *,
    norm: float = 2,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    time_limit: float | None = 60.0,
    gap: float = 1e-2,
    seed: int = 0,
) -> Nearest:
    """The nearest input of the same class to which the monitor objects: a false alarm.

    ``min ‖x − x0‖_p  s.t.  argmax z(x) = argmax z(x0) (by 1e-3),  the monitor objects,  l <= x <= u``: the monitor
    problem for B inputs at once. An input to which the monitor objects as it is has distance 0.

    Args:
        network: what ``clinch.load`` returned, or takes.
        monitor: what watches it.
        x: ``(B, *input_shape)`` the inputs x0.
        norm: 0, 1, 2 or ``cl.inf``.
        bounds: the range of inputs; None: no limits.
        time_limit: seconds for all inputs together, None: no limit; reaching it is a normal ending.
        gap: relative gap between value and bound at which an input counts as solved.
        seed: of random starts.

    Raises:
        ClinchError: an argument that does not fit, in one line, before any work.

    Example:
        >>> from clinch.applications.monitors import fit_monitor
        >>> found = nearest_objection(net, fit_monitor(net, "relu2", x_train), x_test[:2])
        >>> found.value, found.bound
        (tensor([0.3498, 0.2658], dtype=torch.float64), tensor([0.3498, 0.2638], dtype=torch.float64))
    """
    network, x = opened(network, monitor, x, bounds)
    p = norm_among(norm, NORMS)
    start = predicted(network, x)

    def alternatives(rows: Tensor) -> list[Alternative]:
        count, everyone = len(monitor.objecting(network, 0)), torch.arange(len(rows))
        if monitor.apart:
            return [
                Alternative(torch.tensor([0]), start[rows], _choice(network, monitor.objecting, k))
                for k in range(count)
            ]
        return [Alternative(everyone, start[rows], _choice(network, monitor.objecting, k)) for k in range(count)]

    return _nearest(
        network, x, start, alternatives, p, bounds, as_seconds(time_limit), as_gap(gap), seed, monitor.apart
    )


def nearest_missed(
    network: Loadable,
    monitor: Monitor,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    norm: float = 2,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    time_limit: float | None = 60.0,
    gap: float = 1e-2,
    seed: int = 0,
) -> Nearest:
    """The nearest input that the network calls another class than the true one while the monitor accepts it: a miss.

    ``min over c ≠ y of  min ‖x − x0‖_p  s.t.  argmax z(x) = c (by 1e-3),  the monitor accepts x as c,  l <= x <= u``:
    the other direction of the monitor problem, evading a detector. An input that is called another class and accepted
    as it is has distance 0.

    Args:
        network, monitor, x, norm, bounds, time_limit, gap, seed: as :func:`nearest_objection`.
        labels: ``(B,)`` true classes; None: those the network gives.

    Raises:
        ClinchError: an argument that does not fit, in one line, before any work.

    Example:
        >>> from clinch.applications.monitors import fit_monitor
        >>> nearest_missed(net, fit_monitor(net, "relu2", x_train), x_test[:1], y_test[:1]).bound
        tensor([0.5300], dtype=torch.float64)
    """
    network, x = opened(network, monitor, x, bounds)
    p = norm_among(norm, NORMS)
    start = predicted(network, x) if labels is None else labels_of(network, labels, len(x), "labels")

    def alternatives(rows: Tensor) -> list[Alternative]:
        others = torch.arange(monitor.classes - 1).expand(len(rows), -1)
        others = (others + (others >= start[rows].unsqueeze(1))).flatten()
        owner = torch.arange(len(rows)).repeat_interleave(monitor.classes - 1)
        count = len(monitor.accepting(network, 0))
        if monitor.apart:
            return [
                Alternative(torch.tensor([0]), c, _choice(network, monitor.accepting, k))
                for c in others.split(1) for k in range(count)
            ]  # fmt: skip
        return [Alternative(owner, others, _choice(network, monitor.accepting, k)) for k in range(count)]

    return _nearest(
        network, x, start, alternatives, p, bounds, as_seconds(time_limit), as_gap(gap), seed, monitor.apart
    )


def _choice(
    network: SymbolicNetwork, conditions: Callable[[SymbolicNetwork, Tensor], list[Constraint]], k: int
) -> Callable[[Tensor], list[Constraint]]:
    """The k-th alternative for problems of some classes, and the class itself."""

    def stated(classes: Tensor) -> list[Constraint]:
        return [network.output.argmax(margin=CLASS_MARGIN) == classes, conditions(network, classes)[k]]

    return stated


def _nearest(
    network: SymbolicNetwork, x: Tensor, start: Tensor, alternatives: Callable[[Tensor], list[Alternative]],
    norm: float, bounds: tuple[float, float] | None, time_limit: float, gap: float, seed: int, apart: bool = False,
) -> Nearest:  # fmt: skip
    """Groups of inputs one after the other, each with its share of the time that is left."""
    began, size = monotonic(), len(x)
    end = torch.full((size,), -1)
    point, value = torch.full_like(x, torch.nan), torch.full((size,), torch.inf, dtype=torch.float64)
    bound, notes = torch.zeros_like(value), []
    per_input = sum(len(alternative.owner) for alternative in alternatives(torch.arange(1)))
    together = 1 if apart else SINGLE if per_input == 1 else max(1, TOGETHER // per_input)
    groups = torch.arange(size).split(together)
    for k, rows in enumerate(groups):
        seconds = max(0.0, time_limit - (monotonic() - began)) / (len(groups) - k)
        schedule = RadiusSchedule(
            network, x[rows], norm, bounds, alternatives(rows), seconds=seconds, gap=gap, seed=seed
        )
        schedule.solve()
        found = schedule.ledger
        point[rows], value[rows], bound[rows], end[rows] = found.x, found.value, found.bound, schedule.end
        notes += found.notes
    return Nearest(point, value, bound, start, end, monotonic() - began, tuple(dict.fromkeys(notes)))
