"""Calls on tensors whose batch is not in front, as the same calls on rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from clinch.network.ops.layout import (
    Activation,
    Layout,
    Moved,
    arranged,
    batch_axis,
    fitted,
    layout_of,
    reshaped,
    value_of,
)
from clinch.network.ops.lazy import is_sequence
from clinch.network.ops.reading import Value

#: the same elements in their order
RESHAPES = frozenset(
    f"aten.{name}"
    for name in ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "reshape_as")
)
#: dimensions in another order
PERMUTATIONS = frozenset(
    f"aten.{name}"
    for name in ("permute", "transpose", "swapaxes", "swapdims", "t", "mT", "numpy_T", "movedim", "moveaxis")
)
#: element by element, or nothing at all
_POINTWISE = frozenset(
    re.findall(
        r"[\w.]+",
        """
        aten.relu aten.relu6 aten.leaky_relu aten.elu aten.selu aten.celu aten.gelu aten.silu aten.mish aten.softplus
        aten.sigmoid aten.tanh aten.hardtanh aten.hardsigmoid aten.hardswish aten.logsigmoid aten.log_sigmoid aten.exp
        aten.log aten.sqrt aten.rsqrt aten.square aten.sin aten.cos aten.abs aten.neg aten.clamp aten.clamp_min
        aten.clamp_max aten.clip aten.reciprocal aten.pow aten.erf aten.add aten.sub aten.rsub aten.mul aten.multiply
        aten.div aten.divide aten.true_divide aten.subtract aten.maximum aten.minimum aten.dropout aten.clone
        aten.contiguous aten.detach aten.alias aten.positive aten.to aten._to_copy aten.type_as aten.float aten.double
        aten.softsign aten.tanhshrink aten.threshold aten.feature_dropout aten.alpha_dropout aten.lift_fresh_copy
        aten.where aten.view_as aten.masked_fill aten.erfc aten.log1p aten.expm1 aten.log2 aten.log10 aten.exp2
        aten.atan aten.asin aten.acos aten.sinh aten.cosh aten.asinh aten.acosh aten.atanh aten.tan aten.sign aten.floor
        aten.ceil aten.round aten.trunc aten.fmax aten.fmin aten.softshrink aten.hardshrink aten.nan_to_num aten.logit
        aten.addcmul aten.addcdiv aten.xlogy aten.atan2 aten.remainder aten.floor_divide
        """,
    )
)
#: along dimensions that an argument names
_ALONG = dict.fromkeys(
    (
        "aten.softmax", "aten._softmax", "aten.log_softmax", "aten._log_softmax", "aten.select", "aten.sum",
        "aten.mean", "aten.amax", "aten.amin", "aten.chunk", "aten.split", "aten.split_with_sizes", "aten.slice",
        "aten.cat", "aten.concat", "aten.concatenate", "aten.narrow", "aten.index_select", "aten.glu", "aten.cumsum",
        "aten.unbind", "values of aten.sort", "values of aten.topk", "values of aten.median", "values of aten.kthvalue",
        "values of aten.cummax", "values of aten.cummin", "aten.logsumexp", "aten.prod", "aten.var", "aten.std",
        "aten.linalg_vector_norm", "aten.cumprod",
    ),
    "dim",
) | {"aten.flip": "dims"}  # fmt: skip
#: along the last dimension
_LAST = frozenset({"aten.linear", "aten.layer_norm", "aten.rms_norm"})
#: over time, which is in front of the batch
_RECURRENT = frozenset({"aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu"})
#: matrices in the last two dimensions
_MATRICES = frozenset({"aten.matmul", "aten.bmm", "aten.scaled_dot_product_attention", "aten.baddbmm"})


def as_rows(
    name: str, bound: dict[str, Any], old: Sequence[Any], new: Any
) -> tuple[str, dict[str, Any], Layout] | None:
    """The call on rows: its name, its arguments and the layout of its result; None: not known.

    Args:
        name: of the call.
        bound: its arguments.
        old: extents of its first activation in the module.
        new: its result in the module, or several.
    """
    first = new[0] if isinstance(new, (list, tuple)) and new else new
    activations = [a for a in _flat(list(bound.values())) if isinstance(a, (Value, Moved))]
    if not isinstance(first, Tensor) or not activations:
        return None
    layout, rank = layout_of(activations[0]), len(old)
    if name in _RECURRENT:
        activations = [a for a in _flat([bound["input"], bound["params"]]) if isinstance(a, (Value, Moved))]
    if name in RESHAPES:
        after = reshaped(layout, old, first.shape)
        return None if after is None else ("aten.reshape", {"self": value_of(activations[0])}, after)
    if name in PERMUTATIONS:
        return _permuted(name, bound, layout, rank)
    found = batch_axis(first.shape)
    if found is None or found[1] != layout.outer * layout.inner or any(layout_of(a) != layout for a in activations):
        return None
    after = Layout(found[0], layout.outer, layout.inner)
    arguments = {key: value if key == "index" else _rows(value, layout, rank) for key, value in bound.items()}
    if name in _RECURRENT:
        first_state = {"hx": bound["hx"], "params": bound["params"]}
        return name, arguments | first_state, after
    if name in _LAST:
        depth = len(bound["normalized_shape"]) if "normalized_shape" in bound else 1
        return (name, bound | {"input": arguments["input"]}, after) if layout.axis < rank - depth else None
    if name == "aten.batch_norm" and layout.axis != 1:
        return name, bound | {"input": arguments["input"], "channel": layout.groups(rank)[1][0]}, after
    if any(value is _MEETS for value in _flat(list(arguments.values()))):
        return None
    if name in _POINTWISE or (name in _MATRICES and layout.axis < rank - 2):
        return ("aten.matmul" if name == "aten.bmm" else name), _renamed(name, arguments), after
    if name in _ALONG:
        return _along(name, arguments, layout, rank, after)
    return None


class _Meets:
    """Stands for a constant that varies along the batch."""


_MEETS = _Meets()


def _flat(tree: Any) -> list[Any]:
    if is_sequence(tree):
        return [leaf for item in tree for leaf in _flat(item)]
    return [tree]


def _rows(value: Any, layout: Layout, rank: int) -> Any:
    if isinstance(value, Moved):
        return value.value
    if isinstance(value, Tensor):
        found = fitted(value, layout, rank)
        return _MEETS if found is None else found
    return [_rows(v, layout, rank) for v in value] if is_sequence(value) else value


def _renamed(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """``bmm`` has another name for its second matrix than ``matmul``."""
    return (
        {"other" if key == "mat2" else key: value for key, value in arguments.items()}
        if name == "aten.bmm"
        else arguments
    )


def _permuted(name: str, bound: dict[str, Any], layout: Layout, rank: int) -> tuple[str, dict[str, Any], Layout] | None:
    order = list(range(rank))
    if name == "aten.permute":
        order = [d % rank for d in bound["dims"]]
    elif name == "aten.numpy_T":
        order.reverse()
    elif name in ("aten.movedim", "aten.moveaxis"):
        source, target = (v if isinstance(v, (list, tuple)) else [v] for v in (bound["source"], bound["destination"]))
        rest = [d for d in order if d not in {s % rank for s in source}]
        for s, t in sorted(zip(source, target), key=lambda pair: pair[1] % rank):
            rest.insert(t % rank, s % rank)
        order = rest
    else:
        keys = [key for key in bound if key.startswith(("dim", "axis"))]
        a, b = (bound[key] % rank for key in keys) if keys else (rank - 2, rank - 1)
        order[a], order[b] = order[b], order[a]
    groups = layout.groups(rank)
    dims = [0, *(n + 1 for d in order for n in groups[d])]
    after = Layout(order.index(layout.axis), layout.outer, layout.inner)
    return "aten.permute", {"self": value_of(bound["self"]), "dims": dims}, after


def _along(
    name: str, arguments: dict[str, Any], layout: Layout, rank: int, after: Layout
) -> tuple[str, dict[str, Any], Layout] | None:
    key = _ALONG[name]
    given = arguments.get(key)
    if given is None or not rank:
        return None
    groups = layout.groups(rank)
    dims = [d % rank for d in (given if isinstance(given, (list, tuple)) else [given])]
    if layout.axis in dims:
        return None
    moved = [groups[d][0] + 1 for d in dims]
    return name, arguments | {key: moved if isinstance(given, (list, tuple)) else moved[0]}, after


def result(value: Value | list[Value], layout: Layout, new: Any) -> Activation | list[Activation] | None:
    """What a reader made of a call on rows; None: its results are not those of the module.

    Args:
        value: what it made.
        layout: of a single result.
        new: the results in the module.
    """
    if isinstance(value, Value):
        return arranged(value, layout)
    found = []
    for one, expected in zip(value, new):
        place = batch_axis(expected.shape)
        own = layout if place is None or place[1] != 1 else Layout(place[0])
        if one.shape != own.sample(expected.shape):
            return None
        found.append(arranged(one, own))
    return found
