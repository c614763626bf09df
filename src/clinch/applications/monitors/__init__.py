"""Monitors of hidden layers: fitted from data, and how far inputs are from tripping or evading them.

* :class:`BoxMonitor`, :class:`JoinedMonitor`, :func:`fit_monitor`: boxes per class, on one layer or several.
* :func:`nearest_objection`, :func:`nearest_missed`: both directions of the problem, with a certified distance per
  input.
* :func:`coverage`: how far each class is from either, as a table.
"""

from clinch.applications.monitors.boxes import BoxMonitor
from clinch.applications.monitors.coverage import Coverage, coverage
from clinch.applications.monitors.figure_coverage import coverage_figure
from clinch.applications.monitors.joined import JoinedMonitor, Monitor, fit_monitor
from clinch.applications.monitors.nearest import Nearest, nearest_missed, nearest_objection
from clinch.network.activations import activations, predicted

__all__ = [
    "BoxMonitor",
    "Coverage",
    "JoinedMonitor",
    "Monitor",
    "Nearest",
    "activations",
    "coverage",
    "coverage_figure",
    "fit_monitor",
    "nearest_missed",
    "nearest_objection",
    "predicted",
]
