"""Figures, one file each, drawn on ``matplotlib.figure.Figure`` objects: no window, no global state.

To add a figure is to add a file here; what figures share is in :mod:`clinch.study.figures.style`.
"""

from clinch.study.figures.certified import certified_figure
from clinch.study.figures.change import change_figure
from clinch.study.figures.classes import classes_figure
from clinch.study.figures.comparison import Group, comparison_figure, draw_comparison
from clinch.study.figures.coverage import coverage_figure
from clinch.study.figures.curves import Curve, Panel, curves_figure
from clinch.study.figures.gallery import gallery_figure
from clinch.study.figures.inputs import draw_inputs
from clinch.study.figures.learning import learning_figure
from clinch.study.figures.margins import margins_figure
from clinch.study.figures.policies import policy_attack_figure
from clinch.study.figures.restored import restored_figure
from clinch.study.figures.segmented import segmentation_figure
from clinch.study.figures.solution import draw_history, solution_figure, summary
from clinch.study.figures.style import save, style
from clinch.study.figures.watched import Watched, draw_watched

__all__ = [
    "Curve",
    "Group",
    "Panel",
    "Watched",
    "certified_figure",
    "change_figure",
    "classes_figure",
    "comparison_figure",
    "coverage_figure",
    "curves_figure",
    "draw_comparison",
    "draw_history",
    "draw_inputs",
    "draw_watched",
    "gallery_figure",
    "learning_figure",
    "margins_figure",
    "policy_attack_figure",
    "restored_figure",
    "save",
    "segmentation_figure",
    "solution_figure",
    "style",
    "summary",
]
