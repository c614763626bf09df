"""One piece of work of ``paired``, in a process that has one checkout's Clinch: prepared once, run whenever told to.

    PYTHONPATH=CHECKOUT/src python benchmarks/speed/work.py NAME

Says on standard output, in lines of JSON, that it is ready (and whose Clinch it has), or why it is left out; then, for
each line on standard input, the CPU seconds of a run and what it found. Only public names are used, so that checkouts
of different ages can do the same work; the clock of all time limits is the process's own CPU time.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

#: wall seconds that no piece of work comes near
ENOUGH = 1000.0

Run = Callable[[], float]


class Piece(NamedTuple):
    """A piece of work: what it is, and ``prepare() -> run``, where ``run() -> a figure that both should agree on``."""

    what: str
    prepare: Callable[[], Run]


def _network(name: str) -> Any:
    import clinch as cl
    from clinch.io.data import model_file

    return cl.load(str(model_file(f"{name}.onnx")))


def _images(net: Any, count: int) -> tuple[Any, Any]:
    """The first test images of MNIST that the network classifies correctly."""
    import torch

    from clinch.io.data import mnist

    data = mnist("test")
    x, y = data.x[: 2 * count + 20], data.y[: 2 * count + 20]
    with torch.no_grad():
        right = (net.graph.forward(x)[net.graph.output].argmax(1) == y).nonzero().flatten()[:count]
    return x[right], y[right]


def _margins(y: Any) -> Any:
    """``(B, 9, 10)`` rows ``z_y − z_t`` of all other classes."""
    import torch

    rows = torch.eye(10, dtype=torch.float64)
    return torch.stack([(rows[k] - rows)[torch.arange(10) != k] for k in y.tolist()])


def attack() -> Run:
    import clinch as cl

    net = _network("mnist_small")
    x, y = _images(net, 100)
    return lambda: sum(
        float(cl.attacks.nearest(net, x, y, norm=2, passes=240, seed=seed).distance.mean()) for seed in range(5)
    )


def crown() -> Run:
    import clinch as cl

    net = _network("mnist_dnn4")
    x, y = _images(net, 100)
    region, c = cl.bounds.ball(x, 0.1, cl.inf, lower=0, upper=1), _margins(y)
    return lambda: float([cl.bounds.crown(net, region, c) for _ in range(3)][-1].mean())


def alpha_crown() -> Run:
    import clinch as cl

    net = _network("mnist_small")
    x, y = _images(net, 100)
    region, c = cl.bounds.ball(x, 0.02, cl.inf, lower=0, upper=1), _margins(y)
    return lambda: float([cl.bounds.alpha_crown(net, region, c, steps=20) for _ in range(4)][-1].mean())


def distances() -> Run:
    import clinch as cl

    net = _network("mnist_small")
    x, y = _images(net, 2)

    def run() -> float:
        found = 0.0
        for image, label in zip(x, y.tolist()):
            for p in (cl.inf, 2):
                conditions = [net.input >= 0, net.input <= 1, net.output.argmax() != label]
                problem = cl.Problem(cl.Minimize(cl.norm(net.input - image, p)), conditions)
                found += float(problem.solve(time_limit=ENOUGH, gap=1e-4).bound)
        return found

    return run


def margins() -> Run:
    import clinch as cl

    net = _network("mnist_small")
    x, y = _images(net, 2)
    rows = _margins(y)

    def run() -> float:
        found = 0.0
        for image, row in zip(x, rows):
            objective = cl.Minimize((net.output * row).sum())
            ball = cl.norm(net.input - image, cl.inf) <= 0.05
            problem = cl.Problem(objective, [net.input >= 0, net.input <= 1, ball])
            found += float(problem.solve(time_limit=ENOUGH, gap=1e-6).bound.sum())
        return found

    return run


def _verified(folder: str, instances: list[tuple[str, str]]) -> Run:
    import clinch as cl
    from clinch.io.data import DataError, data_folder

    place = data_folder() / "vnncomp" / folder
    pairs = [tuple(_file(place / kind / name) for kind, name in zip(("onnx", "vnnlib"), one)) for one in instances]
    missing = [path for pair in pairs for path in pair if not path.is_file()]
    if missing:
        raise DataError(f"There is no {missing[0].name} in vnncomp/{folder} of the data folder.")
    words = {"sat": 1.0, "unsat": 2.0}
    return lambda: sum(
        words.get(cl.verify(str(net), str(spec), timeout=ENOUGH).answer.value, 0.0) * 3.0**i
        for i, (net, spec) in enumerate(pairs)
    )


def _file(path: Path) -> Path:
    return path if path.is_file() else path.with_name(path.name + ".gz")


def acas_xu() -> Run:
    named = [("1_6", "3"), ("2_3", "2"), ("4_2", "1")]
    return _verified("acasxu", [(f"ACASXU_run2a_{n}_batch_2000.onnx", f"prop_{p}.vnnlib") for n, p in named])


def mnist_fc() -> Run:
    named = [("256x2", "0_0.05"), ("256x4", "3_0.05")]
    return _verified("mnist_fc", [(f"mnist-net_{n}.onnx", f"prop_{p}.vnnlib") for n, p in named])


def certificate() -> Run:
    import clinch as cl

    net = _network("mnist_small")
    x, y = _images(net, 2)

    def run() -> float:
        found = 0.0
        for image, label in zip(x, y.tolist()):
            conditions = [net.input >= 0, net.input <= 1, net.output.argmax() != label]
            problem = cl.Problem(cl.Minimize(cl.norm(net.input - image, cl.inf)), conditions)
            found += float(problem.solve(time_limit=ENOUGH, certificate=True).certificate.report.bound)
        return found

    return run


def evaluate() -> Run:
    import clinch as cl

    net = _network("mnist_small")
    source = cl.study.open_source("mnist")

    def run() -> float:
        with tempfile.TemporaryDirectory() as folder:
            found = cl.study.evaluate(
                net, source, eps=0.03, limit=100, out=str(Path(folder) / "run"), time_limit=ENOUGH
            )
            return sum(found.interval)

    return run


def start_up() -> Run:
    lines = (
        "import clinch", "from clinch.demo import SHAPE, network", "clinch.load(network(), input_shape=SHAPE)"
    )  # fmt: skip

    def run() -> float:
        subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
        return 0.0

    return run


PIECES = {
    "attack": Piece("nearest, p = 2, 240 passes, 100 images, five seeds, mnist_small", attack),
    "crown": Piece("CROWN, ℓ∞ .1, nine margins, 3 × 100 images, mnist_dnn4", crown),
    "alpha_crown": Piece("α-CROWN, 20 steps, ℓ∞ .02, 4 × 100 images, mnist_small", alpha_crown),
    "distances": Piece("smallest ℓ∞ and ℓ2 distances to a gap of 1e-4, 2 images, mnist_small", distances),
    "margins": Piece("nine worst margins, ℓ∞ .05, gap 1e-6, 2 images, mnist_small", margins),
    "acas_xu": Piece("three properties of ACAS Xu", acas_xu),
    "mnist_fc": Piece("VNN-COMP's mnist_fc: 256x2 and 256x4, ε .05", mnist_fc),
    "certificate": Piece("ℓ∞ distances with certificates, found and checked, 2 images, mnist_small", certificate),
    "evaluate": Piece("robust accuracy of 100 images, ℓ∞ .03, mnist_small", evaluate),
    "start_up": Piece("a process that imports Clinch and loads the demo's network", start_up),
}


def cpu_seconds() -> float:
    """Of this process and of those it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def main() -> int:
    """Prepare the piece of work that the argument names, and run it at every line of standard input."""
    # what native libraries print goes to standard error; answers have a descriptor of their own
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    vars(time)["monotonic"] = time.process_time

    def say(**what: object) -> None:
        print(json.dumps(what), file=answers, flush=True)

    import torch

    import clinch
    from clinch.errors import ClinchError

    torch.set_num_threads(1)
    try:
        run = PIECES[sys.argv[1]].prepare()
    except ClinchError as reason:
        say(left_out=str(reason))
        return 0
    say(ready=str(Path(clinch.__file__).resolve()))
    for _ in sys.stdin:
        began = cpu_seconds()
        answer = run()
        say(seconds=cpu_seconds() - began, answer=answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
