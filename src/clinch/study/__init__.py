"""Studies: what attacks and bounds say about a whole network, measured over a set of inputs; published experiments."""

from clinch.network.normalise import normalised
from clinch.runtime import renamed
from clinch.study import figures
from clinch.study.certificates import Certified, certify_run
from clinch.study.comparison import Comparison, compare
from clinch.study.evaluation import Curve, Evaluation, Tally
from clinch.study.measures import DistanceIntervals, eps_99, fooling_ratio, rho1, rho2
from clinch.study.ray_executor import RayExecutor
from clinch.study.run import evaluate
from clinch.study.runs import Run, open_run
from clinch.study.sources import open_source
from clinch.study.store import Row, Store

__all__ = [
    "Certified",
    "Comparison",
    "Curve",
    "DistanceIntervals",
    "Evaluation",
    "RayExecutor",
    "Row",
    "Run",
    "Store",
    "Tally",
    "certify_run",
    "compare",
    "eps_99",
    "evaluate",
    "figures",
    "fooling_ratio",
    "normalised",
    "open_run",
    "open_source",
    "rho1",
    "rho2",
]

__getattr__ = renamed.attributes(__name__)
