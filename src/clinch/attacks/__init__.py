"""Upper bounds: inputs that meet the conditions, found by gradients."""

from clinch.attacks.activation_descent import activation_descent
from clinch.attacks.activation_objective import minimise_by_activation_descent
from clinch.attacks.activation_steps import PatternSettings
from clinch.attacks.algorithm1 import algorithm1
from clinch.attacks.alma import alma
from clinch.attacks.apgd import apgd
from clinch.attacks.attack import attack
from clinch.attacks.bisection import bisection
from clinch.attacks.conflicting import orthogonal_pgd, selective_pgd
from clinch.attacks.ddn import ddn
from clinch.attacks.decomposition import decomposition
from clinch.attacks.deepfool import deepfool, shortest_linear
from clinch.attacks.fab import fab, fab_t
from clinch.attacks.first_order import first_order_radius, gn_feasibility
from clinch.attacks.fmn import fmn
from clinch.attacks.frank_wolfe import frank_wolfe
from clinch.attacks.gnii import algorithm2, fast_grad, gnii
from clinch.attacks.gnii_convex import gnii_convex
from clinch.attacks.goal import Goal
from clinch.attacks.lbfgs import lbfgs
from clinch.attacks.losses import LOSSES
from clinch.attacks.minimise import minimise
from clinch.attacks.nearest import nearest
from clinch.attacks.pdpgd import pdpgd
from clinch.attacks.penalty import carlini_wagner, penalty
from clinch.attacks.pgd import fgsm, pgd
from clinch.attacks.polish import polish
from clinch.attacks.random_signs import random_signs
from clinch.attacks.result import AttackResult, History
from clinch.attacks.scipy_solvers import scipy_minimise
from clinch.attacks.sigma_zero import sigma_zero
from clinch.attacks.vfga import vfga
from clinch.attacks.worst import worst

__all__ = [
    "LOSSES",
    "AttackResult",
    "Goal",
    "History",
    "PatternSettings",
    "activation_descent",
    "algorithm1",
    "algorithm2",
    "alma",
    "apgd",
    "attack",
    "bisection",
    "carlini_wagner",
    "ddn",
    "decomposition",
    "deepfool",
    "fab",
    "fab_t",
    "fast_grad",
    "fgsm",
    "first_order_radius",
    "fmn",
    "frank_wolfe",
    "gn_feasibility",
    "gnii",
    "gnii_convex",
    "lbfgs",
    "minimise",
    "minimise_by_activation_descent",
    "nearest",
    "orthogonal_pgd",
    "pdpgd",
    "penalty",
    "pgd",
    "polish",
    "random_signs",
    "scipy_minimise",
    "selective_pgd",
    "shortest_linear",
    "sigma_zero",
    "vfga",
    "worst",
]
