"""Studies: what attacks and bounds say about a whole network, measured over a set of inputs; published experiments."""

from clinch.network.normalise import normalised
from clinch.runtime import renamed
from clinch.study import figures
from clinch.study.certificates import Certified, certify_run
from clinch.study.comparison import Comparison, compare
from clinch.study.distribution import Distribution, distribution
from clinch.study.evaluation import Curve, Evaluation, Tally
from clinch.study.measures import DistanceIntervals, eps_99, fooling_ratio, rho1, rho2
from clinch.study.ray_executor import RayExecutor
from clinch.study.run import evaluate
from clinch.study.runs import Run, open_run
from clinch.study.sources import open_source
from clinch.study.store import Row, Store
from clinch.study.tables import methods_text, write_paper_table

__all__ = [
    "Certified",
    "Comparison",
    "Curve",
    "DistanceIntervals",
    "Distribution",
    "Evaluation",
    "RayExecutor",
    "Row",
    "Run",
    "Store",
    "Tally",
    "certify_run",
    "compare",
    "distribution",
    "eps_99",
    "evaluate",
    "figures",
    "fooling_ratio",
    "methods_text",
    "normalised",
    "open_run",
    "open_source",
    "rho1",
    "rho2",
    "write_paper_table",
]

__getattr__ = renamed.attributes(__name__)
