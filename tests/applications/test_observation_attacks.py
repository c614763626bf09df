"""Attacks on observations: inside eps and the range, actions as the policy takes them, shares between two proofs."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import clinch as cl
from clinch.applications.policies import ObservationAttack, action_shares
from clinch.errors import ClinchError, NetworkError, ProblemError, ShapeError

gymnasium = pytest.importorskip("gymnasium")

SHAPE = (2, 4, 4)


@pytest.fixture(scope="module")
def network():
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return net.eval()


@pytest.fixture(scope="module")
def observations():
    return torch.rand(12, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("attack", ["none", "noise", "pgd", "worst"])
@pytest.mark.parametrize("norm", [0, 1, 2, cl.inf])
def test_points_stay_within_eps_and_in_the_range(network, observations, attack, norm):
    eps = {0: 3.0, 1: 1.0, 2: 0.4, cl.inf: 0.1}[norm]
    found = ObservationAttack(network, eps=eps, attack=attack, norm=norm)(observations)
    moved = (found.observation - observations).double().flatten(1)
    assert bool((torch.linalg.vector_norm(moved, norm, dim=1) <= eps * (1 + 1e-6)).all())
    assert float(found.observation.min()) >= 0 and float(found.observation.max()) <= 1
    with torch.no_grad():
        assert torch.equal(found.clean, network(observations).argmax(1))
        assert torch.equal(found.action, network(found.observation).argmax(1))
    assert torch.equal(found.changed, found.clean != found.action)
    assert bool(found.changed.any()) == (attack in ("pgd", "worst")) or attack == "noise"


def test_the_least_action_is_reached_where_it_can_be(network, observations):
    with torch.no_grad():
        least = network(observations).argmin(1)
    found = ObservationAttack(network, eps=0.5, aim="least")(observations)
    anyone = ObservationAttack(network, eps=0.5)(observations)
    assert bool(found.changed.all())
    assert (found.action == least).sum() > (anyone.action == least).sum()


def test_attacks_find_more_than_noise(network, observations):
    changed = {
        a: int(ObservationAttack(network, eps=0.1, attack=a)(observations).changed.sum()) for a in ("noise", "worst")
    }
    assert changed["noise"] < changed["worst"]


@pytest.mark.parametrize("norm", [2, cl.inf])
def test_shares_are_an_interval_that_brute_force_does_not_leave(network, observations, norm):
    for eps in (0.01, 0.3):
        attack = ObservationAttack(network, eps=eps, norm=norm)
        crown = action_shares(attack, observations)
        both = action_shares(attack, observations, time_limit=5)
        assert not bool((crown.fixed & crown.changed).any())
        assert bool((crown.fixed <= both.fixed).all()) and bool((crown.changed <= both.changed).all())
        assert 0 <= both.interval[0] <= both.interval[1] <= 1
        generator = torch.Generator().manual_seed(2)
        offset = (torch.rand(500, *SHAPE, generator=generator) * 2 - 1).sign() * eps
        if norm == 2:
            offset = offset / SHAPE[0] ** 0.5 / 4
        with torch.no_grad():
            fixed = observations[both.fixed]
            tried = network((fixed.unsqueeze(1) + offset).clamp(0, 1).flatten(0, 1)).argmax(1)
            assert torch.equal(tried, network(fixed).argmax(1).repeat_interleave(len(offset)))
        assert eps > 0.01 or bool(both.fixed.any())
    assert both.interval[0] > 0.5


def test_the_search_decides_what_crown_leaves_open(network, observations):
    attack = ObservationAttack(network, eps=0.03)
    crown, both = action_shares(attack, observations), action_shares(attack, observations, time_limit=20)
    assert crown.interval[1] - crown.interval[0] > 0
    assert both.interval[0] == both.interval[1]


def test_a_loaded_network_is_attacked_alike(network, observations):
    loaded = cl.load(network, input_shape=SHAPE)
    first, second = (ObservationAttack(n, eps=0.05)(observations) for n in (network, loaded))
    assert torch.equal(first.changed, second.changed)
    shares = action_shares(ObservationAttack(loaded, eps=0.05), observations)
    assert torch.equal(shares.fixed, action_shares(ObservationAttack(network, eps=0.05), observations).fixed)


# --- environments ----------------------------------------------------------------------------------------------------


class Pictures(gymnasium.Env):
    """Random pictures; the reward is the action, an episode lasts five steps."""

    def __init__(self, dtype=np.float32, actions=3):
        high = 255 if dtype == np.uint8 else 1
        self.observation_space = gymnasium.spaces.Box(0, high, SHAPE, dtype)
        self.action_space = gymnasium.spaces.Discrete(actions)

    def _picture(self):
        picture = self.np_random.random(SHAPE)
        return (
            (picture * 255).astype(np.uint8) if self.observation_space.dtype == np.uint8 else picture.astype(np.float32)
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._picture(), {}

    def step(self, action):
        self.steps += 1
        return self._picture(), float(action), self.steps == 5, False, {}


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_a_wrapped_environment_shows_perturbed_observations(network, dtype):
    from clinch.applications.policies import PerturbedObservations

    plain, attack = Pictures(dtype), ObservationAttack(network, eps=0.2)
    wrapped = PerturbedObservations(Pictures(dtype), attack)
    true, _ = plain.reset(seed=3)
    shown, _ = wrapped.reset(seed=3)
    scale = 255 if dtype == np.uint8 else 1
    assert shown.dtype == np.float32 and wrapped.observation_space.contains(shown)
    assert 0 < np.abs(shown - true / scale).max() <= 0.2 + 1e-6
    for _ in range(4):
        shown, *_ = wrapped.step(0)
    assert wrapped.seen == 5 and 0 < wrapped.changed <= 5


def test_a_wrapped_vector_environment_shows_the_same(network):
    from clinch.applications.policies import PerturbedVectorObservations, episode_returns

    environments = gymnasium.vector.SyncVectorEnv([Pictures] * 3)
    wrapped = PerturbedVectorObservations(environments, ObservationAttack(network, eps=0.2))
    shown, _ = wrapped.reset(seed=0)
    assert shown.shape == (3, *SHAPE) and wrapped.observation_space.contains(shown) and wrapped.seen == 3
    returns, share = episode_returns(environments, ObservationAttack(network, eps=0.2), seed=1)
    clean, none = episode_returns(environments, ObservationAttack(network, eps=0.2, attack="none"), seed=1)
    assert returns.shape == (3,) and 0.5 < share <= 1 and none == 0
    assert not np.array_equal(returns, clean)


def test_the_games_depend_on_their_seed_alone():
    pytest.importorskip("minatar")
    from clinch.applications.policies import MinAtar

    def play(game):
        observation, _ = game.reset(seed=1)
        return [observation] + [game.step(k % 3)[0] for k in range(8)]

    first, second = MinAtar("breakout"), MinAtar("breakout")
    second.reset(seed=9)
    second.step(2)
    assert all(np.array_equal(a, b) for a, b in zip(play(first), play(second)))
    assert first.observation_space.contains(first.reset(seed=0)[0]) and first.action_space.n == 3
    with pytest.raises(ProblemError, match="There is no game 'pong'"):
        MinAtar("pong")
    with pytest.raises(ProblemError, match="sticky=2"):
        MinAtar("breakout", sticky=2)


@pytest.mark.parametrize("kind", ["DQN", "PPO", "A2C"])
def test_the_network_of_a_model_chooses_its_actions(kind):
    baselines = pytest.importorskip("stable_baselines3")
    from clinch.applications.policies import policy_network

    settings = {"buffer_size": 10} if kind == "DQN" else {"n_steps": 64}
    model = getattr(baselines, kind)("MlpPolicy", Pictures(), device="cpu", seed=0, **settings)
    x = torch.rand(20, *SHAPE, generator=torch.Generator().manual_seed(0))
    network = policy_network(model)
    with torch.no_grad():
        assert network(x).argmax(1).tolist() == model.predict(x.numpy(), deterministic=True)[0].tolist()
    found = ObservationAttack(network, eps=0.5, attack="pgd")(x)
    assert bool(found.changed.any())


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eps": 0.0}, "eps=0.0 must be above 0"),
        ({"eps": float("nan")}, "eps=nan"),
        ({"eps": 0.1, "attack": "square"}, "There is no attack 'square'"),
        ({"eps": 0.1, "norm": 0.5}, "norm=0.5 is not among"),
        ({"eps": 0.1, "aim": "most"}, "Write 'any' or 'least'"),
    ],
)
def test_arguments_without_meaning(network, arguments, message):
    with pytest.raises(ProblemError, match=message):
        ObservationAttack(network, **arguments)


def test_networks_and_observations_that_do_not_fit(network, observations):
    with pytest.raises(NetworkError, match="cannot be attacked"):
        ObservationAttack("policy", eps=0.1)
    with pytest.raises(ShapeError, match="one row of scores"):
        ObservationAttack(nn.Identity().eval(), eps=0.1)(observations)
    with pytest.raises(ClinchError, match="outside bounds"):
        ObservationAttack(network, eps=0.1)(observations * 255)
    with pytest.raises(ProblemError, match="looks for nothing"):
        action_shares(ObservationAttack(network, eps=0.1, attack="noise"), observations)
    with pytest.raises(ProblemError, match="time_limit is -1"):
        action_shares(ObservationAttack(network, eps=0.1), observations, time_limit=-1)


def test_environments_and_models_that_do_not_fit(network):
    from clinch.applications.policies import PerturbedObservations, episode_returns, policy_network

    attack = ObservationAttack(network, eps=0.1)
    with pytest.raises(ProblemError, match="need discrete ones"):
        PerturbedObservations(gymnasium.make("Pendulum-v1"), attack)
    with pytest.raises(ProblemError, match="one array of numbers"):
        PerturbedObservations(gymnasium.make("Blackjack-v1"), attack)
    with pytest.raises(ProblemError, match="steps=0"):
        episode_returns(gymnasium.vector.SyncVectorEnv([Pictures]), attack, steps=0)
    baselines = pytest.importorskip("stable_baselines3")
    with pytest.raises(ProblemError, match="gives no scores of actions"):
        policy_network(baselines.TD3("MlpPolicy", "Pendulum-v1", buffer_size=10, device="cpu"))
    with pytest.raises(ProblemError, match="discrete actions"):
        policy_network(baselines.PPO("MlpPolicy", "Pendulum-v1", n_steps=8, batch_size=8, device="cpu"))


# --- without the extra -----------------------------------------------------------------------------------------------


def run(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


def test_the_extra_is_imported_when_it_is_used_and_named_where_it_is_missing():
    program = """
import sys, clinch.applications.policies as policies
policies.ObservationAttack, policies.RefinedActions
print([m for m in ('gymnasium', 'stable_baselines3', 'minatar') if m in sys.modules])
sys.modules['gymnasium'] = None
for name in ('MinAtar', 'PerturbedObservations'):
    try:
        getattr(policies, name)
    except Exception as error:
        print(type(error).__name__, error)
"""
    named = 'BackendError gymnasium is not installed. Run: pip install "clinch-nn[rl]".'
    assert run(program).stdout.splitlines() == ["[]", named, named]
