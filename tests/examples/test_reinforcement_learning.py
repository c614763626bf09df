"""The examples of reinforcement learning, on small settings."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example


def test_refined_actions_lie_between_the_actor_and_the_bounds():
    pytest.importorskip("stable_baselines3")
    crown, search = loaded("refined_actions").run("Pendulum-v1", 300, 0.5)
    assert (search.actor_value <= search.value).all() and (search.value <= search.bound + 1e-9).all()
    assert (search.bound <= crown.bound + 1e-3 * abs(crown.bound)).all()


def test_attacked_observations_change_actions():
    pytest.importorskip("stable_baselines3")
    pytest.importorskip("minatar")
    found, (low, high) = loaded("policy_attack").run(400, 0.05, 4)
    assert found["none"][1] == 0 and found["noise"][1] <= found["worst"][1]
    assert found["worst"][1] > 0.5 and found["pgd"][1] > 0.5
    assert 0 <= low <= high <= 1
