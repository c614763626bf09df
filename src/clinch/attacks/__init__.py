"""Upper bounds: inputs that meet the conditions, found by gradients."""

from clinch.attacks.attack import attack, nearest_by_projection
from clinch.attacks.bisection import bisection
from clinch.attacks.minimise import minimise
from clinch.attacks.polish import polish
from clinch.attacks.result import AttackResult

__all__ = ["AttackResult", "attack", "bisection", "minimise", "nearest_by_projection", "polish"]
