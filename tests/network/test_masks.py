"""Masked softmaxes drop the masked terms exactly, however the mask is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import clinch as cl
from clinch.errors import NetworkError
from clinch.network.ops.masks import Inside

LOWER = torch.ones(3, 3).tril().bool()
INFINITE = torch.zeros(3, 3).masked_fill(~LOWER, -torch.inf)
PADDED = torch.tensor([True, True, False])


def _scores(x: Tensor) -> Tensor:
    return x @ x.transpose(1, 2)


class Applied(nn.Module):
    """A function of the input and of a module."""

    def __init__(self, function: Callable[..., Tensor], part: nn.Module | None = None) -> None:
        super().__init__()
        self.function, self.part = function, part

    def forward(self, x: Tensor) -> Tensor:
        """What the function gives."""
        return self.function(x) if self.part is None else self.function(self.part, x)


def _attention() -> nn.Module:
    torch.manual_seed(0)
    return nn.MultiheadAttention(2, 1, batch_first=True)


def _encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(2, 1, 4, batch_first=True)


SPELLINGS: dict[str, Callable[[], nn.Module]] = {
    "filled": lambda: Applied(lambda x: _scores(x).masked_fill(~LOWER, -torch.inf).softmax(-1) @ x),
    "filled, then scaled": lambda: Applied(lambda x: (_scores(x).masked_fill(~LOWER, -torch.inf) / 2).softmax(-1) @ x),
    "where": lambda: Applied(lambda x: torch.where(LOWER, _scores(x), -torch.inf).softmax(-1) @ x),
    "added": lambda: Applied(lambda x: (_scores(x) + INFINITE).softmax(-1) @ x),
    "added twice": lambda: Applied(lambda x: ((_scores(x) + INFINITE) + (_scores(x) + INFINITE)).softmax(-1) @ x),
    "moved": lambda: Applied(lambda x: (_scores(x) + INFINITE).transpose(1, 2).softmax(1).transpose(1, 2) @ x),
    "far": lambda: Applied(lambda x: _scores(x).masked_fill(~LOWER, -1e9).softmax(-1) @ x),
    "farthest": lambda: Applied(lambda x: torch.where(LOWER, _scores(x), torch.finfo(x.dtype).min).softmax(-1) @ x),
    "truth values": lambda: Applied(lambda x: functional.scaled_dot_product_attention(x, x, x, attn_mask=LOWER)),
    "numbers": lambda: Applied(lambda x: functional.scaled_dot_product_attention(x, x, x, attn_mask=INFINITE)),
    "causal": lambda: Applied(lambda x: functional.scaled_dot_product_attention(x, x, x, is_causal=True)),
    "nothing kept": lambda: Applied(
        lambda x: functional.scaled_dot_product_attention(x, x, x, attn_mask=LOWER & LOWER[1:2])
    ),
    "attention": lambda: Applied(lambda a, x: a(x, x, x, attn_mask=~LOWER, need_weights=False)[0], _attention()),
    "padding": lambda: Applied(
        lambda a, x: a(x, x, x, key_padding_mask=(~PADDED).expand(len(x), 3))[0], _attention()
    ),
    "encoder": lambda: Applied(lambda t, x: t(x, src_mask=INFINITE), _encoder()),
    "beside a constant": lambda: Applied(
        lambda x: functional.pad(_scores(x) + INFINITE, (0, 1)).softmax(-1)[..., :-1] @ x
    ),
    "beside another mask": lambda: Applied(
        lambda x: functional.pad(_scores(x) + INFINITE, (0, 1), value=-torch.inf).softmax(-1)[..., :-1] @ x
    ),
    "filled up": lambda: Applied(
        lambda x: functional.pad(_scores(x), (0, 1), value=-1e9).softmax(-1)[..., :-1] @ x
    ),
    "beside scores": lambda: Applied(
        lambda x: torch.cat([_scores(x) + INFINITE, x[..., :1]], -1).softmax(-1)[..., :-1] @ x
    ),
    "logsumexp": lambda: Applied(lambda x: (_scores(x) + INFINITE).logsumexp(-1)),
}  # fmt: skip


def _holds(net: cl.Network, model: Callable[[Tensor], Tensor]) -> Tensor:
    """Samples lie within all bounds; CROWN's."""
    x = torch.rand(200, 3, 2, generator=torch.Generator().manual_seed(1))
    values = model(x).detach().double().flatten(1)
    graph = net.graph_as(torch.float64, "cpu")
    torch.testing.assert_close(graph.forward(x.double())[graph.output].flatten(1), values, rtol=1e-5, atol=1e-5)
    region = cl.bounds.box(torch.zeros(1, 3, 2), torch.ones(1, 3, 2))
    for bound in (cl.bounds.interval(net, region), cl.bounds.crown(net, region)):
        assert bool(bound.isfinite().all())
        assert bool((bound.flatten() <= values.amin(0) + 1e-6).all())
    return cl.bounds.crown(net, region).flatten()


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_of_a_mask_is_bounded(name: str):
    model = SPELLINGS[name]().eval()
    _holds(cl.load(model, (3, 2)), model)


def test_spellings_of_one_mask_have_one_bound():
    bounds = [
        _holds(cl.load(model, (3, 2)), model)
        for model in (SPELLINGS[name]().eval() for name in ("where", "added", "farthest"))
    ]
    for other in bounds[1:]:
        torch.testing.assert_close(other, bounds[0], rtol=1e-9, atol=1e-9)


def test_masked_terms_count_for_nothing():
    """The first row of a causal attention is its own value alone."""
    net = cl.load(Applied(lambda x: functional.scaled_dot_product_attention(x, x, x, is_causal=True)).eval(), (3, 2))
    region = cl.bounds.box(torch.full((1, 3, 2), -3.0), torch.full((1, 3, 2), 3.0))
    below = cl.bounds.crown(net, region).reshape(3, 2)
    torch.testing.assert_close(below[0], torch.full((2,), -3.0, dtype=torch.float64), rtol=0, atol=1e-6)


def test_a_row_that_keeps_nothing_is_refused():
    model = Applied(lambda x: _scores(x).masked_fill(~LOWER[:, 1:2], -torch.inf).softmax(-1) @ x)
    with pytest.raises(NetworkError) as error:
        cl.load(model.eval(), (3, 2))
    assert "\n" not in str(error.value)


def test_a_low_number_is_a_mask_only_while_scores_stay_far_above():
    net = cl.load(Applied(lambda x: (200 * x).masked_fill(~PADDED, -1e4).softmax(-1)).eval(), (3,))
    assert any(isinstance(node.op, Inside) for node in net.graph.nodes)
    near = cl.bounds.crown(net, cl.bounds.box(torch.full((1, 3), -1.0), torch.full((1, 3), 1.0)))
    far = cl.bounds.crown(net, cl.bounds.box(torch.full((1, 3), -60.0), torch.full((1, 3), 60.0)))
    assert bool((near >= -1e-9).all())
    # at x = (−60, −60, ·) the filled number is the largest: no weight is known to be zero
    assert bool((far <= 1e-9).all())


@pytest.mark.parametrize("low", [-torch.inf, float(torch.finfo(torch.float32).min)])
@pytest.mark.parametrize("kind", ["Where", "Add"])
def test_masks_in_files(tmp_path: Path, kind: str, low: float):
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    mask = LOWER.numpy() if kind == "Where" else torch.zeros(3, 3).masked_fill(~LOWER, low).numpy()
    masked = (
        helper.make_node("Where", ["mask", "scores", "low"], ["masked"])
        if kind == "Where"
        else helper.make_node("Add", ["scores", "mask"], ["masked"])
    )
    nodes = [
        helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "turned"], ["scores"]),
        masked,
        helper.make_node("Softmax", ["masked"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "x"], ["y"]),
    ]
    tensor = lambda name, extents: helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, extents)  # noqa: E731
    initial = [onnx.numpy_helper.from_array(mask, "mask"), helper.make_tensor("low", onnx.TensorProto.FLOAT, [], [low])]
    graph = helper.make_graph(nodes, "g", [tensor("x", ["n", 3, 2])], [tensor("y", ["n", 3, 2])], initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    found = _holds(cl.load(tmp_path / "net.onnx"), lambda x: (_scores(x) + INFINITE).softmax(-1) @ x)
    same = _holds(cl.load(SPELLINGS["added"]().eval(), (3, 2)), SPELLINGS["added"]())
    torch.testing.assert_close(found, same, rtol=1e-9, atol=1e-9)
