"""Trees of splits at inputs and at any activation become certificates; what is forged in them is refused."""

from functools import cache
from importlib.util import find_spec

import kinds
import numpy as np
import pytest
import torch
from torch import nn

import clinch as cl
from clinch.certificates import SavedProof, certify
from clinch.certificates.part_proof import PartProof
from clinch.checker.check import check
from clinch.checker.layers import Refused, read_layers
from clinch.search.general_split import general_split
from clinch.search.tree import AT_INPUT, AT_NODE
from clinch.solver.ledger import Ledger
from clinch.solver.settings import GeneralSplit

needs_balls = pytest.mark.skipif(find_spec("flint") is None, reason="python-flint is not there")


class Gate(nn.Module):
    """Products of activations, twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second, self.last = nn.Linear(3, 8), nn.Linear(4, 8), nn.Linear(4, 2)

    def forward(self, x):
        """Two numbers."""
        a, b = self.first(x).chunk(2, 1)
        a, b = self.second(a * b).chunk(2, 1)
        return self.last(a * b.relu())


class Attention(nn.Module):
    """Two tokens that look at each other."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.last = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x):
        """Two numbers."""
        h = self.first(x).reshape(-1, 2, 3)
        return self.last((torch.softmax(h @ h.transpose(1, 2), 2) @ h).flatten(1))


def dense(function):
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(3, 5), function, nn.Linear(5, 5), function, nn.Linear(5, 2))


def pool():
    layers = nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 4, 2), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(4, 2)
    return nn.Sequential(*layers)


MODELS = {
    "gate": Gate, "pool": pool, "hard swish": lambda: dense(nn.Hardswish()), "relu": lambda: dense(nn.ReLU()),
    "tanh": lambda: dense(nn.Tanh()), "attention": Attention,
}  # fmt: skip
SMOOTH = ("tanh", "attention")


def cases():
    return [pytest.param(name, marks=needs_balls) if name in SMOOTH else name for name in MODELS]


def largest(net):
    return cl.Problem(cl.Maximize(net.output[0]), [net.input.between(-0.5, 0.5)])


def one_of_two(net):
    either = (net.output[1] >= 0.2) | (net.output[1] <= -0.1)
    return cl.Problem(cl.Minimize(net.output[0]), [net.input.between(-0.5, 0.5), either])


def nearest(net):
    x = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    with torch.no_grad():
        least = float(net.graph.forward(x[None].float())[net.graph.output][0, 0]) + 0.01
    return cl.Problem(
        cl.Minimize(cl.norm(net.input - x, p=2)), [net.input.between(-0.5, 0.5), net.output[0] >= least]
    )  # fmt: skip


@cache
def solved(name, state=largest, inputs=32):
    """Ledger of a general split that has recorded its tree, and the certificate; inputs: as in its settings."""
    torch.manual_seed(0)
    net = cl.load(MODELS[name]().eval(), input_shape=(3,))
    query = state(net).query
    ledger = Ledger(query, time_limit=60, gap=1e-3, trees=[])
    general_split(query, ledger, GeneralSplit(inputs=inputs))
    (proof,) = certify(query, ledger.bound, ledger.x, time_limit=60, trees=ledger.trees)
    assert isinstance(proof, SavedProof), proof
    return ledger, proof


@pytest.mark.parametrize("name", cases())
def test_the_recorded_tree_is_accepted_at_about_the_bound(name):
    ledger, proof = solved(name)
    bound, least = float(ledger.bound[0]), proof.report.bound
    assert 0 <= bound - least <= 2e-5 * abs(bound) + 1e-6
    layers = read_layers(*proof.network)
    assert check(proof.certificate, layers, proof.network[0]["sha256"]).margin > 0
    assert kinds.falsehood(proof.certificate, layers, least) == ""


@pytest.mark.parametrize("state", [one_of_two, nearest])
@pytest.mark.parametrize("name", ["gate", "hard swish"])
def test_conditions_and_distances(name, state):
    ledger, proof = solved(name, state)
    bound, least = float(ledger.bound[0]), proof.report.bound
    assert np.isfinite(bound) and 0 <= bound - least <= 2e-4 * abs(bound) + 1e-6
    assert kinds.falsehood(proof.certificate, read_layers(*proof.network), least) == ""


def test_nothing_is_proven_twice(monkeypatch):
    rounds = []
    monkeypatch.setattr(PartProof, "prove", lambda self, bound: rounds.append(len(self.tree)))
    ledger, _ = solved("gate")
    recorded = ledger.trees[-1].of(0)
    (proof,) = certify(ledger.query, ledger.bound, ledger.x, time_limit=60, trees=ledger.trees)
    assert {AT_INPUT, AT_NODE} >= set(proof.certificate.tensors["tree.kind"].tolist()) - {0}
    assert len(proof.certificate.tensors["tree.kind"]) <= 1.2 * len(recorded.tree) and len(rounds) <= 5


def test_a_wrong_record_costs_time_and_proves_nothing():
    ledger, proof = solved("hard swish")
    known = ledger.trees[-1].of(0)
    known.tree.threshold.neg_()
    known.tree.index.clamp_(max=0)
    try:
        (again,) = certify(ledger.query, ledger.bound, ledger.x, time_limit=60, trees=ledger.trees)
    finally:
        solved.cache_clear()
    assert isinstance(again, SavedProof) and again.report.bound >= proof.report.bound - 1e-4
    assert kinds.falsehood(again.certificate, read_layers(*again.network), again.report.bound) == ""


def test_a_bound_that_is_too_high_is_not_certified():
    ledger, _ = solved("hard swish")
    (proof,) = certify(ledger.query, ledger.bound + 0.05, ledger.x, time_limit=2, trees=ledger.trees)
    assert not isinstance(proof, SavedProof) or proof.report.bound <= float(ledger.value[0])


# --- forged by hand ---------------------------------------------------------------------------------------------------


def split_node(tensors):
    return int((tensors["tree.kind"] == AT_NODE).nonzero()[0][0])


def gap_at_input(tensors, layers):
    """A child without the slab between its threshold and its brother's cannot be said: a threshold outside can."""
    at = int((tensors["tree.kind"] == AT_INPUT).nonzero()[0][0])
    tensors["tree.threshold"][at] = 7.0


def gap_at_node(tensors, layers):
    tensors["tree.threshold"][split_node(tensors)] += 100.0


def wrong_index(tensors, layers):
    tensors["tree.index"][split_node(tensors)] = 10**6


def node_for_input(tensors, layers):
    tensors["tree.kind"][split_node(tensors)] = AT_INPUT


def other_node(tensors, layers):
    # a leaf's multipliers and limits then belong to another activation
    at = split_node(tensors)
    tensors["tree.index"][at] = (tensors["tree.index"][at] + 1) % 8


def swapped_children(tensors, layers):
    at = int((tensors["tree.kind"] == AT_INPUT).nonzero()[0][0])
    first = tensors["tree.first"][at]
    for name in ("tree.kind", "tree.index", "tree.threshold", "tree.first"):
        tensors[name][[first, first + 1]] = tensors[name][[first + 1, first]]


def missing_child(tensors, layers):
    for name in ("tree.kind", "tree.index", "tree.threshold", "tree.first"):
        tensors[name] = tensors[name][:-1]


def closed_early(tensors, layers):
    # half of the tree is one leaf
    for name, value in (("tree.kind", 0), ("tree.index", -1), ("tree.first", -1)):
        tensors[name][1] = value


def shared_child(tensors, layers):
    inner = (tensors["tree.first"] > 0).nonzero()[0]
    tensors["tree.first"][inner[-1]] = tensors["tree.first"][inner[-2]]


def nan_threshold(tensors, layers):
    tensors["tree.threshold"][split_node(tensors)] = np.nan


def nan_multiplier(tensors, layers):
    tensors["leaf.nu"][0] = np.nan


def infinite_slopes(tensors, layers):
    tensors["leaf.slopes"][:] = np.inf


def huge_slopes(tensors, layers):
    tensors["leaf.slopes"] = np.full(tensors["leaf.slopes"].shape, 1e300)


def turned_slopes(tensors, layers):
    tensors["leaf.slopes"] = -10 * tensors["leaf.slopes"] - 5


def few_slopes(tensors, layers):
    tensors["leaf.slopes"] = tensors["leaf.slopes"][:, :-1]


def foreign_multiplier(tensors, layers):
    tensors["leaf.nu"] = np.full(tensors["leaf.nu"].shape, 3.0)


FORGERS = (
    gap_at_input, gap_at_node, wrong_index, node_for_input, missing_child, closed_early, shared_child, nan_threshold,
    nan_multiplier, infinite_slopes, huge_slopes, turned_slopes, few_slopes, foreign_multiplier,
)  # fmt: skip


def forged(proof, forge):
    """What the checker says of a forged certificate: its report, or None where it refuses."""
    layers, sha256 = read_layers(*proof.network), proof.network[0]["sha256"]
    tensors = {key: t.copy() for key, t in proof.certificate.tensors.items()}
    forge(tensors, layers)
    try:
        return check(proof.certificate._replace(tensors=tensors), layers, sha256)
    except Refused:
        return None


@pytest.mark.parametrize("forge", [*FORGERS, swapped_children, other_node])
def test_forged_trees_and_lines_are_refused(forge):
    _, proof = solved("hard swish", inputs=0)
    assert forged(proof, forge) is None


@needs_balls
def test_what_is_forged_and_accepted_is_true():
    _, proof = solved("attention")
    layers = read_layers(*proof.network)
    for forge in (gap_at_input, closed_early, infinite_slopes, huge_slopes, turned_slopes, few_slopes, shared_child):
        report = forged(proof, forge)
        assert report is None or kinds.falsehood(proof.certificate, layers, report.bound) == ""


@pytest.mark.parametrize("name", ["gate", "hard swish"])
def test_no_slope_makes_a_line_false(name):
    """Whatever slopes are stated, what is accepted is true: a bound that is too high is refused with all of them."""
    _, proof = solved(name)
    layers, sha256 = read_layers(*proof.network), proof.network[0]["sha256"]
    header = {**proof.certificate.header, "point": None}
    rng = np.random.default_rng(0)
    for step in range(20):
        tensors = dict(proof.certificate.tensors)
        scale = 10.0 ** rng.uniform(-6, 2)
        tensors["leaf.slopes"] = tensors["leaf.slopes"] + scale * rng.normal(size=tensors["leaf.slopes"].shape)
        claim = {"kind": "bound", "value": proof.report.bound + (2e-3 * abs(proof.report.bound) if step % 2 else -0.1)}
        try:
            check(proof.certificate._replace(header={**header, "claim": claim}, tensors=tensors), layers, sha256)
        except Refused:
            continue
        assert kinds.falsehood(proof.certificate, layers, claim["value"]) == "" and step % 2 == 0
