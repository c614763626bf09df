"""Counterexamples: the point, what the network makes of it, and how it is written down."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clinch.network.network import Network
from clinch.vnnlib.specification import Specification


@dataclass(frozen=True, eq=False)
class Counterexample:
    """An input that meets the specification, by the network's own arithmetic.

    Attributes:
        specification: what it meets.
        values: elements of every declared tensor, ``(size,)`` float64, row-major: the input as the network's dtype has
            it, the outputs (and hidden tensors) as the user's own model, or onnxruntime, computes them.
        violation: see :meth:`clinch.vnnlib.Specification.violation`. At most 0 where the specification is met exactly.
            Above 0 only by the rounding of an input whose limits enclose no number of the network's dtype.
    """

    specification: Specification
    values: dict[str, np.ndarray]
    violation: float

    @property
    def exact(self) -> bool:
        """Whether no tolerance is needed."""
        return self.violation <= 0

    @property
    def x(self) -> np.ndarray:
        """The input, ``(size,)``."""
        return self.values[self.specification.input.name]

    @property
    def y(self) -> np.ndarray:
        """The output, ``(size,)``."""
        return self.values[self.specification.output.name]

    def __str__(self) -> str:
        """The assignment as VNN-COMP reads it, ``((X_0 0.5) ... (Y_0 1.25))``; for version 2.0 as that standard says.

        Numbers are written with as many digits as it takes to read the same float64 back.
        """
        spec = self.specification
        if spec.version == "1.0":
            pairs = [
                f"({spec.element((name, i))} {float(value)!r})"
                for name in spec.tensors
                for i, value in enumerate(self.values[name])
            ]
            return "(" + "\n".join(pairs) + ")"
        lines = []
        for name, tensor in spec.tensors.items():
            lines.append(f"{name} {tensor.dtype} [{','.join(map(str, tensor.shape))}]")
            lines.extend(repr(float(value)) for value in self.values[name])
        return "\n".join(lines)


def counterexample_at(specification: Specification, network: Network, x: Tensor) -> Counterexample:
    """Evaluate the specification, as it was read, at one input.

    Args:
        specification: about this network.
        network: its original model is run once.
        x: ``input_shape``, in the network's dtype.
    """
    layers = {}
    for tensor in specification.tensors.values():
        output = network.layers[-1]
        layers[tensor.name] = {"input": network.layers[0], "output": output}.get(tensor.kind, str(tensor.layer))
    found = network.original(x.unsqueeze(0).to(network.device), sorted(set(layers.values())))
    values = {
        name: found[layer].detach().to("cpu", torch.float64).reshape(-1).numpy() for name, layer in layers.items()
    }
    return Counterexample(specification, values, specification.violation(values))
