"""Learning curves of TD3 on MuJoCo, with and without refined actions.

The exploited action maximises the first target critic within eps = 1 of the actor's (actions scaled to [-1, 1]) with
probability 0.25 after the warm-up, as in the program of Yu and Gao 2024 (Activation-Descent Regularization, ICML 2024,
section 6.2), with 10 gradient steps from 4 starts instead of 100 from one. Both kinds of run have the same seeds,
noise, networks ([64, 64]) and batches (100); every 500 steps the actor alone plays three episodes. Steps per second
are of CPU time of one thread without the evaluations. At the end of a run eight states from its experience are refined
with a certified bound.

Runs that are in runs/refined_actions.jsonl are not repeated, so that it can be stopped and started again.

    nice python -m benchmarks refined_actions [--seeds 3] [--steps 10000] [--only-report]

Writes benchmarks/results/refined_actions.md and docs/images/refined_actions.png.
"""

from __future__ import annotations

import argparse
import json
import time

import gymnasium
import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv
from stable_baselines3 import DDPG, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise

from benchmarks.common.page import RESULTS, ROOT, write_page
from clinch.applications.policies.refined import RefinedActions

TAKES = "hours"
RUNS, TABLE = ROOT / "runs" / "refined_actions.jsonl", RESULTS / "refined_actions.md"
FIGURE = ROOT / "docs" / "images" / "refined_actions.png"
ENVIRONMENTS, ALGORITHMS = ("InvertedDoublePendulum-v5", "Reacher-v5"), {"TD3": TD3, "DDPG": DDPG}
EVERY, EPISODES, WARM_UP, STATES = 500, 3, 500, 8


class Evaluate(BaseCallback):
    """Returns of the actor alone, and the CPU time that they took."""

    def __init__(self, environment: str, seed: int) -> None:
        super().__init__()
        self.environments = SyncVectorEnv([lambda: gymnasium.make(environment)] * EPISODES)
        self.seed, self.returns, self.seconds = seed, [], 0.0

    def _on_step(self) -> bool:
        if self.num_timesteps % EVERY == 0:
            begin = time.process_time()
            self.returns.append([self.num_timesteps, *self.play()])
            self.seconds += time.process_time() - begin
        return True

    def play(self) -> list[float]:
        observation, _ = self.environments.reset(seed=10_000 + self.seed)
        total, going = np.zeros(EPISODES), np.ones(EPISODES, bool)
        while going.any():
            action, _ = self.model.predict(observation, deterministic=True)
            observation, reward, over, cut, _ = self.environments.step(action)
            total += reward * going
            going &= ~(over | cut)
        return total.tolist()


def run(job: dict) -> dict:
    """One training run; what the files keep of it."""
    torch.set_num_threads(1)
    environment = gymnasium.make(job["environment"])
    size = environment.action_space.shape
    model = ALGORITHMS[job["algorithm"]](
        "MlpPolicy",
        environment,
        policy_kwargs={"net_arch": [64, 64], "optimizer_kwargs": {"fused": True}},
        batch_size=100,
        learning_starts=WARM_UP,
        action_noise=NormalActionNoise(np.zeros(size), np.full(size, 0.1)),
        seed=job["seed"],
    )
    refined = RefinedActions(model, threshold=0.25 if job["refined"] else 0.0, seed=job["seed"])
    evaluate = Evaluate(job["environment"], job["seed"])
    begin = time.process_time()
    refined.learn(job["steps"], callback=evaluate)
    seconds = time.process_time() - begin - evaluate.seconds
    buffer = model.replay_buffer
    rows = np.random.default_rng(job["seed"]).choice(buffer.size(), STATES, replace=False)
    found = refined.refine(buffer.observations[rows, 0], bound="search", time_limit=10)
    interval = {name: getattr(found, name).tolist() for name in ("actor_value", "value", "bound")}
    return {**job, "returns": evaluate.returns, "steps_per_second": job["steps"] / seconds, "interval": interval}


def done() -> list[dict]:
    return [json.loads(line) for line in RUNS.read_text().splitlines()] if RUNS.exists() else []


def jobs(options: argparse.Namespace) -> list[dict]:
    """Pairs of runs that differ in the refinement only, seed by seed."""
    return [
        {"algorithm": algorithm, "environment": environment, "refined": refined, "seed": seed, "steps": options.steps}
        for algorithm in options.algorithms
        for seed in range(options.seeds)
        for environment in ENVIRONMENTS
        for refined in (False, True)
    ]


def table(finished: list[dict], wanted: list[dict]) -> str:
    """One row for each algorithm and environment, without and with."""
    rows = []
    for algorithm, environment in dict.fromkeys((j["algorithm"], j["environment"]) for j in wanted):
        for refined in (False, True):
            key = {"algorithm": algorithm, "environment": environment, "refined": refined}
            those = [r for r in finished if all(r[name] == value for name, value in key.items())]
            if not those:
                continue
            curves = np.array([[np.mean(e[1:]) for e in r["returns"]] for r in those])
            low, value, high = (np.array([r["interval"][n] for r in those]) for n in ("actor_value", "value", "bound"))
            cells = [
                f"{algorithm}, {environment}",
                "refined" if refined else "plain",
                str(len(those)),
                *(spread(x) for x in (curves[:, -1], curves.mean(1))),
                ", ".join(number(x) for x in curves[:, -1]),
                f"{np.mean([r['steps_per_second'] for r in those]):.0f}",
                f"{np.mean(value - low):.2f}",
                f"{np.mean(high - value):.2f}",
                f"{np.mean(np.abs(value)):.0f}",
            ]
            rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def number(x: float) -> str:
    return f"{x:.0f}" if abs(x) >= 100 else f"{x:.1f}"


def signed(x: float) -> str:
    return ("+" if x > 0 else "") + f"{x:.2f}"


def spread(x: np.ndarray) -> str:
    return f"{number(x.mean())} ± {number(x.std(ddof=1))}" if len(x) > 1 else number(x[0])


def differences(finished: list[dict], wanted: list[dict]) -> str:
    """Refined minus plain, seed by seed: mean and standard error, of the end and of the whole curve."""
    lines = []
    for algorithm, environment in dict.fromkeys((j["algorithm"], j["environment"]) for j in wanted):
        here = [r for r in finished if (r["algorithm"], r["environment"]) == (algorithm, environment)]
        curves = {(r["refined"], r["seed"]): np.array([np.mean(e[1:]) for e in r["returns"]]) for r in here}
        seeds = [seed for refined, seed in curves if refined and (False, seed) in curves]
        if len(seeds) < 2:
            continue
        gain = np.stack([curves[True, seed] - curves[False, seed] for seed in seeds])
        parts = []
        for name, x in (("at the end", gain[:, -1]), ("mean of the curve", gain.mean(1))):
            error = x.std(ddof=1) / len(x) ** 0.5
            parts.append(f"{name} {signed(x.mean())} ± {error:.2f}, better with {int((x > 0).sum())} of {len(x)} seeds")
        lines.append(f"- {algorithm}, {environment}: " + "; ".join(parts) + ".")
    return "\n".join(lines)


def report(finished: list[dict], wanted: list[dict], steps: int) -> None:
    from clinch.applications.policies import learning_figure
    from clinch.figures import save

    finished = sorted((r for r in finished if r["steps"] == steps), key=lambda r: r["seed"])
    panels = {}
    for r in finished:
        name = f"{r['algorithm']}, {r['environment']}"
        kind = "refined actions" if r["refined"] else "plain"
        panels.setdefault(name, {}).setdefault(kind, []).append([np.mean(e[1:]) for e in r["returns"]])
    at = [e[0] for e in finished[0]["returns"]]
    save(learning_figure(panels, at, heading="Return of the actor while it learns"), FIGURE)
    text = (
        f"{steps:,} steps, one thread.\n\n"
        f"Return of the actor alone over {EPISODES} episodes; mean ± standard deviation over seeds, at the end and as "
        "the mean over the whole curve. Gain: how much larger the critic is at the best action known in the box "
        "than at the actor's, "
        f'left: how much larger it could be at most (certified, `bound="search"`, 10 s), means over {STATES} states '
        "of each run with eps = 1, beside the mean size of Q.\n\n"
        "| algorithm, environment | actions | seeds | return at the end | over the curve | each seed at the end | "
        "steps/s | gain in Q | left at most | size of Q |\n|---|---|---|---|---|---|---|---|---|---|\n"
        + table(finished, wanted)
        + "\n\nRefined minus plain with the same seed, mean ± standard error:\n\n"
        + differences(finished, wanted)
    )
    write_page(TABLE, "Refined actions: learning curves", [text], ["stable-baselines3", "gymnasium"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--algorithms", nargs="+", default=["TD3"], choices=list(ALGORITHMS))
    parser.add_argument("--only-report", action="store_true")
    options = parser.parse_args()
    wanted = jobs(options)
    RUNS.parent.mkdir(exist_ok=True)
    for job in [] if options.only_report else wanted:
        if any(all(r[name] == value for name, value in job.items()) for r in done()):
            continue
        result = run(job)
        with RUNS.open("a") as file:
            file.write(json.dumps(result) + "\n")
        last = np.mean(result["returns"][-1][1:])
        print(job, f"return {last:.0f}, {result['steps_per_second']:.0f} steps/s", flush=True)
    report(done(), wanted, options.steps)


if __name__ == "__main__":
    main()
