"""Gymnasium wrappers that perturb what a policy sees, for one environment and for several at once.

Imported when it is first used, since it needs the extra ``clinch-nn[rl]``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from clinch.applications.policies.observations import ObservationAttack
from clinch.errors import BackendError, ProblemError
from clinch.runtime.optional import required

required("gymnasium", "rl", error=BackendError)

from gymnasium import Env, ObservationWrapper, Space  # noqa: E402
from gymnasium.spaces import Box, Discrete  # noqa: E402
from gymnasium.vector import VectorEnv, VectorObservationWrapper  # noqa: E402
from gymnasium.vector.utils import batch_space  # noqa: E402


class _Counted:
    """What both wrappers share: the attack, and how often it changed the action.

    Attributes:
        seen: observations so far.
        changed: how many of them changed the action.
    """

    attack: ObservationAttack
    seen: int = 0
    changed: int = 0

    def perturb(self, observations: np.ndarray) -> np.ndarray:
        """Perturbed observations ``(B, *shape)``; whole numbers from 0 to 255 become float32 from 0 to 1 first."""
        found = self.attack(torch.from_numpy(scaled(observations)))
        self.seen += len(observations)
        self.changed += int(found.changed.sum())
        return found.observation.cpu().numpy().astype(np.float32)


class PerturbedObservations(_Counted, ObservationWrapper[np.ndarray, Any, np.ndarray]):
    """An environment whose observations are perturbed before the agent sees them; see :class:`ObservationAttack`.

    Args:
        env: a Gymnasium environment with array observations and discrete actions. Observations of whole numbers
            (pictures of 0 to 255) are divided by 255, so that the agent sees float32 from 0 to 1.
        attack: how they are perturbed.

    Raises:
        ProblemError: another kind of observation or action. BackendError: gymnasium is missing.

    Example:
        >>> from clinch.applications.policies import MinAtar
        >>> env = PerturbedObservations(MinAtar("breakout"), ObservationAttack(network, eps=0.02))
        >>> observation, _ = env.reset(seed=0)
        >>> env.changed / env.seen
        0.0
    """

    def __init__(self, env: Env[np.ndarray, Any], attack: ObservationAttack) -> None:
        super().__init__(env)
        self.attack = attack
        self.observation_space = _perturbed_space(env.observation_space, env.action_space)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """The perturbed observation."""
        return self.perturb(observation[None])[0]


class PerturbedVectorObservations(_Counted, VectorObservationWrapper):
    """The same for a vector environment: one attack on the observations of all environments at once.

    Args:
        env: a Gymnasium vector environment.
        attack: how observations are perturbed.

    Raises:
        ProblemError, BackendError: as :class:`PerturbedObservations`.
    """

    def __init__(self, env: VectorEnv, attack: ObservationAttack) -> None:
        super().__init__(env)
        self.attack = attack
        self.single_observation_space = _perturbed_space(env.single_observation_space, env.single_action_space)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def observations(self, observations: np.ndarray) -> np.ndarray:
        """The perturbed observations."""
        return self.perturb(observations)


def scaled(observations: np.ndarray) -> np.ndarray:
    """As float32; whole numbers from 0 to 255 as shares of 255, booleans as zeros and ones."""
    if observations.dtype == np.uint8:
        return observations.astype(np.float32) / 255
    return observations.astype(np.float32)


def _perturbed_space(seen: Space[Any], actions: Space[Any]) -> Box:
    if not isinstance(actions, Discrete):
        raise ProblemError(f"The actions are {actions}; attacks on observations need discrete ones.")
    if not isinstance(seen, Box):
        raise ProblemError(f"The observations are {seen}; attacks need one array of numbers, a Box.")
    if seen.dtype == np.uint8:
        return Box(0.0, 1.0, seen.shape, np.float32)
    return Box(seen.low.astype(np.float32), seen.high.astype(np.float32), dtype=np.float32)


def episode_returns(
    environments: VectorEnv, attack: ObservationAttack, *, seed: int = 0, steps: int = 1000
) -> tuple[np.ndarray, float]:
    """Play one episode in each environment with perturbed observations, the policy taking its best action.

    Args:
        environments: N environments; their observations are attacked all at once.
        attack: how observations are perturbed; its network is the policy.
        seed: of the episodes.
        steps: at most so many in each.

    Returns:
        The returns ``(N,)``, and the share of actions that were changed in running episodes.

    Raises:
        ProblemError: steps below one, or environments as :class:`PerturbedObservations` refuses them.

    Example:
        >>> from clinch.applications.policies import MinAtar
        >>> from gymnasium.vector import SyncVectorEnv
        >>> returns, changed = episode_returns(SyncVectorEnv([MinAtar] * 2), ObservationAttack(network, 0.02), steps=5)
        >>> returns.shape, bool(0 <= changed <= 1)
        ((2,), True)
    """
    if steps < 1:
        raise ProblemError(f"steps={steps} must be at least 1.")
    _perturbed_space(environments.single_observation_space, environments.single_action_space)
    observation, _ = environments.reset(seed=seed)
    total, going = np.zeros(environments.num_envs), np.ones(environments.num_envs, bool)
    seen = changed = 0
    for _ in range(steps):
        # environments whose episode is over have started another one, which does not count: their actions are idle
        action = np.zeros(environments.num_envs, environments.single_action_space.dtype)
        found = attack(torch.from_numpy(scaled(observation[going])))
        action[going] = found.action.cpu().numpy()
        seen, changed = seen + int(going.sum()), changed + int(found.changed.sum())
        observation, reward, over, cut, _ = environments.step(action)
        total += reward * going
        going &= ~(over | cut)
        if not going.any():
            break
    return total, changed / seen
