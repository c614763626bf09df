"""Splits of the input and of what any node reads: sound wherever it stops, and it ends at the optimum."""

import math

import pytest
import torch
from exact_cases import ALL_OBJECTIVES, CLAUSES, generator, inner_node, normal, query
from hypothesis import given, settings
from hypothesis import strategies as st

import clinch as cl
from clinch.bounds.part_dual import PartDual
from clinch.geometry.region import Region
from clinch.network.ops.base import Interval
from clinch.query import Distance, Forms, Linear, Query
from clinch.search.general_split import PartSearch, general_split
from clinch.search.parts import Parts
from clinch.solver.ledger import Ledger
from clinch.solver.settings import GeneralSplit as Settings
from clinch.testing.brute_force import brute_force
from clinch.testing.networks import leaky, multilayer, network_of, residual
