"""``.nnet`` files, the text format of ACAS Xu's networks (Julian et al. 2016, "Policy Compression for Aircraft
Collision Avoidance Systems"): dense layers with ReLUs between them, and the normalisation of inputs and outputs.

Behind comment lines stand: number of layers, inputs, outputs, largest layer; sizes of all layers; an unused flag;
minima, maxima, means and ranges of the inputs, the last two with one number more for all outputs; then weights row by
row and biases of each layer.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from clinch.errors import NetworkError
from clinch.io.files import MODEL_LIMIT, is_there, missing, read_limited

#: layers, and neurons of one, at most
MOST_LAYERS, MOST_NEURONS = 1000, 2**20


def read_nnet(path: Path) -> nn.Sequential:
    """The network of a ``.nnet`` file, from inputs to outputs in their own units, in float64.

    ``y = range_out · f((x − mean)/range) + mean_out``; the affine ends are taken into the first and last layer. Inputs
    are not clipped to the file's minima and maxima, as its authors' program does.

    Raises:
        NetworkError: there is no such file, or it is none; names the line.
    """
    if not is_there(path):
        raise NetworkError(missing(path))
    text = read_limited(path, MODEL_LIMIT, NetworkError).decode("utf-8", errors="replace")
    lines = [(k, line) for k, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("//")]
    numbers = _Numbers(path, lines)
    layers, inputs, outputs = (int(n) for n in numbers.take(3, "layers, inputs and outputs"))
    if not (0 < layers <= MOST_LAYERS):
        raise NetworkError(f"{path}: {layers} layers; write 1 to {MOST_LAYERS}.")
    sizes = [int(n) for n in numbers.take(layers + 1, "sizes of layers")]
    if (sizes[0], sizes[-1]) != (inputs, outputs) or not all(0 < n <= MOST_NEURONS for n in sizes):
        raise NetworkError(f"{path}: its layers have sizes {sizes!s:.80}, for {inputs} inputs and {outputs} outputs.")
    numbers.skip("the unused flag")
    for what in ("minima of the inputs", "maxima of the inputs"):
        numbers.take(inputs, what)
    mean, scale = (numbers.take(inputs + 1, what) for what in ("means", "ranges"))
    if not bool((scale != 0).all()):
        raise NetworkError(f"{path}: a range is 0, by which inputs are divided.")
    parts: list[nn.Module] = []
    for k, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        weight = torch.stack([numbers.take(fan_in, f"weights of layer {k + 1}") for _ in range(fan_out)])
        bias = torch.stack([numbers.take(1, f"biases of layer {k + 1}")[0] for _ in range(fan_out)])
        if k == 0:
            weight = weight / scale[:-1]
            bias = bias - weight @ mean[:-1]
        if k == layers - 1:
            weight, bias = scale[-1] * weight, scale[-1] * bias + mean[-1]
        parts += [_dense(weight, bias), nn.ReLU()]
    return nn.Sequential(*parts[:-1]).eval()


def _dense(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


class _Numbers:
    """The lines of a file, one row of numbers each."""

    def __init__(self, path: Path, lines: list[tuple[int, str]]) -> None:
        self.path, self.lines, self.at = path, lines, 0

    def skip(self, what: str) -> tuple[int, str]:
        """The next line."""
        if self.at >= len(self.lines):
            raise NetworkError(f"{self.path} ends where {what} should stand.")
        self.at += 1
        return self.lines[self.at - 1]

    def take(self, count: int, what: str) -> Tensor:
        """So many numbers of the next line, ``(count,)``."""
        line, text = self.skip(what)
        try:
            found = [float(word) for word in text.replace(",", " ").split()]
        except ValueError:
            found = []
        if len(found) < count or not all(math.isfinite(n) for n in found):
            raise NetworkError(f"{self.path}, line {line}: {what} should stand here, {count} numbers.")
        return torch.tensor(found[:count], dtype=torch.float64)
