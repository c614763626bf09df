"""Step sizes over the course of an attack."""

from __future__ import annotations

import math
from typing import TypeVar, cast

from torch import Tensor

#: a step size, or one for each run
Size = TypeVar("Size", bound=float | Tensor)


def cosine(start: Size, end: float, step: int, steps: int) -> Size:
    """From ``start`` at step 0 to ``end`` at the last step, along half a cosine."""
    share = step / max(1, steps - 1)
    return cast(Size, end + (start - end) * 0.5 * (1 + math.cos(math.pi * share)))
