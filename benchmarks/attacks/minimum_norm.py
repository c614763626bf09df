"""Minimum-norm attacks beside those of adv-lib, foolbox and torchattacks: same images, weights, thread and passes.

    python -m benchmarks minimum_norm                                  # what is not in runs/attacks.jsonl yet
    python -m benchmarks minimum_norm --networks mnist_small --norms 2 inf --budget 240 --methods nearest DDN
    python -m benchmarks minimum_norm --only-clinch --networks cifar_base_kw resnet_2b --images 30
    python -m benchmarks minimum_norm --table                          # only write the tables anew

The other libraries are optional; those that are absent are left out with a line. They go into an environment of their
own, without their dependencies' say on torch:

    python -m venv --system-site-packages peers                   # over an environment that has Clinch
    peers/bin/pip install -c constraints.txt --no-deps adv-lib foolbox torchattacks eagerpy GitPython gitdb smmap \\
        requests tqdm charset-normalizer idna urllib3 certifi

Protocol: the first correctly classified test images (100 of MNIST networks with a recorded frontier, 20 of the others),
untargeted, x in [0, 1], one thread. A pass is one image sent forward or back; Clinch counts its own (without the clean
prediction and the check of the result), the others' are counted at the model. Every point is clipped to [0, 1] and
looked at again in float32 and in float64: one that is not misclassified in both counts as a failure, at infinite
distance. Seconds are those of the process's CPU clock.
Results are appended to ``runs/attacks.jsonl``, one line per run, and a run that is there is not repeated.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import clinch as cl
from benchmarks.attacks.networks import Subject, logits
from benchmarks.attacks.rivals import LENGTH, Counted, rivals
from benchmarks.attacks.tables import RECORDED, write_tables
from benchmarks.common.page import RESULTS, ROOT
from clinch.geometry.norms import norm

TAKES = "hours"
RUNS = ROOT / "runs" / "attacks.jsonl"
NETWORKS = (
    "mnist_small", "mnist_dnn4", "mnist_cnn", "mnist_adrgd_pgd", "mnist_wk17a_linf0.1", "mnist_rsl18a_linf0.1",
    "mnist_lenet5", "mnist_fcnn", "cifar_base_kw", "resnet_2b", "cifar10_small",
)  # fmt: skip
BUDGETS = (240, 2400)
#: of each network: the frontier was recorded on a hundred
IMAGES, FEWER = 100, 20


class Method(NamedTuple):
    """``run(task, p, passes) -> (points, passes spent)``; for the others see :class:`attack_rivals.Rival`."""

    library: str
    name: str
    norms: tuple[float, ...]
    run: Callable[[Task, float, int], tuple[Tensor, float]]
    settled: bool = False


class Task:
    """A network with its images."""

    def __init__(self, name: str, images: int) -> None:
        subject = Subject.of(name, images)
        self.net, self.x, self.y, graph = subject.net, subject.x, subject.y, subject.net.graph
        self.logits = lambda z: graph.forward(z)[graph.output]

    def distances(self, points: Tensor, p: float) -> tuple[Tensor, float]:
        """Distances ``(B,)`` in float64, infinity where a second look fails; share that float64 alone denies."""
        z = points.detach().reshape(self.x.shape).float().clamp(0, 1)
        wrong = [self._wrong(logits(self.net, z, dtype)) for dtype in (torch.float32, torch.float64)]
        distance = norm(z.double() - self.x.double(), p)
        return torch.where(wrong[0] & wrong[1], distance, math.inf), float((wrong[0] & ~wrong[1]).double().mean())

    def _wrong(self, z: Tensor) -> Tensor:
        own = z.gather(1, self.y[:, None])
        return z.scatter(1, self.y[:, None], -math.inf).amax(1, keepdim=True).gt(own).squeeze(1)


def clinch_methods() -> list[Method]:
    """The default, where it exists, and the literature's iterations with passes to match."""
    a = cl.attacks

    def method(function, norms, arguments, settled=False):
        def run(task, p, passes):
            more = {} if len(norms) == 1 else {"norm": p}
            found = function(task.net, task.x, task.y, **arguments(passes), **more)
            return found.x, float(found.passes.double().mean())

        return Method("clinch", function.__name__, norms, run, settled)

    every, convex = (0.0, 1.0, 2.0, math.inf), (1.0, 2.0, math.inf)
    known = [
        method(a.ddn, (2.0,), lambda n: {"steps": n // 2}),
        method(a.fmn, every, lambda n: {"steps": n // 2}),
        method(a.alma, (1.0, 2.0), lambda n: {"steps": n // 2}),
        method(a.pdpgd, every, lambda n: {"steps": n // 2}),
        method(a.fab, convex, lambda n: {"steps": (n - 4) // 12}),
        method(a.fab_t, convex, lambda n: {"steps": (n - 5) // 27}),
        method(a.sigma_zero, (0.0,), lambda n: {"steps": n // 2}),
        method(a.vfga, (0.0,), lambda n: {}, settled=True),
        method(a.deepfool, (1.0, 2.0, math.inf), lambda n: {}, settled=True),
        method(a.super_deepfool, (2.0,), lambda n: {}, settled=True),
        method(a.carlini_wagner, (2.0,), lambda n: {"steps": n // 8 - 2, "rounds": 4, "first_weight": 0.1}),
    ]
    nearest = getattr(a, "nearest", None)
    if nearest is None:
        print("cl.attacks.nearest is left out: this version of Clinch does not have it.")
        return known
    return [method(nearest, every, lambda n: {"passes": n, "seed": 0}), *known]


def rival_methods() -> list[Method]:
    """Those of the other libraries, their passes counted."""

    def counted(rival):
        def run(task, p, passes):
            model = Counted(task.logits).eval()
            torch.manual_seed(0)
            points = rival.run(model, task.x.clone(), task.y.clone(), p, passes)
            return points, model.rows / len(task.x)

        return Method(rival.library, rival.name, rival.norms, run, rival.settled)

    return [counted(rival) for rival in rivals()]


def measured(method: Method, task: Task, p: float, passes: int) -> dict:
    """One run as a line of the record."""
    start = time.process_time()
    try:
        points, spent = method.run(task, p, passes)
    except Exception as error:  # another library's attack may fail in any way
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:120]}
    seconds = (time.process_time() - start) / len(task.x)
    distance, denied = task.distances(points, p)
    listed = [float(f"{d:.8g}") if math.isfinite(d) else None for d in distance.tolist()]
    return {"distance": listed, "denied": denied, "passes": round(spent, 1), "seconds": round(seconds, 6)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--norms", nargs="+", type=float, default=[0.0, 1.0, 2.0, math.inf])
    parser.add_argument("--budget", nargs="+", type=int, default=BUDGETS)
    parser.add_argument("--images", type=int, help=f"of each network; default: {IMAGES}, or {FEWER} without a frontier")
    parser.add_argument("--methods", nargs="+", help="names as in the tables; default: all")
    parser.add_argument("--only-clinch", action="store_true")
    parser.add_argument("--again", action="store_true", help="repeat runs that are in the record; the last counts")
    parser.add_argument("--page", default="attacks", help="name of the page of results")
    parser.add_argument("--table", action="store_true", help="only write the tables from the record")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    RUNS.parent.mkdir(exist_ok=True)
    if not options.table:
        methods = clinch_methods() + ([] if options.only_clinch else rival_methods())
        wanted = [m for m in methods if options.methods is None or m.name in options.methods]
        for network in options.networks:
            task = Task(network, options.images or (IMAGES if network in RECORDED else FEWER))
            for budget, p, method in [(b, p, m) for b in options.budget for p in options.norms for m in wanted]:
                key = (network, LENGTH[p], budget, method.library, method.name)
                skip = p not in method.norms or (method.settled and budget != BUDGETS[0])
                # read anew each time: several of these may run at once
                if not skip and (options.again or key not in {tuple(line["key"]) for line in record()}):
                    line = {"key": key, **measured(method, task, p, budget)}
                    with RUNS.open("a") as file:
                        file.write(json.dumps(line, ensure_ascii=False) + "\n")
                    print(*key, line.get("error", f"{line.get('seconds', 0) * 1e3:.1f} ms"), flush=True)
    write_tables([line for line in record() if line["key"][0] in options.networks], RESULTS / f"{options.page}.md")


def record() -> list[dict]:
    """All lines so far; of runs that were repeated the last."""
    if not RUNS.exists():
        return []
    lines = [json.loads(line) for line in RUNS.read_text().splitlines()]
    return list({tuple(line["key"]): line for line in lines}.values())


if __name__ == "__main__":
    main()
