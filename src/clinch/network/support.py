"""Which layers are supported by which engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clinch.errors import NetworkError, UnsupportedOperator
from clinch.network.load import load
from clinch.network.network import Network
from clinch.network.ops.base import Shape


@dataclass(frozen=True)
class LayerSupport:
    """What is known about one layer.

    Attributes:
        name: of the layer.
        operator: what it computes.
        shape: of its output, without the batch.
        source: file and line, or ONNX node.
        forward: attacks can follow it.
        interval: it has an interval rule.
        relaxation: it has a linear relaxation (CROWN, branch and bound).
        exact: it has an exact encoding (MILP).
        certificate: certificates can state it.
    """

    name: str
    operator: str
    shape: Shape
    source: str
    forward: bool
    interval: bool
    relaxation: bool
    exact: bool
    certificate: bool


#: heading of a table -> field of :class:`LayerSupport`
ENGINES = {"attacks": "forward", "interval": "interval", "CROWN": "relaxation", "MILP": "exact",
           "certificate": "certificate"}  # fmt: skip


@dataclass(frozen=True)
class Support(Sequence[LayerSupport]):
    """What :func:`clinch.supports` found: its rows, one per layer, and what is in the way of a model that has none.

    Attributes:
        layers: the rows, the input left out.
        missing: everything that cannot be read of the model, a sentence each; empty: it loads.
    """

    layers: tuple[LayerSupport, ...]
    missing: tuple[str, ...] = ()

    def __getitem__(self, i: Any) -> Any:
        """A row, or several."""
        return self.layers[i]

    def __len__(self) -> int:
        """How many layers there are."""
        return len(self.layers)

    def without(self, engine: str) -> list[str]:
        """Operators that an engine has no rule for: ``"attacks"``, ``"interval"``, ``"CROWN"``, ``"MILP"`` or
        ``"certificate"``."""
        if engine not in ENGINES:
            raise NetworkError(f"No engine is called '{engine:.40}'. Choose one of {', '.join(ENGINES)}.")
        return list(dict.fromkeys(row.operator for row in self.layers if not getattr(row, ENGINES[engine])))

    def __str__(self) -> str:
        """A table."""
        if self.missing:
            return "\n".join(("cannot be read:", *self.missing))
        lines = [("layer", "operator", "output", *ENGINES)]
        for row in self.layers:
            marks = ("yes" if getattr(row, field) else "no" for field in ENGINES.values())
            lines.append((row.name, row.operator, "×".join(map(str, row.shape)), *marks))
        widths = [max(map(len, column)) for column in zip(*lines)]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def supports(model: Network | Any, input_shape: Sequence[int] | None = None, **options: Any) -> Support:
    """Which layers of a model attacks can follow, and which have an interval rule, a linear relaxation (CROWN, branch
    and bound), an exact encoding (MILP) and a statement in certificates.

    Args:
        model: a network, or what :func:`clinch.load` takes.
        input_shape: of one input, as there.
        options: ``output`` and ``fixed``, as there.

    Returns:
        One row per layer, the input left out; of a model that cannot be read everything that is in the way.

    Raises:
        NetworkError: the model cannot be loaded for a reason that is no layer of it.

    Example:
        >>> found = cl.supports(nn.Sequential(nn.Linear(4, 3), nn.GELU()).eval(), input_shape=(4,))
        >>> [(row.operator, row.relaxation, row.exact) for row in found]
        [('Dense', True, True), ('GELU', True, False)]
        >>> found.without("MILP"), found.missing
        (['GELU'], ())
    """
    try:
        network = load(model, input_shape, **options)
    except UnsupportedOperator as error:
        return Support((), tuple(error.missing) or (str(error),))
    rows, graph = [], network.graph
    for i, node in enumerate(graph.nodes[1:], 1):
        interval, relaxation, exact = (node.op.supports(fact) for fact in ("interval", "relax", "encode"))
        stated = node.op.statement(graph.shapes(i), node.shape) is not None
        rows.append(
            LayerSupport(
                node.name, node.op.label, node.shape, node.source, True, interval, relaxation, exact, certificate=stated
            )
        )
    return Support(tuple(rows))
