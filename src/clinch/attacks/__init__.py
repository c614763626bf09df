"""Upper bounds: inputs that meet the conditions, found by gradients."""

from clinch.attacks.alma import alma
from clinch.attacks.attack import attack, nearest_by_projection
from clinch.attacks.bisection import bisection
from clinch.attacks.ddn import ddn
from clinch.attacks.fab import fab, fab_t
from clinch.attacks.fmn import fmn
from clinch.attacks.goal import Goal
from clinch.attacks.losses import LOSSES
from clinch.attacks.minimise import minimise
from clinch.attacks.pdpgd import pdpgd
from clinch.attacks.pgd import fgsm, pgd
from clinch.attacks.polish import polish
from clinch.attacks.result import AttackResult, History
from clinch.attacks.sigma_zero import sigma_zero
from clinch.attacks.vfga import vfga

__all__ = [
    "LOSSES",
    "AttackResult",
    "Goal",
    "History",
    "alma",
    "attack",
    "bisection",
    "ddn",
    "fab",
    "fab_t",
    "fgsm",
    "fmn",
    "minimise",
    "nearest_by_projection",
    "pdpgd",
    "pgd",
    "polish",
    "sigma_zero",
    "vfga",
]
