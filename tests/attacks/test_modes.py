"""Attacks need gradients: they switch them on themselves, whatever mode the caller's code is in."""

from __future__ import annotations

from contextlib import nullcontext
from typing import cast

import pytest
import torch
from test_conformance import ONE, images, mlp, run
from torch import nn

import clinch as cl
from clinch.attacks.core.classification import ClassQuery
from clinch.runtime.gradients import usable

pytestmark = pytest.mark.table

#: modes that evaluation code runs in
MODES = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}
#: the mode, and whether model and inputs are made in it, with parameters that ask for gradients or not
CASES = [("no_grad", None), ("inference_mode", None), ("inference_mode", True), ("inference_mode", False)]


@pytest.mark.parametrize("method", ONE)
def test_results_do_not_depend_on_the_mode(method):
    model, p = mlp(3), method.norms[-1]
    x, y = images(model, (3, 4), count=2)
    expected = run(method, model, x, y, p, eps=0.4)
    for mode, asking in CASES:
        with MODES[mode]():
            if asking is not None:
                inner = mlp(3).requires_grad_(asking)
                for one, other in zip(inner.parameters(), model.parameters()):
                    one.copy_(other)
                given = inner, x.clone(), y.clone()
            else:
                given = model, x, y
            found = run(method, *given, p, eps=torch.full((2,), 0.4, dtype=torch.float64))
            assert torch.equal(found.x, expected.x) and torch.equal(found.success, expected.success)
            assert found.reason == expected.reason


@pytest.mark.parametrize("method", ONE)
def test_networks_loaded_and_problems_stated_in_inference_mode(method):
    p = method.norms[-1]
    with torch.inference_mode():
        model = mlp(1)
        x, y = images(model, (3, 4), count=1)
        net = cl.load(model, input_shape=(3, 4))
        inside = [net.input >= 0, net.input <= 1, net.output.argmax() != int(y)]
        problem = cl.Problem(cl.Minimize(cl.norm(net.input - x[0].double(), p)), inside)
    more = {"eps": 0.5} if method.kind == "budget" else {}
    for mode in (torch.inference_mode, nullcontext):
        with mode():
            found = run(method, net, x, y, p, eps=0.5)
            assert not any("gradient" in reason for reason in found.reason)
            if method.problems:
                stated = method.function(problem, **method.settings, **more)
                assert not any("gradient" in reason for reason in stated.reason)


def test_a_goal_stated_in_inference_mode_is_attacked_outside():
    with torch.inference_mode():
        x, y = images(mlp(1), (3, 4))
        goal = cl.attacks.AttackObjective(ClassQuery(mlp(1), x, y))
    assert bool(cl.attacks.pgd(goal, eps=0.5).success.all())


def test_solve_and_evaluate_in_inference_mode():
    with torch.inference_mode():
        model = mlp(1)
        x, y = images(model, (3, 4))
        net = cl.load(model, input_shape=(3, 4))
        problem = cl.Problem(
            cl.Minimize(cl.norm(net.input - x[0], 2)),
            [net.input >= 0, net.input <= 1, net.output.argmax() != int(y[0])],
        )
        inside = problem.solve(time_limit=20)
        study = cl.study.evaluate(net, (x, y), eps=0.3, methods="attacks")
    assert inside.status is problem.solve(time_limit=20).status and study.tally.counts["attacked"] == len(x)


def test_only_what_was_made_in_inference_mode_is_copied():
    with torch.inference_mode():
        inner = {"tensor": torch.ones(2), "module": nn.Linear(2, 2), "list": [torch.ones(1)]}
    outer = {"tensor": torch.ones(2), "module": nn.Linear(2, 2), "list": [torch.ones(1)]}
    assert usable(outer) is outer
    copied = usable(inner)
    assert copied is not inner and not copied["tensor"].is_inference() and not copied["list"][0].is_inference()
    assert not any(p.is_inference() for p in copied["module"].parameters())
    assert torch.equal(copied["module"].weight, inner["module"].weight)


# torch's tracer looks at gradients of what are no leaves
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_compiled_models_are_attacked_as_they_were_written():
    model = mlp(3)
    x, y = images(model, (3, 4), count=2)
    expected = cl.attacks.pgd(model, x, y, eps=0.4, steps=5)
    compiled = cast(nn.Module, torch.compile(model, backend="eager"))
    found = cl.attacks.pgd(compiled, x, y, eps=0.4, steps=5)
    assert torch.allclose(found.x, expected.x) and torch.equal(found.success, expected.success)
