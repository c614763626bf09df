"""Studies: what attacks and bounds say about a whole network, measured over a set of inputs."""

from clinch.study.measures import eps_99, fooling_ratio, rho1, rho2

__all__ = ["eps_99", "fooling_ratio", "rho1", "rho2"]
