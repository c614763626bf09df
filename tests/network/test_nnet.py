"""``.nnet`` files: the normalisation is part of the network, and mistakes are named with their line."""

import numpy as np
import pytest
import torch

import clinch as cl
from clinch.errors import NetworkError

MEAN, RANGE = np.array([1.0, -2.0]), np.array([2.0, 4.0])
MEAN_OUT, RANGE_OUT = 7.5, 3.0
W1, B1 = np.array([[1.0, -1.0], [0.5, 2.0], [-1.5, 0.25]]), np.array([0.1, -0.2, 0.3])
W2, B2 = np.array([[1.0, 2.0, -1.0]]), np.array([0.5])


def text():
    def row(values):
        return ",".join(f"{v!r}" for v in np.asarray(values, float).tolist()) + ",\n"

    lines = ["// a network\n", "// of a test\n", "2,2,1,3,\n", "2,3,1,\n", "0,\n", row([-9, -9]), row([9, 9])]
    lines += [row([*MEAN, MEAN_OUT]), row([*RANGE, RANGE_OUT])]
    for weight, bias in ((W1, B1), (W2, B2)):
        lines += [row(w) for w in weight] + [row([b]) for b in bias]
    return lines


def expected(x):
    hidden = np.maximum(((x - MEAN) / RANGE) @ W1.T + B1, 0)
    return RANGE_OUT * (hidden @ W2.T + B2) + MEAN_OUT


def test_a_network_computes_in_the_units_of_its_inputs_and_outputs(tmp_path):
    (tmp_path / "small.nnet").write_text("".join(text()))
    net = cl.load(tmp_path / "small.nnet")
    assert net.name == "small" and net.input_shape == (2,)
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = net.graph.forward(x, [net.graph.output])[net.graph.output]
    np.testing.assert_allclose(found.numpy(), expected(x.numpy()), rtol=1e-12)
    solution = cl.Problem(cl.Maximize(net.output[0]), [net.input.between(-1, 1)]).solve(time_limit=10)
    corners = np.array([[a, b] for a in np.linspace(-1, 1, 41) for b in np.linspace(-1, 1, 41)])
    assert expected(corners).max() <= solution.bound + 1e-9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "ends where biases of layer 2"),
        (lambda lines: [*lines[:9], "1.0,\n", *lines[10:]], "line 10: weights of layer 1 should stand here, 2 numbers"),
        (lambda lines: [*lines[:9], "1.0,x,\n", *lines[10:]], "line 10: weights"),
        (lambda lines: [*lines[:3], "2,3,2,\n", *lines[4:]], "for 2 inputs and 1 outputs"),
        (lambda lines: [*lines[:8], "0,1,1,\n", *lines[9:]], "a range is 0"),
        (lambda lines: [*lines[:2], "9999,2,1,3\n", *lines[3:]], "9999 layers"),
        (lambda lines: [], "ends where layers"),
    ],
)
def test_mistakes_are_named(tmp_path, change, message):
    (tmp_path / "bad.nnet").write_text("".join(change(text())))
    with pytest.raises(NetworkError, match=message):
        cl.load(tmp_path / "bad.nnet")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NetworkError, match="There is no file"):
        cl.load(tmp_path / "no.nnet")
