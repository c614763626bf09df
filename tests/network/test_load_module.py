"""Modules: names, sources, folding, the original's activations, and what is refused."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from clinch.errors import NetworkError, UnknownLayer, UnsupportedOperator
from clinch.modeling.model import load
from clinch.network.compare import compare
from clinch.network.graph import Graph
from clinch.network.network import Network
from clinch.network.original import OriginalModule
from clinch.network.support import supports


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)) + x)


class Residual(nn.Module):
    """Normalisation inside, batch norm, a residual block, both kinds of pooling, an activation used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5]).reshape(2, 1, 1))
        self.std = torch.tensor([0.2, 0.3]).reshape(2, 1, 1)
        self.features = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), Block(4), nn.MaxPool2d(2), nn.AvgPool2d(2)
        )
        self.act = nn.ReLU()
        self.drop = nn.Dropout()
        self.fc1, self.fc2, self.fc3 = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features((x - self.mean) / self.std)
        x = x.view(x.size(0), -1)
        x = self.drop(self.act(self.fc1(x)))
        return self.fc3(self.act(self.fc2(x)))


def residual() -> nn.Module:
    torch.manual_seed(0)
    model = Residual()
    model.features[2].bn.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr]
    model.features[2].bn.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    return model.eval()


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).eval()


def function(body) -> nn.Module:
    """A module whose forward is the given function."""

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.linear = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return body(self, x)

    return Module().eval()


def random_inputs(network: Network, count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(count, *network.input_shape, generator=generator, dtype=network.dtype)


def test_mlp_layers_carry_module_paths():
    network = load(mlp(), (2, 3))
    assert network.layers == ["input", "0", "1", "2", "3", "4", "5"]
    assert [node.op.label for node in network.graph.nodes[1:]] == ["Reshape", "Dense", "ReLU", "Dense", "Tanh", "Dense"]
    assert network.input_shape == (2, 3)
    assert network.graph.nodes[-1].shape == (3,)
    assert network.name == "Sequential"
    assert load(network) is network


def test_names_sources_and_aliases():
    network = load(residual(), (2, 8, 8))
    assert network.layers == [
        "input", "sub", "div", "features.0", "features.1", "features.2.conv", "features.2.bn", "features.2.add",
        "features.2", "features.3", "features.4", "view", "fc1", "act", "fc2", "act:1", "fc3",
    ]  # fmt: skip
    assert network.position("features") == network.position("features.4")
    assert network.position("drop") == network.position("act")
    assert "features" in network
    assert "nowhere" not in network
    node = network.graph.nodes[network.position("features.2.add")]
    assert node.inputs == (network.position("features.2.bn"), network.position("features.1"))
    assert node.source.startswith("test_load_module.py:")
    line = int(node.source.split(":")[1])
    with open(__file__) as stream:
        assert "self.bn(self.conv(x)) + x" in stream.readlines()[line - 1]
    with pytest.raises(UnknownLayer, match="fc1, act"):
        network.position("nowhere")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_layer_of_the_original_is_the_graphs(dtype: torch.dtype):
    network = load(residual().to(dtype), (2, 8, 8))
    assert network.dtype == dtype
    x = random_inputs(network)
    before = x.clone()
    found = network.original(x, [*network.layers, "features", "drop"])
    graph = network.graph_as(torch.float64, "cpu")
    values = graph.forward(x.double(), range(len(graph.nodes)))
    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    for layer, value in found.items():
        torch.testing.assert_close(value.double(), values[network.position(layer)], rtol=tolerance, atol=tolerance)
    assert torch.equal(x, before)
    assert network.graph.forward(x)[network.graph.output].dtype == dtype


def test_output_and_parts_come_from_the_module_itself():
    """The graph is not asked where the user's model can answer."""
    network = load(residual(), (2, 8, 8))
    original = network.original
    assert isinstance(original, OriginalModule)
    original.graph = Graph(original.graph.nodes[:1] + tuple(n for n in original.graph.nodes[1:]))
    object.__setattr__(original.graph, "forward", lambda *_: pytest.fail("the graph was asked"))
    found = original(random_inputs(network), ["features.2", "act:1", "fc3"])
    assert [tuple(v.shape) for v in found.values()] == [(4, 4, 6, 6), (4, 6), (4, 3)]


def test_the_module_is_left_as_it_was():
    model = residual()
    for parameter in list(model.parameters())[:2]:
        parameter.requires_grad_(False)
    state = copy.deepcopy(model.state_dict())
    flags = [p.requires_grad for p in model.parameters()]
    network = load(model, (2, 8, 8))
    network.original(random_inputs(network), network.layers)
    assert all(torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values()))
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m.training for m in model.modules())


def test_hooks_go_away_when_the_module_fails():
    network = load(mlp(), (2, 3))
    with pytest.raises(RuntimeError):
        network.original(torch.rand(2, 2, 7), ["2", "5"])
    assert isinstance(network.original, OriginalModule)
    assert not any(m._forward_hooks for m in network.original.model.modules())


def test_the_graph_keeps_its_weights_when_the_module_is_trained_on():
    model = mlp().double()
    network = load(model, (2, 3))
    x = random_inputs(network)
    before = network.graph.forward(x)[network.graph.output]
    with torch.no_grad():
        model[1].weight.zero_()  # type: ignore[union-attr, operator]
    assert torch.equal(network.graph.forward(x)[network.graph.output], before)


def test_a_module_switched_to_training_later_is_refused():
    model = mlp()
    network = load(model, (2, 3))
    model[2].train()
    with pytest.raises(NetworkError, match=r"'2' was put into training mode.*eval"):
        network.original(random_inputs(network), ["5"])


def test_import_reads_no_onnx_and_no_compiler():
    code = (
        "import sys, clinch.network.load, clinch.network.support, clinch.network.fold;"
        "heavy = {'onnx', 'onnxruntime', 'torch._dynamo', 'scipy', 'matplotlib'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


FUNCTIONS = {
    "functional relu twice": lambda s, x: functional.relu(s.linear(functional.relu(s.linear(x)))),
    "in place": lambda s, x: functional.relu_(s.linear(x).sub_(0.1)).mul_(2.0),
    "in place and the old name": lambda s, x: (lambda y: (y.relu_(), y)[1])(s.linear(x)),
    "a clone worked on in place": lambda s, x: (lambda y: y + y.clone().relu_())(s.linear(x)),
    "clamp": lambda s, x: s.linear(x).clamp(-0.3, 0.4),
    "clamp below": lambda s, x: s.linear(x).clamp(min=0.1),
    "relu6, hardtanh": lambda s, x: functional.hardtanh(functional.relu6(6 * s.linear(x)), -1, 2),
    "leaky": lambda s, x: functional.leaky_relu(s.linear(x), 0.2),
    "parts": lambda s, x: torch.cat([p * 2 for p in s.linear(x).chunk(4, 1)] + [x[:, ::2], x[:, 5:]], 1),
    "split, stack, unbind": lambda s, x: torch.stack(s.linear(x).split([2, 4], 1)[1].split(2, 1), 1)[:, :, 0],
    "slices from behind": lambda s, x: s.linear(x)[..., -3:].flip(1),
    "narrow, select": lambda s, x: s.linear(x).narrow(1, 1, 3) + x.select(1, 2).unsqueeze(1),
    "index": lambda s, x: s.linear(x).index_select(1, torch.tensor([3, 1, 1])),
    "matmul with constants": lambda s, x: (x @ torch.eye(6)[:, :4]) @ torch.arange(4.0),
    "matmul from the left": lambda s, x: torch.arange(6.0).reshape(2, 3) @ x.view(-1, 3, 2),
    "addmm": lambda s, x: torch.addmm(torch.arange(6.0), x, s.linear.weight, beta=2, alpha=0.5),
    "arithmetic": lambda s, x: 1 - (-s.linear(x) * 3 + 2) / 4 - x,
    "add with alpha": lambda s, x: torch.add(s.linear(x), x, alpha=-2),
    "transposes": lambda s, x: x.view(-1, 2, 3).transpose(1, 2).permute(0, 2, 1).mT.reshape(x.shape[0], 6),
    "reductions": lambda s, x: x.view(-1, 2, 3).mean(2) + x.view(-1, 2, 3).sum((1, 2))[:, None],
    "pad": lambda s, x: functional.pad(functional.pad(x, (1, 2), value=0.5).view(-1, 1, 9), (1, 1), "replicate"),
    "forward only": lambda s, x: functional.gelu(x).softmax(1) * functional.silu(x) + functional.log_softmax(x, -1),
    "layer norm": lambda s, x: functional.layer_norm(s.linear(x), [6]),
    "any function of torch": lambda s, x: torch.polygamma(1, s.linear(x).abs() + 1) + functional.elu(x).cumsum(1),
    "sigmoid": lambda s, x: torch.sigmoid(s.linear(x)).unflatten(1, (2, 3)).squeeze(1).flatten(1),
    "identity": lambda s, x: x,
    "no gradient inside": lambda s, x: x + torch.no_grad()(lambda t: t * 2)(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_read(name: str):
    model = function(FUNCTIONS[name]).double()
    if name in ("matmul with constants", "matmul from the left", "addmm"):
        model = model.float()
    network = load(model, (6,))
    x = random_inputs(network) * 4 - 2
    got = network.graph.forward(x)[network.graph.output]
    wanted = model(x.clone()).detach()
    wanted = wanted.unsqueeze(1) if wanted.dim() == 1 else wanted  # one number per input is a row of one
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    assert len(set(network.layers)) == len(network.layers)


def test_functional_names_are_unique_and_readable():
    network = load(function(FUNCTIONS["functional relu twice"]), (6,))
    assert network.layers == ["input", "linear", "relu", "linear:1", "relu_1"]


def test_a_module_named_like_a_function_or_the_input_goes_first():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.input = nn.ReLU(), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.input(functional.relu(x)))

    network = load(Named().eval(), (3,))
    assert network.layers == ["input", "relu_1", "input_1", "relu"]
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network.original(x, ["relu_1"])["relu_1"], x.relu())


def test_dtype_and_device_default_where_there_are_no_parameters():
    network = load(nn.ReLU().eval(), (3,))
    assert network.dtype == torch.float32
    assert network.device == torch.device("cpu")
    assert network.layers == ["input", "relu"]


def test_support_table():
    rows = {r.name: r for r in supports(load(mlp(), (2, 3)))}
    assert list(rows) == ["0", "1", "2", "3", "4", "5"]
    assert (rows["2"].operator, rows["2"].shape) == ("ReLU", (5,))
    assert (rows["4"].forward, rows["4"].interval, rows["4"].relaxation, rows["4"].exact) == (True, True, True, False)
    attack_only = supports(load(function(FUNCTIONS["any function of torch"]), (6,)))
    row = next(r for r in attack_only if r.operator == "aten.polygamma")
    assert (row.forward, row.interval, row.relaxation, row.exact) == (True, False, False, False)


# --- refused ---------------------------------------------------------------------------------------------------------


def branch(s, x):
    if x.sum() > 0:
        return x
    return -x


def by_batch_size(s, x):
    return x if x.shape[0] == 2 else -x


REFUSED = {
    "branch": (branch, NetworkError, r"branches on the values.*test_load_module.py:\d+"),
    "batch size": (by_batch_size, NetworkError, r"fixes the number of inputs"),
    "fixed view": (lambda s, x: x.view(2, 6) * 1, NetworkError, r"fixes the number of inputs|batch"),
    "no batch": (lambda s, x: x.sum(), NetworkError, r"no batch dimension"),
    "tuple": (lambda s, x: (x, x), NetworkError, r"returns a tuple.*'0' \(2, 6\), '1' \(2, 6\).*output=0"),
    "whole numbers": (lambda s, x: x.argmax(1), NetworkError, r"before argmax"),
    "mixes the batch": (
        lambda s, x: x - x.mean(0), UnsupportedOperator, r"'mean'.*test_load_module.py:\d+.*aten.mean.*batch",
    ),
    "mixes the batch unseen": (lambda s, x: x.renorm(2, 1, 0.1), NetworkError, r"differs from the original by"),
    "random": (lambda s, x: x + torch.rand(6), UnsupportedOperator, r"aten.rand .*random"),
    "batch size in a sum": (lambda s, x: x / x.shape[0], UnsupportedOperator, r"aten.div.*size of the batch"),
    "constant": (lambda s, x: torch.ones(2, 3) * s.linear.weight[0, 0], NetworkError, r"does not depend|batch"),
    "batch norm of the batch": (
        lambda s, x: functional.batch_norm(x, None, None, training=True), NetworkError, r"statistics of the batch",
    ),
    "dropout": (lambda s, x: functional.dropout(x, 0.5), NetworkError, r"random|differs"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_functions(name: str, capfd: pytest.CaptureFixture[str]):
    body, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message) as caught:
        load(function(body), (6,))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", ""), "torch's own logging must stay quiet"


def test_refused_models():
    with pytest.raises(NetworkError, match="input_shape="):
        load(mlp())
    with pytest.raises(NetworkError, match="positive whole numbers"):
        load(mlp(), (2, -3))
    with pytest.raises(NetworkError, match=r"fails on two inputs of shape \(7,\).*Correct input_shape"):
        load(mlp(), (7,))
    with pytest.raises(NetworkError, match=r"model.eval\(\)"):
        load(mlp().train(), (2, 3))
    partly = residual()
    partly.get_submodule("features.2.bn").train()
    with pytest.raises(NetworkError, match=r"'features.2.bn' of Residual is in training mode"):
        load(partly, (2, 8, 8))
    with pytest.raises(NetworkError, match="A dict cannot be loaded"):
        load({}, (2,))  # type: ignore[arg-type]
    with pytest.raises(NetworkError, match=r"takes inputs of shape \(2, 3\)"):
        load(load(mlp(), (2, 3)), (6,))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float):
    model = mlp()
    with torch.no_grad():
        model[3].bias[1] = value  # type: ignore[union-attr, index, operator]
    with pytest.raises(NetworkError, match=r"'3.bias'.*NaN or infinite"):
        load(model, (2, 3))
    with pytest.raises(NetworkError, match=r"'div'.*NaN or infinite"):
        load(function(lambda s, x: x / torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 1.0])), (6,))


def test_several_inputs_are_refused():
    class Two(nn.Module):
        def forward(self, x: Tensor, context: Tensor) -> Tensor:
            return x + context

    with pytest.raises(NetworkError, match=r"2 inputs \(x, context\).*fixed="):
        load(Two().eval(), (3,))
    with pytest.raises(NetworkError, match=r"no input 'other'.*x, context"):
        load(Two().eval(), (3,), fixed={"other": 1.0})


def test_a_graph_that_differs_from_its_original_is_refused():
    network = load(mlp(), (2, 3))
    wrong = load(nn.Sequential(*mlp(), nn.Hardtanh(-0.01, 0.01)).eval(), (2, 3))
    samples = [random_inputs(network)]

    def other(x: Tensor, layers: list[str]) -> dict[str, Tensor]:
        return network.original(x, layers) | {
            network.layers[-1]: wrong.original(x, wrong.layers[-1:])[wrong.layers[-1]]
        }

    graph = network.graph_as(torch.float64, "cpu")
    with pytest.raises(NetworkError, match=r"differs from the original by \d"):
        compare(graph, network.graph, other, samples, "net")

    def broken(x: Tensor, layers: list[str]) -> dict[str, Tensor]:
        return network.original(x, layers) | {network.layers[-1]: torch.full((len(x), 3), torch.nan)}

    with pytest.raises(NetworkError, match="differs from the original"):
        compare(graph, network.graph, broken, samples, "net")
    compare(graph, network.graph, network.original, samples, "net")
