"""Attacks of parameters, patches, one perturbation for all, and other networks: what each says about what it found."""

from __future__ import annotations

import math

import pytest
import torch
from test_conformance import images, mlp
from torch import nn

import clinch as cl
from clinch.attacks.colour import coloured
from clinch.attacks.core.losses import log_probability_margin, probability_margin
from clinch.attacks.rotation_translation import moved
from clinch.geometry.norms import norm


class Asked(nn.Module):
    """Counts rows, and those whose gradient is asked for."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.rows, self.slopes = net, 0, 0
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.rows += len(x)
        self.slopes += len(x) * x.requires_grad
        return self.net(x)


def digits(shape: tuple[int, ...] = (1, 8, 8)) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    model = mlp(1, size=math.prod(shape), classes=5)
    return model, *images(model, shape, count=10)


def test_transferred_points_are_made_without_the_network():
    model, x, y = digits()
    attacked, surrogates = Asked(model), [Asked(mlp(1, size=64, classes=5)), Asked(mlp(2, size=64, classes=5))]
    found = cl.attacks.transfer(attacked, x, y, eps=0.2, surrogates=surrogates, steps=5)
    assert not attacked.slopes and all(one.slopes >= 50 for one in surrogates)
    assert int(found.passes.max()) == 2 * 2 * 5 + 1 and bool(found.success.any())
    alone = cl.attacks.transfer(model, x, y, eps=0.2, steps=5)
    assert bool((norm(alone.x - x, math.inf) <= 0.2 + 1e-6).all()) and bool(alone.success.any())


@pytest.mark.parametrize(
    "pieces",
    [{"nesterov": True}, {"scales": 3}, {"diversity": 1.0}, {"kernel": 3}, {"neighbours": 3}, {"momentum": 0.0}],
    ids=lambda pieces: next(iter(pieces)),
)
def test_each_piece_of_a_transfer_attack_changes_its_points(pieces):
    model, x, y = digits()
    plain, other = (cl.attacks.transfer(model, x, y, eps=0.1, steps=4, **more) for more in ({}, pieces))
    assert not torch.equal(plain.x, other.x) and bool((norm(other.x - x, math.inf) <= 0.1 + 1e-6).all())


def test_transfers_that_have_no_meaning_are_named():
    model, x, y = digits()
    for wrong, words in (
        ({"surrogates": mlp(0, size=64, classes=4)}, r"surrogates\[0\] returns shape"),
        ({"surrogates": []}, "is empty"),
        ({"kernel": 4}, "odd"),
        ({"diversity": 2.0}, "probability"),
        ({"scales": 0}, "scales=0"),
    ):
        with pytest.raises(cl.ClinchError, match=words):
            cl.attacks.transfer(model, x, y, eps=0.1, **wrong)
    flat = x.flatten(1)
    with pytest.raises(cl.ClinchError, match="images"):
        cl.attacks.transfer(model, flat, y, eps=0.1, kernel=3)


@pytest.mark.parametrize("rule", ["gradient", "deepfool"])
@pytest.mark.parametrize(("p", "eps"), [(math.inf, 0.2), (2.0, 1.0), (1.0, 6.0)])
def test_one_perturbation_gives_all_points(rule, p, eps):
    model, x, y = digits()
    found = cl.attacks.universal(model, x, y, eps=eps, norm=p, rule=rule, steps=15)
    delta = found.parameters["perturbation"]
    assert delta.shape == x.shape[1:] and float(norm(delta[None], p)) <= eps * (1 + 1e-6)
    assert torch.allclose(found.x, (x + delta).clamp(0, 1), atol=1e-6)
    assert float(found.success.double().mean()) >= (0.3 if rule == "gradient" else 0.1)
    with pytest.raises(cl.ClinchError, match="one radius"):
        cl.attacks.universal(model, x, y, eps=torch.linspace(0.1, 0.2, 10).double())


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("place", [None, (2, 3)])
def test_patches_change_what_lies_below_them(shared, place):
    model, x, y = digits((3, 8, 8))
    found = cl.attacks.patch(model, x, y, size=(3, 2), place=place, shared=shared, places=9, steps=30)
    row, column = found.parameters["row"], found.parameters["column"]
    content = found.parameters["patch"]
    assert content.shape == ((3, 3, 2) if shared else (10, 3, 3, 2)) and bool(found.success.any())
    for i in found.success.nonzero().flatten().tolist():
        inside = torch.zeros(8, 8, dtype=torch.bool)
        inside[row[i] : row[i] + 3, column[i] : column[i] + 2] = True
        assert torch.equal(found.x[i, :, ~inside], x[i, :, ~inside])
        assert torch.equal(found.x[i][:, inside].reshape(3, 3, 2), content if shared else content[i])
        assert place is None or (int(row[i]), int(column[i])) == place
    if shared:
        assert torch.equal(found.parameters["share"] > 0, found.success)


def test_a_free_place_is_worth_something():
    model, x, y = digits()
    fixed, free = (cl.attacks.patch(model, x, y, size=2, place=place, steps=40) for place in ((3, 3), None))
    assert int(free.success.sum()) > int(fixed.success.sum())
    for wrong in ({"size": 9}, {"size": 2, "place": (7, 0)}, {"size": 2, "steps": 0}):
        with pytest.raises(cl.ClinchError, match=r"no patch|leaves the image|at least 1"):
            cl.attacks.patch(model, x, y, **wrong)


def test_images_turn_and_shift_by_whole_pixels():
    image = torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    none, quarter, shift = ([0.0] * 4, [90.0, 0.0, 0.0, 0.0], [0.0, 1 / 8, -2 / 8, 0.0])
    assert torch.allclose(moved(image, torch.tensor([none])), image, atol=1e-6)
    assert torch.allclose(moved(image, torch.tensor([quarter])), image.rot90(1, (2, 3)), atol=1e-5)
    there = moved(image, torch.tensor([shift]))
    assert torch.allclose(there[..., 1:, :-2], image[..., :-1, 2:], atol=1e-5) and not bool(there[..., 0, :].any())


def test_parameters_found_make_the_points():
    model, x, y = digits()
    found = cl.attacks.rotation_translation(model, x, y, rotation=60, translation=0.2, scaling=0.2, grid=3)
    assert bool(found.success.any())
    theta = torch.stack([found.parameters[name] for name in ("angle", "down", "right", "scale")], 1)
    assert bool((theta.abs() <= torch.tensor([60, 0.2, 0.2, 0.2]) * (1 + 1e-6)).all())
    assert torch.allclose(moved(x, theta).clamp(0, 1)[found.success], found.x[found.success], atol=1e-6)
    for one in ({"grid": 0, "steps": 0}, {"grid": 0, "random": 0}, {"random": 0, "steps": 0}):
        part = cl.attacks.rotation_translation(model, x, y, rotation=60, translation=0.2, **one)
        whole = cl.attacks.rotation_translation(model, x, y, rotation=60, translation=0.2)
        assert int(part.success.sum()) <= int(whole.success.sum())


def test_colours_turn_and_grey_stays_grey():
    image, grey = torch.rand(2, 3, 4, 4), torch.rand(2, 1, 4, 4).expand(-1, 3, -1, -1)
    none = torch.zeros(2)
    assert torch.allclose(coloured(image, none, none), image, atol=1e-5)
    assert torch.allclose(coloured(grey, none + 0.7, none + 50.0), grey, atol=1e-3)
    assert torch.allclose(coloured(image, none - 1.0, none)[:, 0], coloured(image, none - 1.0, none)[:, 2], atol=1e-3)
    model, x, y = digits((3, 8, 8))
    found = cl.attacks.colour(model, x, y, brightness=0.5, contrast=0.8, saturation=0.9, hue=180.0, grid=3)
    assert bool(found.success.any()) and set(found.parameters) == {"brightness", "contrast", "saturation", "hue"}
    with pytest.raises(cl.ClinchError, match="need images"):
        cl.attacks.colour(*digits(), hue=10.0)
    with pytest.raises(cl.ClinchError, match="finite limits"):
        cl.attacks.colour(model, x, y, bounds=None)


def test_masks_hold_for_parameters_too():
    model, x, y = digits()
    mask = torch.arange(8) < 5
    found = cl.attacks.rotation_translation(model, x, y, rotation=90, mask=mask, grid=5)
    assert torch.equal(found.x[..., 5:], x[..., 5:])


def test_the_probability_margin_is_followed_where_the_network_is_certain():
    z = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = z.argmax(1).roll(1)
    for target in (None, (y + 1) % 6):
        plain, followed = (loss(3 * z, y, target) for loss in (probability_margin, log_probability_margin))
        assert torch.allclose(followed, -torch.log1p(-plain))
    sure = (400 * z[:5].float()).requires_grad_()
    slope = torch.autograd.grad(log_probability_margin(sure, sure.argmax(1), None).sum(), sure)[0]
    assert bool(slope.abs().amax(1).gt(0.4).all())


def test_minimal_apgd_comes_near_to_the_default():
    model, x, y = digits()
    for p in (1.0, 2.0, math.inf):
        own, best = cl.attacks.minimal_apgd(model, x, y, norm=p), cl.attacks.nearest(model, x, y, norm=p, passes=480)
        assert bool(own.success.all()) and float((own.distance / best.distance).mean()) <= 1.05
