"""Joined monitors, both kinds of error with their distances, and the table."""

from itertools import pairwise

import pytest
import torch
from torch import nn

import clinch as cl
from clinch.applications.monitors import (
    BoxMonitor,
    JoinedMonitor,
    activations,
    coverage,
    coverage_figure,
    fit_monitor,
    nearest_missed,
    nearest_objection,
    predicted,
)
from clinch.demo import SHAPE, digits, network
from clinch.errors import ClinchError, ProblemError, ShapeError, UnknownLayer
from clinch.figures import save


@pytest.fixture(scope="module")
def net():
    return cl.load(network(), input_shape=SHAPE)


@pytest.fixture(scope="module")
def small():
    """Two inputs, three classes: small enough for a grid of all inputs."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    model[4].weight.data *= 4
    model[4].bias.data -= model(torch.rand(500, 2)).mean(0).detach()  # so that every class occurs
    net = cl.load(model, input_shape=(2,))
    x = torch.rand(400, 2, generator=torch.Generator().manual_seed(0))
    assert len(predicted(net, x).unique()) == 3
    return net, x


def grid(side=301):
    ticks = torch.linspace(0, 1, side)
    return torch.cartesian_prod(ticks, ticks)


MONITORS = [
    {"layers": "3"},
    {"layers": "3", "quantile": 0.05},
    pytest.param({"layers": "3", "boxes": 3, "quantile": 0.05}, marks=pytest.mark.slow),
    pytest.param({"layers": ["1", "3"], "quantile": 0.05}, marks=pytest.mark.slow),
    {"layers": ["1", "3"], "boxes": 2, "quantile": 0.05},
]


@pytest.mark.parametrize("settings", MONITORS, ids=str)
def test_distances_hold_against_a_grid_of_all_inputs(small, settings):
    net, train = small
    monitor = fit_monitor(net, x=train, **settings)
    points, x = grid(), train[:3]
    classes, start = predicted(net, points), predicted(net, x)
    score = monitor.score(net, points, classes)
    z = activations(net, points, net.layers[-1])[0].topk(2).values
    clear = z[:, 0] - z[:, 1] >= 1e-3
    single = settings.get("boxes", 1) == 1
    alarm, missed = (f(net, monitor, x, time_limit=30 if single else 2) for f in (nearest_objection, nearest_missed))
    loose = 0
    for i in range(len(x)):
        distance = (points - x[i]).double().norm(dim=1)
        kinds = ((alarm, (classes == start[i]) & (score >= 1)), (missed, (classes != start[i]) & (score <= 0)))
        for found, wanted in kinds:
            nearest = float(distance[wanted & clear].min()) if bool((wanted & clear).any()) else float("inf")
            assert found.bound[i] <= nearest + 1e-6 and found.bound[i] <= found.value[i]
            if found.value[i].isfinite():
                assert float((found.x[i] - x[i]).double().norm()) == pytest.approx(float(found.value[i]), rel=1e-5)
                loose += int(found.value[i] > nearest * 1.05 + 1e-2)
        for found, same in ((alarm, True), (missed, False)):
            if found.value[i].isfinite():
                at = found.x[i : i + 1]
                end = predicted(net, at)
                assert (int(end) == int(start[i])) == same and int(end) == int(found.end[i])
                reached = float(monitor.score(net, at, end))
                assert reached >= 1 - 1e-3 if same else reached <= 1e-2
    # several boxes are several problems for each class, and get little time each: their points may be farther
    assert loose == 0 or not single


def test_nothing_that_cannot_be_is_proven_away(small):
    """Where the grid holds no such input for a class, the answer must not claim one."""
    net, train = small
    monitor = fit_monitor(net, "3", train)
    found = nearest_missed(net, monitor, train[:3], time_limit=4)
    assert bool((found.bound <= found.value).all()) and bool((found.bound >= 0).all())


# --- fitting -------------------------------------------------------------------------------------------------------


def test_quantiles_leave_their_share_outside(net):
    x = digits("train").x
    monitor = BoxMonitor.fit(net, "relu2", x, quantile=0.05)
    (h,), c = activations(net, x, "relu2"), predicted(net, x)
    rows = h[c == 4]
    below, above = (rows < monitor.lower[4]).double().mean(0), (rows > monitor.upper[4]).double().mean(0)
    assert float(below.max()) <= 0.06 and float(above.max()) <= 0.06 and float(above.max()) > 0.03
    tight = BoxMonitor.fit(net, "relu2", x)
    assert bool((tight.upper >= monitor.upper).all()) and bool((tight.lower <= monitor.lower).all())


def test_more_boxes_accept_less_and_still_every_training_input(net):
    x = digits("train").x
    c = predicted(net, x)
    pixels = torch.rand(2000, *SHAPE, generator=torch.Generator().manual_seed(0))
    noise = torch.cat([pixels, digits("test").x])
    accepted = []
    for boxes in (1, 2, 4):
        monitor = fit_monitor(net, "relu2", x, boxes=boxes)
        assert float(monitor.score(net, x, c).max()) <= 0
        accepted.append(float((monitor.score(net, noise, predicted(net, noise)) <= 0).double().mean()))
    assert all(a > b for a, b in pairwise(accepted))


def test_a_class_with_fewer_activations_than_boxes_has_fewer(small):
    net, train = small
    rare = int(predicted(net, train).bincount().argmin())
    x = torch.cat([train[predicted(net, train) != rare], train[predicted(net, train) == rare][:1]])
    monitor = fit_monitor(net, "3", x, boxes=3)
    assert isinstance(monitor, JoinedMonitor) and len(monitor.parts) == 3
    assert all(torch.equal(part.lower[rare], monitor.parts[0].lower[rare]) for part in monitor.parts)


def test_several_layers_object_where_any_does(net):
    x = digits("train").x
    one, two = (fit_monitor(net, layer, x) for layer in ("relu1", "relu2"))
    both = fit_monitor(net, ["relu1", "relu2"], x)
    noise = torch.rand(300, *SHAPE, generator=torch.Generator().manual_seed(0))
    c = predicted(net, noise)
    assert torch.equal(both.score(net, noise, c), torch.maximum(one.score(net, noise, c), two.score(net, noise, c)))
    assert both.layers == ("relu1", "relu2") and both.classes == 10


# --- the table -----------------------------------------------------------------------------------------------------


def test_the_table_adds_up_and_is_drawn(net, tmp_path):
    monitor = fit_monitor(net, "relu2", digits("train").x)
    x, y = digits("test").x[:6], digits("test").y[:6]
    found = coverage(net, monitor, x, y, time_limit=2)
    assert sum(row.images for row in found.rows[:-1]) == found.rows[-1].images == 6
    assert sum(row.accepted for row in found.rows[:-1]) == found.rows[-1].accepted == int(found.accepted.sum())
    whole = found.rows[-1]
    assert whole.missed is not None and found.missed is not None
    assert whole.missed[1].value == float(found.missed.value.min())
    for row in found.rows:
        for pair in (row.alarm, row.missed):
            for part in pair or ():
                assert part.bound <= part.value
    assert found.markdown().count("\n") == len(found.rows) + 1 and "missed" in str(found)
    path = save(coverage_figure(found, heading="h"), tmp_path / "coverage.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_one_direction_alone(net):
    monitor = fit_monitor(net, "relu2", digits("train").x)
    found = coverage(net, monitor, digits("test").x[:2], misses=False, time_limit=2)
    assert found.missed is None and found.rows[-1].missed is None and "missed" not in str(found)


# --- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"layers": []}, ProblemError, "no layer to watch"),
        ({"layers": "relu9"}, UnknownLayer, "relu9"),
        ({"boxes": 0}, ProblemError, "1 or more"),
        ({"quantile": 0.5}, ProblemError, "below 0.5"),
        ({"relative": -1.0}, ProblemError, "0 or more"),
        ({"absolute": 0.0}, ProblemError, "above 0"),
    ],
)
def test_mistakes_in_a_fit_are_named(net, arguments, error, words):
    with pytest.raises(error, match=words) as caught:
        fit_monitor(net, **{"layers": "relu2", "x": digits("train").x, **arguments})
    assert isinstance(caught.value, ClinchError) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"x": torch.zeros(2, 3)}, ShapeError, "expected"),
        ({"norm": 3}, ProblemError, "cl.inf"),
        ({"time_limit": -1.0}, ProblemError, "zero or more"),
        ({"bounds": (1.0, 0.0)}, ProblemError, "is no range"),
        ({"labels": torch.tensor([1])}, ShapeError, r"expected \(2,\)"),
        ({"labels": torch.tensor([1, 10])}, ProblemError, "0 to 9"),
    ],
)
def test_mistakes_in_a_search_are_named(net, arguments, error, words):
    monitor = fit_monitor(net, "relu2", digits("train").x)
    given = {"x": digits("test").x[:2], **arguments}
    with pytest.raises(error, match=words):
        nearest_missed(net, monitor, **given)
    if "labels" not in arguments:
        with pytest.raises(error, match=words):
            nearest_objection(net, monitor, **given)
    with pytest.raises(error, match=words):
        coverage(net, monitor, **given)


def test_a_table_of_nothing_is_refused(net):
    monitor = fit_monitor(net, "relu2", digits("train").x)
    with pytest.raises(ProblemError, match="Leave one of them True"):
        coverage(net, monitor, digits("test").x[:1], alarms=False, misses=False)
