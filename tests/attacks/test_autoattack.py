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
