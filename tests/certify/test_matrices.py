"""Convolutions that are never unrolled agree with the unrolled matrix, and so do limits from receptive fields."""

import numpy as np
import pytest
import torch

import clinch as cl
from clinch.certificates.layer_list import layer_list
from clinch.checker.layers import Refused, Room, convolution, read_layers
from clinch.checker.matrices import backward, block, forward, magnitude, reads
from clinch.checker.rigorous import Ball, Box, Relaxation

SETTINGS = {
    "plain": ((2, 6, 5), (3, 2, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    "strided": ((2, 7, 6), (3, 2, 3, 2), (2, 3), (1, 0), (1, 1), 1),
    "dilated": ((1, 7, 7), (2, 1, 2, 3), (1, 2), (2, 1), (3, 2), 1),
    "groups": ((4, 5, 5), (6, 2, 3, 3), (1, 1), (1, 1), (1, 1), 2),
    "one dimension": ((3, 9), (2, 3, 4), (2,), (3,), (1,), 1),
    "much padding": ((1, 2, 2), (2, 1, 7, 7), (1, 1), (3, 3), (1, 1), 1),
}


def unrolled(setting, kernel):
    """The matrix that PyTorch's convolution amounts to."""
    shape, _, stride, padding, dilation, groups = setting
    function = torch.conv1d if len(shape) == 2 else torch.conv2d
    unit = torch.eye(int(np.prod(shape)), dtype=torch.float64).reshape(-1, *shape)
    return function(unit, torch.from_numpy(kernel), None, stride, padding, dilation, groups).flatten(1).T.numpy()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_convolution_is_its_unrolled_matrix(name):
    rng = np.random.default_rng(0)
    setting = shape, window, stride, padding, dilation, groups = SETTINGS[name]
    kernel = rng.normal(size=window)
    matrix = unrolled(setting, kernel)
    layer = convolution((0,), shape, kernel, None, list(stride), list(padding), list(dilation), groups, Room(0))
    assert layer.weight.shape == matrix.shape and layer.size == len(matrix)
    h, rows = rng.normal(size=(4, matrix.shape[1])), rng.normal(size=(2, 3, matrix.shape[0]))
    assert np.allclose(forward(layer.weight, h), h @ matrix.T, atol=1e-12)
    assert np.allclose(backward(layer.weight, rows), rows @ matrix, atol=1e-12)
    assert np.allclose(forward(magnitude(layer.weight), abs(h)), abs(h) @ abs(matrix).T, atol=1e-12)
    outputs = np.sort(rng.permutation(len(matrix))[:3])
    inputs = reads(layer.weight, outputs)
    others = np.setdiff1d(np.arange(matrix.shape[1]), inputs)
    assert (matrix[np.ix_(outputs, others)] == 0).all()
    assert (block(layer.weight, outputs, inputs) == matrix[np.ix_(outputs, inputs)]).all()


def test_a_convolution_that_does_not_fit_is_refused():
    kernel = np.ones((2, 1, 3, 3))
    with pytest.raises(Refused, match="groups or extents"):
        convolution((0,), (3, 5, 5), kernel, None, [1, 1], [0, 0], [1, 1], 1, Room(0))
    with pytest.raises(Refused, match="too large"):
        convolution((0,), (1, 40000, 40000), kernel, None, [1, 1], [0, 0], [1, 1], 1, Room(0))
    with pytest.raises(Refused, match="bias"):
        convolution((0,), (1, 5, 5), kernel, np.ones(7), [1, 1], [0, 0], [1, 1], 1, Room(0))


class Residual(torch.nn.Module):
    """Two ways that meet again, with receptive fields of different size."""

    def __init__(self):
        super().__init__()
        self.first, self.second = (torch.nn.Conv2d(a, 3, 3, padding=1) for a in (1, 3))
        self.third, self.last = torch.nn.Conv2d(3, 2, 2, stride=2), torch.nn.Linear(18, 3)

    def forward(self, x):
        h = torch.relu(self.first(x))
        h = torch.relu(h + self.second(h))
        return self.last(torch.nn.functional.leaky_relu(self.third(h), 0.125).flatten(1))


def value(layer, given):
    if layer.kind == "affine":
        return forward(layer.weight, given[0]) + layer.bias
    if layer.kind == "relu":
        return np.maximum(given[0], layer.slope * given[0])
    return sum(given)


@pytest.mark.parametrize("p", [None, 1.0, 2.0])
def test_limits_from_receptive_fields_are_those_of_the_whole_network(p):
    torch.manual_seed(0)
    model = Residual().eval()
    layers = read_layers(*layer_list(cl.load(model, input_shape=(1, 6, 6)).graph))
    rng = np.random.default_rng(0)
    center = rng.random(36)
    box = Box(center[None] - 0.3, center[None] + 0.3)
    balls = [] if p is None else [Ball(center, 0.5, p, np.ones(36))]
    network = Relaxation(layers, box, balls)
    x = rng.uniform(box.lower, box.upper, size=(3000, 36))
    if p is not None:
        moved = rng.uniform(-1, 1, size=(3000, 36)) ** 5
        norm = np.linalg.norm(moved, p, axis=1, keepdims=True)
        x = np.clip(center + 0.4999 * moved / norm, box.lower, box.upper)
    h = [x]
    refined = 0
    for i, layer in enumerate(layers[1:], 1):
        h.append(value(layer, [h[j] for j in layer.inputs]))
        limits = network.limits[i]
        assert (limits.lower <= h[i].min(0) + 1e-9).all() and (h[i].max(0) - 1e-9 <= limits.upper).all()
        if any(later.kind == "relu" and i in later.inputs for later in layers) and (balls or 0 not in layer.inputs):
            # the same rows through the whole network
            unit = np.eye(layer.size)[None]
            whole = network.lower({i: unit}, np.zeros((1, 1)), np.zeros((1, 1)))
            open_ = (limits.lower < 0) & (limits.upper > 0)
            assert np.allclose(np.maximum(whole, limits.lower)[open_], limits.lower[open_], atol=1e-9)
            refined += int(open_.sum())
    assert refined > 10
