"""Boxes that input splitting has recorded become certificates; what is wrong in the record costs time, not truth."""

from dataclasses import replace

import kinds
import numpy as np
import pytest
import torch
from torch import nn

import clinch as cl
from clinch.certificates import SavedProof, certify
from clinch.certificates.proof_search import ProofSearch
from clinch.checker.check import check
from clinch.checker.layers import Refused, read_layers
from clinch.errors import CertificateError
from clinch.search.input_split import input_split
from clinch.search.tree import AT_CLAUSE, AT_INPUT, LEAF
from clinch.solver.ledger import Ledger


def network(seed=0, inputs=3):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    return cl.load(model, input_shape=(inputs,))


def unsat(net, seed=0):
    """No input has its first output above what it reaches, or the second one below."""
    x = torch.rand(4000, *net.input_shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    y = net.graph.forward(x, [net.graph.output])[net.graph.output]
    high, low = float(y[:, 0].max()) + 0.05, float(y[:, 1].min()) - 0.05
    either = (net.output[0] >= high) | (net.output[1] <= low)
    return cl.Problem(cl.Minimize(0), [net.input.between(-1, 1), either]).query


def searched(query):
    ledger = Ledger(query, time_limit=60, gap=1e-3, trees=[])
    input_split(query, ledger)
    assert bool(ledger.closed.all())
    return ledger


def proof_of(ledger, bound=None):
    bound = ledger.bound if bound is None else bound
    return certify(ledger.query, bound, ledger.x, time_limit=60, trees=ledger.trees)[0]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_recorded_boxes_are_the_proof(seed, monkeypatch):
    ledger = searched(unsat(network(seed), seed))
    monkeypatch.setattr(ProofSearch, "run", lambda self: pytest.fail("a search of its own"))
    proof = proof_of(ledger)
    assert isinstance(proof, SavedProof), proof
    recorded, kind = ledger.trees[0].of(0), proof.certificate.tensors["tree.kind"]
    assert recorded.finished and AT_INPUT in kind
    # a box has a leaf for each of the two alternatives, and rounding may cost a few splits
    assert (kind == LEAF).sum() <= 2.5 * recorded.leaves + 4
    # children at a clause share their box
    assert (kind == AT_CLAUSE).any()


def test_objectives_and_distances_have_the_bound_that_was_reported():
    net = network(2)
    x = torch.tensor([0.1, -0.2, 0.3])
    for objective in (net.output[0] - net.output[1], cl.norm(net.input - x, p=2)):
        y = float(net.graph.forward(x[None], [net.graph.output])[net.graph.output][0, 2])
        query = cl.Problem(cl.Minimize(objective), [net.input.between(-1, 1), net.output[2] >= y + 0.05]).query
        ledger = searched(query)
        proof = proof_of(ledger)
        assert isinstance(proof, SavedProof), proof
        assert 0 <= float(ledger.bound[0]) - proof.report.bound <= 2e-4 * abs(float(ledger.bound[0])) + 1e-6
        assert kinds.falsehood(proof.certificate, read_layers(*proof.network), proof.report.bound) == ""


def test_a_wrong_record_costs_time_and_proves_nothing():
    ledger = searched(unsat(network(0)))
    tree = ledger.trees[0].tree
    tree.threshold.neg_()
    tree.first[1:].clamp_(max=len(tree) // 2)
    proof = proof_of(ledger)
    assert isinstance(proof, SavedProof) and proof.report.bound == np.inf


def test_what_is_feasible_is_not_certified_from_a_tree_that_says_otherwise():
    net = network(0)
    ledger = searched(unsat(net))
    # the same tree, of a question that inputs meet
    query = replace(ledger.query, atoms=replace(ledger.query.atoms, constant=ledger.query.atoms.constant - 1.0))
    (reason,) = certify(query, torch.tensor([torch.inf], dtype=torch.float64), time_limit=0.3, trees=ledger.trees)
    assert isinstance(reason, CertificateError)


def test_leaves_of_one_box_cannot_borrow_from_another():
    """Leaves that share a box are looked at once: a leaf whose box is widened loses its proof."""
    proof = proof_of(searched(unsat(network(0))))
    layers, sha256 = read_layers(*proof.network), proof.network[0]["sha256"]
    tensors = dict(proof.certificate.tensors)
    threshold, kind = tensors["tree.threshold"].copy(), tensors["tree.kind"]
    first = int(np.flatnonzero(kind == AT_INPUT)[0])
    threshold[first] = 0.999
    with pytest.raises(Refused):
        check(proof.certificate._replace(tensors={**tensors, "tree.threshold": threshold}), layers, sha256)


def test_sharing_boxes_changes_no_margin(monkeypatch):
    proof = proof_of(searched(unsat(network(1), 1)))
    layers, sha256 = read_layers(*proof.network), proof.network[0]["sha256"]
    together = check(proof.certificate, layers, sha256)
    monkeypatch.setattr("clinch.checker.check.LEAVES", 1)
    alone = check(proof.certificate, layers, sha256)
    assert alone.leaves == together.leaves and abs(alone.margin - together.margin) <= 1e-9
