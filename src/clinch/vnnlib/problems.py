"""The cases of a specification as queries over a network: batches of feasibility problems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from clinch.errors import SpecificationError
from clinch.geometry.region import Region
from clinch.geometry.rounding import round_down, round_up
from clinch.query import Forms, Linear, Query
from clinch.vnnlib.cases import Case, cases_of
from clinch.vnnlib.specification import Declaration, Specification

if TYPE_CHECKING:
    from clinch.network.network import Network

#: problems of one batch at most
BATCH = 1024
#: coefficients of one batch at most (1 GiB)
COEFFICIENTS = 2**27


@dataclass(frozen=True, eq=False)
class Stated:
    """A specification over a network.

    Attributes:
        queries: feasibility problems; each batch has clauses of the same sizes.
        reason: why a case was dropped: limits that contradict each other. Empty where none was.
    """

    queries: tuple[Query, ...]
    reason: str


def state(specification: Specification, network: Network) -> Stated:
    """State the specification as queries: a counterexample is an input that is feasible for any of their problems.

    A strict atom is moved by one unit in the last place of float64, so that equality does not meet it. The box is the
    specification's own in float64, so that a proof covers all its real numbers; points are rounded inwards. An
    interval without any number of the network's dtype, such as a fixed input of 0.1, is widened to the nearest one.
    So it is wherever a limit of one input stands: alternatives that limit inputs are cases with boxes of their own. In
    problems of our own a limit is the nearest number of the model's dtype instead (:mod:`clinch.modeling.limits`).

    Raises:
        SpecificationError: the specification is about a network of another shape, dtype or layers.
    """
    nodes = _nodes(specification, network)
    cases, reason = cases_of(specification)
    groups: dict[tuple[int, ...], list[Case]] = {}
    for case in cases:
        groups.setdefault(tuple(len(clause) for clause in case.clauses), []).append(case)
    queries = []
    for sizes, group in groups.items():
        widest = sum(network.graph.nodes[node].size for node in set(nodes.values()))
        height = max(1, min(BATCH, COEFFICIENTS // max(1, widest * sum(sizes))))
        for start in range(0, len(group), height):
            queries.append(_query(network, nodes, group[start : start + height]))
    return Stated(tuple(queries), reason)


def _nodes(specification: Specification, network: Network) -> dict[str, int]:
    """The position of each declared tensor's layer; its shape and dtype must be those of the network."""
    graph = network.graph
    nodes = {}
    for tensor in specification.tensors.values():
        if tensor.kind == "hidden":
            if tensor.layer not in network:
                raise SpecificationError(
                    f"{specification.name}, line {tensor.line}: there is no layer '{tensor.layer}' in {network.name}; "
                    f"it has {', '.join(network.layers)}."
                )
            nodes[tensor.name] = network.position(str(tensor.layer))
        else:
            nodes[tensor.name] = 0 if tensor.kind == "input" else graph.output
        fits(specification, tensor, network, graph.nodes[nodes[tensor.name]].shape)
    return nodes


def fits(specification: Specification, tensor: Declaration, network: Network, shape: tuple[int, ...]) -> None:
    """Refuse a tensor that a network does not have as it is declared.

    Args:
        shape: that the network has in its place.

    Raises:
        SpecificationError: another shape or dtype.
    """
    ours, theirs = [n for n in shape if n != 1], [n for n in tensor.shape if n != 1]
    same = tensor.size == int(np.prod(shape)) if specification.version == "1.0" else ours == theirs
    where = f"{specification.name}, line {tensor.line}"
    if not same:
        declared = tensor.size if specification.version == "1.0" else list(tensor.shape)
        raise SpecificationError(
            f"{where}: the {tensor.kind} {tensor.name} has {declared!s:.80} elements; that of {network.name} has shape "
            f"{list(shape)}. Name the network that the specification was written for."
        )
    dtype = str(network.dtype).removeprefix("torch.")
    if tensor.dtype not in ("real", dtype):
        raise SpecificationError(f"{where}: {tensor.name} is declared {tensor.dtype}; {network.name} is {dtype}.")


def _query(network: Network, nodes: dict[str, int], cases: list[Case]) -> Query:
    """One batch: all cases have clauses of the same sizes."""
    sizes = torch.tensor([len(clause) for clause in cases[0].clauses], dtype=torch.long)
    nothing = Linear(Forms({}, torch.zeros(len(cases), 1, dtype=torch.float64)))
    return Query(
        network, network.graph_as(torch.float64, "cpu"), _region(network, cases), nothing,
        _forms(network, nodes, cases), torch.arange(len(sizes)).repeat_interleave(sizes),
    )  # fmt: skip


def _forms(network: Network, nodes: dict[str, int], cases: list[Case]) -> Forms:
    """The atoms' forms; of two elements of what keeps their order, such as a softmax, those of what goes into it."""
    rows = [[atom for clause in case.clauses for atom in clause] for case in cases]
    entries: dict[int, list[tuple[int, int, int, float]]] = {}
    for b, atoms in enumerate(rows):
        for k, atom in enumerate(atoms):
            one = len({name for name, _ in atom.terms}) == 1
            compares = one and len(atom.terms) == 2 and atom.constant == 0 and sum(atom.terms.values()) == 0
            for (name, position), value in atom.terms.items():
                node = network.graph.deciding(nodes[name]) if compares else nodes[name]
                entries.setdefault(node, []).append((b, k, position, value))
    coefficients = {}
    for node, found in entries.items():
        layer = network.graph.nodes[node]
        at = np.array([entry[:3] for entry in found]).T
        dense = np.zeros((len(cases), len(rows[0]), layer.size))
        np.add.at(dense, tuple(at), [entry[3] for entry in found])
        shared = bool((dense == dense[:1]).all())
        coefficients[node] = torch.from_numpy(dense[:1] if shared else dense).reshape(-1, len(rows[0]), *layer.shape)
    constant = torch.tensor([[atom.constant for atom in atoms] for atoms in rows], dtype=torch.float64)
    strict = torch.tensor([[atom.strict for atom in atoms] for atoms in rows], dtype=torch.bool)
    shape = len(cases), len(rows[0])
    constant, strict = constant.reshape(shape), strict.reshape(shape)
    above = torch.nextafter(constant, torch.full_like(constant, torch.inf))
    # next to zero stand numbers that processors may flush to zero
    tiny = torch.finfo(torch.float64).tiny
    return Forms(coefficients, torch.where(strict, torch.where(constant == 0, tiny, above), constant))


def _region(network: Network, cases: list[Case]) -> Region:
    shape = (len(cases), *network.input_shape)
    lower, upper = (
        torch.from_numpy(np.stack(limits)).reshape(shape)
        for limits in ([case.lower for case in cases], [case.upper for case in cases])
    )
    empty = without_numbers(lower, upper, network.dtype)
    nearest = lower.to(network.dtype).to(torch.float64)
    return Region(
        torch.where(empty, torch.minimum(lower, nearest), lower),
        torch.where(empty, torch.maximum(upper, nearest), upper),
    )


def without_numbers(lower: Tensor, upper: Tensor, dtype: torch.dtype) -> Tensor:
    """Where an interval of float64 numbers holds no number of the dtype."""
    return round_up(lower, dtype) > round_down(upper, dtype)
