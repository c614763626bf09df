"""Train a DDPG with actions that maximise the critic, then ask how much better any other action could be.

    python examples/refined_actions.py [--steps 3000] [--environment Pendulum-v1]

For a few observations: the critic's value at the actor's action, at the refined one, and a proof of how large it can
get anywhere within eps of the actor's action. Needs pip install "clinch-nn[rl]".
"""

from __future__ import annotations

import argparse

import gymnasium
import numpy as np
from stable_baselines3 import DDPG
from stable_baselines3.common.noise import NormalActionNoise

from clinch.applications.policies import RefinedActions, Refinement


def run(environment: str, steps: int, eps: float) -> tuple[Refinement, Refinement]:
    """Intervals by one linear relaxation, and by a search, for five observations."""
    env = gymnasium.make(environment)
    size = env.action_space.shape
    noise = NormalActionNoise(np.zeros(size), np.full(size, 0.1))
    model = DDPG("MlpPolicy", env, policy_kwargs={"net_arch": [64, 64]}, action_noise=noise, seed=0, device="cpu")
    refined = RefinedActions(model, eps=eps, threshold=0.25, seed=0)
    refined.learn(steps)
    observations = np.stack([env.observation_space.sample() for _ in range(5)])
    if not np.isfinite(env.observation_space.high).all():
        observations = model.replay_buffer.observations[: 5 * 20 : 20, 0]
    return refined.refine(observations, bound="crown"), refined.refine(observations, bound="search", time_limit=20)


def main() -> None:
    """Train and print the intervals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--environment", default="Pendulum-v1")
    parser.add_argument("--eps", type=float, default=0.5)
    options = parser.parse_args()
    crown, search = run(options.environment, options.steps, options.eps)
    print(f"{'actor':>10} {'refined':>10} {'proven ≤':>10} {'by CROWN ≤':>11}")
    for actor, value, bound, relaxed in zip(search.actor_value, search.value, search.bound, crown.bound):
        print(f"{actor:10.4f} {value:10.4f} {bound:10.4f} {relaxed:11.4f}")


if __name__ == "__main__":
    main()
