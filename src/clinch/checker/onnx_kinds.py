"""What the checker understands of ONNX, as tables: fields of the file, operators, their operands and attributes.

Everything that is not in these tables is refused by name. A new version of the operator sets is added after reading
what it changes: ``NEWEST`` is the last one that was.
"""

from __future__ import annotations

from typing import Any, NamedTuple

#: versions of the default operator set and of the format
OPSETS, IR = range(7, 29), range(3, 15)
#: names of the default operator set; sets that a file may name but not use
DEFAULT, UNUSED = ("", "ai.onnx"), ("ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "com.microsoft")
#: how the keys of notes begin that exporters write for people
NOTES = ("pkg.", "namespace")

#: message -> its fields that may be there
FIELDS: dict[str, set[str]] = {
    "ModelProto": {"ir_version", "opset_import", "producer_name", "producer_version", "domain", "model_version",
                   "doc_string", "graph", "metadata_props"},
    "OperatorSetIdProto": {"domain", "version"},
    "StringStringEntryProto": {"key", "value"},
    "GraphProto": {"node", "name", "initializer", "doc_string", "input", "output", "value_info", "metadata_props"},
    "NodeProto": {"input", "output", "name", "op_type", "domain", "attribute", "doc_string", "metadata_props"},
    "AttributeProto": {"name", "doc_string", "type", "f", "i", "s", "t", "ints"},
    "TensorProto": {"dims", "data_type", "float_data", "int32_data", "int64_data", "double_data", "raw_data", "name",
                    "doc_string", "data_location", "metadata_props"},
    "ValueInfoProto": {"name", "type", "doc_string", "metadata_props"},
    "TypeProto": {"tensor_type"},
    "TypeProto.Tensor": {"elem_type", "shape"},
    "TensorShapeProto": {"dim"},
    "TensorShapeProto.Dimension": {"dim_value", "dim_param"},
}  # fmt: skip

#: number of an element's type -> NumPy's, and the field that holds it where ``raw_data`` does not
DTYPES = {1: ("<f4", "float_data"), 11: ("<f8", "double_data"), 7: ("<i8", "int64_data"), 9: ("?", "int32_data")}


class Operand(NamedTuple):
    """One operand of an operator.

    Attributes:
        name: as the standard calls it.
        roles: what it may be: "activation", "real" (a constant of the network's type), "whole", "truth", "absent".
        since: the first operator set that has it.
        optional: the first one in which it may be absent.
    """

    name: str
    roles: tuple[str, ...]
    since: int = OPSETS.start
    optional: int = OPSETS.stop


class Attribute(NamedTuple):
    """One attribute of an operator.

    Attributes:
        field: of the message, which says its type: "f", "i", "s", "t" or "ints".
        default: where it is missing; ``...`` where it must not be; None where that depends on the set or the kernel.
        values: those that are understood; empty: any.
        opsets: those that have it.
    """

    field: str
    default: Any
    values: tuple[Any, ...] = ()
    opsets: range = OPSETS


class Kind(NamedTuple):
    """An operator, which operator sets have from ``since`` on; ``several``: its one operand may be repeated."""

    operands: tuple[Operand, ...]
    attributes: dict[str, Attribute]
    since: int = OPSETS.start
    several: bool = False


#: numbers of the attributes' types
ATTRIBUTE_TYPES = {"f": 1, "i": 2, "s": 3, "t": 4, "ints": 7}

_X = Operand("X", ("activation",))
_EITHER, _REAL = ("activation", "real"), ("real",)
#: a list that is missing stands for the standard's default, which depends on the kernel
_LIST = Attribute("ints", None)

KINDS: dict[str, Kind] = {
    "Constant": Kind((), {"value": Attribute("t", ...)}),
    "Relu": Kind((_X,), {}),
    # a float32, and so is the number meant
    "LeakyRelu": Kind((_X,), {"alpha": Attribute("f", 0.009999999776482582)}),
    "Add": Kind((Operand("A", _EITHER), Operand("B", _EITHER)), {}),
    "Sub": Kind((Operand("A", _EITHER), Operand("B", _EITHER)), {}),
    "Mul": Kind((Operand("A", _EITHER), Operand("B", _EITHER)), {}),
    "Div": Kind((Operand("A", _EITHER), Operand("B", _EITHER)), {}),
    "MatMul": Kind((Operand("A", ("activation",)), Operand("B", _EITHER)), {}),
    "Gemm": Kind(
        (Operand("A", ("activation",)), Operand("B", _REAL), Operand("C", _REAL, optional=11)),
        {"alpha": Attribute("f", 1.0, (1.0,)), "beta": Attribute("f", 1.0, (1.0,)),
         "transA": Attribute("i", 0, (0,)), "transB": Attribute("i", 0, (0, 1))},
    ),
    "Conv": Kind(
        (_X, Operand("W", _REAL), Operand("B", _REAL, optional=OPSETS.start)),
        {"auto_pad": Attribute("s", b"NOTSET", (b"NOTSET",)), "group": Attribute("i", 1), "kernel_shape": _LIST,
         "pads": _LIST, "strides": _LIST, "dilations": _LIST},
    ),
    "Flatten": Kind((_X,), {"axis": Attribute("i", 1, (1,))}),
    "Reshape": Kind(
        (_X, Operand("shape", ("whole",))), {"allowzero": Attribute("i", 0, (0, 1), range(14, OPSETS.stop))}
    ),
    "Identity": Kind((_X,), {}),
    **{name: Kind((_X,), {}) for name in (
        "Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Reciprocal", "Softsign", "Sin", "Cos", "Atan", "Floor", "Ceil",
        "Abs", "Neg", "Softplus", "GlobalAveragePool", "GlobalMaxPool")},
    **{name: Kind((_X,), {}, since) for name, since in (
        ("Erf", 9), ("Sinh", 9), ("Cosh", 9), ("Asinh", 9), ("Sign", 9), ("Round", 11), ("HardSwish", 14),
        ("Mish", 18))},
    "Elu": Kind((_X,), {"alpha": Attribute("f", 1.0)}),
    "Selu": Kind((_X,), {"alpha": Attribute("f", 1.67326319217681884765625),
                         "gamma": Attribute("f", 1.05070102214813232421875)}),
    "Gelu": Kind((_X,), {"approximate": Attribute("s", b"none", (b"none", b"tanh"))}, 20),
    "Pow": Kind((_X, Operand("Y", _REAL)), {}),
    "BatchNormalization": Kind(
        (_X, *(Operand(name, _REAL) for name in ("scale", "B", "mean", "var"))),
        {"epsilon": Attribute("f", 9.999999747378752e-06), "momentum": Attribute("f", None),
         "spatial": Attribute("i", 1, (1,), range(7, 9)),
         "training_mode": Attribute("i", 0, (0,), range(14, OPSETS.stop))},
    ),
    # limits that are no numbers of the type stand for none
    "Clip": Kind(
        (_X, *(Operand(name, _REAL, 11, OPSETS.start) for name in ("min", "max"))),
        {name: Attribute("f", None, (), range(7, 11)) for name in ("min", "max")},
    ),
    "MaxPool": Kind(
        (_X,), {"auto_pad": Attribute("s", b"NOTSET", (b"NOTSET",)), "kernel_shape": Attribute("ints", ...),
                "pads": _LIST, "strides": _LIST, "storage_order": Attribute("i", 0, (0,), range(8, OPSETS.stop)),
                "ceil_mode": Attribute("i", 0, (0,), range(10, OPSETS.stop)),
                "dilations": Attribute("ints", None, (), range(10, OPSETS.stop))},
    ),
    "AveragePool": Kind(
        (_X,), {"auto_pad": Attribute("s", b"NOTSET", (b"NOTSET",)), "kernel_shape": Attribute("ints", ...),
                "pads": _LIST, "strides": _LIST, "count_include_pad": Attribute("i", 0, (0, 1)),
                "ceil_mode": Attribute("i", 0, (0,), range(10, OPSETS.stop)),
                "dilations": Attribute("ints", None, (), range(19, OPSETS.stop))},
    ),
    "ReduceMean": Kind(
        (_X, Operand("axes", ("whole",), 18, OPSETS.start)),
        {"axes": Attribute("ints", None, (), range(7, 18)), "keepdims": Attribute("i", 1, (0, 1)),
         "noop_with_empty_axes": Attribute("i", 0, (0,), range(18, OPSETS.stop))},
    ),
    "ReduceSum": Kind(
        (_X, Operand("axes", ("whole",), 13, OPSETS.start)),
        {"axes": Attribute("ints", None, (), range(7, 13)), "keepdims": Attribute("i", 1, (0, 1)),
         "noop_with_empty_axes": Attribute("i", 0, (0,), range(13, OPSETS.stop))},
    ),
    **{name: Kind((_X, Operand("axes", ("whole",), 13, optional)), {"axes": Attribute("ints", None, (), range(7, 13))})
       for name, optional in (("Squeeze", OPSETS.start), ("Unsqueeze", OPSETS.stop))},
    "Transpose": Kind((_X,), {"perm": _LIST}),
    "Slice": Kind(
        (_X, *(Operand(name, ("whole",), 10, optional) for name, optional in (
            ("starts", OPSETS.stop), ("ends", OPSETS.stop), ("axes", OPSETS.start), ("steps", OPSETS.start)))),
        {name: Attribute("ints", default, (), range(7, 10)) for name, default in (
            ("starts", ...), ("ends", ...), ("axes", None))},
    ),
    "Gather": Kind((_X, Operand("indices", ("whole",))), {"axis": Attribute("i", 0)}),
    "Concat": Kind((_X,), {"axis": Attribute("i", ...)}, several=True),
    "Pad": Kind(
        (_X, Operand("pads", ("whole",), 11), Operand("constant_value", _REAL, 11, OPSETS.start),
         Operand("axes", (), 18, OPSETS.start)),
        {"mode": Attribute("s", b"constant", (b"constant",)), "pads": Attribute("ints", None, (), range(7, 11)),
         "value": Attribute("f", 0.0, (), range(7, 11))},
    ),
    **{name: Kind((_X,), {"axis": Attribute("i", None)}) for name in ("Softmax", "LogSoftmax")},
    "LayerNormalization": Kind(
        (_X, Operand("Scale", _REAL), Operand("B", _REAL, optional=OPSETS.start)),
        {"axis": Attribute("i", -1), "epsilon": Attribute("f", 9.999999747378752e-06),
         "stash_type": Attribute("i", 1, (1,))},
        17,
    ),
    # the identity, unless it is told to train
    "Dropout": Kind(
        (_X, Operand("ratio", _REAL, 12, OPSETS.start), Operand("training_mode", ("truth",), 12, OPSETS.start)),
        {"ratio": Attribute("f", 0.5, (), range(7, 12)), "seed": Attribute("i", 0, (), range(12, OPSETS.stop))},
    ),
}  # fmt: skip
