"""Specifications of several networks, as one of the network that holds them all.

The inputs become parts of one input, the tensors of each network layers of a joint network
(:mod:`clinch.modeling.joint`). Inputs that the specification says are equal, element by element, are one part: two
networks at the same input have one region, not one and a condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clinch.errors import SpecificationError
from clinch.modeling.variables import Applied, Variable, apply
from clinch.network.network import Network
from clinch.vnnlib.problems import fits
from clinch.vnnlib.specification import Atom, Declaration, Formula, Junction, Specification
from clinch.vnnlib.specification import Variable as Element

#: the name of the one input
INPUTS = "inputs"


@dataclass(frozen=True, eq=False)
class Joined(Specification):
    """A specification over a joint network, which calls elements as the file does.

    Attributes:
        original: what was read. parts: input tensor -> where it begins in the one input.
    """

    original: Specification | None = None
    parts: Mapping[str, int] | None = None

    def element(self, variable: Element) -> str:
        """How the file calls an element."""
        assert self.original is not None and self.parts is not None
        name, position = variable
        if name == INPUTS:
            name = max((n for n, first in self.parts.items() if first <= position), key=lambda n: self.parts[n])  # type: ignore[index]
            position -= self.parts[name]
        return self.original.element((name, position))

    def restored(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The elements of every tensor of the file, from those of this one's."""
        assert self.original is not None and self.parts is not None
        found = {}
        for name, tensor in self.original.tensors.items():
            first = self.parts.get(name)
            found[name] = values[name] if first is None else values[INPUTS][first : first + tensor.size]
        return found


def join(specification: Specification, networks: Mapping[str, Network]) -> tuple[Joined, Network]:
    """One specification and one network from several.

    Args:
        specification: of version 2.0.
        networks: by the names that it declares; those that are declared equal to another one may be missing.

    Raises:
        SpecificationError: a network is missing, or has another shape, dtype or layers.
        ProblemError: the networks differ in dtype or device.
    """
    nets = {
        name: networks.get(name, networks.get(specification.equal.get(name, ""))) for name in specification.networks
    }
    missing = [name for name, net in nets.items() if net is None]
    if missing:
        raise SpecificationError(
            f"{specification.name} declares the networks {', '.join(nets)}; give {missing[0]} too."
        )
    inputs = {t.network: t for t in specification.tensors.values() if t.kind == "input"}
    same = _equal_inputs(specification.formula, [t for t in inputs.values()])
    variables: dict[str, Variable] = {}
    applied: dict[str, Applied] = {}
    for name, tensor in inputs.items():
        net: Any = nets[name]
        fits(specification, tensor, net, net.input_shape)
        first = same[tensor.name]
        if first not in variables:
            variables[first] = Variable(net.input_shape, name=first)
        if variables[first].shape != tuple(net.input_shape):
            raise SpecificationError(
                f"{specification.name}: {first} and {tensor.name} are equal, but the networks take inputs of shapes "
                f"{list(variables[first].shape)} and {list(net.input_shape)}."
            )
        applied[name] = apply(net, variables[first])
    joint: Any = next(iter(applied.values())).network
    for other in applied.values():
        joint = joint.union(other.network)
    begin = {variables[name].root: name for name in variables}
    parts = {begin[root]: first for root, first in joint.columns.items()}
    tensors = {INPUTS: Declaration(INPUTS, "input", tuple(joint.input_shape), "real", None, 1)}
    for name, tensor in specification.tensors.items():
        if tensor.kind != "input":
            tensors[name] = _as_layer(specification, tensor, nets[tensor.network], joint, applied[tensor.network])
    parts |= {name: parts[first] for name, first in same.items()}
    formula = _moved(specification.formula, parts)
    made = Joined(specification.name, "2.0", tensors, formula, (), {}, original=specification, parts=parts)
    return made, joint


def _as_layer(specification: Specification, tensor: Declaration, net: Any, joint: Any, applied: Applied) -> Declaration:
    """An output or a hidden tensor, as a layer of the joint network."""
    if tensor.kind == "hidden" and tensor.layer not in net:
        raise SpecificationError(
            f"{specification.name}, line {tensor.line}: there is no layer '{tensor.layer}' in {net.name}; it has "
            f"{', '.join(net.layers)}."
        )
    node = net.graph.output if tensor.kind == "output" else net.position(tensor.layer)
    fits(specification, tensor, net, net.graph.nodes[node].shape)
    layer = joint.graph.nodes[joint.at(applied.application, node)].name
    return replace(tensor, kind="hidden", dtype="real", layer=layer)


def _equal_inputs(formula: Formula, inputs: list[Declaration]) -> dict[str, str]:
    """Each input tensor's name -> the first one that must equal it element by element, or its own."""
    below: dict[tuple[str, str], set[int]] = {}
    for atom in _always(formula):
        if len(atom.terms) == 2 and not atom.constant and not atom.strict:
            ((a, i), ca), ((b, j), cb) = atom.terms.items()
            if a != b and i == j and ca == -cb:
                below.setdefault((a, b) if ca > 0 else (b, a), set()).add(i)
    same = {}
    for k, tensor in enumerate(inputs):
        every = set(range(tensor.size))
        same[tensor.name] = next(
            (
                same[first.name] for first in inputs[:k]
                if first.size == tensor.size
                and below.get((first.name, tensor.name)) == below.get((tensor.name, first.name)) == every
            ),
            tensor.name,
        )  # fmt: skip
    return same


def _always(formula: Formula) -> list[Atom]:
    """Atoms that hold wherever the formula does."""
    if isinstance(formula, Atom):
        return [formula]
    return [atom for part in formula.parts for atom in _always(part)] if formula.every else []


def _moved(formula: Formula, parts: Mapping[str, int]) -> Formula:
    """The formula over the one input; conditions that equal parts meet are true."""
    if isinstance(formula, Junction):
        return Junction(formula.every, tuple(_moved(part, parts) for part in formula.parts))
    terms: dict[Element, float] = {}
    for (name, position), value in formula.terms.items():
        variable = (INPUTS, parts[name] + position) if name in parts else (name, position)
        terms[variable] = terms.get(variable, 0.0) + value
    return replace(formula, terms={variable: value for variable, value in terms.items() if value})
