"""Attack what a DQN sees on MinAtar's Breakout, and count how many of its actions can be changed at all.

    python examples/policy_attack.py [--frames 20000] [--eps 0.02] [--episodes 16]

A small DQN is trained first; the trained agent of the documentation comes from
``python -m benchmarks breakout_agent``. Needs pip install "clinch-nn[rl]".
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv
from stable_baselines3 import DQN

from clinch.applications.policies import MinAtar, ObservationAttack, action_shares, episode_returns, policy_network


def run(frames: int, eps: float, episodes: int) -> tuple[dict[str, tuple[float, float]], tuple[float, float]]:
    """Mean return and share of changed actions for each attack; the interval of the share that can be changed."""
    settings = {"buffer_size": frames, "learning_starts": frames // 20, "learning_rate": 1e-3, "train_freq": 4}
    model = DQN("MlpPolicy", MinAtar("breakout"), seed=0, device="cpu", exploration_fraction=0.5, **settings)
    model.learn(frames)
    network = policy_network(model)
    environments = SyncVectorEnv([lambda: MinAtar("breakout")] * episodes)
    found = {}
    for name in ("none", "noise", "pgd", "worst"):
        returns, changed = episode_returns(environments, ObservationAttack(network, eps, attack=name), seed=0)
        found[name] = (float(returns.mean()), changed)
    game = MinAtar("breakout")
    first, _ = game.reset(seed=0)
    seen = [first] + [game.step(k % 3)[0] for k in range(7)]
    return found, action_shares(ObservationAttack(network, eps / 10), torch.from_numpy(np.stack(seen))).interval


def main() -> None:
    """Train, attack, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--eps", type=float, default=0.02)
    parser.add_argument("--episodes", type=int, default=16)
    options = parser.parse_args()
    found, (low, high) = run(options.frames, options.eps, options.episodes)
    for name, (mean, changed) in found.items():
        print(f"{name:>6}  return {mean:5.2f}  actions changed {changed:6.1%}")
    print(
        f"within eps = {options.eps / 10:g}: {low:.0%} to {high:.0%} of 8 observations can be made to change the action"
    )


if __name__ == "__main__":
    main()
