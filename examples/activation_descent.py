"""The largest output of a random ReLU network over a box: activation descent, Clinch's default, and a proven limit.

    python examples/activation_descent.py [--seed 337550] [--steps 3000] [--time-limit 30] [--figure maximum.png]

Network: 10-64-64-1 with random weights, as in Yu and Gao 2024 (arXiv 2406.00494); their seed gave 24.84 by activation
descent and 19.96 by gradient ascent. A figure shows the value and the bound of the default over time.
"""

from __future__ import annotations

import argparse

import torch

import clinch as cl
from clinch.attacks import PatternSettings, minimise_by_activation_descent
from clinch.figures import save, solution_figure
from clinch.papers.parts.box_rivals import maximum_over_box
from clinch.papers.parts.random_network import random_network


def run(seed: int, steps: int, time_limit: float) -> tuple[dict[str, float], cl.Solution]:
    """Values of three ways to look for the maximum, and the solution with its bound."""
    net = cl.load(random_network(seed, (10, 64, 64, 1)), input_shape=(10,))
    problem = maximum_over_box(net)  # Maximize(z[0]) with -1 <= x <= 1
    descent = minimise_by_activation_descent(problem, steps=steps, starts=5)
    still = minimise_by_activation_descent(problem, steps=steps, starts=5, settings=PatternSettings(perturb=False))
    solution = problem.solve(time_limit=time_limit)
    values = {
        "activation descent, five runs": -float(descent.value),  # attacks minimise: the sign is turned
        "activation descent without noise": -float(still.value),
        "Clinch's default": float(solution.value),
    }
    return values, solution


def main() -> None:
    """Look for the maximum, print what was found, draw value and bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=337550)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--time-limit", type=float, default=30.0)
    parser.add_argument("--figure", default="maximum.png")
    options = parser.parse_args()
    values, solution = run(options.seed, options.steps, options.time_limit)
    for name, value in values.items():
        print(f"{name:34} {value:10.5f}")
    print(f"{'proven: no input gives more than':34} {solution.bound:10.5f}")
    heading = "The largest output of a random network"
    figure = solution_figure(torch.zeros(10), solution, heading=heading, quantity="z₀(x)")
    print(f"figure: {save(figure, options.figure)}")


if __name__ == "__main__":
    main()
