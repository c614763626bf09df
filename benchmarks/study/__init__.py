"""Whole data sets: cost, workers, and the page of a run."""
