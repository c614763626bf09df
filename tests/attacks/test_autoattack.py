"""AutoAttack: its parts in turn on what is left, a log of each, and notes where the outcome is in doubt."""

import pytest
import torch
from test_conformance import images, mlp
from torch import nn

import clinch as cl


def test_each_attack_works_on_what_the_others_have_left():
    model = mlp()
    x, y = images(model, (3, 4), count=8)
    found = cl.attacks.autoattack(model, x, y, eps=0.15, steps=10, queries=30)
    assert [stage.name for stage in found.log] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert sum(stage.found for stage in found.log) == int(found.success.sum()) > 0
    assert sum(stage.passes for stage in found.log) == int(found.passes.sum())
    plus = cl.attacks.autoattack(model, x, y, eps=0.15, steps=5, queries=10, version="plus")
    assert len(plus.log) == 6 and bool((plus.success | ~found.success).float().mean() > 0.7)
    assert any("fewer than 9" in note for note in found.notes)


def test_masked_gradients_are_doubted():
    class Hidden(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x.detach())

    model = Hidden(mlp()).eval()
    x, y = images(model, (3, 4), count=4)
    found = cl.attacks.autoattack(model, x, y, eps=0.4, steps=2, queries=150)
    assert bool(found.success.any()) and (found.log[-1].found == 0 or any("Square found" in n for n in found.notes))


def test_stochastic_models_have_a_version_of_their_own():
    class Noisy(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x + 0.01 * torch.randn_like(x))

    model = Noisy(mlp()).eval()
    x, y = images(mlp(), (3, 4), count=3)
    found = cl.attacks.autoattack(model, x, y, eps=0.3, steps=5, version="rand", eot=2)
    assert len(found.log) == 2 and found.rate is not None
    for wrong, words in (({"version": "fast"}, "standard, plus, rand"), ({"queries": 0}, "queries=0")):
        with pytest.raises(cl.ClinchError, match=words):
            cl.attacks.autoattack(mlp(), x, y, eps=0.3, **wrong)


def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_points(tmp_path):
    model = mlp()
    x, y = images(model, (3, 4), count=8)
    arguments = {"eps": 0.12, "steps": 6, "queries": 20}
    whole = cl.attacks.autoattack(model, x, y, **arguments)
    path = tmp_path / "state.npz"
    with pytest.raises(KeyboardInterrupt):
        cl.attacks.autoattack(model, x, y, keep=path, progress=Stop(8), **arguments)
    resumed, calls = Counted(model), []
    found = cl.attacks.autoattack(resumed, x, y, keep=path, progress=lambda a, b: calls.append(a), **arguments)
    assert torch.equal(found.x, whole.x) and torch.equal(found.passes, whole.passes) and found.log == whole.log
    again = Counted(model)
    same = cl.attacks.autoattack(again, x, y, keep=path, **arguments)
    assert torch.equal(same.x, whole.x) and same.log == whole.log and again.rows < resumed.rows
    for changed in ({"eps": 0.2}, {"seed": 1}):
        with pytest.raises(cl.ClinchError, match="other arguments"):
            cl.attacks.autoattack(model, x, y, keep=path, **{**arguments, **changed})
    with pytest.raises(cl.ClinchError, match="another network"):
        cl.attacks.autoattack(mlp(3), x, mlp(3)(x).argmax(1), keep=path, **arguments)
    path.write_bytes(b"no archive")
    with pytest.raises(cl.ClinchError):
        cl.attacks.autoattack(model, x, y, keep=path, **arguments)


class Stop:
    """A progress that ends the process after so many steps."""

    def __init__(self, after):
        self.left = after

    def __call__(self, done, planned):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


class Counted(nn.Module):
    """Counts the rows it is asked about."""

    def __init__(self, net):
        super().__init__()
        self.net, self.rows = net, 0
        self.eval()

    def forward(self, x):
        self.rows += len(x)
        return self.net(x)


def test_parts_can_be_chosen_and_probabilities_are_doubted():
    model = nn.Sequential(mlp(), nn.Softmax(1)).eval()
    x, y = images(model, (3, 4), count=4)
    found = cl.attacks.autoattack(model, x, y, eps=0.1, steps=4, attacks=("apgd-pm", "fab-t"))
    assert [stage.name for stage in found.log] == ["apgd-pm", "fab-t"]
    assert any("probabilities" in note for note in found.notes)
    assert not any("probabilities" in n for n in cl.attacks.autoattack(mlp(), x, y, eps=0.1, steps=2, queries=2).notes)
    with pytest.raises(cl.ClinchError, match="apgd-ce, apgd-dlr"):
        cl.attacks.autoattack(model, x, y, eps=0.1, attacks=("pgd",))
