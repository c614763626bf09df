"""Which kinds of modules that people write load, are attacked, bounded and stated in certificates.

Every network of ``module_kinds`` is loaded, which compares it with the module. From random inputs a projected gradient
descends on its outputs; interval, CROWN and α-CROWN bound them over a box of half-width 0.1. No bound may be passed by
samples, corners or the gradient's inputs: the script ends with exit code 1 otherwise. CROWN's bound of the first output
is certified, and the checker accepts the certificate (python-flint has to be there).

    python -m benchmarks module_coverage [--only WORD] [--kept FILE [--part 1/3]]

Kinds that are done are kept in the file, one a line: a run that was stopped goes on behind them, and several runs, each
with a part of the kinds and a file of its own, may be put together (``cat``).
Writes benchmarks/results/module_coverage.md.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import clinch as cl
from benchmarks.common.page import RESULTS, table, write_page
from benchmarks.networks.module_kinds import KINDS, made
from clinch.certificates import SavedProof, certify
from clinch.errors import ClinchError
from clinch.network.support import supports

TAKES = "20 minutes"
COLUMNS = ("loads", "attacked", "interval", "CROWN", "α-CROWN", "certificate")
#: half-width of the box, and what rounding may do to an ordering
RADIUS, TOLERANCE = 0.1, 1e-6


def attacked(net: cl.Network, centre: Tensor) -> Tensor:
    """Smallest outputs that samples, corners and ten steps of descent on each of them find, ``(outputs,)``."""
    graph = net.graph_as(torch.float64, "cpu")
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(64, *centre.shape, generator=generator, dtype=torch.float64) * 2 - 1
    points = centre + RADIUS * torch.cat([noise, noise.sign()])
    with torch.no_grad():
        found = graph.forward(points)[graph.output].flatten(1).amin(0)
    for i in range(len(found)):
        x = centre[None].clone()
        for _ in range(10):
            leaf = x.requires_grad_()
            value = graph.forward(leaf)[graph.output].flatten(1)[:, i]
            if not value.requires_grad:
                # constant between steps: only samples can find what is lower
                break
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
            if not bool(gradient.isfinite().all()):
                raise ValueError("the gradient is not finite")
            found[i] = torch.minimum(found[i], value.detach()[0])
            x = (x.detach() - RADIUS / 4 * gradient.sign()).clamp(centre - RADIUS, centre + RADIUS)
    return found


def certified(net: cl.Network, centre: Tensor) -> bool:
    """Whether the checker accepts a certificate of a lower bound of the first output."""
    place = (0,) * len(net.graph.nodes[net.graph.output].shape)
    problem = cl.Problem(cl.Minimize(net.output[place]), [net.input.between(centre - RADIUS, centre + RADIUS)])
    try:
        bound = cl.bounds.crown(net, cl.bounds.box(centre[None] - RADIUS, centre[None] + RADIUS))[0, :1]
        (found,) = certify(problem.query, bound, time_limit=60.0)
    except ClinchError:
        return False
    return isinstance(found, SavedProof)


def measured(name: str) -> tuple[dict[str, bool], str, bool]:
    """What works for a kind, what is missing, and whether a bound was passed."""
    marks: dict[str, bool] = dict.fromkeys(COLUMNS, False)
    kind = KINDS[name]
    try:
        net = cl.load(made(name), kind.input_shape, **kind.options)
    except ClinchError as error:
        return marks, str(error).split(". ")[0], False
    marks["loads"] = True
    centre = torch.rand(kind.input_shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    smallest = attacked(net, centre)
    marks["attacked"] = True
    rows = supports(net)
    region = cl.bounds.box(centre[None] - RADIUS, centre[None] + RADIUS)
    bounds: dict[str, Callable[..., Tensor]] = {
        "interval": cl.bounds.interval, "CROWN": cl.bounds.crown, "α-CROWN": cl.bounds.alpha_crown,
    }  # fmt: skip
    passed = False
    for heading, bound in bounds.items():
        try:
            below = bound(net, region)[0]
        except ClinchError:
            continue
        marks[heading] = bool(below.isfinite().all())
        passed |= bool((below > smallest + TOLERANCE * (1 + smallest.abs())).any())
    marks["certificate"] = marks["CROWN"] and certified(net, centre)
    missing = sorted({row.operator for row in rows if not (row.interval and row.relaxation)})
    return marks, ", ".join(missing), passed


def kept(path: Path | None) -> dict[str, Any]:
    """What a stopped run has found, by kind."""
    if path is None or not path.exists():
        return {}
    return {name: found for name, *found in map(json.loads, path.read_text("utf-8").splitlines())}


def main() -> int:
    """Count over the list and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="kinds whose name holds this word")
    parser.add_argument("--kept", type=Path, help="file of the kinds that are done")
    parser.add_argument("--part", default="1/1", help="of the kinds, such as 2/3; without the page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    part, parts = map(int, options.part.split("/"))
    names, done = [name for name in KINDS if options.only in name][part - 1 :: parts], kept(options.kept)
    for name in names:
        if name not in done:
            done[name] = measured(name)
            if options.kept is not None:
                with options.kept.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps([name, *done[name]]) + "\n")
    wrong = [name for name in names if done[name][2]]
    counts = {heading: sum(done[name][0][heading] for name in names) for heading in COLUMNS}
    rows = [
        [name, *("yes" if done[name][0][heading] else None for heading in COLUMNS), done[name][1] or None]
        for name in names
    ]
    total = [f"of {len(names)} kinds", *counts.values(), None]
    print(counts, "of", len(names), "passed:", wrong)
    lines = [
        f"{len(names)} kinds of modules. Bounds that samples, corners or the gradient passed: {len(wrong)}.", "",
        *table(["", *COLUMNS, "no rules for"], [total]), "", *table(["kind", *COLUMNS, "no rules for"], rows),
    ]  # fmt: skip
    if not options.only and parts == 1:
        write_page(RESULTS / "module_coverage.md", "Kinds of modules that load, are attacked and bounded", lines)
    return 1 if wrong else 0
