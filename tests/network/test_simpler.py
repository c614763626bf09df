"""Functions without an operator: read in the simpler calls that torch writes them as, and whole numbers as steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

import clinch as cl
from clinch.errors import NetworkError
from clinch.network.support import supports

EDGES = torch.tensor([-0.5, 0.0, 0.5])
TABLE = torch.linspace(-1, 1, 24).view(8, 3)
GROUPS = torch.arange(8) % 3

#: functions of eight numbers that no reader knows, or that look up by whole numbers
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "in degrees": torch.rad2deg,
    "normal distribution": torch.special.ndtr,
    "mean without NaN": lambda h: torch.nanmean(h, 1, keepdim=True) + h,
    "trapezoids": lambda h: torch.trapezoid(h.relu(), dx=0.5, dim=1)[:, None],
    "cross entropy": lambda h: functional.cross_entropy(h, torch.zeros(len(h), dtype=torch.long), reduction="none"),
    "divergence": lambda h: functional.kl_div(h.log_softmax(1), torch.full_like(h, 1 / 8), reduction="none"),
    "halves on top of each other": lambda h: torch.dstack(torch.hsplit(h, 2)).flatten(1).relu(),
    "table of steps": lambda h: torch.tensor([0.0, 1.0, 4.0, 2.0])[torch.bucketize(h, EDGES)] + h,
    "rows of a table": lambda h: TABLE[torch.searchsorted(EDGES, h[:, :1].contiguous())[:, 0]],
    "place of the largest": lambda h: functional.one_hot(h.argmax(1), 8).float() @ TABLE,
    "place of the smallest among zeros": lambda h: functional.embedding((-h).relu().argmin(1), TABLE) + h[:, :3],
    "count of a mask": lambda h: torch.count_nonzero(h > 0, dim=1)[:, None].float() * h,
    "product of counts": lambda h: ((h > 0).sum(1, keepdim=True) * (h > 0.2).sum(1, keepdim=True)).float() + h,
    "any of a mask": lambda h: torch.where((h > 0.5).any(1, keepdim=True), h, 2 * h),
    "all of a mask": lambda h: (h > -2).all(1, keepdim=True).float() * h,
    "sign bit": lambda h: torch.where(torch.signbit(h), 0.1 * h, h),
    "largest of groups": lambda h: torch.full((len(h), 3), -9.0).scatter_reduce(1, GROUPS.expand_as(h), h, "amax"),
    "mean of groups": lambda h: torch.zeros(len(h), 3).index_reduce(1, GROUPS, h, "mean", include_self=False),
    "product of groups": lambda h: torch.ones(len(h), 4).scatter_reduce(1, GROUPS.expand_as(h), h, "prod"),
    "powers": lambda h: (h.abs() + 0.2) ** torch.linspace(0.5, 2, 8),
    "three factors": lambda h: torch.einsum("bn,nm,bm->bn", h, torch.ones(8, 8), h),
    "logarithm over a front dimension": lambda h: torch.logsumexp(torch.stack([-h[:, :4], -h[:, 4:]], 0), 0),
    "pixels at places": lambda h: functional.grid_sample(
        h[:, :4].view(-1, 1, 2, 2), 2 * h[:, 4:].view(-1, 1, 2, 2).tanh(), align_corners=False
    ),
    "voxels at places": lambda h: functional.grid_sample(
        TABLE.view(1, 3, 2, 2, 2).expand(len(h), -1, -1, -1, -1), h[:, :3].view(-1, 1, 1, 1, 3), "bilinear", "border",
        align_corners=True,
    ),
    "distribution": lambda h: torch.distributions.Categorical(logits=h).entropy(),
    "another precision inside": lambda h: (h.double() * 1.5).exp().float(),
}  # fmt: skip


class Behind(nn.Module):
    """A linear layer, a function, a linear layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.function, self.last = nn.Linear(4, 8), function, nn.LazyLinear(2)
        self.eval()(torch.rand(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.function(self.first(x))
        return self.last(h[:, None] if h.dim() == 1 else h.flatten(1))


def value(net: cl.Network, x: Tensor) -> Tensor:
    graph = net.graph_as(torch.float64, "cpu")
    return graph.forward(x.double())[graph.output]


def check(net: cl.Network, *, centre: Tensor, radius: float = 0.3) -> None:
    """All layers have rules, and neither samples nor corners pass interval bounds or CROWN."""
    assert [row.operator for row in supports(net) if not (row.interval and row.relaxation)] == []
    generator = torch.Generator().manual_seed(2)
    noise = 2 * torch.rand(300, *centre.shape, generator=generator, dtype=torch.float64) - 1
    values = value(net, centre + radius * torch.cat([noise, noise.sign()])).flatten(1)
    region = cl.bounds.box(centre[None] - radius, centre[None] + radius)
    for bound in (cl.bounds.interval, cl.bounds.crown):
        lower = bound(net, region)[0].flatten()
        assert bool(lower.isfinite().all())
        assert bool((values >= lower - 1e-9 * (1 + values.abs())).all())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bounds_of_a_function_without_an_operator_hold(name: str):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = cl.load(Behind(FUNCTIONS[name]), (4,))
    check(net, centre=torch.rand(4, dtype=torch.float64))


def test_of_two_places_that_are_equal_the_first_counts():
    """Zeros of a ReLU tie: the place that torch takes must lie within bounds of a box where all are zero."""

    class First(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return functional.one_hot((x - 5).relu().argmax(1), 3).float()

    net = cl.load(First().eval(), (3,))
    region = cl.bounds.box(torch.zeros(1, 3), torch.ones(1, 3))
    for bound in (cl.bounds.interval, cl.bounds.crown):
        torch.testing.assert_close(bound(net, region)[0], torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(
        cl.bounds.crown(net, region, -torch.eye(3, dtype=torch.float64)), torch.tensor([[-1.0, 0.0, 0.0]]).double()
    )


def test_masks_of_padding_in_attention():
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            mask = torch.tensor([[False, False, True]]).expand(x.shape[0], -1)
            return self.attention(x, x, x, key_padding_mask=mask)[0].flatten(1)

    torch.manual_seed(0)
    net = cl.load(Masked().eval(), (3, 4))
    check(net, centre=torch.rand(3, 4, dtype=torch.float64), radius=0.05)


def test_code_that_branches_on_constants_is_read():
    class Causal(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mask = torch.ones(3, 3).tril()
            if bool((mask == torch.ones(3, 3).tril()).all()):
                return x @ mask.T
            return x

    net = cl.load(Causal().eval(), (3,))
    assert torch.equal(value(net, torch.ones(1, 3)), torch.tensor([[1.0, 2.0, 3.0]]).double())


# --- files -----------------------------------------------------------------------------------------------------------


def file_of(nodes: list, constants: dict, *, size: int = 6, functions: tuple = ()):
    arrays = [numpy_helper.from_array(torch.as_tensor(v).numpy(), name) for name, v in constants.items()]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", m]) for n, m in (("x", size), ("y", None)))
    graph = helper.make_graph(nodes, "g", [x], [y], arrays)
    domains = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=9, functions=functions)


node = helper.make_node
FILES = {
    "the two largest": ([node("TopK", ["x", "k"], ["y", "i"], axis=1)], {"k": torch.tensor([2])}),
    "others at the places of the largest": (
        [node("TopK", ["x", "k"], ["v", "i"], axis=1), node("Sin", ["x"], ["r"]),
         node("GatherElements", ["r", "i"], ["y"], axis=1)], {"k": torch.tensor([2])},
    ),
    "product": ([node("ReduceProd", ["x", "a"], ["y"])], {"a": torch.tensor([1])}),
    "choice of what is no number": (
        [node("IsNaN", ["x"], ["n"]), node("Where", ["n", "z", "x"], ["c"]), node("Relu", ["c"], ["y"])],
        {"z": torch.tensor(0.0)},
    ),
    "first of the largest": (
        [node("ArgMax", ["x"], ["i"], axis=1, keepdims=0), node("OneHot", ["i", "d", "v"], ["h"], axis=-1),
         node("Mul", ["h", "x"], ["y"])], {"d": torch.tensor([6]), "v": torch.tensor([0.0, 1.0])},
    ),
    "mean of several": ([node("Relu", ["x"], ["r"]), node("Mean", ["x", "r"], ["y"])], {}),
    "scaled to length one": ([node("LpNormalization", ["x"], ["y"], axis=1, p=2)], {}),
}  # fmt: skip


def test_places_that_a_pool_has_taken_are_read():
    """Behind a pool whose second result is used the file loads, which compares it with its original."""
    nodes = [
        node("Reshape", ["x", "s"], ["i"]),
        node("MaxPool", ["i"], ["p", "at"], kernel_shape=[2], strides=[2]),
        node("MaxUnpool", ["p", "at"], ["u"], kernel_shape=[2], strides=[2]),
        node("Flatten", ["u"], ["y"]),
    ]
    net = cl.load(file_of(nodes, {"s": torch.tensor([-1, 1, 6])}))
    x = torch.tensor([[3.0, 1.0, 2.0, 5.0, 0.0, 4.0]])
    assert torch.equal(value(net, x), torch.tensor([[3.0, 0.0, 0.0, 5.0, 0.0, 4.0]]).double())


@pytest.mark.parametrize("name", FILES)
def test_bounds_of_nodes_without_an_operator_hold(name: str):
    check(cl.load(file_of(*FILES[name])), centre=0.5 + torch.rand(6, dtype=torch.float64))


def own(name: str, nodes: list):
    return helper.make_function("own", name, ["a"], ["b"], nodes, [*domains()])


def domains() -> list:
    return [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]


def test_functions_of_a_file_are_read_in_place_of_their_calls():
    swish = own("Swish", [node("Sigmoid", ["a"], ["s"]), node("Mul", ["a", "s"], ["b"])])
    net = cl.load(file_of([node("Swish", ["x"], ["y"], domain="own")], {}, functions=(swish,)))
    check(net, centre=torch.zeros(6, dtype=torch.float64))


def twice(k: int):
    """A function that calls the next one twice."""
    calls = [node(f"F{k + 1}", [a], [b], domain="own") for a, b in (("a", "c"), ("c", "b"))]
    return own(f"F{k}", calls)


CIRCLE = (own("F0", [node("F0", ["a"], ["b"], domain="own")]),)
DOUBLING = (*map(twice, range(40)), own("F40", [node("Relu", ["a"], ["b"])]))


@pytest.mark.parametrize(("functions", "says"), [(CIRCLE, "calls itself"), (DOUBLING, "more than")])
def test_functions_that_never_end_are_refused(functions: tuple, says: str):
    with pytest.raises(NetworkError, match=says):
        cl.load(file_of([node("F0", ["x"], ["y"], domain="own")], {}, functions=functions))


def test_sparse_constants_are_filled_up():
    model = file_of([node("MatMul", ["x", "W"], ["y"])], {}, size=4)
    values = helper.make_tensor("W", TensorProto.FLOAT, [3], [1.0, -2.0, 0.5])
    places = helper.make_tensor("W_places", TensorProto.INT64, [3], [0, 5, 10])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4, 3]))
    net = cl.load(model)
    # places 0, 5 and 10 of a matrix of rows of three
    assert torch.equal(value(net, torch.tensor([[1.0, 2.0, 3.0, 4.0]])), torch.tensor([[1.0, 2.0, -4.0]]).double())
