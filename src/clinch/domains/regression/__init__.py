"""Regression: how far the output can move inside a ball (Balda et al. 2018, arXiv 1803.03607, section III)."""

from clinch.domains.regression.change import Change, largest_change
from clinch.domains.regression.linear import LinearChange, linear_change

__all__ = ["Change", "LinearChange", "largest_change", "linear_change"]
