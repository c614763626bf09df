"""MinAtar's games (Young and Tian 2019, arXiv 1903.03176) as Gymnasium environments whose observations are pictures.

Imported when it is first used, since it needs the extra ``clinch-nn[rl]``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from clinch.errors import BackendError, ProblemError
from clinch.runtime.optional import required

required("gymnasium", "rl", error=BackendError)
required("minatar", "rl", error=BackendError)

import gymnasium  # noqa: E402
from minatar import Environment  # noqa: E402

GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")


class MinAtar(gymnasium.Env[np.ndarray, np.integer]):
    """A MinAtar game: float32 observations ``(channels, 10, 10)`` of zeros and ones, and the actions that matter.

    The package's own registration gives booleans with channels last, which neither a convolution nor a perturbation
    takes. Here a seeded reset also forgets the action that sticky actions repeat, so that an episode depends on nothing
    but its seed.

    Args:
        game: one of asterix, breakout, freeway, seaquest, space_invaders.
        sticky: probability that the action before is repeated.

    Raises:
        ProblemError: there is no such game. BackendError: gymnasium or minatar is missing.

    Example:
        >>> observation, _ = MinAtar("breakout").reset(seed=0)
        >>> observation.shape
        (4, 10, 10)
    """

    def __init__(self, game: str = "breakout", sticky: float = 0.1) -> None:
        if game not in GAMES:
            raise ProblemError(f"There is no game '{game}'. Choose one of: {', '.join(GAMES)}.")
        if not 0 <= sticky <= 1:
            raise ProblemError(f"sticky={sticky} is no probability. Write a number from 0 to 1.")
        self.game = Environment(game, sticky_action_prob=sticky)
        self.actions = self.game.minimal_action_set()
        height, width, channels = self.game.state_shape()
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (channels, height, width), np.float32)
        self.action_space = gymnasium.spaces.Discrete(len(self.actions))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode; see :meth:`gymnasium.Env.reset`."""
        super().reset(seed=seed)
        self.game.seed(seed)
        self.game.last_action = 0
        self.game.reset()
        return self._observation(), {}

    def step(self, action: np.integer | int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """One frame; see :meth:`gymnasium.Env.step`."""
        reward, over = self.game.act(self.actions[int(action)])
        return self._observation(), float(reward), bool(over), False, {}

    def _observation(self) -> np.ndarray:
        return np.ascontiguousarray(self.game.state().transpose(2, 0, 1), dtype=np.float32)
