"""Studies: what attacks and bounds say about a whole network, measured over a set of inputs; published experiments."""

from clinch.study import figures
from clinch.study.curves import Curve, certified_curve
from clinch.study.evaluation import Evaluation, Tally
from clinch.study.measures import eps_99, fooling_ratio, rho1, rho2
from clinch.study.reproduction import Claim, Reproduction, Table, reproduce
from clinch.study.run import evaluate
from clinch.study.runs import Run, open_run
from clinch.study.sources import open_source
from clinch.study.store import Row, Store

__all__ = [
    "Claim",
    "Curve",
    "Evaluation",
    "Reproduction",
    "Row",
    "Run",
    "Store",
    "Table",
    "Tally",
    "certified_curve",
    "eps_99",
    "evaluate",
    "figures",
    "fooling_ratio",
    "open_run",
    "open_source",
    "reproduce",
    "rho1",
    "rho2",
]
