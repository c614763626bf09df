"""Proofs for float32 as it runs: no order of summation leaves what the widened bounds allow; what may is unknown."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import clinch as cl
from clinch.certificates import SavedProof, certify
from clinch.certificates.float32 import running_in_float32
from clinch.certificates.layer_list import layer_list
from clinch.checker.layers import Refused, as_float32, read_layers
from clinch.checker.lines import Box
from clinch.checker.rigorous import Relaxation, interval
from clinch.errors import CertificateError


def dense(seed, *sizes):
    torch.manual_seed(seed)
    layers = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def layers_of(model, shape):
    return read_layers(*layer_list(cl.load(model, input_shape=shape).graph))


def summed(terms, rng, fused):
    """A float32 sum of products in a random order, left to right or in a tree; fused: products are not rounded."""
    order = rng.permutation(len(terms[0]))
    a, b = (t[order].astype(np.float32) for t in terms)
    if fused:
        total = np.float32(0)
        for x, y in zip(a, b):
            total = np.float32(np.float64(x) * np.float64(y) + np.float64(total))
        return total
    parts = [np.float32(x * y) for x, y in zip(a, b)]
    while len(parts) > 1:
        k = int(rng.integers(0, len(parts) - 1))
        parts[k : k + 2] = [np.float32(parts[k] + parts[k + 1])]
    return parts[0]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_summation_stays_inside_the_limits(seed, fused):
    model, rng = dense(seed, 6, 9, 9, 2), np.random.default_rng(seed)
    layers = as_float32(layers_of(model, (6,)))
    for _ in range(8):
        x = rng.uniform(-2, 2, 6).astype(np.float32)
        limits = [Box(x[None].astype(np.float64), x[None].astype(np.float64))]
        for layer in layers[1:]:
            limits.append(interval(layer, [limits[j] for j in layer.inputs]))
        h = x
        for module in model:
            if isinstance(module, nn.ReLU):
                h = np.maximum(h, 0)
            else:
                w, b = module.weight.detach().numpy(), module.bias.detach().numpy()
                ones = np.append(h, np.float32(1))
                h = np.array([summed((np.append(row, c), ones), rng, fused) for row, c in zip(w, b)], np.float32)
        assert (limits[-1].lower[0] <= h).all() and (h <= limits[-1].upper[0]).all()
        # and not by being useless
        assert (limits[-1].upper - limits[-1].lower).max() < 1e-3


def test_lines_allow_for_float32_as_limits_do():
    """The backward pass over a box is nowhere above what a point in it gives with the errors of every layer."""
    layers = layers_of(dense(4, 3, 8, 2), (3,))
    box = Box(np.full((1, 3), -0.5), np.full((1, 3), 0.5))
    rows = {len(layers) - 1: np.eye(2)[None]}
    exact, rounded = (
        Relaxation(some, box, []).lower(rows, np.zeros((1, 1)), np.zeros((1, 1)))
        for some in (layers, as_float32(layers))
    )  # fmt: skip
    assert (rounded < exact).all() and (exact - rounded < 1e-3).all()


def cancelling():
    """Adds a million to its input and takes it away again: in float32 the input's low bits are lost."""
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    with torch.no_grad():
        for layer, bias in zip(model, (2.0**22, -(2.0**22))):
            layer.weight.fill_(1.0)
            layer.bias.fill_(bias)
    return model.eval()


def test_a_network_that_computes_otherwise_in_float32_is_not_proven_there():
    """As in the backdoors of arXiv 2506.01054: in real numbers the output is the input."""
    net = cl.load(cancelling(), input_shape=(1,))
    query = cl.Problem(cl.Minimize(0), [net.input.between(0.1, 0.2), net.output[0] >= 0.21]).query
    nothing = torch.tensor([torch.inf], dtype=torch.float64)
    (real,) = certify(query, nothing, time_limit=5)
    (rounded,) = certify(query, nothing, time_limit=5, float32=True)
    assert isinstance(real, SavedProof) and isinstance(rounded, CertificateError)
    # it is: 0.15 becomes 0
    with torch.no_grad():
        assert float(cancelling()(torch.tensor([[0.15]]))) != pytest.approx(0.15, abs=0.01)


def test_an_ordinary_proof_holds_in_float32_too():
    net = cl.load(dense(0, 3, 8, 8, 2), input_shape=(3,))
    solution = cl.Problem(cl.Minimize(net.output[0]), [net.input.between(-1, 1)]).solve(10, gap=1e-4)
    least = float(solution.bound) - 0.01
    query = cl.Problem(cl.Minimize(0), [net.input.between(-1, 1), net.output[0] <= least]).query
    (proof,) = certify(query, torch.tensor([torch.inf], dtype=torch.float64), time_limit=20, float32=True)
    assert isinstance(proof, SavedProof)
    assert proof.report.rounding > 1e-8


@pytest.mark.parametrize("bent", [nn.Sigmoid(), nn.LeakyReLU(0.1)])
def test_layers_whose_rounding_is_not_known_are_refused(bent):
    with pytest.raises(Refused, match="not known"):
        as_float32(layers_of(nn.Sequential(nn.Linear(2, 3), bent, nn.Linear(3, 1)).eval(), (2,)))


def test_sums_that_may_overflow_are_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.fill_(1e38)
    box = Box(np.full((1, 2), -10.0), np.full((1, 2), 10.0))
    with pytest.raises(Refused, match="overflow"):
        running_in_float32(layers_of(model.eval(), (2,)), box)
