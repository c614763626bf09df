"""Random ONNX models that are valid, ordinary or odd in one or two places, drawn from a seed.

An ordinary model is a chain of what the checker reads, with sums of branches. What is odd keeps it valid and changes
what it means, or how it says so: operands of other roles or origins, other domains and local functions, sparse or
replaceable initialisers, subgraphs, other attributes, another order, names that stand twice.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from random_changes import WHOLE

Shape = tuple[int, ...]
node = helper.make_node


class Value(NamedTuple):
    """An activation: its name and its shape without the batch axis."""

    name: str
    shape: Shape


class Draft:
    """A model that is being drawn."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.numbers = rng, np.random.default_rng(rng.randrange(2**32))
        self.opset, self.ir = rng.randint(7, 28), rng.choice([3, 4, 7, 8, 9, 10, 13, 14])
        self.double = rng.random() < 0.15
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.functions: list[onnx.FunctionProto] = []
        self.domains: dict[str, int] = {}
        #: changes of the model once it is put together
        self.last: list[Callable[[onnx.ModelProto], None]] = []
        self.oddities: list[str] = []
        self.batch: int | str = rng.choice([1, 1, "n"])
        extents = rng.choice([(3,), (4,), (1,), (2,), (1, 4, 4), (2, 3, 4), (2, 5), (2, 3)])
        self.values = [Value("x", extents)]

    def name(self, stem: str) -> str:
        return f"{stem}{len(self.nodes) + len(self.constants)}"

    def constant(self, *shape: int, whole: list[int] | None = None, least: float | None = None) -> str:
        """The name of a new constant: random numbers, the whole ones given, or random ones of at least so much."""
        found = self.name("c")
        array = self.numbers.standard_normal(shape).astype(np.float64 if self.double else np.float32)
        array = array if least is None else np.abs(array) + array.dtype.type(least)
        array = array if whole is None else np.array(whole, np.int64)
        if self.rng.random() < 0.2:
            self.nodes.append(node("Constant", [], [found], value=numpy_helper.from_array(array, "t")))
        else:
            self.constants[found] = array
        return found

    def add(self, kind: str, inputs: list[str], shape: Shape, **settings: object) -> Value:
        """A node whose output is the newest value."""
        found = Value(self.name("v"), shape)
        self.nodes.append(node(kind, inputs, [found.name], **settings))
        self.values.append(found)
        return found

    @property
    def newest(self) -> Value:
        return self.values[-1]

    def odd(self, name: str) -> None:
        self.oddities.append(name)


# --- what is ordinary ------------------------------------------------------------------------------------------------


def gemm(d: Draft) -> None:
    x, outs = d.newest, d.rng.randint(1, 4)
    if len(x.shape) != 1:
        return flatten(d)
    transposed = d.rng.random() < 0.5
    weight = d.constant(*((outs, x.shape[0]) if transposed else (x.shape[0], outs)))
    bias = [d.constant(*d.rng.choice([(outs,), (1, outs), (1,), ()]))] if d.opset < 11 or d.rng.random() < 0.6 else []
    d.add("Gemm", [x.name, weight, *bias], (outs,), transB=int(transposed))


def matmul(d: Draft) -> None:
    x, outs = d.newest, d.rng.randint(1, 4)
    d.add("MatMul", [x.name, d.constant(x.shape[-1], outs)], (*x.shape[:-1], outs))


def shifted(d: Draft) -> None:
    x, kind = d.newest, d.rng.choice(["Add", "Sub"])
    shape = d.rng.choice([x.shape, (1, *x.shape), x.shape[-1:], (1,), (), (x.shape[0], *[1] * (len(x.shape) - 1))])
    names = [x.name, d.constant(*shape)]
    if kind == "Add" and d.rng.random() < 0.3:
        names.reverse()
    d.add(kind, names, x.shape)


def joined(d: Draft) -> None:
    x = d.newest
    other = d.rng.choice([v for v in d.values if v.shape == x.shape])
    d.add("Add", d.rng.sample([x.name, other.name], 2), x.shape)


def relu(d: Draft) -> None:
    d.add("Relu", [d.newest.name], d.newest.shape)


def leaky(d: Draft) -> None:
    settings = {} if d.rng.random() < 0.3 else {"alpha": d.rng.uniform(0, 0.9)}
    d.add("LeakyRelu", [d.newest.name], d.newest.shape, **settings)


def conv(d: Draft) -> None:
    x = d.newest
    if len(x.shape) < 2:
        return gemm(d)
    n, channels, rng = len(x.shape) - 1, x.shape[0], d.rng
    group = channels if rng.random() < 0.3 else 1
    outs = group * rng.randint(1, 2)
    window = [rng.randint(1, min(3, e)) for e in x.shape[1:]]
    stride, dilation, pad = ([rng.choice(c) for _ in window] for c in ([1, 1, 2], [1, 1, 1, 2], [0, 0, 1]))
    out = [(e + 2 * p - a * (k - 1) - 1) // s + 1 for e, p, a, k, s in zip(x.shape[1:], pad, dilation, window, stride)]
    if min(out) < 1:
        return relu(d)
    lists = {"kernel_shape": window, "strides": stride, "dilations": dilation, "pads": [*pad, *pad]}
    usual = {"kernel_shape": window, "strides": [1] * n, "dilations": [1] * n, "pads": [0] * 2 * n}
    settings = {k: v for k, v in lists.items() if v != usual[k] or rng.random() < 0.5}
    if group > 1 or rng.random() < 0.3:
        settings["group"] = group
    bias = [d.constant(outs)] if rng.random() < 0.6 else [""] if rng.random() < 0.2 else []
    d.add("Conv", [x.name, d.constant(outs, channels // group, *window), *bias], (outs, *out), **settings)


def flatten(d: Draft) -> None:
    d.add("Flatten", [d.newest.name], (math.prod(d.newest.shape),), **({"axis": 1} if d.rng.random() < 0.5 else {}))


def reshaped(d: Draft) -> None:
    x = d.newest
    shape = d.rng.choice([(math.prod(x.shape),), x.shape, (1, math.prod(x.shape)), x.shape[::-1]])
    target = [d.rng.choice([1, 0, -1]), *shape]
    at = d.rng.randrange(len(target))
    if target[0] != -1 and d.rng.random() < 0.4:
        target[at] = -1
    d.add("Reshape", [x.name, d.constant(whole=target)], shape)


def same(d: Draft) -> None:
    x = d.newest
    if d.rng.random() < 0.5:
        d.add("Identity", [x.name], x.shape)
    else:
        d.add("Dropout", [x.name], x.shape, **({"ratio": 0.4} if d.opset < 12 else {}))


#: functions that stay small: the first opset of each; those of the second list need python-flint
EXACT = {"Softsign": 7, "HardSwish": 14, "Abs": 7, "Neg": 7}
SMOOTH = {"Sigmoid": 7, "Tanh": 7, "Erf": 9, "Atan": 7, "Softplus": 7, "Elu": 7, "Gelu": 20, "Selu": 7}


def bent(d: Draft) -> None:
    known = EXACT if find_spec("flint") is None else {**EXACT, **SMOOTH}
    # onnxruntime's functions of float64 have float32 numbers in them
    single = ("HardSwish", "Gelu") if d.double else ()
    kinds = [kind for kind, since in known.items() if since <= d.opset and kind not in single]
    kind = d.rng.choice(kinds)
    settings = {"alpha": d.rng.uniform(0.1, 2)} if kind == "Elu" and d.rng.random() < 0.5 else {}
    settings |= {"approximate": "tanh"} if kind == "Gelu" and d.rng.random() < 0.5 else {}
    d.add(kind, [d.newest.name], d.newest.shape, **settings)


def scaled(d: Draft) -> None:
    x, kind = d.newest, d.rng.choice(["Mul", "Div"])
    shape = d.rng.choice([x.shape, (1, *x.shape), x.shape[-1:], (), (x.shape[0], *[1] * (len(x.shape) - 1))])
    names = [x.name, d.constant(*shape, least=0.1)]
    if kind == "Mul" and d.rng.random() < 0.3:
        names.reverse()
    d.add(kind, names, x.shape)


def gated(d: Draft) -> None:
    x = d.newest
    other = d.rng.choice([v for v in d.values if v.shape == x.shape])
    d.add(d.rng.choice(["Mul", "Sub"]), [x.name, other.name], x.shape)


def normed(d: Draft) -> None:
    x = d.newest
    names = [d.constant(x.shape[0], least=least) for least in (None, None, None, 0.1)]
    d.add("BatchNormalization", [x.name, *names], x.shape, **({"epsilon": 0.01} if d.rng.random() < 0.5 else {}))


def clipped(d: Draft) -> None:
    x, limits = d.newest, sorted(d.rng.uniform(-1, 1) for _ in range(2))
    if d.opset < 11:
        d.add("Clip", [x.name], x.shape, **dict(zip(("min", "max"), limits)))
    else:
        least = d.constant(least=0.5)
        d.add("Clip", [x.name, "", least] if d.rng.random() < 0.7 else [x.name, least], x.shape)


def pooled(d: Draft) -> None:
    x = d.newest
    if len(x.shape) < 2:
        return bent(d)
    kind = d.rng.choice(["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"])
    if kind.startswith("Global"):
        d.add(kind, [x.name], (x.shape[0], *[1] * (len(x.shape) - 1)))
        return None
    window = [d.rng.randint(1, min(2, e)) for e in x.shape[1:]]
    stride, pad = [d.rng.choice([1, 2]) for _ in window], [d.rng.choice([0, k - 1]) for k in window]
    behind = [d.rng.choice([0, p]) for p in pad] if kind == "MaxPool" else pad
    out = [(e + p + q - k) // s + 1 for e, p, q, k, s in zip(x.shape[1:], pad, behind, window, stride)]
    more = {"count_include_pad": 1} if kind == "AveragePool" else {}
    d.add(kind, [x.name], (x.shape[0], *out), kernel_shape=window, strides=stride, pads=[*pad, *behind], **more)
    return None


def chosen(d: Draft) -> None:
    x, axis = d.newest, d.rng.randint(1, len(d.newest.shape))
    size = x.shape[axis - 1]
    if d.rng.random() < 0.5:
        places = [d.rng.randrange(-size, size) for _ in range(d.rng.randint(1, 3))]
        shape = tuple(len(places) if k == axis - 1 else n for k, n in enumerate(x.shape))
        d.add("Gather", [x.name, d.constant(whole=places)], shape, axis=axis)
        return
    start, step = d.rng.randrange(-size, size), d.rng.choice([1, 1, 2])
    end = d.rng.choice([2**31 - 1, size, start % size + 1])
    left = len(range(size)[start:end:step])
    shape = tuple(left if k == axis - 1 else n for k, n in enumerate(x.shape))
    lists = {"starts": [start], "ends": [end], "axes": [axis]}
    if d.opset < 10:
        lists["ends"] = [min(end, 10**6)]
        d.add("Slice", [x.name], tuple(len(range(size)[start:end]) if k == axis - 1 else n
              for k, n in enumerate(x.shape)), **lists)  # fmt: skip
    else:
        names = [d.constant(whole=t) for t in (*lists.values(), [step])]
        d.add("Slice", [x.name, *names], shape)


def rearranged(d: Draft) -> None:
    x, rank = d.newest, len(d.newest.shape)
    if d.rng.random() < 0.5:
        order = d.rng.sample(range(1, rank + 1), rank)
        d.add("Transpose", [x.name], tuple(x.shape[a - 1] for a in order), perm=[0, *order])
    else:
        axis = d.rng.randrange(rank)
        alike = [v for v in d.values if v.shape == x.shape]
        parts = [d.rng.choice(alike).name for _ in range(d.rng.randint(1, 2))]
        shape = tuple(n * (1 + len(parts)) if k == axis else n for k, n in enumerate(x.shape))
        d.add("Concat", [x.name, *parts], shape, axis=axis + 1 if d.rng.random() < 0.5 else axis - rank)


def surrounded(d: Draft) -> None:
    x = d.newest
    pads = [[0, *(d.rng.choice([0, 1]) for _ in x.shape)] for _ in range(2)]
    shape = tuple(n + a + b for n, a, b in zip(x.shape, pads[0][1:], pads[1][1:]))
    if d.opset < 11:
        d.add("Pad", [x.name], shape, pads=pads[0] + pads[1], value=0.5)
    else:
        value = [d.constant()] if d.rng.random() < 0.5 else []
        d.add("Pad", [x.name, d.constant(whole=pads[0] + pads[1]), *value], shape)


def shared_out(d: Draft) -> None:
    x = d.newest
    if find_spec("flint") is None:
        return clipped(d)
    if d.opset >= 17 and d.rng.random() < 0.5:
        d.add("LayerNormalization", [x.name, d.constant(x.shape[-1]), d.constant(x.shape[-1])], x.shape, epsilon=0.1)
        return None
    axis = {"axis": len(x.shape)} if d.opset < 13 else {"axis": d.rng.randint(1, len(x.shape))}
    d.add(d.rng.choice(["Softmax", "LogSoftmax"]), [x.name], x.shape, **axis)
    return None


def reduced(d: Draft) -> None:
    x, kind = d.newest, d.rng.choice(["ReduceMean", "ReduceSum"])
    axis, inner = d.rng.randint(1, len(x.shape)), d.opset < (18 if kind == "ReduceMean" else 13)
    keep = len(x.shape) == 1 or d.rng.random() < 0.5
    shape = tuple(1 if k + 1 == axis else n for k, n in enumerate(x.shape) if keep or k + 1 != axis)
    names, more = ([x.name], {"axes": [axis]}) if inner else ([x.name, d.constant(whole=[axis])], {})
    d.add(kind, names, shape, keepdims=int(keep), **more)


ORDINARY = (
    gemm, gemm, gemm, gemm, matmul, shifted, joined, relu, relu, relu, leaky, conv, conv, flatten, reshaped, same, bent,
    bent, scaled, gated, normed, clipped, pooled, rearranged, chosen, surrounded, shared_out, reduced,
)  # fmt: skip


# --- what is odd: a step in place of an ordinary one, or a change of the whole ----------------------------------------


def layer_of(d: Draft, x: Value, size: int) -> str:
    """A vector of some size that depends on the input."""
    flat = d.add("Flatten", [x.name], (math.prod(x.shape),))
    return d.add("MatMul", [flat.name, d.constant(flat.shape[0], size)], (size,)).name


def bias_from_a_layer(d: Draft) -> None:
    x, outs = d.newest, d.rng.randint(1, 3)
    if len(x.shape) != 1:
        x = d.add("Flatten", [x.name], (math.prod(x.shape),))
    d.add("Gemm", [x.name, d.constant(x.shape[0], outs), layer_of(d, d.rng.choice(d.values), outs)], (outs,))


def weight_from_a_layer(d: Draft) -> None:
    one = layer_of(d, d.newest, 1)
    kind = d.rng.choice(["Gemm", "MatMul"])
    bias = [d.constant(1)] if kind == "Gemm" else []
    d.add(kind, [one, d.rng.choice([one, layer_of(d, d.values[0], 1)]), *bias], (1,))


def kernel_from_a_layer(d: Draft) -> None:
    one = layer_of(d, d.newest, 2)
    kernel = d.add("Reshape", [one, d.constant(whole=[1, 1, 1, 2])], (1, 1, 2)).name
    image = d.constant(1, 1, 1, 3)
    names = [image, kernel] if d.rng.random() < 0.6 else [kernel, kernel]
    d.add("Conv", names, (1, 1, 2 if names[0] == image else 1))


def operands_exchanged(d: Draft) -> None:
    x = d.newest
    if d.rng.random() < 0.5:
        d.add("Sub", [d.constant(*x.shape), x.name], x.shape)
        return
    y = d.add("Flatten", [x.name], (math.prod(x.shape),))
    d.add("MatMul", [d.constant(1, 1), y.name], y.shape)


def difference_of_layers(d: Draft) -> None:
    x = d.newest
    other = d.rng.choice([v for v in d.values if v.shape == x.shape])
    d.add("Sub", d.rng.sample([x.name, other.name], 2), x.shape)


def sum_of_other_shapes(d: Draft) -> None:
    x = d.newest
    d.add("Add", [x.name, layer_of(d, d.values[0], d.rng.choice([1, x.shape[-1]]))], x.shape)


def another_operator(d: Draft) -> None:
    x = d.newest
    kind = d.rng.choice(["Neg", "Abs", "Tanh", "Sigmoid", "Exp", "Mul", "PRelu", "Elu", "Clip", "Transpose", "Softmax"])
    if kind in ("Mul", "PRelu"):
        d.add(kind, [x.name, d.constant(1)], x.shape)
    elif kind == "Transpose":
        d.add(kind, [x.name], x.shape[::-1], perm=[0, *range(len(x.shape), 0, -1)])
    else:
        d.add(kind, [x.name], x.shape)


def another_domain(d: Draft) -> None:
    """A node of a name that is known, of a domain that is not: what it means stands in a local function."""
    x, inner = d.newest, d.rng.choice(["Neg", "Abs", "Relu", "Identity"])
    kind = d.rng.choice(["Relu", "Identity", "Flatten", "Gemm"])
    domain = d.rng.choice(["own", "ai.onnx.ml", "com.microsoft", ""])
    function = helper.make_function(domain, kind, ["a"], ["b"], [node(inner, ["a"], ["b"])],
                                    [helper.make_opsetid("", d.opset)])  # fmt: skip
    d.functions.append(function)
    d.domains[domain] = 1
    d.add(kind, [x.name], x.shape, domain=domain)


def microsoft(d: Draft) -> None:
    x = d.newest
    d.domains["com.microsoft"] = 1
    y = d.add("Flatten", [x.name], (math.prod(x.shape),))
    kind, n = d.rng.choice(["FusedMatMul", "Gelu", "FusedGemm"]), y.shape[0]
    if kind == "Gelu":
        d.add(kind, [y.name], y.shape, domain="com.microsoft")
    elif kind == "FusedMatMul":
        d.add(kind, [y.name, d.constant(n, 2)], (2,), domain="com.microsoft", alpha=2.0)
    else:
        names = [y.name, d.constant(n, 2), d.constant(2)]
        d.add(kind, names, (2,), domain="com.microsoft", activation="Relu")


def default_domain_by_name(d: Draft) -> None:
    d.add("Relu", [d.newest.name], d.newest.shape, domain="ai.onnx")


def scaled_gemm(d: Draft) -> None:
    x = layer_of(d, d.newest, 2)
    setting = d.rng.choice([{"alpha": 2.0}, {"beta": 0.5}, {"alpha": 0.0}, {"beta": 0.0}])
    d.add("Gemm", [x, d.constant(2, 2), d.constant(2)], (2,), **setting)


def transposed_gemm(d: Draft) -> None:
    x, outs = layer_of(d, d.newest, 1), d.rng.randint(1, 3)
    d.add("Gemm", [x, d.constant(1, outs), d.constant(outs)], (outs,), transA=1, transB=0)


def flatten_at_another_axis(d: Draft) -> None:
    x = d.newest
    axis = d.rng.choice([0, 2, -1, len(x.shape)])
    d.add("Flatten", [x.name], (math.prod(x.shape),), axis=axis)


def padding_of_another_kind(d: Draft) -> None:
    x = d.newest
    if len(x.shape) < 2:
        x = d.add("Reshape", [x.name, d.constant(whole=[1, 1, -1])], (1, math.prod(x.shape)))
    n = len(x.shape) - 1
    setting = d.rng.choice([
        {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"auto_pad": "VALID"}, {"pads": [1] * n + [0] * n},
        {"pads": [0] * n + [2] * n}, {"auto_pad": "NOTSET", "pads": [1] * 2 * n},
    ])  # fmt: skip
    d.add("Conv", [x.name, d.constant(1, x.shape[0], *[1] * n)], (1, *x.shape[1:]), **setting)


def training(d: Draft) -> None:
    x = d.newest
    d.opset = max(d.opset, 12)
    ratio = d.constant()
    told, rate = d.rng.choice([(False, 0.5), (True, 0.0), (True, 0.5)])
    for name, value in ((ratio, np.array(rate, np.float32)), ("told", np.array(told))):
        d.constants[name] = value
    d.nodes = [one for one in d.nodes if one.output[0] != ratio]
    d.add("Dropout", [x.name, d.rng.choice([ratio, ""]), d.rng.choice(["told", ""])], x.shape)


def mask_of_a_dropout(d: Draft) -> None:
    x = d.newest
    d.add("Dropout", [x.name], x.shape)
    d.nodes[-1].output.append(d.name("mask"))


def computed_constant(d: Draft) -> None:
    """A constant that a node makes of another: Neg, Identity or a sum."""
    x, kind = d.newest, d.rng.choice(["Neg", "Identity", "Add", "Relu", "Flatten"])
    made, names = d.name("k"), [d.constant(1, 1)] * (2 if kind == "Add" else 1)
    d.nodes.append(node(kind, names, [made]))
    d.add("Add", [x.name, made], x.shape)


def subgraph(d: Draft) -> None:
    """An If whose branches read outer names, or hide them."""
    x = d.newest
    one, other = (helper.make_graph([node(kind, [x.name], [name])], "b", [], [onnx.ValueInfoProto(name=name)])
                  for kind, name in (("Relu", "yes"), ("Neg", "no")))  # fmt: skip
    for graph in (one, other):
        kind = TensorProto.DOUBLE if d.double else TensorProto.FLOAT
        graph.output[0].CopyFrom(helper.make_tensor_value_info(graph.output[0].name, kind, None))
    d.constants["told"] = np.array(d.rng.random() < 0.5)
    d.add("If", ["told"], x.shape, then_branch=one, else_branch=other)


def cast(d: Draft) -> None:
    x, own = d.newest, TensorProto.DOUBLE if d.double else TensorProto.FLOAT
    there = d.add(
        "Cast", [x.name], x.shape, to=d.rng.choice([TensorProto.FLOAT16, TensorProto.INT32, TensorProto.DOUBLE])
    )
    d.add("Cast", [there.name], x.shape, to=own)


def quantised(d: Draft) -> None:
    x = d.newest
    d.constants |= {"scale": np.array(0.5, np.float32), "zero": np.array(3, np.uint8)}
    y = d.add("QuantizeLinear", [x.name, "scale", "zero"], x.shape)
    d.add("DequantizeLinear", [y.name, "scale", "zero"], x.shape)


STEPS = (
    bias_from_a_layer, weight_from_a_layer, kernel_from_a_layer, operands_exchanged, difference_of_layers,
    sum_of_other_shapes, another_operator, another_domain, microsoft, default_domain_by_name, scaled_gemm,
    transposed_gemm, flatten_at_another_axis, padding_of_another_kind, training, mask_of_a_dropout, computed_constant,
    subgraph, cast, quantised,
)  # fmt: skip


def drawn(seed: int) -> tuple[onnx.ModelProto, list[str]]:
    """A model and the names of what is odd about it.

    Raises:
        ValueError: what was to be made odd is not there; onnxruntime may also refuse what is drawn.
    """
    rng = random.Random(seed)
    d = Draft(rng)
    odd = rng.choice([0, 0, 1, 1, 1, 2])
    steps = [rng.choice(ORDINARY) for _ in range(rng.randint(2, 7))]
    changes = []
    for _ in range(odd):
        if rng.random() < 0.5:
            steps.insert(rng.randrange(len(steps) + 1), rng.choice(STEPS))
        else:
            changes.append(rng.choice(WHOLE))
    for step in steps:
        if step in STEPS:
            d.odd(step.__name__.replace("_", " "))
        step(d)
    model = assembled(d)
    for change in changes:
        d.odd(change.__name__.replace("_", " "))
        change(model, rng)
    return model, d.oddities


def assembled(d: Draft) -> onnx.ModelProto:
    """The draft as a model, whose output is the newest value, or now and then an earlier one."""
    kind = TensorProto.DOUBLE if d.double else TensorProto.FLOAT
    made = d.values[1:]
    output = made[-1] if d.rng.random() < 0.9 else d.rng.choice(made)
    graph = helper.make_graph(
        d.nodes, "g", [helper.make_tensor_value_info("x", kind, [d.batch, *d.values[0].shape])],
        [helper.make_tensor_value_info(output.name, kind, None)],
        [numpy_helper.from_array(array, name) for name, array in d.constants.items()],
    )  # fmt: skip
    sets = [helper.make_opsetid("", d.opset), *(helper.make_opsetid(k, v) for k, v in d.domains.items() if k)]
    return helper.make_model(graph, opset_imports=sets, functions=d.functions, ir_version=d.ir)
