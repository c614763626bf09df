"""Step sizes over the course of an attack."""

from __future__ import annotations

import math
from typing import overload

from torch import Tensor


@overload
def cosine(start: float, end: float, step: int, steps: int) -> float: ...
@overload
def cosine(start: Tensor, end: float, step: int, steps: int) -> Tensor: ...
def cosine(start: float | Tensor, end: float, step: int, steps: int) -> float | Tensor:
    """From ``start`` at step 0 to ``end`` at the last step, along half a cosine."""
    share = step / max(1, steps - 1)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
