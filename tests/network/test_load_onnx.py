"""ONNX files: every operator of the reader against onnxruntime, names, shape arithmetic, and what is refused."""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn

from clinch.bounds.interval import interval_bounds
from clinch.errors import NetworkError, UnsupportedOperator
from clinch.geometry.region import Region
from clinch.io.data import data_folder
from clinch.modeling.model import load
from clinch.network.fold import fold
from clinch.network.network import Network
from clinch.network.original import OriginalFile

DATA = data_folder()
MODELS = sorted((DATA.parent / "models").glob("*.onnx"))
COMPETITION = sorted((DATA / "vnncomp").glob("*/onnx/*.onnx.gz"))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def model(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str | None],
    constants: dict[str, Any] | None = None,
    *,
    opset: int = 17,
    kind: int = TensorProto.FLOAT,
    output: str = "y",
) -> ModelProto:
    """A file with input x, output y, and constants as initialisers."""
    initialisers = [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()]
    graph = helper.make_graph(
        nodes, "test", [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(output, kind, None)], initialisers,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def single(
    kind: str, shape: Sequence[int], constants: dict[str, Any] | None = None, opset: int = 17, **attributes: Any
):
    """A file of one node whose further inputs are constants, in order; ``""`` leaves one out."""
    constants = constants or {}
    node = helper.make_node(
        kind, ["x", *(n if v is not None else "" for n, v in constants.items())], ["y"], **attributes
    )
    return model([node], ["batch", *shape], {n: v for n, v in constants.items() if v is not None}, opset=opset)


def inputs(network: Network, count: int = 4) -> torch.Tensor:
    return torch.randn(count, *network.input_shape, generator=torch.Generator().manual_seed(1)).to(network.dtype)


def check(network: Network, count: int = 4, tolerance: float = 1e-4) -> None:
    """All layers agree with onnxruntime, and folding changes nothing."""
    x = inputs(network, count)
    graph = network.graph_as(torch.float64, "cpu")
    values = graph.forward(x.double(), range(len(graph.nodes)))
    found = network.original(x, network.layers)
    for layer, value in found.items():
        expected = values[network.position(layer)]
        scale = 1 + float(expected.abs().max())
        torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=tolerance * scale)
    folded, _ = fold(graph)
    torch.testing.assert_close(folded.forward(x.double())[folded.output], values[graph.output], rtol=1e-9, atol=1e-9)


i64 = lambda *v: np.array(v, dtype=np.int64)  # noqa: E731
f32 = lambda *v: np.array(v, dtype=np.float32)  # noqa: E731
BATCH_NORM = {"s": normal(3), "b": normal(3, seed=1), "m": normal(3, seed=2), "v": np.abs(normal(3, seed=3)) + 0.5}

SINGLE = {
    "Gemm": single("Gemm", [4], {"w": normal(3, 4), "b": normal(3)}, transB=1, alpha=0.5, beta=2.0),
    "Gemm 2d bias": single("Gemm", [4], {"w": normal(4, 3), "b": normal(1, 3)}),
    "Gemm no bias": single("Gemm", [4], {"w": normal(4, 3)}),
    "MatMul": single("MatMul", [2, 4], {"w": normal(4, 3)}),
    "MatMul vector": single("MatMul", [2, 4], {"w": normal(4)}),
    "Conv": single(
        "Conv", [2, 6, 5], {"w": normal(4, 1, 3, 2), "b": normal(4)}, group=2, pads=[1, 0, 1, 0], strides=[2, 1]
    ),
    "Conv lopsided": single("Conv", [2, 6, 5], {"w": normal(3, 2, 3, 3)}, pads=[0, 1, 1, 2], dilations=[1, 2]),
    "Conv same": single("Conv", [2, 6, 5], {"w": normal(3, 2, 2, 4)}, auto_pad="SAME_UPPER", strides=[2, 2]),
    "Conv same lower": single("Conv", [2, 7], {"w": normal(3, 2, 4)}, auto_pad="SAME_LOWER"),
    "Conv valid": single("Conv", [2, 7], {"w": normal(3, 2, 4)}, auto_pad="VALID"),
    "ConvTranspose": single(
        "ConvTranspose", [2, 4, 4], {"w": normal(2, 3, 3, 3), "b": normal(3)}, strides=[2, 2], pads=[1, 1, 1, 1],
        output_padding=[1, 0],
    ),
    "BatchNormalization": single("BatchNormalization", [3, 2, 2], BATCH_NORM, epsilon=1e-3),
    "BatchNormalization 9": single("BatchNormalization", [3, 2, 2], BATCH_NORM, opset=9),
    "MaxPool": single("MaxPool", [2, 6, 6], kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    "MaxPool ceil": single("MaxPool", [2, 6, 6], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "MaxPool line": single("MaxPool", [2, 9], kernel_shape=[3], dilations=[2]),
    "GlobalMaxPool": single("GlobalMaxPool", [2, 3, 4]),
    "AveragePool": single("AveragePool", [2, 6, 6], kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0]),
    "AveragePool counted": single(
        "AveragePool", [2, 6, 6], kernel_shape=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1
    ),
    "GlobalAveragePool": single("GlobalAveragePool", [2, 3, 4]),
    "ReduceMean": single("ReduceMean", [2, 3, 4], axes=[2, -1], keepdims=0),
    "ReduceMean 18": single("ReduceMean", [2, 3, 4], {"axes": i64(1)}, opset=18),
    "ReduceSum": single("ReduceSum", [2, 3], {"axes": i64(-1)}, keepdims=0),
    "Flatten": single("Flatten", [2, 3]),
    "Flatten axis": single("Flatten", [1, 2, 3], axis=2),
    "Reshape": single("Reshape", [2, 6], {"s": i64(-1, 3, 4)}),
    "Reshape zeros": single("Reshape", [2, 6], {"s": i64(0, 0, 3, -1)}),
    "Transpose": single("Transpose", [2, 3, 4], perm=[0, 3, 1, 2]),
    "Squeeze": single("Squeeze", [1, 3, 1], {"a": i64(1, -1)}),
    "Squeeze 11": single("Squeeze", [1, 3, 1], opset=11, axes=[1, 3]),
    "Unsqueeze": single("Unsqueeze", [3], {"a": i64(1, 3)}),
    "Slice": single("Slice", [6, 5], {"b": i64(1, -1), "e": i64(5, -6), "a": i64(1, 2), "s": i64(2, -2)}),
    "Slice 9": single("Slice", [6], opset=9, starts=[1], ends=[100], axes=[1]),
    "Gather": single("Gather", [6, 2], {"i": i64(4, -1, 4)}, axis=1),
    "Gather one": single("Gather", [6, 2], {"i": np.array(3, dtype=np.int64)}, axis=1),
    "Pad": single("Pad", [2, 3], {"p": i64(0, 1, 0, 0, 0, 2), "v": np.float32(0.5)}),
    "Pad axes": single("Pad", [2, 3], {"p": i64(1, 2), "v": None, "a": i64(-1)}, opset=18),
    "Pad 10": single("Pad", [2, 3], opset=10, pads=[0, 1, 0, 0, 0, 2], value=-1.0),
    "Pad edge": single("Pad", [2, 3, 3], {"p": i64(0, 0, 1, 1, 0, 0, 0, 2)}, mode="edge"),
    "Sub": single("Sub", [3, 2, 2], {"c": normal(3, 1, 1)}),
    "Sub batch of one": single("Sub", [3, 2], {"c": normal(1, 3, 2)}),
    "Div": single("Div", [3], {"c": f32(0.5, 2, 4)}),
    "Mul widening": single("Mul", [3, 1], {"c": normal(2)}),
    "Neg": single("Neg", [3]),
    "Sum": single("Sum", [3], {"c": normal(3), "d": normal(1, 3)}),
    "Relu": single("Relu", [3]),
    "LeakyRelu": single("LeakyRelu", [3], alpha=0.2),
    "Clip": single("Clip", [3], {"l": np.float32(-0.5), "h": np.float32(0.25)}),
    "Clip 6": single("Clip", [3], opset=6 + 1, min=-0.5, max=0.25),
    "Clip above": single("Clip", [3], {"l": None, "h": np.float32(0.25)}),
    "Sigmoid": single("Sigmoid", [3]),
    "Tanh": single("Tanh", [3]),
    "Softmax": single("Softmax", [3, 2], axis=1),
    "Softmax 11": single("Softmax", [3], opset=11),
    "LogSoftmax": single("LogSoftmax", [3]),
    "Gelu": single("Gelu", [3], opset=20, approximate="tanh"),
    "LayerNormalization": single("LayerNormalization", [2, 3], {"s": normal(3), "b": normal(3)}, axis=-1),
    "Identity": single("Identity", [3]),
}  # fmt: skip


@pytest.mark.parametrize("name", SINGLE)
def test_operators_agree_with_onnxruntime(name: str):
    network = load(SINGLE[name])
    check(network)
    assert not network.original.by_row  # type: ignore[attr-defined]


def node(kind: str, sources: str, result: str, name: str = "", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, sources.split(), [result], name, **attributes)


def test_convolutional_file_with_everything_exporters_write():
    """Normalisation, a residual sum, shape arithmetic before a reshape, a constant node, dropout, a split."""
    constants = {
        "mean": normal(1, 2, 1, 1), "std": np.abs(normal(1, 2, 1, 1, seed=4)) + 0.5, "w": normal(2, 2, 3, 3, seed=5),
        "zero": i64(0), "minus": i64(-1), "fc": normal(18, 6, seed=6), "bias": normal(6, seed=7), "axis0": i64(0),
    }  # fmt: skip
    nodes = [
        node("Sub", "x mean", "centred", "sub"),
        node("Div", "centred std", "scaled", "div"),
        node("Conv", "scaled w", "c", "conv", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r", "relu"),
        node("Add", "r scaled", "added", ""),
        node("AveragePool", "added", "p", "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Shape", "p", "shape"),
        node("Gather", "shape zero", "size"),
        node("Concat", "size minus", "target", axis=0),
        node("Reshape", "p target", "flat", "flatten"),
        node("Dropout", "flat", "dropped", "drop"),
        node("MatMul", "dropped fc", "m", "matmul"),
        node("Constant", "", "unit", value=numpy_helper.from_array(f32(1.0, 2, 3, 4, 5, 6))),
        node("Add", "m unit", "a", "bias1"),
        node("Add", "bias a", "b", "bias2"),
        helper.make_node("Split", ["b"], ["left", "right"], "split", axis=1),
        node("Sigmoid", "left", "s"),
        node("Tanh", "right", "t"),
        node("Concat", "t s", "y", "join", axis=1),
    ]
    nodes[12].ClearField("input")
    network = load(model(nodes, ["n", 2, 6, 6], constants, opset=13))
    assert network.layers == [
        "x", "sub", "div", "conv", "relu", "added", "pool", "flatten", "matmul", "bias1", "bias2", "left", "right", "s",
        "t", "join",
    ]  # fmt: skip
    assert network.position("p") == network.position("pool")
    assert network.position("drop") == network.position("flatten")
    assert network.position("y") == network.graph.output
    add = network.graph.nodes[network.position("added")]
    assert add.inputs == (network.position("relu"), network.position("div"))
    assert add.source == "ONNX node Add"
    check(network)
    folded, _ = fold(network.graph_as(torch.float64, "cpu"))
    labels = [n.op.label for n in folded.nodes]
    assert labels.count("Dense") == 1
    assert labels[:4] == ["Input", "Scale", "Convolution", "ReLU"]


def test_a_batch_of_one_is_run_row_by_row():
    nodes = [node("Reshape", "x s", "flat"), node("Gemm", "flat w", "y")]
    fixed = load(model(nodes, [1, 2, 3], {"s": i64(1, 6), "w": normal(6, 4)}))
    assert isinstance(fixed.original, OriginalFile)
    assert fixed.original.by_row
    check(fixed, 5)
    free_but_fixed_inside = load(model(nodes, ["n", 2, 3], {"s": i64(1, 6), "w": normal(6, 4)}))
    check(free_but_fixed_inside, 5)
    assert free_but_fixed_inside.original.by_row  # type: ignore[attr-defined]


def test_sessions_are_kept():
    network = load(SINGLE["Relu"])
    original = network.original
    assert isinstance(original, OriginalFile)
    original(inputs(network), ["x", "y"])
    before = dict(original._sessions)
    original(inputs(network, 7), ["y"])
    assert original._sessions == before


def test_double_precision_and_free_shapes():
    network = load(model([node("Relu", "x", "y", "act")], ["n", None], kind=TensorProto.DOUBLE), (5,), name="mine")
    assert network.dtype == torch.float64
    assert network.input_shape == (5,)
    assert network.name == "mine"
    assert network.original(inputs(network), ["act"])["act"].dtype == torch.float64


def test_paths_and_compressed_files(tmp_path: Path):
    content = SINGLE["Gemm"].SerializeToString()
    (tmp_path / "net.onnx").write_bytes(content)
    with gzip.open(tmp_path / "net.onnx.gz", "wb") as stream:
        stream.write(content)
    for path in (tmp_path / "net.onnx", str(tmp_path / "net.onnx.gz")):
        network = load(path)
        assert network.name == "net"
        check(network)


# --- refused ---------------------------------------------------------------------------------------------------------


def test_unreadable_files(tmp_path: Path):
    with pytest.raises(NetworkError, match=r"There is no file .*absent\.onnx"):
        load(tmp_path / "absent.onnx")
    for name in ("bad.onnx", "bad.onnx.gz"):
        (tmp_path / name).write_bytes(b"this is not a model")
        with pytest.raises(NetworkError, match="not a readable ONNX file"):
            load(tmp_path / name)
    (tmp_path / "lfs.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(NetworkError, match="pointer of Git LFS"):
        load(tmp_path / "lfs.onnx")
    with pytest.raises(NetworkError, match=r"net\.pt' is a pickle"):
        load(tmp_path / "net.pt")


RELU = [node("Relu", "x", "y")]
REFUSED = {
    "no function": (single("StringNormalizer", [3]), UnsupportedOperator, r"'y'.*StringNormalizer cannot be .*other"),
    "no batch, no shape": (model(RELU, []), NetworkError, r"single number"),
    "open shape": (model(RELU, ["n", "m"]), NetworkError, r"leaves its shape open.*input_shape="),
    "whole numbers": (model(RELU, ["n", 3], kind=TensorProto.INT64), NetworkError, "does not hold real numbers"),
    "old": (model(RELU, ["n", 3], opset=6), NetworkError, "opset 6.*7 or later"),
    "not finite": (single("Add", [3], {"c": f32(1, np.nan, 2)}), NetworkError, "NaN or infinite"),
    "constant": (model([node("Relu", "c", "y")], ["n", 3], {"c": normal(1, 3)}), NetworkError, "does not depend"),
    "several at once": (
        model(
            [node("RandomNormalLike", "x", "r"), node("Relu", "r", "h"), node("Multinomial", "h", "m"),
             node("Cast", "m", "k", to=1), node("Add", "x k", "y")], ["n", 3],
        ),
        UnsupportedOperator, "2 layers of test cannot be read: .*RandomNormalLike.*Multinomial",
    ),
    "batch mixed": (single("Softmax", [3], axis=0), UnsupportedOperator, "along the batch"),
    "random": (
        model([node("RandomNormalLike", "x", "r"), node("Add", "x r", "y")], ["n", 3]),
        UnsupportedOperator, "RandomNormal",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_files(name: str):
    proto, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message) as caught:
        load(proto)
    assert "\n" not in str(caught.value)


def test_another_shape_than_the_files_is_refused():
    with pytest.raises(NetworkError, match=r"\(3,\) without the batch, not \(4,\)"):
        load(SINGLE["Relu"], (4,))


def test_weights_among_the_inputs_are_no_inputs():
    proto = ModelProto()
    proto.CopyFrom(SINGLE["Gemm"])
    proto.graph.input.add().CopyFrom(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 4]))
    assert load(proto).layers == ["x", "y"]


# --- real files ------------------------------------------------------------------------------------------------------

needs_models = pytest.mark.skipif(not MODELS, reason=f"no reference networks beside {DATA} (set CLINCH_DATA)")
needs_competition = pytest.mark.skipif(not COMPETITION, reason=f"no VNN-COMP networks under {DATA} (set CLINCH_DATA)")

POOLS = {"mnist_lenet5": nn.AvgPool2d, "mnist_lenet5_published": nn.MaxPool2d}
#: name -> stride and padding of each convolution
CONVOLUTIONS = {
    "mnist_cnn": [(1, 1), (2, 1), (1, 1), (2, 1)], "mnist_lenet5": [(1, 2), (1, 0)],
    "mnist_lenet5_published": [(1, 2), (1, 0)], "mnist_adrgd_clean": [(1, 0)] * 3, "mnist_adrgd_pgd": [(1, 0)] * 3,
    "mnist_wk17a_linf0.1": [(2, 1), (2, 1)],
}  # fmt: skip


def sequential(name: str) -> nn.Sequential:
    """The module that a state dict of plain ``INDEX.weight`` keys belongs to."""
    from safetensors.torch import load_file

    state = load_file(DATA.parent / "models" / f"{name}.safetensors")
    indices = sorted({int(key.split(".")[0]) for key in state})
    strides = iter(CONVOLUTIONS.get(name, []))
    layers: list[nn.Module] = []
    for index in indices:
        weight = state[f"{index}.weight"]
        if weight.dim() == 4:
            stride, padding = next(strides)
            size = weight.shape[2]
            new = [nn.Conv2d(weight.shape[1], weight.shape[0], size, stride, padding), nn.ReLU()]
            new += [POOLS[name](2)] if name in POOLS else []
        else:
            flat = not any(isinstance(layer, nn.Flatten) for layer in layers)
            new = [nn.Flatten()] * flat + [nn.Linear(weight.shape[1], weight.shape[0]), nn.ReLU()]
        layers += new
    module = nn.Sequential(*layers[:-1])
    module.load_state_dict(state)
    return module.eval()


@pytest.mark.data
@needs_models
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_reference_networks(path: Path):
    """File, state dict and onnxruntime agree, layer by layer in the exporter's order."""
    network = load(path)
    check(network, 3)
    module = load(sequential(path.stem), (1, 28, 28))
    assert [n.op.label for n in network.graph.nodes] == [n.op.label for n in module.graph.nodes]
    x = inputs(network, 3).double()
    ours, theirs = (n.graph_as(torch.float64, "cpu").forward(x, range(len(n.layers))) for n in (network, module))
    for i in range(len(network.layers)):
        torch.testing.assert_close(ours[i], theirs[i], rtol=1e-12, atol=1e-12)
    numbers = [int(re.findall(r"\d+", name)[0]) for name in network.layers[1:]]
    assert [str(n) for n in numbers] == module.layers[1:]


@pytest.mark.parametrize("order", ["c x", "x c", "x c x"])
def test_constants_stand_beside_activations(order):
    """A class token in front of an image's patches is a Concat of a constant."""
    nodes = [node("Concat", order, "y", "join", axis=1)]
    network = load(model(nodes, ["n", 2, 3], {"c": np.full((1, 1, 3), 0.5, np.float32)}))
    check(network, 4)
    x = torch.rand(4, 2, 3)
    c = torch.full((4, 1, 3), 0.5)
    expected = torch.cat([{"x": x, "c": c}[name] for name in order.split()], 1)
    assert torch.equal(network.graph.forward(x)[network.graph.output], expected)
    limits = interval_bounds(network.graph_as(torch.float64, "cpu"), Region(x[:1].double() - 1, x[:1].double() + 1))
    least, most = (t[0] for t in limits[network.graph.output])
    near = torch.cat([{"x": x[:1] + 0.9, "c": c[:1]}[name] for name in order.split()], 1)[0]
    assert bool((least <= near).all() and (near <= most).all()) and bool((least == most).any())


@pytest.mark.data
@needs_competition
@pytest.mark.parametrize("path", COMPETITION[:3] + COMPETITION[-3:], ids=lambda p: p.name)
def test_competition_networks(path: Path):
    network = load(path)
    check(network, 2, 1e-3)
    assert len(network.graph.nodes) > 5
