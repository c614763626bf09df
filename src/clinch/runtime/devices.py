"""Where to compute: the device a user names, tried before work is spent."""

from __future__ import annotations

import torch

from clinch.errors import ProblemError


def usable_device(device: torch.device | str) -> torch.device:
    """The device, with its number, after one float64 number has been there and back.

    Raises:
        ProblemError: there is no such device on this machine, or it has no float64.

    Example:
        >>> usable_device("cpu")
        device(type='cpu')
    """
    try:
        there = torch.ones(1, dtype=torch.float64, device=torch.device(device))
        there.sum().item()
    except (AssertionError, RuntimeError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ProblemError(
            f"The device {str(device)!r} cannot be used ({reason:.120}). Write 'cpu', or 'cuda' where there is one."
        ) from None
    return there.device
