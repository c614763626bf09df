"""Proofs by activation patterns (APTP) from our own trees: how many are accepted, and whether changed ones are refused.

    python -m benchmarks pattern_proofs [--count 400] [--mutations 1000] [--out runs/pattern_proofs]

Random networks of ReLUs and a property ``Y_0 − Y_1 <= t`` that no input of a box meets: t lies a little below the
smallest value that is proven. Each proof is the tree of a certificate, its leaves' signs written as an APTP file with
its property, which is read back as ``clinch check --aptp`` reads it. Mutations are of five kinds, and none may be
accepted: a pattern is dropped, a sign turned, a pattern made narrower, the property made false (a point is known that
meets it), a weight changed such that a known point meets it. A finished network is one line of ``results.jsonl``.
Writes ``benchmarks/results/pattern_proofs.md``; ends with exit code 1 where a mutated proof is accepted or a valid one
refused.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

import clinch as cl
from benchmarks.common.cpu_clock import count_cpu_seconds
from benchmarks.common.page import RESULTS, table, write_page
from clinch.certificates import SavedProof, certify
from clinch.certificates.pattern_tree import certify_patterns
from clinch.checker.check import check
from clinch.checker.layers import read_layers
from clinch.checker.tree import AT_RELU, LEAF
from clinch.errors import CertificateError
from clinch.vnnlib.aptp import parse_aptp
from clinch.vnnlib.problems import state

TAKES = "10 minutes"
INPUTS, WIDTHS, SECONDS = 20, ((12, 8), (10, 10, 8), (16,), (14, 12)), 20.0
KINDS = ("dropped", "turned", "narrower", "false property", "changed weight")
#: a pattern: (neuron from 1, +1 or −1) each
Pattern = tuple[tuple[int, int], ...]


class Proof(NamedTuple):
    """A network, patterns and the threshold below which ``Y_0 − Y_1`` never is; the best point known, its value."""

    seed: int
    net: cl.Network
    patterns: list[Pattern]
    threshold: float
    point: torch.Tensor
    value: float


def model_of(seed: int) -> nn.Sequential:
    """ReLUs between dense layers."""
    torch.manual_seed(seed)
    sizes, layers = (INPUTS, *WIDTHS[seed % len(WIDTHS)], 2), []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double().eval()


def neurons(net: cl.Network) -> int:
    """How many there are."""
    return sum(node.size for node in net.graph.nodes if node.op.splits_at_zero)


def leaves_of(tensors: dict[str, np.ndarray]) -> list[Pattern]:
    """The signs on the leaves of a certificate's tree, which has splits at ReLUs alone."""
    kind, index, first = (tensors[f"tree.{name}"] for name in ("kind", "index", "first"))
    assert set(kind.tolist()) <= {LEAF, AT_RELU}
    found, going = [], [(0, ())]
    while going:
        at, path = going.pop()
        if kind[at] == LEAF:
            found.append(path)
        else:
            going += [(int(first[at]) + k, (*path, (int(index[at]) + 1, sign))) for k, sign in enumerate((1, -1))]
    return found


def text_of(net: cl.Network, patterns: list[Pattern], threshold: float) -> str:
    """The file."""
    box = "".join(f"(declare-const X_{i} Real)(assert (<= X_{i} 0.5))(assert (>= X_{i} -0.5))" for i in range(INPUTS))
    outputs = f"(declare-const Y_0 Real)(declare-const Y_1 Real)(assert (<= (- Y_0 Y_1) {threshold!r}))"
    declared = "".join(f"(declare-pwl N_{n} ReLU)" for n in range(1, neurons(net) + 1))
    cubes = " ".join("(and " + " ".join(f"({'>=' if s > 0 else '<'} N_{n} 0)" for n, s in p) + ")" for p in patterns)
    return f"{box}{outputs}{declared}(assert (or {cubes}))"


def made(seed: int) -> Proof | None:
    """A proof of a tree; None where one leaf is enough, or the search has not come to its end."""
    net = cl.load(model_of(seed), input_shape=(INPUTS,))
    margin = net.output[0] - net.output[1]
    solution = cl.Problem(cl.Minimize(margin), [net.input.between(-0.5, 0.5)]).solve(SECONDS, gap=1e-4, seed=seed)
    bound, value = float(solution.bound), float(solution.value)
    if not math.isfinite(bound) or value - bound > 1e-3 * max(1.0, abs(value)):
        return None
    threshold = bound - 0.02 * max(0.1, abs(bound))
    (query,) = state(parse_aptp(text_of(net, [((1, 1),), ((1, -1),)], threshold)).specification, net).queries
    (proof,) = certify(query, torch.tensor([torch.inf], dtype=torch.float64), time_limit=SECONDS)
    if not isinstance(proof, SavedProof) or len(proof.certificate.tensors["tree.kind"]) == 1:
        return None
    return Proof(seed, net, leaves_of(proof.certificate.tensors), threshold, solution.x.double(), value)


def mutated(proof: Proof, kind: str, rng: random.Random) -> tuple[cl.Network, str]:
    """What is not to be accepted."""
    _, net, patterns, threshold, _, value = proof
    patterns, at = list(patterns), rng.randrange(len(patterns))
    if kind == "dropped":
        del patterns[at]
    elif kind == "turned":
        k = rng.randrange(len(patterns[at]))
        patterns[at] = tuple((n, -s if j == k else s) for j, (n, s) in enumerate(patterns[at]))
    elif kind == "narrower":
        free = [n for n in range(1, neurons(net) + 1) if n not in dict(patterns[at])]
        # the last neuron that is left is not to be split once more
        patterns[at] = (*patterns[at], (rng.choice(free), rng.choice((1, -1)))) if free else patterns.pop()
    elif kind == "false property":
        threshold = value + rng.uniform(1e-3, 0.5) * max(0.1, abs(value))
    else:
        net = changed(proof, rng)
    return net, text_of(net, patterns, threshold)


def changed(proof: Proof, rng: random.Random) -> cl.Network:
    """The network with one weight of the first output moved until the point, which is looked at, meets the property."""
    model, x = model_of(proof.seed), proof.point.reshape(1, -1)
    last = model[-1]
    with torch.no_grad():
        hidden = model[:-1](x)[0]
        k = rng.choice((hidden > 1e-3).nonzero().flatten().tolist())
        last.weight[0, k] -= (proof.value - proof.threshold + rng.uniform(1e-3, 0.1)) / hidden[k]
        assert float(model(x)[0, 0] - model(x)[0, 1]) < proof.threshold
    return cl.load(model, input_shape=(INPUTS,))


def proven(net: cl.Network, text: str) -> int | None:
    """Leaves of what the checker has accepted; None: refused."""
    read = parse_aptp(text)
    try:
        found = certify_patterns(state(read.specification, net).queries, read.patterns, SECONDS)
    except CertificateError:
        return None
    return sum(check(p.certificate, read_layers(*p.network), p.network[0]["sha256"]).leaves for p in found)


def one(seed: int, mutations: int) -> dict | None:
    """A line of the results: seconds, leaves, and of each kind of mutation how many were made and accepted."""
    proof = made(seed)
    if proof is None:
        return {"seed": seed, "proof": False}
    rng, row = random.Random(seed), {"seed": seed, "proof": True, "patterns": len(proof.patterns)}
    began = time.process_time()
    row |= {"leaves": proven(proof.net, text_of(*proof[1:4])), "seconds": time.process_time() - began}
    row["made"], row["accepted"] = dict.fromkeys(KINDS, 0), dict.fromkeys(KINDS, 0)
    for number in range(mutations):
        kind = KINDS[(seed + number) % len(KINDS)]
        row["made"][kind] += 1
        row["accepted"][kind] += proven(*mutated(proof, kind, rng)) is not None
    return row


def rows_of(log: Path, mutations: int) -> Iterator[dict]:
    """All rows without end: those that are known, then new ones, which are written down."""
    known = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    yield from known
    seed = len(known)
    while True:
        row = one(seed, mutations)
        with log.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        yield row
        seed += 1


def main() -> None:
    """Make what is missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=400, help="proofs")
    parser.add_argument("--mutations", type=int, default=1000, help="of all proofs together")
    parser.add_argument("--out", type=Path, default=Path("runs/pattern_proofs"))
    parser.add_argument("--page", type=Path, default=RESULTS / "pattern_proofs.md")
    chosen = parser.parse_args()
    count_cpu_seconds()
    chosen.out.mkdir(parents=True, exist_ok=True)
    each, proofs = math.ceil(chosen.mutations / chosen.count), []
    for row in rows_of(chosen.out / "results.jsonl", each):
        proofs += [row] if row["proof"] else []
        if len(proofs) == chosen.count:
            break
    refused = [row["seed"] for row in proofs if row["leaves"] is None]
    body = [(kind, *(sum(row[of][kind] for row in proofs) for of in ("made", "accepted"))) for kind in KINDS]
    seconds, patterns = (sum(row[key] for row in proofs) for key in ("seconds", "patterns"))
    lines = [
        f"**{len(proofs) - len(refused)} of {len(proofs)}** proofs are accepted, which have {patterns} patterns "
        f"(at most {max(row['patterns'] for row in proofs)}): {seconds / len(proofs):.2f} CPU s each.",
        f"Refused though valid: {refused or 'none'}.", "",
        *table(("mutation", "made", "accepted"), [*body, ("all", *(sum(row[k] for row in body) for k in (1, 2)))]),
    ]  # fmt: skip
    write_page(chosen.page, "Proofs by activation patterns", lines)
    sys.exit(1 if refused or any(row[2] for row in body) else 0)


if __name__ == "__main__":
    main()
