"""What is shown on a terminal while something is computed, and taken away when it is done."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.console import RenderableType


class Live(AbstractContextManager["Live"]):
    """Shows :meth:`shown` again and again while it is entered; where the console is no terminal, nothing.

    Args:
        console: a ``rich.console.Console``; None: standard error.
        rate: drawings in a second.
    """

    def __init__(self, console: Any = None, rate: float = 4) -> None:
        from rich.console import Console

        self._console = console or Console(stderr=True)
        self._rate = rate
        self._live: Any = None

    def shown(self) -> RenderableType:
        """What there is to see now.

        Raises:
            NotImplementedError: a subclass says what that is.
        """
        raise NotImplementedError

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            from rich.live import Live as Display

            self._live = Display(
                get_renderable=self.shown, console=self._console, refresh_per_second=self._rate, transient=True
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
