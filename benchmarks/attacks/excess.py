"""How far the default minimum-norm attack stays above the exact optimum, where that can be proven.

Four networks: the MNIST network ``mnist_small``; the digits network of the demo; a linear classifier of MNIST images
(least squares on 2,000 of them); and a tabular one, two layers of 24 ReLUs on 16 features in [0, 1], trained here on
three classes with two random centres each. The optimum is ``Problem.solve``'s with gap 1e-5; an input whose optimum
stays open within the limit is left out. Excess is ``distance/optimum − 1``; for p = 0 distances are whole numbers.

Ends with exit code 1 if a point is nearer than a proven bound, or an attack finds none.

    python -m benchmarks excess [--inputs 20] [--passes 240 2400] [--time-limit 20] [--networks mnist_small digits]

Writes benchmarks/results/excess.md. Optima are kept in ``runs/excess.jsonl``: a run that was ended goes on from there.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

import clinch as cl
from benchmarks.attacks.networks import Subject
from benchmarks.common.cpu_clock import count_cpu_seconds
from benchmarks.common.page import RESULTS, ROOT, judged_page, table
from clinch.demo import digits, network
from clinch.io.data import mnist, model_file
from clinch.modeling.model import SymbolicNetwork

TAKES = "twenty minutes"
NORMS = {0.0: "ℓ0", 1.0: "ℓ1", 2.0: "ℓ2", math.inf: "ℓ∞"}
#: what the rounding of a point's elements may take its distance below a proven bound
ROUNDING = 2e-6
#: what was proven so far
RUNS = ROOT / "runs" / "excess.jsonl"
#: passes, and the mean excess that is asked for there
ASKED = {240: 0.005, 2400: 0.001}


#: a network, inputs that it classifies correctly, and their labels
Case = tuple[SymbolicNetwork, Tensor, Tensor]


class Line(NamedTuple):
    """One network and norm.

    Attributes:
        network: its name.
        p: the norm.
        open: inputs whose optimum was not proven.
        excess: ``(N,)`` of the others, by passes.
    """

    network: str
    p: float
    open: int
    excess: dict[int, Tensor]


def mnist_small(count: int) -> Case:
    """The network of the other comparisons."""
    subject = Subject.of("mnist_small", count)
    return cl.load(str(model_file("mnist_small.onnx"))), subject.x, subject.y


def demo(count: int) -> Case:
    """The demo's, with held-out digits."""
    data, model = digits("test"), network()
    return _right(cl.load(model, input_shape=(8, 8)), model, data.x, data.y, count)


def linear(count: int) -> Case:
    """One matrix, fitted to one-hot labels."""
    data = mnist("train")
    x, y = data.x[:2000].flatten(1).double(), torch.nn.functional.one_hot(data.y[:2000], 10).double()
    mean = x.mean(0)
    weight = torch.linalg.solve(
        (x - mean).T @ (x - mean) + 20 * torch.eye(784).double(), (x - mean).T @ (y - y.mean(0))
    )
    layer = nn.Linear(784, 10)
    with torch.no_grad():
        layer.weight.copy_(weight.T)
        layer.bias.copy_(y.mean(0) - mean @ weight)
    model = nn.Sequential(nn.Flatten(), layer).eval()
    test = mnist("test")
    return _right(cl.load(model, input_shape=(1, 28, 28)), model, test.x, test.y, count)


def tabular(count: int) -> Case:
    """Three classes of 16 features, each around two centres."""
    torch.manual_seed(0)
    centres = 0.25 + 0.5 * torch.rand(6, 16)
    kind = torch.arange(3000) % 6
    x, y = (centres[kind] + 0.12 * torch.randn(3000, 16)).clamp(0, 1), kind % 3
    model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[:2500]), y[:2500]).backward()
        optimizer.step()
    return _right(cl.load(model.eval(), input_shape=(16,)), model, x[2500:], y[2500:], count)


def _right(net: SymbolicNetwork, model: nn.Module, x: Tensor, y: Tensor, count: int) -> Case:
    with torch.no_grad():
        right = (model(x[: 4 * count]).argmax(1) == y[: 4 * count]).nonzero().flatten()[:count]
    return net, x[right], y[right]


NETWORKS: dict[str, Callable[[int], Case]] = {
    "mnist_small": mnist_small, "digits": demo, "linear": linear, "tabular": tabular,
}  # fmt: skip


def optimum(net: SymbolicNetwork, x: Tensor, y: int, p: float, limit: float) -> tuple[float, float]:
    """Value and proven bound of the distance to another class."""
    z = net.input
    stated = cl.Problem(cl.Minimize(cl.norm(z - x, p)), [z >= 0, z <= 1, net.output.argmax(margin=0) != y])
    found = stated.solve(time_limit=limit, gap=1e-5)
    return float(found.value), float(found.bound)


def optima(name: str, case: Case, p: float, limit: float) -> Tensor:
    """``(N, 2)`` values and proven bounds, from the file or proven now."""
    net, x, y = case
    lines = [json.loads(line) for line in RUNS.read_text().splitlines()] if RUNS.exists() else []
    known = {(line["network"], line["p"], line["input"], line["limit"]): line["found"] for line in lines}
    found = []
    for i, (one, label) in enumerate(zip(x, y)):
        key = name, p, i, limit
        if key not in known:
            known[key] = optimum(net, one, int(label), p, limit)
            RUNS.parent.mkdir(exist_ok=True)
            with RUNS.open("a") as file:
                file.write(
                    json.dumps(dict(zip(("network", "p", "input", "limit", "found"), (*key, known[key])))) + "\n"
                )
        found.append(known[key])
    return torch.tensor(found).double()


def measured(name: str, p: float, options: argparse.Namespace) -> tuple[Line, list[str]]:
    """One network and norm, and what is wrong with it."""
    net, x, y = NETWORKS[name](options.inputs)
    exact = optima(name, (net, x, y), p, options.time_limit)
    closed = (exact[:, 0] - exact[:, 1]) <= 1e-4 * exact[:, 0]
    line, wrong = Line(name, p, int((~closed).sum()), {}), []
    for passes in options.passes:
        distance = cl.attacks.nearest(net, x, y, norm=p, passes=passes).distance
        line.excess[passes] = distance[closed] / exact[closed, 0] - 1
        if not bool(distance.isfinite().all()):
            wrong.append(f"{name} {NORMS[p]}: no point for {int(distance.isinf().sum())} inputs with {passes} passes")
        if bool((distance < exact[:, 1] - ROUNDING * (1 + exact[:, 1])).any()):
            wrong.append(f"{name} {NORMS[p]}: a point is nearer than the bound")
        print(name, NORMS[p], passes, [round(100 * float(e), 3) for e in line.excess[passes]], flush=True)
    return line, wrong


def cells(line: Line) -> list[str]:
    """The line's row of the table."""
    found = [line.network, NORMS[line.p], str(len(next(iter(line.excess.values())))), str(line.open)]
    for passes, excess in line.excess.items():
        mark = "" if float(excess.mean()) <= ASKED.get(passes, math.inf) else " †"
        found += [f"{float(excess.mean()):.3%}{mark}", f"{float((excess <= 1e-3).double().mean()):.0%}"]
        found += [f"{float(excess.max()):.2%}"]
    return found


def main() -> int:
    """Measure, write the page, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=20)
    parser.add_argument("--passes", nargs="+", type=int, default=list(ASKED))
    parser.add_argument("--time-limit", type=float, default=20)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--norms", nargs="+", type=float, default=list(NORMS))
    options = parser.parse_args()
    count_cpu_seconds()
    lines, wrong = [], []
    for name in options.networks:
        for p in options.norms:
            line, found = measured(name, p, options)
            lines.append(line)
            wrong += found
    head = ["network", "norm", "inputs", "open"]
    for passes in options.passes:
        head += [f"mean at {passes}", "within .1 %", "largest"]
    asked = ", ".join(f"{share:.1%} at {passes}" for passes, share in ASKED.items())
    page = [
        f"Excess of `cl.attacks.nearest` over proven optima, the first {options.inputs} correctly classified",
        f"inputs; those whose optimum is open after {options.time_limit:g} CPU seconds are left out.",
        f"† more than {asked}.", "",
        *table(head, [cells(line) for line in lines]), "",
    ]  # fmt: skip
    held = "no point is nearer than a bound, and every input has one."
    return judged_page(RESULTS / "excess.md", "The default attack above exact optima", page, wrong, held)


if __name__ == "__main__":
    raise SystemExit(main())
