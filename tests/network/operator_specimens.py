"""One or more specimens of every operator: what the conformance tests run through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

import clinch.network.ops  # reads every operator family
from clinch.network.graph import Input
from clinch.network.ops.add import Add, Subtract
from clinch.network.ops.average_pool import AdaptiveAveragePool, AveragePool, Reduce
from clinch.network.ops.base import Operator
from clinch.network.ops.bilinear import MatrixProduct, Multiply
from clinch.network.ops.convolution import Convolution, TransposedConvolution
from clinch.network.ops.dense import Dense, SparseDense
from clinch.network.ops.einsum import Contraction, Einsum
from clinch.network.ops.forest import Forest
from clinch.network.ops.hull import Hull
from clinch.network.ops.layout import FRONT, Layout
from clinch.network.ops.lazy import Lazy, RowFunction, Slot
from clinch.network.ops.linear_function import LinearFunction
from clinch.network.ops.masks import Inside, Masked
from clinch.network.ops.max_pool import MaxPool, WindowTap
from clinch.network.ops.normalisation import Centre, GroupNorm, LayerNorm, RMSNorm, Variance
from clinch.network.ops.piecewise import Ceil, Floor, Round
from clinch.network.ops.rearrange import Rearrange
from clinch.network.ops.relu import LeakyReLU
from clinch.network.ops.repeat import Repeat
from clinch.network.ops.scale import Scale
from clinch.network.ops.select import Concatenate, Pad, Slice, Take
from clinch.network.ops.shape import Expand, Reshape, Transpose
from clinch.network.ops.softmax import Differences, LogSoftmax, LogSumExp, MaskedSoftmax, Shares, Softmax
from clinch.network.ops.torch_function import TorchFunction
from clinch.network.ops.whole import ArgMax, WholeFunction
from clinch.network.ops.within import Within

from .scalar_functions import FUNCTIONS, REFERENCES

Shape = tuple[int, ...]
LOWER = torch.ones(3, 3).tril().bool()


@dataclass(frozen=True)
class Specimen:
    """An operator, the shapes of its inputs, the same function written with torch alone, and what inputs it takes."""

    op: Operator
    shapes: tuple[Shape, ...]
    reference: Callable[..., Tensor]
    within: tuple[float, float] = (-torch.inf, torch.inf)

    def __str__(self) -> str:
        return f"{type(self.op).__name__}{self.shapes}"


def leaf_operators() -> set[type[Operator]]:
    """Every operator of the package that nothing else is derived from."""

    def below(kind: type[Operator]) -> set[type[Operator]]:
        children = [c for c in kind.__subclasses__() if c.__module__.startswith("clinch.")]
        return {kind} if not children else set().union(*(below(child) for child in children))

    return below(Operator)


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _convolutions() -> list[Specimen]:
    cases = [
        (nn.Conv2d(3, 4, 3, stride=2, padding=1), (3, 7, 6)),
        (nn.Conv2d(4, 6, (2, 3), stride=(1, 2), padding=(0, 1), dilation=(2, 1), groups=2), (4, 6, 7)),
        (nn.Conv2d(2, 2, 3, stride=3, bias=False), (2, 8, 8)),
        (nn.Conv1d(2, 3, 4, stride=2, padding=2), (2, 9)),
    ]
    found = []
    for module, shape in cases:
        module = module.double()
        bias = None if module.bias is None else module.bias.detach()
        numbers = (module.stride, module.padding, module.dilation, module.groups)
        found.append(Specimen(Convolution(module.weight.detach(), bias, *numbers), (shape,), module))
    weight, bias_map = _random(2, 1, 2, 2, seed=1), _random(2, 3, 3, seed=2)
    op = Convolution(weight, bias_map, (1, 1), (0, 0), (1, 1), 1)
    found.append(Specimen(op, ((1, 4, 4),), lambda x: functional.conv2d(x, weight) + bias_map))
    for module, shape in (
        (nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1, groups=2), (4, 3, 4)),
        (nn.ConvTranspose1d(2, 3, 3, stride=3, output_padding=2), (2, 4)),
    ):
        module = module.double()
        numbers = (module.stride, module.padding, module.dilation, module.groups)
        assert module.bias is not None
        op = TransposedConvolution(module.weight.detach(), module.bias.detach(), *numbers, module.output_padding)
        found.append(Specimen(op, (shape,), module))
    return found


def _pools() -> list[Specimen]:
    two, one = ((0, 0), (0, 0)), (1, 1)
    padded = MaxPool((3, 2), (2, 2), ((1, 1), (1, 1)), one)
    ceil = MaxPool((3, 3), (2, 2), two, one, ceil_mode=True)
    lopsided = MaxPool((2, 2), (1, 1), ((0, 1), (1, 0)), one)
    line = MaxPool((3,), (1,), ((1, 1),), (2,))
    tapped = lambda x: functional.pad(x, (1, 1, 1, 1))[:, :, 1::2, ::2][:, :, :3, :4]  # noqa: E731
    return [
        Specimen(MaxPool((2, 2), (2, 2), two, one), ((2, 4, 6),), nn.MaxPool2d(2)),
        Specimen(padded, ((2, 6, 7),), nn.MaxPool2d((3, 2), 2, (1, 1))),
        Specimen(ceil, ((1, 6, 6),), nn.MaxPool2d(3, 2, ceil_mode=True)),
        Specimen(
            lopsided,
            ((2, 3, 3),),
            lambda x: functional.max_pool2d(functional.pad(x, (1, 0, 0, 1), value=-torch.inf), 2, 1),
        ),
        Specimen(line, ((2, 8),), nn.MaxPool1d(3, 1, 1, 2)),
        Specimen(WindowTap(padded, 2, (2, 6, 7)), ((2, 6, 7),), tapped),
        Specimen(AveragePool((2, 2), (2, 2), (0, 0)), ((2, 4, 6),), nn.AvgPool2d(2)),
        Specimen(
            AveragePool((3, 2), (2, 1), (1, 0), True, False),
            ((2, 6, 4),),
            nn.AvgPool2d((3, 2), (2, 1), (1, 0), True, False),
        ),
        Specimen(AveragePool((3,), (2,), (1,)), ((2, 7),), nn.AvgPool1d(3, 2, 1)),
        Specimen(AdaptiveAveragePool((2, 3)), ((2, 5, 7),), nn.AdaptiveAvgPool2d((2, 3))),
        Specimen(Reduce((1, 2), True, 1 / 12), ((2, 3, 4),), nn.AdaptiveAvgPool2d(1)),
        Specimen(Reduce((0,), False), ((2, 3),), lambda x: x.sum(1)),
    ]


def by_hand(forest: Forest, x: torch.Tensor) -> torch.Tensor:
    """Each input from the root of each tree down to a leaf."""
    rows = []
    for one in x:
        total = forest.base.clone()
        for feature, threshold, values in zip(forest.feature, forest.threshold, forest.values):
            node = 0
            while node < len(feature):
                node = 2 * node + (1 if one[feature[node]] <= threshold[node] else 2)
            total = total + values[node - len(feature)]
        rows.append(total)
    return torch.stack(rows)


def specimens() -> list[Specimen]:
    """All specimens, in float64."""
    weight, bias = _random(4, 5, seed=3), _random(4, seed=4)
    few = torch.where(_random(4, 5, seed=20) > 0.7, weight, 0.0)
    norm = nn.BatchNorm2d(3).double().eval()
    norm.running_mean, norm.running_var = _random(3, seed=5), _random(3, seed=6).exp()
    scale = 1 / torch.sqrt(norm.running_var + norm.eps)
    per_channel = Scale(scale.reshape(3, 1, 1), (-norm.running_mean * scale).reshape(3, 1, 1))
    wide = _random(3, 4, seed=7)
    layer_norm = nn.LayerNorm((3, 4)).double()
    layer_norm.weight.data = _random(3, 4, seed=8)
    scaled, shift = _random(4, seed=9), _random(4, seed=10)
    indices = torch.tensor([2, 0, 2])
    total = Lazy(torch.sum, (Slot(0), 1), {})
    rows = RowFunction("cosine of sums", Lazy(torch.cos, (total,), {}), ((1, 2, 3),), (3,))
    tangent = TorchFunction("aten.tan", Lazy(torch.tan, (Slot(0),), {}), ((4,),), (FRONT,))
    turned = Lazy(torch.matmul, (Slot(0), torch.eye(2, dtype=torch.float64) * 2), {})
    second = TorchFunction("batch second", turned, ((3, 2),), (Layout(1),), Layout(1))
    cut = [Lazy(torch.trunc, (Slot(k),), {}) for k in (0, 1)]
    whole = RowFunction("product", Lazy(torch.cat, ([Lazy(torch.mul, tuple(cut), {})] * 2,), {}), ((1,), (1,)), (2,))
    mixed = TorchFunction("aten.diff", Lazy(torch.diff, (Slot(0),), {}), ((2, 5),), (FRONT,))
    moving = Lazy(torch.cat, ([Slot(0), Slot(1)], 1), {})
    moved = TorchFunction("aten.cat", moving, ((2, 3), (1, 3)), (FRONT, FRONT))
    places = torch.randint(3, (2, 3), generator=torch.Generator().manual_seed(5))
    forest = Forest(places, _random(2, 3, seed=30), _random(2, 4, 2, seed=31), _random(2, seed=32))
    return [
        Specimen(Input(), ((2, 3),), lambda x: x),
        Specimen(Dense(weight, bias), ((5,),), lambda x: functional.linear(x, weight, bias)),
        Specimen(Dense(weight), ((3, 5),), lambda x: x @ weight.T),
        Specimen(SparseDense.of(few.to_sparse(), bias), ((5,),), lambda x: functional.linear(x, few, bias)),
        Specimen(SparseDense.of(few.to_sparse()), ((3, 5),), lambda x: x @ few.T),
        Specimen(per_channel, ((3, 2, 2),), norm),
        Specimen(Scale(None, wide), ((3, 1),), lambda x: x + wide),
        Specimen(Scale(torch.tensor(-2.0, dtype=torch.float64)), ((3,),), lambda x: -2 * x),
        Specimen(Add(), ((2, 3), (2, 3)), lambda x, y: x + y),
        Specimen(Add(), ((2, 3), (2, 1)), lambda x, y: x + y),
        Specimen(Subtract(), ((1, 3), (2, 3)), lambda x, y: x - y),
        Specimen(LeakyReLU(), ((2, 3),), nn.ReLU()),
        Specimen(LeakyReLU(0.1), ((4,),), nn.LeakyReLU(0.1)),
        Specimen(LeakyReLU(-1.0), ((4,),), torch.abs),
        Specimen(LeakyReLU(-0.5), ((4,),), lambda x: x.relu() + 0.5 * (-x).relu()),
        Specimen(Floor(), ((4,),), torch.floor),
        Specimen(Hull(), ((4,), (4,)), lambda x, y: (x + y) / 2),
        Specimen(Ceil(), ((4,),), torch.ceil),
        Specimen(Round(), ((4,),), torch.round),
        Specimen(Expand((2, 3, 4)), ((3, 1),), lambda x: x.unsqueeze(1).expand(-1, 2, 3, 4)),
        Specimen(Rearrange("aten.roll", torch.roll, (1, 2), {}), ((2, 3),), lambda x: torch.roll(x, 1, 2)),
        Specimen(Rearrange("aten.cumsum", torch.cumsum, (1,), {}), ((3, 2),), lambda x: x.cumsum(1)),
        Specimen(Reshape((6,)), ((2, 3),), nn.Flatten()),
        Specimen(Transpose((2, 0, 1)), ((2, 3, 4),), lambda x: x.permute(0, 3, 1, 2)),
        Specimen(Concatenate(1), ((2, 3), (2, 1), (2, 2)), lambda *parts: torch.cat(parts, 2)),
        Specimen(Slice(1, 1, 6, 2), ((2, 7),), lambda x: x[:, :, 1:6:2]),
        Specimen(Take(0, indices), ((3, 2),), lambda x: x[:, [2, 0, 2]]),
        Specimen(Pad((1, 2, 0, 1), value=0.5), ((2, 3),), lambda x: functional.pad(x, (1, 2, 0, 1), value=0.5)),
        Specimen(Pad((-1, 2)), ((2, 3),), lambda x: functional.pad(x, (-1, 2))),
        Specimen(Pad((1, 2), "reflect"), ((2, 4),), lambda x: functional.pad(x, (1, 2), "reflect")),
        Specimen(Softmax(0), ((4, 2),), nn.Softmax(1)),
        Specimen(MaskedSoftmax(1, LOWER), ((3, 3),), lambda x: x.masked_fill(~LOWER, -torch.inf).softmax(2)),
        Specimen(LogSoftmax(1), ((2, 4),), nn.LogSoftmax(2)),
        Specimen(LayerNorm(layer_norm.weight.detach(), layer_norm.bias.detach(), 1e-5), ((2, 3, 4),), layer_norm),
        Specimen(LogSumExp((0, 1), True), ((2, 3),), lambda x: x.logsumexp((1, 2), True)),
        Specimen(Differences(0), ((3, 2),), lambda x: x[:, :, None] - x[:, None]),
        Specimen(Shares(0), ((1, 3),), lambda x: x, (1.0, 1.0)),
        Specimen(Masked(LOWER[1]), ((2, 3),), lambda x: x.masked_fill(~LOWER[1], -torch.inf)),
        Specimen(Inside(1e3), ((2, 3),), lambda x: x),
        Specimen(Centre((0, 2)), ((2, 3, 2),), lambda x: x - x.mean((1, 3), keepdim=True)),
        Specimen(RMSNorm(scaled, 1e-3), ((3, 4),), lambda x: functional.rms_norm(x, [4], scaled, 1e-3)),
        Specimen(
            GroupNorm(2, scaled, shift, 1e-3), ((4, 2, 2),), lambda x: functional.group_norm(x, 2, scaled, shift, 1e-3)
        ),
        Specimen(Variance((0, 1), False), ((2, 3, 2),), lambda x: x.var((1, 2))),
        Specimen(Variance((1,), True, 0.0, True), ((2, 3),), lambda x: x.std(2, correction=0, keepdim=True)),
        Specimen(Within(-3.0, 3.0), ((4,),), lambda x: x, (-3.0, 3.0)),
        Specimen(Multiply(), ((2, 3), (2, 3)), lambda x, y: x * y),
        Specimen(Multiply(), ((2, 1, 3), (1, 4, 1)), lambda x, y: x * y),
        Specimen(MatrixProduct(), ((2, 3), (3, 4)), lambda x, y: x @ y),
        Specimen(MatrixProduct(), ((2, 3, 4), (1, 4, 2)), lambda x, y: x @ y),
        Specimen(MatrixProduct(), ((1, 3), (3, 2)), lambda x, y: x @ y),
        Specimen(Einsum("ij,jki->kj"), ((2, 3), (3, 2, 2)), lambda x, y: torch.einsum("bij,bjki->bkj", x, y)),
        Specimen(Einsum("i,j->ij"), ((2,), (1,)), lambda x, y: x[:, :, None] * y[:, None]),
        Specimen(Contraction("ij,jk->ki", weight), ((2, 4),), lambda x: (x @ weight).transpose(1, 2)),
        Specimen(tangent, ((4,),), torch.tan),
        Specimen(second, ((3, 2),), lambda x: 2 * x),
        Specimen(rows, ((2, 3),), lambda x: x.sum(1).cos()),
        Specimen(Repeat((2, 3)), ((2, 3, 2),), lambda x: x.repeat_interleave(2, 2).repeat_interleave(3, 3)),
        Specimen(ArgMax(0), ((4, 2),), lambda x: x.argmax(1, keepdim=True).to(x)),
        Specimen(forest, ((3,),), lambda x: by_hand(forest, x)),
        Specimen(WholeFunction(whole), ((1,), (1,)), lambda x, y: (x.trunc() * y.trunc()).expand(-1, 2)),
        Specimen(LinearFunction(mixed, False), ((2, 5),), torch.diff),
        Specimen(LinearFunction(moved, True), ((2, 3), (1, 3)), lambda x, y: torch.cat([x, y], 1)),
        *(Specimen(op, ((2, 3),), REFERENCES[name], (low, high)) for name, (op, low, high) in FUNCTIONS.items()),
        *_convolutions(),
        *_pools(),
    ]


assert clinch.network.ops.__path__
