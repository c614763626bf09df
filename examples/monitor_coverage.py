"""How far is each class from tripping a monitor, and from slipping past it? Digits of 8×8 pixels, in a minute.

    python examples/monitor_coverage.py [--images 20] [--boxes 1] [--quantile 0] [--time-limit 40]

Boxes around the activations of a hidden layer, several per class by k-means if asked. For each image two distances,
proven and found: to the nearest image of the same class to which the monitor objects, and to the nearest image of
another class that it accepts (both directions of the monitor problem).
"""

from __future__ import annotations

import argparse

import clinch as cl
from clinch.applications.monitors import coverage, coverage_figure, fit_monitor
from clinch.demo import SHAPE, digits, network
from clinch.figures import save


def main() -> None:
    """Fit, measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--boxes", type=int, default=1)
    parser.add_argument("--quantile", type=float, default=0.0)
    parser.add_argument("--time-limit", type=float, default=40.0)
    parser.add_argument("--figure", default="coverage.png")
    options = parser.parse_args()

    net = cl.load(network(), input_shape=SHAPE)
    monitor = fit_monitor(net, "relu2", digits("train").x, boxes=options.boxes, quantile=options.quantile)
    images = digits("test")
    x, y = images.x[: options.images], images.y[: options.images]
    found = coverage(net, monitor, x, y, time_limit=options.time_limit)
    print(found)
    save(coverage_figure(found, heading="How far each digit is from the monitor's two kinds of error"), options.figure)


if __name__ == "__main__":
    main()
