"""Measures as intervals: whatever the images without an answer are, the exact measures lie inside."""

import math

import pytest
import torch

import clinch as cl
from clinch.demo import digits, network
from clinch.study import evaluate, rho2
from clinch.study.evaluation import POINTS, Evaluation, Tally
from clinch.study.measures import DistanceIntervals
from clinch.study.store import Row
from clinch.study.template import Template

RADII = torch.linspace(0, 1.2, 49, dtype=torch.float64)


def exact_measures(d, size):
    """Of exact distances, 0 where misclassified: robust accuracy, fooling ratio, ρ̂₁, ε₉₉, by counting."""
    correct = d[d > 0]
    return (
        (d > RADII[:, None]).double().mean(1),
        (correct <= RADII[:, None]).double().mean(1),
        float((correct / size[d > 0]).mean()),
        min(float(e) for e in correct if 100 * int((correct <= e).sum()) > 99 * len(correct)),
    )


def holds(low, exact, high):
    return bool(torch.all(torch.as_tensor(low) <= torch.as_tensor(exact) + 1e-12)) and bool(
        torch.all(torch.as_tensor(exact) <= torch.as_tensor(high) + 1e-12)
    )


@pytest.mark.parametrize("seed", range(6))
def test_intervals_hold_the_measures_of_exact_distances(seed):
    draw = torch.Generator().manual_seed(seed)
    d, size, loose, none, wrong = (torch.rand(101, generator=draw, dtype=torch.float64) for _ in range(5))
    d[wrong < 0.1], size = 0.0, 1 + size
    value, bound = d * (1 + loose), d * loose
    value[none < 0.05] = math.inf
    value[d == 0], bound[d == 0] = 0.0, 0.0
    known = DistanceIntervals(value, bound, torch.zeros(101, dtype=torch.bool))
    robust, fooled, relative, eps = exact_measures(d, size)
    for ends, exact in (
        (known.robust(RADII), robust), (known.fooled(RADII), fooled), (known.rho1(size), relative), (known.eps(), eps)
    ):  # fmt: skip
        assert holds(ends[0], exact, ends[1])
    tight = DistanceIntervals(d, d, torch.zeros(101, dtype=torch.bool))
    assert all(torch.equal(*ends) for ends in (tight.robust(RADII), tight.fooled(RADII)))
    assert torch.allclose(tight.robust(RADII)[0], robust) and torch.allclose(tight.fooled(RADII)[0], fooled)
    assert tight.rho1(size) == pytest.approx((relative, relative)) and tight.eps() == (eps, eps)
    assert torch.equal(tight.jumps(), torch.cat([d.new_zeros(1), d]).unique())


def test_a_ball_without_another_class_says_something_about_its_own_radius():
    half = torch.tensor([0.5], dtype=torch.float64)
    for beyond in (True, False):
        known = DistanceIntervals(half.new_tensor([math.inf]), half, torch.tensor([beyond]))
        assert known.robust(half)[0].item() == beyond and known.robust(half.nextafter(half + 1))[0].item() == 0
        assert known.robust(half * 0.99)[0].item() == 1
    with pytest.raises(cl.ClinchError, match="A radius is below zero or NaN"):
        known.robust(-half)


def study(rows, images, eps=None):
    counts = {status: [row.status for row in rows].count(status) for status in {row.status for row in rows}}
    return Evaluation(Template(eps=eps), "net", "data", Tally(images, counts), tuple(rows))


ROWS = [
    Row(0, 0, "misclassified", 0.0, 0.0, size=1.0, first_order=0.0),
    Row(1, 0, "closed", 0.4, 0.4, size=2.0, first_order=0.5),
    Row(2, 1, "open", 0.6, 0.2, size=1.0, first_order=0.3),
    Row(3, 1, "failed", error="RuntimeError: no"),
    Row(4, None, "failed", error="OSError: no"),
]


@pytest.mark.parametrize("seed", range(8))
def test_images_without_an_answer_may_be_anything(seed):
    """Six images, of which one failed, one could not be read and one was not looked at."""
    found, draw = study(ROWS, 6), torch.Generator().manual_seed(seed)
    labels = torch.tensor([0, 0, 1, 1, *torch.randint(0, 2, (2,), generator=draw).tolist()])
    rest = torch.rand(3, generator=draw, dtype=torch.float64) * 2 * (torch.rand(3, generator=draw) < 0.7)
    d = torch.cat([torch.tensor([0.0, 0.4, 0.2 + 0.05 * seed], dtype=torch.float64), rest])
    size = torch.cat([torch.tensor([1.0, 2.0, 1.0]), 0.1 + torch.rand(3, generator=draw)]).double()
    for part, mine in ((found, d >= 0), (found.classes()[0], labels == 0), (found.classes()[1], labels == 1)):
        if not bool((d[mine] > 0).any()):
            continue
        robust, fooled, relative, eps = exact_measures(d[mine], size[mine])
        curve, fooling = part.curve(RADII), part.fooling_curve(RADII.tolist())
        assert holds(curve.low, robust, curve.high) and holds(fooling.low, fooled, fooling.high)
        for ends, exact in ((part.rho1(), relative), (part.eps_99(), eps)):
            assert ends[0] <= exact + 1e-12 and exact <= ends[1]
        right = float((d[mine] > 0).double().mean())
        assert part.accuracy()[0] <= right <= part.accuracy()[1]


def test_numbers_of_a_small_study():
    found = study(ROWS, 6)
    assert found.rho2() == pytest.approx(rho2(torch.tensor([0.5, 0.3])))
    assert found.rho1() == (pytest.approx((0.4 / 2 + 0.2) / 5), math.inf) and found.eps_99() == (0.4, math.inf)
    assert found.certified(0.3) == (1 / 6, 5 / 6) and found.fooling_ratio(0.4) == (1 / 5, 1.0)
    assert found.accuracy() == (2 / 6, 5 / 6)
    assert {y: part.images for y, part in found.per_class().items()} == {0: 4, 1: 4}
    assert found.curve().radii.tolist() == [0.0, 0.2, 0.4, 0.6]
    with pytest.raises(cl.ClinchError, match="no radius"):
        found.fooling_ratio()
    wrong = study(ROWS[:1], 1)
    assert wrong.measures() == {"accuracy": (0.0, 0.0), "rho1": None, "rho2": None, "eps_99": None}
    with pytest.raises(cl.ClinchError, match="nothing to measure"):
        wrong.fooling_ratio(0.1)


def test_curves_of_many_distances_are_thinned_out():
    rows = [Row(i, 0, "closed", (i + 1) / 2000, (i + 1) / 2001, size=1.0) for i in range(2000)]
    curve = study(rows, 2000).curve()
    assert len(curve.radii) == POINTS and curve.radii[0] == 0 and curve.radii[-1] == 1.0
    assert curve.low[0] == 1.0 and curve.high[-1] == 0.0
    assert torch.all(curve.low.diff() <= 0) and torch.all(curve.high.diff() <= 0) and torch.all(curve.low <= curve.high)


def test_a_study_has_every_measure():
    net = cl.load(network(), input_shape=(8, 8))
    found = evaluate(net, eps=0.06, limit=40, time_limit=30)
    low, high = found.interval
    assert found.certified(0.06) == (low, high)
    assert all(float(a) == b for a, b in zip(found.curve([0.06])[1:], (low, high)))
    attacked, correct = found.tally.counts["attacked"], 40 - found.tally.counts["misclassified"]
    assert found.fooling_ratio()[0] == attacked / correct <= found.fooling_ratio()[1]
    x, y = digits()
    radius = cl.attacks.first_order_radius(net, x[:40], y[:40])
    assert found.rho2() == pytest.approx(rho2(radius))
    assert [row.size for row in found.rows] == pytest.approx(x[:40].flatten(1).abs().amax(1).tolist())
    content = found.to_dict()
    assert content["measures"]["fooling_ratio"] == found.fooling_ratio()
    assert set(content["per_class"][3]) == {"images", "counts", *content["measures"]}
    for text in ("fooled ", "rho1 at least", "rho2", "eps 99 %"):
        assert text in str(found)
