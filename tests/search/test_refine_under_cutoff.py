"""Bounds under the cutoff lose no input of interest, and subdomains that they close hold none."""

from dataclasses import replace

import pytest
import torch

import clinch as cl
from clinch.bounds.ascent import ascend
from clinch.bounds.crown import activation_bounds
from clinch.bounds.domains import fresh_domains, relax_query
from clinch.network.ops.relu import LeakyReLU
from clinch.search.dual_bounding import DualBounder, Subdomains
from clinch.search.refine_under_cutoff import UnderCutoff
from clinch.search.relu_split import ReluSplit
from clinch.solver.ledger import Ledger
from clinch.solver.settings import BranchAndBound
from clinch.testing.brute_force import brute_force
from clinch.testing.networks import dense, network_of


def layered(seed, hidden, slope=0.0, inputs=3):
    rng = torch.Generator().manual_seed(seed)
    layers, at = [], inputs
    for number, size in enumerate(hidden):
        layers += [
            (f"fc{number}", dense(rng, at, size), (2 * number,)),
            (f"bend{number}", LeakyReLU(slope), (2 * number + 1,)),
        ]
        at = size
    return network_of([*layers, ("last", dense(rng, at, 2), (2 * len(hidden),))], (inputs,))


def questions(net):
    """A smallest value, with a condition beside it, and a distance."""
    x, box = net.input, [net.input >= -1, net.input <= 1]
    beside = [*box, net.output[1] >= -1]
    middle = torch.zeros(x.shape, dtype=torch.float64).numpy()
    return {
        "smallest": cl.Problem(cl.Minimize(net.output[0]), box).query,
        "beside": cl.Problem(cl.Minimize(net.output[0]), beside).query,
        "nearest": cl.Problem(cl.Minimize(cl.norm(x - middle, cl.inf)), [*box, net.output[0] <= -0.1]).query,
    }


@pytest.mark.parametrize("kind", ["smallest", "beside", "nearest"])
@pytest.mark.parametrize("hidden", [(8,), (6, 6)])
@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_inputs_of_interest_keep_their_neurons_within_the_bounds(hidden, slope, kind):
    closed = narrowed = 0
    for seed in range(4):
        query = questions(layered(seed, hidden, slope))[kind]
        limits = activation_bounds(query.graph, query.region, query.nodes)
        relaxed = relax_query(query, limits)
        width = relaxed.width
        rng = torch.Generator().manual_seed(seed)
        count = 16
        split = torch.randint(-2, 3, (count, width), generator=rng).clamp(-1, 1).to(torch.int8)
        split[torch.rand(count, width, generator=rng) < 0.7] = 0
        problem = torch.zeros(count, dtype=torch.long)
        choice = torch.zeros(count, query.clauses, dtype=torch.long)
        found = ascend(relaxed, fresh_domains(relaxed, problem, choice, split), 10)
        x = 2 * torch.rand(4000, *query.graph.input_shape, generator=rng, dtype=torch.float64) - 1
        value, atoms = query.take(torch.zeros(len(x), dtype=torch.long)).evaluate(x)
        cutoff = torch.quantile(value, 0.2)
        reads = [query.graph.nodes[k.node].inputs[0] for k in relaxed.kinks]
        at = query.graph.forward(x, reads)
        z = torch.cat([at[j][:, k.which] for j, k in zip(reads, relaxed.kinks)], 1)
        goal = torch.zeros(count, dtype=torch.float64) if kind == "nearest" else cutoff.expand(count)
        d = UnderCutoff(relaxed)(relaxed, found, goal)
        wanted = (atoms <= 0).all(1) & ((value <= cutoff) if kind != "nearest" else True)
        for row in range(count):
            side = d.split[row].to(z.dtype)
            inside = wanted & ((z * side >= 0).all(1))
            if bool(d.bound[row] == torch.inf):
                closed += int(not bool(inside.any()) and bool(found.domains.bound[row] < torch.inf))
                assert not bool(inside.any())
            low, high = d.held[row].double()
            assert bool(((z >= low) & (z <= high))[inside].all())
            narrowed += int((low > torch.cat([k.bounds.lower[0] for k in relaxed.kinks])).sum())
    assert narrowed > 0
    if kind != "nearest":
        assert closed > 0


@pytest.mark.parametrize("kind", ["smallest", "beside", "nearest"])
@pytest.mark.parametrize("hidden", [(6,), (3, 3)])
def test_the_optimum_is_that_of_enumeration(hidden, kind):
    for seed in range(2):
        query = questions(layered(seed, hidden))[kind]
        best = brute_force(query)
        for refined in (True, False):
            ledger = Ledger(query, time_limit=30.0, gap=1e-4)
            search = ReluSplit(query, ledger, BranchAndBound(under_cutoff=refined))
            search.run()
            if best == float("inf"):
                assert bool((ledger.bound == torch.inf).all())
                continue
            assert float(ledger.bound) <= best + 1e-7
            assert float(ledger.value) - best <= 2e-4 * max(1.0, abs(best))


def test_a_bound_that_is_enough_is_all_that_is_claimed():
    query = questions(layered(1, (6,)))["smallest"]
    best = brute_force(query)
    ledger = Ledger(query, time_limit=30.0, enough=torch.tensor([best - 0.5], dtype=torch.float64))
    ReluSplit(query, ledger).run()
    assert best - 0.5 <= float(ledger.bound) <= best + 1e-7


def test_rounds_that_bring_nothing_become_rare():
    query = questions(layered(0, (8,)))["smallest"]
    relaxed = relax_query(query, activation_bounds(query.graph, query.region, query.nodes))
    problem = torch.zeros(1, dtype=torch.long)
    found = ascend(relaxed, fresh_domains(relaxed, problem, torch.zeros(1, 0, dtype=torch.long)), 5)
    under, worked = UnderCutoff(relaxed), 0
    for _ in range(40):
        worked += not under.resting
        d = under(relaxed, found, torch.full((1,), 1e6, dtype=torch.float64))
        assert d.held.shape == (1, 2, relaxed.width)
    assert worked <= 8


def test_networks_with_too_many_neurons_are_left_alone():
    query = questions(layered(0, (8,)))["smallest"]
    relaxed = relax_query(query, activation_bounds(query.graph, query.region, query.nodes))
    assert UnderCutoff(relaxed).suits
    region = replace(query.region, upper=torch.full_like(query.region.upper, torch.inf))
    assert not UnderCutoff(replace(relaxed, query=replace(query, region=region))).suits


def test_nodes_wait_with_their_bounds():
    query = questions(layered(0, (8,)))["smallest"]
    relaxed = relax_query(query, activation_bounds(query.graph, query.region, query.nodes))
    bounder = DualBounder(relaxed, lambda: torch.tensor([0.0], dtype=torch.float64), lambda: False, BranchAndBound())
    d = fresh_domains(relaxed, torch.zeros(1, dtype=torch.long), torch.zeros(1, 0, dtype=torch.long))
    nodes = Subdomains.of(d, torch.zeros(1, dtype=torch.long), torch.full((1,), -1), 2)
    found = bounder.refine(bounder.bound(nodes, fresh=True))
    assert found.nodes.held.shape == (1, 2, relaxed.width)
    assert bool((found.nodes.domains.held == found.nodes.held).all())
    both = Subdomains.cat([nodes, found.nodes])
    assert both.held.shape == (2, 2, relaxed.width)
    assert bool((both.held[0, 0] == -torch.inf).all())
    assert bool((both.held[0, 1] == torch.inf).all())
