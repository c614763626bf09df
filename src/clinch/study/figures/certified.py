"""Robust accuracy against the radius, with the interval as a band."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clinch.figures.style import BOUND, GAP, MUTED, VALUE, new_figure, plain, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from clinch.study.evaluation import Evaluation


def certified_figure(evaluation: Evaluation, heading: str = "") -> Figure:
    """Draw the shares of images that are proven robust and not attacked at every radius.

    Args:
        evaluation: of :func:`clinch.study.evaluate` or :func:`clinch.study.open_run`.
        heading: above everything; default: the model and its data.

    Example:
        >>> from clinch.figures import save
        >>> save(certified_figure(cl.study.open_run("distances")), "curve.pdf").name
        'curve.pdf'
    """
    radii, proven, not_attacked = (numbers.numpy() for numbers in evaluation.curve())
    with style():
        figure = new_figure(figsize=(6.4, 3.7), dpi=160, layout="constrained")
        axes = figure.add_subplot()
        axes.fill_between(radii, 100 * proven, 100 * not_attacked, step="post", color=GAP, linewidth=0, label="open")
        axes.step(radii, 100 * not_attacked, where="post", color=VALUE, linewidth=1.8, label="not attacked")
        axes.step(radii, 100 * proven, where="post", color=BOUND, linewidth=1.8, label="proven robust")
        axes.set_xlim(0, radii[-1] or 1)
        axes.set_ylim(0, 101)
        axes.set_xlabel(f"radius, {norm_name(evaluation)}")
        axes.set_ylabel("% of images")
        axes.xaxis.set_major_formatter(lambda radius, _: f"{radius:.6g}")
        axes.grid(axis="y", color="#EAEAEA", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.set_title(heading or named(evaluation), loc="left", fontweight="bold", pad=24)
        above = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2}
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], **above, ncols=3, frameon=False, handlelength=1.6)
        axes.text(1.0, 1.04, f"{evaluation.tally.images:,} images", transform=axes.transAxes, ha="right", color=MUTED)
    return figure


def norm_name(evaluation: Evaluation) -> str:
    """The norm as people write it."""
    return {0.0: "ℓ₀", 1.0: "ℓ₁", 2.0: "ℓ₂"}.get(evaluation.template.norm, "ℓ∞")


def named(evaluation: Evaluation) -> str:
    """Model and data of a study, as a heading."""
    return plain(f"{evaluation.model} on {evaluation.data}")
