"""Largest changes: ratios of the semidefinite relaxation, and intervals of networks for three norms.

    python -m benchmarks regression [--time-limit 20] [--out benchmarks/results/regression.md]

CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path

import torch
from sklearn.datasets import load_diabetes
from torch import nn

import clinch as cl
from benchmarks.common.page import RESULTS, write_page
from clinch.applications.regression import largest_change, linear_change
from clinch.applications.regression.semidefinite import conic, low_rank, rounded
from clinch.io.data import DataError, mnist, model_file

TAKES = "5 minutes"


def trained(sizes, x, y, steps=800):
    torch.manual_seed(0)
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())][:-1]
    model = nn.Sequential(*layers)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3, weight_decay=1e-3)
    for _ in range(steps):
        loss = (model(x) - y).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return cl.load(model.eval(), input_shape=(sizes[0],))


def random_rows():
    """Random matrices: ratio of norms value/bound, and the two solvers."""
    rows = []
    for count, outputs, inputs in ((50, 1, 10), (50, 3, 10), (50, 10, 50), (20, 10, 784), (10, 100, 784)):
        generator = torch.Generator().manual_seed(outputs)
        matrix = torch.randn(count, outputs, inputs, generator=generator, dtype=torch.float64)
        began = time.process_time()
        relaxed = low_rank(matrix)
        signs = rounded(matrix, relaxed.factor)
        seconds = (time.process_time() - began) / count
        ratio = ((matrix @ signs.unsqueeze(2)).square().sum((1, 2)) / relaxed.bound).sqrt()
        solver = "–"
        if inputs <= 50:
            began = time.process_time()
            other = conic(matrix[:3]).bound
            solver = f"{(time.process_time() - began) / 3:.2f} s, {float((other / relaxed.bound[:3]).max()) - 1:+.1e}"
        rows.append(f"| random {outputs} × {inputs} | {count} | {float(ratio.min()):.3f} | "
                    f"{float(ratio.median()):.3f} | {1000 * seconds:.1f} ms | {solver} |")  # fmt: skip
    return rows


def network_ratio(name, net, x, eps, bounds):
    began = time.process_time()
    found = linear_change(net, x, eps, norm=cl.inf, bounds=bounds)
    seconds = (time.process_time() - began) / len(x)
    ratio = found.ratio
    return (f"| {name} | {len(x)} | {float(ratio.min()):.3f} | {float(ratio.median()):.3f} | {1000 * seconds:.1f} ms | "
            "– |")  # fmt: skip


def interval_rows(name, net, x, eps, bounds, limit):
    rows = []
    for p in (1, 2, cl.inf):
        began = time.process_time()
        found = largest_change(net, x, eps, norm=p, bounds=bounds, time_limit=limit)
        seconds, ratio = time.process_time() - began, found.value / found.bound
        nonlinear = found.value / found.linear.value
        rows.append(f"| {name} | {p:g} | {eps:g} | {float(found.linear.ratio.min()):.3f} | "
                    f"{float(nonlinear.median()):.3f} | {float(ratio.min()):.3f} | "
                    f"{float(ratio.median()):.3f} | {seconds:.1f} |")  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time-limit", type=float, default=20.0)
    parser.add_argument("--out", type=Path, default=RESULTS / "regression.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, target = (torch.tensor(part, dtype=torch.float32) for part in load_diabetes(return_X_y=True, scaled=False))
    data, target = ((part - part.mean(0)) / part.std(0) for part in (data, target))
    diabetes = trained((10, 32, 32, 1), data[:342], target[:342, None])
    # three of the measurements from the seven others
    blood = trained((7, 32, 32, 3), data[:342, :7], data[:342, 7:])
    ratios = random_rows()
    intervals = interval_rows("diabetes 10-32-32-1", diabetes, data[342:347], 0.2, None, options.time_limit)
    intervals += interval_rows("blood serum 7-32-32-3", blood, data[342:347, :7], 0.2, None, options.time_limit)
    ratios.append(network_ratio("diabetes 10-32-32-1", diabetes, data[342:], 0.2, None))
    ratios.append(network_ratio("blood serum 7-32-32-3", blood, data[342:, :7], 0.2, None))
    try:
        net, x = cl.load(str(model_file("mnist_small.onnx"))), mnist("test").x
        ratios.append(network_ratio("mnist_small, ten logits", net, x[:50], 0.1, (0.0, 1.0)))
        intervals += interval_rows("mnist_small, ten logits", net, x[:3], 0.02, (0.0, 1.0), options.time_limit)
    except DataError as reason:
        print(f"left out: {reason}")
    text = """CPU seconds of one thread.

## p = infinity, linear model: rounded lower bound by certified semidefinite upper bound

Ratio of the norms; at least √(2/π) = .798 (2/π = .637 of the squares) is what theory promises on average. The last
column: CVXPY with SCS, seconds per matrix, and by how much its certified bound is larger than the low-rank method's.

| Jacobians | number | smallest ratio | median ratio | time each | SCS |
|---|---|---|---|---|---|
""" + "\n".join(ratios) + f"""

## Networks: certified intervals of the nonlinear change

At most {options.time_limit:g} s for all inputs of a row (5, for MNIST 3); gap 1%.

| network | p | ε | linear: value/bound, smallest | value/linear value | value/bound, smallest | median | CPU s |
|---|---|---|---|---|---|---|---|
""" + "\n".join(intervals) + "\n"  # fmt: skip
    write_page(options.out, "Largest changes of the output", [text])


if __name__ == "__main__":
    main()
