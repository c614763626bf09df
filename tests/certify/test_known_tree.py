"""Leaves of a solve's own search: a tree built from them covers, and wrong ones cost time, never a wrong proof."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

import clinch as cl
from clinch.certificates import SavedProof, certify
from clinch.certificates.known_tree import aligned, plant
from clinch.certificates.produce import _certify_one
from clinch.certificates.search import Search
from clinch.certify.check import check
from clinch.certify.layers import Refused, read_layers
from clinch.certify.tree import AT_CLAUSE, AT_RELU, leaves_of
from clinch.exact.closed_leaves import ClosedLeaves, Leaves
from clinch.ledger import Ledger
from clinch.solve import search

NONE = torch.zeros(0, dtype=torch.long)


def divider(tree):
    """Notes what is split: node -> (column or clause, at a clause, children)."""

    def divide(nodes, index, at_clause, children):
        new = len(tree) + torch.arange(len(nodes) * children).reshape(-1, children)
        for node, at, own in zip(nodes.tolist(), index.tolist(), new.tolist()):
            tree[node] = (at, at_clause, own)
        tree.update({node: None for node in new.flatten().tolist()})
        return new

    return divide


def random_leaves(seed, width, depth):
    """Sign rows of a random tree, shuffled."""
    rng, done, going = np.random.default_rng(seed), [], [np.zeros(width, np.int8)]
    while going:
        row = going.pop()
        free = (row == 0).nonzero()[0]
        if not len(free) or (row != 0).sum() >= depth or rng.random() < 0.25:
            done.append(row)
            continue
        at = rng.choice(free)
        for sign in (1, -1):
            going.append(row.copy())
            going[-1][at] = sign
    return torch.tensor(np.array(done)[rng.permutation(len(done))])


def covered(split):
    """How often each corner of the cube of signs lies in a leaf."""
    corners = torch.tensor(list(itertools.product((1, -1), repeat=split.shape[1])))
    return ((split[:, None] == 0) | (split[:, None] == corners)).all(2).sum(0)


def planted(split):
    choice = torch.zeros(len(split), 0, dtype=torch.long)
    return plant(split, choice, NONE, NONE, divider({0: None}))


@pytest.mark.parametrize("seed", range(12))
def test_the_leaves_of_a_tree_give_a_tree_with_the_same_leaves(seed):
    split = random_leaves(seed, 7, 6)
    found = planted(split)
    assert sorted(found.leaf.tolist()) == list(range(len(split)))
    assert (found.split == split[found.leaf]).all()


@pytest.mark.parametrize("seed", range(12))
def test_what_is_built_covers_everything_whatever_leaves_are_given(seed):
    rng = np.random.default_rng(seed)
    split = random_leaves(seed, 6, 5)
    some = split[torch.tensor(rng.random(len(split)) < 0.7)]
    noise = torch.tensor(rng.integers(-1, 2, (int(rng.integers(0, 12)), 6)), dtype=torch.int8)
    for given in (some, noise, torch.cat([some, noise]), split[:0]):
        found = planted(given)
        assert (covered(found.split) == 1).all()
        closed = found.leaf >= 0
        # a leaf is closed by one whose conditions all hold there
        own = given[found.leaf[closed]]
        assert ((own == 0) | (own == found.split[closed])).all()


def test_clauses_are_split_into_all_of_their_atoms():
    clause = torch.tensor([0, 1, 1, 1])
    start = torch.tensor([0, -1])
    choice = torch.tensor([[0, 1], [0, 1], [0, 3], [0, 0], [0, -1]])
    split = torch.tensor([[1, 0], [-1, 0], [0, 0], [0, 1], [0, 0]], dtype=torch.int8)[:4]
    tree = {0: None}
    found = plant(split, choice[:4], start, clause, divider(tree))
    assert tree[0] == (1, True, [1, 2, 3])
    # atom 1 with both signs, atom 2 without a leaf, atom 3; the fourth leaf names an atom of another clause
    assert dict(zip(found.node.tolist(), found.leaf.tolist())) == {2: -1, 3: 2, 4: 0, 5: 1}
    assert found.choice.tolist() == [[0, 2], [0, 3], [0, 1], [0, 1]]


def problem(seed, p):
    """A distance with a disjunction, and more inputs than boxes are halved for."""
    torch.manual_seed(seed)
    parts = [torch.nn.Linear(20, 16), torch.nn.ReLU(), torch.nn.Linear(16, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3)]
    model = torch.nn.Sequential(*parts).eval()
    net, x = cl.load(model, input_shape=(20,)), torch.rand(20)
    label = int(model(x[None]).argmax())
    return cl.Problem(cl.Minimize(cl.norm(net.input - x, p=p)), [net.input.between(0, 1), net.output.argmax() != label])


def solved(p, least=12, gap=1e-3):
    for seed in range(30):
        asked = problem(seed, p)
        ledger = Ledger(asked.query, time_limit=10, gap=gap, trees=[])
        search(asked.query, ledger)
        leaves = ledger.trees[-1].of(0) if ledger.trees else None
        enough = leaves is not None and len(leaves.domains) >= least
        if enough and bool(ledger.closed.all()) and bool(ledger.value.isfinite()):
            return asked, ledger
    raise AssertionError("no search with a tree")


@pytest.fixture(scope="module", params=[2, cl.inf])
def case(request):
    return solved(request.param)


def again(proof):
    return check(proof.certificate, read_layers(*proof.network), proof.network[0]["sha256"])


class Listed(ClosedLeaves):
    """Leaves that somebody made up."""

    def __init__(self, leaves):
        super().__init__()
        self.leaves = leaves

    def of(self, problem):
        return self.leaves


def made(case, leaves, seconds=20.0):
    asked, ledger = case
    trees = [] if leaves is None else [Listed(leaves)]
    return certify(asked.query, ledger.bound, ledger.x, time_limit=seconds, trees=trees)[0]


def test_searches_keep_leaves_only_where_they_are_asked_for():
    asked = problem(0, 2)
    ledger = Ledger(asked.query, time_limit=1)
    search(asked.query, ledger)
    assert ledger.trees is None


def test_the_leaves_of_a_search_cover_and_close_almost_all(case, monkeypatch):
    _asked, ledger = case
    leaves = ledger.trees[-1].of(0)
    open_ = []
    replanted = Search._replanted
    monkeypatch.setattr(Search, "_replanted", lambda self, known: open_.append(replanted(self, known)) or open_[-1])
    proof = made(case, leaves)
    assert isinstance(proof, SavedProof)
    assert again(proof) == proof.report
    assert proof.report.bound >= float(ledger.bound) * (1 - 2e-5) - 1e-6
    assert len(open_[0].node) <= 0.2 * len(leaves.domains) + 2  # what lies between the two limits, and lone atoms


def test_both_ways_certify_the_same_bound(case):
    _, ledger = case
    with_leaves, without = made(case, ledger.trees[-1].of(0)), made(case, None)
    assert with_leaves.certificate.header["claim"] == without.certificate.header["claim"]


def few(leaves):
    return leaves.domains.take(torch.arange(0, len(leaves.domains), 2))


def flipped(leaves):
    return replace(leaves.domains, split=-leaves.domains.split)


def shuffled(leaves):
    order = torch.randperm(leaves.domains.split.shape[1], generator=torch.Generator().manual_seed(0))
    return replace(leaves.domains, split=leaves.domains.split[:, order])


def nan(leaves):
    d = leaves.domains
    return replace(d, alpha=d.alpha * torch.nan, beta=d.beta * torch.nan, mu=d.mu * torch.nan)


def unsplit(leaves):
    return replace(leaves.domains, split=torch.zeros_like(leaves.domains.split)).take(torch.tensor([0]))


def enlarged(leaves):
    d = leaves.domains
    return replace(d, bound=d.bound + 100, beta=d.beta * 1e6, alpha=d.alpha - 7)


@pytest.mark.parametrize("wrong", [few, flipped, shuffled, nan, unsplit, enlarged])
def test_wrong_leaves_prove_nothing_wrong(case, wrong):
    """Whatever leaves are handed in, the certificate is accepted and its bound is below the best input's value."""
    _, ledger = case
    leaves = ledger.trees[-1].of(0)
    proof = made(case, leaves._replace(domains=wrong(leaves)), seconds=6.0)
    assert isinstance(proof, SavedProof)
    assert again(proof) == proof.report
    assert proof.report.bound <= float(ledger.value) + 1e-9


def test_a_tree_without_one_of_its_leaves_is_refused_or_proven_by_search(case, monkeypatch):
    """Where the missing leaf's place is claimed to be closed, the checker says no, and all is proven from nothing."""
    _, ledger = case
    leaves = ledger.trees[-1].of(0)
    calls = []

    def broken(self):
        calls.append(self.known is not None)
        if self.known is None:
            return run(self)
        waiting = self._replanted(self.known)
        self._close(waiting.node, waiting.domains)
        return None

    run = Search.run
    monkeypatch.setattr(Search, "run", broken)
    proof = made(case, leaves._replace(domains=few(leaves)))
    assert calls == [True, True, False]  # the second time with more slack, which does not help either
    assert again(proof) == proof.report


def test_leaves_of_another_layout_are_used_as_far_as_they_fit(case):
    asked, ledger = case
    leaves = ledger.trees[-1].of(0)
    node, which = next(iter(leaves.places.items()))
    keep = torch.arange(len(which))
    part = Leaves({node: which}, replace(leaves.domains, **{
        name: getattr(leaves.domains, name)[:, keep] for name in ("split", "alpha", "beta")
    }))  # fmt: skip
    found = Search(asked.query.narrowed(ledger.bound), 0.0, 10.0, own=False)
    assert int(aligned(part, found.root).known.sum()) <= len(which)
    assert isinstance(made(case, part), SavedProof)


def test_the_tree_of_a_certificate_is_walked_by_the_checker(case):
    _, ledger = case
    proof = made(case, ledger.trees[-1].of(0))
    tensors = proof.certificate.tensors
    assert set(tensors["tree.kind"].tolist()) <= {0, AT_RELU, AT_CLAUSE}
    clauses = [np.arange(2)]
    found = leaves_of(proof.certificate, np.zeros(20), np.ones(20), 28, clauses)
    assert len(found.signs) == proof.report.leaves
    at = int((tensors["tree.kind"] != 0).nonzero()[0][0])
    tensors = {**tensors, "tree.first": tensors["tree.first"].copy()}
    tensors["tree.first"][at] = -1
    with pytest.raises(Refused):
        leaves_of(proof.certificate._replace(tensors=tensors), np.zeros(20), np.ones(20), 28, clauses)


def test_too_many_leaves_are_not_kept(case, monkeypatch):
    asked, _ = case
    monkeypatch.setattr("clinch.exact.closed_leaves.MEMORY", 1000)
    ledger = Ledger(asked.query, time_limit=10, gap=1e-3, trees=[])
    search(asked.query, ledger)
    assert ledger.trees[-1].full
    assert ledger.trees[-1].of(0) is None


def test_an_interrupted_search_leaves_its_open_domains(case, monkeypatch):
    asked, whole = case
    from clinch.exact.branch_and_bound import Search as Branching

    ledger = Ledger(asked.query, time_limit=10, gap=1e-3, trees=[])
    ledger.offer(whole.x, "known", torch.tensor([0]))
    round_ = Branching._round
    monkeypatch.setattr(Branching, "_round", lambda self: (round_(self), setattr(ledger, "_deadline", -1.0)))
    Branching(asked.query, ledger, 2).run()
    assert not bool(ledger.closed.all())
    leaves = ledger.trees[-1].of(0)
    assert leaves is not None
    assert not leaves.finished
    proof = certify(asked.query, ledger.bound, ledger.x, time_limit=20, trees=ledger.trees)[0]
    assert isinstance(proof, SavedProof)


def test_solve_hands_its_leaves_on(case, monkeypatch):
    asked, _ = case
    seen = []
    monkeypatch.setattr(
        "clinch.certificates.produce._certify_one",
        lambda *a: (seen.append(a[-1]), _certify_one(*a))[1],
    )
    solution = asked.solve(10, gap=1e-3, certificate=True)
    assert solution.certificate is not None
    assert isinstance(seen[0].known, Leaves)
