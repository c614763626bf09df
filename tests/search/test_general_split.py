"""Splits of the input and of what any node reads: sound wherever it stops, and it ends at the optimum."""

import math

import pytest
import torch
from exact_cases import ALL_OBJECTIVES, CLAUSES, generator, normal, query
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import clinch as cl
from clinch.bounds.ascent import Climb
from clinch.search.general_split import PartSearch, general_split
from clinch.search.tree import AT_INPUT, AT_NODE, LEAF
from clinch.solver.ledger import Ledger
from clinch.solver.settings import GeneralSplit as Settings
from clinch.testing.brute_force import brute_force
from clinch.testing.networks import leaky, multilayer, residual

SEEDS = st.integers(0, 10_000)


class Bent(nn.Module):
    """A function of one number as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


FUNCTIONS = {
    "gelu": nn.GELU(), "silu": nn.SiLU(), "tanh": nn.Tanh(), "sigmoid": nn.Sigmoid(), "softplus": nn.Softplus(),
    "sin": Bent(torch.sin), "gate": Bent(lambda x: x[..., :2] * torch.sigmoid(x[..., 2:])), "mixed": nn.ReLU(),
    "softmax": nn.Softmax(-1), "norm": nn.LayerNorm(4),
}  # fmt: skip


def network(name, seed, inputs=3):
    """Two layers of 4 of a function; of ReLU and tanh for ``mixed``."""
    torch.manual_seed(seed)
    first, second = FUNCTIONS[name], nn.Tanh() if name == "mixed" else FUNCTIONS[name]
    width = 2 if name == "gate" else 4
    model = nn.Sequential(nn.Linear(inputs, 4), first, nn.Linear(width, 4), second, nn.Linear(width, 3))
    for parameter in model.parameters():
        parameter.data *= 2
    return cl.load(model.double().eval().requires_grad_(False), (inputs,))


def problem(name, kind, seed):
    """One of four kinds about such a network."""
    net = network(name, seed)
    x, z = net.input, net.output
    x0 = 0.5 * torch.randn(3, generator=generator(seed), dtype=torch.float64)
    box, other = [x >= -1, x <= 1], [(z[1] >= z[0]) | (z[2] >= z[0] + 0.2)]
    ball = cl.norm(x, 2) <= 1.2
    return {
        "largest": lambda: cl.Problem(cl.Maximize(z[0]), box),
        "conditions": lambda: cl.Problem(cl.Minimize(z[1] - z[0]), [*box, z[0] + z[2] <= z[1] + 1, ball]),
        "distance": lambda: cl.Problem(cl.Minimize(cl.norm(x - x0, 2)), [*box, *other]),
        "far": lambda: cl.Problem(cl.Minimize(cl.norm(x - x0, cl.inf)), [*box, *other]),
        "norm": lambda: cl.Problem(cl.Minimize(cl.norm(z - 1, 2)), [*box, z[0] <= z[1] + 1]),
        "large norm": lambda: cl.Problem(cl.Maximize(cl.norm(z, 1)), [*box, z[0] <= z[1] + 1]),
    }[kind]()  # fmt: skip


SLOW = ("largest", "distance", "norm", "large norm")
KINDS = ("conditions", "far", *SLOW)


def sampled(q, seed, count=5_000):
    """The best of many inputs."""
    side = torch.rand(count, 3, generator=generator(seed), dtype=torch.float64)
    points = q.region.lower + (q.region.upper - q.region.lower) * side
    local = q.take(torch.zeros(count, dtype=torch.long))
    value, atoms = local.evaluate(points)
    good = (local.violation(atoms.expand(count, -1)) <= 0) & local.region.contains(points)
    return float(value[good].min()) if bool(good.any()) else math.inf


def rounds(search, count):
    """Plant the tree and take some rounds."""
    search.tree = search._planted()
    for _ in range(count):
        if len(search.tree.store):
            search.tree.round()
    return search.tree


@settings(deadline=None, max_examples=6)
@given(SEEDS, st.sampled_from(sorted(FUNCTIONS)), st.sampled_from(KINDS), st.booleans())
def test_no_sample_passes_the_bound_wherever_it_stops(seed, name, kind, nodes):
    q = problem(name, kind, seed).query
    ledger = Ledger(q, time_limit=60)
    rounds(PartSearch(q, ledger, Settings(batch=16, nodes=nodes)), seed % 6)
    best = sampled(q, seed)
    assert float(ledger.bound) <= best + 1e-7 and float(ledger.value) >= float(ledger.bound) - 1e-6


@settings(deadline=None, max_examples=4)
@given(SEEDS, st.sampled_from([multilayer, leaky, residual]), st.sampled_from(ALL_OBJECTIVES), st.sampled_from(CLAUSES))
def test_of_kinks_the_optimum_lies_between_bound_and_value(seed, make, kind, clauses):
    rng = generator(seed)
    q = query(make(rng), rng, kind, clauses)
    ledger = Ledger(q, time_limit=60)
    rounds(PartSearch(q, ledger, Settings(batch=32)), 3)
    best = brute_force(q)
    size = max(1.0, abs(best)) if math.isfinite(best) else 1.0
    assert float(ledger.bound) <= best + 1e-6 * size and float(ledger.value) >= best - 1e-6 * size


@pytest.mark.parametrize("kind", ["conditions", "far", *(pytest.param(k, marks=pytest.mark.slow) for k in SLOW)])
def test_bound_and_value_meet_at_the_optimum(kind):
    for name in ("gelu", "mixed") if kind in ("largest", "far") else ("tanh",):
        q = problem(name, kind, 2).query
        ledger = Ledger(q, time_limit=60, gap=0.01)
        general_split(q, ledger)
        best = sampled(q, 0)
        assert bool(ledger.closed.all()), (name, float(ledger.value), float(ledger.bound))
        assert float(ledger.bound) <= best + 1e-9 and float(ledger.value) <= best + 1e-6


def test_every_input_lies_in_an_open_part_or_is_no_better_than_what_is_proven():
    q = problem("sin", "largest", 1).query
    ledger = Ledger(q, time_limit=60, gap=1e-6)
    tree = rounds(PartSearch(q, ledger, Settings(batch=16, inputs=0)), 12)
    layout = tree.bounder.layout
    parts = tree.store.nodes()
    assert bool(parts.cut.any()) and len(parts) > 10
    points = q.region.lower + (q.region.upper - q.region.lower) * torch.rand(
        500, 3, generator=generator(0), dtype=torch.float64
    )
    graph = tree.bounder.graph
    at = graph.forward(points, layout.sites)
    z = torch.cat([at[j].flatten(1) for j in layout.sites], 1).unsqueeze(1)
    inside = ((z >= parts.limits[:, 0] - 1e-9) & (z <= parts.limits[:, 1] + 1e-9)).all(2)
    inside &= ((points.unsqueeze(1) >= parts.lower - 1e-9) & (points.unsqueeze(1) <= parts.upper + 1e-9)).all(2)
    value, _ = q.take(torch.zeros(500, dtype=torch.long)).evaluate(points)
    assert bool((inside.any(1) | (value >= ledger.value - 1e-6)).all())


def test_the_ascent_follows_the_gradient():
    q = problem("gate", "conditions", 4).query
    tree = rounds(PartSearch(q, Ledger(q, time_limit=60, gap=1e-9), Settings(batch=16, inputs=0)), 6)
    found = tree.bounder.bound(tree.store.pop(8), fresh=False)
    dual, packed = found.dual, found.packed
    rng = generator(0)
    packed = torch.minimum(torch.maximum(packed + 0.05 * normal(rng, *packed.shape), dual.least), dual.most)
    gradient = dual(packed, gradient=True).gradient
    way = torch.where(dual.least < dual.most, normal(rng, *packed.shape), 0.0)
    way = torch.where((packed <= dual.least) | (packed >= dual.most), 0.0, way)
    h = 1e-7
    rise = (dual(packed + h * way).bound - dual(packed - h * way).bound) / (2 * h)
    assert torch.allclose(rise, (gradient * way).sum(1), rtol=1e-3, atol=1e-3)
    climb = Climb(dual, packed, torch.ones(len(packed), dtype=torch.float64))
    climb.run(10, 0.2, lambda: False)
    assert bool((dual(climb.best).bound >= dual(packed).bound - 1e-9).all())


def test_splits_are_written_down_as_node_element_and_point():
    q = problem("tanh", "largest", 3).query
    ledger = Ledger(q, time_limit=60, gap=1e-6)
    ledger.trees = []
    search = PartSearch(q, ledger, Settings(batch=16))
    tree = rounds(search, 5)
    (recorder,) = ledger.trees
    recorder.leave_open(tree.store.nodes())
    known = recorder.of(0)
    assert not known.finished and set(tree.store.nodes().place.tolist()) <= set(known.parts.place.tolist())
    written = known.tree
    kinds = set(written.kind.tolist())
    assert kinds <= {LEAF, AT_INPUT, AT_NODE} and AT_NODE in kinds
    at_node = written.kind == AT_NODE
    assert set(written.node[at_node].tolist()) <= set(tree.bounder.layout.sites)
    assert bool((written.index[at_node] < 4).all()) and bool((written.first[at_node] > 0).all())
    parts = tree.store.nodes()
    for place, limits, low in zip(parts.place.tolist(), parts.limits, parts.lower):
        parent = int(((written.first <= place) & (place <= written.first + 1) & (written.first > 0)).nonzero())
        side, point = place - int(written.first[parent]), float(written.threshold[parent])
        if written.kind[parent] == AT_NODE:
            columns = tree.bounder.layout.sites[int(written.node[parent])]
            limit = limits[1 - side, columns][int(written.index[parent])]
            assert limit >= point - 1e-9 if side else limit <= point + 1e-9
        elif side:
            assert low[int(written.index[parent])] >= point - 1e-9
