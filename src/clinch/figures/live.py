"""A bar that follows a solve: value, bound and how much of the gap is closed, in a notebook or a terminal."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import torch

from clinch.runtime import html

if TYPE_CHECKING:
    from clinch.solver.solution import Event

#: seconds between two looks
PACE = 0.2


class Live:
    """What ``progress=`` takes: ``problem.solve(progress=cl.figures.Live())``.

    In a notebook one line of HTML is kept up to date; elsewhere one line of standard error. Of a batch it shows means.

    Args:
        title: in front.

    Example:
        >>> live = cl.figures.Live("digit 0")
        >>> problem.solve(time_limit=10, progress=live).status.name
        'OPTIMAL'
    """

    def __init__(self, title: str = "") -> None:
        self.title, self._shown, self._last = title, _display(), 0.0
        self._handle: Any = None

    def __call__(self, event: Event) -> None:
        """Show an improvement, unless one was shown just now."""
        now = time.monotonic()
        if now - self._last < PACE and self._last:
            return
        self._last = now
        value, bound = (float(torch.as_tensor(n).double().mean()) for n in (event.value, event.bound))
        if self._shown is None:
            print(
                f"\r{self.title} value {value:.6g}, bound {bound:.6g}, {event.seconds:.1f} s ", end="", file=sys.stderr
            )
            return
        content = self._shown.HTML(html.bar(value, bound, event.seconds, self.title))
        if self._handle is None:
            self._handle = self._shown.display(content, display_id=True)
        else:
            self._handle.update(content)


def _display() -> Any:
    """IPython's display, where a notebook is there to show it."""
    python = sys.modules.get("IPython")
    shell = None if python is None else python.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython import display  # type: ignore[import-not-found]

    return display
