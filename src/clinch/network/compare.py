"""Whether a graph computes what the original does, on random inputs and up to rounding.

Two implementations of a network may differ, at a layer,

1. by some units of the dtype's rounding, relative to the layer's largest activation;
2. by what rounding does to the graph itself, float64 against the model's dtype: cancellation shows there;
3. by what the functions below it are off: a library's sigmoid is accurate to one rounding of 1, not of its value, so
   that 1e-8 may come out as 2e-8. How far that carries is measured: the graph runs once more with such errors put in.

What goes *into* such a function is compared as well, for behind it a wrong number may hide below the third allowance.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from clinch.errors import NetworkError
from clinch.network.graph import Graph
from clinch.network.network import Original
from clinch.network.ops.base import Operator

#: largest difference between graph and original, in units of the dtype's rounding and relative to the largest output
TOLERANCE = 1e3
#: and in units of what rounding does to the graph itself, float64 against the model's dtype
OWN_ROUNDING = 10.0
#: roundings that an implementation of a function may be off: onnxruntime's sigmoid 1.3, tanh 2.2, GELU 0.9
FUNCTION_ROUNDING = 4.0
#: runs with such errors, their signs drawn at random, and what their largest effect counts
DRAWS, EFFECT = 4, 2.0

_REPORT = (
    "The model may mix the inputs of a batch, draw random numbers, or change tensors in place through views; "
    "write it without."
)


def compare(exact: Graph, native: Graph, original: Original, samples: Sequence[Tensor], name: str) -> None:
    """Compare graph and original, on batches and on single inputs.

    Args:
        exact: the graph in float64.
        native: the graph in the model's dtype.
        original: the user's model.
        samples: batches of inputs in the model's dtype.
        name: of the model.

    Raises:
        NetworkError: they differ by more than rounding; gives the largest difference. Or no sample gives finite numbers
            in the model's dtype.
    """
    computed = [exact.nodes[i].computed for i in exact.evaluated([exact.output]) if i]
    inexact = [inputs for op, inputs in computed if op.has_absolute_error]
    watched = sorted({exact.output, *(j for inputs in inexact for j in inputs if j)})
    compared = 0
    for batch in samples:
        with torch.no_grad():
            ours = exact.forward(batch.to(torch.float64), watched)
            rounded = {i: h.to(torch.float64) for i, h in native.forward(batch, watched).items()}
            effects = _effects(exact, batch, watched, ours) if inexact else {}
        # A single input must give what it gives in company: a model may treat no input by the others.
        for rows in (slice(None), slice(-1, None)):
            theirs = _original(original, batch[rows], [exact.nodes[i].name for i in watched], name)
            for i in watched:
                layer = theirs[exact.nodes[i].name].to(torch.float64)
                where = name if i == exact.output else f"{name} up to its layer '{exact.nodes[i].name}'"
                allowed, unsettled = effects.get(i, (0.0, torch.zeros(len(batch), dtype=torch.bool)))
                settled = ~unsettled[rows].to(layer.device)
                compared += _compare_values(
                    ours[i][rows], rounded[i][rows], layer, settled, allowed, torch.finfo(batch.dtype), where
                )
    if not compared:
        raise NetworkError(
            f"{name} overflows on random inputs: it returns NaN or infinity where exact arithmetic does not. Load it "
            "with smaller weights, or in float64 (model.double())."
        )


def _effects(
    exact: Graph, batch: Tensor, watched: list[int], ours: dict[int, Tensor]
) -> dict[int, tuple[float, Tensor]]:
    """By how much errors of functions on the way change the watched layers, at most; and the rows ``(B,)`` where they
    decide how large a number is, as those of a sigmoid far below zero do for its logarithm.
    """
    rounding = FUNCTION_ROUNDING * torch.finfo(batch.dtype).eps
    generator = torch.Generator().manual_seed(0)
    largest = dict.fromkeys(watched, 0.0)
    unsettled = {i: torch.zeros(len(batch), dtype=torch.bool) for i in watched}

    def inexact(op: Operator, *inputs: Tensor) -> Tensor:
        value = op.forward(*inputs)
        signs = 2.0 * torch.randint(2, value.shape, generator=generator).to(value) - 1
        return value + rounding * signs * op.absolute_error(*inputs)

    functions = [(i, node.computed.op) for i, node in enumerate(exact.nodes)]
    override = {i: partial(inexact, op) for i, op in functions if op.has_absolute_error}
    for _ in range(DRAWS):
        values = exact.forward(batch.to(torch.float64), watched, override)
        for i in watched:
            # written so that NaN counts
            lost = ~((values[i] - ours[i]).abs() < ours[i].abs() / 2) & (ours[i] != 0)
            unsettled[i] |= lost.flatten(1).any(1).cpu()
            change = (values[i] - ours[i]).abs().nan_to_num(0.0, 0.0, 0.0)
            largest[i] = max(largest[i], EFFECT * float(change.max()) if change.numel() else 0.0)
    return {i: (largest[i], unsettled[i]) for i in watched}


def _compare_values(
    ours: Tensor, rounded: Tensor, theirs: Tensor, settled: Tensor, functions: float, limits: torch.finfo, name: str
) -> int:
    """The number of rows that could be compared: not those that overflow in the original and in the graph, nor those
    that overflow in the original and where rounding decides.
    """
    if theirs.shape != ours.shape:
        raise NetworkError(f"{name} returns shape {tuple(theirs.shape)}, read as {tuple(ours.shape)}. {_REPORT}")
    if not ours.numel():
        return 1
    beyond = ~(rounded.flatten(1).isfinite() & (ours.flatten(1).abs() <= limits.max)).all(1)
    overflow = ~theirs.flatten(1).isfinite().all(1) & (beyond | ~settled)
    ours, rounded, theirs = ours[~overflow], rounded[~overflow], theirs[~overflow]
    if not len(ours):
        return 0
    difference = torch.where((theirs == rounded) | (theirs.isnan() & ours.isnan()), 0.0, (theirs - ours).abs())
    size = float(theirs.nan_to_num(0.0, 0.0, 0.0).abs().max())
    own = float((rounded - ours).abs().nan_to_num(0.0, 0.0, 0.0).max())
    largest = float(difference.max())
    # written so that NaN counts as different
    if not largest <= TOLERANCE * limits.eps * size + OWN_ROUNDING * own + functions + limits.tiny:
        raise NetworkError(
            f"The graph read from {name} differs from the original by {largest:.3g} on random inputs, where outputs "
            f"are of size {size:.3g}. {_REPORT}"
        )
    return len(ours)


def _original(original: Original, x: Tensor, layers: list[str], name: str) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return original(x, layers)
    except Exception as error:
        raise NetworkError(
            f"{name} fails on a batch of {len(x)}: {type(error).__name__}: {error}. {_REPORT}"
        ) from error
