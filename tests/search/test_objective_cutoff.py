"""Boxes are left out only where nothing better is in them, and the planes that stay hold below the cutoff."""

from dataclasses import replace

import pytest
import torch

import clinch as cl
from clinch.network.ops.relu import LeakyReLU
from clinch.search.boxes import Boxes
from clinch.search.input_bounding import Bounder, folded
from clinch.search.input_split import BoxSearch
from clinch.search.objective_cutoff import Cutoff, layers_of
from clinch.solver.ledger import Ledger
from clinch.testing.brute_force import brute_force
from clinch.testing.networks import dense, network_of

SLOPES = [0.0, 0.2]


def two_layers(seed, slope=0.0, inputs=2, hidden=6):
    rng = torch.Generator().manual_seed(seed)
    layers = [
        ("fc1", dense(rng, inputs, hidden), (0,)), ("bend1", LeakyReLU(slope), (1,)),
        ("fc2", dense(rng, hidden, hidden), (2,)), ("bend2", LeakyReLU(slope), (3,)),
        ("fc3", dense(rng, hidden, 2), (4,)),
    ]  # fmt: skip
    return network_of(layers, (inputs,))


def smallest(net):
    return cl.Problem(cl.Minimize(net.output[0] - 2 * net.output[1]), [net.input >= -2, net.input <= 2])


def grid(count):
    """Boxes that cover [−2, 2]²."""
    at = torch.linspace(-2, 2, count + 1, dtype=torch.float64)
    lower, upper = torch.cartesian_prod(at[:-1], at[:-1]), torch.cartesian_prod(at[1:], at[1:])
    boxes = Boxes.whole(lower, upper)
    return replace(boxes, problem=torch.zeros_like(boxes.problem))


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("seed", range(4))
def test_nothing_better_is_left_out_and_planes_hold_below_the_cutoff(seed, slope):
    query = folded(smallest(two_layers(seed, slope)).query)
    boxes = grid(2)
    found, share = Bounder(query)(boxes, lambda: False), torch.linspace(0, 1, 25, dtype=torch.float64)
    x = torch.cartesian_prod(share, share) * (boxes.upper - boxes.lower).unsqueeze(1) + boxes.lower.unsqueeze(1)
    value, _ = query.take(torch.zeros(x.shape[:2].numel(), dtype=torch.long)).evaluate(x.reshape(-1, 2))
    value, layers = value.reshape(x.shape[:2]), layers_of(query)
    assert layers is not None
    proven = 0
    for share in (0.05, 0.5, 0.95, 1.3):  # of the way from each box's bound to its smallest value, and beyond
        cutoff = found.boxes.bound + share * (value.amin(1) - found.boxes.bound)
        nothing, rows, offset = Cutoff(query, layers)(found, cutoff, 0)
        assert bool((value[nothing] > cutoff[nothing].unsqueeze(1) - 1e-9).all())
        plane = (x @ rows.unsqueeze(2)).squeeze(2) + offset.unsqueeze(1)
        below = (value <= cutoff.unsqueeze(1)) & ~nothing.unsqueeze(1)
        assert bool((plane <= value + 1e-9)[below].all())
        proven += int(nothing.sum())
    assert proven > 0, "no box was left out that its bound had not closed"


@pytest.mark.parametrize("slope", SLOPES)
@pytest.mark.parametrize("seed", range(3))
def test_the_optimum_is_that_of_enumeration(seed, slope):
    query = smallest(two_layers(seed, slope)).query
    ledger = Ledger(query, time_limit=30.0, gap=1e-4)
    search = BoxSearch(query, ledger)
    assert search.work.cutoff is not None and search.work.by_weights
    search.run()
    best = brute_force(query)
    assert bool(ledger.closed.all())
    assert float(ledger.bound) <= best + 1e-7 <= float(ledger.value) + 2e-7
    assert float(ledger.value) - best <= 2e-4 * max(1.0, abs(best))


def test_other_queries_have_no_cutoff_of_this_kind():
    net = two_layers(0)
    box = [net.input >= -2, net.input <= 2]
    hidden = cl.Problem(cl.Minimize(net.output[0] + net["fc2"][0]), box).query
    nearest = cl.Problem(cl.Minimize(cl.norm(net.input, 2)), [*box, net.output[0] >= 0]).query
    assert layers_of(folded(hidden)) is None
    assert layers_of(folded(nearest)) is None
