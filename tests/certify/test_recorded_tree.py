"""The recorded tree of a solve's own search: what grows from it covers, and wrong records cost time, never a proof."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import clinch as cl
from clinch.bounds.domains import Domains
from clinch.certificates import SavedProof, certify, produce
from clinch.certificates.produce import _certify_one
from clinch.certificates.proof_search import ProofSearch
from clinch.certificates.regrow import Layout, layout_of, regrow
from clinch.checker.check import check
from clinch.checker.layers import Refused, read_layers
from clinch.checker.question import certified_query
from clinch.checker.tree import leaves_of
from clinch.errors import CertificateError
from clinch.search import tree as recording
from clinch.search.branch_and_bound import BestFirst
from clinch.search.relu_split import ReluSplit
from clinch.search.tree import AT_CLAUSE, AT_INPUT, AT_RELU, Recorded, SearchTree, TreeRecorder
from clinch.solve import search
from clinch.solver.ledger import Ledger
from clinch.solver.settings import BranchAndBound

NONE = torch.zeros(0, dtype=torch.long)


def same_layout(width, stable=()):
    """The record's elements are the columns; stable ones have none and a sign."""
    column, sign = torch.arange(width), torch.ones(width, dtype=torch.long)
    for at, own in dict(stable).items():
        column[at], sign[at] = -1, own
    return Layout(column, sign, torch.where(column >= 0, column, -1))


def random_tree(seed, width, depth):
    """A random tree of ReLU splits, and the signs on its leaves by their places."""
    rng, tree, leaves = np.random.default_rng(seed), SearchTree(), {}
    going = [(0, np.zeros(width, np.int8))]
    while going:
        place, row = going.pop()
        free = (row == 0).nonzero()[0]
        if not len(free) or (row != 0).sum() >= depth or rng.random() < 0.25:
            leaves[place] = row
            continue
        at = int(rng.choice(free))
        children = tree.split(torch.tensor([place]), AT_RELU, torch.tensor([at]))
        for child, sign in zip(children[0].tolist(), (1, -1)):
            going.append((child, row.copy()))
            going[-1][1][at] = sign
    return tree, leaves


def nothing_known(count, width, clauses=0):
    zero = torch.zeros(count, width)
    problem = torch.zeros(count, dtype=torch.long)
    choice = torch.zeros(count, clauses, dtype=torch.long)
    none = zero.new_zeros(count, 2, 0)
    return Domains(problem, zero.to(torch.int8), choice, zero, zero, zero[:, :0], zero.sum(1), zero.sum(1) + 1, none)


def recorded(tree, places, width):
    places = torch.as_tensor(places)
    return Recorded(tree, 0, {1: torch.arange(width)}, places, nothing_known(len(places), width))


def grown(known, layout, start=NONE, clause=NONE):
    tree = SearchTree()
    return regrow(known, layout, start, clause, tree, torch.arange(len(layout.own))), tree


def covered(split):
    """How often each corner of the cube of signs lies in a leaf."""
    corners = torch.tensor(list(itertools.product((1, -1), repeat=split.shape[1])))
    return ((split[:, None] == 0) | (split[:, None] == corners)).all(2).sum(0)


@pytest.mark.parametrize("seed", range(12))
def test_the_same_limits_give_the_same_tree(seed):
    tree, leaves = random_tree(seed, 7, 6)
    found, made = grown(recorded(tree, list(leaves), 7), same_layout(7))
    assert len(made) == len(tree) and sorted(made.kind.tolist()) == sorted(tree.kind.tolist())
    assert sorted(found.leaf.tolist()) == list(range(len(leaves)))
    assert (found.split == torch.tensor(np.array(list(leaves.values())))[found.leaf]).all()


@pytest.mark.parametrize("seed", range(12))
def test_what_is_stable_is_not_split_and_everything_is_covered(seed):
    tree, leaves = random_tree(seed, 6, 5)
    rng = np.random.default_rng(seed)
    stable = {int(at): int(rng.choice((-1, 1))) for at in rng.choice(6, 2, replace=False)}
    found, made = grown(recorded(tree, list(leaves), 6), same_layout(6, stable))
    assert not set(made.index[made.kind == AT_RELU].tolist()) & set(stable)
    assert (covered(found.split) == 1).all()
    signs = np.array(list(leaves.values()))
    for leaf, split in zip(found.leaf.tolist(), found.split.numpy()):
        assert all(signs[leaf][at] in (0, sign) for at, sign in stable.items())
        others = [at for at in range(6) if at not in stable]
        assert (signs[leaf][others] == split[others]).all()


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_recorded_what_grows_covers_everything(seed):
    """Arrays of noise, too: an end comes, and every corner lies in exactly one leaf."""
    rng = np.random.default_rng(seed)
    tree, leaves = random_tree(seed, 6, 5)
    for name, low, high in (("kind", 0, 5), ("index", -2, 9), ("first", -2, len(tree) + 3)):
        column = getattr(tree, name)
        wrong = torch.tensor(rng.random(len(tree)) < 0.3)
        column[wrong] = torch.tensor(rng.integers(low, high, int(wrong.sum()))).to(column.dtype)
    places = [*leaves, -5, len(tree) + 7]
    found, _ = grown(recorded(tree, places, 6), same_layout(6))
    assert (covered(found.split) == 1).all()


def test_clauses_are_split_into_all_of_their_atoms():
    clause, start = torch.tensor([0, 1, 1, 1]), torch.tensor([0, -1])
    tree = SearchTree()
    (atoms,) = tree.split(torch.tensor([0]), AT_CLAUSE, torch.tensor([1]), 3).tolist()
    inner = tree.split(torch.tensor([atoms[1]]), AT_CLAUSE, torch.tensor([0]), 1)  # decided at the root: no split
    signs = tree.split(inner[0], AT_RELU, torch.tensor([0]))
    known = recorded(tree, [*signs[0].tolist(), atoms[2]], 2)
    found, made = grown(known, same_layout(2), start, clause)
    assert made.kind.tolist() == [AT_CLAUSE, 0, AT_RELU, 0, 0, 0]
    assert dict(zip(found.place.tolist(), found.leaf.tolist())) == {1: -1, 3: 2, 4: 0, 5: 1}
    assert dict(zip(found.place.tolist(), found.choice.tolist())) == {1: [0, 1], 3: [0, 3], 4: [0, 2], 5: [0, 2]}


def test_a_tree_grows_node_by_node():
    tree = SearchTree(2)
    left, right = tree.split(torch.tensor([0, 1]), AT_INPUT, torch.tensor([3, 4]), threshold=torch.tensor([0.5, -1.0]))
    assert left.tolist() == [2, 3] and right.tolist() == [4, 5] and len(tree) == 6
    tree.split(torch.tensor([3]), AT_RELU, torch.tensor([7]))
    assert tree.kind.tolist() == [2, 2, 0, 1, 0, 0, 0, 0] and tree.first.tolist() == [2, 4, -1, 6, -1, -1, -1, -1]
    assert tree.threshold.tolist()[:2] == [0.5, -1.0] and tree.index.tolist()[:4] == [3, 4, -1, 7]
    tree.restart(torch.tensor([0]))
    assert tree.kind.tolist()[0] == 0 and tree.first.tolist()[0] == -1


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
        known = ledger.trees[-1].of(0) if ledger.trees else None
        enough = known is not None and len(known.domains) >= least
        if enough and bool(ledger.closed.all()) and bool(ledger.value.isfinite()):
            return asked, ledger
    raise AssertionError("no search with a tree")


@pytest.fixture(scope="module", params=[2, cl.inf])
def case(request):
    return solved(request.param)


def again(proof):
    return check(proof.certificate, read_layers(*proof.network), proof.network[0]["sha256"])


class Stated(TreeRecorder):
    """A record that somebody made up."""

    def __init__(self, known):
        super().__init__(torch.tensor([0]))
        self.known = known

    def of(self, problem):
        return self.known


def made(case, known, seconds=20.0):
    asked, ledger = case
    trees = [] if known is None else [Stated(known)]
    return certify(asked.query, ledger.bound, ledger.x, time_limit=seconds, trees=trees)[0]


def test_searches_record_only_where_they_are_asked_to():
    asked = problem(0, 2)
    ledger = Ledger(asked.query, time_limit=1)
    search(asked.query, ledger)
    assert ledger.trees is None


def test_the_recorded_tree_covers_and_its_leaves_close_almost_all(case, monkeypatch):
    _asked, ledger = case
    known = ledger.trees[-1].of(0)
    open_ = []
    start = ProofSearch._regrow
    monkeypatch.setattr(
        ProofSearch, "_regrow", lambda self, *a: (start(self, *a), open_.append(len(self.search.store)))
    )  # fmt: skip
    proof = made(case, known)
    assert isinstance(proof, SavedProof)
    assert again(proof) == proof.report
    assert proof.report.bound >= float(ledger.bound) * (1 - 2e-5) - 1e-6
    assert open_[0] <= 0.2 * len(known.domains) + 2  # what lies between the two limits, and lone atoms


def test_both_ways_certify_the_same_bound(case):
    _, ledger = case
    with_leaves, without = made(case, ledger.trees[-1].of(0)), made(case, None)
    assert with_leaves.certificate.header["claim"] == without.certificate.header["claim"]


def changed(known, **columns):
    return known._replace(domains=replace(known.domains, **columns))


def few(known):
    rows = torch.arange(0, len(known.places), 2)
    return known._replace(places=known.places[rows], domains=known.domains.take(rows))


def shuffled(known):
    order = torch.randperm(len(known.places), generator=torch.Generator().manual_seed(0))
    return known._replace(places=known.places[order])


def columns_shuffled(known):
    order = torch.randperm(known.domains.alpha.shape[1], generator=torch.Generator().manual_seed(0))
    return changed(known, alpha=known.domains.alpha[:, order], beta=known.domains.beta[:, order])


def nan(known):
    d = known.domains
    return changed(known, alpha=d.alpha * torch.nan, beta=d.beta * torch.nan, mu=d.mu * torch.nan)


def unsplit(known):
    return known._replace(tree=SearchTree(), root=0)


def tangled(known):
    """Every child belongs to somebody else."""
    tree = SearchTree()
    tree.__dict__.update(
        {name: t.clone() if isinstance(t, torch.Tensor) else t for name, t in vars(known.tree).items()}
    )
    inner = (tree.kind != 0).nonzero().flatten()
    tree.first[inner] = tree.first[inner.roll(1)]
    return known._replace(tree=tree)


def enlarged(known):
    d = known.domains
    return changed(known, bound=d.bound + 100, beta=d.beta * 1e6, alpha=d.alpha - 7)


@pytest.mark.parametrize("wrong", [few, shuffled, columns_shuffled, nan, unsplit, tangled, enlarged])
def test_wrong_records_prove_nothing_wrong(case, wrong):
    """Whatever record is handed in, the certificate is accepted and its bound is below the best input's value."""
    _, ledger = case
    proof = made(case, wrong(ledger.trees[-1].of(0)), seconds=6.0)
    assert isinstance(proof, SavedProof)
    assert again(proof) == proof.report
    assert proof.report.bound <= float(ledger.value) + 1e-9


def test_a_tree_without_some_of_its_leaves_is_refused_or_proven_by_search(case, monkeypatch):
    """Where the missing leaves' places are claimed to be closed, the checker says no: all is proven from nothing."""
    _, ledger = case
    calls = []

    def broken(self):
        calls.append(self.known is not None)
        if self.known is None:
            return run(self)
        self._regrow(self.known, self._first())
        waiting = self.search.store.nodes()
        self.finish(waiting)
        self.search.store.clear()
        return None

    run = ProofSearch.run
    monkeypatch.setattr(ProofSearch, "run", broken)
    proof = made(case, few(ledger.trees[-1].of(0)))
    # the second time with more slack, which does not help either; a record that a slow machine did not finish in time
    # is preceded by a short try from nothing
    assert calls[-3:] == [True, True, False]
    assert again(proof) == proof.report


def test_leaves_of_another_layout_are_used_as_far_as_they_fit(case):
    asked, ledger = case
    known = ledger.trees[-1].of(0)
    node, which = next(iter(known.elements.items()))
    part = known._replace(elements={node: which})
    part = changed(part, **{name: getattr(known.domains, name)[:, : len(which)] for name in ("alpha", "beta")})
    found = ProofSearch(asked.query.narrowed(ledger.bound), 0.0, 10.0, own=False)
    assert int((layout_of(part, found.root).own >= 0).sum()) <= len(which)
    assert isinstance(made(case, part), SavedProof)


def test_the_tree_of_a_certificate_is_walked_by_the_checker(case):
    _, ledger = case
    proof = made(case, ledger.trees[-1].of(0))
    tensors = proof.certificate.tensors
    assert set(tensors["tree.kind"].tolist()) <= {0, AT_RELU, AT_CLAUSE}
    query = certified_query(proof.certificate, read_layers(*proof.network))
    found, _ = leaves_of(proof.certificate, query, query.box, 28, 0)
    assert len(found.signs) == proof.report.leaves
    at = int((tensors["tree.kind"] != 0).nonzero()[0][0])
    tensors = {**tensors, "tree.first": tensors["tree.first"].copy()}
    tensors["tree.first"][at] = -1
    with pytest.raises(Refused):
        leaves_of(proof.certificate._replace(tensors=tensors), query, query.box, 28, 0)


def test_too_many_leaves_are_not_kept(case, monkeypatch):
    asked, _ = case
    monkeypatch.setattr(recording, "MEMORY", 1000)
    ledger = Ledger(asked.query, time_limit=10, gap=1e-3, trees=[])
    search(asked.query, ledger)
    assert ledger.trees[-1].full
    assert ledger.trees[-1].of(0) is None


def test_an_interrupted_search_leaves_its_open_domains(case, monkeypatch):
    asked, whole = case

    ledger = Ledger(asked.query, time_limit=10, gap=1e-3, trees=[])
    ledger.offer(whole.x, "known", torch.tensor([0]))
    round_ = BestFirst.round
    monkeypatch.setattr(BestFirst, "round", lambda self: (round_(self), setattr(ledger, "_deadline", -1.0)))
    ReluSplit(asked.query, ledger, BranchAndBound(batch=2)).run()
    assert not bool(ledger.closed.all())
    leaves = ledger.trees[-1].of(0)
    assert leaves is not None
    assert not leaves.finished
    proof = certify(asked.query, ledger.bound, ledger.x, time_limit=20, trees=ledger.trees)[0]
    assert isinstance(proof, SavedProof)


def test_solve_hands_its_tree_on(case, monkeypatch):
    asked, _ = case
    seen = []
    monkeypatch.setattr(
        "clinch.certificates.produce._certify_one",
        lambda *a: (seen.append(a[-1]), _certify_one(*a))[1],
    )
    solution = asked.solve(10, gap=1e-3, certificate=True)
    assert solution.certificate is not None
    assert isinstance(seen[0].known, Recorded)


@pytest.mark.parametrize("seed", [0, 5])
def test_clauses_below_the_root_are_recorded_too(seed):
    """Two disjunctions: one alternative of the larger one for each branch, the other is split where it is broken."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(20, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)).eval()
    net, x = cl.load(model, input_shape=(20,)), torch.rand(20)
    out, z = model(x[None])[0].detach(), net.output
    first = net.input[0] - net.input[1] >= float(x[0] - x[1]) + 0.3
    other = net.input[2] + z[0] <= float(x[2] + out[0]) - 0.1
    limits = [net.input.between(0, 1), z.argmax() != int(out.argmax()), first | other]
    asked = cl.Problem(cl.Minimize(cl.norm(net.input - x, p=2)), limits)
    ledger = Ledger(asked.query, time_limit=20, gap=1e-3, trees=[])
    ReluSplit(asked.query, ledger).run()
    known = ledger.trees[-1].of(0)
    assert bool(ledger.closed.all())
    assert int((known.tree.kind == AT_CLAUSE).sum()) > 1
    proof = made((asked, ledger), known)
    assert isinstance(proof, SavedProof)
    assert again(proof) == proof.report
    assert proof.certificate.header["claim"] == made((asked, ledger), None).certificate.header["claim"]


def test_trees_of_relus_that_came_to_their_end_are_used_with_few_inputs_too():
    torch.manual_seed(8)
    layers = [torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Linear(12, 12), torch.nn.ReLU(), torch.nn.Linear(12, 2)]
    net = cl.load(torch.nn.Sequential(*layers).double().eval(), input_shape=(6,))
    problem = cl.Problem(cl.Minimize(net.output[0] - net.output[1]), [net.input.between(-1, 1)])
    ledger = Ledger(problem.query, time_limit=20, gap=1e-4, trees=[])
    ReluSplit(problem.query, ledger).run()
    found = ledger.trees[0].of(0)
    assert isinstance(found, Recorded) and found.finished and found.leaves > 1
    (proof,) = certify(problem.query, ledger.bound, time_limit=20, trees=ledger.trees)
    assert isinstance(proof, SavedProof) and proof.report.bound >= float(ledger.bound) - 1e-6 * abs(ledger.bound)
    assert set(proof.certificate.tensors["tree.kind"].tolist()) == {0, AT_RELU}


@pytest.mark.parametrize("bounds", [[-3.0, -2.0, -2.5], [-3.0, None, -2.5]])
def test_a_plan_that_proves_less_is_not_the_last_one(bounds, monkeypatch):
    """What proves all ends it; otherwise the best of them is what there is."""
    made = iter([*bounds, -1.0, -1.0])

    def one(query, bound, point, seconds, about, plan):
        if (proven := next(made)) is None:
            raise CertificateError("No.")
        return SimpleNamespace(report=SimpleNamespace(bound=proven))

    monkeypatch.setattr(produce, "_certify_one", one)
    monkeypatch.setattr(produce, "_plans", lambda known, distance: [produce.Plan()] * 3)
    net = cl.load(torch.nn.Linear(2, 1).eval(), input_shape=(2,))
    query = cl.Problem(cl.Minimize(net.output[0]), [net.input.between(-1, 1)]).query
    (best,) = certify(query, torch.tensor([-2.0], dtype=torch.float64), time_limit=20)
    assert best.report.bound == max(bound for bound in bounds if bound is not None)
