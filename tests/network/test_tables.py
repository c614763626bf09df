"""Elements of constant tables at whole numbers that depend on the input: by steps, or between the least and largest."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import clinch as cl

TABLE = torch.linspace(-1, 1, 24).sin().view(4, 6)
EACH = torch.arange(4)


def _spline(x: Tensor) -> Tensor:
    """Linear between the entries of a table for each element."""
    at = (x.clamp(0, 1.99) + 0.01) * 2
    i = at.floor().long()
    return (1 - (at - i)) * TABLE[EACH, i] + (at - i) * TABLE[EACH, i + 1]


LOOKUPS: dict[str, Callable[[Tensor], Tensor]] = {
    "an entry of each row": lambda x: TABLE[EACH, (x.clamp(0, 2) * 2.5).floor().long()],
    "counted from the end": lambda x: TABLE[EACH, -(x.clamp(0, 2) * 2.5).ceil().long()],
    "gathered": lambda x: TABLE.expand(len(x), 4, 6).gather(2, (x.clamp(0, 2) * 2.5).floor().long()[..., None])[..., 0],
    "neighbours": lambda x: TABLE.expand(len(x), 4, 6).gather(
        2, (x.clamp(0, 2) * 2).floor().long()[..., None] + torch.arange(2)
    ).sum(2),
    "spline": _spline,
    "rows at places of the largest": lambda x: functional.embedding(x.topk(2).indices, TABLE).sum(1),
}  # fmt: skip


class Looked(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("name", LOOKUPS)
def test_bounds_of_what_is_looked_up_hold(name: str):
    """Over the range of all places, and over one where most places are fixed."""
    net = cl.load(Looked(LOOKUPS[name]).eval(), (4,))
    generator = torch.Generator().manual_seed(0)
    for low, high in ((0.0, 1.9), (0.45, 0.75)):
        x = low + (high - low) * torch.rand(500, 4, generator=generator, dtype=torch.float64)
        x = torch.cat([x, torch.where(x > (low + high) / 2, low, high)])
        region = cl.bounds.box(*(torch.full((1, 4), end, dtype=torch.float64) for end in (low, high)))
        graph = net.graph_as(torch.float64, "cpu")
        values = graph.forward(x)[graph.output]
        for bound in (cl.bounds.interval, cl.bounds.crown):
            lower = bound(net, region)[0]
            assert bool(lower.isfinite().all())
            assert bool((lower <= values.amin(0) + 1e-9).all())


def test_an_entry_whose_place_is_fixed_is_exact():
    net = cl.load(Looked(LOOKUPS["an entry of each row"]).eval(), (4,))
    region = cl.bounds.box(torch.full((1, 4), 0.45), torch.full((1, 4), 0.75))
    torch.testing.assert_close(cl.bounds.crown(net, region)[0], TABLE[:, 1].double())


@pytest.mark.parametrize("buffer", [False, True], ids=["constant", "buffer"])
def test_what_a_constant_mask_keeps_has_a_known_size(buffer: bool):
    """Edges of a graph without its loops: a mask of whole numbers picks them, which no input changes."""
    edges = torch.tensor([[0, 1, 1, 2, 3], [1, 0, 1, 3, 3]])

    class Messages(nn.Module):
        edges: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("edges", edges)

        def forward(self, x: Tensor) -> Tensor:
            ends = self.edges if buffer else edges
            ends = ends[:, ends[0] != ends[1]]
            return torch.zeros_like(x).index_add(1, ends[1], x[:, ends[0]].relu())

    model = Messages().eval()
    net = cl.load(model, (4,))
    assert list(model.state_dict()) == ["edges"]
    region = cl.bounds.box(torch.tensor([[-1.0, 0.5, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 1.0, 2.0]]))
    torch.testing.assert_close(cl.bounds.crown(net, region)[0], torch.tensor([0.5, 0.0, 0.0, 0.0]).double())
