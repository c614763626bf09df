"""Windows through residual sums, and rows in float32: the same limits, up to an allowance that is always enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import clinch as cl
from clinch.bounds import centred, patches, refine, rows
from clinch.bounds.crown import activation_bounds
from clinch.bounds.demand import demand
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.ops.base import Interval, Relaxation

pytestmark = pytest.mark.table

Limits = dict[int, Interval]


class Residual(nn.Module):
    """Two convolutions with batch norm and a shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        shortcut = [nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)] if stride > 1 else []
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return (self.shortcut(x) - self.second(self.first(x))).relu()


class Joined(nn.Module):
    """Part of an image beside what is pooled and widened again, as in a U-Net."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.AvgPool2d(2), nn.ConvTranspose2d(3, 4, 2, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        up = nn.functional.pad(self.up(self.down(x)).relu(), (-1, 2))
        joined = torch.cat([x[:, :2, 1:], up], 1)
        return joined[:, [3, 0, 5]]


class Shuffled(nn.Module):
    """Channels in another order, as people write it, and a convolution of each by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Conv2d(4, 4, 3, 2, 1, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, x[:, :1]], 1)
        x = x.view(-1, 2, 2, *x.shape[2:]).transpose(1, 2).reshape(x.shape)
        return self.each(x)[:, :3]


class Gated(nn.Module):
    """An image times another made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x).sigmoid()


def residual(seed: int = 0, scale: float = 1.0, pool: nn.Module | None = None) -> nn.Module:
    """A small residual network in float64; every other convolution ``scale`` times as large, the next as much less."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), Residual(3, 3, 1),
        nn.AvgPool2d(2, 1) if pool is None else pool, Residual(3, 4, 2), nn.BatchNorm2d(4), nn.LeakyReLU(0.1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ).double().eval()  # fmt: skip
    factor = scale
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean = 0.3 * torch.randn_like(part.running_mean)  # type: ignore[arg-type]
            part.running_var = 0.5 + torch.rand_like(part.running_var)  # type: ignore[arg-type]
            part.weight.data.uniform_(0.5, 1.5)
            part.bias.data.normal_(0, 0.2)
        if isinstance(part, nn.Conv2d):
            part.weight.data *= factor
            factor = 1 / factor
    return model


def setting(seed: int = 0, p: float = math.inf, **chosen) -> tuple[Graph, Region]:
    net = cl.load(residual(seed, **chosen), input_shape=(2, 9, 9))
    x = torch.randn(2, 2, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return net.graph, cl.bounds.ball(x, 0.05 if p == math.inf else 0.3, p)


def by_rows(m: pytest.MonkeyPatch, graph: Graph, region: Region) -> Limits:
    with m.context() as c:
        c.setattr(refine, "patch_bounds", lambda *arguments: False)
        c.setattr(patches, "HEAVY", 2**60)
        return activation_bounds(graph, region)


def in_single(m: pytest.MonkeyPatch, graph: Graph, region: Region) -> Limits:
    with m.context() as c:
        c.setattr(patches, "HEAVY", 0)
        return activation_bounds(graph, region)


@pytest.mark.parametrize("tile", [1, 2, 4])
@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_windows_pass_sums_scales_and_pools(p: float, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, region = setting(p=p)
    plain = by_rows(monkeypatch, graph, region)
    used: list[bool] = []
    patch_bounds = patches.patch_bounds
    monkeypatch.setattr(refine, "patch_bounds", lambda *a: used.append(patch_bounds(*a)) or used[-1])
    monkeypatch.setattr(patches, "TILES", (tile,))
    found = activation_bounds(graph, region)
    assert any(used)
    for j, limits in plain.items():
        for a, b in zip(limits, found[j]):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


OTHERS = [
    nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, 1, dilation=2), nn.ConstantPad2d((1, 0, 2, 1), 0.3), nn.Sigmoid(),
    nn.GELU(), nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.Upsample(scale_factor=2),
    nn.ZeroPad2d((-2, 1, 0, -1)),
    nn.ConvTranspose2d(3, 3, 3, 2, 1, 1), nn.ConvTranspose2d(3, 3, (2, 4), (1, 3), (0, 2), dilation=(3, 1)),
    Joined(), Gated(), Shuffled(),
]  # fmt: skip


@pytest.mark.parametrize("pool", OTHERS, ids=lambda pool: type(pool).__name__)
def test_other_layers_are_passed_by_windows_or_as_a_whole(pool: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    for part in pool.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            part.reset_parameters()
    graph, region = setting(pool=pool)
    plain, found = by_rows(monkeypatch, graph, region), activation_bounds(graph, region)
    for j, limits in plain.items():
        for a, b in zip(limits, found[j]):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=0)
    for plainly, singly in side_by_side(graph, region):
        assert bool((singly.lower <= plainly.lower + 1e-12).all() and (singly.upper >= plainly.upper - 1e-12).all())
    compare_screened(monkeypatch, graph, region)


def side_by_side(graph: Graph, region: Region) -> Iterator[tuple[Interval, Interval]]:
    """CROWN's limits of all elements of every node that is read, by one relaxation: in float64, and in float32."""
    read = activation_bounds(graph, region)
    limits = {0: Interval(region.lower, region.upper)}
    made: dict[int, Relaxation] = {}
    for i, node in enumerate(graph.nodes[1:], 1):
        inputs = [limits[j] for j in node.inputs]
        made[i], limits[i] = graph.relax(i, inputs), graph.interval(i, inputs)
        if i not in read:
            continue
        every = torch.ones(region.size, node.size, dtype=torch.bool)
        around = centred.Centred(graph, region, dict(limits))
        walk = patches._Walk.of(graph, i, region, made, around, every, 2)
        found = []
        for dtype in (torch.float64, torch.float32):
            sides = (limits[i].lower.flatten(1).clone(), limits[i].upper.flatten(1).clone())
            walk.write(patches.Elements.of(every), sides, lambda: False, dtype)
            found.append(Interval(*sides))
        yield found[0], found[1]
        limits[i] = read[i]


def compare_screened(m: pytest.MonkeyPatch, graph: Graph, region: Region) -> None:
    """Of what ReLUs read the same signs and, where they are open, the same limits; all limits hold.

    But for a few elements that intervals bound better than CROWN: those start from wider sides of decided ones.
    """
    plain, found = by_rows(m, graph, region), in_single(m, graph, region)
    share = torch.rand(30, *region.lower.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share[::2] = share[::2].round()
    for ball in region.balls or [None]:
        points = region.lower + share * (region.upper - region.lower)
        if ball is not None:
            far = torch.stack([ball.distance(x) for x in points]) / ball.radius
            points = ball.center + (points - ball.center) / far.clamp(min=1).reshape(*far.shape, 1, 1, 1)
        for x in points:
            for j, value in graph.forward(x, found).items():
                assert bool((found[j].lower <= value + 1e-12).all() and (value <= found[j].upper + 1e-12).all())
    for j, (lower, upper) in plain.items():
        is_open = (found[j].lower < 0) & (found[j].upper > 0)
        if demand(graph, j).at_zero:
            assert torch.equal(is_open, (lower < 0) & (upper > 0))
        wider = ((found[j].upper - found[j].lower) / (upper - lower))[is_open]
        assert not len(wider) or float(wider.mean()) < 1.01


# --- float32 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e-7])
@pytest.mark.parametrize("p", [2.0, math.inf])
def test_float32_never_passes_float64_and_hardly_falls_short(p: float, scale: float) -> None:
    short = []
    for seed in range(2):
        graph, region = setting(seed, p, scale=scale)
        for plainly, singly in side_by_side(graph, region):
            width = (plainly.upper - plainly.lower).clamp(min=1e-300)
            below, above = (plainly.lower - singly.lower) / width, (singly.upper - plainly.upper) / width
            # float64 rounds too
            assert bool((below >= -1e-12).all() and (above >= -1e-12).all())
            short.append(torch.cat([below.flatten(), above.flatten()]))
    assert len(torch.cat(short)) > 1000
    assert 0 < float(torch.cat(short).max()) < 1e-3


def test_without_the_allowance_float32_does_pass_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above is worth."""
    graph, region = setting()
    monkeypatch.setattr("clinch.bounds.way_back.weigh", lambda rows, sizes: rows.new_zeros(rows.shape[:2]))
    monkeypatch.setattr("clinch.bounds.way_back.gamma", lambda count: 0.0)
    pairs = list(side_by_side(graph, region))
    assert any(bool((singly.lower > plainly.lower + 1e-9).any()) for plainly, singly in pairs)


def deep_and_cancelling(seed: int) -> nn.Module:
    """Ten convolutions whose kernels nearly cancel: pairs of channels that differ in the seventh digit."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for k in range(10):
        convolution = nn.Conv2d(4 if k else 1, 4, 3, padding=1)
        weight = convolution.weight.data
        weight[:, 1::2] = -weight[:, 0 : weight.shape[1] - 1 : 2] * (1 + 1e-7)
        weight *= 10.0 ** (k % 3 - 1)
        layers += [convolution, nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 25, 2)).double().eval()


@pytest.mark.parametrize("seed", range(3))
def test_cancellation_spoils_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net = cl.load(deep_and_cancelling(seed), input_shape=(1, 5, 5))
    x = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    compare_screened(monkeypatch, net.graph, cl.bounds.ball(x, 0.1, math.inf))


def test_fewer_digits_than_float32_are_noticed() -> None:
    graph, region = setting()
    known = activation_bounds(graph, region)
    assert centred.Centred(graph, region, known).single
    assert not centred.Centred(graph, region).single
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert not centred.Centred(graph, region, known).single
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_one_side_in_float32_decides_what_both_in_float64_do(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, region = setting(p=p)
    carried: list[tuple[torch.dtype, int]] = []
    write = patches._Walk.write

    def noting(self, elements, limits, stop, dtype) -> Tensor:
        carried.append((dtype, len(elements.place)))
        return write(self, elements, limits, stop, dtype)

    monkeypatch.setattr(patches._Walk, "write", noting)
    compare_screened(monkeypatch, graph, region)
    count = {dtype: sum(n for kind, n in carried if kind == dtype) for dtype in (torch.float32, torch.float64)}
    # what is open in the end comes twice again
    assert 0 < count[torch.float64] < 2 * count[torch.float32]


class Steps(nn.Module):
    """A convolution behind steps, as in binary networks: what intervals say of it no row betters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(1, 2, 3).double(), nn.Conv2d(2, 2, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.max_pool2d(self.second((self.first(x).sign() + 0.1).sign()), 2).sign().flatten(1)


def test_rows_that_float32_carries_in_vain_are_not_carried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = cl.load(Steps().eval(), input_shape=(1, 10, 10)).graph
    x = torch.rand(1, 1, 10, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    region, left, screened = cl.bounds.ball(x, 2.0, math.inf), [], patches.screened

    def noting(graph: Graph, j: int, open_: Tensor, *others) -> Tensor:
        left.append((int(open_.sum()), int((remaining := screened(graph, j, open_, *others)).sum())))
        return remaining

    plain = by_rows(monkeypatch, graph, region)
    monkeypatch.setattr(refine, "screened", noting)
    found = in_single(monkeypatch, graph, region)
    before, after = map(sum, zip(*left))
    assert before > 50 and after < before / 4
    for j, limits in plain.items():
        for a, b in zip(limits, found[j]):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


class OfPart(nn.Module):
    """Channels of the input, the rest of which is read elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Conv2d(2, 3, 3, 2, 1), nn.Conv2d(3, 3, 3, padding=1), nn.Linear(75, 2)

    def forward(self, x: Tensor) -> Tensor:
        z = self.second(self.first(x[:, 1:]).relu()).relu()
        return self.out(z.flatten(1)) + x[:, 0, :2, 0]


@pytest.mark.parametrize("p", [1.0, 2.0, math.inf])
def test_windows_end_on_the_part_of_the_input_that_is_read(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = cl.load(OfPart().double().eval(), input_shape=(3, 10, 10))
    region = cl.bounds.ball(torch.rand(2, 3, 10, 10, dtype=torch.float64), 0.1 if p == math.inf else 0.5, p)
    plain, ends, end = by_rows(monkeypatch, net.graph, region), [], patches._end
    monkeypatch.setattr(patches, "_end", lambda graph, j: ends.append(end(graph, j)) or ends[-1])
    found = activation_bounds(net.graph, region)
    assert ends and all(net.graph.nodes[i].shape == (2, 10, 10) for i in ends)
    for j, limits in plain.items():
        for a, b in zip(limits, found[j]):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


def test_what_is_read_twice_is_no_end() -> None:
    twice = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(1, 1, 3)).eval()
    graph = cl.load(twice, input_shape=(1, 4, 4)).graph
    assert patches._end(graph, graph.output) == 0


# --- all elements of a layer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [cl.bounds.crown, cl.bounds.interval, cl.bounds.fast_dual])
def test_all_elements_need_no_matrix_of_their_number_squared(
    bound: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    net = cl.load(residual(), input_shape=(2, 9, 9))
    region = cl.bounds.ball(torch.rand(2, 2, 9, 9, dtype=torch.float64), 0.05, math.inf)
    layer = net.layers[4]
    size = net.graph.nodes[net.position(layer)].size
    eye = bound(net, region, torch.eye(size, dtype=torch.float64), layer=layer)
    made: list[int] = []
    unit_forms = rows.unit_forms
    monkeypatch.setattr(rows, "UNIT_BLOCK", 10 * size)
    monkeypatch.setattr(rows, "unit_forms", lambda *a: (made.append(forms.count) or forms for forms in unit_forms(*a)))
    torch.testing.assert_close(bound(net, region, layer=layer), eye)
    if bound is cl.bounds.crown:
        assert made == []  # windows know their elements
    else:
        assert max(made) == 10 and sum(made) == size
