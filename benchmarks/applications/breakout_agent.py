"""Train the agent that benchmarks/applications/policy_attacks.py attacks: a small DQN on MinAtar's Breakout.

Stable-Baselines3's DQN; Q-network: 16 convolutions of 3 × 3, 64 units, ReLU, 66,387 weights. Four minutes of one
thread. The weights with the best evaluation so far are kept.

    python -m benchmarks breakout_agent [--frames 210000] [--seed 0]

Writes benchmarks/results/breakout_dqn.safetensors.
"""

from __future__ import annotations

import argparse
import time

import torch
from safetensors.torch import save_file
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from benchmarks.common.page import RESULTS
from clinch.applications.policies.games import MinAtar

WEIGHTS = RESULTS / "breakout_dqn.safetensors"
TAKES = "4 minutes"
ENVIRONMENTS, EPISODES = 8, 32
#: frames over which random actions become rare
EXPLORATION = 150_000


def q_network() -> nn.Sequential:
    """Observations ``(N, 4, 10, 10)`` → Q-values ``(N, 3)``."""
    return nn.Sequential(
        nn.Conv2d(4, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 8 * 8, 64), nn.ReLU(), nn.Linear(64, 3)
    )


class Pictures(BaseFeaturesExtractor):
    """The convolutions."""

    def __init__(self, observation_space) -> None:
        super().__init__(observation_space, features_dim=16 * 8 * 8)
        self.layers = nn.Sequential(*list(q_network())[:3])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class KeepBest(BaseCallback):
    """Evaluates every so many calls and writes the weights where they are the best so far."""

    def __init__(self, every: int, seed: int) -> None:
        super().__init__()
        self.every, self.best, self.start = every, -1.0, time.process_time()
        self.environments = make_vec_env(lambda: MinAtar("breakout"), 16, seed=1000 + seed)

    def _on_step(self) -> bool:
        if self.n_calls % self.every == 0:
            mean, spread = evaluate_policy(self.model, self.environments, n_eval_episodes=EPISODES)
            if mean > self.best:
                self.best = float(mean)
                network = nn.Sequential(*self.model.policy.q_net.features_extractor.layers, *self.model.q_net.q_net)
                save_file({name: t.contiguous() for name, t in network.state_dict().items()}, WEIGHTS)
            seconds = time.process_time() - self.start
            print(f"{self.num_timesteps:8} frames  {seconds:5.0f} s  return {mean:5.2f} ± {spread:.2f}", flush=True)
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=210_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = DQN(
        "MlpPolicy",
        make_vec_env(lambda: MinAtar("breakout"), ENVIRONMENTS, seed=options.seed),
        policy_kwargs={"features_extractor_class": Pictures, "net_arch": [64]},
        learning_rate=5e-4,
        buffer_size=100_000,
        learning_starts=5_000,
        batch_size=64,
        train_freq=1,
        gradient_steps=2,
        target_update_interval=1_000,
        exploration_fraction=min(1.0, EXPLORATION / options.frames),
        exploration_final_eps=0.02,
        seed=options.seed,
    )
    model.learn(options.frames, callback=KeepBest(30_000 // ENVIRONMENTS, options.seed))


if __name__ == "__main__":
    main()
