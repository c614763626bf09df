"""Attack what a policy sees in Procgen's CoinRun or FruitBot; docs/policies.md says how to install it.

    python examples/procgen_attack.py [--game coinrun] [--eps 0.0157] [--episodes 16]

The policy is an untrained network, so that this shows only how everything fits together: put yours in its place.
"""

from __future__ import annotations

import argparse

import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import VectorEnv
from procgen import ProcgenGym3Env
from torch import nn

from clinch.applications.policies import ObservationAttack, episode_returns


class Procgen(VectorEnv):
    """N Procgen games as a Gymnasium vector environment of pictures ``(3, 64, 64)``."""

    def __init__(self, game: str, count: int) -> None:
        self.num_envs, self.game, self.single_action_space = count, game, Discrete(15)
        self.single_observation_space = Box(0, 255, (3, 64, 64), np.uint8)

    def reset(self, *, seed=None, options=None):
        """Start the games anew."""
        self.games = ProcgenGym3Env(self.num_envs, self.game, rand_seed=seed or 0, distribution_mode="easy")
        return self._seen()[1], {}

    def step(self, actions):
        """One frame; a game that is over has started again."""
        self.games.act(actions.astype(np.int32))
        reward, picture, first = self._seen()
        return picture, reward, first, np.zeros_like(first), {}

    def _seen(self):
        reward, seen, first = self.games.observe()
        return reward, np.ascontiguousarray(seen["rgb"].transpose(0, 3, 1, 2)), first


def main() -> None:
    """Play without and with attacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", default="coinrun", choices=("coinrun", "fruitbot"))
    parser.add_argument("--eps", type=float, default=4 / 255)
    parser.add_argument("--episodes", type=int, default=16)
    options = parser.parse_args()
    layers = [nn.Conv2d(3, 16, 8, 4), nn.ReLU(), nn.Conv2d(16, 32, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(1152, 15)]
    network = nn.Sequential(*layers).eval()
    games = Procgen(options.game, options.episodes)
    for attack in ("none", "noise", "pgd", "worst"):
        returns, changed = episode_returns(games, ObservationAttack(network, options.eps, attack))
        print(f"{attack:>6}  return {returns.mean():5.2f} ± {returns.std(ddof=1):.2f}  actions changed {changed:.1%}")


if __name__ == "__main__":
    main()
