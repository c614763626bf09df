"""Box monitors: the limits they learn, and the constraints they give."""

import pytest
import torch

import clinch
from clinch.applications.monitors import BoxMonitor, activations, predicted
from clinch.demo import SHAPE, digits, network
from clinch.errors import ClinchError, ProblemError, ShapeError, UnknownLayer


@pytest.fixture(scope="module")
def net():
    return clinch.load(network(), input_shape=SHAPE)


@pytest.fixture(scope="module")
def monitor(net):
    return BoxMonitor.fit(net, "relu2", digits("train").x)


def test_limits_are_the_extremes_over_the_inputs_predicted_as_the_class(net, monitor):
    x = digits("train").x
    with torch.no_grad():
        h, z = network()[:5](x), network()(x)
    for c in range(10):
        rows = h[z.argmax(1) == c].double()
        assert torch.allclose(monitor.lower[c], rows.amin(0), atol=1e-5)
        assert torch.allclose(monitor.upper[c], rows.amax(0), atol=1e-5)
    width = monitor.upper - monitor.lower
    assert torch.equal(monitor.margin, torch.clamp(0.01 * width, min=1e-3))
    assert bool((monitor.margin > 1e-3).any()) and bool((monitor.margin == 1e-3).any())


def test_every_training_input_is_accepted(net, monitor):
    x = digits("train").x
    (h,) = activations(net, x, "relu2")
    assert float(monitor.excess(h, predicted(net, x)).max()) <= 0


def test_constraints_say_what_excess_says(net, monitor):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(200, *SHAPE, generator=generator)
    (h,) = activations(net, x, "relu2")
    objective, range_ = clinch.Minimize(net.output[0]), [net.input >= 0, net.input <= 1]
    excess = monitor.excess(h, 3).flatten(1).amax(1)
    outside = clinch.Problem(objective, [*range_, monitor.outside(net, 3)]).query
    inside = clinch.Problem(objective, [*range_, monitor.inside(net, 3)]).query
    for row, points in ((excess >= 1, outside), (excess <= 0, inside)):
        violation = torch.cat([points.violation(points.evaluate(p[None].double())[1]) for p in x])
        clear = (violation.abs() > 1e-4) & ((excess - 1).abs() > 1e-3) & (excess.abs() > 1e-3)
        assert bool((row[clear] == (violation[clear] <= 0)).all())
    assert 0 < int((excess >= 1).sum()) < 200


def test_a_batch_of_classes_gives_each_problem_its_own_box(net, monitor):
    query = clinch.Problem(
        clinch.Minimize(net.output[0]), [net.input >= 0, net.input <= 1, monitor.outside(net, torch.tensor([3, 8]))]
    ).query
    x = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    (h,) = activations(net, x, "relu2")
    margins = monitor.margin[[3, 8]]
    expected = ((1 - monitor.excess(h, torch.tensor([3, 8]))) * margins).amin(1)
    assert torch.allclose(query.violation(query.evaluate(x.double())[1]), expected, atol=1e-4)


def test_mistakes_are_typed(net, monitor):
    x = digits("train").x
    with pytest.raises(UnknownLayer, match="relu2"):
        BoxMonitor.fit(net, "relu9", x)
    with pytest.raises(ShapeError, match="expected"):
        BoxMonitor.fit(net, "relu2", x.flatten(1))
    with pytest.raises(ProblemError, match="No training input"):
        BoxMonitor.fit(net, "relu2", x[:1])
    for c in (-1, 10):
        with pytest.raises(ClinchError, match="not among"):
            monitor.outside(net, c)
