"""Several runs in one picture: robust accuracy over the radius, one band for each model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clinch.errors import ProblemError
from clinch.figures.style import BOUND, INK, MUTED, VALUE, new_figure, plain, style
from clinch.study.figures.certified import norm_name
from clinch.study.template import radius_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from clinch.study.evaluation import Evaluation

#: Okabe and Ito's further colours
COLOURS = (BOUND, VALUE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", INK, MUTED)


def compared_figure(runs: Sequence[Evaluation], heading: str = "", size: tuple[float, float] = (6.4, 3.7)) -> Figure:
    """Robust accuracy of several runs: curves over the radius with a band for what is open, bars for one radius.

    Runs of distances are curves by themselves; runs at one radius each are joined by model and data, a point a radius.

    Args:
        runs: of :func:`clinch.study.evaluate` or :func:`clinch.study.open_run`, in one norm.
        heading: above everything.
        size: width and height in inches.

    Raises:
        ProblemError: no run, more models than colours, or several norms.
    """
    groups: dict[str, list[Evaluation]] = {}
    for run in runs:
        groups.setdefault(run.model if len({r.data for r in runs}) == 1 else f"{run.model}, {run.data}", []).append(run)
    if not groups or len(groups) > len(COLOURS):
        raise ProblemError(f"Name 1 to {len(COLOURS)} models' runs; these are {len(groups)}.")
    if len({run.template.norm for run in runs}) > 1:
        raise ProblemError("The runs are of several norms, whose radii have no common scale. Draw each norm by itself.")
    with style():
        figure = new_figure(figsize=size, dpi=160, layout="constrained")
        axes = figure.add_subplot()
        single = {run.template.eps for run in runs}
        if len(single) == 1 and None not in single:
            _bars(axes, groups)
        else:
            _curves(axes, groups)
            axes.set_xlabel(f"radius, {norm_name(runs[0])}")
            axes.set_xlim(0, None)
        axes.set_ylim(0, 101)
        axes.set_ylabel("% robust: proven to not attacked")
        axes.grid(axis="y", color="#EAEAEA", linewidth=0.7)
        axes.set_axisbelow(True)
        if heading:
            axes.set_title(plain(heading), loc="left", fontweight="bold")
    return figure


def _curves(axes: Axes, groups: dict[str, list[Evaluation]]) -> None:
    for (title, runs), colour in zip(groups.items(), COLOURS):
        whole = next((run for run in runs if run.template.eps is None), None)
        if whole is not None:
            radii, low, high = (part.tolist() for part in whole.curve())
            step = "post"
            axes.step(radii, [100 * share for share in high], where="post", color=colour, linewidth=1.2)
        else:
            points = sorted((run.template.eps or 0.0, *run.interval) for run in runs)
            at, low_at, high_at = zip((0.0, *runs[0].accuracy()), *points)
            axes.plot(at, [100 * share for share in high_at], ".", color=colour)
            # robust accuracy falls with the radius: between two radii it is at least the next, at most the last one
            radii = [at[0], *(r for r in at[1:-1] for _ in range(2)), at[-1]]
            high, low = ([s for s in part for _ in range(2)] for part in (high_at[:-1], low_at[1:]))
            step = None
            axes.plot(radii, [100 * share for share in high], color=colour, linewidth=1.2)
        axes.fill_between(
            radii, [100 * s for s in low], [100 * s for s in high], color=colour, alpha=0.25, linewidth=0, step=step
        )
        axes.plot([], [], color=colour, linewidth=4, label=plain(title))
    axes.legend(frameon=False)


def _bars(axes: Axes, groups: dict[str, list[Evaluation]]) -> None:
    """One bar for each model: proven, and on top of it what is open."""
    for k, (runs, colour) in enumerate(zip(groups.values(), COLOURS)):
        low, high = (100 * end for end in runs[0].interval)
        axes.bar(k, low, 0.6, color=colour)
        axes.bar(k, high - low, 0.6, bottom=low, color=colour, alpha=0.25)
        shown = f"{low:.1f}" if high - low < 0.05 else f"{low:.1f} to {high:.1f}"
        axes.text(k, high + 1, shown, ha="center", fontsize=8)
    axes.set_xticks(range(len(groups)), labels=[plain(title)[:24] for title in groups])
    one = next(iter(groups.values()))[0]
    axes.set_xlabel(f"{norm_name(one)} radius {radius_text(one.template.eps or 0.0)}")


def distribution_figure(
    runs: Sequence[Evaluation], heading: str = "", size: tuple[float, float] = (6.4, 3.7)
) -> Figure:
    """The robustness distribution of runs of distances: share of images below each critical radius, with the fit.

    Args:
        runs: studies of distances.
        heading, size: as of :func:`compared_figure`.

    Raises:
        ProblemError: a run at one radius; no run, or too many.
    """
    import torch

    from clinch.study.distribution import distribution

    if not 1 <= len(runs) <= len(COLOURS):
        raise ProblemError(f"Name 1 to {len(COLOURS)} runs; these are {len(runs)}.")
    with style():
        figure = new_figure(figsize=size, dpi=160, layout="constrained")
        axes = figure.add_subplot()
        for run, colour in zip(runs, COLOURS):
            found = distribution(run)
            share = 100 * (torch.arange(len(found.found)) + 1) / len(found.found)
            known = found.found[found.found.isfinite()]
            ends = found.found.clamp(max=float(known.max()) if len(known) else 1.0)
            axes.fill_betweenx(share, found.proven, ends, color=colour, alpha=0.25, linewidth=0)
            axes.plot(found.found, share, color=colour, linewidth=1.5, label=plain(run.model))
            if found.fit is not None:
                grid = torch.linspace(*axes.get_xlim(), 200).clamp(min=1e-12).double()
                normal = torch.special.ndtr((grid.log() - found.fit.mu) / max(found.fit.sigma, 1e-12))
                axes.plot(grid, 100 * normal, color=colour, linewidth=0.9, linestyle="--", label="log-normal fit")
        axes.set_xlim(0, None)
        axes.set_ylim(0, 101)
        axes.set_xlabel(f"critical radius, {norm_name(runs[0])}")
        axes.set_ylabel("% of correctly classified images")
        axes.legend(frameon=False)
        if heading:
            axes.set_title(plain(heading), loc="left", fontweight="bold")
    return figure
