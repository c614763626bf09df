"""The checker beside one in rational numbers that shares nothing with it: margins agree up to rounding, safely."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from exact_checker import ExactChecker
from torch import nn

import clinch as cl
from clinch.certificates import SavedProof, certify
from clinch.checker.certificate import NETWORK, read_certificate, read_file, read_network
from clinch.checker.check import check
from clinch.checker.layers import Refused, read_layers
from clinch.search.general_split import general_split
from clinch.search.input_split import input_split
from clinch.solver.ledger import Ledger
from clinch.solver.settings import GeneralSplit

#: random certificates; more of them by setting it
COUNT = int(os.environ.get("CLINCH_EXACT", "9"))


def random_proof(seed):
    """A certificate from boxes, from general splits or from nothing, of a bound or of infeasibility."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    n, width = int(rng.integers(1, 4)), int(rng.integers(2, 5))
    bent = nn.LeakyReLU(0.25) if seed % 5 == 0 else nn.ReLU()
    model = nn.Sequential(nn.Linear(n, width), bent, nn.Linear(width, width), bent, nn.Linear(width, 3)).eval()
    net = cl.load(model, input_shape=(n,))
    box, z = net.input.between(-1, 1), net.output
    kind = seed % 3
    conditions = [box] if kind == 0 else [box, (z[1] >= z[0] + 0.1) | (z[2] >= z[0] + 0.2)]
    objective = 0 if kind == 2 else z[0] - z[1]
    if kind == 2:
        y = net.graph.forward(2 * torch.rand(3000, n) - 1, [net.graph.output])[net.graph.output]
        conditions = [box, (z[0] >= float(y[:, 0].max()) + 0.02) | (z[1] <= float(y[:, 1].min()) - 0.02)]
    query = cl.Problem(cl.Minimize(objective), conditions).query
    ledger = Ledger(query, time_limit=20, gap=1e-3, trees=[])
    if seed % 2:
        input_split(query, ledger)
    else:
        general_split(query, ledger, GeneralSplit(inputs=0 if seed % 4 else 32))
    trees = ledger.trees if seed % 4 else ()
    # a weaker bound has fewer leaves
    bound = ledger.bound if kind == 2 else ledger.bound - 0.02
    (proof,) = certify(query, bound, ledger.x, time_limit=20, trees=trees)
    return proof


def margins_of(proof, tensors):
    certificate = proof.certificate
    return ExactChecker(proof.network, (certificate.header, tensors)).margins()


@pytest.mark.parametrize("seed", range(COUNT))
def test_both_checkers_agree_up_to_rounding(seed):
    proof = random_proof(seed)
    if not isinstance(proof, SavedProof):
        assert "a feasible input" in str(proof)
        return
    found = margins_of(proof, proof.certificate.tensors)
    assert len(found) == proof.report.leaves
    least = float(min(found))
    # what is accepted is true, and rounding costs little
    assert least > 0 and proof.report.margin <= least
    # where limits just exclude each other rounding cannot see it
    assert np.inf in found or least - proof.report.margin <= 1e-9 * (1 + abs(least))


@pytest.mark.parametrize("seed", range(0, COUNT, 3))
def test_changed_multipliers_are_judged_alike(seed):
    """A certificate whose multipliers are weakened is refused by one where the other finds it false, and only then."""
    proof, rng = random_proof(seed), np.random.default_rng(seed)
    if not isinstance(proof, SavedProof) or not 0 < proof.report.leaves <= 60:
        return
    layers, sha256 = read_layers(*proof.network), proof.network[0]["sha256"]
    for _ in range(6):
        tensors = dict(proof.certificate.tensors)
        name = str(rng.choice(["leaf.mu", "leaf.alpha", "leaf.beta", "claim"]))
        certificate = proof.certificate
        if name == "claim" and "value" in certificate.header["claim"]:
            claim = {"kind": "bound", "value": certificate.header["claim"]["value"] + float(rng.choice([1e-4, 0.1]))}
            certificate = certificate._replace(header={**certificate.header, "claim": claim})
        elif name != "claim":
            tensors[name] = (tensors[name] * rng.choice([0, 0.5, 1], tensors[name].shape)).astype(np.float64)
        certificate = certificate._replace(tensors=tensors)
        found = ExactChecker(proof.network, (certificate.header, tensors))
        try:
            report, least = check(certificate, layers, sha256), float(min(found.margins()))
            assert least > 0 and least >= report.margin
        except Refused as reason:
            margins = found.margins() if "not closed" in str(reason) else [0.0]
            assert np.inf in margins or float(min(margins)) <= 1e-9


EXAMPLES, DOCS = Path(__file__).parent / "examples", Path(__file__).parents[2] / "docs" / "certificates.md"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*[!k].safetensors")), ids=lambda path: path.stem)
def test_the_example_files_are_accepted_by_both(path):
    beside = path.with_name(path.stem + ".network.safetensors")
    certificate, (layers, sha256) = read_certificate(path), read_network(beside)
    report = check(certificate, layers, sha256)
    assert report.leaves >= 1 and f"`{path.stem}`" in DOCS.read_text(encoding="utf-8")
    if path.stem.startswith(("linear_bound-", "infeasible")):
        assert min(ExactChecker(read_file(beside, NETWORK), tuple(certificate)).margins()) > 0


def test_every_kind_of_split_has_an_example():
    kinds = {int(k) for path in EXAMPLES.glob("*[!k].safetensors") for k in read_certificate(path).tensors["tree.kind"]}
    assert kinds == {0, 1, 2, 3, 4}
