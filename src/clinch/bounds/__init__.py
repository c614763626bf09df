"""Certified bounds: what a network can do on a region, and how near a feasible input can be."""

from clinch.bounds.alpha import alpha_crown as alpha_crown
from clinch.bounds.crown import crown as crown
from clinch.bounds.export import BigMLayer as BigMLayer
from clinch.bounds.export import export as export
from clinch.bounds.fast_dual import fast_dual as fast_dual
from clinch.bounds.interval import interval as interval
from clinch.bounds.limits import layer_limits as layer_limits
from clinch.bounds.lp import lp as lp
from clinch.bounds.objective import objective_bound as objective_bound
from clinch.bounds.regions import ball as ball
from clinch.bounds.regions import box as box
from clinch.geometry.region import Region as Region
from clinch.network.ops.base import Interval as Interval
