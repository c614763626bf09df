"""What is no batch of inputs is named in one line; what is outside the range by rounding is clipped with a word."""

from __future__ import annotations

import math

import pytest
import torch
from test_conformance import images, mlp
from torch import Tensor, nn

import clinch as cl
from clinch.study.template import Template

Y = torch.tensor([0, 1])


def conv() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module, wrap) -> None:
        super().__init__()
        self.inner, self.wrap = inner, wrap

    def forward(self, x: Tensor):
        return self.wrap(self.inner(x))


CASES = {
    "another size": (mlp, torch.rand(2, 3), {}, "shape \\(2, 3\\)"),
    "channels last": (conv, torch.rand(2, 8, 8, 3), {}, "permute\\(0, 3, 1, 2\\)"),
    "no batch axis": (conv, torch.rand(3, 8, 8), {}, "x\\[None\\]"),
    "a tuple": (lambda: Wrapped(mlp(), lambda z: (z, z)).eval(), torch.rand(2, 12), {}, "returns a tuple"),
    "a dictionary": (lambda: Wrapped(mlp(), lambda z: {"z": z}).eval(), torch.rand(2, 12), {}, "returns a dict"),
    "a text": (mlp, "abc", {}, "no array of numbers"),
    "complex numbers": (mlp, torch.rand(2, 12).to(torch.complex64), {}, "complex"),
    "three limits": (mlp, torch.rand(2, 12), {"bounds": (0, 1, 2)}, "is no range"),
    "limits of elements": (mlp, torch.rand(2, 12), {"bounds": (torch.zeros(11), torch.ones(11))}, "bounds has shape"),
    "outside": (mlp, torch.rand(2, 12) + 1e-4 + 1.0, {}, "more than rounding"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", [cl.attacks.pgd, cl.attacks.nearest, cl.attacks.worst], ids=lambda m: m.__name__)
def test_attacks_name_what_they_cannot_take(method, case):
    make, x, more, message = CASES[case]
    arguments = {"norm": 2} if method is cl.attacks.nearest else {"eps": 0.1}
    with pytest.raises(cl.ClinchError, match=message):
        method(make(), x, Y, **arguments, **more)


def test_loaded_networks_say_how_to_write_inputs():
    net = cl.load(conv(), (3, 8, 8))
    for x, message in ((torch.rand(2, 8, 8, 3), "permute"), (torch.rand(3, 8, 8), r"x\[None\]")):
        with pytest.raises(cl.ClinchError, match=message):
            cl.attacks.pgd(net, x, Y, eps=0.1)


@pytest.mark.parametrize("excess", [1.2e-7, 3e-7])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_elements_outside_by_rounding_are_clipped_with_a_word(excess, low, high):
    model = mlp()
    x, y = images(model, (3, 4))
    x = low + (high - low) * x
    y = model(x).argmax(1)
    x[0, 0, 0], x[1, 1, 1] = low - excess * (high - low), high + excess * (high - low)
    with pytest.warns(UserWarning, match="which is rounding"):
        found = cl.attacks.pgd(model, x, y, eps=0.1, bounds=(low, high))
    assert bool(((found.x >= low) & (found.x <= high)).all())


def test_a_study_takes_pixels_outside_by_rounding():
    template = Template(norm=math.inf, eps=0.1)
    assert template.complaint(-2.98e-8, 1 + 1.2e-7, 0, 3) is None
    assert "outside" in str(template.complaint(-1e-4, 1.0, 0, 3))


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_a_ball_may_have_a_radius_for_each_element(p):
    center, radius = torch.rand(4, 5), torch.tensor([0.1, 0.0, 0.5, 0.01, 1.0])
    region = cl.bounds.ball(center, radius[None], p)
    for i in range(5):
        step = torch.zeros(5)
        step[i] = radius[i]
        assert bool(region.contains(center.double() + 0.999 * step).all())
        step[i] += 0.01
        assert not bool(region.contains(center.double() + step).any())


@pytest.mark.parametrize(
    ("radius", "p", "message"),
    [
        (torch.ones(5), math.inf, r"radius\[None\]"),
        (torch.ones(3), 2.0, "radius has shape"),
        (torch.ones(4, 5), 0.0, "counts elements"),
        ("a", 2.0, "no array"),
    ],
)
def test_a_ball_names_a_radius_that_does_not_fit(radius, p, message):
    with pytest.raises(cl.ClinchError, match=message):
        cl.bounds.ball(torch.rand(4, 5), radius, p)


def test_bounds_take_plain_modules():
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    region = cl.bounds.box(torch.zeros(2, 5), torch.ones(2, 5))
    assert torch.equal(cl.bounds.crown(model, region), cl.bounds.crown(cl.load(model, (5,)), region))
