"""Activation patterns as a tree: whether they leave nothing out, and a certificate from their splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from clinch.bounds.domains import Domains
from clinch.certificates.produce import SavedProof, certify_tree
from clinch.errors import CertificateError
from clinch.network.graph import Graph
from clinch.query import Query
from clinch.search.tree import AT_RELU, Recorded, SearchTree

#: nodes of the tree, for each literal of the patterns: any list that is the leaves of a tree has fewer
GROWTH = 8


def tree_of(patterns: Sequence[Mapping[int, int]]) -> SearchTree:
    """A tree of splits at neurons, each of whose leaves lies inside one of the patterns.

    Args:
        patterns: neuron -> +1 where its input is at least 0, −1 where it is at most 0.

    Raises:
        CertificateError: some signs have no pattern; names them. Or the patterns overlap in too many ways.

    Example:
        >>> len(tree_of([{0: 1}, {0: -1, 3: 1}, {0: -1, 3: -1}]))
        5
    """
    tree, most = SearchTree(), GROWTH * sum(len(pattern) + 1 for pattern in patterns) + 64
    # by literal, so that every pattern is looked at where it says something new
    going: list[tuple[int, list[dict[int, int]], dict[int, int]]] = [(0, [dict(p) for p in patterns], {})]
    while going:
        place, left, signs = going.pop()
        if not left:
            said = " and ".join(f"N_{at + 1} {'>=' if sign > 0 else '<'} 0" for at, sign in list(signs.items())[:8])
            raise CertificateError(
                f"The patterns leave something out: no pattern holds where {said or 'nothing is said'}."
            )
        if any(not pattern for pattern in left):
            continue
        # a variable that all patterns speak of is the root of what is left of the verifier's own tree
        at = max(sorted(count := Counter(n for pattern in left for n in pattern)), key=count.__getitem__)
        children = tree.split(torch.tensor([place]), AT_RELU, torch.tensor([at]))[0].tolist()
        if len(tree) > most:
            raise CertificateError("The patterns are no tree's leaves: they overlap in too many ways to be looked at.")
        for child, sign in zip(children, (1, -1)):
            inside = [{n: s for n, s in p.items() if n != at} for p in left if p.get(at, sign) == sign]
            going.append((child, inside, {**signs, at: sign}))
    return tree


def recorded(patterns: Sequence[Mapping[int, int]], graph: Graph) -> Recorded:
    """The patterns as the tree of a search, over all neurons of a network's ReLU layers in their order.

    Raises:
        CertificateError: see :func:`tree_of`; or the network has fewer neurons, or layers that are neither.
    """
    bent = [node for node in graph.nodes[1:] if not node.op.affine]
    if not all(node.op.splits_at_zero for node in bent):
        names = ", ".join(sorted({node.op.label for node in bent if not node.op.splits_at_zero}))
        raise CertificateError(f"Activation patterns are about networks of ReLUs; this one has {names}.")
    elements = {i: torch.arange(node.size) for i, node in enumerate(graph.nodes) if i and node.op.splits_at_zero}
    count = sum(map(len, elements.values()))
    most = max((at for pattern in patterns for at in pattern), default=-1)
    if most >= count:
        raise CertificateError(f"There is a pattern of neuron N_{most + 1}; the network has {count} neurons.")
    none = torch.zeros(0, dtype=torch.long)
    no = torch.zeros(0, count)
    domains = Domains(none, no.to(torch.int8), none[:, None], no, no, no, no[:, 0], no[:, 0], no[:, None, :0])
    return Recorded(tree_of(patterns), 0, elements, none, domains)


def certify_patterns(
    queries: Sequence[Query], patterns: Sequence[Mapping[int, int]], time_limit: float, onnx: str | Path | None = None
) -> list[SavedProof]:
    """A certificate for each problem of a property, from the activation patterns of another verifier's proof.

    Args:
        queries: feasibility problems over one network, as :func:`clinch.vnnlib.problems.state` gives them.
        patterns: see :func:`tree_of`.
        time_limit: seconds for all of them.
        onnx: the file of the network.

    Raises:
        CertificateError: the patterns leave something out, or a leaf could not be closed.
    """
    problems = [query.take(torch.tensor([b])) for query in queries for b in range(query.size)]
    found = []
    for query in problems:
        known = recorded(patterns, query.graph)
        found.append(certify_tree(query, known, time_limit / len(problems), onnx))
    return found
