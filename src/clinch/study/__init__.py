"""Studies: what attacks and bounds say about a whole network, measured over a set of inputs; published experiments."""

from clinch.study.measures import eps_99, fooling_ratio, rho1, rho2
from clinch.study.reproduction import Claim, Reproduction, Table, reproduce

__all__ = ["Claim", "Reproduction", "Table", "eps_99", "fooling_ratio", "reproduce", "rho1", "rho2"]
