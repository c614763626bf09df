"""`worst` beside AutoAttack: how many inputs each brings to another class inside a ball, and for what CPU time.

AutoAttack is the version of its authors (package `pyautoattack`, optional: `pip install --no-deps pyautoattack`), the
standard one; beside it our own `autoattack`. The first correctly classified test images of each network, one thread.

Ends with exit code 1 if `worst` finds less than AutoAttack anywhere, or takes more than a fifth of its time.

    python -m benchmarks beside_autoattack [--images 20] [--cases NAME ...]

Writes benchmarks/results/beside_autoattack.md. What was measured is kept in ``runs/autoattack.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

import clinch as cl
from benchmarks.attacks.networks import Subject, logits
from benchmarks.common.page import RESULTS, ROOT, judged_page, table

TAKES = "half an hour"
RUNS = ROOT / "runs" / "autoattack.jsonl"
#: share of AutoAttack's time that `worst` may take
SHARE = 0.2


class Case(NamedTuple):
    """A network, a ball, and what is done to its inputs or its scores."""

    network: str
    eps: float
    p: float = math.inf
    scale: float = 1.0
    levels: int = 0

    @property
    def name(self) -> str:
        """As it stands in the table."""
        more = f", logits × {self.scale:g}" * (self.scale != 1) + f", behind {self.levels} levels" * bool(self.levels)
        return f"{self.network}, ℓ{self.p:g} {self.eps:.3g}{more}"


CASES = [
    Case("cifar_base_kw", 2 / 255), Case("cifar_base_kw", 8 / 255), Case("cifar_base_kw", 0.5, 2.0),
    Case("resnet_2b", 2 / 255), Case("resnet_2b", 5 / 255),
    Case("mnist_wk17a_linf0.1", 0.1), Case("mnist_wk17a_linf0.1", 0.15),
    Case("mnist_fcnn", 0.1), Case("mnist_fcnn", 0.1, scale=100.0),
    Case("mnist_adrgd_pgd", 0.25), Case("mnist_adrgd_pgd", 0.3),
    Case("cifar_base_kw", 8 / 255, levels=255),
]  # fmt: skip


class Behind(nn.Module):
    """A network behind rounding to so many levels, its scores times a factor."""

    def __init__(self, case: Case, subject: Subject) -> None:
        super().__init__()
        self.case, self.graph = case, subject.net.graph
        self.unused = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        x = torch.round(x * self.case.levels) / self.case.levels if self.case.levels else x
        return self.case.scale * self.graph.forward(x)[self.graph.output]


def real(case: Case, model: nn.Module, subject: Subject) -> Tensor:
    """The points of AutoAttack's authors."""
    from pyautoattack import AutoAttack  # pyright: ignore[reportMissingImports]

    attack = AutoAttack(model, norm="Linf" if math.isinf(case.p) else f"L{case.p:g}", eps=case.eps, device="cpu",
                        seed=0)  # fmt: skip
    return attack.run_standard_evaluation(subject.x.clone(), subject.y.clone(), batch_size=len(subject.x))[0]


def ours(function: Callable) -> Callable:
    """The points of an attack of Clinch."""

    def run(case: Case, model: nn.Module, subject: Subject) -> Tensor:
        plain = case.scale == 1 and not case.levels
        return function(subject.net if plain else model, subject.x, subject.y, eps=case.eps, norm=case.p).x

    return run


ATTACKS = {"worst": ours(cl.attacks.worst), "autoattack": ours(cl.attacks.autoattack), "AutoAttack": real}


def measured(case: Case, name: str, subject: Subject) -> dict:
    """Inputs that are misclassified at the points inside the ball, and CPU seconds."""
    model, began = Behind(case, subject).eval(), time.process_time()
    points = ATTACKS[name](case, model, subject)
    seconds = time.process_time() - began
    x = points.detach().clamp(0, 1)
    x = torch.round(x * case.levels) / case.levels if case.levels else x
    wrong = logits(subject.net, x).argmax(1) != subject.y
    away = torch.linalg.vector_norm((points.double() - subject.x.double()).flatten(1), case.p, dim=1)
    inside = away <= case.eps * (1 + 1e-5)
    return {"case": case.name, "attack": name, "images": len(x), "found": int((wrong & inside).sum()),
            "seconds": seconds}  # fmt: skip


def main() -> int:
    """Measure, write the page, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--cases", nargs="+", help="parts of their names; default: all")
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("--again", action="store_true", help="repeat what was measured; the last counts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    RUNS.parent.mkdir(exist_ok=True)
    known = {(line["case"], line["attack"], line["images"]) for line in record()}
    for case in CASES:
        if options.cases and not any(part in case.name for part in options.cases):
            continue
        subject = Subject.of(case.network, options.images)
        for name in options.attacks:
            if options.again or (case.name, name, len(subject.x)) not in known:
                line = measured(case, name, subject)
                print(line, flush=True)
                with RUNS.open("a") as file:
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return judge(options.images)


def record() -> list[dict]:
    """What was measured so far; of what was repeated the last."""
    lines = [json.loads(line) for line in RUNS.read_text().splitlines()] if RUNS.exists() else []
    return list({(line["case"], line["attack"], line["images"]): line for line in lines}.values())


def judge(images: int) -> int:
    """The page from the record."""
    rows, wrong = [], []
    for case in CASES:
        cells = {line["attack"]: line for line in record() if (line["case"], line["images"]) == (case.name, images)}
        if "worst" not in cells:
            continue
        row: list[object] = [case.name]
        for name in ATTACKS:
            cell = cells.get(name)
            row += [None, None] if cell is None else [cell["found"], f"{cell['seconds']:.1f}"]
        if "AutoAttack" in cells:
            mine, theirs = cells["worst"], cells["AutoAttack"]
            share = mine["seconds"] / theirs["seconds"]
            row.append(f"{share:.2f}")
            if mine["found"] < theirs["found"] or share > SHARE:
                wrong.append(f"{case.name}: {mine['found']} of {theirs['found']} at {share:.2f} of its time")
        else:
            row.append(None)
        rows.append(row)
    head = ["network and ball", *(part for name in ATTACKS for part in (name, "CPU s")), "share of its time"]
    page = [
        f"Of the first {images} correctly classified test images, how many each brings to another class; AutoAttack is "
        "its authors' (pyautoattack), `autoattack` and `worst` are Clinch's, with their defaults.", "",
        *table(head, rows), "",
    ]  # fmt: skip
    held = f"at least its count everywhere, in at most {SHARE:.0%} of its time."
    return judged_page(
        RESULTS / "beside_autoattack.md", "`worst` beside AutoAttack", page, wrong, held, ("pyautoattack",)
    )


if __name__ == "__main__":
    raise SystemExit(main())
