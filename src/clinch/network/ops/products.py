"""Calls that are products and sums of others: gates, norms and distances of vectors, products along dimensions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from clinch.network.ops.bilinear import MatrixProduct
from clinch.network.ops.composites import Operand, Parts
from clinch.network.ops.dense import Dense
from clinch.network.ops.functions import Sqrt
from clinch.network.ops.order import largest
from clinch.network.ops.reading import Call, Reader, Value, from_aten, from_onnx
from clinch.network.ops.scale import Scale
from clinch.network.ops.shape import Expand, Reshape
from clinch.network.ops.within import Within

#: elements along a dimension that are multiplied one after the other
MOST_FACTORS = 64


@from_aten("aten.unbind")
def _unbind(call: Call) -> list[Value]:
    x = call.activation("self")
    dim = call.axis(call.get("dim", 0), len(x.shape))
    shape = (*x.shape[:dim], *x.shape[dim + 1 :])
    parts = Parts(call)
    return [call.emit(Reshape(shape), parts.part(x, dim, i, 1)) for i in range(x.shape[dim])]


@from_aten("aten.bmm")
def _batched_product(call: Call) -> Value:
    return Parts(call).product(call.operand("self"), call.operand("mat2"))


@from_aten("aten.glu")
def _glu(call: Call) -> Value:
    x = call.activation("self")
    dim = call.axis(call.get("dim", -1), len(x.shape))
    half, parts = x.shape[dim] // 2, Parts(call)
    gate = parts.function("aten.sigmoid", parts.part(x, dim, half, half))
    found = parts.multiply(parts.part(x, dim, 0, half), gate)
    assert isinstance(found, Value)
    return found


# --- norms and distances of vectors ----------------------------------------------------------------------------------


def _norm(call: Call, x: Value, p: float, dims: Sequence[int], keep: bool) -> Value | None:
    """``(Σ |x|^p)^(1/p)`` over dimensions of a batch's tensor."""
    parts = Parts(call)
    if p == float("inf"):
        own = [call.axis(d, len(x.shape)) for d in dims]
        return largest(call, parts.apply("aten.abs", self=x), own, keep, 1.0)
    if p == 1:
        return parts.apply("aten.sum", self=parts.apply("aten.abs", self=x), dim=dims, keepdim=keep)
    if p != 2:
        return None
    total = parts.apply("aten.sum", self=parts.apply("aten.square", self=x), dim=dims, keepdim=keep)
    return call.emit(Sqrt(of_norm=True), total) if isinstance(total, Value) else None


@from_aten("aten.linalg_vector_norm")
def _vector_norm(call: Call) -> Value | None:
    dims = call.ints("dim", [])
    if not dims:
        return None
    return _norm(call, call.activation("self"), call.number("ord", 2), dims, bool(call.get("keepdim", False)))


def _onnx_norm(p: float) -> Reader:
    def read(call: Call) -> Value | None:
        if call.get("axes") is None:
            raise call.refuse("without axes it works along the batch")
        return _norm(call, call.activation("data"), p, call.ints("axes"), bool(call.get("keepdims", 1)))

    return read


from_onnx("ReduceL1")(_onnx_norm(1))
from_onnx("ReduceL2")(_onnx_norm(2))


@from_aten("aten.pairwise_distance")
def _pairwise_distance(call: Call) -> Value | None:
    parts = Parts(call)
    between = parts.add(parts.subtract(call.operand("x1"), call.operand("x2")), call.constant(call.number("eps", 1e-6)))
    assert isinstance(between, Value)
    return _norm(call, between, call.number("p", 2), [-1], bool(call.get("keepdim", False)))


@from_aten("aten.cdist", "aten._cdist_forward")
def _distances(call: Call) -> Value | None:
    """Distances of all rows of one matrix from all rows of another."""
    first, second = call.operand("x1"), call.operand("x2")
    if isinstance(second, Tensor) and isinstance(first, Value) and len(first.shape) == 1 and second.dim() == 2:
        # the rows of the first are the inputs
        one: Operand = call.emit(Reshape((1, *first.shape)), first)
        return _norm(call, Parts(call).subtract(one, second), call.number("p", 2), [-1], False)
    values = [v for v in (first, second) if isinstance(v, Value)]
    if len({len(v.shape) for v in values}) > 1 or len(values[0].shape) < 2:
        return None
    one, other = _with_axis(call, first, -2), _with_axis(call, second, -3)
    return _norm(call, Parts(call).subtract(one, other), call.number("p", 2), [-1], False)


def _with_axis(call: Call, x: Operand, before: int) -> Operand:
    """A matrix of vectors with a dimension of 1 among the last three."""
    if isinstance(x, Tensor):
        return x.unsqueeze(before)
    at = len(x.shape) + 1 + before
    return call.emit(Reshape((*x.shape[:at], 1, *x.shape[at:])), x)


@from_aten("aten.cosine_similarity")
def _cosine_similarity(call: Call) -> Value | None:
    """The inner product of the vectors, each divided by its length."""
    parts, eps = Parts(call), call.number("eps", 1e-8)
    vectors = [call.operand("x1"), call.operand("x2")]
    rank = max(len(v.shape) if isinstance(v, Value) else v.dim() - 1 for v in vectors)
    dim = call.axis(call.get("dim", 1), rank) + 1
    units: list[Operand] = []
    for v in vectors:
        if isinstance(v, Tensor):
            v = v.reshape(*[1] * (rank + 1 - v.dim()), *v.shape)
            units.append(v / v.norm(dim=dim, keepdim=True).clamp(min=eps))
            continue
        length = _norm(call, v, 2, [dim], True)
        unit = parts.apply("aten.div", self=v, other=parts.apply("aten.clamp_min", self=length, min=eps))
        units.append(call.emit(Within(-1.0, 1.0), unit))
    inner = parts.multiply(*units)
    return call.emit(Within(-1.0, 1.0), parts.apply("aten.sum", self=inner, dim=[dim], keepdim=False))


@from_aten("aten.hypot")
def _hypotenuse(call: Call) -> Value | None:
    parts = Parts(call)
    squares = [v * v if isinstance(v, Tensor) else parts.apply("aten.square", self=v) for v in
               (call.operand("self"), call.operand("other"))]  # fmt: skip
    total = parts.add(*squares)
    return parts.apply("aten.sqrt", self=total) if isinstance(total, Value) else None


# --- sums and products -----------------------------------------------------------------------------------------------


@from_aten("aten.addcmul")
def _add_product(call: Call) -> Value | None:
    return _added(call, Parts(call).multiply(call.operand("tensor1"), call.operand("tensor2")))


@from_aten("aten.addcdiv")
def _add_quotient(call: Call) -> Value | None:
    over, under = call.operand("tensor1"), call.operand("tensor2")
    both = isinstance(over, Tensor) and isinstance(under, Tensor)
    return _added(call, over / under if both else Parts(call).apply("aten.div", self=over, other=under))  # type: ignore[operator]


def _added(call: Call, term: Operand) -> Value | None:
    """``self + value·term``."""
    found = Parts(call).add(call.operand("self"), Parts(call).multiply(term, call.constant(call.number("value", 1.0))))
    return found if isinstance(found, Value) else None


@from_aten("aten.lerp")
def _between(call: Call) -> Value | None:
    """``start + weight ⊙ (end − start)``."""
    parts, start, end = Parts(call), call.operand("self"), call.operand("end")
    if isinstance(start, Tensor) and isinstance(end, Tensor):
        way: Operand = end - start
    else:
        way = parts.subtract(end, start)
    found = parts.add(start, parts.multiply(way, call.operand("weight")))
    return found if isinstance(found, Value) else None


@from_aten("aten.bilinear")
def _bilinear(call: Call) -> Value | None:
    """``y_k = x₁ᵀ W_k x₂ + b_k``: matrices that x₁ gives, times x₂."""
    first, second, weight = call.activation("input1"), call.operand("input2"), call.tensor("weight")
    if weight is None:
        return None
    outputs, m, n = weight.shape
    matrices = call.emit(Dense(weight.permute(0, 2, 1).reshape(outputs * n, m).contiguous()), first)
    matrices = call.emit(Reshape((*first.shape[:-1], outputs, n)), matrices)
    if isinstance(second, Value):
        column = call.emit(Reshape((*second.shape, 1)), second)
        found = call.emit(Reshape((*first.shape[:-1], outputs)), call.emit(MatrixProduct(), matrices, column))
    else:
        return None
    bias = call.tensor("bias")
    return found if bias is None else call.emit(Scale(None, bias), found)


@from_aten("aten.prod")
def _product(call: Call) -> Value | None:
    """Halves along the dimension multiplied with each other."""
    x = call.activation("self")
    if call.get("dim") is None:
        return None
    dim, parts = call.axis(call["dim"], len(x.shape)), Parts(call)
    while (size := x.shape[dim]) > 1:
        half = size // 2
        pair = parts.multiply(parts.part(x, dim, 0, half), parts.part(x, dim, half, half))
        assert isinstance(pair, Value)
        x = parts.apply("aten.cat", tensors=[pair, parts.part(x, dim, size - 1, 1)], dim=dim + 1) if size % 2 else pair
    if call.get("keepdim", False):
        return x
    return call.emit(Reshape(tuple(n for d, n in enumerate(x.shape) if d != dim)), x)


@from_aten("aten.cumprod")
def _products(call: Call) -> Value | None:
    """Doubling steps: after the k-th, each element is the product of the 2^k elements up to its place."""
    x = call.activation("self")
    dim, parts, step = call.axis(call["dim"], len(x.shape)), Parts(call), 1
    size = x.shape[dim]
    if size > MOST_FACTORS:
        return None
    while step < size:
        later = parts.multiply(parts.part(x, dim, step, size - step), parts.part(x, dim, 0, size - step))
        x = parts.apply("aten.cat", tensors=[parts.part(x, dim, 0, step), later], dim=dim + 1)
        step *= 2
    return x


@from_aten("aten.expand_as")
def _expanded(call: Call) -> Value:
    return call.emit(Expand(call.output_shape), call.activation("self"))
