"""Reinforcement learning: actions that maximise a critic, and attacks on what a policy sees.

The environments need the extra ``clinch-nn[rl]``; what is missing is said in one line when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from clinch.applications.policies.figure_learning import learning_figure
from clinch.applications.policies.figure_policies import policy_attack_figure
from clinch.applications.policies.networks import policy_network
from clinch.applications.policies.observations import ObservationAttack, Perturbed
from clinch.applications.policies.refined import RefinedActions, Refinement
from clinch.applications.policies.shares import ActionShares, action_shares

if TYPE_CHECKING:
    from clinch.applications.policies.games import MinAtar
    from clinch.applications.policies.wrappers import (
        PerturbedObservations,
        PerturbedVectorObservations,
        episode_returns,
    )

__all__ = [
    "ActionShares",
    "MinAtar",
    "ObservationAttack",
    "Perturbed",
    "PerturbedObservations",
    "PerturbedVectorObservations",
    "RefinedActions",
    "Refinement",
    "action_shares",
    "episode_returns",
    "learning_figure",
    "policy_attack_figure",
    "policy_network",
]

#: classes of Gymnasium's own kinds, which exist only where Gymnasium is
_LATE = {
    "MinAtar": "games",
    "PerturbedObservations": "wrappers",
    "PerturbedVectorObservations": "wrappers",
    "episode_returns": "wrappers",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'clinch.applications.policies' has no attribute '{name}'")
    return getattr(importlib.import_module(f"clinch.applications.policies.{_LATE[name]}"), name)
