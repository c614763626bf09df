"""Upper bounds: inputs that meet the conditions, found by gradients.

Methods that one published experiment needs live with the papers, above this package: :data:`IN_PAPERS` names their
places as text, as entry points do, and nothing is imported before one of them is used.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from clinch.attacks.activation_descent import activation_descent, minimise_by_activation_descent
from clinch.attacks.activation_steps import PatternSettings
from clinch.attacks.alma import AlmaSettings, alma
from clinch.attacks.apgd import ApgdSettings, apgd
from clinch.attacks.autoattack import autoattack
from clinch.attacks.colour import colour
from clinch.attacks.core.attack_query import AttackQuery
from clinch.attacks.core.averages import SuccessRate
from clinch.attacks.core.losses import LOSSES
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.result import AttackResult, History, StageLog
from clinch.attacks.ddn import ddn
from clinch.attacks.deepfool import DeepfoolSettings, deepfool, shortest_linear
from clinch.attacks.fab import FabSettings, fab, fab_t
from clinch.attacks.fmn import fmn
from clinch.attacks.frank_wolfe import frank_wolfe
from clinch.attacks.hop_skip_jump import HopSkipJumpSettings, hop_skip_jump
from clinch.attacks.local_search import polish
from clinch.attacks.minimal_apgd import minimal_apgd
from clinch.attacks.minimise import MinimiseSettings, minimise
from clinch.attacks.minimum_norm.multi_constraint import MultiConstraintSettings
from clinch.attacks.minimum_norm.nearest import nearest
from clinch.attacks.minimum_norm.nearest_settings import NearestSettings
from clinch.attacks.patch import patch
from clinch.attacks.pdpgd import PdpgdSettings, pdpgd
from clinch.attacks.penalty import PenaltySettings, carlini_wagner, penalty
from clinch.attacks.pgd import fgsm, orthogonal_pgd, pgd, selective_pgd
from clinch.attacks.portfolio import WorstSettings, attack, worst
from clinch.attacks.rotation_translation import rotation_translation
from clinch.attacks.sigma_zero import sigma_zero
from clinch.attacks.square import square
from clinch.attacks.super_deepfool import super_deepfool
from clinch.attacks.transfer import transfer
from clinch.attacks.universal import universal
from clinch.attacks.vfga import vfga

#: methods that only one published experiment needs, and the modules that define them
IN_PAPERS = {
    "BisectionSettings": "clinch.papers.methods.bisection",
    "linear_model_descent": "clinch.papers.methods.linear_model_step",
    "linear_model_score": "clinch.papers.methods.linear_model_step",
    "bisection": "clinch.papers.methods.bisection",
    "decomposition": "clinch.papers.methods.decomposition",
    "fast_grad": "clinch.papers.methods.linear_model_step",
    "first_order_radius": "clinch.papers.methods.first_order",
    "linear_model_feasibility": "clinch.papers.methods.first_order",
    "linear_model_step": "clinch.papers.methods.linear_model_step",
    "linear_model_convex": "clinch.papers.methods.linear_model_convex",
    "FeasibilitySettings": "clinch.papers.methods.first_order",
    "LbfgsSettings": "clinch.papers.methods.lbfgs",
    "lbfgs": "clinch.papers.methods.lbfgs",
    "random_signs": "clinch.papers.methods.random_signs",
    "scipy_minimise": "clinch.papers.methods.scipy_solvers",
}

#: names of the version before that still work, with a warning, until the next release
OLD_NAMES = {
    "Goal": "AttackObjective",
    "algorithm1": "linear_model_descent",
    "algorithm2": "linear_model_score",
    "gn_feasibility": "linear_model_feasibility",
    "gnii": "linear_model_step",
    "gnii_convex": "linear_model_convex",
}

__all__ = [
    "ApgdSettings",
    "DeepfoolSettings",
    "HopSkipJumpSettings",
    "MinimiseSettings",
    "FabSettings",
    "PenaltySettings",
    "AlmaSettings",
    "PdpgdSettings",
    "NearestSettings",
    "MultiConstraintSettings",
    "WorstSettings",
    "LOSSES",
    "AttackObjective",
    "AttackQuery",
    "AttackResult",
    "History",
    "PatternSettings",
    "activation_descent",
    "alma",
    "apgd",
    "attack",
    "autoattack",
    "carlini_wagner",
    "colour",
    "ddn",
    "deepfool",
    "fab",
    "fab_t",
    "fgsm",
    "fmn",
    "frank_wolfe",
    "hop_skip_jump",
    "minimal_apgd",
    "minimise",
    "minimise_by_activation_descent",
    "nearest",
    "orthogonal_pgd",
    "patch",
    "pdpgd",
    "penalty",
    "pgd",
    "polish",
    "rotation_translation",
    "selective_pgd",
    "shortest_linear",
    "sigma_zero",
    "square",
    "StageLog",
    "super_deepfool",
    "SuccessRate",
    "transfer",
    "universal",
    "vfga",
    "worst",
    *IN_PAPERS,  # pyright: ignore[reportUnsupportedDunderAll]
]


def __getattr__(name: str) -> Any:
    if name in OLD_NAMES:
        new = OLD_NAMES[name]
        warnings.warn(f"clinch.attacks.{name} is now clinch.attacks.{new}.", DeprecationWarning, stacklevel=2)
        return globals()[new] if new in globals() else __getattr__(new)
    if name not in IN_PAPERS:
        raise AttributeError(f"module 'clinch.attacks' has no attribute '{name}'")
    found = getattr(importlib.import_module(IN_PAPERS[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
