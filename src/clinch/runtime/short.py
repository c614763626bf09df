"""How results are shown where nobody printed them: a line that fits a screen, and no page of numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: numbers of an array up to which they are shown
SHOWN = 6


def short_repr(self: Any) -> str:
    """A dataclass or named tuple in one line: of arrays of more than :data:`SHOWN` numbers their shapes alone.

    Example:
        >>> from clinch.applications.monitors import BoxMonitor
        >>> BoxMonitor("relu2", torch.zeros(10, 16), torch.ones(10, 16), torch.ones(10, 16))
        BoxMonitor(layer='relu2', lower=(10, 16), upper=(10, 16), margin=(10, 16))
    """
    names = (
        [field.name for field in dataclasses.fields(self) if field.repr]
        if dataclasses.is_dataclass(self)
        else self._fields
    )
    parts = [f"{name}={_shown(getattr(self, name))}" for name in names]
    return f"{type(self).__name__}({', '.join(parts)})"


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value) if value.dtype.kind in "biuf" else value.tolist()
    if not isinstance(value, Tensor):
        return repr(value)
    if value.numel() > SHOWN or value.dim() > 1:
        return f"({', '.join(map(str, value.shape))}{',' if value.dim() == 1 else ''})"
    numbers = [f"{number:.5g}" if isinstance(number, float) else str(number) for number in value.reshape(-1).tolist()]
    return f"[{', '.join(numbers)}]" if value.dim() else numbers[0]
