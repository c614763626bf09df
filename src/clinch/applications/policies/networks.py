"""The network of a stable-baselines3 policy with discrete actions, for attacks and bounds."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from clinch.errors import BackendError, ProblemError
from clinch.runtime.optional import required


class _Scores(nn.Module):
    """Float observations ``(N, *shape)``, pictures already from 0 to 1 → scores ``(N, actions)``."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x


def policy_network(model: Any) -> nn.Module:
    """What chooses a stable-baselines3 model's actions: Q-values of a DQN, logits of a PPO or A2C.

    It shares the model's weights, in evaluation mode, and takes observations as :class:`PerturbedObservations` gives
    them: pictures as float32 from 0 to 1.

    Args:
        model: a ``DQN``, ``PPO`` or ``A2C`` with discrete actions.

    Raises:
        ProblemError: another model, or other actions or observations. BackendError: stable-baselines3 is missing.

    Example:
        >>> from stable_baselines3 import DQN
        >>> policy_network(DQN("MlpPolicy", "CartPole-v1"))(torch.zeros(1, 4)).shape
        torch.Size([1, 2])
    """
    required("stable_baselines3", "rl", error=BackendError)
    from gymnasium.spaces import Box, Discrete
    from stable_baselines3 import DQN
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
    from stable_baselines3.common.policies import ActorCriticPolicy

    name = type(model).__name__
    if not isinstance(model, DQN | OnPolicyAlgorithm):
        raise ProblemError(f"A {name} gives no scores of actions. Pass a stable-baselines3 DQN, PPO or A2C.")
    if not isinstance(model.action_space, Discrete) or not isinstance(model.observation_space, Box):
        raise ProblemError(
            f"The {name} has observations {model.observation_space} and actions {model.action_space}; "
            "attacks on observations need one array of numbers and discrete actions."
        )
    if isinstance(model, DQN):
        network = _Scores(model.q_net.features_extractor, model.q_net.q_net)
    else:
        policy = model.policy
        assert isinstance(policy, ActorCriticPolicy)
        network = _Scores(policy.pi_features_extractor, policy.mlp_extractor.policy_net, policy.action_net)
    return network.eval()
