"""Segmentation: a class for every pixel, attacked, measured and certified.

* :class:`Pixels`: the goal that attacks are given: pixels that change, or take a target.
* :func:`measures`, :func:`intersection_over_union`: what an attack has changed.
* :func:`unchangeable`, :func:`changeable`: which pixels provably keep their class, and both sides as an interval.
"""

from clinch.applications.segmentation.figure_segmented import segmentation_figure
from clinch.applications.segmentation.measures import (
    Changeable,
    Measures,
    changeable,
    intersection_over_union,
    measures,
    unchangeable,
)
from clinch.applications.segmentation.pixels import Pixels

__all__ = [
    "Changeable",
    "Measures",
    "Pixels",
    "changeable",
    "intersection_over_union",
    "measures",
    "segmentation_figure",
    "unchangeable",
]
