"""What the commands share: progress on the terminal, JSON, and the exit code of a solution."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinch.cli.live import Live
from clinch.cli.outputs import unwritable
from clinch.errors import ClinchError
from clinch.io.files import write_whole

if TYPE_CHECKING:
    from rich.text import Text

    from clinch.solver.solution import Event, Solution


class OutputError(ClinchError):
    """A file cannot be written; names it and the reason."""


class Progress(Live):
    """One line on the terminal that shows time, value, bound and gap while a problem is solved.

    Use it as a context manager and pass it as ``progress=``. Where standard error is not a terminal it is silent.

    Args:
        sense: +1 for minimisation, −1 for maximisation (events are in the minimising sense).
    """

    def __init__(self, sense: int = 1) -> None:
        super().__init__(rate=8)
        self.sense = sense
        self.event: Event | None = None
        self._start = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Take note of an improvement."""
        self.event = event

    def shown(self) -> Text:
        """The line as it is now."""
        import torch
        from rich.text import Text

        from clinch.solver.solution import relative_gap

        text = Text().append(f"{time.monotonic() - self._start:7.1f} s", style="dim")
        if self.event is None:
            return text.append("  attacking ...", style="dim")
        values, bounds = (torch.as_tensor(t, dtype=torch.float64) for t in (self.event.value, self.event.bound))
        gaps = relative_gap(values, bounds).tolist()
        value, bound = values.tolist(), bounds.tolist()
        if len(value) > 1:
            text.append(f"   found {sum(map(math.isfinite, value))} of {len(value)}", style="dark_orange")
            text.append(f"   bounded {sum(map(math.isfinite, bound))}", style="blue")
            return text.append(f"   largest gap {percent(max(gaps))}").append(f"   {self.event.who}", style="dim")
        text.append(f"   value {number(self.sense * value[0])}", style="dark_orange")
        text.append(f"   bound {number(self.sense * bound[0])}", style="blue")
        return text.append(f"   gap {percent(gaps[0])}").append(f"   {self.event.who}", style="dim")


def number(value: float) -> str:
    """Six digits, or a dash where there is none."""
    return f"{value:.6g}" if math.isfinite(value) else "–"


def percent(gap: float) -> str:
    """A gap in percent, or a dash where there is none."""
    return f"{100 * gap:.3g} %" if math.isfinite(gap) else "–"


def write_json(content: dict[str, Any], target: str) -> None:
    """Write JSON to a file, or to standard output where the target is ``-``. Infinities and NaN become null.

    The file is replaced as a whole or not at all. Where it cannot be written, on a full disk for example, the JSON goes
    to standard output: what took minutes to find is not lost.

    Raises:
        OutputError: the file cannot be written.
    """
    # characters beyond ASCII are escaped: names in files are their author's choice, and terminals obey some of them
    text = json.dumps(_plain(content), indent=2, allow_nan=False)
    if target == "-":
        sys.stdout.write(text + "\n")
        return
    write_text(target, text + "\n")


def write_text(target: str | Path, text: str) -> None:
    """Write a result to a file, as a whole or not at all; to standard output where that fails.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        write_whole(target, text)
    except OSError as error:
        sys.stdout.write(text)
        raise OutputError(
            f"Cannot write {target}: {error.strerror}. The result stands on standard output; name another file."
        ) from None


def check_writable(path: Path) -> None:
    """Refuse a file for results that cannot be written; nothing is written.

    Raises:
        OutputError: its folder is missing or refuses new files.
    """
    reason = unwritable(path)
    if reason:
        raise OutputError(f"Cannot write {path}: {reason}. Name another file.")


def _plain(value: Any) -> Any:
    """Tensors, enumerations and numbers that JSON does not know, in terms that it does."""
    import enum

    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def exit_code(solution: Solution) -> int:
    """0 where every problem has an input; 1 otherwise, the honest negative answer."""
    from clinch.solver.solution import Status

    statuses = solution.status if isinstance(solution.status, list) else [solution.status]
    return 0 if all(status in (Status.OPTIMAL, Status.FEASIBLE) for status in statuses) else 1
