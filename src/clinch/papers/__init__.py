"""Published tables and figures, one file each: ``adr_random.py`` is what ``clinch reproduce adr-random`` runs.

To add one is to add a file with a function ``run(*, seed, quick, note) -> Reproduction``
(:mod:`clinch.papers.parts.reproduction`). Parts that papers share are in :mod:`clinch.papers.parts`.
"""

from clinch.papers.parts.figure_comparison import Group, comparison_figure, draw_comparison
from clinch.papers.parts.figure_curves import Curve, Panel, curves_figure
from clinch.papers.parts.random_network import random_network
from clinch.papers.parts.reproduction import Claim, Reproduction, Table, reproduce

__all__ = [
    "Claim",
    "Curve",
    "Group",
    "Panel",
    "Reproduction",
    "Table",
    "comparison_figure",
    "curves_figure",
    "draw_comparison",
    "random_network",
    "reproduce",
]
