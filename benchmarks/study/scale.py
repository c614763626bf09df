"""Throughput of two workers against one on a compute-bound study, for a pool of processes and for Ray.

    python -m benchmarks scale [--model mnist_small.onnx] [--eps 0.06] [--images 384] [--repeats 3] [--out PAGE]

The study is the robust accuracy of MNIST's first images at a radius where many need a search. The cheap passes are
done once, and every run starts from a copy of their results: what is timed is the search phase, whose work is the same
for any number of workers as no time limit decides. Workers have one thread each and have done a small study before, so
that starting them and importing is not timed. One and two workers take turns; times are wall time, of the best of the
repeats and as ratios of neighbours. On a machine with other work give the benchmark priority (``nice -n -10``).
"""

import argparse
import os
import shutil
import statistics
import tempfile
from concurrent.futures import Executor
from pathlib import Path

# Ray's workers would run at a lower priority than the processes they are compared with
os.environ.setdefault("RAY_worker_niceness", "0")

import torch

import clinch as cl
from benchmarks.common.page import write_page
from clinch.io.data import model_file
from clinch.network.network import Network
from clinch.study.crew import ProcessPool

TAKES = "3 minutes"


def prepare(net: Network, options: argparse.Namespace, folder: Path) -> None:
    """Everything but the search."""

    def stop(tally: cl.study.Tally) -> None:
        if tally.phase == "search":
            raise KeyboardInterrupt

    cl.study.evaluate(net, "mnist", eps=options.eps, limit=options.images, out=folder, time_limit=1e4, progress=stop)


def search(net: Network, options: argparse.Namespace, prepared: Path, executor: Executor, workers: int) -> dict:
    """The search phase with so many of the executor's workers: seconds and searches, and what each image came to."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        shutil.copytree(prepared, run)
        found = cl.study.evaluate(
            net, "mnist", eps=options.eps, limit=options.images, out=run, time_limit=1e4, executor=executor,
            workers=workers,
        )  # fmt: skip
    rows = [row._replace(seconds=0.0) for row in found.rows]
    return {"seconds": found.tally.seconds, "searches": found.tally.done, "rows": rows, "counts": found.tally.counts}


def compare(net: Network, options: argparse.Namespace, prepared: Path, make) -> list[dict]:
    """Runs with one and with two workers in turn."""
    runs = []
    pools = {workers: make(workers) for workers in (1, 2)}
    for workers, pool in pools.items():
        cl.study.evaluate(net, "mnist", eps=options.eps, limit=24 * workers, executor=pool, workers=workers)
    for _ in range(options.repeats):
        for workers, pool in pools.items():
            runs.append({"workers": workers, **search(net, options, prepared, pool, workers)})
            print(f"{workers} workers: {runs[-1]['seconds']:.1f} s for {runs[-1]['searches']} searches", flush=True)
    for pool in pools.values():
        pool.shutdown()
    return runs


def line(name: str, runs: list[dict]) -> str:
    """A row of the table."""
    one, two = ([run["seconds"] for run in runs if run["workers"] == workers] for workers in (1, 2))
    ratios = [a / b for a, b in zip(one, two)]
    same = "yes" if all(run["rows"] == runs[0]["rows"] for run in runs) else "no"
    n = runs[0]["searches"]
    return (
        f"| {name} | {n} | {min(one):.1f} | {min(two):.1f} | {n / min(one):.2f} | {n / min(two):.2f} | "
        f"{min(one) / min(two):.2f} | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | "
        f"{same} |"
    )


def page(options: argparse.Namespace, lines: list[str], load: float) -> list[str]:
    """The page of results."""
    return [
        f"Search phase of the robust accuracy of {options.model.removesuffix('.onnx')} on the first {options.images} "
        f"MNIST test images, linf eps {options.eps:g}: the same searches, no time limit, one thread each;",
        f"nice {os.nice(0)}, load average {load:.1f} before the first run. One and two "
        "workers took turns; times are the smallest of the repeats, ratios of neighbours are the median and range. The "
        "target is 1.7.", "",
        "| workers are | searches | one: s | two: s | one: images/s | two: images/s | ratio of the best | ratio of "
        "neighbours | same rows |", "|---|---|---|---|---|---|---|---|---|", *lines,
    ]  # fmt: skip


def main() -> None:
    """Print a table, and write it where --out says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mnist_small.onnx")
    parser.add_argument("--eps", type=float, default=0.06)
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    net = cl.load(str(model_file(options.model)))
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared"
        prepare(net, options, prepared)
        lines = [line("processes", compare(net, options, prepared, ProcessPool))]
        import ray

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        lines.append(line("Ray", compare(net, options, prepared, lambda n: cl.study.RayExecutor("auto", n))))
        ray.shutdown()
    lines = page(options, lines, load)
    print(*lines, sep="\n")
    if options.out is not None:
        write_page(options.out, "Two workers against one", lines)


if __name__ == "__main__":
    main()
