"""What certificates cost with the leaves of the solve's own search and from nothing, on the same problems and bounds.

    python -m benchmarks certificate_trees [--only mnist_small,mnist_dnn2] [--images N] [--seconds S]

Distances of MNIST images in ℓ∞ and ℓ2. Every problem is solved once, with and without keeping leaves, in turns, for
what keeping them costs; then its bound is certified both ways. All times are CPU seconds of one thread; certifying
includes the check. Writes ``benchmarks/results/certificate_trees.md``.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time

import torch

import clinch as cl
from benchmarks.common.cpu_clock import count_cpu_seconds
from benchmarks.common.page import RESULTS, write_page
from clinch.certificates import SavedProof, certify
from clinch.io.data import mnist, model_file
from clinch.solver.ledger import Ledger

TAKES = "10 minutes"


def timed(problem: cl.Problem, seconds: float, keep: bool) -> tuple[Ledger, float]:
    """A solve and its CPU seconds."""
    search = importlib.import_module("clinch.solve").search
    began = time.process_time()
    ledger = Ledger(problem.query, time_limit=seconds, gap=0.01, trees=[] if keep else None)
    search(problem.query, ledger)
    return ledger, time.process_time() - began


def compare(problem: cl.Problem, seconds: float) -> dict[str, float]:
    """Both ways for one problem."""
    _, plain = timed(problem, seconds, keep=False)
    ledger, keeping = timed(problem, seconds, keep=True)
    row = {"plain": plain, "keeping": keeping, "closed": float(bool(ledger.closed.all()))}
    for name, trees in (("nothing", ()), ("leaves", ledger.trees or ())):
        began = time.process_time()
        proof = certify(problem.query, ledger.bound, ledger.x, time_limit=seconds, trees=trees)[0]
        row[name] = time.process_time() - began
        row[f"{name} written"] = float(isinstance(proof, SavedProof))
        row[f"{name} count"] = proof.report.leaves if isinstance(proof, SavedProof) else 0
        row[f"{name} checked"] = proof.checked if isinstance(proof, SavedProof) else 0.0
    return row


def line(name: str, rows: list[dict[str, float]]) -> str:
    """One row of the page, of the problems for which both ways wrote a certificate."""
    both = [row for row in rows if row["nothing written"] and row["leaves written"]]
    total = {key: sum(row[key] for row in both) for key in rows[0]}
    ratio = statistics.median(row["nothing"] / max(row["leaves"], 1e-9) for row in both) if both else 0.0
    written = (int(sum(row[f"{way} written"] for row in rows)) for way in ("nothing", "leaves"))
    closed = int(sum(row["closed"] for row in rows))
    mean = {key: value / max(len(both), 1) for key, value in total.items()}
    return (
        f"| {name} | {len(rows)} | {closed} | {' | '.join(map(str, written))} | {mean['keeping']:.2f} "
        f"| {mean['nothing']:.3f} | {mean['leaves']:.3f} | {ratio:.1f} "
        f"| {mean['nothing count']:.0f} | {mean['leaves count']:.0f} "
        f"| {mean['nothing checked']:.3f} | {mean['leaves checked']:.3f} |"
    )


def main() -> None:
    """Run everything and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="mnist_small,mnist_dnn2")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20.0)
    chosen = parser.parse_args()
    count_cpu_seconds()
    data, lines, small = mnist(), [], []
    for name in chosen.only.split(","):
        net = cl.load(model_file(f"{name}.onnx"))
        for p, norm in ((cl.inf, "ℓ∞"), (2, "ℓ2")):
            rows = []
            for i in range(chosen.images):
                x, label = torch.as_tensor(data.x[i], dtype=torch.float32).reshape(1, 28, 28), int(data.y[i])
                conditions = [net.input.between(0, 1), net.output.argmax() != label]
                problem = cl.Problem(cl.Minimize(cl.norm(net.input - x, p=p)), conditions)
                rows.append(compare(problem, chosen.seconds))
                print(name, norm, i, {key: round(value, 3) for key, value in rows[-1].items()}, flush=True)
            lines.append(line(f"{name}, {norm}", rows))
            small += [row["keeping"] / row["plain"] for row in rows if row["closed"]]
    page = [
        "CPU seconds, means over the problems with both certificates; certifying includes checking. *speed-up*: median",
        "over problems. One thread.",
        "",
        "| group | problems | closed | written from nothing | from leaves | solve s | certify s, nothing | leaves "
        "| speed-up | leaves of the tree, nothing | leaves | check s, nothing | leaves |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        *lines,
        "",
        f"A solve that keeps leaves beside one that does not, where both close: median {statistics.median(small):.3f}."
        if small
        else "",
    ]
    write_page(RESULTS / "certificate_trees.md", "Certificates from the leaves of the solve", page)
    print("\n".join(page))


if __name__ == "__main__":
    main()
