"""Lower limits of the worst margins of Kolter and Madry's tutorial: the triangle LP and interval bounds, one image.

The tutorial's LP takes interval limits of all layers; so does the row "LP, interval limits" here. Beside it stand LP
with CROWN's limits, the fast dual, CROWN and α-CROWN, the exact optimum, and the interval limits of the outputs of its
three larger networks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import clinch as cl
from clinch.modeling.model import SymbolicNetwork
from clinch.papers.parts.figure_comparison import Group, comparison_figure
from clinch.papers.parts.networks import reference_network
from clinch.papers.parts.reproduction import CANNOT, Claim, Entry, Reproduction, Table
from clinch.papers.parts.tutorial import (
    LABEL,
    SOURCE,
    TARGETS,
    WEIGHTS,
    image,
    margins,
    small_network,
    worst_margin,
)  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INTERVAL, LP, DUAL, CROWN, ALPHA, TIGHT, EXACT = (
    "interval", "LP, interval limits", "fast dual", "CROWN", "α-CROWN", "LP, CROWN's limits", "exact",
)  # fmt: skip
#: radius -> row -> published limits for targets 0 … 9 without the label
PUBLISHED: dict[float, dict[str, tuple[float, ...]]] = {
    0.02: {
        INTERVAL: (
            -7.426559,
            -2.0292485,
            -8.31501,
            -15.399408,
            2.3813596,
            -10.803006,
            5.575859,
            -13.850781,
            -11.277755,
        ),
        LP: (8.679120, 12.233313, 4.120828, 1.857739, 16.236514, 7.964242, 23.459304, 6.103150, 5.581247),
    },
    0.1: {},
}
#: the published pair at ε = 0.1: target, its LP and its exact optimum
PAIR, PAIR_LP, PAIR_EXACT = 2, -26.119774634225454, -4.966118334049208
#: the LP of the four-layer network at ε = 0.01
DEEP, DEEP_EPS = "mnist_dnn4", 0.01
DEEP_LP = (5.480101, 2.196710, 0.464630, -2.264958, 9.807350, 1.495183, 12.835283, -0.393258, -1.989059)
#: smallest lower and largest upper interval limit of the outputs at ε = 0.1
OUTPUTS = {
    "mnist_dnn2": (-32.42357, 32.54162),
    "mnist_dnn4": (-233.49634, 231.4344),
    "mnist_cnn": (-3073.9976, 2955.592),
}
LIMIT, ROUNDING = 60.0, 1e-4


@dataclass(frozen=True)
class Limits:
    """Lower limits ``(9,)`` by method at one radius, and CPU seconds."""

    eps: float
    rows: dict[str, Tensor]
    seconds: dict[str, float]


def run(*, seed: int, quick: bool, note: Callable[[str], None]) -> Reproduction:
    """Everything; see :func:`clinch.study.reproduce`."""
    net, x0 = small_network(), image()
    found = []
    for eps in (0.02,) if quick else PUBLISHED:
        note(f"784-50-20-10, ε = {eps:g}")
        found.append(_limits(net, x0, eps, seed, 5.0 if quick else LIMIT))
    outputs, deep = {}, None
    for name in ("mnist_dnn2",) if quick else OUTPUTS:
        note(f"{name}, interval limits of the outputs")
        outputs[name] = _outputs(reference_network(name), x0)
    if not quick:
        note(f"{DEEP}, LP")
        large = reference_network(DEEP)
        region = _region(x0, DEEP_EPS)
        limits = cl.bounds.layer_limits(large, region, method="interval")
        begun = time.process_time()
        deep = cl.bounds.lp(large, region, margins().unsqueeze(0), limits=limits)[0], time.process_time() - begun
    return Reproduction(
        "tutorial-bounds", SOURCE,
        f"The first MNIST test image, a {LABEL}; networks trained here by the tutorial's recipe; lower limits of "
        "z_y − z_t over the ball and the range of pixels.",
        tuple(_tables(found, outputs, deep)), tuple(_claims(found, outputs, deep)), _figure(found),
    )  # fmt: skip


def _region(x0: Tensor, eps: float) -> cl.bounds.Region:
    return cl.bounds.ball(x0, eps, cl.inf, lower=0, upper=1)


def _limits(net: SymbolicNetwork, x0: Tensor, eps: float, seed: int, limit: float) -> Limits:
    region, c = _region(x0, eps), margins().unsqueeze(0)
    loose = cl.bounds.layer_limits(net, region, method="interval")
    tight = cl.bounds.layer_limits(net, region)
    methods: dict[str, Callable[[], Tensor]] = {
        INTERVAL: lambda: cl.bounds.interval(net, region, c),
        LP: lambda: cl.bounds.lp(net, region, c, limits=loose),
        DUAL: lambda: cl.bounds.fast_dual(net, region, c),
        CROWN: lambda: cl.bounds.crown(net, region, c),
        ALPHA: lambda: cl.bounds.alpha_crown(net, region, c, limits=tight),
        TIGHT: lambda: cl.bounds.lp(net, region, c, limits=tight),
    }
    rows, seconds = {}, {}
    for name, method in methods.items():
        begun = time.process_time()
        rows[name] = method()[0].detach()
        seconds[name] = time.process_time() - begun
    begun = time.process_time()
    s = worst_margin(net, x0[0], c[0], eps).solve(time_limit=limit * len(TARGETS), gap=1e-6, seed=seed)
    rows[EXACT], seconds[EXACT] = torch.as_tensor(s.bound, dtype=torch.float64), time.process_time() - begun
    return Limits(eps, rows, seconds)


def _outputs(net: SymbolicNetwork, x0: Tensor) -> tuple[float, float]:
    """Smallest lower and largest upper interval limit of any output at ε = 0.1."""
    eye = torch.eye(10, dtype=torch.float64)
    limits = cl.bounds.interval(net, _region(x0, 0.1), torch.cat([eye, -eye]).unsqueeze(0))[0]
    return float(limits[:10].min()), float(-limits[10:].min())


def _tables(
    found: list[Limits], outputs: dict[str, tuple[float, float]], deep: tuple[Tensor, float] | None
) -> list[Table]:
    tables = []
    for limits in found:
        heads: list[str] = ["target"]
        columns: list[list[Entry]] = [[*map(str, TARGETS), "CPU s"]]
        for name, values in limits.rows.items():
            if theirs := PUBLISHED[limits.eps].get(name):
                heads.append(f"{name}, published")
                columns.append([*theirs, None])
            heads.append(name)
            columns.append([*values.tolist(), limits.seconds[name]])
        tables.append(Table(f"784-50-20-10, ε = {limits.eps:g}", tuple(heads), tuple(zip(*columns)), digits=4))
    if deep is not None:
        pairs = tuple((t, theirs, ours) for t, theirs, ours in zip(TARGETS, DEEP_LP, deep[0].tolist()))
        title = f"{DEEP[6:]}, ε = {DEEP_EPS:g}: LP with interval limits ({deep[1]:.1f} CPU s for all)"
        tables.append(Table(title, ("target", "published", "ours"), pairs, digits=4))
    ends = tuple((name[6:], *OUTPUTS[name], *ours) for name, ours in outputs.items())
    named = ("network", "lowest, published", "highest, published", "lowest, ours", "highest, ours")
    return [*tables, Table("Interval limits of the outputs, ε = 0.1", named, ends, digits=5)]


def _claims(
    found: list[Limits], outputs: dict[str, tuple[float, float]], deep: tuple[Tensor, float] | None
) -> list[Claim]:
    small = found[0].rows
    claims = [
        Claim(f"ε = {found[0].eps:g}: the limits of {name} are {' '.join(f'{v:.2f}' for v in theirs)}", CANNOT,
              f"{WEIGHTS}; ours: {' '.join(f'{v:.2f}' for v in small[name].tolist())}")
        for name, theirs in PUBLISHED[found[0].eps].items()
    ]  # fmt: skip
    proven, plain = (int((small[name] > 0).sum()) for name in (LP, INTERVAL))
    nine = len(TARGETS)
    claims += [
        Claim.that("ε = 0.02: the LP proves all nine targets", proven == nine, f"{proven} of {nine}"),
        Claim.that("ε = 0.02: interval bounds do not prove all of them", plain < nine, f"{plain} of {nine}"),
    ]
    for limits in found:
        rows, eps = limits.rows, limits.eps
        least = float((rows[LP] - rows[INTERVAL]).min())
        text = f"ε = {eps:g}: interval bounds are looser than the LP on every target"
        claims.append(Claim.that(text, least > -ROUNDING, f"{least:.2f} at least"))
        over = max(float((rows[name] - rows[EXACT]).max()) for name in rows)
        claims.append(
            Claim.that(f"ε = {eps:g}: no limit passes the exact one", over <= ROUNDING, f"{over:.1e} at most")
        )
        if not PUBLISHED[eps]:
            k = TARGETS.index(PAIR)
            ours = float(rows[LP][k]), float(rows[EXACT][k])
            text = f"{LABEL}→{PAIR} at ε = {eps:g}: the LP gives {PAIR_LP:.2f}, the exact optimum is {PAIR_EXACT:.2f}"
            claims.append(Claim(text, CANNOT, f"{WEIGHTS}; ours: {ours[0]:.2f} and {ours[1]:.2f}"))
            loose = bool((rows[LP] < rows[EXACT] - 1).all())
            reason = f"{float((rows[EXACT] - rows[LP]).mean()):.2f} below on average"
            claims.append(Claim.that(f"ε = {eps:g}: the LP is far below the exact optimum", loose, reason))
    if deep is not None:
        proven, theirs = int((deep[0] > 0).sum()), sum(v > 0 for v in DEEP_LP)
        text = f"{DEEP[6:]}, ε = {DEEP_EPS:g}: the LP can be run, and proves some targets but not all"
        claims.append(Claim.that(text, 0 < proven < nine, f"{proven} of {nine}, published {theirs}"))
    return [*claims, *_widths(outputs)]


def _widths(outputs: dict[str, tuple[float, float]]) -> list[Claim]:
    widths = {name: high - low for name, (low, high) in outputs.items()}
    if len(widths) < len(OUTPUTS):
        return []
    order = [widths[name] for name in OUTPUTS]
    reason = ", ".join(f"{name[6:]} {width:.0f}" for name, width in widths.items())
    return [Claim.that("Interval limits get much weaker with depth: dnn2, dnn4, cnn", order == sorted(order), reason)]


def _figure(found: list[Limits]) -> Figure:
    names = tuple(f"{LABEL}→{t}" for t in TARGETS)
    groups = []
    for limits in found:
        theirs = PUBLISHED[limits.eps]
        shown = [*(limits.rows[row].tolist() for row in (INTERVAL, LP, EXACT)), *theirs.values()]
        low, high = min(map(min, shown)), max(map(max, shown))
        span = (low - 0.05 * (high - low), high + 0.05 * (high - low))
        for row in (INTERVAL, LP, EXACT):
            values = tuple((v,) for v in limits.rows[row].tolist())
            title = f"{row.partition(',')[0]}, ε = {limits.eps:g}"
            groups.append(Group(title, "lower limit of the margin", names, values, theirs.get(row, ()), span=span))
    return comparison_figure(groups, "How much of the worst margin each bound proves")
