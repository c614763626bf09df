"""Constants of ONNX files: the values of tensors, and of nodes that depend on no activation.

Such nodes are computed by the ``onnx`` package's reference implementation, one by one. What a file can make it do is
limited: arithmetic and shape operators only (no loops, no text), of sizes that are told beforehand
(:mod:`clinch.network.onnx_sizes`) and add up to no more than :data:`ROOM` and some.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from clinch.errors import NetworkError
from clinch.network.onnx_sizes import alone

#: elements of a constant at most
LIMIT = 2**28
#: elements of constants that a file may make by nodes, beside the fourfold of those that it holds
ROOM = 2**25
_FOLDED = frozenset(
    re.findall(
        r"\w+",
        """
        Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh BatchNormalization BitShift Cast CastLike Ceil Celu
        Clip Compress Concat Constant ConstantOfShape Cos Cosh CumSum DepthToSpace DequantizeLinear Div Einsum Elu Equal
        Erf Exp Expand EyeLike Flatten Floor Gather GatherND Gelu Gemm Greater GreaterOrEqual HardSigmoid
        HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max Mean Min Mod Mul Neg NonZero
        Not OneHot Or PRelu Pad Pow QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
        ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence Round
        ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign
        SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh Tile TopK Transpose Trilu Unique Unsqueeze Upsample Where Xor
        """,
    )
)


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


def foldable(node: NodeProto) -> bool:
    """Whether the reference implementation may compute nodes of that type."""
    return node.op_type in _FOLDED and node.domain in ("", "ai.onnx")


def folded(node: NodeProto, inputs: Mapping[str, np.ndarray], opset: int) -> list[np.ndarray]:
    """The results of a node whose inputs are all constants.

    Args:
        node: one that is :func:`foldable`, of a size that was checked.
        inputs: values by name.
        opset: version of the operators.

    Raises:
        Exception: whatever the reference implementation raises.
    """
    types, results, opsets = alone(node, inputs, opset)
    model = helper.make_model(helper.make_graph([node], "constant", types, results), opset_imports=opsets)
    return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, dict(inputs))]
