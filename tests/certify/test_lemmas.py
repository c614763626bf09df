"""Lemmas: narrower limits of activations are proven from multipliers, hold everywhere, and forgeries prove nothing."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from exact_checker import ExactChecker
from torch import nn

import clinch as cl
from clinch.certificates import produce
from clinch.certificates.lemmas import LemmaSearch
from clinch.certificates.produce import Plan, SavedProof, certify
from clinch.checker.certificate import read_certificate, read_network
from clinch.checker.check import check
from clinch.checker.layers import Refused, read_layers


def deep(seed, n=3, width=6):
    """Three layers of ReLUs, two outputs."""
    torch.manual_seed(seed)
    sizes, layers = [n, width, width, width], []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return cl.load(nn.Sequential(*layers, nn.Linear(width, 2)).eval(), input_shape=(n,))


def question(seed):
    net = deep(seed)
    return net, cl.Problem(cl.Minimize(net.output[0]), [net.input.between(-1, 1)]).query


def proof_of(seed, below=0.3, rounds=2, monkeypatch=None):
    """A certificate from one leaf and its lemmas of the best bound that has one, as much lower."""
    net, query = question(seed)
    monkeypatch.setattr(produce, "_plans", lambda known, distance: [Plan(lemmas=rounds)])
    x = 2 * torch.rand(4000, 3, generator=torch.Generator().manual_seed(seed)) - 1
    least = net.graph.forward(x, [net.graph.output])[net.graph.output][:, 0].amin().double()
    (proof,) = certify(query, least[None] - below, time_limit=20)
    assert isinstance(proof, SavedProof), proof
    return net, query, proof


def changed(proof, claim=None, **tensors):
    certificate = proof.certificate
    given = certificate.tensors | {f"lemma.{name}": t for name, t in tensors.items()}
    given = {name: t for name, t in given.items() if t is not None}
    header = certificate.header if claim is None else {**certificate.header, "claim": {"kind": "bound", "value": claim}}
    return certificate._replace(header=header, tensors=given)


def checked(proof, certificate):
    return check(certificate, read_layers(*proof.network), proof.network[0]["sha256"])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rounds", [1, 2])
def test_certificates_with_lemmas_are_accepted_by_both_checkers(seed, rounds, monkeypatch, tmp_path):
    _, _, proof = proof_of(seed, rounds=rounds, monkeypatch=monkeypatch)
    assert len(proof.certificate.tensors["lemma.activation"])
    beside = proof.save(tmp_path / "c.safetensors")
    report = check(read_certificate(tmp_path / "c.safetensors"), *read_network(beside))
    exact = ExactChecker(proof.network, tuple(proof.certificate))
    least = float(min(exact.margins()))
    # where lemmas contradict each other nothing is left that could contradict the claim
    assert report.margin <= least and (np.isinf(least) or least - report.margin <= 1e-9 * (1 + abs(least)))


@pytest.mark.parametrize("seed", range(4))
def test_lemmas_hold_for_every_input_that_could_contradict_the_claim(seed):
    """At samples: all of them in the first round, those better than the claim in the second; and they are narrower."""
    _, query = question(seed)
    x = 2 * torch.rand(20000, 3, dtype=torch.float64) - 1
    graph = query.graph
    values = graph.forward(x, range(len(graph.nodes)))
    objective = values[graph.output][:, 0]
    goal = float(objective.quantile(0.1))
    prepared, about = produce._as_the_format(query, None)
    positions = []
    layers = read_layers(*about.network, positions)
    header, stated = produce._statement(prepared)
    certified = produce.certified_query(produce.Certificate(header, stated), layers)
    checked = produce.CheckedNetwork(layers, positions)
    search = LemmaSearch(prepared, certified.better_than(goal), goal, checked, lambda: False)
    before = [box.upper - box.lower for box in search.network.limits]
    for conditions, chosen in ((False, objective < torch.inf), (True, objective < goal)):
        search.round(conditions)
        for i, position in enumerate(positions):
            if position in search.proven:
                low, high = search.proven[position]
                seen = values[i].flatten(1)[chosen].numpy()
                assert (seen >= low - 1e-12).all() and (seen <= high + 1e-12).all()
    gained = [np.max(before[i] - (box.upper - box.lower)) for i, box in search.proven.items()]
    assert max(gained) > 1e-3


@pytest.mark.parametrize(
    "name, change",
    [
        ("weight", lambda t: t - 1.0), ("mu", lambda t: np.ones((len(t), 1))), ("alpha", lambda t: t + 1.5),
        ("alpha", lambda t: t - 1.5), ("side", lambda t: t + 2), ("activation", lambda t: t + 1000),
        ("columns", lambda t: t * 0), ("alpha", lambda t: t[:-1]), ("weight", lambda t: t[:-1]),
        ("side", lambda t: t[1:]), ("alpha", lambda t: t * np.nan), ("columns", lambda t: None),
        ("weight", lambda t: np.full(t.shape, np.inf)), ("side", lambda t: t.astype(np.float32)),
    ],
)  # fmt: skip
def test_forged_lemmas_are_refused(name, change, monkeypatch):
    _, _, proof = proof_of(0, monkeypatch=monkeypatch)
    forged = change(proof.certificate.tensors[f"lemma.{name}"])
    with pytest.raises(Refused):
        checked(proof, changed(proof, **{name: forged}))


def test_lemmas_that_are_cut_off_are_missed(monkeypatch):
    """The leaf is closed by less, or not at all."""
    _, _, proof = proof_of(0, monkeypatch=monkeypatch)
    none = {name: t[:0] for name, t in proof.certificate.tensors.items() if name.startswith("lemma.")}
    bare = proof.certificate._replace(tensors={**proof.certificate.tensors, **none})
    try:
        assert checked(proof, bare).margin < proof.report.margin
    except Refused as reason:
        assert "not closed" in str(reason)


@pytest.mark.parametrize("seed", range(3))
def test_no_lemmas_prove_what_is_false(seed, monkeypatch):
    """A claim above a value that an input has is refused whatever multipliers stand there: lemmas that assume the
    claim are no circle."""
    net, _, proof = proof_of(seed, monkeypatch=monkeypatch)
    x = 2 * torch.rand(4000, 3) - 1
    seen = net.graph.forward(x, [net.graph.output])[net.graph.output][:, 0]
    rng, t = np.random.default_rng(seed), proof.certificate.tensors
    for claim in (float(seen.min()) + 1e-6, float(seen.quantile(0.01)), float(seen.max()) + 1.0):
        for _ in range(12):
            weight = rng.choice([0.0, 0.1, 1.0, 50.0, 1e8], t["lemma.weight"].shape)
            alpha = rng.choice([0.0, 0.5, 1.0], t["lemma.alpha"].shape)
            order = rng.permutation(len(weight)) if rng.random() < 0.5 else np.arange(len(weight))
            activation, side = t["lemma.activation"][order], rng.integers(0, 2, len(weight))
            false = changed(proof, claim, weight=weight, alpha=alpha, activation=activation, side=side)
            with pytest.raises(Refused):
                checked(proof, false)


def test_a_liar_in_the_search_is_found_out(monkeypatch):
    """A search for lemmas that thinks limits narrower than they are proves nothing that is false."""
    honest = LemmaSearch.round

    def lying(self, conditions):
        honest(self, conditions)
        for i, (low, high) in self.proven.items():
            middle, half = (low + high) / 2, (high - low) / 8
            self.network.cut(i, type(self.network.limits[i])(middle - half, middle + half))

    monkeypatch.setattr(LemmaSearch, "round", lying)
    monkeypatch.setattr(produce, "_plans", lambda known, distance: [Plan(lemmas=1)])
    net, query = question(1)
    seen = net.graph.forward(2 * torch.rand(4000, 3) - 1, [net.graph.output])[net.graph.output][:, 0]
    (proof,) = certify(query, seen.min()[None].double() + 0.02, time_limit=10)
    assert not isinstance(proof, SavedProof) or proof.report.bound <= float(seen.min())
