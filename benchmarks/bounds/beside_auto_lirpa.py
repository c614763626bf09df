"""CROWN on every kind of module beside auto_LiRPA's: the means of the lower bounds, network by network.

Every network of ``benchmarks.networks.module_kinds``, in float64, over a box of half-width 0.1 and over one of 0.02. A
bound is finite in all outputs or is none. What counts is the mean of the lower bounds of all outputs: by how much it is
below auto_LiRPA's, relative to the larger of 1 and its size.

    python -m benchmarks beside_auto_lirpa --lirpa PYTHON [--only WORD] [--keep FOLDER]

PYTHON has torch and auto_LiRPA, which no other part of the project needs. Writes
benchmarks/results/beside_auto_lirpa.md; ends with exit code 1 where the mean is looser by 1e-4 on more than 5 % of the
networks that both bound, or by 1 % on any. What a run has measured stays in the folder, a line for each network, and is
not measured again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

TAKES = "10 minutes"
RADII = (0.1, 0.02)
#: of each box that are looked at, half of them corners
POINTS = 400
#: outputs of each network that steps go down for, and how many
STEPPED, STEPS = 4, 12
#: what counts as equal, and what is too loose anywhere
EQUAL, LOOSE = 1e-4, 1e-2
HERE = Path(__file__).resolve()

Found = dict[str, dict[str, list[float] | None]]
#: half-width of the box -> lower bounds of the outputs
Measured = Callable[[float], Tensor]


def _question(name: str) -> tuple[torch.nn.Module, Tensor]:
    from benchmarks.networks.module_kinds import KINDS, made

    generator = torch.Generator().manual_seed(1)
    return made(name), torch.rand(KINDS[name].input_shape, generator=generator, dtype=torch.float64)


def by_lirpa(name: str) -> Measured:
    """Lower bounds by auto_LiRPA's CROWN; by matrices, as its patches say too much of grouped, dilated and reflected
    convolutions."""
    from auto_LiRPA import BoundedModule, BoundedTensor  # type: ignore[import-not-found]
    from auto_LiRPA.perturbations import PerturbationLpNorm  # type: ignore[import-not-found]

    model, x = _question(name)
    x = x.unsqueeze(0)
    torch.set_default_dtype(torch.float64)  # only now: weights are drawn in the default type
    bounded = BoundedModule(model.double(), torch.zeros_like(x), bound_opts={"conv_mode": "matrix"}, verbose=False)

    def measured(radius: float) -> Tensor:
        point = BoundedTensor(x, PerturbationLpNorm(norm=torch.inf, x_L=x - radius, x_U=x + radius))
        with torch.no_grad():
            return bounded.compute_bounds(x=(point,), method="CROWN", bound_upper=False)[0]

    return measured


def by_clinch(name: str) -> Measured:
    """Lower bounds by Clinch's CROWN."""
    import clinch as cl
    from benchmarks.networks.module_kinds import KINDS

    model, x = _question(name)
    net = cl.load(model, KINDS[name].input_shape, **KINDS[name].options)
    return lambda radius: cl.bounds.crown(net, cl.bounds.box(x[None] - radius, x[None] + radius))


def seen(name: str) -> Measured:
    """The least outputs among points and corners of the box, and where steps down from them lead: no bound lies above.

    Steps are taken for each output from the point where it is least.
    """
    model, x = _question(name)
    model = model.double().requires_grad_(False)
    return lambda radius: _least_seen(model, x, radius)


def _least_seen(model: torch.nn.Module, x: Tensor, radius: float) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    moves = 2 * torch.rand(POINTS, *x.shape, generator=generator, dtype=torch.float64) - 1
    moves[POINTS // 2 :].sign_()
    with torch.no_grad():
        outputs = torch.stack([model(x[None] + radius * move[None]).flatten() for move in moves])
    least, at = outputs.min(0)
    for k in range(min(len(least), STEPPED)):
        move = moves[at[k]]
        for step in range(STEPS):
            move = move.detach().requires_grad_()
            value = model(x[None] + radius * move[None]).flatten()[k]
            least[k] = torch.minimum(least[k], value.detach())
            if not value.requires_grad:
                break
            try:
                (slope,) = torch.autograd.grad(value, move)
            except RuntimeError:  # torch has no derivative of it
                break
            move = (move - 0.5 * (1 - step / STEPS) * slope.sign()).clamp(-1, 1)
    return least


FAMILIES = {"lirpa": by_lirpa, "clinch": by_clinch, "seen": seen}


def measure(family: str, names: list[str]) -> None:
    """Print what one side finds, a line for each network."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in names:
        found: dict[str, list[float] | None] = {str(radius): None for radius in RADII}
        torch.set_default_dtype(torch.float32)
        with suppress(Exception):  # whatever it cannot do
            measured = FAMILIES[family](name)
            for radius in RADII:
                with suppress(Exception):
                    below = measured(radius).detach().flatten()
                    found[str(radius)] = below.tolist() if bool(below.isfinite().all()) else None
        print(json.dumps({"name": name, "found": found}), flush=True)


def run(python: str, family: str, names: list[str], folder: Path) -> Found:
    """What one side finds, by name; what the folder knows is not measured again."""
    kept = folder / f"{family}.jsonl"
    if missing := [name for name in names if name not in _known(kept)]:
        with kept.open("a") as stream:
            command = [python, str(HERE), "--measure", family, *missing]
            done = subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, text=True, check=False)
        if left := [name for name in missing if name not in _known(kept)]:
            raise SystemExit(f"{family} stopped before '{left[0]}', {len(left)} left: {done.stderr[-2000:]}")
    return _known(kept)


def _known(kept: Path) -> Found:
    lines = kept.read_text().splitlines() if kept.exists() else []
    found = [json.loads(line) for line in lines if line.startswith('{"name"') and line.endswith("}")]
    return {line["name"]: line["found"] for line in found}


def _unless_passed(bound: list[float] | None, least: list[float] | None) -> list[float] | None:
    """A bound, or None where an output lies below it."""
    if bound is None or least is None or len(bound) != len(least):
        return bound
    return None if any(b > at + 1e-7 for b, at in zip(bound, least)) else bound


def main() -> int:
    """Compare and write the page."""
    from benchmarks.common.page import RESULTS, table, write_page
    from benchmarks.networks.module_kinds import KINDS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lirpa", required=True, help="a Python that has auto_LiRPA")
    parser.add_argument("--only", default="", help="kinds whose name holds this word")
    parser.add_argument("--keep", type=Path, help="a folder for what is measured; default: a new temporary one")
    options = parser.parse_args()
    names = [name for name in KINDS if options.only in name]
    folder = options.keep or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    theirs, ours = run(options.lirpa, "lirpa", names, folder), run(sys.executable, "clinch", names, folder)
    least, wrong = run(sys.executable, "seen", names, folder), [0, 0]
    rows: list[list[str]] = []
    both, behind, loose, alone = 0, 0, 0, [0, 0]
    for name in names:
        for key in map(str, RADII):
            a, b = (_unless_passed(side[name][key], least[name][key]) for side in (ours, theirs))
            wrong[0] += a != ours[name][key]
            wrong[1] += b != theirs[name][key]
            alone[0] += a is not None and b is None
            alone[1] += b is not None and a is None
            if a is None or b is None:
                continue
            mean, other = (sum(v) / len(v) for v in (a, b))
            lead = (mean - other) / max(1.0, abs(other))
            both, behind, loose = both + 1, behind + (lead < -EQUAL), loose + (lead < -LOOSE)
            if abs(lead) > EQUAL:
                rows.append([name, key, f"{mean:.5f}", f"{other:.5f}", f"{lead:+.5f}"])
    print(f"both {both}, looser {behind}, looser by 1 % {loose}; bounded by one alone: {alone}; passed: {wrong}")
    counts = [
        "networks and boxes that both bound",
        "of them looser by 1e-4",
        "looser by 1 %",
        "by Clinch alone",
    ]
    rows.sort(key=lambda row: float(row[4]))
    lines = [
        *table([*counts, "by auto_LiRPA alone"], [[both, behind, loose, *alone]]), "",
        f"Bounds above an output that one of {POINTS} points of the box has count as none: {wrong[0]} of Clinch's, "
        f"{wrong[1]} of auto_LiRPA's.", "", "Where they differ:", "",
        *table(["kind", "half-width", "Clinch", "auto_LiRPA", "relative lead"], rows),
    ]  # fmt: skip
    if not options.only:
        write_page(RESULTS / "beside_auto_lirpa.md", "CROWN beside auto_LiRPA on kinds of modules", lines)
    return int(behind > 0.05 * both or loose > 0 or wrong[0] > 0)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parents[2]))
    measure(sys.argv[2], sys.argv[3:])
