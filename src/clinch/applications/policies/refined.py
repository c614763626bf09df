"""Actions that maximise the critic near the actor's: Yu and Gao's refinement of DDPG and TD3."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

import numpy as np
import torch
from torch import Tensor

from clinch.applications.policies.maximisers import MAXIMISERS, Question, proven
from clinch.errors import BackendError, ProblemError, ShapeError
from clinch.runtime.optional import required
from clinch.runtime.short import short_repr

if TYPE_CHECKING:
    from stable_baselines3 import TD3

CRITICS = ("target", "online")
BOUNDS = ("crown", "search")


class Refinement(NamedTuple):
    """Refined actions for B observations.

    Attributes:
        action: ``(B, *action_shape)`` in the environment's units.
        value: ``(B,)`` the critic there, float64.
        actor_action: ``(B, *action_shape)`` what the actor does.
        actor_value: ``(B,)`` the critic there, float64; never above ``value``.
        bound: ``(B,)`` proven: no action of the box has a larger value; None where none was asked for.
    """

    action: np.ndarray
    value: np.ndarray
    actor_action: np.ndarray
    actor_value: np.ndarray
    bound: np.ndarray | None

    __repr__ = short_repr


class RefinedActions:
    """Exploited actions that maximise the critic near the actor's, for a stable-baselines3 DDPG or TD3.

    For a state s and ``u ~ U(0, 1)``, with actions scaled to [−1, 1]:

        a(s) = argmax { Q(s, a′) : ‖a′ − π(s)‖∞ ≤ eps, −1 ≤ a′ ≤ 1 }   if u ≤ threshold,   else π(s)

    Activation-Descent Regularization (ICML 2024), equation 12 and section 6.2, in the reading of the authors' program:
    actions are refined while experience is collected and not before the warm-up is over, the others get the model's
    exploration noise and the refined ones none, Q is the first target critic, and the best of all iterates counts. What
    is learned from the experience stays as it is. We differ in that the actor's action is among those compared, so
    that Q never falls; in several starts at once; in ``method``; and in :meth:`predict`, which refines with the same
    probability, where the authors evaluate the actor alone (``refined.model.predict`` does that).

    Args:
        model: a stable-baselines3 ``DDPG`` or ``TD3``. It stays an ordinary model: save and load it as ever, also from
            callbacks while it learns.
        eps: how far from the actor's action, in units in which the action space is [−1, 1]; the authors take 1.
        threshold: the share of actions that are refined; the authors take 0.25.
        steps: gradient steps; the authors take 100.
        restarts: starts of each, the first at the actor's action, the others uniform in the box.
        method: a key of ``maximisers.MAXIMISERS``: ``"gradient"``, or ``"exact"`` for a search by ``solve()``.
        critic: ``"target"`` or ``"online"``: the first network of which critic is maximised.
        warm_up: environment steps before the first refinement; None: the model's ``learning_starts``.
        seed: of the draws u and of the starts.

    Raises:
        ProblemError: the model is no DDPG or TD3, or an argument that does not fit. BackendError: stable-baselines3 is
            missing.

    Example:
        >>> from stable_baselines3 import TD3
        >>> model = TD3("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [16, 16]}, seed=0)
        >>> refined = RefinedActions(model, eps=0.3, threshold=0.25)
        >>> refined.learn(40).predict(np.zeros(3, np.float32))[0].shape
        (1,)
    """

    def __init__(
        self,
        model: TD3,
        *,
        eps: float = 1.0,
        threshold: float = 0.25,
        steps: int = 10,
        restarts: int = 4,
        method: str = "gradient",
        critic: str = "target",
        warm_up: int | None = None,
        seed: int = 0,
    ) -> None:
        _check_model(model)
        if not eps > 0 or math.isinf(eps):
            raise ProblemError(f"eps={eps} must be above 0 and finite; 2 reaches the whole action space from anywhere.")
        if not 0 <= threshold <= 1:
            raise ProblemError(f"threshold={threshold} is no probability. Write a number from 0 to 1.")
        if steps < 1 or restarts < 1:
            raise ProblemError(f"steps={steps} and restarts={restarts} must be at least 1.")
        if method not in MAXIMISERS:
            raise ProblemError(f"There is no method '{method}'. Choose one of: {', '.join(MAXIMISERS)}.")
        if critic not in CRITICS:
            raise ProblemError(f"critic={critic!r} is not known. Write 'target' or 'online'.")
        if warm_up is not None and warm_up < 0:
            raise ProblemError(f"warm_up={warm_up} must be 0 or more steps.")
        self.model, self.eps, self.threshold = model, float(eps), float(threshold)
        self.steps, self.restarts, self.method, self.critic = steps, restarts, method, critic
        self.warm_up = model.learning_starts if warm_up is None else warm_up
        self._draws, self._starts = np.random.default_rng(seed), torch.Generator().manual_seed(seed)

    def learn(self, total_timesteps: int, **arguments: Any) -> Self:
        """Train the model as its own ``learn`` does, with refined actions among those it collects experience with.

        Args:
            total_timesteps: environment steps.
            arguments: what else the model's ``learn`` takes.
        """
        with self._collecting():
            self.model.learn(total_timesteps, **arguments)
        return self

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """The actions of equation 12, in the form of the model's own ``predict``; see there.

        With ``threshold=1`` all are refined. ``evaluate_policy(refined, environment)`` works.
        """
        actions, state = self.model.predict(observation, state, episode_start, deterministic)
        shape = self.model.action_space.shape
        assert shape is not None
        flat = actions.reshape(-1, *shape).copy()
        rows = self._draw(len(flat))
        if len(rows):
            flat[rows] = self._unscaled(self._refined(observation, rows))
        return flat.reshape(actions.shape), state

    def refine(
        self, observation: np.ndarray | dict[str, np.ndarray], *, bound: str | None = None, time_limit: float = 10.0
    ) -> Refinement:
        """Refine the action for every observation, and say what was gained and what is left to gain.

        Args:
            observation: one or ``(B, *observation_shape)``.
            bound: None; ``"crown"`` for one linear relaxation; ``"search"`` for ``cl.Maximize(Q(s, ·)).solve()``.
            time_limit: seconds that the search may take, all observations together.

        Returns:
            Actions, values and bounds with a leading B; see :class:`Refinement`.

        Raises:
            ProblemError: there is no such bound. UnsupportedOperator: the critic has a layer without bounds.

        Example:
            >>> from stable_baselines3 import TD3
            >>> model = TD3("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [16, 16]}, seed=0)
            >>> found = RefinedActions(model, eps=0.3).refine(np.zeros((2, 3), np.float32), bound="search")
            >>> bool((found.value <= found.bound + 1e-9).all())
            True
        """
        if bound is not None and bound not in BOUNDS:
            raise ProblemError(f"There is no bound '{bound}'. Write 'crown', 'search' or None.")
        question = self._question(observation)
        action = MAXIMISERS[self.method](question, self.steps, self.restarts, self._starts).action
        with torch.no_grad():
            both = torch.stack([question.action, action], 1).double()
            actor_value, value = question.double().value(both).unbind(1)
        # float32 may have preferred an action that float64 does not
        value, action = torch.maximum(value, actor_value), torch.where((value < actor_value).unsqueeze(1),
                                                                       question.action, action)  # fmt: skip
        upper = None
        if bound is not None:
            (action, value), limit = proven(question, action, bound, time_limit)
            upper = limit.numpy()
        actions = self._unscaled(action), self._unscaled(question.action)
        return Refinement(actions[0], value.cpu().numpy(), actions[1], actor_value.cpu().numpy(), upper)

    # --- what happens inside ------------------------------------------------------------------------------------------

    def _draw(self, count: int) -> np.ndarray:
        """The rows that are refined."""
        return np.flatnonzero(self._draws.random(count) <= self.threshold)

    def _refined(self, observation: Any, rows: np.ndarray) -> Tensor:
        """Refined actions ``(len(rows), A)``, scaled to [−1, 1]."""
        question = self._question(observation, rows)
        return MAXIMISERS[self.method](question, self.steps, self.restarts, self._starts).action

    def _question(self, observation: Any, rows: np.ndarray | None = None) -> Question:
        """Where to maximise for the chosen rows of one observation or a batch."""
        policy = self.model.policy
        policy.set_training_mode(False)
        seen, _ = policy.obs_to_tensor(observation)
        critic = self.model.critic_target if self.critic == "target" else self.model.critic
        with torch.no_grad():
            action = self.model.actor(seen).flatten(1)
            state = critic.extract_features(seen, cast(Any, critic.features_extractor)).flatten(1)
        if rows is not None:
            action, state = action[rows], state[rows]
        if not bool(state.isfinite().all()):
            raise ShapeError("The observation holds NaN or infinity. Check the environment.")
        lower, upper = (action - self.eps).clamp(min=-1), (action + self.eps).clamp(max=1)
        return Question(critic.q_networks[0], state, action, lower, upper)

    def _unscaled(self, action: Tensor) -> np.ndarray:
        shape = self.model.action_space.shape
        assert shape is not None
        return self.model.policy.unscale_action(action.cpu().numpy().reshape(-1, *shape))

    @contextmanager
    def _collecting(self) -> Iterator[None]:
        """The model with refined actions in its rollouts.

        Its class is exchanged rather than an attribute of it set, since attributes are what ``save`` writes.
        """
        model, original, refiner = self.model, type(self.model), self

        class Collecting(original):
            def _sample_action(
                self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
            ) -> tuple[np.ndarray, np.ndarray]:
                action, stored = super()._sample_action(learning_starts, action_noise, n_envs)
                if self.num_timesteps < max(learning_starts, refiner.warm_up):
                    return action, stored
                rows = refiner._draw(n_envs)
                if len(rows):
                    action, stored = action.copy(), stored.copy()
                    best = refiner._refined(self._last_obs, rows)
                    stored[rows] = best.cpu().numpy().reshape(-1, *stored.shape[1:])
                    action[rows] = refiner._unscaled(best)
                return action, stored

        Collecting.__name__, Collecting.__qualname__ = original.__name__, original.__qualname__
        model.__class__ = Collecting
        try:
            yield
        finally:
            model.__class__ = original


def _check_model(model: object) -> None:
    required("stable_baselines3", "rl", error=BackendError)
    required("gymnasium", "rl", error=BackendError)
    from gymnasium.spaces import Box
    from stable_baselines3 import TD3

    space = getattr(model, "action_space", None)
    name = type(model).__name__
    if space is not None and not isinstance(space, Box):
        raise ProblemError(
            f"The {name}'s actions are {space}, not real numbers. Pass a DDPG or TD3 on a continuous action space."
        )
    if not isinstance(model, TD3):
        raise ProblemError(f"A {name} has no critic of single actions. Pass a stable-baselines3 DDPG or TD3.")
