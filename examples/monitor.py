"""The nearest MNIST image that keeps its class while a monitor on a hidden layer objects: ten images, two norms.

    python examples/monitor.py [--images 10] [--time-limit 60] [--figure monitor.png]

Network: 784-50-20-10, ReLU. Monitor: the smallest and largest of the 20 activations of the second hidden layer over the
training images of each class; it objects when one activation leaves its box by 1% of its range (at least 1e-3). The
class must win by 1e-3. For each image: the distance found, a proof that nothing is nearer than the bound, and the gap.
"""

from __future__ import annotations

import argparse

import clinch as cl
from clinch.applications.monitors import BoxMonitor, predicted
from clinch.figures import Watched, save, solution_figure
from clinch.io.data import mnist, model_file


def main() -> None:
    """Solve, print the table, draw one image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--figure", default="monitor.png")
    options = parser.parse_args()

    net = cl.load(str(model_file("mnist_small.onnx")))
    layer = [name for name in net.layers if "relu" in name.lower()][1]  # the second hidden layer, after its ReLU
    monitor = BoxMonitor.fit(net, layer, mnist("train").x)
    images = mnist("test").x[: options.images]
    labels = predicted(net, images).tolist()
    x, z = net.input, net.output

    print(f"{'image':>5} {'class':>5} {'norm':>4} {'value':>9} {'bound':>9} {'gap':>8} {'seconds':>7}  status")
    for i, (x0, label) in enumerate(zip(images, labels)):
        rejected = [x >= 0, x <= 1, z.argmax(margin=1e-3) == label, monitor.outside(net, label)]
        for p in (2, cl.inf):
            s = cl.Problem(cl.Minimize(cl.norm(x - x0, p)), rejected).solve(time_limit=options.time_limit)
            numbers = f"{s.value:9.5f} {s.bound:9.5f} {s.gap:8.2%} {s.seconds:7.1f}"
            print(f"{i:5} {label:5} {p:>4} {numbers}  {s.status.name}", flush=True)
            if i == 0 and p == 2:
                heading = f"The nearest image still read as {label} to which the monitor objects"
                watched = Watched.of(monitor, net, label, x0, s.x)
                figure = solution_figure(x0, s, heading=heading, quantity="‖x − x₀‖₂", watched=watched)
                save(figure, options.figure)
    print(f"figure of image 0: {options.figure}")


if __name__ == "__main__":
    main()
