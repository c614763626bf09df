"""Kinds of modules that people write: they load, every layer is the original's, and gradients reach the input."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from benchmarks.networks.module_kinds import KINDS, made
from torch import Tensor, nn

from clinch.errors import NetworkError
from clinch.modeling.model import load

#: of every family some: the whole list is a benchmark
SAMPLE = [
    "nn.Softplus", "nn.GLU", "torch maximum", "torch masked fill", "torch max dim", "torch sort", "torch unbind",
    "torch roll", "torch new_zeros", "torch full of batch", "torch transposed batch", "torch batch folded",
    "torch written in place", "torch heaviside", "torch expand", "torch logical", "torch cosine similarity",
    "torch cumprod", "torch topk", "image FractionalMaxPool by size", "torch fft", "sequence Bilinear",
    "image Upsample bilinear", "image PixelShuffle",
    "sequence LSTM batch second", "sequence GRU batch first", "sequence LSTM two layers, last state",
    "sequence MultiheadAttention batch second", "sequence TransformerEncoderLayer batch first",
    "sequence causal attention", "sequence class token", "sequence LSTMCell loop", "sequence GRUCell loop",
    "sequence windows folded into the batch", "any arguments", "DataParallel", "tuple with labels", "dictionary",
    "tuple of two", "two inputs", "one number per input", "temperature at the end",
]  # fmt: skip


def check(name: str) -> None:
    kind = KINDS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of what is new in it or does nothing
        model = made(name)
    network = load(model, kind.input_shape, **kind.options)
    x = torch.rand(3, *kind.input_shape, generator=torch.Generator().manual_seed(1))
    graph = network.graph_as(torch.float64, "cpu")
    leaf = x.double().requires_grad_()
    values = graph.forward(leaf, range(len(graph.nodes)))
    for layer, value in network.original(x, network.layers).items():
        ours = values[network.position(layer)].detach()
        torch.testing.assert_close(value.double(), ours, rtol=1e-4, atol=1e-4 * (1 + float(ours.abs().max())))
    (gradient,) = torch.autograd.grad(values[graph.output].sum(), leaf)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("name", SAMPLE)
def test_a_kind_loads_and_is_followed(name: str):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(KINDS) - set(SAMPLE)))
def test_every_kind_loads_and_is_followed(name: str):
    check(name)


def test_the_list_is_long():
    assert len(KINDS) >= 180


def test_rules_hold_where_the_batch_is_elsewhere():
    """A transformer in (length, batch, features) has the operators of one in (batch, length, features)."""
    labels = []
    for word in ("first", "second"):
        name = f"sequence TransformerEncoderLayer batch {word}"
        network = load(made(name), KINDS[name].input_shape)
        labels.append({node.op.label for node in network.graph.nodes})
    assert labels[0] == labels[1]
    assert not any(label.startswith("aten.") for label in labels[0])


class Mixing(nn.Module):
    """A module that treats inputs by each other."""

    def __init__(self, how: Any) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(x)


@pytest.mark.parametrize(
    "how",
    [
        lambda x: x.t() @ x.t().t() @ x.t(), lambda x: x - x.mean(0), lambda x: x.roll(1, 0), lambda x: x.cumsum(0),
        lambda x: x / x.shape[0], lambda x: x * torch.arange(x.shape[0])[:, None], lambda x: x.sort(0).values,
        lambda x: x.view(-1, 2).softmax(0).view(x.shape[0], -1),
    ],
)  # fmt: skip
def test_modules_that_mix_the_batch_are_refused(how: Any):
    with pytest.raises(NetworkError):
        load(Mixing(how).eval(), (4,))


def test_an_embedding_is_started_behind():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2)).eval()
    with pytest.raises(NetworkError, match=r"embedding '0' of whole numbers.*\(length, 3\)"):
        load(model, (2,))


class LooksUp(nn.Module):
    """An embedding of what the input is cut to."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.table(x.long()).flatten(1)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (LooksUp(), r"embedding 'table' of whole numbers.*\(length, 3\)"),
        (nn.LazyLinear(3), "'weight' of LazyLinear waits for a first input.*Call the model once"),
        (Mixing(lambda x: x[:, torch.tensor([True, False, True, True])]), "aten.index .* picks as many.*nonzero"),
        (Mixing(lambda x: x.numpy()), "returns a ndarray. Return a tensor of torch"),
    ],
    ids=["embedding", "lazy", "mask", "array"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # lazy modules are new, says torch
def test_a_refusal_says_what_to_do(model: nn.Module, said: str):
    with pytest.raises(NetworkError, match=said):
        load(model.eval(), (4,))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_modules_are_refused_and_exported_ones_load():
    plain = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()
    with pytest.raises(
        NetworkError, match=r"torch\.jit\.script cannot be read\. Load the module that it was made from"
    ):
        load(torch.jit.script(plain), (4,))
    program = torch.export.export(plain, (torch.rand(2, 4),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    x = torch.rand(3, 4)
    for model in (program, program.module()):
        network = load(model, (4,))
        torch.testing.assert_close(network.graph.forward(x)[network.graph.output], plain(x))


@pytest.mark.parametrize(
    ("how", "shape"),
    [(lambda x: x.view(len(x), -1), (2, 3)), (lambda x: x.squeeze(), (4, 1, 1))],
    ids=["len", "squeeze"],
)
def test_what_people_write_of_the_batch(how: Any, shape: tuple[int, ...]):
    x = torch.rand(3, *shape)
    network = load(Mixing(how).eval(), shape)
    torch.testing.assert_close(network.graph.forward(x)[network.graph.output], how(x))


def test_layers_behind_a_choice_keep_their_names():
    network = load(made("dictionary"), (4,), output="logits")
    assert network.layers == ["input", "inner.0", "inner.1", "inner.2"]
    with pytest.raises(NetworkError, match=r"no output 'q'.*'logits'.*'p'"):
        load(made("dictionary"), (4,), output="q")
    with pytest.raises(NetworkError, match=r"Choose one: cl.load\(..., output='logits'\)"):
        load(made("dictionary"), (4,))
