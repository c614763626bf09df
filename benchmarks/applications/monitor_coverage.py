"""How far each class is from a monitor's two kinds of error on mnist_small: a table of certified intervals.

    python -m benchmarks monitor_coverage [--images 50] [--time-limit 150] [--out FILE]

Monitor: boxes on the 20 activations of the second hidden layer over the training images of each class, by minimum and
maximum, and by quantiles. ℓ2 distances, pixels in [0, 1], classes win by 1e-3. Every number is an interval
``proven … found``. One thread.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import clinch as cl
from benchmarks.common.page import RESULTS, write_page
from clinch.applications.monitors import coverage, fit_monitor
from clinch.io.data import mnist, model_file

TAKES = "10 minutes"
SETTINGS = {"minimum and maximum": {}, "quantiles .005 and .995": {"quantile": 0.005}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--time-limit", type=float, default=150.0)
    parser.add_argument("--out", type=Path, default=RESULTS / "monitor_coverage.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    net = cl.load(str(model_file("mnist_small.onnx")))
    layer = [name for name in net.layers if "relu" in name.lower()][1]
    train, test = mnist("train").x, mnist("test")
    x, y = test.x[: options.images], test.y[: options.images]
    lines = [
        f"mnist_small (784-50-20-10), the first {options.images} test images, ℓ2, {options.time_limit:g} s per table",
        "on a machine shared with other work. Every entry is an interval: proven … found.",
        "*False alarm*: the nearest image of the same class to which the monitor objects, over accepted images.",
        "*Missed*: the nearest image called another class than the true one that the monitor accepts.",
    ]
    for name, settings in SETTINGS.items():
        monitor = fit_monitor(net, layer, train, **settings)
        found = coverage(net, monitor, x, y, time_limit=options.time_limit)
        assert found.alarm is not None and found.missed is not None
        for nearest in (found.alarm, found.missed):
            assert bool((nearest.bound <= nearest.value).all())
        print(f"{name}\n{found}", flush=True)
        lines += ["", f"## Boxes by {name}", "", found.markdown()]
    write_page(options.out, "How far classes are from a monitor's errors", lines)


if __name__ == "__main__":
    main()
