"""Each function of one number is read from its module, its functional, tensor-method and ONNX spelling as the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from torch.nn import functional

from clinch.bounds import box, crown, interval
from clinch.network.load import load
from clinch.network.network import Network
from clinch.network.support import supports

#: the label of the layer that bends, its spellings in torch, and its ONNX node with its opset and attributes
SPELLINGS: dict[str, tuple[str, list[Callable[[Tensor], Tensor]], tuple[str, dict] | None]] = {
    "abs": ("Abs", [torch.abs, Tensor.abs], ("Abs", {})),
    "asinh": ("Asinh", [torch.asinh, torch.arcsinh], ("Asinh", {})),
    "atan": ("Atan", [torch.atan, Tensor.arctan], ("Atan", {})),
    "ceil": ("Ceil", [torch.ceil], ("Ceil", {})),
    "celu": ("ELU", [nn.CELU(2.0), lambda x: functional.celu(x, 2.0)], ("Celu", {"alpha": 2.0})),
    "cos": ("Cos", [torch.cos, Tensor.cos], ("Cos", {})),
    "cosh": ("Cosh", [torch.cosh], ("Cosh", {})),
    "elu": ("ELU", [nn.ELU(0.5), lambda x: functional.elu(x, 0.5)], ("Elu", {"alpha": 0.5})),
    "erf": ("Erf", [torch.erf, torch.special.erf, Tensor.erf], ("Erf", {})),
    "exp": ("Exp", [torch.exp, Tensor.exp], ("Exp", {})),
    "expm1": ("Expm1", [torch.expm1, torch.special.expm1], None),
    "floor": ("Floor", [torch.floor], ("Floor", {})),
    "gelu": ("GELU", [nn.GELU(), functional.gelu], ("Gelu", {})),
    "gelu tanh": ("GELU", [nn.GELU("tanh")], ("Gelu", {"approximate": "tanh"})),
    "hardshrink": (
        "PiecewiseLinear", [nn.Hardshrink(), functional.hardshrink, torch.hardshrink], ("Shrink", {"lambd": 0.5})),
    "hardsigmoid": ("ReLU", [nn.Hardsigmoid(), functional.hardsigmoid], ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5})),
    "hardswish": ("Hardswish", [nn.Hardswish(), functional.hardswish], ("HardSwish", {})),
    "hardtanh": ("ReLU", [nn.Hardtanh(), functional.hardtanh, lambda x: x.clamp(-1, 1)], None),
    "leaky": ("LeakyReLU", [nn.LeakyReLU(0.1), lambda x: functional.leaky_relu(x, 0.1)], ("LeakyRelu", {"alpha": 0.1})),
    "leaky downwards": ("LeakyReLU", [nn.LeakyReLU(-0.5)], ("LeakyRelu", {"alpha": -0.5})),
    "leaky upwards": ("LeakyReLU", [nn.LeakyReLU(2.0)], ("LeakyRelu", {"alpha": 2.0})),
    "log": ("Log", [lambda x: torch.log(x.abs() + 1), lambda x: (x.abs() + 1).log()], None),
    "log1p": ("Log1p", [lambda x: torch.log1p(x.abs())], None),
    "log sigmoid": ("LogSigmoid", [nn.LogSigmoid(), functional.logsigmoid], None),
    "mish": ("Mish", [nn.Mish(), functional.mish], ("Mish", {})),
    "power": ("Power", [lambda x: x**3, lambda x: torch.pow(x, 3)], None),
    "power of a number": ("Exp", [lambda x: 2**x, lambda x: torch.pow(2.0, x)], None),
    "prelu": ("LeakyReLU", [nn.PReLU(init=0.3)], None),
    "prelu by channel": ("ReLU", [nn.PReLU(4)], None),
    "reciprocal": ("Reciprocal", [lambda x: 1 / (x.abs() + 1), lambda x: torch.reciprocal(x.abs() + 1)], None),
    "relu6": ("ReLU", [nn.ReLU6(), functional.relu6], None),
    "round": ("Round", [torch.round], ("Round", {})),
    "rrelu": ("LeakyReLU", [nn.RReLU().eval()], None),
    "rsqrt": ("Power", [lambda x: torch.rsqrt(x.abs() + 1)], None),
    "selu": ("ELU", [nn.SELU(), functional.selu, torch.selu], ("Selu", {})),
    "shrink": ("PiecewiseLinear", [], ("Shrink", {"lambd": 1.0, "bias": 0.25})),
    "sigmoid": ("Sigmoid", [nn.Sigmoid(), torch.sigmoid, Tensor.sigmoid], ("Sigmoid", {})),
    "sign": ("Sign", [torch.sign, Tensor.sgn], ("Sign", {})),
    "silu": ("SiLU", [nn.SiLU(), functional.silu], None),
    "silu by hand": ("SiLU", [lambda x: x * torch.sigmoid(x), lambda x: x / (1 + (-x).exp())], None),
    "gelu by hand": ("GELU", [lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5))], None),
    "gelu in another order": ("GELU", [lambda x: (x * ((x * 0.5**0.5).erf() + 1)) * 0.5], None),
    "mish by hand": ("Mish", [lambda x: x * torch.tanh(functional.softplus(x))], None),
    "sin": ("Sin", [torch.sin, Tensor.sin], ("Sin", {})),
    "sinh": ("Sinh", [torch.sinh], ("Sinh", {})),
    "softplus": ("Softplus", [nn.Softplus(2.0), lambda x: functional.softplus(x, 2.0)], ("Softplus", {})),
    "softshrink": ("ReLU", [nn.Softshrink(), functional.softshrink], ("Shrink", {"lambd": 0.5, "bias": 0.5})),
    "softsign": ("Softsign", [nn.Softsign(), functional.softsign], ("Softsign", {})),
    "sqrt": ("Sqrt", [lambda x: torch.sqrt(x.abs()), lambda x: x.abs() ** 0.5], None),
    "square": ("Power", [torch.square, lambda x: x**2, lambda x: x * x], None),
    "tanh": ("Tanh", [nn.Tanh(), torch.tanh, Tensor.tanh], ("Tanh", {})),
    "tanhshrink": ("Tanhshrink", [nn.Tanhshrink(), functional.tanhshrink], None),
    "threshold": ("PiecewiseLinear", [nn.Threshold(0.5, 2.0), lambda x: functional.threshold(x, 0.5, 2.0)], None),
    "threshold without a jump": ("ReLU", [nn.Threshold(0.5, 0.5)], None),
    "thresholded relu": ("PiecewiseLinear", [], ("ThresholdedRelu", {"alpha": 0.5})),
}  # fmt: skip
SHAPE = (4,)


def module(spellings: list[Callable[[Tensor], Tensor]]) -> nn.Module:
    """All spellings of a function beside each other."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
            self.modules_of = nn.ModuleList([f for f in spellings if isinstance(f, nn.Module)])

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.last(function(self.first(x))) for function in spellings], 1)

    return Net().double().eval()


def check(network: Network, label: str, count: int = 1) -> None:
    """So many layers have that label, every layer has rules, and bounds hold."""
    rows = supports(network)
    assert [row.operator for row in rows].count(label) >= count
    assert [row.name for row in rows if not (row.interval and row.relaxation)] == []
    x = torch.rand(2000, *network.input_shape, dtype=torch.float64) * 4 - 2
    region = box(x.amin(0, keepdim=True), x.amax(0, keepdim=True))
    y = network.graph_as(torch.float64, "cpu").forward(x)[network.graph.output]
    by_interval, by_crown = interval(network, region), crown(network, region)
    assert bool((by_interval <= y.amin(0) + 1e-6).all())
    assert bool((by_crown <= y.amin(0) + 1e-6).all())
    assert bool(torch.isfinite(by_crown).all())


@pytest.mark.parametrize("name", [name for name, (_, torch_ones, _) in SPELLINGS.items() if torch_ones])
def test_torch_spellings(name: str):
    label, spellings, _ = SPELLINGS[name]
    check(load(module(spellings), SHAPE), label, len(spellings))


@pytest.mark.parametrize("name", [name for name, (_, _, node) in SPELLINGS.items() if node])
def test_onnx_spellings(name: str):
    label, _, node = SPELLINGS[name]
    assert node is not None
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, [None, 4]) for end in ("x", "y")]
    graph = helper.make_graph([helper.make_node(node[0], ["x"], ["y"], **node[1])], "net", ends[:1], ends[1:])
    check(load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)), label)


def test_slopes_by_channel_are_exact_where_signs_are_known():
    net = nn.PReLU(3)
    net.weight.data = torch.tensor([0.25, -0.5, 2.0])
    network = load(net.eval().double(), (3,))
    x = torch.tensor([[1.0, 1.0, 1.0], [-2.0, -2.0, -2.0]]).double()
    expected = net(x).detach()
    assert np.allclose(interval(network, box(x, x)), expected)


def test_what_is_no_such_function_stays_what_it_is():
    """Two activations, constants that differ from element to element, and products of other functions."""

    class Others(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mixed = x * torch.sigmoid(x.flip(1))
            by_place = x * torch.sigmoid(x * torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=x.dtype))
            # the square of a clamp is the square of x as far as one cares to look
            return mixed + by_place + x.sin() * x.cos() + x * x.clamp(-1e3, 1e3)

    labels = [row.operator for row in supports(load(Others().double().eval(), SHAPE))]
    assert labels.count("Multiply") == 4
