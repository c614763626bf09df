"""Complete robustness of the WK17a network: is there an input within ℓ∞ distance 0.1 that has another class?

For each of the first 200 MNIST test images: find ``x`` with ``‖x − x0‖_∞ <= eps``, ``0 <= x <= 1`` and
``z.argmax() != y``, or prove that there is none; misclassified images count as decided by themselves. Every point found
is looked at again by onnxruntime, and a plain projected gradient method, written here, tries to break every proof.

Ends with exit code 1 if an answer is wrong: a point that is none, or a proof that the gradient method refutes.

    python -m benchmarks wk17a [--images 200] [--first 0] [--eps 0.1] [--time-limit 60]

Writes benchmarks/results/wk17a.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

import clinch as cl
from benchmarks.common.cpu_clock import count_cpu_seconds
from benchmarks.common.page import RESULTS, write_page
from benchmarks.common.second_look import SecondLook
from clinch.io.data import mnist, model_file

NETWORK = "mnist_wk17a_linf0.1"
TAKES = "a minute"
VERDICTS = {cl.Status.OPTIMAL: "another class", cl.Status.INFEASIBLE: "none: proven"}
OPEN = "undecided"


@dataclass(frozen=True)
class Row:
    """One image: verdict, CPU seconds, and what a second look finds wrong."""

    image: int
    verdict: str
    seconds: float
    wrong: str = ""


def projected_gradient(net: cl.Network, x0: Tensor, y: Tensor, eps: float, steps: int = 40) -> Tensor:
    """Sign steps on ``z_y − max z_other`` for images ``(N, 1, 28, 28)`` at once; the last iterates."""
    lower, upper = (x0 - eps).clamp(min=0), (x0 + eps).clamp(max=1)
    x = x0.clone()
    own = torch.nn.functional.one_hot(y, 10).bool()
    for step in range(steps):
        x.requires_grad_(True)
        z = net.graph.forward(x)[net.graph.output]
        margin = z[own] - z.masked_fill(own, -torch.inf).amax(1)
        (gradient,) = torch.autograd.grad(margin.sum(), x)
        length = eps * (0.5 * (1 - step / steps) + 0.02)
        x = torch.minimum(torch.maximum(x.detach() - length * gradient.sign(), lower), upper)
    return x


def decide(net: cl.Network, look: SecondLook, i: int, x0: Tensor, y: int, eps: float, time_limit: float) -> Row:
    """One image."""
    x, z = net.input, net.output
    began = time.process_time()
    problem = cl.Problem(cl.Minimize(0), [x >= 0, x <= 1, cl.norm(x - x0, cl.inf) <= eps, z.argmax() != y])
    s = problem.solve(time_limit=time_limit)
    seconds = time.process_time() - began
    assert isinstance(s.status, cl.Status)
    verdict = VERDICTS.get(s.status, OPEN)
    if s.status is not cl.Status.OPTIMAL:
        return Row(i, verdict, seconds)
    # limits of the box are rounded to float32
    far = float((s.x.double() - x0.double()).abs().max()) > eps + 1e-7
    outside = bool((s.x < 0).any() or (s.x > 1).any())
    same = not look.is_another_class(s.x, y)
    wrong = "onnxruntime sees the same class" if same else "the point lies outside" if far or outside else ""
    return Row(i, verdict, seconds, wrong)


def refuted(net: cl.Network, look: SecondLook, rows: list[Row], x: Tensor, y: Tensor, eps: float) -> list[str]:
    """Proofs for which the gradient method finds a point of another class."""
    proven = [row.image for row in rows if row.verdict == VERDICTS[cl.Status.INFEASIBLE]]
    if not proven:
        return []
    points = projected_gradient(net, x[proven], y[proven], eps)
    changed = look.logits(points).argmax(1) != y[proven]
    return [f"image {i}: the proof is refuted" for i, broken in zip(proven, changed.tolist()) if broken]


def page(options: argparse.Namespace, rows: list[Row], wrong: list[str]) -> list[str]:
    """What is written."""
    seconds = [row.seconds for row in rows]
    counts = Counter(row.verdict for row in rows)
    slowest = sorted(rows, key=lambda row: -row.seconds)[:10]
    left = ", ".join(str(row.image) for row in rows if row.verdict == OPEN)
    return [
        "Conv(1,16,4,s2,p1) ReLU Conv(16,32,4,s2,p1) ReLU 1568-100-10 ReLU. For each MNIST test image from",
        f"{options.first} to {options.first + len(rows) - 1}: an input within eps with another class, or a",
        "proof that there is none (`Minimize(0)`); misclassified images are decided by themselves. At most",
        f"{options.time_limit:g} s each; CPU seconds of one thread, loading the network excluded.",
        "",
        "| images | decided | another class | none: proven | undecided | mean s | median s | worst s |",
        "|---|---|---|---|---|---|---|---|",
        f"| {len(rows)} | {len(rows) - counts[OPEN]} | {counts['another class']} | {counts['none: proven']} "
        f"| {counts[OPEN]} | {statistics.mean(seconds):.3f} | {statistics.median(seconds):.3f} | {max(seconds):.2f} |",
        "",
        "Measured earlier on this kind of machine: α,β-CROWN about 2.1 s per image (wall), MIPVerify with HiGHS 1.9 s.",
        "",
        "Slowest: " + ", ".join(f"{row.image} ({row.seconds:.2f} s, {row.verdict})" for row in slowest) + ".",
        f"Undecided: {left or 'none'}.",
        f"Second look (onnxruntime on every point, projected gradient against every proof): "
        f"{'; '.join(wrong) if wrong else 'nothing wrong.'}", "",
    ]  # fmt: skip


def main() -> int:
    """Measure, write the page, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--eps", type=float, default=0.1)
    parser.add_argument("--time-limit", type=float, default=60.0)
    options = parser.parse_args()
    count_cpu_seconds()
    net = cl.load(str(model_file(f"{NETWORK}.onnx")))
    look = SecondLook(NETWORK)
    data = mnist("test")
    rows = []
    for i in range(options.first, options.first + options.images):
        rows.append(decide(net, look, i, data.x[i], int(data.y[i]), options.eps, options.time_limit))
        print(f"{i}: {rows[-1].verdict}, {rows[-1].seconds:.2f} s {rows[-1].wrong}", flush=True)
    wrong = [f"image {row.image}: {row.wrong}" for row in rows if row.wrong]
    wrong += refuted(net, look, rows, data.x, data.y, options.eps)
    lines = page(options, rows, wrong)
    write_page(RESULTS / "wk17a.md", f"WK17a, ℓ∞, eps {options.eps:g}: complete decisions", lines)
    print("\n".join(lines[-9:]))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
