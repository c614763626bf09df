"""Small networks made by hand, so that these tests need no import of models."""

import torch

from clinch.modeling.expressions import Activation
from clinch.network.graph import Graph, Input, Node
from clinch.network.network import Network
from clinch.network.ops.base import Affine, Operator
from clinch.network.ops.relu import LeakyReLU


class Flat(Affine):
    def forward(self, *inputs):
        return inputs[0].flatten(1)


class Linear(Operator):
    """``W x + b`` with parameters that keep their own dtype unless the graph is moved."""

    def __init__(self, weight, bias):
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "bias", bias)

    def forward(self, *inputs):
        return torch.nn.functional.linear(inputs[0], self.weight, self.bias)

    def to(self, dtype, device):
        return Linear(self.weight.to(device, dtype), self.bias.to(device, dtype))


def small_network(dtype=torch.float64, seed=0, shape=(2, 3), hidden=5, outputs=4, original=None):
    """Input ``shape`` -> "flat" -> "fc1" -> "relu1" -> "fc2"; the graph itself plays the user's model."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size):
        return torch.randn(size, generator=generator, dtype=torch.float64)

    flat = 1
    for extent in shape:
        flat *= extent
    nodes = (
        Node("image", Input(), (), shape),
        Node("flat", Flat(), (0,), (flat,)),
        Node("fc1", Linear(draw(hidden, flat), draw(hidden)), (1,), (hidden,)),
        Node("relu1", LeakyReLU(), (2,), (hidden,)),
        Node("fc2", Linear(draw(outputs, hidden), draw(outputs)), (3,), (outputs,)),
    )
    graph = Graph(nodes).to(dtype)

    def same(x, names):
        wanted = {graph.names[name]: name for name in names}
        return {wanted[i]: h for i, h in graph.forward(x, wanted).items()}

    return Network(graph, original or same, dtype=dtype, device="cpu", name="small")


def symbols(net):
    """Input, hidden layer and output of a small network, as symbols."""
    return Activation(net, 0), Activation(net, 3), Activation(net, net.graph.output)
