"""Exact search: mixed-integer encodings and a branch and bound of our own."""

from clinch.exact.standalone import branch_and_bound as branch_and_bound
from clinch.exact.standalone import fewest_changes as fewest_changes
from clinch.exact.standalone import input_split as input_split
from clinch.exact.standalone import milp as milp
