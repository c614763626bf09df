"""Small ONNX networks and random formulas, written in both versions of VNN-LIB."""

from __future__ import annotations

import gzip
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from clinch.vnnlib.specification import Atom, Formula, Junction

INPUTS, OUTPUTS = 3, 2


def network(path: Path, layers: list[tuple[np.ndarray, np.ndarray]], *, relu_at_end: bool = False) -> Path:
    """Dense layers with ReLUs between them as an ONNX file, ``[B, n] -> [B, m]``; hidden tensors are h0, h1, ..."""
    nodes, constants, at = [], [], "x"
    for k, (weight, bias) in enumerate(layers):
        constants += [numpy_helper.from_array(np.float32(weight), f"w{k}"),
                      numpy_helper.from_array(np.float32(bias), f"b{k}")]  # fmt: skip
        last = k == len(layers) - 1
        dense = "y" if last and not relu_at_end else f"z{k}"
        nodes.append(helper.make_node("Gemm", [at, f"w{k}", f"b{k}"], [dense], transB=1))
        if dense != "y":
            at = "y" if last else f"h{k}"
            nodes.append(helper.make_node("Relu", [dense], [at]))
    sizes = layers[0][0].shape[1], layers[-1][0].shape[0]
    graph = helper.make_graph(
        nodes, "test", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", sizes[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", sizes[1]])], constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content = model.SerializeToString()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    onnx.checker.check_model(model)
    return path


def random_layers(sizes: list[int], seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(seed)
    return [
        (generator.standard_normal((b, a)) / np.sqrt(a), 0.3 * generator.standard_normal(b)) for a, b in pairwise(sizes)
    ]


def box(lower: float = -1.0, upper: float = 1.0, inputs: int = INPUTS) -> str:
    """Limits of every input, version 1.0."""
    return "\n".join(f"(assert (<= X_{i} {upper}))\n(assert (>= X_{i} {lower}))" for i in range(inputs))


def declared(text: str, inputs: int = INPUTS, outputs: int = OUTPUTS) -> str:
    """The text after the declarations of version 1.0."""
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{j}" for j in range(outputs)]
    return "\n".join(f"(declare-const {name} Real)" for name in names) + "\n" + text


def spelled(variable: tuple[str, int], version: str) -> str:
    return f"{variable[0]}_{variable[1]}" if version == "1.0" else f"{variable[0]}[0, {variable[1]}]"


def written(formula: Formula, version: str) -> str:
    """The formula as text; atoms in different forms of the same meaning, chosen by their line."""
    if isinstance(formula, Junction):
        parts = " ".join(written(part, version) for part in formula.parts)
        return f"({'and' if formula.every else 'or'} {parts}) ; nothing" + "\n"
    terms = [f"(* {c!r} {spelled(v, version)})" for v, c in formula.terms.items()]
    left = f"(+ {' '.join(terms)} {formula.constant!r})" if terms else repr(formula.constant)
    sign = "<" if formula.strict else "<="
    mirrored = ">" if formula.strict else ">="
    opposite = ">=" if formula.strict else ">"
    return (f"({sign} {left} 0.0)", f"({mirrored} 0.0 {left})", f"(not ({opposite} {left} 0))")[formula.line % 3]


def file_of(formula: Formula, version: str) -> str:
    """A whole file of one assertion."""
    if version == "1.0":
        return declared(f"(assert {written(formula, version)})")
    return (
        f"(vnnlib-version <2.0>)\n(declare-network f\n  (declare-input X float32 [1,{INPUTS}])\n"
        f"  (declare-output Y Real [1, {OUTPUTS}]))\n(assert {written(formula, version)})"
    )


_numbers = st.sampled_from([-2.0, -1.0, -0.5, 0.25, 0.5, 1.0, 1.5])
_variables = st.sampled_from([*[("X", i) for i in range(INPUTS)], *[("Y", j) for j in range(OUTPUTS)]])
atoms = st.builds(
    Atom, st.dictionaries(_variables, _numbers, max_size=3), st.one_of(st.just(0.0), _numbers), st.booleans(),
    st.integers(0, 2),
)  # fmt: skip
formulas = st.recursive(
    atoms,
    lambda inner: st.builds(Junction, st.booleans(), st.lists(inner, min_size=1, max_size=3).map(tuple)),
    max_leaves=10,
)
