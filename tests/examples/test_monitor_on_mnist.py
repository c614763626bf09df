"""The main job on real images: the nearest MNIST image that keeps its class while the monitor objects."""

from __future__ import annotations

import pytest
import torch

import clinch as cl
from clinch.applications.monitors import BoxMonitor, predicted
from clinch.io.data import DataError, mnist, model_file

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def job():
    try:
        net = cl.load(str(model_file("mnist_small.onnx")))
        train, test = mnist("train").x, mnist("test").x
    except DataError as reason:
        pytest.skip(f"needs MNIST and mnist_small: {reason}")
    layer = [name for name in net.layers if "relu" in name.lower()][1]
    return net, BoxMonitor.fit(net, layer, train), test


@pytest.mark.parametrize("p", [2, cl.inf])
@pytest.mark.parametrize("image", [1, 7])
def test_value_and_bound_on_an_image(job, image, p):
    net, monitor, images = job
    x0 = images[image]
    label = int(predicted(net, x0.unsqueeze(0))[0])
    conditions = [net.input >= 0, net.input <= 1, net.output.argmax(margin=1e-3) == label, monitor.outside(net, label)]
    solution = cl.Problem(cl.Minimize(cl.norm(net.input - x0, p)), conditions).solve(time_limit=20)
    assert 0 < solution.bound <= solution.value
    x = solution.x.unsqueeze(0)
    assert float(x.min()) >= 0 and float(x.max()) <= 1
    assert int(predicted(net, x)[0]) == label
    # this float32 evaluation is another one than onnxruntime's, which the point was checked with: it rounds differently
    for dtype, rounding in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
        h = net.graph_as(dtype, "cpu").forward(x.to(dtype), [net.position(monitor.layer)])[net.position(monitor.layer)]
        # in units of the margin: the monitor objects where some neuron is out by one margin
        assert float(monitor.excess(h, torch.tensor([label])).max()) >= 1 - rounding
    assert float(torch.linalg.vector_norm((x[0] - x0).double(), p)) == pytest.approx(solution.value, rel=1e-6)
