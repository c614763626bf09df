"""Exact minimum distance to another class on MNIST: value, proven bound and gap, as a user would ask for them.

For the first correctly classified test images: ``min ‖x − x0‖_p`` with ``z.argmax() != y`` and ``0 <= x <= 1``, by
``Problem.solve`` with nothing but a time limit and a gap. A *rival* is a solver library on Clinch's own encoding of the
same problem, started from the attack's point: its answer is what the library claims, nothing of it is proven.

Ends with exit code 1 if onnxruntime does not see another class at a point, if its distance is not the value, or if a
proven bound lies above a rival's point.

    python -m benchmarks distances [--network mnist_small] [--norms inf 1 2] [--images 10] [--time-limit 60]
        [--gap 1e-4] [--rival none|gurobi|scip|highs] [--rival-time-limit 60]

Writes benchmarks/results/distances_NETWORK.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass

import torch

import clinch as cl
from benchmarks.common.cpu_clock import count_cpu_seconds
from benchmarks.common.page import RESULTS, write_page
from benchmarks.common.second_look import SecondLook
from clinch.backends import find_backend
from clinch.bounds.crown import activation_bounds, limits_of_forms
from clinch.encoding.query_program import encode
from clinch.errors import BackendError
from clinch.io.data import model_file

TAKES = "a minute"
SYMBOL = {1.0: "ℓ1", 2.0: "ℓ2", cl.inf: "ℓ∞"}
#: measured earlier on this kind of machine for mnist_small, CPU seconds per image (median or range), one thread
EARLIER = {
    cl.inf: "Gurobi 4.9 s with 8 of 9 closed, SCIP 21 to 26 s, HiGHS none in 45 s",
    1.0: "Gurobi 9 to 16 s with ℓ1-ball bounds, none with box bounds",
    2.0: "none of Gurobi, SCIP and HiGHS in 45 s",
}
#: what a distance may change by when it is measured again in float64
AGREEMENT = 1e-6


@dataclass(frozen=True)
class Answer:
    """What one side found and proved (or claims), and its CPU seconds."""

    value: float
    bound: float
    seconds: float

    @property
    def gap(self) -> float:
        """Relative; zero where value and bound are within :data:`AGREEMENT`."""
        apart = abs(self.value - self.bound)
        return 0.0 if apart <= AGREEMENT else apart / max(abs(self.value), 1e-12)

    def cells(self) -> str:
        """Cells of the table."""
        return f"{self.value:.6f} | {self.bound:.6f} | {100 * self.gap:.4f}% | {self.seconds:.2f}"


def clinch(problem: cl.Problem, time_limit: float, gap: float) -> tuple[Answer, torch.Tensor]:
    """Clinch's answer and its point."""
    began = time.process_time()
    s = problem.solve(time_limit=time_limit, gap=gap)
    return Answer(float(s.value), float(s.bound), time.process_time() - began), s.x


def rival(problem: cl.Problem, name: str, time_limit: float, gap: float) -> Answer | None:
    """A library's own claim, bounds and encoding included in its time; None where it cannot take the problem."""
    start = problem.solve(solver="attack", time_limit=10)
    began = time.process_time()
    query = problem.query.narrowed(torch.tensor([start.value], dtype=torch.float64))
    encoding = encode(query, 0, activation_bounds(query.graph, query.region, query.nodes), form_limits=limits_of_forms)
    point = encoding.complete(start.x.double().flatten().numpy())
    try:
        outcome = find_backend(name).solve(encoding.program, time_limit=time_limit, gap=gap, start=point)
    except BackendError as error:
        print(error)
        return None
    return Answer(outcome.value, outcome.bound, time.process_time() - began)


def complaints(look: SecondLook, x0: torch.Tensor, y: int, p: float, mine: Answer, x: torch.Tensor) -> list[str]:
    """What a second look at Clinch's point finds wrong; an answer without a point has nothing to look at."""
    if not torch.isfinite(x).all():
        return []
    found = [] if look.is_another_class(x, y) else ["onnxruntime sees the same class"]
    distance = float(torch.linalg.vector_norm((x.double() - x0.double()).flatten(), p))
    if abs(distance - mine.value) > AGREEMENT * max(1.0, distance):
        found.append(f"the point's distance is {distance:.9g}, not {mine.value:.9g}")
    if bool((x < 0).any() or (x > 1).any()):
        found.append("the point leaves [0, 1]")
    return found


def summary(side: str, answers: list[Answer], gap: float) -> str:
    """Closed problems, seconds and gaps of one side."""
    seconds, gaps = [a.seconds for a in answers], sorted(a.gap for a in answers)
    closed = sum(a.gap <= gap for a in answers)
    return (
        f"{side}: {closed} of {len(answers)} closed to {gap:g}, {sum(g <= 0.05 for g in gaps)} to 5%, median "
        f"{statistics.median(seconds):.2f} s, worst {max(seconds):.2f} s, largest gap {100 * gaps[-1]:.3g}%."
    )


def measure(options: argparse.Namespace, p: float) -> tuple[list[str], list[str]]:
    """The section of one norm, and everything that is wrong."""
    look = SecondLook(options.network)
    net = cl.load(str(model_file(f"{options.network}.onnx")))
    data, chosen = look.correct(options.images)
    x, z = net.input, net.output
    rows, mine, theirs, wrong = [], [], [], []
    for i in chosen:
        x0, y = data.x[i], int(data.y[i])
        problem = cl.Problem(cl.Minimize(cl.norm(x - x0, p)), [x >= 0, x <= 1, z.argmax() != y])
        answer, point = clinch(problem, options.time_limit, options.gap)
        mine.append(answer)
        wrong += [f"{SYMBOL[p]}, image {i}: {text}" for text in complaints(look, x0, y, p, answer, point)]
        row = f"| {i} | {answer.cells()} |"
        if options.rival != "none":
            other = rival(problem, options.rival, options.rival_time_limit, options.gap)
            theirs += [] if other is None else [other]
            # a rival's point satisfies the conditions to its own tolerance only
            if other is not None and answer.bound > other.value * (1 + 1e-5):
                wrong.append(f"{SYMBOL[p]}, image {i}: the bound {answer.bound} passes {options.rival}'s {other.value}")
            row += f" {other.cells() if other else '– | – | – | –'} |"
        rows.append(row)
        print(row, flush=True)
    columns = "value | bound | gap | CPU s |"
    head = f"| image | {columns}"
    if options.rival != "none":
        head += f" {options.rival}: {columns}"
    sums = [summary("Clinch", mine, options.gap)]
    sums += [summary(f"{options.rival} (claims)", theirs, options.gap)] if theirs else []
    if options.network == "mnist_small":
        sums.append(f"Measured earlier on this kind of machine: {EARLIER[p]}.")
    print(*sums, sep="\n", flush=True)
    return [f"## {SYMBOL[p]}", "", head, "|" + "---|" * (head.count("|") - 1), *rows, "", *sums, ""], wrong


def main() -> int:
    """Measure, write the page, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="mnist_small")
    parser.add_argument("--norms", type=float, nargs="+", default=[cl.inf, 1.0, 2.0], choices=list(SYMBOL))
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--gap", type=float, default=1e-4)
    parser.add_argument("--rival", default="none", choices=["none", "gurobi", "scip", "highs"])
    parser.add_argument("--rival-time-limit", type=float, default=60.0)
    options = parser.parse_args()
    count_cpu_seconds()
    sections, wrong = [], []
    for p in options.norms:
        lines, found = measure(options, p)
        sections += lines
        wrong += found
    page = [
        f"First {options.images} correctly classified MNIST test images, any other class, pixels in [0, 1], at most",
        f"{options.time_limit:g} s each. All times are CPU seconds of one thread, attack and bounds included.",
        "",
        *sections,
        f"Second look by onnxruntime: {'; '.join(wrong) if wrong else 'every point is of another class.'}", "",
    ]  # fmt: skip
    path = RESULTS / f"distances_{options.network}.md"
    write_page(path, f"Minimum distance to another class, {options.network}", page)
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
