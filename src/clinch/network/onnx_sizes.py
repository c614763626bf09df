"""How large the results of ONNX nodes will be: told by shapes alone, before anything is computed or allocated."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, NodeProto, helper, numpy_helper, shape_inference

from clinch.errors import NetworkError

#: whole numbers of at most this many elements can be a shape, which inference has to know
_SHAPE_SIZE = 1024
#: node types whose result can be larger than all inputs, and the positions of the inputs that say by how much
GROWING: dict[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,), "Expand": (1,), "Tile": (1,), "Range": (0, 1, 2), "OneHot": (1,), "Pad": (1,),
    "Resize": (1, 2, 3), "Upsample": (1,), "EyeLike": (), "AffineGrid": (1,), "Col2Im": (1, 2), "CenterCropPad": (1,),
    "MaxUnpool": (2,), "DFT": (1,), "HannWindow": (0,), "HammingWindow": (0,), "BlackmanWindow": (0,),
}  # fmt: skip
#: of these, types whose functions refuse sizes beyond the limit themselves
LIMITED = frozenset({"ConstantOfShape", "Expand", "Range"})
#: of these, types whose sizes multiply
_PRODUCTS = frozenset({"ConstantOfShape", "Expand", "Tile", "Resize", "Upsample", "AffineGrid", "Col2Im"})
#: types whose parameters broadcast against the first input, which inference does not look at
_SCALED = frozenset(
    {
        "QuantizeLinear", "DequantizeLinear", "BatchNormalization", "InstanceNormalization", "LayerNormalization",
        "GroupNormalization", "RMSNormalization", "PRelu", "Clip", "QLinearMatMul", "MatMulInteger", "Gemm",
    }
)  # fmt: skip
#: attributes that may be as large as a whole number can be: ends of slices, values, shapes of what is never read
_FREE = frozenset({"starts", "ends", "value_int", "value_ints", "value", "shape"})
#: what spreads a transposed convolution, with defaults
_STEPS = (("strides", 1), ("dilations", 1), ("output_padding", 0))
#: multiplications of one node of constants at most; numpy multiplies whole numbers, and along words, one by one
_MOST_WORK = {"f": 2**36, "i": 2**31}


class Unfoldable(Exception):
    """A node that is not computed; says why in a sentence."""


class TooLarge(Unfoldable):
    """A node whose result would be too large, whoever computes it; ``extents`` is its shape, or that of a part."""

    def __init__(self, reason: str, extents: Sequence[int] = ()) -> None:
        super().__init__(reason)
        self.extents = list(extents)


def check_attributes(node: NodeProto, where: str) -> None:
    """Refuse whole numbers that no window, axis or padding has, of the graphs inside the node too.

    Raises:
        NetworkError: an attribute holds one; libraries that run the file narrow them to 32 bits or end the process.
    """
    for attribute in node.attribute:
        values = [*attribute.ints, *([attribute.i] if attribute.type == AttributeProto.INT else [])]
        free = attribute.name in _FREE or node.domain not in ("", "ai.onnx", "com.microsoft")
        if not free and any(not -(2**31) < n < 2**31 for n in values):
            name = node.name or next((o for o in node.output if o), node.op_type)
            raise NetworkError(
                f"Layer '{name}' (ONNX node {node.op_type}) of {where}: its {attribute.name} "
                f"{values!s:.60} is beyond 32 bits. Correct the model."
            )
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                check_attributes(inner, where)


def check_size(
    node: NodeProto, inputs: Mapping[str, np.ndarray], opset: int, limit: int, constants: Collection[str]
) -> None:
    """Refuse a node whose result would be too large.

    Args:
        node: of any domain.
        inputs: by name; only shapes and types count of those that are no constants.
        opset: version of the operators.
        limit: elements of a result at most.
        constants: names of the inputs whose values count, as shapes and scales.

    Raises:
        TooLarge: a result is larger.
        Unfoldable: a node of a type that can grow, whose size cannot be told.
    """
    arrays = [inputs.get(name) if name else None for name in node.input]
    for extents in (*_stated_sizes(node, inputs, constants), *_broadcasts(node, arrays), *_padded(node, arrays)):
        _limited(node, extents, limit)
    if node.op_type == "Einsum":
        _limited(node, _einsum_extents(node, arrays)[0], limit)
    if node.domain not in ("", "ai.onnx"):
        return
    for extents in _inferred(node, inputs, opset, constants):
        if extents is not None:
            _limited(node, extents, limit)
            if node.op_type == "Gemm" and len(arrays) > 2 and arrays[2] is not None:
                _limited(node, _joint([extents, arrays[2].shape]), limit)
        elif node.op_type in GROWING:
            raise Unfoldable(f"the size of {node.op_type} of constants cannot be told. Fold it when you save.")


def check_work(node: NodeProto, inputs: Sequence[np.ndarray | None]) -> None:
    """Refuse a product of constants that would take long.

    Raises:
        TooLarge: more multiplications than :data:`_MOST_WORK`.
    """
    arrays = [a for a in inputs if a is not None]
    kind = "f" if all(a.dtype.kind == "f" for a in arrays) else "i"
    if node.op_type == "Einsum":
        work, kind = math.prod(_einsum_extents(node, arrays)[1]), "i"
    elif node.op_type in ("MatMul", "Gemm", "MatMulInteger", "QLinearMatMul") and len(arrays) > 1:
        left, right = arrays[0].shape, arrays[3 if node.op_type == "QLinearMatMul" and len(arrays) > 3 else 1].shape
        # rows on the left times all of the right one, in each of the batches
        work = math.prod(left[:-1] or (1,)) * math.prod(right[-2:])
        work *= max(math.prod(right[:-2]) // max(math.prod(left[:-2]), 1), 1)
    else:
        return
    if work > _MOST_WORK[kind]:
        raise TooLarge(f"{node.op_type} of constants takes {work:,} multiplications. Fold it when you save.")


def _limited(node: NodeProto, extents: Sequence[int], limit: int) -> None:
    if any(n < 0 for n in extents) or math.prod(extents) > limit:
        shape = list(extents)
        raise TooLarge(f"{node.op_type} of constants has shape {shape!s:.60}, more than {limit:,} elements.", shape)


def _stated_sizes(
    node: NodeProto, inputs: Mapping[str, np.ndarray], constants: Collection[str]
) -> Iterator[Sequence[int]]:
    """Sizes that inputs state, as extents: they can be so large that inference itself would wrap around."""
    for position in GROWING.get(node.op_type, ()):
        name = node.input[position] if position < len(node.input) else ""
        values = inputs.get(name) if name in constants else None
        if values is None or values.dtype.kind not in "iuf" or values.size > _SHAPE_SIZE:
            continue
        sizes = [min(abs(float(v)), 2.0**63) if np.isfinite(v) else 2.0**63 for v in values.flatten()]
        whole = [max(math.ceil(v), 1) for v in sizes]
        yield from ([whole] if node.op_type in _PRODUCTS else [[n] for n in whole])


def _broadcasts(node: NodeProto, arrays: Sequence[np.ndarray | None]) -> Iterator[list[int]]:
    """What parameters that broadcast make of the inputs that they scale."""
    if node.op_type not in _SCALED or node.op_type == "Gemm":
        return
    shapes = [None if a is None else a.shape for a in arrays]
    if node.op_type in ("QLinearMatMul", "MatMulInteger"):
        groups = ([0, 1, 2], [3, 4, 5]) if node.op_type == "QLinearMatMul" else ([0, 2], [1, 3])
    elif node.op_type in ("PRelu", "Clip"):
        groups = (list(range(len(shapes))),)
    else:
        # vectors lie along an axis of the first input, whichever it is
        groups = ([i for i, s in enumerate(shapes) if i == 0 or (s is not None and len(s) > 1)],)
    for group in groups:
        chosen = [shapes[i] for i in group if i < len(shapes)]
        yield _joint([s for s in chosen if s is not None])


def _padded(node: NodeProto, arrays: Sequence[np.ndarray | None]) -> Iterator[list[int]]:
    """What windows are taken from, padding and all, and what a transposed convolution makes before it is cut."""
    x, w = (arrays[i] if i < len(arrays) else None for i in (0, 1))
    lists = {a.name: list(a.ints) for a in node.attribute if a.ints}
    if x is None or x.ndim < 3 or not lists.keys() & {"pads", "strides", "dilations", "output_padding"}:
        return
    count = x.ndim - 2
    pads = [max(n, 0) for n in lists.get("pads", [0] * 2 * count)]
    if node.op_type == "ConvTranspose" and w is not None:
        steps = zip(*(lists.get(k, [d] * count) for k, d in _STEPS), x.shape[2:], w.shape[2:])
        yield [
            x.shape[0],
            *w.shape[1:2],
            *(abs(s) * (n - 1) + abs(d) * (k - 1) + abs(e) + 1 for s, d, e, n, k in steps),
        ]
    elif node.op_type != "Pad":
        yield [*x.shape[:2], *(n + b + e for n, b, e in zip(x.shape[2:], pads[:count], pads[count:]))]


def _joint(shapes: Sequence[Sequence[int]]) -> list[int]:
    rank = max((len(s) for s in shapes), default=0)
    padded = [[1] * (rank - len(s)) + list(s) for s in shapes]
    return [max(column) for column in zip(*padded)]


def _einsum_extents(node: NodeProto, arrays: Sequence[np.ndarray | None]) -> tuple[list[int], list[int]]:
    """Extents of the result, and of all letters together; those of an ellipsis are of the longest input."""
    equation = next((a.s.decode(errors="replace") for a in node.attribute if a.name == "equation"), "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    sizes: dict[str, int] = {}
    rest: list[int] = []
    for word, array in zip(left.split(","), arrays):
        shape = () if array is None else array.shape
        before, dots, after = word.partition("...")
        sizes |= {c: max(n, sizes.get(c, 1)) for c, n in zip(before, shape)}
        sizes |= {c: max(n, sizes.get(c, 1)) for c, n in zip(after[::-1], shape[::-1])}
        rest = _joint([rest, shape[len(before) : len(shape) - len(after)]]) if dots else rest
    if not arrow:
        right = "..." + "".join(c for c in sizes if left.count(c) == 1)
    found = [sizes.get(c, 1) for c in right if c != "."]
    return [*(rest if "..." in right else ()), *found], [*rest, *sizes.values()]


def _inferred(
    node: NodeProto, inputs: Mapping[str, np.ndarray], opset: int, constants: Collection[str]
) -> list[list[int] | None]:
    """The extents of each result; None where inference does not tell them."""
    given = {n: v for n, v in inputs.items() if n}
    types, results, opsets = alone(node, given, opset)
    small = [numpy_helper.from_array(v, n) for n, v in given.items() if n in constants and v.size <= _SHAPE_SIZE]
    model = helper.make_model(helper.make_graph([node], "alone", types, results, small), opset_imports=opsets)
    try:
        outputs = shape_inference.infer_shapes(model, data_prop=True).graph.output
    except Exception:  # inference does not know the node: what cannot grow need not be told
        return [None] * len(results)
    found: list[list[int] | None] = []
    for output in outputs:
        kind = output.type.tensor_type
        extents = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
        known = [n for n in extents if n is not None]
        found.append(known if kind.HasField("shape") and len(known) == len(extents) else None)
    return found


def alone(node: NodeProto, inputs: Mapping[str, np.ndarray], opset: int) -> tuple[list[Any], list[Any], list[Any]]:
    """Inputs with their types and shapes, outputs, and operator sets of a model of this node alone."""
    types = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in inputs.items()
    ]
    results = [helper.make_empty_tensor_value_info(o) for o in node.output if o]
    return types, results, [helper.make_opsetid("", opset)]
