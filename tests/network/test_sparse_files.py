"""Matrices that are nearly all zeros, and files whose tensors are large: read sparsely and held once."""

import numpy as np
import pytest
import torch

import clinch as cl
from clinch.network import onnx_choice, onnx_tensors
from clinch.network.fold import fold
from clinch.network.ops.dense import Dense, SparseDense

from .test_onnx_functions import agreeing, node, proto


def sparse(rows, columns, seed):
    rng = np.random.default_rng(seed)
    weight = np.zeros((rows, columns), np.float32)
    for row in weight:
        row[rng.integers(0, columns, 2)] = rng.standard_normal(2)
    return weight


def file_of(kind):
    first = np.random.default_rng(3).standard_normal((4, 40)).astype(np.float32)
    constants = {"w": first, "v": sparse(40, 60, 1), "b": np.ones(60, np.float32), "u": sparse(3, 60, 2)}
    middle = [node("MatMul", "h v", "m"), node("Add", "m b", "s")] if kind == "MatMul" else [node("Gemm", "h v b", "s")]
    nodes = [
        node("MatMul", "x w", "g"), node("Relu", "g", "h"), *middle, node("Relu", "s", "r"),
        node("Gemm", "r u", "y", transB=1),
    ]  # fmt: skip
    return proto(nodes, ["n", 4], constants, opset=13)


@pytest.mark.parametrize("kind", ["MatMul", "Gemm"])
def test_they_are_the_same_network(kind, monkeypatch):
    dense = cl.load(file_of(kind))
    assert {type(n.op) for n in dense.graph.nodes if n.op.label == "Dense"} == {Dense}
    monkeypatch.setattr(onnx_tensors, "LARGE_MATRIX", 100)
    net = cl.load(file_of(kind))
    assert sum(isinstance(n.op, SparseDense) for n in net.graph.nodes) >= 2
    agreeing(net)
    region = cl.bounds.box(torch.full((2, 4), -0.5), torch.tensor([[0.5] * 4, [0.1, 0.9, 0.0, 0.3]]))
    for bound in (cl.bounds.interval, cl.bounds.crown, cl.bounds.alpha_crown):
        assert torch.allclose(bound(net, region), bound(dense, region), rtol=0, atol=1e-9)
    folded = [fold(n.graph_as(torch.float64, "cpu"))[0] for n in (net, dense)]
    assert len(folded[0].nodes) == len(folded[1].nodes)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64, requires_grad=True)
    (ours,), (theirs,) = (torch.autograd.grad(g.forward(x)[g.output].sum(), x) for g in folded)
    assert torch.allclose(ours, theirs, atol=1e-12)


def test_large_tensors_lie_beside_the_model(monkeypatch):
    model = file_of("Gemm")
    before = model.SerializeToString()
    monkeypatch.setattr(onnx_choice, "LARGE_TENSOR", 1000)
    monkeypatch.setattr(onnx_choice, "LARGE_MODEL", 2000)
    net = cl.load(model)
    assert model.SerializeToString() == before
    assert set(net.original.data) == {"v"}
    assert net.original.model.ByteSize() < len(before) / 5
    agreeing(net)
