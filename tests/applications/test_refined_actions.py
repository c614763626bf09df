"""Refined actions: between the actor's value and a proven bound, in the box, and nothing else of the model changed."""

import builtins
import itertools

import numpy as np
import pytest
import torch
from torch import nn

from clinch.applications.policies import RefinedActions
from clinch.applications.policies.maximisers import MAXIMISERS, Question, gradient, proven, relaxed
from clinch.errors import BackendError, ClinchError, ProblemError, UnsoundResult

gymnasium = pytest.importorskip("gymnasium")
stable_baselines3 = pytest.importorskip("stable_baselines3")


def made(kind="TD3", **arguments):
    """A small model that has learned nothing yet, on an environment whose actions reach from -2 to 2."""
    settings = {"policy_kwargs": {"net_arch": [16, 16]}, "learning_starts": 20, "seed": 0, "device": "cpu", **arguments}
    return getattr(stable_baselines3, kind)("MlpPolicy", "Pendulum-v1", **settings)


@pytest.fixture(scope="module")
def model():
    return made()


@pytest.fixture(scope="module")
def observations():
    return np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


def critic(inputs, seed):
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(inputs, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 1))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return net.eval()


def question(seed, states=4, actions=2, eps=0.5):
    generator = torch.Generator().manual_seed(seed)
    state, action = (torch.rand(states, n, generator=generator) * 2 - 1 for n in (3, actions))
    return Question(critic(3 + actions, seed), state, action, (action - eps).clamp(min=-1), (action + eps).clamp(max=1))


def brute_force(asked, points=101):
    """The largest value on a grid of each box, float64."""
    t = torch.linspace(0, 1, points, dtype=torch.float64)
    grid = torch.tensor(list(itertools.product(t, repeat=asked.action.shape[1])), dtype=torch.float64)
    wide = asked.double()
    with torch.no_grad():
        return wide.value(wide.lower.unsqueeze(1) + grid * (wide.upper - wide.lower).unsqueeze(1)).amax(1)


@pytest.mark.parametrize("seed", range(2))
def test_gradient_is_at_most_exact_and_exact_at_most_the_bounds(seed):
    asked = question(seed)
    found = gradient(asked, 10, 4, torch.Generator().manual_seed(0))
    searched_best, upper = proven(asked, found.action, "search", 20.0)
    grid = brute_force(asked)
    assert bool((found.value.double() <= searched_best.value + 1e-5).all())
    # grid and search find the same maximum: the grid is fine, the search proves its own
    assert torch.allclose(searched_best.value, grid, atol=0.05, rtol=0.02)
    assert bool((grid <= upper + 1e-9).all())
    assert bool((upper - searched_best.value <= 2e-3 * searched_best.value.abs() + 1e-6).all())
    assert bool((upper <= relaxed(asked) + 2e-3 * upper.abs()).all())
    assert bool((grid <= relaxed(asked) + 1e-9).all())


@pytest.mark.parametrize("method", sorted(MAXIMISERS))
def test_every_maximiser_stays_in_the_box_and_never_loses_to_the_actor(method):
    asked = question(7)
    found = MAXIMISERS[method](asked, 5, 3, torch.Generator().manual_seed(0))
    assert bool(((asked.lower <= found.action) & (found.action <= asked.upper)).all())
    with torch.no_grad():
        at = asked.value(torch.stack([asked.action, found.action], 1))
    assert bool((at[:, 1] >= at[:, 0]).all()) and torch.equal(at[:, 1], found.value)
    assert bool((at[:, 1] > at[:, 0] + 1e-3).any())


def test_a_bound_below_an_action_is_an_error(monkeypatch):
    asked = question(1)
    monkeypatch.setattr(
        "clinch.applications.policies.maximisers.relaxed", lambda asked: torch.full((4,), -1e6, dtype=torch.float64)
    )
    with pytest.raises(UnsoundResult, match="above the bound"):
        proven(asked, asked.action, "crown", 1.0)


def test_nan_is_never_the_best():
    asked = question(2)
    with torch.no_grad():
        asked.critic[0].weight.fill_(torch.nan)
    found = gradient(asked, 3, 2, torch.Generator().manual_seed(0))
    assert bool(found.value.isneginf().all()) and bool(found.action.isfinite().all())


# --- with a model --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["TD3", "DDPG"])
@pytest.mark.parametrize("bound", ["crown", "search"])
def test_values_lie_between_the_actor_and_the_bound(kind, bound, observations):
    refined = RefinedActions(made(kind), eps=0.4, critic="online", seed=1)
    found = refined.refine(observations, bound=bound)
    assert (found.actor_value <= found.value).all() and (found.value <= found.bound + 1e-9).all()
    # actions reach from -2 to 2, so eps = 0.4 of the scaled space is 0.8
    assert (np.abs(found.action - found.actor_action) <= 0.8 + 1e-5).all() and (np.abs(found.action) <= 2).all()
    model = refined.model
    assert np.allclose(found.actor_action, model.predict(observations, deterministic=True)[0], atol=1e-6)
    scaled = torch.from_numpy(model.policy.scale_action(found.action))
    with torch.no_grad():
        value = model.critic.q1_forward(torch.from_numpy(observations), scaled)[:, 0].numpy()
    assert np.allclose(value, found.value, atol=1e-5)


def test_predict_refines_the_share_that_was_asked_for(model, observations):
    """Counted by the rows that are handed on: whether a refined action differs is the critic's and the processor's."""

    def predicted(threshold, inputs):
        refined, asked = RefinedActions(model, threshold=threshold, eps=0.5, seed=3), []
        refined._refined = lambda observation, rows: asked.extend(rows) or torch.zeros(len(rows), 1)
        return refined.predict(inputs)[0], np.array(asked, dtype=int)

    zero = model.policy.unscale_action(np.zeros((1, 1), dtype=np.float32))
    for inputs in (observations, observations[0]):
        plain = model.predict(inputs, deterministic=True)[0]
        actions, asked = predicted(0.0, inputs)
        assert len(asked) == 0 and np.array_equal(actions, plain)
        actions, asked = predicted(1.0, inputs)
        assert asked.tolist() == list(range(len(plain.reshape(-1, 1))))
        assert actions.shape == plain.shape and (actions == zero.reshape(())).all()
    many = np.repeat(observations, 100, axis=0)
    actions, asked = predicted(0.25, many)
    # six standard deviations of the number of rows that a fair draw of this share takes
    assert abs(len(asked) - len(many) / 4) < 6 * np.sqrt(len(many) * 3 / 16)
    left = np.setdiff1d(np.arange(len(many)), asked)
    assert np.array_equal(actions[left], model.predict(many, deterministic=True)[0][left])
    assert (actions[asked] == zero).all()


def test_the_seed_decides(model, observations):
    first, second, other = (RefinedActions(model, threshold=0.5, seed=s).predict(observations)[0] for s in (5, 5, 6))
    assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_learning_refines_after_the_warm_up_and_stores_what_was_done():
    model = made(learning_starts=20)
    refined = RefinedActions(model, threshold=1.0, warm_up=50, steps=2, restarts=2)
    seen = []
    plain = refined._refined
    refined._refined = lambda observation, rows: seen.append(model.num_timesteps) or plain(observation, rows)
    assert refined.learn(80) is refined
    assert seen == list(range(50, 80)) and type(model) is stable_baselines3.TD3
    stored = model.replay_buffer.actions[:80, 0]
    assert (np.abs(stored) <= 1).all() and np.isfinite(stored).all()


def test_a_share_of_zero_learns_what_the_model_learns_alone():
    learned = [RefinedActions(made(seed=4), threshold=0.0).learn(60).model, made(seed=4).learn(60)]
    weights = [torch.cat([p.flatten() for p in m.policy.parameters()]) for m in learned]
    assert torch.equal(*weights)


def test_saved_while_learning_and_loaded_as_ever(tmp_path, observations):
    model, predicted = made(), []

    def save(*_):
        if model.num_timesteps == 50:
            model.save(tmp_path / "model")
            predicted.append(model.predict(observations)[0])
        return True

    RefinedActions(model, threshold=0.5, steps=2, restarts=2).learn(60, callback=save)
    loaded = stable_baselines3.TD3.load(tmp_path / "model")
    assert np.array_equal(loaded.predict(observations)[0], predicted[0])
    assert type(loaded) is stable_baselines3.TD3


def test_several_environments_at_once():
    from stable_baselines3.common.env_util import make_vec_env

    settings = {"policy_kwargs": {"net_arch": [16]}, "learning_starts": 8, "seed": 0, "train_freq": 1}
    model = stable_baselines3.TD3("MlpPolicy", make_vec_env("Pendulum-v1", 4, seed=0), **settings)
    RefinedActions(model, threshold=0.5, steps=2, restarts=2).learn(40)
    assert model.num_timesteps == 40 and np.isfinite(model.replay_buffer.actions[:10]).all()


# --- bad input -------------------------------------------------------------------------------------------------------


def test_a_model_without_a_critic_of_actions_is_refused():
    ppo = stable_baselines3.PPO("MlpPolicy", "Pendulum-v1", n_steps=8, batch_size=8, device="cpu")
    with pytest.raises(ProblemError, match="A PPO has no critic of single actions"):
        RefinedActions(ppo)
    with pytest.raises(ProblemError, match="A Linear has no critic"):
        RefinedActions(nn.Linear(2, 2))


def test_discrete_actions_are_refused():
    dqn = stable_baselines3.DQN("MlpPolicy", "CartPole-v1", buffer_size=10, device="cpu")
    with pytest.raises(ProblemError, match=r"The DQN's actions are Discrete\(2\), not real numbers"):
        RefinedActions(dqn)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": 0}, "eps=0 must be above 0"),
        ({"eps": -0.1}, "eps=-0.1 must be above 0"),
        ({"eps": float("nan")}, "eps=nan"),
        ({"eps": float("inf")}, "finite"),
        ({"threshold": 1.5}, "threshold=1.5 is no probability"),
        ({"steps": 0}, "steps=0"),
        ({"restarts": 0}, "restarts=0"),
        ({"method": "adam"}, "There is no method 'adam'"),
        ({"critic": "second"}, "Write 'target' or 'online'"),
        ({"warm_up": -1}, "warm_up=-1"),
    ],
)
def test_arguments_without_meaning(model, arguments, message):
    with pytest.raises(ClinchError, match=message):
        RefinedActions(model, **arguments)


def test_bounds_and_observations_without_meaning(model, observations):
    refined = RefinedActions(model)
    with pytest.raises(ProblemError, match="There is no bound 'lp'"):
        refined.refine(observations, bound="lp")
    with pytest.raises(ClinchError, match="NaN or infinity"):
        refined.refine(np.full((1, 3), np.nan, np.float32))


def test_a_missing_package_is_named(model, monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.split(".")[0] == "stable_baselines3":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr("importlib.import_module", lambda name: without(name))
    with pytest.raises(BackendError, match=r'stable-baselines3 is not installed. Run: pip install "clinch-nn\[rl\]"'):
        RefinedActions(model)
