"""Fitting monitors: boxes or balls around the activations of each class, with a threshold from held-out inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from clinch.applications.arguments import Loadable, inputs_of, network_of
from clinch.applications.monitors.arguments import opened
from clinch.applications.monitors.balls import BallMonitor
from clinch.applications.monitors.blind import widened
from clinch.applications.monitors.boxes import BoxMonitor, check_settings, watched
from clinch.applications.monitors.clusters import k_means
from clinch.applications.monitors.joined import JoinedMonitor, Monitor
from clinch.errors import ProblemError
from clinch.modeling.model import SymbolicNetwork
from clinch.network.activations import predicted
from clinch.runtime.arguments import as_number, as_whole

#: what :func:`fit_monitor` makes
KINDS = ("box", "gaussian", "distance")
#: every so manieth training input is held out for the threshold
HELD = 5
#: thresholds at least, relative to the fit's own, and halvings of their interval
SMALLEST, HALVINGS = 0.55, 30


def fit_monitor(
    network: Loadable,
    layers: str | Sequence[str],
    x: Tensor,
    *,
    kind: str = "box",
    boxes: int = 1,
    quantile: float = 0.0,
    accept: float | None = None,
    held_out: Tensor | None = None,
    blind_radius: float | None = None,
    norm: float | str = 2,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    relative: float = 0.01,
    absolute: float = 1e-3,
    seed: int = 0,
) -> Monitor:
    """Fit boxes or balls around the activations of each class, on one layer or several.

    With ``boxes=k`` the activations of a class are split by k-means and each part gets a box of its own: the monitor
    objects to what is outside all boxes of the class, as in Henzinger, Lukina and Schilling 2020 (arXiv 1911.09032,
    section 3; they choose k by the data, here it is given). On several layers it objects where any of them does.

    ``accept=`` chooses the threshold on inputs that the fit has not seen: one factor for all classes and layers, by
    which boxes widen (or shrink) and radii scale, such that the ``⌈(n + 1)·accept⌉``-th smallest of the n scores is
    accepted. A new input of the same distribution is then accepted with at least that probability (split conformal
    prediction, Papadopoulos et al. 2002).

    Args:
        network: what ``clinch.load`` returned, or an ``nn.Module``; its output must be a vector with one entry per
            class.
        layers: name of a layer, or several.
        x: training inputs, ``(N, *input_shape)``; each counts for the class that the network itself gives it.
        kind: ``"box"``; ``"gaussian"``: distances in the metric of the inverse covariance (Mahalanobis);
            ``"distance"``: plain distances to centres. The last two are :class:`BallMonitor`.
        boxes: boxes or centres per class and layer. A class with fewer different activations has fewer.
        accept: share of new inputs to be accepted; None: what lies within the ``quantile`` of the training inputs.
        held_out: inputs to choose the threshold on; None: every fifth of x, which the fit then leaves out.
        blind_radius: the monitor is widened until no input within this radius of an accepted one of x is rejected,
            whatever its class there, which is proven; see :func:`certified_blind`.
        norm: of the radius; bounds: the range of inputs; None: no limits.
        quantile: see :meth:`BoxMonitor.fit`; of the inputs of one box.
        relative: share of a box's width, or a ball's radius, by which activations must be outside for the monitor to
            object; absolute: and, of a box, at least this much.
        seed: of k-means.

    Raises:
        UnknownLayer, ShapeError, ProblemError: as :meth:`BoxMonitor.fit`; no layer, or no box.

    Example:
        >>> monitor = fit_monitor(net, ["relu1", "relu2"], x_train, boxes=3, quantile=0.001)
        >>> monitor.layers
        ('relu1', 'relu2')
    """
    names = [layers] if isinstance(layers, str) else list(layers) if isinstance(layers, Iterable) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise ProblemError(f"layers={layers!r} names no layer to watch. Name one, as in layers='relu2', or several.")
    if as_whole(boxes, "boxes") < 1:
        raise ProblemError(f"boxes={boxes} is no number of boxes. Write 1 or more.")
    check_settings(relative, absolute, quantile)
    if kind not in KINDS:
        raise ProblemError(f"kind is '{kind}'; choose one of {', '.join(KINDS)}.")
    accept = None if accept is None else share_of(accept)
    net = network_of(network, x)
    x = fitted = inputs_of(net, x)
    if accept is not None and held_out is None:
        last = torch.arange(len(x)) % HELD == HELD - 1
        fitted, held_out = x[~last], x[last]
    parts = [_of_layer(net, layer, fitted, kind, boxes, quantile, relative, absolute, seed) for layer in names]
    monitor = parts[0] if len(parts) == 1 else JoinedMonitor(tuple(parts), every=False)
    if accept is not None and held_out is not None:
        monitor = calibrated(net, monitor, held_out, accept)
    if blind_radius is not None:
        monitor = widened(net, monitor, x, blind_radius, norm=norm, bounds=bounds)
    return monitor


def _of_layer(
    network: SymbolicNetwork, layer: str, x: Tensor, kind: str, boxes: int, quantile: float, relative: float,
    absolute: float, seed: int,
) -> Monitor:  # fmt: skip
    """The monitor of one layer, with the fit's own threshold."""
    h, z = watched(network, x, layer)
    group, classes = z.argmax(1), z.shape[1]
    if kind != "box":
        ball = BallMonitor.around(layer, h, group, classes, boxes, kind == "gaussian", quantile, seed)
        return replace(ball, margin=relative)
    if boxes == 1:
        return BoxMonitor.around(layer, h, group, classes, relative, absolute, quantile)
    return _clustered(layer, h, group, classes, boxes, relative, absolute, quantile, seed)


def scaled(monitor: Monitor, factor: float) -> Monitor:
    """A monitor with another threshold: boxes reach ``(factor − 1)`` of their width farther, radii are multiplied."""
    if isinstance(monitor, JoinedMonitor):
        return replace(monitor, parts=tuple(scaled(part, factor) for part in monitor.parts))
    return monitor.scaled(factor) if isinstance(monitor, BallMonitor) else monitor.widened(factor - 1)


def share_of(accept: float) -> float:
    """The share of new inputs to be accepted.

    Raises:
        ProblemError: no number between 0 and 1.
    """
    share = as_number(accept, "accept")
    if not 0 < share < 1:
        raise ProblemError(f"accept is {accept}; give a share between 0 and 1, such as 0.99.")
    return share


def calibrated(network: Loadable, monitor: Monitor, x: Tensor, accept: float) -> Monitor:
    """The monitor with the smallest threshold that accepts the ``⌈(n + 1)·accept⌉``-th easiest of n inputs.

    Raises:
        ProblemError: too few inputs for such a share.
    """
    network, x = opened(network, monitor, x)
    wanted = math.ceil((len(x) + 1) * share_of(accept))
    if wanted > len(x):
        raise ProblemError(
            f"{len(x)} held-out inputs are too few to accept {accept:g} of new ones with certainty: give at least "
            f"{math.ceil(accept / (1 - accept))}, or ask for less."
        )
    label = predicted(network, x)

    def enough(factor: float) -> bool:
        return int((scaled(monitor, factor).score(network, x, label) <= 0).sum()) >= wanted

    low, high = SMALLEST, 1.0
    while not enough(high):
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return scaled(monitor, high)


def _clustered(
    layer: str, h: Tensor, group: Tensor, groups: int, boxes: int, relative: float, absolute: float, quantile: float,
    seed: int,
) -> JoinedMonitor:  # fmt: skip
    """One box monitor for the first cluster of every class, one for the second, and so on."""
    cluster = torch.zeros(len(h), dtype=torch.long)
    counts = torch.ones(groups, dtype=torch.long)
    for c in range(groups):
        rows = (group == c).nonzero().flatten()
        cluster[rows] = k_means(h[rows].flatten(1), boxes, seed)
        counts[c] = int(cluster[rows].max()) + 1 if len(rows) else 1
    # an empty class is named by the box monitor itself
    parts = []
    for k in range(int(counts.max())):
        # classes with fewer clusters repeat their last one: being outside it twice asks for nothing more
        mine = cluster == torch.minimum(torch.full_like(counts, k), counts - 1)[group]
        parts.append(BoxMonitor.around(layer, h[mine], group[mine], groups, relative, absolute, quantile))
    return JoinedMonitor(tuple(parts), every=True)
