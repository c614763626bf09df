"""Calls that are read as products, sums and comparisons of their parts: the values of torch, and bounds that hold."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import clinch as cl
from clinch.certificates import SavedProof, certify
from clinch.network.ops.order import exchanges

WEIGHT = torch.linspace(-1, 1, 12).reshape(3, 4)

#: every call on activations (B, 2, 4)
CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "addcdiv": lambda h: torch.addcdiv(h, h, h.abs() + 1, value=0.5),
    "addcmul": lambda h: torch.addcmul(h, h, h.flip(2), value=-2.0),
    "adaptive max pool": lambda h: functional.adaptive_max_pool1d(h, 3),
    "cdist": lambda h: torch.cdist(h, h + 1),
    "cdist of the first norm": lambda h: torch.cdist(h, 2 * h, p=1),
    "cosine similarity": lambda h: functional.cosine_similarity(h[:, 0], h[:, 1]),
    "cosine similarity with a constant": lambda h: functional.cosine_similarity(h, WEIGHT[:1, None], dim=2),
    "cumprod": lambda h: h.cumprod(2),
    "dot by einsum": lambda h: torch.einsum("bi,bi->b", h[:, 0], h[:, 1]),
    "einsum to a number": lambda h: torch.einsum("bij,ij->b", h, WEIGHT[:2]),
    "einsum from a number": lambda h: torch.einsum("b,bij->bij", h[:, 0, 0], h),
    "einsum with a constant": lambda h: torch.einsum("bij,kj->bki", h, WEIGHT),
    "einsum with constants": lambda h: torch.einsum("...j,kj,k->...k", h, WEIGHT, WEIGHT[:, 0]),
    "einsum with an ellipsis": lambda h: torch.einsum("...ij,...kj->...ik", h, h.sin()),
    "einsum without an arrow": lambda h: torch.einsum("bij,bkj->bik", h, h.tanh()),
    "hypot": lambda h: torch.hypot(h, h.flip(1)),
    "kthvalue": lambda h: h.kthvalue(3, 2).values,
    "lerp": lambda h: torch.lerp(h, h.relu(), h.sigmoid()),
    "mask": lambda h: h * ((h > 0) | ~(h > -0.5)),
    "mask as a number": lambda h: (h >= 0.1).float() - h,
    "median": lambda h: h.median(2, keepdim=True).values,
    "norm 1": lambda h: h.norm(1, dim=2),
    "norm inf": lambda h: h.norm(torch.inf, dim=2),
    "pairwise distance": lambda h: functional.pairwise_distance(h[:, 0], h[:, 1]),
    "prod": lambda h: h.prod(2),
    "softmin": lambda h: functional.softmin(h, 2),
    "sort downwards": lambda h: h.sort(1, descending=True).values,
    "clamp by element": lambda h: h.clamp(torch.linspace(-1, 0, 4), torch.linspace(0, 1, 4)),
    "elements at the largest": lambda h: h.gather(2, h.argmax(2, keepdim=True)),
    "variance and mean": lambda h: torch.var_mean(h, 2)[0],
    "variance of the population": lambda h: h.var(2, unbiased=False),
    "arc functions": lambda h: torch.asin(h.tanh()) + torch.acos(h.sin()) + torch.atanh(h.tanh()),
    "std of all": lambda h: h.std((1, 2)),
    "logsumexp of all": lambda h: h.logsumexp((1, 2)),
    "std": lambda h: h.std((1, 2)).unsqueeze(1),
    "topk of the least": lambda h: h.topk(2, 2, largest=False)[0],
    "where": lambda h: torch.where(h > 0.2, h * h, 1 - h),
    "where the other is infinite": lambda h: torch.where(h.abs() > 0.01, 1 / h, 0.0),
}


class Made(nn.Module):
    """A dense layer and a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.dense, self.function = nn.Linear(3, 8), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.dense(x).view(-1, 2, 4))


@pytest.mark.parametrize("name", CALLS)
def test_bounds_hold(name: str):
    torch.manual_seed(5)
    model = Made(CALLS[name]).eval()
    net = cl.load(model, (3,))
    graph = net.graph_as(torch.float64, "cpu")
    assert all(node.op.supports("relax") for node in graph.nodes[1:]), [node.op.label for node in graph.nodes]
    x = torch.rand(3, dtype=torch.float64)
    region = cl.bounds.ball(x[None], 0.1, cl.inf)
    points = x + 0.2 * torch.rand(500, 3, dtype=torch.float64) - 0.1
    values = graph.forward(points)[graph.output].flatten(1)
    torch.testing.assert_close(values.float(), model(points.float()).reshape(values.shape), rtol=1e-4, atol=1e-5)
    parts = graph.forward(points, in_parts=True)[graph.output].flatten(1)
    least, known = values.amin(0), values.isfinite().all(0) & parts.isfinite().all(0)
    torch.testing.assert_close(parts[:, known], values[:, known])
    for bound in (cl.bounds.interval, cl.bounds.crown, cl.bounds.alpha_crown):
        below = bound(net, region)[0]
        assert bool((below <= least + 1e-9 * (1 + least.abs())).all())
        assert bool(below[known].isfinite().all()) or "infinite" in name


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=20))
@settings(deadline=None)
def test_exchanges_sort(numbers: list[int]):
    found = list(numbers)
    for layer in exchanges(len(numbers)):
        assert len({i for pair in layer for i in pair}) == 2 * len(layer)
        for i, j in layer:
            found[i], found[j] = min(found[i], found[j]), max(found[i], found[j])
    assert found == sorted(numbers)


def test_gradients_through_a_norm_of_zero_are_those_of_torch():
    """A point has no distance from itself: attacks would follow what is no number."""

    class Apart(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cdist(x, x).sum(2)

    net, x = cl.load(Apart().eval(), (3, 2)), torch.rand(1, 3, 2, dtype=torch.float64, requires_grad=True)
    graph = net.graph_as(torch.float64, "cpu")
    (ours,) = torch.autograd.grad(graph.forward(x)[graph.output][:, 0].sum(), x)
    (theirs,) = torch.autograd.grad(Apart()(x)[:, 0].sum(), x)
    torch.testing.assert_close(ours, theirs)


def test_the_root_of_a_norm_has_a_certificate():
    class Length(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.vector_norm(x, dim=1, keepdim=True)

    net = cl.load(Length().eval(), (3,))
    problem = cl.Problem(cl.Minimize(net.output[0]), [net.input.between(0.5, 1.0)])
    (proof,) = certify(problem.query, torch.tensor([0.8]).double(), time_limit=20.0)
    assert isinstance(proof, SavedProof)
