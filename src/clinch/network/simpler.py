"""Functions of torch without an operator here, in simpler calls: those that torch's own decompositions write them as.

A function that a module calls, or that computes an ONNX node, is exported by itself, with every call decomposed that no
operator is read from. Where all the rest has rules its layers are what bounds and proofs see of the function, which
stays what computes the value.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from clinch.errors import ClinchError
from clinch.network.build import Builder
from clinch.network.export import exported_in_parts
from clinch.network.graph import Graph
from clinch.network.ops.base import Shape
from clinch.network.ops.lazy import RowFunction, evaluate, map_leaves
from clinch.network.ops.reading import ATEN, Value
from clinch.network.ops.select import Concatenate
from clinch.network.ops.shape import Reshape
from clinch.network.ops.torch_function import TorchFunction

#: elements of a function's activations beyond which it is not looked at, and layers that it may become
MOST_READ, MOST_LAYERS = 2**20, 512


class _Alone(nn.Module):
    """A function as a module of one flat input: its activations one after the other.

    Args:
        op: the function.
        at_once: one of ONNX nodes takes many inputs where it has a first dimension of 1; else each by itself.
        repeated: constants with such a dimension are repeated for each of them.
    """

    def __init__(self, op: TorchFunction | RowFunction, *, at_once: bool = False, repeated: bool = False) -> None:
        super().__init__()
        self.op, self.at_once, self.repeated = op, at_once, repeated
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """The function's value."""
        op, count = self.op, x.shape[0]
        flat = x.split([math.prod(shape) for shape in op.shapes], 1)
        if isinstance(op, TorchFunction):
            rows = [part.reshape(count, *shape) for part, shape in zip(flat, op.shapes)]
            given = [y if layout.plain else layout.spread(y) for y, layout in zip(rows, op.layouts)]
            found = evaluate(op.value, given, size=count)
            return found if op.layout.plain else op.layout.rows(found)
        if self.at_once:
            given = [part.reshape(count, *shape[1:]) for part, shape in zip(flat, op.shapes)]
            value = map_leaves(op.value, lambda v: _repeated(v, count)) if self.repeated else op.value
            return evaluate(value, given).reshape(count, *op.shape)
        return torch.func.vmap(op.row)(*(part.reshape(count, *shape) for part, shape in zip(flat, op.shapes)))


def _repeated(value: Any, count: Any) -> Any:
    """A constant with a first dimension of 1 for that many inputs; anything else as it is."""
    several = isinstance(value, Tensor) and value.dim() > 1 and value.shape[0] == 1
    return value.expand(count, *value.shape[1:]) if several else value


def _ways(op: TorchFunction | RowFunction, x: Tensor) -> Iterator[_Alone]:
    """The function as modules that give its value."""
    if isinstance(op, RowFunction) and all(len(shape) > 1 and shape[0] == 1 for shape in op.shapes):
        for repeated in (False, True):
            whole = _Alone(op, at_once=True, repeated=repeated)
            try:
                same = torch.allclose(whole(x), _Alone(op)(x), rtol=1e-9, atol=1e-9)
            except (RuntimeError, IndexError, ValueError, TypeError):
                continue
            if same:
                yield whole
    yield _Alone(op)


def _sampled(x: Tensor, grid: Tensor, mode: int, padding: int, align_corners: bool) -> Tensor:
    """``Σ_p x_p Π_d max(0, 1 − |g_d − p_d|)``: grid_sample between neighbours, hats of the places g in pixels.

    Hats are zero outside of the picture, as padding with zeros has it; padding with the border cuts places off there.
    """
    extents = x.shape[2:]
    if mode or padding > 1:
        return torch.ops.aten.grid_sampler(x, grid, mode, padding, align_corners)
    letters, hats = "hwd"[: len(extents)], []
    for d, extent in enumerate(extents):
        g = grid[..., len(extents) - 1 - d]
        place = (g + 1) / 2 * (extent - 1) if align_corners else ((g + 1) * extent - 1) / 2
        place = place.clamp(0, extent - 1) if padding else place
        hats.append(torch.relu(1 - (place.flatten(1)[..., None] - torch.arange(extent, dtype=x.dtype)).abs()))
    terms = ",".join(f"bp{letter}" for letter in letters)
    return torch.einsum(f"bc{letters},{terms}->bcp", x, *hats).unflatten(2, grid.shape[1:-1])


@cache
def _table(refused: str) -> dict[Any, Any]:
    """Torch's decompositions of calls that no operator is read from, and of one whose operator does not cover it."""
    table = torch.export.default_decompositions()
    for target in list(table.keys()):
        name = str(target.overloadpacket) if isinstance(target, torch._ops.OpOverload) else ""
        if name != refused and (name in ATEN or f"values of {name}" in ATEN):
            table.pop(target)
    table[torch.ops.aten.grid_sampler.default] = _sampled
    return table


def programs_of(op: TorchFunction | RowFunction) -> Iterator[tuple[nn.Module, Any, Tensor]]:
    """The function as a module, its exported program in simpler calls, and two inputs, in each way that works."""
    size = sum(math.prod(shape) for shape in op.shapes)
    if not 0 < size <= MOST_READ or (isinstance(op, RowFunction) and not op.at_once):
        return
    x = torch.randn(3, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for module in _ways(op.to(torch.float64, "cpu"), x):
        try:
            program = exported_in_parts(module, x[:2], _table(op.name))
        except Exception:  # whatever torch's exporter does not cover
            continue
        yield module, program, x[:2]


def grafted(
    builder: Builder, graph: Graph, values: Sequence[Value], shape: Shape, layer: str, source: str
) -> Value | None:
    """A function's layers in a graph in the making; None: not all of them have rules.

    Args:
        builder: takes the layers.
        graph: of the function, its activations one after the other.
        values: these.
        shape: of the result.
        layer, source: for the nodes.
    """
    ops = [node.op for node in graph.nodes[1:]]
    if len(ops) > MOST_LAYERS or not all(op.supports("interval") and op.supports("relax") for op in ops):
        return None
    parts = [builder.emit(Reshape((math.prod(v.shape),)), [v], layer, source) for v in values]
    found = [parts[0] if len(parts) == 1 else builder.emit(Concatenate(0), parts, layer, source)]
    try:
        for node in graph.nodes[1:]:
            value = builder.emit(node.op, [found[i] for i in node.inputs], layer, source)
            if node.whole is not None and value not in found:
                builder.stands_for(value, node.whole.op, [found[i] for i in node.whole.inputs])
            found.append(value._replace(shape=node.shape))
        last = found[-1]
        return builder.emit(Reshape(shape), [last], layer, source) if last.shape != shape else last
    except ClinchError:
        return None


def quiet_reading(read: Any) -> Any:
    """What a reading gives; None where it is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read()
        except (ClinchError, RuntimeError, ValueError, IndexError, TypeError, AttributeError):
            return None
