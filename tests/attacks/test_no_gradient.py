"""Networks whose gradient is zero, rounded away, random or not to be had: said, and attacked all the same."""

import pytest
import torch
from torch import nn

import clinch as cl
from clinch.attacks.core.averages import SuccessRate
from clinch.attacks.core.step_functions import StepFunctions


class Around(nn.Module):
    """A network with something before it, or after it."""

    def __init__(self, net: nn.Module, before=lambda x: x, after=lambda z: z) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x):
        return self.after(self.net(self.before(x)))


def network(size: int = 16, classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(size, 24), nn.ReLU(), nn.Linear(24, classes)).eval().requires_grad_(False)


def rounded(x):
    return (x * 255).round() / 255


def inputs(model, count: int = 6):
    x = torch.randint(0, 256, (count, 16), generator=torch.Generator().manual_seed(1)) / 255
    return x, model(x).argmax(1)


STEPS = {
    "round": rounded,
    "floor": lambda x: torch.floor(x * 16) / 16,
    "sign": lambda x: torch.sign(x - 0.5) * 0.5 + 0.5,
    "compared": lambda x: (x > 0.5).float(),
    "chosen": lambda x: torch.where(x < 0.5, 0.0, 1.0),
}


@pytest.mark.parametrize("name", STEPS)
def test_step_functions_are_passed_straight_through(name):
    model = Around(network(), STEPS[name]).eval()
    x, y = inputs(model)
    found = cl.attacks.pgd(model, x, y, eps=0.6, steps=20)
    assert bool(found.success.any()) and int(found.passes.max()) <= 41
    assert bool((model(found.x).argmax(1) != y)[found.success].all())


def test_the_largest_of_several_passes_too():
    z = torch.tensor([[0.1, 0.4, 0.2]], requires_grad=True)
    with StepFunctions() as watch:
        nn.functional.one_hot(z.argmax(1), 3).float()[0, 2].backward()
    assert watch.seen and float(z.grad[0, 2]) > 0


def test_true_gradients_are_never_replaced():
    """A ReLU written by hand multiplies by a comparison: its gradient is right as it is."""
    by_hand = Around(network(), after=lambda z: z * (z > -9).float()).eval()
    x, y = inputs(by_hand)
    one, two = (cl.attacks.pgd(net, x, y, eps=0.2, steps=5) for net in (by_hand, network()))
    assert torch.equal(one.x, two.x)


def test_rounding_finds_what_a_plain_attack_finds_rounded():
    plain, model = network(), Around(network(), rounded).eval()
    x, y = inputs(model, 30)
    eps = 32 / 255
    z = rounded(cl.attacks.pgd(plain, x, y, eps=eps, steps=20).x)
    expected = int(((model(z).argmax(1) != y) & ((z - x).abs().amax(1) <= eps + 1e-6)).sum())
    assert expected and int(cl.attacks.worst(model, x, y, eps=eps + 1e-6, passes=500).success.sum()) >= expected


def test_backward_gives_a_model_the_gradient_of_another():
    plain, hidden = network(), Around(network(), lambda x: rounded(x.detach())).eval()
    x, y = inputs(plain)
    with_it = cl.attacks.pgd(hidden, x, y, eps=0.3, steps=20, backward=plain)
    assert bool(with_it.success.any())
    with pytest.raises(cl.ClinchError, match=r"backward= returns \(8,\)"):
        cl.attacks.pgd(hidden, x, y, eps=0.3, backward=lambda z: z.sum(1))
    with pytest.raises(cl.ClinchError, match="modules"):
        cl.attacks.pgd(cl.load(plain, input_shape=(16,)), x, y, eps=0.3, backward=plain)


def test_float64_has_gradients_that_float32_rounds_away():
    model = Around(network(), after=lambda z: (200 * z).softmax(1)).eval()
    x, y = inputs(model)
    found = cl.attacks.pgd(model, x, y, eps=0.3, steps=20)
    assert int(found.success.sum()) >= int(cl.attacks.pgd(network(), x, y, eps=0.3, steps=20).success.sum()) > 0


def test_where_there_is_no_gradient_at_all_decisions_and_random_search_take_over():
    hidden = Around(network(), lambda x: x.detach()).eval()
    x, y = inputs(hidden, 4)
    near, inside = cl.attacks.nearest(hidden, x, y), cl.attacks.worst(hidden, x, y, eps=0.6, passes=500)
    assert bool(near.success.all()) and int(near.passes.max()) <= 240
    assert bool(inside.success.any()) and int(inside.passes.max()) <= 500
    never = cl.attacks.worst(hidden, x, y, eps=1e-4, passes=500)
    assert all("gradient was zero" in r and "Square" in r for r in never.reason)


def test_random_answers_are_refused_or_averaged():
    model = Around(network(), lambda x: x + 0.02 * torch.randn_like(x)).eval()
    x, y = inputs(network())
    with pytest.raises(cl.ClinchError, match="eot=20"):
        cl.attacks.nearest(model, x, y)
    found, again = (cl.attacks.pgd(model, x, y, eps=0.3, steps=10, eot=3) for _ in range(2))
    assert torch.equal(found.x, again.x) and found.rate is not None and bool(found.success.any())
    assert bool((found.rate.lower > 0.5).eq(found.success).all()) and int(found.passes.max()) <= 3 * 21
    with pytest.raises(cl.ClinchError, match="eot=0"):
        cl.attacks.pgd(model, x, y, eps=0.3, eot=0)


def test_the_interval_of_a_rate_holds_it():
    hits = torch.tensor([0, 1, 50, 99, 100])
    share, lower, upper = SuccessRate.of(hits, 100)
    assert bool(((lower <= share + 1e-12) & (share <= upper + 1e-12)).all())
    assert float(lower[0]) == pytest.approx(0.0, abs=1e-12) and float(lower[4]) == pytest.approx(0.963, abs=1e-3)
