"""Monitors of hidden layers: fitted from data, and how far inputs are from tripping or evading them.

* :class:`BoxMonitor`, :class:`JoinedMonitor`, :func:`fit_monitor`: boxes per class, on one layer or several.
* :func:`nearest_objection`, :func:`nearest_missed`: both directions of document 0, with a certified distance per input.
* :func:`coverage`: how far each class is from either, as a table.
"""

from clinch.domains.monitors.boxes import BoxMonitor, activations, predicted
from clinch.domains.monitors.coverage import Coverage, coverage
from clinch.domains.monitors.joined import JoinedMonitor, Monitor, fit_monitor
from clinch.domains.monitors.nearest import Nearest, nearest_missed, nearest_objection

__all__ = [
    "BoxMonitor",
    "Coverage",
    "JoinedMonitor",
    "Monitor",
    "Nearest",
    "activations",
    "coverage",
    "fit_monitor",
    "nearest_missed",
    "nearest_objection",
    "predicted",
]
