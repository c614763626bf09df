"""Attacks on the observations of a DQN that plays MinAtar's Breakout: average return, and shares of changed actions.

The agent comes from ``breakout_agent``. Every observation of an episode is perturbed within eps (p = inf);
100 episodes each, sticky actions, at most 1,000 frames. "worst action" aims at the action of the least Q-value first.
The share of observations whose action can be changed is an interval: what the default attack changes, and what CROWN
and `solve()` cannot exclude, on 200 observations of episodes without attack.

    python -m benchmarks policy_attacks [--episodes 100] [--seed 0]

Writes benchmarks/results/policy_attacks.md and docs/images/policy_attacks.png.
"""

from __future__ import annotations

import argparse
import time

import torch
from breakout_agent import WEIGHTS, q_network
from gymnasium.vector import SyncVectorEnv
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.common.page import RESULTS, ROOT, write_page
from clinch.applications.policies import (
    MinAtar,
    ObservationAttack,
    action_shares,
    episode_returns,
    policy_attack_figure,
)
from clinch.figures import save

TAKES = "an hour"
TABLE, FIGURE = RESULTS / "policy_attacks.md", ROOT / "docs" / "images" / "policy_attacks.png"
EPS = (0.002, 0.005, 0.01, 0.02, 0.05)
SHARES = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02)
#: name -> attack and aim: another attack joins with its row
KINDS = {
    "random noise": ("noise", "any"),
    "PGD-40": ("pgd", "any"),
    "ADR-GD": ("activation_descent", "any"),
    "default": ("worst", "any"),
    "PGD-40, worst action": ("pgd", "least"),
    "ADR-GD, worst action": ("activation_descent", "least"),
    "default, worst action": ("worst", "least"),
}
OBSERVATIONS, FRAMES = 200, 1000


def agent() -> nn.Module:
    network = q_network()
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval()


def played(network: nn.Module, count: int, seed: int) -> Tensor:
    """Observations that the agent meets, evenly taken from twenty episodes."""
    seen = []
    environment = MinAtar("breakout")
    for episode in range(20):
        observation, _ = environment.reset(seed=seed + episode)
        for _ in range(FRAMES):
            seen.append(torch.from_numpy(observation))
            with torch.no_grad():
                action = int(network(seen[-1].unsqueeze(0)).argmax())
            observation, _, over, _, _ = environment.step(action)
            if over:
                break
    return torch.stack(seen)[torch.linspace(0, len(seen) - 1, count).long()]


def plays(network: nn.Module, options: argparse.Namespace) -> dict[str, list[tuple[float, float, float, float]]]:
    """For each kind of attack and eps: mean return, its standard deviation, share of changed actions, ms per frame."""
    environments = SyncVectorEnv([lambda: MinAtar("breakout")] * options.episodes)

    def play(attack: ObservationAttack) -> tuple[float, float, float, float]:
        begin = time.process_time()
        returns, changed = episode_returns(environments, attack, seed=options.seed, steps=FRAMES)
        seconds = time.process_time() - begin
        print(attack.attack, attack.aim, attack.eps, returns.mean(), changed, f"{seconds:.0f} s", flush=True)
        return float(returns.mean()), float(returns.std(ddof=1)), changed, seconds

    found = {"no attack": [play(ObservationAttack(network, eps=1.0, attack="none"))] * len(EPS)}
    for name, (attack, aim) in KINDS.items():
        found[name] = [play(ObservationAttack(network, eps=eps, attack=attack, aim=aim)) for eps in EPS]
    return found


def shares(network: nn.Module, options: argparse.Namespace) -> list[tuple[float, float, float]]:
    """eps, and the interval of the share of observations whose action can be changed."""
    observations = played(network, OBSERVATIONS, 5000 + options.seed)
    rows = []
    for eps in SHARES:
        found = action_shares(ObservationAttack(network, eps=eps), observations, time_limit=options.time_limit)
        rows.append((eps, *found.interval))
        print(rows[-1], flush=True)
    return rows


def figure(found: dict[str, list[tuple[float, ...]]], intervals: list[tuple[float, ...]], episodes: int):
    errors = {name: [(row[0], row[1] / episodes**0.5) for row in rows] for name, rows in found.items()}
    return policy_attack_figure(EPS, errors, intervals, heading="Observations of a DQN on MinAtar Breakout, attacked")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--time-limit", type=float, default=60.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = agent()
    found, intervals = plays(network, options), shares(network, options)
    save(figure(found, intervals, options.episodes), FIGURE)
    lines = [
        f"MinAtar Breakout, DQN of `breakout_agent`, {options.episodes} episodes, one thread.",
        "",
        "Return of an episode, mean ± standard deviation over episodes (the standard error of a mean is "
        f"{1 / options.episodes**0.5:.2g} of that); in brackets the share of actions that were changed.",
        "",
        "| attack | " + " | ".join(f"eps {eps}" for eps in EPS) + " |",
        "|---|" + "---|" * len(EPS),
    ]
    for name, row in found.items():
        cells = [f"{mean:.2f} ± {spread:.2f} ({share:.0%})" for mean, spread, share, _ in row]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"Share of {OBSERVATIONS} observations whose action can be changed within eps: attacked, and at most "
        f"(CROWN, then `solve()` for {options.time_limit:.0f} s on what is left):",
        "",
        "| eps | " + " | ".join(f"{eps}" for eps, *_ in intervals) + " |",
        "|---|" + "---|" * len(intervals),
        "| share | " + " | ".join(f"{low:.1%} to {high:.1%}" for _, low, high in intervals) + " |",
    ]
    write_page(TABLE, "Attacks on a policy's observations", lines)


if __name__ == "__main__":
    main()
