"""The certified maximum of the random networks of Yu and Gao 2024: bound against CPU time of one thread.

    max z(x) over -1 <= x <= 1

for networks whose weights and biases are uniform in [0, 1] with random signs, drawn as the paper draws them
("Activation-Descent Regularization for Input Optimization of ReLU Networks", ICML 2024). ``solve`` chooses the engines
by itself. HiGHS's figure for seed 337550, after 200 s, is that of a mixed-integer program whose big-M limits were
tightened by linear programs.

    python -m benchmarks random_networks [--seeds 337550 1 2 3] [--seconds 300 60 60 60] [--large-seconds 60]
        [--runs runs/random_networks] [--out benchmarks/results/random_networks.md]

Every run is one file in the folder of runs and is not made again; ``--fresh`` starts over. Writes the table and, beside
it, the figure.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import clinch as cl
from benchmarks.common.cpu_clock import count_cpu_seconds
from benchmarks.common.page import RESULTS, write_page
from clinch.figures import save, style
from clinch.figures.style import BOUND, MUTED, VALUE
from clinch.papers.parts.random_network import random_network

SMALL, LARGE, LARGE_SEED = (10, 64, 64, 1), (128, 500, 500, 500, 1), 499777
TAKES = "10 minutes"
#: CPU seconds at which the table says where value and bound are
TIMES = (10, 20, 30, 60, 120, 300)
HIGHS = 272.5


def run(seed: int, widths: tuple[int, ...], seconds: float, file: Path) -> dict:
    """One solve: its history as (CPU seconds, value, bound), kept in a file."""
    if not file.is_file():
        net = cl.load(random_network(seed, widths), input_shape=(widths[0],))
        problem = cl.Problem(cl.Maximize(net.output[0]), [net.input >= -1, net.input <= 1])
        solution = problem.solve(time_limit=seconds, gap=1e-3, seed=0)
        history = [(e.seconds, float(e.value), float(e.bound)) for e in solution.history]
        file.parent.mkdir(parents=True, exist_ok=True)
        # the ledger minimises: signs turn where the history comes from it
        flip = -1.0 if history and history[-1][1] * float(solution.value) < 0 else 1.0
        history = [(t, flip * value, flip * bound) for t, value, bound in history]
        record = {"seed": seed, "widths": widths, "seconds": seconds, "history": history}
        file.write_text(json.dumps(record))
    return json.loads(file.read_text())


def at(record: dict, seconds: float) -> tuple[float, float] | None:
    """Value and bound after so many CPU seconds; None where the run was shorter."""
    if seconds > record["seconds"]:
        return None
    known = [(value, bound) for t, value, bound in record["history"] if t <= seconds]
    return known[-1] if known else None


def table(records: list[dict]) -> str:
    """Bounds at :data:`TIMES`, one row per network."""
    head = [f"bound at {t} s" for t in TIMES]
    lines = ["| seed | network | value | " + " | ".join(head) + " |", "|---" * (3 + len(TIMES)) + "|"]
    for record in records:
        bounds = [at(record, t) for t in TIMES]
        cells = ["–" if b is None else f"{b[1]:.6g}" for b in bounds]
        value = record["history"][-1][1]
        widths = "-".join(map(str, record["widths"]))
        lines.append(f"| {record['seed']} | {widths} | {value:.7g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(record: dict) -> Figure:
    """Value and bound against time."""
    with style():
        drawn = Figure(figsize=(6.0, 3.4), layout="constrained")
        axes = drawn.subplots()
        times, values, bounds = zip(*[row for row in record["history"] if np.isfinite(row[2]) and row[0] >= 1])
        axes.plot(times, bounds, color=BOUND, label="bound: no input does better")
        axes.plot(times, values, color=VALUE, label="value: best input found")
        axes.axhline(HIGHS, color=MUTED, linewidth=0.9, linestyle="--", label="HiGHS's bound after 200 s")
        axes.set(xscale="log", xlabel="CPU seconds of one thread", ylabel="output of the network", ylim=(0, 300))
        axes.set_title(f"The maximum of the random network of seed {record['seed']}", loc="left")
        axes.legend(frameon=False, fontsize=8)
    return drawn


def main() -> None:
    """Run what is missing, write table and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[337550, 1, 2, 3])
    parser.add_argument("--seconds", type=float, nargs="*", default=[300.0, 60.0, 60.0, 60.0])
    parser.add_argument("--large-seconds", type=float, default=60.0)
    parser.add_argument("--runs", type=Path, default=Path("runs/random_networks"))
    parser.add_argument("--out", type=Path, default=RESULTS / "random_networks.md")
    parser.add_argument("--fresh", action="store_true")
    arguments = parser.parse_args()
    count_cpu_seconds()
    jobs = [(seed, SMALL, seconds) for seed, seconds in zip(arguments.seeds, arguments.seconds)]
    if arguments.large_seconds:
        jobs.append((LARGE_SEED, LARGE, arguments.large_seconds))
    records = []
    for seed, widths, seconds in jobs:
        file = arguments.runs / f"{seed}-{seconds:g}.json"
        if arguments.fresh:
            file.unlink(missing_ok=True)
        records.append(run(seed, widths, seconds, file))
    text = f"""`max z(x)` over `-1 <= x <= 1`, weights and biases uniform in [0, 1] with random signs (Yu and Gao 2024).
`solve` chooses by itself; CPU seconds of one thread. HiGHS on seed 337550, big-M limits tightened by linear programs:
{HIGHS} after 200 s.

{table(records)}

![Value and bound of seed {records[0]["seed"]} against time]({arguments.out.with_suffix(".png").name})
"""
    write_page(arguments.out, "The certified maximum of random networks", [text])
    save(figure(records[0]), arguments.out.with_suffix(".png"))
    print(text)


if __name__ == "__main__":
    main()
