"""Figures, one file each, drawn on ``matplotlib.figure.Figure`` objects: no window, no global state.

Here is what all figures share, and the picture of a solution. Figures of an application, of a study or of a paper are
files beside what they draw; what figures share is in :mod:`clinch.figures.style`.
"""

from clinch.figures.inputs import draw_inputs
from clinch.figures.live import Live
from clinch.figures.solution import draw_history, solution_figure, summary
from clinch.figures.style import save, style
from clinch.figures.watched import Watched, draw_watched

__all__ = [
    "Live",
    "Watched",
    "draw_history",
    "draw_inputs",
    "draw_watched",
    "save",
    "solution_figure",
    "style",
    "summary",
]
