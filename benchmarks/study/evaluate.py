"""Robust accuracy of a whole data set: width of the interval, cost per image and memory for growing numbers of images.

    python -m benchmarks evaluate [--model mnist_dnn2.onnx] [--eps 0.02] [--images 1000 10000]

Each number of images is a process of its own, so that its peak of memory is its own. One thread.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

from benchmarks.common.page import again

TAKES = "a minute"


def measure(model: str, eps: float, images: int, time_limit: float) -> dict:
    """One study in this process."""
    import torch

    import clinch as cl
    from clinch.io.data import model_file

    torch.set_num_threads(1)
    net = cl.load(str(model_file(model)))
    source = cl.study.open_source("mnist")
    begun = time.process_time()
    found = cl.study.evaluate(net, source, eps=eps, limit=images, time_limit=time_limit)
    low, high = found.interval
    return {
        "images": images, "proven": low, "not_attacked": high, "cpu": time.process_time() - begun,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mnist_dnn2.onnx")
    parser.add_argument("--eps", type=float, default=0.02)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--time-limit", type=float, default=600.0)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options.model, options.eps, options.one, options.time_limit)))
        return
    print(f"{'images':>8} {'proven':>9} {'not attacked':>13} {'CPU s':>8} {'ms/image':>9} {'MiB':>6}")
    for images in options.images:
        command = again(*sys.argv[1:], "--one", images)
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
        row = json.loads(answer.stdout)
        print(
            f"{images:>8} {row['proven']:>9.4f} {row['not_attacked']:>13.4f} {row['cpu']:>8.1f} "
            f"{1000 * row['cpu'] / images:>9.2f} {row['memory']:>6.0f}"
        )


if __name__ == "__main__":
    main()
