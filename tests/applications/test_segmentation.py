"""Segmentation: the goal and its losses, what is proven of pixels, and the order bound, exact, attack."""

import math

import pytest
import torch
from torch import nn

import clinch as cl
from clinch.applications.segmentation import Pixels, changeable, intersection_over_union, measures, unchangeable
from clinch.attacks.core.losses import loss_of
from clinch.errors import ClinchError, NetworkError, ProblemError, ShapeError


def small(classes=3, seed=0):
    """A convolutional network on 3 × 3 pixels, each of which sees nine, in float64; no class is rare."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, classes, 1)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 1, generator=generator)
        mean = model(inputs(200, seed)).mean((0, 2, 3))
        model[2].bias.sub_(mean)
    return model


def inputs(count, seed=1, size=3):
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def predicted(model, x):
    with torch.no_grad():
        return model(x).argmax(1)


# --- the goal -----------------------------------------------------------------------------------------------------


def test_margins_and_branches_are_the_formulas():
    model, x = small(), inputs(4)
    target = torch.randint(3, (3, 3), generator=torch.Generator().manual_seed(0))
    counted = torch.ones(3, 3, dtype=torch.bool)
    counted[0, 0] = False
    rows = torch.arange(4)
    with torch.no_grad():
        f = model(x)
    y = f.argmax(1)
    best_other = f.scatter(1, y.unsqueeze(1), -math.inf).amax(1)
    untargeted = f.gather(1, y.unsqueeze(1)).squeeze(1) - best_other
    goal = Pixels(model, x, counted=counted, share=1.0)
    sums = (untargeted.clamp(min=0) * counted).flatten(1).sum(1) / 8
    assert torch.allclose(goal.answer(x, rows).margin.detach(), sums)
    goal = Pixels(model, x, target=target, counted=counted)
    wanted = target.expand(4, 3, 3).unsqueeze(1)
    margins = f.scatter(1, wanted, -math.inf).amax(1) - f.gather(1, wanted).squeeze(1)
    left = (~(margins < 0) & counted).flatten(1).sum(1)
    answer = goal.answer(x, rows)
    assert torch.equal(answer.margin.detach().long(), left)
    for name, of in (("soft count", torch.sigmoid), ("sum of margins", torch.clone)):
        expected = (of(margins) * counted).flatten(1).sum(1) / 8
        assert torch.allclose(loss_of(goal, name)(answer, rows, rows).detach(), expected)
    entropy = nn.functional.cross_entropy(f, wanted.squeeze(1), reduction="none") * counted
    masked = (entropy * ~(margins < 0)).flatten(1).sum(1) / 8
    assert torch.allclose(loss_of(goal, "cross-entropy")(answer, rows, rows).detach(), entropy.flatten(1).sum(1) / 8)
    assert torch.allclose(loss_of(goal, "masked cross-entropy")(answer, rows, rows).detach(), masked)


def test_a_share_asks_for_the_easiest_pixels():
    model, x = small(), inputs(3)
    with torch.no_grad():
        goal = Pixels(model, x, share=0.5)
        margins = goal.margins(model(x).flatten(2), torch.arange(3)).sort(1).values
    assert goal.needed.tolist() == [5, 5, 5]  # ⌈9/2⌉
    assert torch.allclose(
        cl.attacks.AttackObjective(goal).look(x, torch.arange(3)), margins[:, :5].clamp(min=0).sum(1) / 5
    )


@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize(
    "method", [cl.attacks.pgd, cl.attacks.apgd, cl.attacks.linear_model_step, cl.attacks.frank_wolfe]
)
def test_attacks_change_pixels_and_stay_inside(method, norm):
    model, x = small(), inputs(4)
    eps = {1: 1.5, 2: 0.8, math.inf: 0.3}[norm]
    goal = Pixels(model, x, norm=norm)
    result = method(goal, eps=eps)
    assert bool((torch.linalg.vector_norm((result.x - x).flatten(1), norm, dim=1) <= eps * (1 + 1e-9)).all())
    assert float(result.x.min()) >= 0 and float(result.x.max()) <= 1
    changed = goal.changed(result.x)
    assert torch.equal(changed, predicted(model, result.x) != predicted(model, x))
    assert int(changed.sum()) >= (3 if method is cl.attacks.linear_model_step else 5)
    # the best point is the one that changes the most: what is left is the margin
    left = 9 - changed.flatten(1).sum(1)
    assert torch.equal(torch.where(left > 0, left.double(), -1.0), torch.where(left > 0, result.loss, -1.0))


def test_worst_does_not_give_up_on_an_input():
    model, x = small(), inputs(4)
    quick, thorough = Pixels(model, x), Pixels(model, x)
    least = cl.attacks.pgd(quick, eps=0.1, steps=1)
    most = cl.attacks.worst(thorough, eps=0.1, passes=500)
    assert bool((thorough.changed(most.x).flatten(1).sum(1) >= quick.changed(least.x).flatten(1).sum(1)).all())
    assert int(most.passes.min()) > 400


@pytest.mark.parametrize("method", [cl.attacks.ddn, cl.attacks.fmn])
def test_the_nearest_input_that_changes_a_share(method):
    model, x = small(), inputs(4)
    some, most = (method(Pixels(model, x, share=share, norm=2)) for share in (0.2, 0.5))
    for found, needed in ((some, 2), (most, 5)):
        changed = (predicted(model, found.x) != predicted(model, x)).flatten(1).sum(1)
        assert bool((changed[found.success] >= needed).all()) and int(found.success.sum()) >= 2
    both = some.success & most.success
    assert bool((some.distance[both] <= most.distance[both] * 1.2).all())


def test_measures_by_hand():
    model, x = small(), inputs(2)
    y = predicted(model, x)
    target = torch.full((3, 3), 1)
    counted = torch.tensor([[True, True, True], [True, True, False], [False, False, False]])
    goal = Pixels(model, x, target=target, counted=counted)
    z = inputs(2, seed=5)
    found = predicted(model, z)
    m = measures(goal, z)
    for b in range(2):
        assert float(m.changed[b]) == pytest.approx(float((found != y)[b][counted].double().mean()))
        assert float(m.taken[b]) == pytest.approx(float((found == 1)[b][counted].double().mean()))
        ratios = []
        for c in range(3):
            a, e = (found[b] == c)[counted], (y[b] == c)[counted]
            if bool((a | e).any()):
                ratios.append(float((a & e).sum() / (a | e).sum()))
        assert float(m.agreement[b]) == pytest.approx(sum(ratios) / len(ratios))
    assert measures(Pixels(model, x), x).agreement.tolist() == [1.0, 1.0]
    assert intersection_over_union(y, y, 3).tolist() == [1.0, 1.0]


# --- proofs -------------------------------------------------------------------------------------------------------


def exactly_changeable(net, x, y, eps):
    """Which pixels some perturbation changes, each by its own exact search: ``min z_y − z_c < 0`` for some c."""
    can = torch.zeros(3, 3, dtype=torch.bool)
    ball = [net.input >= 0, net.input <= 1, cl.norm(net.input - x, cl.inf) <= eps]
    for i in range(3):
        for j in range(3):
            for c in set(range(3)) - {int(y[i, j])}:
                difference = net.output[int(y[i, j]), i, j] - net.output[c, i, j]
                solution = cl.Problem(cl.Minimize(difference), ball).solve(time_limit=5)
                assert solution.bound <= solution.value
                can[i, j] |= solution.value < 0
    return can


def test_bound_exact_attack_are_in_order():
    model = small(seed=3)
    x = inputs(1, seed=2)
    net = cl.load(model, input_shape=(1, 3, 3))
    y = predicted(model, x)
    found = changeable(net, x, eps=0.12, restarts=3)
    exact = exactly_changeable(net, x[0], y[0], 0.12)
    assert not bool((found.fixed[0] & exact).any())
    assert not bool((found.changed[0] & ~exact).any())
    assert int(found.value) <= int(exact.sum()) <= int(found.bound)
    assert int(found.value) > 0 and int(found.bound) < 9  # both sides say something


@pytest.mark.parametrize("norm", [2, math.inf])
def test_nothing_that_is_proven_happens(norm):
    model, x = small(seed=4), inputs(5, seed=3)
    target = torch.randint(3, (3, 3), generator=torch.Generator().manual_seed(2))
    y, eps = predicted(model, x), 0.15
    fixed = unchangeable(model, x, eps=eps, norm=norm)
    never_taken = unchangeable(model, x, eps=eps, norm=norm, target=target)
    assert 0 < float(fixed.double().mean()) < 1 and 0 < float(never_taken.double().mean()) < 1
    noise = torch.randn(400, *x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = eps * noise / torch.linalg.vector_norm(noise.flatten(2), norm, dim=2).view(400, 5, 1, 1, 1)
    seen = predicted(model, (x + noise).clamp(0, 1).flatten(0, 1)).unflatten(0, (400, 5))
    assert not bool(((seen != y) & fixed).any())
    assert not bool(((seen == target) & never_taken).any())


def test_a_ball_of_no_size_proves_every_pixel_that_is_no_tie():
    model, x = small(), inputs(2)
    assert bool(unchangeable(model, x, eps=0.0).all())


def test_limits_agree_with_rows_of_crown():
    model, x = small(seed=5), inputs(1, seed=6)
    net = cl.load(model, input_shape=(1, 3, 3))
    y = predicted(model, x)[0].flatten()
    region = cl.bounds.ball(x, 0.1, cl.inf, lower=0, upper=1)
    rows = torch.zeros(9, 3, 3, 9, dtype=torch.float64)
    for i in range(9):
        for c in range(3):
            rows[i, c, y[i], i] += 1
            rows[i, c, c, i] -= 1
    limits = cl.bounds.crown(net, region, rows.reshape(27, 27)).reshape(9, 3)
    limits[torch.arange(9), y] = math.inf
    assert torch.equal(unchangeable(net, x, eps=0.1).flatten(), limits.amin(1) > 0)


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"target": torch.zeros(2, 2, dtype=torch.long)}, ShapeError, "target has shape"),
        ({"target": torch.zeros(3, 3)}, ShapeError, "whole numbers"),
        ({"target": 3}, ProblemError, "classes are 0 to 2"),
        ({"y": torch.zeros(3, dtype=torch.long)}, ShapeError, "y has shape"),
        ({"counted": torch.ones(3, 3)}, ShapeError, "booleans"),
        ({"counted": torch.zeros(3, 3, dtype=torch.bool)}, ProblemError, "no pixel counts"),
        ({"share": 0.0}, ProblemError, "share=0.0"),
        ({"share": 1.5}, ProblemError, "share=1.5"),
        ({"norm": -1}, ProblemError, "norm=-1"),
        ({"bounds": (0.5, 1.0)}, ProblemError, "outside bounds"),
    ],
)
def test_bad_goals_are_refused(arguments, error, says):
    with pytest.raises(error, match=says) as caught:
        Pixels(small(), inputs(2), **arguments)
    assert isinstance(caught.value, ClinchError) and "\n" not in str(caught.value)


def test_bad_networks_and_uses_are_refused():
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).double().eval()
    with pytest.raises(NetworkError, match="a score of each class for every pixel"):
        Pixels(classifier, inputs(2))
    with pytest.raises(NetworkError, match="training mode"):
        Pixels(small().train(), inputs(2))
    goal = Pixels(small(), inputs(2))
    with pytest.raises(ProblemError, match=r"loss='dlr' is not known\. Write one of: margin, soft count"):
        cl.attacks.pgd(goal, eps=0.1, loss="dlr")
    with pytest.raises(ProblemError, match="states its own inputs"):
        cl.attacks.pgd(goal, inputs(2), eps=0.1)
    with pytest.raises(ProblemError, match="Leave norm out"):
        cl.attacks.pgd(goal, eps=0.1, norm=2)
    with pytest.raises(ClinchError, match=r"State how much is enough, such as share=0\.5"):
        cl.attacks.fmn(goal)
    with pytest.raises(ClinchError, match="radius is negative"):
        unchangeable(small(), inputs(2), eps=-0.1)
