"""Constants of ONNX files: the values of tensors, and of nodes that depend on no activation.

Such nodes are computed by the ``onnx`` package's reference implementation, one by one. What a file can make it do is
limited: arithmetic and shape operators only (no loops, no text), and no result larger than :data:`LIMIT`, which shape
inference tells beforehand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from clinch.errors import NetworkError

#: elements of a constant at most
LIMIT = 2**28
#: whole numbers of at most this many elements can be a shape, which inference has to know
_SHAPE_SIZE = 1024
#: operators whose result can be larger than all of their inputs, by an amount that their inputs' values decide
GROWING = {"ConstantOfShape", "Expand", "Tile", "Range", "OneHot", "Pad", "Resize", "Upsample", "EyeLike"}
_FOLDED = GROWING.union(
    re.findall(
        r"\w+",
        """
        Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh BatchNormalization BitShift Cast CastLike Ceil Celu
        Clip Compress Concat Constant Cos Cosh CumSum DepthToSpace DequantizeLinear Div Einsum Elu Equal Erf Exp Flatten
        Floor Gather GatherElements GatherND Gelu Gemm Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN
        LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max Mean Min Mod Mul Neg NonZero Not Or Pow PRelu
        QuantizeLinear Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
        ReduceProd ReduceSum ReduceSumSquare Relu Reshape ReverseSequence Round Scatter ScatterElements ScatterND Selu
        Shape Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan
        Tanh TopK Transpose Trilu Unique Unsqueeze Where Xor
        """,
    )
)


class Unfoldable(Exception):
    """A node that is not computed; says why in a sentence."""


def array_of(tensor: TensorProto, where: str) -> np.ndarray:
    """The value of an initialiser.

    Raises:
        NetworkError: its data does not fit its shape and type.
    """
    try:
        if math.prod(tensor.dims) > LIMIT or any(n < 0 for n in tensor.dims):
            raise ValueError(f"{list(tensor.dims)!s:.60} is no shape of at most {LIMIT:,} elements")
        array = numpy_helper.to_array(tensor)
    except Exception as error:
        # the package reads many layouts and types, each with errors of its own: the file is at fault
        raise NetworkError(
            f"The tensor '{tensor.name}' of {where} cannot be read ({str(error).rstrip('.')}). Save the model anew."
        ) from error
    return array


def folded(node: NodeProto, inputs: Mapping[str, np.ndarray], opset: int) -> list[np.ndarray]:
    """The results of a node whose inputs are all constants.

    Args:
        node: of the default domain.
        inputs: values by name.
        opset: version of the operators.

    Raises:
        Unfoldable: an operator that is not computed, or a result that is too large.
        Exception: whatever the reference implementation raises.
    """
    if node.op_type not in _FOLDED or node.domain not in ("", "ai.onnx"):
        raise Unfoldable(f"{node.op_type} of constants is not computed. Fold constants when you save the model.")
    types, results, opsets = _stated(node, inputs, opset)
    checked_size(node, inputs, opset, LIMIT, set(inputs))
    alone = helper.make_model(helper.make_graph([node], "constant", types, results), opset_imports=opsets)
    return [np.asarray(value) for value in ReferenceEvaluator(alone).run(None, dict(inputs))]


def _stated(node: NodeProto, inputs: Mapping[str, np.ndarray], opset: int) -> tuple[list[Any], list[Any], list[Any]]:
    """Inputs with their types and shapes, outputs, and operator sets of a model of this node alone."""
    types = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in inputs.items()
    ]
    results = [helper.make_empty_tensor_value_info(o) for o in node.output if o]
    return types, results, [helper.make_opsetid("", opset)]


def checked_size(
    node: NodeProto, inputs: Mapping[str, Any], opset: int, limit: int, constants: Collection[str]
) -> None:
    """Refuse a node whose result would be too large, before it is computed: shape inference tells.

    Args:
        node: of any domain; only those of the default one can grow.
        inputs: examples by name, arrays or tensors; None for one that is left out.
        opset: version of the operators.
        limit: elements of a result at most.
        constants: names of the inputs whose values count, as shapes and scales.

    Raises:
        Unfoldable: the result is larger, or its size cannot be told.
    """
    if node.domain not in ("", "ai.onnx"):
        return
    arrays = {n: np.asarray(v) for n, v in inputs.items() if n and v is not None}
    types, results, opsets = _stated(node, arrays, opset)
    small = [numpy_helper.from_array(v, n) for n, v in arrays.items() if n in constants and v.size <= _SHAPE_SIZE]
    sized = helper.make_model(helper.make_graph([node], "constant", types, results, small), opset_imports=opsets)
    try:
        outputs = shape_inference.infer_shapes(sized, data_prop=True).graph.output
    except Exception:  # inference does not know the node: what cannot grow need not be told
        outputs = sized.graph.output
    for output in outputs:
        kind = output.type.tensor_type
        extents = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
        if not kind.HasField("shape") or None in extents:
            if node.op_type in GROWING:
                raise Unfoldable(f"the size of {node.op_type} of constants cannot be told. Fold it when you save.")
        elif math.prod(n for n in extents if n is not None) > limit:
            raise Unfoldable(f"{node.op_type} of constants has shape {extents}, more than {limit:,} elements.")
