"""Upper bounds: inputs that meet the conditions, found by gradients."""

from clinch.attacks.apgd import apgd
from clinch.attacks.attack import attack, nearest_by_projection
from clinch.attacks.bisection import bisection
from clinch.attacks.frank_wolfe import frank_wolfe
from clinch.attacks.goal import Goal
from clinch.attacks.losses import LOSSES
from clinch.attacks.minimise import minimise
from clinch.attacks.nearest import nearest
from clinch.attacks.pgd import fgsm, pgd
from clinch.attacks.polish import polish
from clinch.attacks.result import AttackResult, History
from clinch.attacks.worst import worst

__all__ = [
    "LOSSES",
    "AttackResult",
    "Goal",
    "History",
    "apgd",
    "attack",
    "bisection",
    "fgsm",
    "frank_wolfe",
    "minimise",
    "nearest",
    "nearest_by_projection",
    "pgd",
    "polish",
    "worst",
]
