"""Progress of a study: a table on a terminal, plain lines elsewhere; both on standard error."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from clinch.cli.live import Live

if TYPE_CHECKING:
    from rich.table import Table

    from clinch.study.evaluation import Tally

#: seconds between two plain lines
PAUSE = 5.0


class StudyProgress(Live):
    """Images done, the interval so far, the rate and the time left. Pass it as ``progress=``.

    Args:
        radius: whether robust accuracy is asked for, and not distances.
        console: a ``rich.console.Console``; None: standard error.
    """

    def __init__(self, radius: bool, console: Any = None) -> None:
        super().__init__(console)
        self.radius, self.tally = radius, None
        self._said = -math.inf

    def __call__(self, tally: Tally) -> None:
        """Take note of where the study stands."""
        self.tally = tally
        now = time.monotonic()
        if self._live is None and now - self._said >= PAUSE:
            self._said = now
            self._console.print(self.line(tally), highlight=False, markup=False, soft_wrap=True)

    def line(self, tally: Tally) -> str:
        """One plain line."""
        return f"clinch: {tally.seconds:.1f} s  " + "  ".join(f"{name} {text}" for name, text in self.entries(tally))

    def shown(self) -> Table:
        """The table as it is now."""
        from rich.table import Table

        shown = Table.grid(padding=(0, 2))
        entries = [("images", "reading ...")] if self.tally is None else self.entries(self.tally)
        for name, text in entries:
            shown.add_row(f"[dim]{name}[/dim]", text)
        return shown

    def entries(self, tally: Tally) -> list[tuple[str, str]]:
        """What is shown: names and texts."""
        rows = [("images", f"{tally.seen} of {tally.images} looked at, {tally.answered} answered ({tally.phase})")]
        if self.radius:
            low, high = tally.interval
            rows.append(("interval", f"{100 * low:.2f} % proven, {100 * high:.2f} % not attacked"))
        failed = tally.counts.get("failed", 0)
        rate = tally.done / max(tally.seconds, 1e-9)
        rows.append(("rate", f"{rate:.3g} images/s"))
        rows.append(("left", self._left(tally, rate)))
        return [*rows, ("failed", str(failed))] if failed else rows

    def _left(self, tally: Tally, rate: float) -> str:
        """How long the images that were not looked at need, and when the time is over."""
        over = f"at most {_clock(tally.remaining)}" if math.isfinite(tally.remaining) else "no limit"
        unseen = tally.images - tally.seen
        return f"{_clock(unseen / rate)} for all images, {over}" if unseen and rate else over


def _clock(seconds: float) -> str:
    whole = round(max(0.0, seconds))
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60:02d} s"
