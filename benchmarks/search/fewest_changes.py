"""The fewest pixels that change the class of an MNIST image, with a proof, beside the plain mixed-integer program.

For the first 10 correctly classified test images on the small network: ``min ‖x − x0‖_0`` with ``z.argmax() != y`` and
``0 <= x <= 1``. Clinch solves it as ``solve`` chooses; beside it Clinch's own encoding of the same problem is handed to
a solver library, started from the attack's point: its answer is what the library claims, nothing of it is proven.
Times are CPU seconds of one thread.

Ends with exit code 1 if a proven optimum and a library's closed answer differ.

    python -m benchmarks fewest_changes [--images 10] [--time-limit 60] [--rival gurobi|scip|highs|none]

Writes benchmarks/results/fewest_changes.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass

import torch
from margins import load_network

import clinch as cl
from benchmarks.common.page import RESULTS, write_page
from clinch.backends import find_backend
from clinch.bounds.crown import activation_bounds, limits_of_forms
from clinch.encoding.query_program import encode
from clinch.errors import BackendError
from clinch.io.data import mnist

TAKES = "10 minutes"


@dataclass
class Answer:
    value: float
    bound: float
    seconds: float

    @property
    def closed(self) -> bool:
        return self.bound > self.value - 1 + 1e-6

    def cells(self) -> str:
        return f"{self.value:.0f} | {self.bound:.2f} | {self.seconds:.2f}"


def clinch(problem: cl.Problem, time_limit: float) -> Answer:
    began = time.process_time()
    solution = problem.solve(time_limit=time_limit)
    return Answer(solution.value, solution.bound, time.process_time() - began)


def rival(problem: cl.Problem, name: str, time_limit: float) -> Answer | None:
    """The library's own claim; None where its licence refuses the size."""
    start = problem.solve(solver="attack", time_limit=10)
    began = time.process_time()
    query = problem.query.narrowed(torch.tensor([start.value], dtype=torch.float64))
    bounds = activation_bounds(query.graph, query.region, query.nodes)
    encoding = encode(query, 0, bounds, form_limits=limits_of_forms)
    point = encoding.complete(start.x.double().flatten().numpy())
    try:
        outcome = find_backend(name).solve(encoding.program, time_limit=time_limit, gap=1e-6, start=point)
    except BackendError as error:
        print(error)
        return None
    return Answer(outcome.value, outcome.bound, time.process_time() - began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--rival", default="gurobi", choices=["gurobi", "scip", "highs", "none"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, _ = load_network()
    data = mnist("test")
    images, labels = data.x[:200], data.y[:200]
    with torch.no_grad():
        correct = (model(images).argmax(1) == labels).nonzero().flatten()[: options.images]
    net = cl.load(model, input_shape=(1, 28, 28))
    x, z = net.input, net.output
    lines, mine, theirs, differ = [], [], [], 0
    for i in correct.tolist():
        y = int(labels[i])
        problem = cl.Problem(cl.Minimize(cl.norm(x - images[i], 0)), [x >= 0, x <= 1, z.argmax() != y])
        mine.append(clinch(problem, options.time_limit))
        other = None if options.rival == "none" else rival(problem, options.rival, options.time_limit)
        theirs += [] if other is None else [other]
        differ += other is not None and mine[-1].closed and other.closed and mine[-1].value != round(other.value)
        lines.append(f"| {i} | {mine[-1].cells()} | {other.cells() if other else '– | – | –'} |")
        print(lines[-1], flush=True)
    summary = [
        f"Clinch: {sum(a.closed for a in mine)} of {len(mine)} proven optimal, median "
        f"{statistics.median(a.seconds for a in mine):.2f} s, worst {max(a.seconds for a in mine):.2f} s."
    ]
    if theirs:
        summary.append(
            f"{options.rival} (claims): {sum(a.closed for a in theirs)} of {len(theirs)} closed, median "
            f"{statistics.median(a.seconds for a in theirs):.2f} s."
        )
    head = f"| image | value | bound | CPU s | {options.rival}: value | bound | CPU s |\n|---|---|---|---|---|---|---|"
    text = ["CPU seconds of one thread.", "", head, *lines, "", *summary]
    write_page(RESULTS / "fewest_changes.md", "Fewest changed pixels, mnist_small", text)
    print(*summary, sep="\n")
    return 1 if differ else 0


if __name__ == "__main__":
    raise SystemExit(main())
