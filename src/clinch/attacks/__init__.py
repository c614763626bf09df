"""Upper bounds: inputs that meet the conditions, found by gradients."""

from clinch.attacks.attack import attack, nearest_by_projection
from clinch.attacks.bisection import bisection
from clinch.attacks.goal import Goal
from clinch.attacks.losses import LOSSES
from clinch.attacks.minimise import minimise
from clinch.attacks.nearest import nearest
from clinch.attacks.pgd import fgsm, pgd
from clinch.attacks.polish import polish
from clinch.attacks.result import AttackResult, History

__all__ = [
    "LOSSES",
    "AttackResult",
    "Goal",
    "History",
    "attack",
    "bisection",
    "fgsm",
    "minimise",
    "nearest",
    "nearest_by_projection",
    "pgd",
    "polish",
]
