"""Tables of ``benchmarks/attacks/minimum_norm.py`` from its record."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common.page import write_page

#: median and mean, per network and norm, of the best of 5 to 48 runs of other libraries at any number of passes,
#: recorded in November 2026 on the same images
FRONTIER = {
    ("mnist_small", "0"): (7, 7.15), ("mnist_small", "1"): (5.779, 6.312),
    ("mnist_small", "2"): (0.8991, 0.9439), ("mnist_small", "inf"): (0.05840, 0.06063),
    ("mnist_dnn4", "0"): (7, 7.28), ("mnist_dnn4", "1"): (5.904, 6.182),
    ("mnist_dnn4", "2"): (0.9466, 0.9651), ("mnist_dnn4", "inf"): (0.06213, 0.06154),
    ("mnist_cnn", "0"): (9, 9.77), ("mnist_cnn", "1"): (7.796, 8.544),
    ("mnist_cnn", "2"): (1.430, 1.457), ("mnist_cnn", "inf"): (0.1049, 0.1068),
    ("mnist_adrgd_pgd", "0"): (6, 6.65), ("mnist_adrgd_pgd", "1"): (4.226, 4.419),
    ("mnist_adrgd_pgd", "2"): (1.401, 1.373), ("mnist_adrgd_pgd", "inf"): (0.2373, 0.2266),
}  # fmt: skip
RECORDED = {network for network, _ in FRONTIER}
#: distances whose ratio is closer to one than this are a tie
TIE = 1e-4
#: a run counts as within its budget up to this factor
SLACK = 1.05

LEGEND = """
Minimum-norm attacks on the first correctly classified test images, untargeted, x in [0, 1], one CPU thread: 100 images
of MNIST networks with a recorded frontier, 20 of the others.

- *success*: share of images with a point that is misclassified in float32 and in float64; *denied*: share that only
  float32 calls misclassified.
- *median*, *mean*: of the distances, the median over all images (a failure is infinitely far), the mean over successes.
- *optimality*: AttackBench's (arXiv 2404.19460), `Σ (E − d)₊ / Σ (E − d*)` with d* the best of all runs in this file
  on the image and E the largest d*.
- *frontier*: recorded mean of the best of all other libraries' runs at any number of passes, over this mean; only where
  success is complete.
- *passes* per image: forward and backward rows. A run marked † spends over 5% more than its budget.
- *nearest*: share of images on which Clinch's default (`nearest`) at this budget is at least as near as this method,
  ties within 1e-4 included. `nearest` itself: as near as all other runs of the budget.
- Attacks that end by themselves are run once, and listed under 240 passes. torchattacks' FAB-T ends with its first
  success, so that without a given radius it tries one class. adv-lib's FMN rescales every ℓ2 perturbation to the
  sphere instead of projecting onto the ball. Its PDPGD for ℓ0 sets 4 to 7% of the elements to zero through rounding
  (the square root of a negative number in float32) where the exact operator keeps them.
- Cells are written as far as they were run.
"""


def write_tables(lines: list[dict], path: Path) -> None:
    """Write the tables of all cells in the record."""
    cells: dict[tuple[str, str, int], list[dict]] = {}
    for line in lines:
        network, p, budget = line["key"][:3]
        cells.setdefault((network, p, budget), []).append(line)
    text = [LEGEND.strip(), ""]
    text += _summary(cells, lines)
    for (network, p, budget), rows in sorted(cells.items(), key=lambda item: (item[0][2], item[0][0], item[0][1])):
        text += _cell(network, p, budget, rows, _best(lines, network, p))
    write_page(path, "Minimum-norm attacks beside other libraries", text)


def distances(line: dict) -> Tensor:
    """Distances ``(B,)``, infinity for failures."""
    return torch.tensor([torch.inf if d is None else d for d in line["distance"]], dtype=torch.float64)


def _best(lines: list[dict], network: str, p: str) -> Tensor:
    """Per image the best of all runs of a network and norm."""
    runs = [distances(line) for line in lines if line["key"][:2] == [network, p] and "distance" in line]
    return torch.stack(runs).amin(0)


def optimality(d: Tensor, best: Tensor) -> float:
    """AttackBench's local optimality of distances against the best known ones."""
    known = best[best.isfinite()]
    most = known.max()
    return float((most - d).clamp(min=0).sum() / (most - known).sum())


def _name(line: dict) -> str:
    return f"{line['key'][3]} {line['key'][4]}"


def _default(rows: list[dict]) -> Tensor | None:
    found = [distances(r) for r in rows if r["key"][3:] == ["clinch", "nearest"] and "distance" in r]
    return found[0] if found else None


def _mean(d: Tensor) -> float:
    return float(d[d.isfinite()].mean()) if bool(d.isfinite().any()) else float("inf")


def _cell(network: str, p: str, budget: int, rows: list[dict], best: Tensor) -> list[str]:
    mine = _default(rows)
    ranked = sorted((r for r in rows if "distance" in r), key=lambda r: -optimality(distances(r), best))
    text = [
        f"## {network}, ℓ{p}, up to {budget} passes", "",
        "| attack | success | denied | median | mean | optimality | frontier | passes | CPU ms | nearest |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in ranked:
        d = distances(row)
        success = float(d.isfinite().double().mean())
        frontier = FRONTIER.get((network, p))
        ratio = f"{frontier[1] / _mean(d):.3f}" if frontier and success == 1 else ""
        others = d if row["key"][3:] != ["clinch", "nearest"] else torch.stack([distances(r) for r in ranked]).amin(0)
        share = "" if mine is None else f"{float((mine <= others * (1 + TIE)).double().mean()):.2f}"
        text.append(
            f"| {_name(row)} | {success:.2f} | {row['denied']:.2f} | {float(d.median()):.4g} | {_mean(d):.4g} | "
            f"{optimality(d, best):.3f} | {ratio} | {row['passes']:.0f}{'†' * (row['passes'] > SLACK * budget)} | "
            f"{row['seconds'] * 1e3:.1f} | {share} |"
        )
    text += [f"| {_name(r)} | fails: {r['error']} | | | | | | | | |" for r in rows if "error" in r]
    return [*text, ""]


def _summary(cells: dict[tuple[str, str, int], list[dict]], lines: list[dict]) -> list[str]:
    text = [
        "## Summary", "",
        "Median / mean, optimality. Of several the one of highest optimality within the budget.", "",
        "| network, norm, passes | Clinch's default | Clinch's others | other libraries | best of all per image |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    for (network, p, budget), rows in sorted(cells.items(), key=lambda item: (item[0][2], item[0][0], item[0][1])):
        best = _best(lines, network, p)
        fair = [r for r in rows if "distance" in r and r["passes"] <= SLACK * budget]

        default = [r for r in rows if r["key"][3:] == ["clinch", "nearest"] and "distance" in r]
        ours = [r for r in fair if r["key"][3] == "clinch" and r["key"][4] != "nearest"]
        theirs = [r for r in fair if r["key"][3] != "clinch"]
        text.append(
            f"| {network} ℓ{p}, {budget} | {_pick(default, best)} | {_pick(ours, best)} | {_pick(theirs, best)} | "
            f"{float(best.median()):.4g} / {_mean(best):.4g} |"
        )
    return [*text, ""]


def _pick(rows: list[dict], best: Tensor) -> str:
    """The run of highest optimality in words."""
    if not rows:
        return ""
    row = max(rows, key=lambda r: optimality(distances(r), best))
    d = distances(row)
    failed = "" if bool(d.isfinite().all()) else f", success {float(d.isfinite().double().mean()):.2f}"
    name = "" if row["key"][3:] == ["clinch", "nearest"] else f"{row['key'][4]} ({row['key'][3]}) "
    return f"{name}{float(d.median()):.4g} / {_mean(d):.4g}, {optimality(d, best):.3f}{failed}"
