"""Settings of attacks: numbers that a method was tuned with can be set, are checked before work, and are recorded."""

from __future__ import annotations

import dataclasses
import inspect
import math

import pytest
import torch
from methods import METHODS
from test_conformance import images, mlp, needs, run

import clinch as cl
from clinch.attacks.core.settings import AttackSettings
from clinch.attacks.minimum_norm.multi_constraint import MultiConstraintSettings
from clinch.attacks.minimum_norm.nearest_settings import NearestSettings
from clinch.attacks.portfolio import WorstSettings

TUNED = [
    pytest.param(m, id=m.name, marks=needs(m))
    for m in METHODS
    if "AttackSettings" in str(inspect.signature(m.function).parameters.get("settings"))
    or "Settings | Fields" in str(inspect.signature(m.function).parameters.get("settings"))
]


def kind_of(method) -> type[AttackSettings]:
    name = str(inspect.signature(method.function).parameters["settings"].annotation).partition(" ")[0]
    return getattr(cl.attacks, name)


def test_methods_with_numbers_of_their_own_have_settings():
    names = {each.values[0].name for each in TUNED}
    tuned = {"nearest", "worst", "apgd", "fab", "penalty", "alma", "pdpgd", "bisection", "deepfool", "hop_skip_jump"}
    assert tuned | {"shortest_linear", "lbfgs", "linear_model_feasibility"} <= names


@pytest.mark.parametrize("method", TUNED)
def test_settings_are_recorded_and_names_stand_for_objects(method):
    model, kind = mlp(), kind_of(method)
    x, y = images(model, (3, 4), count=2)
    usual = run(method, model, x, y, method.norms[-1])
    assert usual.settings == kind() and usual.settings.to_dict().keys() == {f.name for f in dataclasses.fields(kind)}
    name = next(f.name for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING)
    by_name = run(method, model, x, y, method.norms[-1], settings={name: getattr(kind(), name)})
    assert torch.equal(by_name.x, usual.x) and by_name.settings == usual.settings


@pytest.mark.parametrize("method", TUNED)
def test_settings_without_meaning_are_named_before_any_work(method):
    def broken(x):
        raise AssertionError("the network was asked")

    kind, p = kind_of(method), method.norms[-1]
    for name, value in ((f.name, f.default) for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING):
        wrong = (*value, -1.0) if isinstance(value, tuple) else math.nan
        with pytest.raises(cl.ClinchError, match=name):
            run(method, broken, None, None, p, settings={name: wrong})
    with pytest.raises(cl.ClinchError, match="no field 'stepz'"):
        run(method, broken, None, None, p, settings={"stepz": 1})
    with pytest.raises(cl.ClinchError, match=f"{kind.__name__}\\("):
        run(method, broken, None, None, p, settings=7)


def test_a_setting_changes_what_the_method_does():
    model = mlp()
    x, y = images(model, (3, 4), count=4)
    usual, few = (cl.attacks.nearest(model, x, y, settings={"candidates": n}) for n in (9, 1))
    assert int(usual.backward.max()) != int(few.backward.max()) or not torch.equal(usual.x, few.x)
    some, more = (cl.attacks.fab(model, x, y, norm=2, steps=2, settings={"search": n}) for n in (0, 5))
    assert bool((more.forward > some.forward).all())


def test_parts_have_their_settings_inside_those_of_the_whole():
    inner = MultiConstraintSettings(kept=5)
    outer = WorstSettings(nearest=NearestSettings(kept=2, multi_constraint=inner))
    objective = cl.attacks.AttackObjective.__new__(cl.attacks.AttackObjective)
    objective.settings = outer
    assert objective.numbers(MultiConstraintSettings) is inner and objective.numbers(NearestSettings).kept == 2
    assert WorstSettings.of({"nearest": {"kept": 2}}).nearest.kept == 2


def test_budgets_and_walks_of_a_solve_are_settings_too():
    model = mlp()
    x0, y = images(model, (3, 4), count=1)
    net = cl.load(model, input_shape=(3, 4))
    x = net.input
    stated = cl.Problem(cl.Minimize(cl.norm(x - x0[0], 2)), [x >= 0, x <= 1, net.output.argmax() != int(y)])
    few = {"others": (60, 60), "polishing": {"programs": 1}}
    found = stated.solve(solver="attack", settings=few)
    assert found.settings.polishing.programs == 1 and found.settings.others == (60, 60)
    assert stated.solve(solver="attack").value <= found.value + 1e-9
    highest = cl.Problem(cl.Maximize(net.output[0]), [x >= 0, x <= 1])
    one = cl.attacks.minimise(highest, steps=5, starts=1, settings={"runs": 1})
    assert one.settings.runs == 1 and int(one.passes[0]) < int(
        cl.attacks.minimise(highest, steps=5, starts=1).passes[0]
    )
    for wrong in ({"polishing": {"programs": 0}}, {"walks": (1,)}):
        with pytest.raises(cl.ClinchError, match=r"programs|walks"):
            stated.solve(solver="attack", settings=wrong)
