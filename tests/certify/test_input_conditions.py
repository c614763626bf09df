"""Conditions on one input element cut the boxes of a certificate's leaves, and nothing else does."""

import numpy as np
import pytest
import torch
from exact_checker import ExactChecker

import clinch as cl
from clinch.certificates import SavedProof
from clinch.checker.check import check
from clinch.checker.layers import Refused, read_layers
from clinch.checker.lines import Box
from clinch.checker.question import CertifiedQuery, certified_query, input_ends
from clinch.checker.tree import AT_CLAUSE, leaves_of


def asked(seed):
    """Inputs of two or three values, and a linear condition between them."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).double().eval()
    net = cl.load(model, input_shape=(5,))
    x = net.input
    values = x.integer() if seed % 2 else x.multiple_of(0.5)
    return cl.Problem(cl.Maximize(net.output[0]), [x.between(0, 1), values, x.sum() <= 3])


@pytest.fixture(scope="module", params=[0, 3])
def case(request):
    problem = asked(request.param)
    solution = problem.solve(20, gap=1e-6, certificate=True)
    return problem, solution


def test_bounds_over_discrete_inputs_are_certified_as_they_are_reported(case):
    _, solution = case
    proof, bound = solution.certificate, -float(solution.bound)
    assert isinstance(proof, SavedProof)
    assert proof.report.bound >= bound - 1.001 * max(1e-8, 1e-6 * abs(bound))
    # over the box alone nothing of the kind holds
    assert AT_CLAUSE in proof.certificate.tensors["tree.kind"]


def test_the_exact_checker_accepts_them_too(case):
    _, solution = case
    proof = solution.certificate
    assert min(ExactChecker(proof.network, tuple(proof.certificate)).margins()) > 0


@pytest.mark.parametrize("forged", ["another element too", "another layer too", "wrong side", "beyond"])
def test_a_condition_that_says_something_else_cuts_nothing(case, forged):
    """Each change takes away or moves what the leaves rest on."""
    _, solution = case
    proof = solution.certificate
    layers = read_layers(*proof.network)
    tensors = {name: t.copy() for name, t in proof.certificate.tensors.items()}
    # the leaves' multipliers of these conditions are zero or not: the boxes are what matters
    split = np.unique(tensors["tree.index"][tensors["tree.kind"] == AT_CLAUSE])
    atoms = np.flatnonzero(np.isin(tensors["atoms.clause"], split))
    rows = tensors["atoms.rows.input"]
    if forged == "another element too":
        rows[atoms] += 1e-9
    elif forged == "another layer too":
        tensors["atoms.rows.output"] = np.zeros((len(rows), 2))
        tensors["atoms.rows.output"][atoms] = 1.0
    elif forged == "wrong side":
        rows[atoms] *= -1
    else:
        tensors["atoms.constant"][atoms] -= 2.0
    with pytest.raises(Refused):
        check(proof.certificate._replace(tensors=tensors), layers, proof.network[0]["sha256"])


@pytest.mark.parametrize("seed", range(4))
def test_no_input_at_which_an_atom_holds_lies_outside_of_its_ends(seed):
    rng = np.random.default_rng(seed)
    row = rng.normal(size=(12, 3)) * (rng.random((12, 3)) < 0.4)
    hidden = rng.normal(size=(12, 2)) * (rng.random((12, 1)) < 0.3)
    constants, zero = rng.normal(size=12), np.zeros((1, 3))
    forms = {0: np.concatenate([zero, row]), 1: np.concatenate([zero[:, :2], hidden])}
    box = Box(np.full((1, 3), -4.0), np.full((1, 3), 4.0))
    query = CertifiedQuery("none", forms, np.append(0.0, constants), [np.arange(12)], box, [], None)
    with np.errstate(all="ignore"):
        element, least, most = input_ends(query)
    x, h = rng.uniform(-4, 4, (4000, 3)), rng.uniform(-4, 4, (4000, 2))
    holds = x @ row.T + h @ hidden.T + constants <= 0
    inside = (least <= x[:, element]) & (x[:, element] <= most)
    assert (inside | ~holds).all()
    # and of those about one element alone, nothing but what holds is inside, less rounding
    alone = ((row != 0).sum(1) == 1) & ~hidden.any(1)
    assert (np.isfinite(least) | np.isfinite(most) == alone).all()
    assert (holds | ~inside)[:, alone].all()


def test_a_box_is_cut_once_for_each_atom_and_never_turned_over(case):
    _, solution = case
    proof = solution.certificate
    query = certified_query(proof.certificate, read_layers(*proof.network))
    with np.errstate(all="ignore"):
        leaves, _ = leaves_of(proof.certificate, query, query.box, 8, 8)
    assert (leaves.lower <= leaves.upper).all()
    values = np.linspace(0, 1, 3)[:, None, None]
    decided = (leaves.choice >= 0).all(1)
    at = np.abs(leaves.lower[:, :5] - values).min(0)
    assert (at[decided] == 0).all()
