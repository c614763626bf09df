"""What is missing or wrong about an operator, in sentences that name the piece."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from clinch.checker import layers
from clinch.checker.lines import Box
from clinch.checker.rigorous import interval
from clinch.network.build import Builder
from clinch.network.graph import Graph, Input
from clinch.network.ops.base import Affine, Interval, Operator, Statement
from clinch.network.ops.elementwise import ScalarFunction
from clinch.network.ops.reading import ATEN, ONNX
from clinch.network.ops.views import Kernel

from .operator_specimens import Specimen

CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def complaints_about(kind: type[Operator], specimens: Sequence[Specimen]) -> list[str]:
    """Of a class of operators: what belongs to it as a whole, then what each of its specimens shows."""
    name, found = kind.__name__, []
    if not (kind.__doc__ or "").strip() or (kind.__doc__ or "").startswith(f"{name}("):
        found.append(f"{name} has no docstring: write one sentence with the formula")
    if kind.__module__ not in {reader.__module__ for reader in (*ATEN.values(), *ONNX.values())}:
        found.append(f"{name} is read from nowhere: register a reader with @spelled, @from_aten or @from_onnx")
    if kind.supports("relax") and not kind.supports("interval"):
        found.append(f"{name} has a relaxation and no interval rule, which CROWN starts from: write interval()")
    mine = [s for s in specimens if type(s.op) is kind]
    if not mine:
        place = "a row in scalar_functions.py" if issubclass(kind, ScalarFunction) else "one in operator_specimens.py"
        found.append(f"{name} has no specimen: add {place}")
    for specimen in mine:
        found += complaints(specimen)
    return found


def complaints(specimen: Specimen) -> Iterator[str]:
    """Of one operator."""
    op, name = specimen.op, type(specimen.op).__name__
    try:
        x = _inputs(specimen, 5)
        y = op.forward(*x)
        if not torch.allclose(y, specimen.reference(*x).detach(), rtol=1e-10, atol=1e-10):
            yield f"{name}.forward is not the function of torch"
            return
        if isinstance(op, ScalarFunction):
            yield from _of_scalar(op, specimen)
        yield from _of_bounds(specimen)
        yield from _of_flags(specimen, x, y)
        yield from _of_hooks(specimen, x, y)
    except NotImplementedError as error:
        yield str(error) or f"{name} leaves a method out that its base asks for"


def _inputs(specimen: Specimen, seed: int, batch: int = 4) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.randn(batch, *shape, generator=generator, dtype=torch.float64) for shape in specimen.shapes)
    return [(2 * t).clamp(*specimen.within) for t in drawn]


def _of_scalar(op: ScalarFunction, specimen: Specimen) -> Iterator[str]:
    name, (low, high) = type(op).__name__, specimen.within
    low, high = max(low, -5.0), min(high, 4.0)
    x = torch.linspace(low, high, 4001, dtype=torch.float64).requires_grad_()
    y = op.forward(x)
    turns = torch.tensor([*op.turns(), 1e9], dtype=torch.float64)
    (slope,) = torch.autograd.grad(y.sum(), x)
    near = (x[:, None] - turns).abs().amin(1) < 2e-3
    if not torch.allclose(op.derivative(x.detach())[~near], slope[~near], rtol=1e-6, atol=1e-6):
        yield f"{name}.derivative is not that of forward"
        return
    jumps = (y[1:] - y[:-1]).abs().detach() > 1e-2 + 4 * torch.maximum(
        slope[1:].abs(), slope[:-1].abs()
    ) * x.diff().detach()
    far = (x[1:, None] - torch.tensor([*(j.at for j in op.jumps()), 1e9])).abs().amin(1) > 5e-3
    if bool((jumps & far).any()):
        yield f"{name}.jumps lacks one near {float(x.detach()[1:][jumps & far][0]):.3f}"
    change = slope.diff()
    rising = torch.where(change > 1e-9, 1, torch.where(change < -1e-9, -1, 0))
    turned = [(float(a), float(b)) for a, b in _changes(x.detach()[1:], rising)]
    for before, after in turned:
        if not any(before - 5e-3 <= t <= after + 5e-3 for t in _turns_between(op, before, after)):
            yield f"{name}.turns lacks one between {before:.3f} and {after:.3f}"
            return


def _turns_between(op: ScalarFunction, before: float, after: float) -> list[float]:
    ends = (torch.tensor([[t]], dtype=torch.float64) for t in (before - 0.02, after + 0.02))
    return op.pieces(*ends).stop.flatten().tolist()[:-1]


def _changes(x: Tensor, rising: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    kept = rising != 0
    at, way = x[kept], rising[kept]
    for i in (way[1:] != way[:-1]).nonzero().flatten().tolist():
        yield at[i], at[i + 1]


def _of_bounds(specimen: Specimen) -> Iterator[str]:
    op, name = specimen.op, type(specimen.op).__name__
    first, second = _inputs(specimen, 6), _inputs(specimen, 7)
    box = [Interval(torch.minimum(a, b), torch.maximum(a, b)) for a, b in zip(first, second)]
    share = torch.rand(60, 1, generator=torch.Generator().manual_seed(8), dtype=torch.float64).expand(60, 4)
    points = [torch.lerp(i.lower, i.upper, share.reshape(60, 4, *[1] * (i.lower.dim() - 1))) for i in box]
    values = op.forward(*(p.flatten(0, 1) for p in points)).unflatten(0, (60, 4))
    room = 1e-9 * (1 + values.abs().amax(0))
    if op.supports("interval"):
        limits = op.interval(*box)
        if bool((values < limits.lower - room).any() | (values > limits.upper + room).any()):
            yield f"{name}.interval is passed by a value"
    if op.supports("relax"):
        rows = torch.randn(4, 3, *values.shape[2:], generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        carried, offset = op.relax(box, specimen.shapes).backward(rows)
        line = offset + sum(torch.einsum("brn,sbn->sbr", c.flatten(2), p.flatten(2)) for c, p in zip(carried, points))
        exact = torch.einsum("brn,sbn->sbr", rows.flatten(2), values.flatten(2))
        if bool((exact < line - 1e-9 * (1 + exact.abs())).any()):
            yield f"{name}.relax is passed by a value"


def _of_flags(specimen: Specimen, x: list[Tensor], y: Tensor) -> Iterator[str]:
    op, name = specimen.op, type(specimen.op).__name__
    zero = op.forward(*(torch.zeros_like(t) for t in x))
    if op.affine and not torch.allclose(op.forward(*(2 * t for t in x)) - zero, 2 * (y - zero), atol=1e-9):
        yield f"{name}.affine is stated and forward is not affine"
    if isinstance(op, Affine) and not torch.allclose(op.times(*x), y - zero, atol=1e-9):
        yield f"{name}.times is not the operator without its constant"
    if isinstance(op, Affine) and op.has_absolute:
        jacobians = torch.autograd.functional.jacobian(op.times, tuple(t[:1] for t in x))
        flat = (j.reshape(y[0].numel(), -1).abs() @ t[0].flatten() for j, t in zip(jacobians, x))
        if not torch.allclose(op.absolute(*(t[:1] for t in x)).flatten(), sum(flat, torch.zeros(())), atol=1e-9):
            yield f"{name}.absolute is not the operator with the absolute values of its coefficients"
    if op.linear and bool(zero.any()):
        yield f"{name}.linear is stated and forward is not zero at zero"
    if op.nonnegative and bool((op.forward(*(t + 1 for t in x)) < y - 1e-12).any()):
        yield f"{name}.nonnegative is stated and a coefficient is negative"
    if op.keeps_order and not torch.equal(y.flatten(1), x[0].flatten(1)):
        yield f"{name}.keeps_order is stated and the elements are not those of the input in their order"
    if op.selects and not bool(torch.isin(y, torch.cat([t.flatten() for t in x])).all()):
        yield f"{name}.selects is stated and an output is no element of the input"
    if op.elementwise:
        other = [torch.cat([t[:, :1], torch.zeros_like(t[:, 1:])], 1) + (t - t) for t in x]
        if not torch.equal(op.forward(*other)[:, :1], y[:, :1]):
            yield f"{name}.elementwise is stated and an output depends on another place"


def _of_hooks(specimen: Specimen, x: list[Tensor], y: Tensor) -> Iterator[str]:
    op, shapes, name = specimen.op, specimen.shapes, type(specimen.op).__name__
    said = {
        "as_matrix": (m := op.as_matrix(shapes)) and functional.linear(x[0], m.weight, m.bias),
        "as_convolution": (k := op.as_convolution(shapes)) and _convolved(k, x[0]),
        "as_factors": (f := op.as_factors(shapes))
        and x[0] * (1.0 if f.scale is None else f.scale) + (0.0 if f.shift is None else f.shift),
        "as_sum": (signs := op.as_sum(shapes)) and sum(sign * t for sign, t in zip(signs, x, strict=True)),
        "as_maximum": (most := op.as_maximum(shapes)) and most(x[0]).reshape(y.shape),
        "two_pieces": (two := op.two_pieces()) and torch.maximum(x[0], two.negative_slope * x[0]),
    }
    for hook, value in said.items():
        if value is not None and not torch.allclose(value, y, atol=1e-9):
            yield f"{name}.{hook} is not the operator"
    parts = written_out(op, shapes[0]) if len(shapes) == 1 and not isinstance(op, Input) else None
    if parts is not None and not torch.allclose(parts.forward(x[0], in_parts=True)[parts.output], y, atol=1e-9):
        yield f"{name}.in_parts is not the operator"
    chosen = torch.arange(0, math.prod(y.shape[1:]), 2)
    alike = op.prune(shapes, chosen, chosen) if op.elementwise else None
    if alike is not None and not torch.allclose(alike.forward(x[0].flatten(1)[:, chosen]), y.flatten(1)[:, chosen]):
        yield f"{name}.prune does not keep the chosen elements"
    fewer = op.prune(shapes, outputs=chosen)
    if fewer is not None and not torch.allclose(fewer.forward(*x), y.flatten(1)[:, chosen]):
        yield f"{name}.prune does not give the chosen outputs"
    statement = op.statement(shapes, tuple(y.shape[1:]))
    if statement is not None and statement[0]["kind"] not in layers.KINDS:
        yield f"{name}.statement is of a kind that the checker does not know: {statement[0]['kind']}"
    elif statement is not None and not _states(statement, x, y):
        yield f"{name}.statement is not the operator"


def _states(statement: Statement, x: Sequence[Tensor], y: Tensor) -> bool:
    """Whether the checker's layers enclose the operator's values at some inputs, closely."""
    settings, constants = statement
    sizes = [math.prod(t.shape[1:]) for t in x]
    header, tensors = [{"kind": "input", "shape": [sum(sizes)]}], {k: t.numpy() for k, t in constants.items()}
    for i, (t, start) in enumerate(zip(x, np.cumsum([0, *sizes]))):
        own = np.arange(sizes[i])
        tensors |= {f"row{i}": own, f"column{i}": own + start, f"one{i}": np.ones(sizes[i])}
        header.append({"kind": "sparse", "inputs": [0], "shape": list(t.shape[1:]), "row": f"row{i}",
                       "column": f"column{i}", "value": f"one{i}"})  # fmt: skip
    header.append({**settings, **{k: k for k in constants}, "inputs": list(range(1, len(x) + 1))})
    try:
        read = layers.read_layers({"version": layers.VERSION, "layers": header}, tensors)
    except layers.Refused as reason:
        # python-flint is an extra
        return "python-flint" in str(reason)
    point = torch.cat([t.flatten(1) for t in x], 1).double().numpy()
    limits = [Box(point, point)]
    with np.errstate(all="ignore"):
        for layer in read[1:]:
            limits.append(interval(layer, [limits[j] for j in layer.inputs]))
    value, (lower, upper) = y.flatten(1).double().numpy(), limits[-1]
    near = 1e-6 * (1 + np.abs(value))
    inside = (lower - near <= value) & (value <= upper + near)
    return read[-1].shape == tuple(y.shape[1:]) and bool((inside & (upper - lower <= near)).all())


def written_out(op: Operator, shape: tuple[int, ...]) -> Graph | None:
    """A graph of the operator alone, where it is written out in parts."""
    builder = Builder("input", shape, torch.device("cpu"))
    last = builder.emit(op, [builder.input], "op", "")
    nodes = builder.nodes
    return Graph(tuple(nodes)) if nodes[last.position].whole else None


def _convolved(kernel: Kernel, x: Tensor) -> Tensor:
    kernel = kernel.to(x)
    y = CONVOLUTIONS[kernel.spatial](
        x, kernel.weight, None, kernel.stride, kernel.padding, kernel.dilation, kernel.groups
    )
    if kernel.bias is None:
        return y
    return y + (kernel.bias.reshape(-1, *[1] * kernel.spatial) if kernel.bias.dim() == 1 else kernel.bias)
