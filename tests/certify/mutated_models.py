"""What the checker says of a certificate about a changed ONNX file, and whether what it accepts is true of it."""

from __future__ import annotations

import platform
import random
import sys
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from onnx_models import session

import clinch as cl
from clinch.certificates import SavedProof
from clinch.checker.certificate import Certificate
from clinch.checker.check import check
from clinch.checker.layers import Refused
from clinch.checker.onnx_layers import read_onnx

sys.path.insert(0, str(Path(__file__).parent.parent / "fuzz"))

from mutations import spoilt_bytes, spoilt_model
from random_models import WHOLE

#: outcomes; the last is a file that the checker reads and onnxruntime does not run
TRUE, REFUSED, FALSE, SILENT = "accepted and true", "refused", "accepted and false", "accepted, does not run"
COLUMNS = (REFUSED, TRUE, SILENT, FALSE)
#: what onnxruntime's float32 may be off, relative to the largest outputs
ROUNDING = 1e-4


class Case(NamedTuple):
    """A file, a certificate about it, and its unchanged layers' hash."""

    content: bytes
    certificate: Certificate
    sha256: str


def _number(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def _dense(rng: np.random.Generator) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray], list[int]]:
    node = helper.make_node
    nodes = [
        node("Flatten", ["x"], ["f"]), node("Gemm", ["f", "a", "b"], ["g"], transB=1), node("Relu", ["g"], ["h"]),
        node("MatMul", ["h", "c"], ["m"]), node("Add", ["m", "d"], ["n"]), node("LeakyRelu", ["n"], ["o"], alpha=0.25),
        node("Add", ["o", "n"], ["p"]), node("Gemm", ["p", "e"], ["y"]),
    ]  # fmt: skip
    constants = {"a": _number(rng, 5, 3), "b": _number(rng, 5), "c": _number(rng, 5, 4), "d": _number(rng, 4),
                 "e": _number(rng, 4, 2)}  # fmt: skip
    return nodes, constants, [1, 3]


def _image(rng: np.random.Generator) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray], list[int]]:
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]), node("Relu", ["c"], ["r"]),
        node("Reshape", ["r", "s"], ["f"]), node("Gemm", ["f", "d", "e"], ["g"], transB=1), node("Relu", ["g"], ["h"]),
        node("Gemm", ["h", "k"], ["y"]),
    ]  # fmt: skip
    constants = {"w": _number(rng, 2, 1, 2, 2), "b": _number(rng, 2), "s": np.array([1, -1]), "d": _number(rng, 4, 8),
                 "e": _number(rng, 4), "k": _number(rng, 4, 2)}  # fmt: skip
    return nodes, constants, [1, 1, 3, 3]


@cache
def case(number: int) -> Case:
    """The best bound of an output of one of a few small networks, proven."""
    nodes, constants, shape = (_dense, _image)[number % 2](np.random.default_rng(number))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, shape)], [helper.make_tensor_value_info("y", 1, [1, 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(content)
        net = cl.load(path)
        solution = cl.Problem(cl.Minimize(net.output[0] - net.output[1]), [net.input.between(-1, 1)]).solve(
            20, gap=1e-3, certificate=True
        )
        assert isinstance(solution.certificate, SavedProof), solution.notes
        return Case(content, solution.certificate.certificate, read_onnx(path)[1])


def changed(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """The file with one thing changed: of the model that it holds, or of its bytes."""
    kind = rng.choice(["model", "model", "model", "oddity", "oddity", "weights", "bytes"])
    if kind == "bytes":
        return spoilt_bytes(content, rng), kind
    if kind == "model":
        return spoilt_model(content, rng), kind
    model = onnx.load_model_from_string(content)
    if kind == "oddity":
        change = rng.choice(WHOLE)
        change(model, rng)
        return model.SerializeToString(), change.__name__.replace("_", " ")
    tensor = rng.choice([t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT])
    array = numpy_helper.to_array(tensor).copy()
    flat = array.reshape(-1)
    step = 10 ** rng.uniform(-6, 0.5)
    flat[rng.randrange(flat.size)] += rng.choice([-step, step])
    tensor.raw_data = array.tobytes()
    return model.SerializeToString(), kind


def examined(seed: int) -> dict[str, Any]:
    """One file changed in one or two places, and the certificate of the unchanged one, with a hash that fits."""
    rng = random.Random(seed)
    given = case(seed % 8)
    content, changes = given.content, []
    for _ in range(rng.choice([1, 1, 2])):
        try:
            content, name = changed(content, rng)
            changes.append(name)
        except Exception:
            # what is changed already may not be ready for this change
            continue
    record = {"seed": seed, "change": " and ".join(sorted(set(changes))) or "nothing", "outcome": REFUSED, "wrong": ""}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(content)
        try:
            layers, sha256 = read_onnx(path)
            header = {**given.certificate.header, "networks": [sha256], "point": None}
            report = check(Certificate(header, given.certificate.tensors), layers, sha256)
        except Refused:
            return record
    least = lowest(content)
    if least is None:
        return {**record, "outcome": SILENT}
    value, size = least
    wrong = "" if value >= report.bound - ROUNDING * size else f"bound {report.bound:.9g}, an input reaches {value:.9g}"
    return {**record, "outcome": FALSE if wrong else TRUE, "wrong": wrong}


def lowest(content: bytes, count: int = 400) -> tuple[float, float] | None:
    """The least of y_0 − y_1 that is found in the unit box, and the largest output; None where the file does not run.

    Corners, random inputs, and a search by single elements from the best of them.
    """
    try:
        run = session(content)
        (entry,) = run.get_inputs()
        shape = [1, *(n if isinstance(n, int) else 1 for n in entry.shape[1:])]
        dtype = np.float64 if "double" in entry.type else np.float32

        def value(x: np.ndarray) -> tuple[float, float]:
            (y,) = run.run(None, {entry.name: x.reshape(shape).astype(dtype)})
            return float(y.reshape(-1)[0]) - float(y.reshape(-1)[1]), float(np.abs(y).max())

        n, rng = int(np.prod(shape)), np.random.default_rng(0)
        inputs = np.concatenate([rng.choice([-1.0, 1.0], (count // 2, n)), rng.uniform(-1, 1, (count // 2, n))])
        found = [value(x) for x in inputs]
        at = int(np.argmin([v for v, _ in found]))
        best, x = found[at][0], inputs[at]
        for _ in range(3):
            for i in range(n):
                for step in (-1.0, -0.3, 0.0, 0.3, 1.0, x[i] - 0.05, x[i] + 0.05):
                    moved = x.copy()
                    moved[i] = np.clip(step, -1, 1)
                    reached = value(moved)[0]
                    if reached < best:
                        best, x = reached, moved
        return best, 1 + max(size for _, size in found)
    except Exception:
        return None


# --- the page ---------------------------------------------------------------------------------------------------------


def page(records: list[dict]) -> str:
    """The tables of all records."""
    outcomes, counts = Counter(r["outcome"] for r in records), Counter((r["change"], r["outcome"]) for r in records)
    lines = [
        "# Mutated models",
        "",
        f"    python tests/certify/run_mutated_models.py --count {len(records)}",
        "",
        "Eight small networks as ONNX files, each with a certificate of its least output difference over a box. The",
        "file is changed in one or two places (wiring, attributes, types, weights, header, order, odd things as in",
        "`read_models.md`, bytes), and the certificate is told the hash of what came out. What the checker accepts all",
        "the same must be true of the changed file as onnxruntime runs it: at corners, at random inputs and at what a",
        f"search from the best of them finds, up to {ROUNDING:g} of the largest output for float32.",
        "",
        f"Python {platform.python_version()}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}, torch "
        f"{torch.__version__}, {platform.machine()}.",
        "",
        f"**{len(records)} mutated models: {outcomes[REFUSED]} refused, {outcomes[TRUE]} accepted and true, "
        f"{outcomes[SILENT]} accepted that do not run, {outcomes[FALSE]} accepted and false.**",
        "",
        "| change | " + " | ".join(COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    singles = sorted({change for change, _ in counts if " and " not in change})
    pairs = {
        column: sum(n for (change, o), n in counts.items() if " and " in change and o == column) for column in COLUMNS
    }
    lines += [
        f"| {change} | " + " | ".join(str(counts[change, column]) for column in COLUMNS) + " |" for change in singles
    ]
    lines += ["| two of these | " + " | ".join(str(pairs[column]) for column in COLUMNS) + " |", ""]
    lines += [f"- seed {r['seed']} ({r['change']}): {r['wrong']}" for r in records if r["wrong"]]
    return "\n".join(lines).rstrip() + "\n"
