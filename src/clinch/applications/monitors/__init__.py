"""Monitors of hidden layers: fitted from data, and how far inputs are from tripping or evading them.

* :class:`BoxMonitor`, :class:`BallMonitor`, :class:`JoinedMonitor`, :func:`fit_monitor`: boxes or balls per class, on
  one layer or several, with a threshold from held-out inputs.
* :func:`detection`: false alarms, and the share of noise, other data and new classes that is noticed.
* :func:`certified_blind`, :func:`widened`: radii within which no input is rejected.
* :func:`nearest_objection`, :func:`nearest_missed`: both directions of the problem, with a certified distance per
  input.
* :class:`Monitored`, :func:`export_onnx`: a network and its monitor as one module, as one file.
* :func:`coverage`: how far each class is from either, as a table.
"""

from clinch.applications.monitors.balls import BallMonitor
from clinch.applications.monitors.blind import certified_blind, widened
from clinch.applications.monitors.boxes import BoxMonitor
from clinch.applications.monitors.coverage import Coverage, coverage
from clinch.applications.monitors.detection import Detection, blurred, detection, fitted_to, inverted, noisy
from clinch.applications.monitors.export import Monitored, export_onnx
from clinch.applications.monitors.figure_coverage import coverage_figure
from clinch.applications.monitors.fit import calibrated, fit_monitor
from clinch.applications.monitors.joined import JoinedMonitor, Monitor
from clinch.applications.monitors.nearest import Nearest, nearest_missed, nearest_objection
from clinch.network.activations import activations, predicted

__all__ = [
    "BallMonitor",
    "BoxMonitor",
    "Coverage",
    "Detection",
    "JoinedMonitor",
    "Monitor",
    "Monitored",
    "Nearest",
    "activations",
    "blurred",
    "calibrated",
    "certified_blind",
    "coverage",
    "coverage_figure",
    "detection",
    "export_onnx",
    "fit_monitor",
    "fitted_to",
    "inverted",
    "nearest_missed",
    "nearest_objection",
    "noisy",
    "predicted",
    "widened",
]
