"""Short texts for people: the name of an activation, an atom as an inequality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from clinch.io.files import printable

if TYPE_CHECKING:
    from clinch.network.graph import Graph
    from clinch.query import Forms

#: forms of more terms than this are summed up instead of written out
WRITTEN_OUT = 4


def layer_name(graph: Graph, node: int) -> str:
    """``"input"``, ``"output"``, or the layer's own name, in one line whatever its author wrote."""
    if node == 0:
        return "input"
    return "output" if node == graph.output else printable(graph.nodes[node].name, lines=False)


def element_name(graph: Graph, node: int, element: int) -> str:
    """One activation: ``"relu2[3]"``, ``"input[0, 14, 14]"``."""
    index = ", ".join(str(int(i)) for i in np.unravel_index(element, graph.nodes[node].shape or (1,)))
    return f"{layer_name(graph, node)}[{index}]"


def atom_texts(atoms: Forms, graph: Graph, problem: int = 0, which: Sequence[int] | None = None) -> list[str]:
    """Atoms ``form <= 0`` of one problem as inequalities.

    Args:
        atoms: the forms.
        graph: the network they look at.
        problem: which of the batch.
        which: positions of the atoms wanted; None for all.

    Example:
        >>> atom_texts(query.atoms, query.graph, which=[0])
        ['output[0] - output[4] >= 1e-05']
    """
    wanted = list(range(atoms.count)) if which is None else list(which)
    terms: list[list[tuple[float, int, int]]] = [[] for _ in wanted]
    for node in atoms.nodes:
        rows = atoms.coefficients[node]
        rows = rows[problem if rows.shape[0] > 1 else 0][wanted].flatten(1)
        at = rows.nonzero()
        for (k, element), value in zip(at.tolist(), rows[at[:, 0], at[:, 1]].tolist()):
            terms[k].append((value, node, element))
    constants = atoms.constant[problem].tolist()
    return [_inequality(terms[i], constants[k], graph) for i, k in enumerate(wanted)]


def _inequality(terms: list[tuple[float, int, int]], constant: float, graph: Graph) -> str:
    """``Σ terms + constant <= 0``, with the constant moved to the right and the sign that reads best."""
    if not terms:
        return "always" if constant <= 0 else "never"
    flipped = terms[0][0] < 0 if len(terms) == 1 else constant > 0
    scale = abs(terms[0][0]) if len(terms) == 1 else 1.0
    sign = -1.0 if flipped else 1.0
    right = -sign * constant / scale + 0.0
    signed = [(sign * value / scale, node, element) for value, node, element in terms]
    return f"{_sum(signed, graph)} {'>=' if flipped else '<='} {right:.6g}"


def _sum(terms: list[tuple[float, int, int]], graph: Graph) -> str:
    if len(terms) > WRITTEN_OUT:
        layers = ", ".join(layer_name(graph, node) for node in sorted({node for _, node, _ in terms}))
        return f"a sum of {len(terms)} terms of {layers}"
    text = ""
    for value, node, element in sorted(terms, key=lambda term: term[0] < 0):
        sign = ("-" if value < 0 else "") if not text else (" - " if value < 0 else " + ")
        factor = "" if abs(value) == 1 else f"{abs(value):.6g}·"
        text += f"{sign}{factor}{element_name(graph, node, element)}"
    return text
