"""Exact search: mixed-integer encodings and a branch and bound of our own."""

from clinch.exact.branch_and_bound import branch_and_bound as branch_and_bound
