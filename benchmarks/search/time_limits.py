"""How well time limits are kept on large networks: seconds asked for, taken, and of the processor, for every engine.

    python -m benchmarks time_limits FOLDER [--limits 5 10 20] [--only NAME] [--engine NAME] [--where] [--out PAGE]

FOLDER holds folders of VNN-COMP with instances.csv. Every case is a process of its own, whose start and loading of the
network are not timed; peak memory is that of the whole process. ``--where`` prints the stack of a call that is 3 % late
at that moment. Cases that are done are lines of ``<PAGE>.jsonl`` and not run again.
"""

from __future__ import annotations

import argparse
import csv
import faulthandler
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.common.page import again, write_page

#: category -> position of its instance in instances.csv
NETWORKS = {
    "mnist_fc": -1, "oval21": 0, "cifar10_resnet": -1, "cifar_biasfield": 0, "tllverifybench": 3, "yolo": 0, "cgan": 0,
    "vit": 0,
}  # fmt: skip
#: name of a case -> kind of problem and solver
CASES = {
    "verify": ("verify", None), "solve, distance": ("distance", None), "solve, linear": ("linear", None),
    "attack, distance": ("distance", "attack"), "attack, linear": ("linear", "attack"),
    "bounds, linear": ("linear", "bounds"), "milp, distance": ("distance", "milp"), "milp, linear": ("linear", "milp"),
    "branch_and_bound, distance": ("distance", "branch_and_bound"),
    "branch_and_bound, linear": ("linear", "branch_and_bound"), "input_split, linear": ("linear", "input_split"),
    "count": ("count", "count"), "attack, count": ("count", "attack"), "slsqp": ("distance", "slsqp"),
    "cobyla": ("distance", "cobyla"), "differential_evolution": ("linear", "differential_evolution"),
    "certificate": ("certificate", None),
}  # fmt: skip
TAKES = "an hour"
#: how much later than asked a call may be, relatively
ALLOWED = 0.03


def files(folder: Path, category: str) -> tuple[Path, Path]:
    """Network and specification of the chosen instance."""
    with open(folder / category / "instances.csv") as lines:
        network, specification, _ = list(csv.reader(lines))[NETWORKS[category]]
    return _there(folder / category / network), _there(folder / category / specification)


def _there(path: Path) -> Path:
    return path if path.is_file() else path.with_name(path.name + ".gz")


def call(kind: str, solver: str | None, network: Path, specification: Path, limit: float) -> Callable[[], object]:
    """The call to be timed, everything before it done."""
    import torch

    import clinch as cl
    from clinch.vnnlib.problems import state
    from clinch.vnnlib.reader import read_specification

    net = cl.load(network)
    read = read_specification(str(specification))
    if kind == "verify":
        return lambda: cl.verify(net, read, timeout=limit)
    region = state(read, net).queries[0].region
    lower, upper = region.lower[0], region.upper[0]
    x0 = ((lower + upper) / 2).to(net.dtype)
    out = net.graph.forward(x0.unsqueeze(0))[net.graph.output][0].flatten()
    z = net.output.flatten() if net.output.shape != out.shape else net.output
    box = [net.input >= lower, net.input <= upper]
    first = z[0] if out.numel() > 1 else z.sum()
    if kind in ("linear", "certificate"):
        problem = cl.Problem(cl.Minimize(first), box)
    else:
        p = 0 if kind == "count" else cl.inf
        change = max(0.1, 0.2 * float(out[0].abs()))
        problem = cl.Problem(cl.Minimize(cl.norm(net.input - x0, p)), [*box, first <= float(out[0]) - change])
    torch.zeros(1)
    return lambda: problem.solve(time_limit=limit, solver=solver, certificate=kind == "certificate")


def child(options: argparse.Namespace) -> None:
    """One case: prints a line of JSON."""
    kind, solver = CASES[options.engine]
    allowed = options.limits[0] * (2 if kind == "certificate" else 1)
    timed = call(kind, solver, *files(options.folder, options.only), options.limits[0])
    if options.where:
        faulthandler.dump_traceback_later(allowed * (1 + ALLOWED), file=sys.stderr)
    began, used = time.monotonic(), time.process_time()
    try:
        found = timed()
        said = getattr(found, "answer", None) or getattr(found, "status", None)
        word = str(getattr(said, "value", said))
        word += "; " + " ".join(getattr(found, "notes", ()))[:90] if getattr(found, "notes", ()) else ""
    except Exception as error:
        word = f"{type(error).__name__}: {str(error)[:80]}"
    seconds, processor = time.monotonic() - began, time.process_time() - used
    faulthandler.cancel_dump_traceback_later()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({
        "network": options.only, "case": options.engine, "asked": allowed, "seconds": round(seconds, 3),
        "processor": round(processor, 3), "peak": round(peak), "answer": word.replace("|", "/"),
    }))  # fmt: skip


def cases(options: argparse.Namespace) -> Iterator[tuple[str, str, float]]:
    for limit in options.limits:
        for network in NETWORKS if options.only is None else options.only.split(","):
            for engine in CASES if options.engine is None else options.engine.split(";"):
                yield network, engine, limit


def page(rows: list[dict]) -> list[str]:
    """The table."""
    late = sum(row["seconds"] > (1 + ALLOWED) * row["asked"] for row in rows)
    head = (
        "Seconds asked for, taken and of the processor, and peak memory of the process (about 400 MB "
        f"before the call). {late} of {len(rows)} calls took more than "
        f"{ALLOWED:.0%} longer than asked for. A certificate asks for its limit twice.\n\n"
        f"| network | case | asked | seconds | late | processor | peak MB | answer |\n{'|---' * 8}|"
    )
    lines = [
        f"| {r['network']} | {r['case']} | {r['asked']:g} | {r['seconds']:.2f} | "
        f"{max(0.0, r['seconds'] / r['asked'] - 1):.1%} | {r['processor']:.1f} | {r['peak']} | {r['answer']} |"
        for r in rows
    ]
    return [head, *lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limits", type=float, nargs="+", default=[5.0, 10.0, 20.0])
    parser.add_argument("--only")
    parser.add_argument("--engine")
    parser.add_argument("--where", action="store_true")
    parser.add_argument("--child", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("time_limits.md"))
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    kept = options.out.with_suffix(".jsonl")
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
    done = {(row["network"], row["case"], row["asked"]) for row in rows}
    for network, engine, limit in cases(options):
        if (network, engine, limit * (2 if engine == "certificate" else 1)) in done:
            continue
        command = again(options.folder, "--child", "--only", network, "--engine", engine)
        command += ["--limits", str(limit)] + ["--where"] * options.where
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if ended.returncode:
            print(f"{network}, {engine}: exit code {ended.returncode}", file=sys.stderr)
            continue
        rows.append(json.loads(ended.stdout.splitlines()[-1]))
        with open(kept, "a") as lines:
            lines.write(json.dumps(rows[-1]) + "\n")
        print(rows[-1], flush=True)
        write_page(options.out, "Time limits", page(rows))


if __name__ == "__main__":
    main()
