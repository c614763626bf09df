"""Upper bounds: inputs that meet the conditions, found by gradients."""

from clinch.attacks.attack import attack, nearest_by_projection
from clinch.attacks.bisection import bisection
from clinch.attacks.conflicting import orthogonal_pgd, selective_pgd
from clinch.attacks.decomposition import decomposition
from clinch.attacks.goal import Goal
from clinch.attacks.losses import LOSSES
from clinch.attacks.minimise import minimise
from clinch.attacks.penalty import carlini_wagner, penalty
from clinch.attacks.pgd import fgsm, pgd
from clinch.attacks.polish import polish
from clinch.attacks.result import AttackResult, History
from clinch.attacks.scipy_solvers import scipy_minimise

__all__ = [
    "LOSSES",
    "AttackResult",
    "Goal",
    "History",
    "attack",
    "bisection",
    "carlini_wagner",
    "decomposition",
    "fgsm",
    "minimise",
    "nearest_by_projection",
    "orthogonal_pgd",
    "penalty",
    "pgd",
    "polish",
    "scipy_minimise",
    "selective_pgd",
]
