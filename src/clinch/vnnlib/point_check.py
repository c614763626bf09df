"""Counterexamples of any tool, looked at again: in real numbers, and as the network runs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from clinch.checker.layers import Layer
from clinch.checker.matrices import Sparse
from clinch.errors import SpecificationError
from clinch.io.files import SPECIFICATION_LIMIT, read_limited
from clinch.network.network import Network
from clinch.vnnlib.counterexample import counterexample_at
from clinch.vnnlib.specification import Atom, Formula, Specification

_PAIR = re.compile(r"\(\s*([A-Za-z]\w*)\s+([^\s()]+)\s*\)")
_HEADER = re.compile(r"([A-Za-z]\w*)\s+\w+\s+\[([\d,\s]*)\]")
#: products of numbers that exact arithmetic is spent on
AFFORDABLE = 2e6


class PointCheck(NamedTuple):
    """What was found.

    Attributes:
        exact: whether the formula holds at the point in real numbers; None: the network is too large for that, or has
            layers whose values are no rational numbers.
        violation: of the formula in the network's own arithmetic, at most 0 where it holds.
        dtype: of that arithmetic.
        difference: between the outputs that the file states and those of the network, None where it states none.
    """

    exact: bool | None
    violation: float
    dtype: str
    difference: float | None


def read_point(path: str | Path, specification: Specification) -> dict[str, list[Fraction]]:
    """Values of the declared tensors, as the file's decimals say: ``((X_0 0.5) ...)``, or as version 2.0 lists them.

    Raises:
        SpecificationError: it cannot be read, or an input is missing, stands twice, or is no number.
    """
    text = read_limited(path, SPECIFICATION_LIMIT, SpecificationError).decode("utf-8", "replace")
    name = Path(path).name
    found: dict[str, dict[int, Fraction]] = {tensor: {} for tensor in specification.tensors}
    pairs = _PAIR.findall(text)
    if pairs:
        places = {
            specification.element((t, i)): (t, i) for t, d in specification.tensors.items() for i in range(d.size)
        }
        values = [(places.get(word, (word, 0)), value) for word, value in pairs]
    else:
        values, tensor, count = [], "", 0
        for line in text.split("\n"):
            if header := _HEADER.fullmatch(line.strip()):
                tensor, count = header[1], 0
            elif line.strip() and tensor:
                values.append(((tensor, count), line.strip()))
                count += 1
    for (tensor, at), value in values:
        if tensor not in found or at in found[tensor]:
            raise SpecificationError(f"{name}: '{tensor:.40}' is no variable of {specification.name}, or stands twice.")
        found[tensor][at] = _number(name, value)
    for tensor, given in found.items():
        size = specification.tensors[tensor].size
        if (given or tensor == specification.input.name) and sorted(given) != list(range(size)):
            raise SpecificationError(f"{name}: {tensor} has {len(given)} values; {specification.name} declares {size}.")
    return {tensor: [given[i] for i in range(len(given))] for tensor, given in found.items()}


def _number(name: str, text: str) -> Fraction:
    try:
        if len(text) > 1000 or abs(float(text)) > 1e300:
            raise ValueError
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise SpecificationError(f"{name}: '{text:.40}' is no finite number. Write a decimal.") from None


def check_point(
    specification: Specification, network: Network, layers: list[Layer] | None, values: Mapping[str, list[Fraction]]
) -> PointCheck:
    """Whether a point meets a specification.

    Args:
        specification: about the network.
        network: whose own model, onnxruntime for a file, is run at the point rounded to its dtype.
        layers: of the same network as the checker reads them, for the arithmetic of real numbers; None: it cannot.
        values: of :func:`read_point`.
    """
    name, output = specification.input.name, specification.output.name
    exact = None
    hidden = any(tensor.kind == "hidden" for tensor in specification.tensors.values())
    if layers is not None and not hidden and (y := exact_output(layers, values[name])) is not None:
        exact = holds(specification.formula, {name: values[name], output: y})
    x = torch.tensor([float(value) for value in values[name]], dtype=torch.float64).to(network.dtype)
    found = counterexample_at(specification, network, x.reshape(network.input_shape))
    stated, difference = values.get(output), None
    if stated:
        difference = float(np.abs(np.array([float(v) for v in stated]) - found.values[output]).max(initial=0.0))
    return PointCheck(exact, found.violation, str(network.dtype).removeprefix("torch."), difference)


def holds(formula: Formula, values: Mapping[str, list[Fraction]]) -> bool:
    """Whether a formula holds at rational numbers."""
    if isinstance(formula, Atom):
        total = Fraction(formula.constant)
        for (tensor, at), coefficient in formula.terms.items():
            total += Fraction(coefficient) * values[tensor][at]
        return total < 0 or (total == 0 and not formula.strict)
    parts = (holds(part, values) for part in formula.parts)
    return all(parts) if formula.every else any(parts)


def exact_output(layers: list[Layer], x: list[Fraction]) -> list[Fraction] | None:
    """The last layer at an input in rational numbers; None: a layer's values are none, or there are too many products.

    Example:
        >>> double = Layer("affine", (0,), (1,), np.array([[2.0]]), np.array([0.5]))
        >>> exact_output([Layer("input", (), (1,)), double], [Fraction(1, 3)])
        [Fraction(7, 6)]
    """
    if len(x) != layers[0].size or sum(map(_products, layers)) > AFFORDABLE:
        return None
    found = [x]
    for layer in layers[1:]:
        inputs = [found[j] for j in layer.inputs]
        if layer.kind == "affine":
            found.append(_affine(layer, [value for part in inputs for value in part]))
        elif layer.kind == "relu":
            slope = Fraction(layer.slope)
            found.append([max(value, slope * value) for value in inputs[0]])
        elif layer.kind == "add":
            found.append([a + b for a, b in zip(*inputs)])
        elif layer.kind == "product":
            found.append([a * b for a, b in zip(*inputs)])
        elif layer.kind == "maximum":
            found.append([max(parts) for parts in zip(*inputs)])
        elif layer.kind == "reshape":
            found.append(inputs[0])
        else:
            return None
    return found[-1]


def _products(layer: Layer) -> float:
    if layer.rounded:
        return math.inf  # what is stored is not what the file means
    weight = layer.weight
    if weight is None:
        return layer.size
    return len(weight.row) if isinstance(weight, Sparse) else math.prod(weight.shape)


def _affine(layer: Layer, x: list[Fraction]) -> list[Fraction]:
    bias = [Fraction(b) for b in layer.bias.tolist()] if layer.bias.size else [Fraction(0)] * layer.size
    if layer.weight is None:
        return [a + b for a, b in zip(x, bias)]
    if isinstance(layer.weight, Sparse):
        entries = zip(layer.weight.row.tolist(), layer.weight.column.tolist(), layer.weight.value.tolist())
    else:
        matrix = layer.weight if isinstance(layer.weight, np.ndarray) else layer.weight.block(
            np.arange(layer.size), np.arange(len(x))
        )  # fmt: skip
        rows, columns = matrix.nonzero()
        entries = zip(rows.tolist(), columns.tolist(), matrix[rows, columns].tolist())
    for i, j, value in entries:
        bias[i] += Fraction(value) * x[j]
    return bias
