"""Every bound on the reference networks: time, memory and mean, beside auto_LiRPA's figures and beside plain CROWN.

The first MNIST test images, ℓ∞ balls of radius eps within [0, 1], nine margins ``z_y − z_t`` per image; float64, one
thread, CPU time. Each line is a process of its own, so that its peak memory is its own.

    python -m benchmarks all_bounds [--repeat 5] [--only small wk17a_linf0.1]

Writes benchmarks/results/bounds.md; ends with exit code 1 where a mean is looser than auto_LiRPA's by more than 1e-4
(and the rounding of the figure), where CROWN differs from plain CROWN, or where a batch on mnist_cnn needs 4 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import clinch as cl
from benchmarks.common.page import RESULTS, ROOT, again, write_page
from clinch.bounds.crown import activation_bounds
from clinch.io.data import mnist, model_file
from clinch.network.ops.dense import Dense

sys.path.append(str(ROOT / "tests" / "bounds"))
from plain_crown import lower_limits, plain_limits

TAKES = "15 minutes"
METHODS = ("interval", "fast_dual", "crown", "alpha_crown")
#: what a mean may be looser by than auto_LiRPA's figure, and CROWN than plain CROWN
LOOSENESS, ROUNDING = 1e-4, 1e-7
#: megabytes that a batch of 100 on mnist_cnn may need
MEMORY = 4096


class Case(NamedTuple):
    """A network and a radius.

    Attributes:
        network: ``mnist_NETWORK.onnx``.
        eps: radius.
        batches: images of each of :data:`METHODS`; 0 leaves it out.
        plain: images on which CROWN is compared with plain CROWN: dense matrices need too much memory on mnist_cnn.
    """

    network: str
    eps: float
    batches: tuple[int, int, int, int]
    plain: int = 5


#: auto_LiRPA 0.7.1, float32, one thread on this kind of machine, batches of 100 (α-CROWN with 20 iterations on dnn4 and
#: wk17a: of 10)
THEIRS: dict[tuple[str, float], dict[str, tuple[float, str | None]]] = {
    ("small", 0.02): {"interval": (0.017, "-7.6"), "crown": (0.29, "10.08"), "alpha_crown": (17, "10.10")},
    ("dnn2", 0.02): {"interval": (0.021, "3.4"), "crown": (0.71, "8.53"), "alpha_crown": (58, "8.54")},
    ("dnn4", 0.02): {"interval": (0.034, "-66"), "crown": (2.9, "10.69"), "alpha_crown": (170, None)},
    ("fcnn", 0.02): {"interval": (0.022, "-37"), "crown": (1.4, "15.93"), "alpha_crown": (88, "15.98")},
    ("rsl18a_linf0.1", 0.1): {"interval": (0.034, "-1.7"), "crown": (0.99, "0.094"), "alpha_crown": (115, "0.098")},
    ("wk17a_linf0.1", 0.02): {"interval": (0.095, "-9"), "crown": (26, "14.1"), "alpha_crown": (700, None)},
    ("wk17a_linf0.1", 0.1): {"interval": (0.088, "-76"), "crown": (30, "11.85"), "alpha_crown": (3597, None)},
}
CASES = [
    Case("small", 0.02, (100, 100, 100, 100)),
    Case("small", 0.1, (100, 100, 100, 100)),
    Case("dnn2", 0.02, (100, 100, 100, 100)),
    Case("dnn4", 0.02, (100, 100, 100, 10)),
    Case("dnn4", 0.1, (100, 100, 100, 10)),
    Case("fcnn", 0.02, (100, 100, 100, 100)),
    Case("fcnn", 0.1, (100, 100, 100, 10)),
    Case("rsl18a_linf0.1", 0.1, (100, 100, 100, 100)),
    Case("wk17a_linf0.1", 0.02, (100, 100, 100, 10), 1),
    Case("wk17a_linf0.1", 0.1, (100, 100, 100, 10), 1),
    Case("cnn", 0.1, (100, 10, 100, 0), 0),
]


def setting(network: str, eps: float, batch: int) -> tuple[cl.Network, cl.bounds.Region, Tensor]:
    """The network, the balls around the first images, and the rows ``z_y − z_t``."""
    net = cl.load(str(model_file(f"mnist_{network}.onnx")))
    x, y = mnist("test")
    x, y = x[:batch].double(), y[:batch]
    eye = torch.eye(10, dtype=torch.float64)
    targets = torch.stack([torch.tensor([t for t in range(10) if t != label]) for label in y.tolist()])
    return net, cl.bounds.ball(x, eps, cl.inf, lower=0, upper=1), eye[y].unsqueeze(1) - eye[targets]


def seconds_of(run: Callable[[], Tensor], repeat: int) -> tuple[Tensor, float]:
    """What it returns, and the median of its CPU seconds. A single run is not warmed up."""
    result = run() if repeat > 1 else None
    seconds = []
    for _ in range(repeat):
        began = time.process_time()
        result = run()
        seconds.append(time.process_time() - began)
    assert result is not None
    return result, statistics.median(seconds)


def measure(network: str, eps: float, method: str, batch: int, repeat: int) -> dict[str, float]:
    """One line's figures, in this process."""
    net, region, c = setting(network, eps, batch)
    before = _megabytes()
    bound, seconds = seconds_of(lambda: getattr(cl.bounds, method)(net, region, c), repeat)
    verified = float((bound > 0).all(1).double().mean())
    return {
        "ms": 1e3 * seconds / batch, "mean": float(bound.mean()), "verified": verified, "peak": _megabytes(),
        "before": before,
    }  # fmt: skip


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def difference(network: str, eps: float, images: int) -> dict[str, float]:
    """The largest difference between CROWN and plain CROWN over some images."""
    net, region, c = setting(network, eps, images)
    bound, largest = cl.bounds.crown(net, region, c), 0.0
    for b in range(images):
        one = region.take(slice(b, b + 1))
        limits = plain_limits(net.graph_as(torch.float64, "cpu"), one)
        plain = lower_limits(net.graph_as(torch.float64, "cpu"), one, limits, net.graph.output, c[b])
        largest = max(largest, float((bound[b] - plain).abs().max()))
    return {"difference": largest}


def product_time(network: str, eps: float, batch: int, repeat: int) -> dict[str, float]:
    """CPU milliseconds per image of CROWN's largest matrix products alone, run on matrices that exist already.

    Of a dense network both rows of every open element behind the first ReLU meet the first layer's matrix; where no
    element is dead, no arrangement of CROWN in float64 can do without.
    """
    net, region, _ = setting(network, eps, batch)
    graph = net.graph_as(torch.float64, "cpu")
    limits = list(activation_bounds(graph, region).values())
    first = next(node.op for node in graph.nodes if isinstance(node.op, Dense)).weight
    alive = (limits[0].upper > 0).flatten(1).sum(1).tolist()
    rows = [2 * ((low < 0) & (high > 0)).flatten(1).sum(1) for low, high in limits[1:]]
    total = 0.0
    for b in range(batch):
        for count in rows:
            left = torch.randn(int(count[b]), alive[b], dtype=torch.float64)
            out = left.new_empty(len(left), first.shape[1])
            right = first[: alive[b]]
            total += min(_seconds(left, right, out) for _ in range(repeat))
    return {"ms": 1e3 * total / batch}


def _seconds(left: Tensor, right: Tensor, out: Tensor) -> float:
    began = time.process_time()
    torch.mm(left, right, out=out)
    return time.process_time() - began


def apart(*arguments: object) -> dict[str, float]:
    """What this file prints when it is called with ``--one``, in a process of its own."""
    command = again("--one", *arguments)
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def one(kind: str, arguments: list[str]) -> dict[str, float]:
    """The other end of :func:`apart`."""
    if kind == "difference":
        return difference(arguments[0], float(arguments[1]), int(arguments[2]))
    if kind == "products":
        return product_time(arguments[0], float(arguments[1]), int(arguments[2]), int(arguments[3]))
    return measure(arguments[0], float(arguments[1]), kind, int(arguments[2]), int(arguments[3]))


def rows_of(case: Case, repeat: int, failures: list[str]) -> list[str]:
    """The lines of one network and radius; what does not hold is added to ``failures``."""
    lines, name = [], f"{case.network} {case.eps:g}"
    for method, batch in zip(METHODS, case.batches):
        if not batch:
            continue
        times = 1 if case.network == "cnn" and method != "interval" else repeat
        found = apart(method, case.network, case.eps, batch, times)
        ms, mean = THEIRS.get((case.network, case.eps), {}).get(method, (None, None))
        ratio = "" if ms is None else f"{ms / found['ms']:.1f}"
        lines.append(
            f"| {name} | {method} | {batch} | {found['ms']:.3g} | {'' if ms is None else f'{ms:g}'} | {ratio} | "
            f"{found['mean']:.4f} | {mean or ''} | {found['verified']:.0%} | {found['peak']:.0f} | "
            f"{found['before']:.0f} |"
        )
        print(lines[-1], flush=True)
        if mean is not None:
            digits = len(mean.partition(".")[2])
            if not found["mean"] >= float(mean) - 0.5 * 10**-digits - LOOSENESS:
                failures.append(f"{name}: {method} has mean {found['mean']:.5f}, auto_LiRPA {mean}")
        if case.network == "cnn" and not found["peak"] < MEMORY:
            failures.append(f"{name}: {method} needs {found['peak']:.0f} MB")
    return lines


def plain_lines(cases: list[Case], failures: list[str]) -> list[str]:
    """CROWN beside plain CROWN."""
    lines = []
    for case in cases:
        if case.plain:
            largest = apart("difference", case.network, case.eps, case.plain)["difference"]
            lines.append(f"| {case.network} {case.eps:g} | {case.plain} | {largest:.1e} |")
            print(lines[-1], flush=True)
            if not largest <= ROUNDING:
                failures.append(f"{case.network} {case.eps:g}: CROWN differs from plain CROWN by {largest:.1e}")
    return lines


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", nargs="+", help="networks")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        print(json.dumps(one(options.one[0], options.one[1:])))
        return 0
    cases = [case for case in CASES if not options.only or case.network in options.only]
    failures: list[str] = []
    bounds = [line for case in cases for line in rows_of(case, options.repeat, failures)]
    plain = plain_lines(cases, failures)
    products = [
        f"| {case.network} {case.eps:g} | {apart('products', case.network, case.eps, 100, 3)['ms']:.2f} |"
        for case in cases if case.network in ("small", "dnn4", "fcnn")
    ]  # fmt: skip
    lines = report(options, bounds, plain, products, failures)
    write_page(RESULTS / "bounds.md", "Bounds of the reference networks", lines)
    print("\n".join([*products, *failures]))
    return 1 if failures else 0


def report(
    options: argparse.Namespace, bounds: list[str], plain: list[str], products: list[str], failures: list[str]
) -> list[str]:
    """The page."""
    return [
        "First MNIST test images, nine margins each, ℓ∞ ball ∩ [0, 1]. CPU milliseconds per image, one thread, median",
        f"of {options.repeat} (mnist_cnn: one run); float64. Peak memory is that of the process in MB, the last column",
        "what it held before the bound: torch, the images and the network. auto_LiRPA's columns are version 0.7.1's,",
        "float32, one thread, measured earlier on this kind of machine in batches of 100 (α-CROWN with 20 iterations",
        "on dnn4 and wk17a: 10): the ratio is between two runs, not within one.",
        "",
        "| network, eps | bound | batch | ms | auto_LiRPA ms | times faster | mean | auto_LiRPA mean | verified "
        "| peak MB | before |",
        "|---|---|---|---|---|---|---|---|---|---|---|", *bounds, "",
        "## Beside plain CROWN", "",
        "Largest difference to CROWN written out with dense matrices (`tests/bounds/plain_crown.py`), convolutions",
        "unfolded, one image at a time.", "",
        "| network, eps | images | largest difference |", "|---|---|---|", *plain, "",
        "## What the matrix products alone need", "",
        "Both rows of all elements that are open in the end times the first layer's matrix, by BLAS, on matrices that",
        "exist already: most of what CROWN in float64 has to compute.", "",
        "| network, eps | ms per image |", "|---|---|", *products, "",
        "Every mean at most 1e-4 looser than auto_LiRPA's, CROWN equal to plain CROWN, memory below 4 GB: "
        + ("yes." if not failures else "no: " + "; ".join(failures)), "",
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
