"""Regression: how far the output can move inside a ball (Balda et al. 2018, arXiv 1803.03607, section III)."""

from clinch.applications.regression.change import Change, largest_change
from clinch.applications.regression.figure_change import change_figure
from clinch.applications.regression.linear import LinearChange, linear_change

__all__ = ["Change", "LinearChange", "change_figure", "largest_change", "linear_change"]
