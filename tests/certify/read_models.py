"""What the checker says of a random model, and whether what it reads is what onnxruntime computes."""

from __future__ import annotations

import itertools
import platform
import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx_models import evaluated, session, tolerance
from random_models import drawn

from clinch.checker.layers import Layer, Refused
from clinch.checker.onnx_layers import read_onnx

#: outcomes
AGREES, REFUSED, DIFFERS = "read, agrees", "refused", "read, differs"
#: inputs at which a model is run
POINTS = 6


def valid(seed: int) -> tuple[onnx.ModelProto, list[str], onnxruntime.InferenceSession, int, list[str]]:
    """The first model of a seed that onnxruntime loads and runs, how many it did not, and what of these was read."""
    read = []
    for attempt in itertools.count():
        try:
            model, odd = drawn(1000 * seed + attempt)
        except ValueError:
            continue
        content = model.SerializeToString()
        try:
            run = session(content)
            run.run(None, {one.name: np.ones(extents(one.shape), dtype_of(one.type)) for one in run.get_inputs()})
        except Exception:
            if layers_of(content) is not None:
                read.append(", ".join(odd))
            continue
        return model, odd, run, attempt, read
    raise AssertionError


def extents(shape: list[int | str | None]) -> list[int]:
    """A batch of one."""
    return [n if isinstance(n, int) else 1 for n in shape]


def dtype_of(kind: str) -> type:
    """NumPy's type for onnxruntime's name of it."""
    return {
        "tensor(double)": np.float64,
        "tensor(float)": np.float32,
        "tensor(int64)": np.int64,
        "tensor(bool)": np.bool_,
    }[kind]


def layers_of(content: bytes) -> list[Layer] | Refused | None:
    """What is read; None where it is refused."""
    found = reading(content)
    return None if isinstance(found, Refused) else found


def reading(content: bytes) -> list[Layer] | Refused:
    """What is read, or why it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(content)
        try:
            return read_onnx(path)[0]
        except Refused as reason:
            return reason


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the default operators."""
    return max(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))


def examined(seed: int) -> dict[str, Any]:
    """A record of one valid model."""
    model, odd, run, attempts, read = valid(seed)
    record = {"seed": seed, "odd": odd, "opset": opset_of(model),
              "invalid": attempts, "invalid_read": read, "outcome": REFUSED, "reason": "", "wrong": ""}  # fmt: skip
    layers = reading(model.SerializeToString())
    if isinstance(layers, Refused):
        return {**record, "reason": kind_of(str(layers))}
    wrong = difference(layers, run, seed)
    return {**record, "outcome": DIFFERS if wrong else AGREES, "wrong": wrong}


def kind_of(reason: str) -> str:
    """A reason without the names in it."""
    reason = re.sub(r"'[^']*'|\[[^\]]*\]", "…", reason)
    return re.sub(r"-?\d+", "N", re.sub(r"\b(A|a) [A-Z]\w+", "a node", reason.replace("ONNX ", "")))[:90]


def difference(layers: list[Layer], run: onnxruntime.InferenceSession, seed: int) -> str:
    """Where the layers and onnxruntime differ by more than rounding; empty where they do not."""
    inputs, outputs = run.get_inputs(), run.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1 or tuple(extents(inputs[0].shape)) != (1, *layers[0].shape):
        return f"inputs of shape {[i.shape for i in inputs]} read as {layers[0].shape}"
    dtype, rng = dtype_of(inputs[0].type), np.random.default_rng(seed)
    x = rng.standard_normal((POINTS, layers[0].size)) * np.array([0.1, 1, 1, 1, 10, 100])[:, None]
    x = x.astype(dtype)
    values, sizes = evaluated(layers, x.astype(np.float64))
    for one, value, size in zip(x, values, sizes):
        found = run.run(None, {inputs[0].name: one.reshape(1, *layers[0].shape)})[0]
        if found.shape != (1, *layers[-1].shape):
            return f"an output of shape {found.shape}, read as {layers[-1].shape}"
        # what overflows on its way says nothing
        near = np.where(size < 1e30, tolerance(layers, dtype) * (size + 1e-30), np.inf)
        with np.errstate(all="ignore"):
            off = np.abs(found.reshape(-1).astype(np.float64) - value)
        if not ((off <= near) | np.isinf(near)).all():
            return f"an output off by {off[~((off <= near) | np.isinf(near))].max():.3g}"
    return ""


# --- the page ---------------------------------------------------------------------------------------------------------


def page(records: list[dict]) -> str:
    """The tables of all records."""
    outcomes = Counter(r["outcome"] for r in records)
    invalid = sum(r["invalid"] for r in records)
    lines = [
        "# Random models, read by the checker and run by onnxruntime",
        "",
        f"    python tests/certify/run_models.py --count {len(records)}",
        "",
        "Every model is valid: onnxruntime loads and runs it. A third of them is ordinary, the others are odd in one",
        "or two places: operands of other roles or origins, permuted, shared or left out; other domains and local",
        "functions; sparse and replaceable initialisers; subgraphs; names that stand twice; another order; attributes.",
        f"What the checker reads must be what onnxruntime computes at {POINTS} random inputs, up to rounding: the",
        "layers are evaluated in float64, and the tolerance is made from the magnitudes in the sums.",
        "",
        f"Python {platform.python_version()}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}, "
        f"{platform.machine()}.",
        "",
        f"**{len(records)} valid models: {outcomes[AGREES]} read and the same, {outcomes[REFUSED]} refused, "
        f"{outcomes[DIFFERS]} read and different.** Beside them onnxruntime refused {invalid} that were drawn;",
        f"the checker read {sum(len(r['invalid_read']) for r in records)} of these, most of them because",
        "onnxruntime has no Conv and LeakyRelu in float64.",
        "",
        *_table("opset", {r["seed"]: [r["opset"]] for r in records}, records),
        "",
        "By what is odd about a model (those with two things count twice):",
        "",
        *_table("odd", {r["seed"]: r["odd"] or ["nothing"] for r in records}, records),
        "",
        "Why models were refused, names and numbers left out:",
        "",
        "| reason | models |",
        "|---|---|",
        *(f"| {reason} | {n} |" for reason, n in Counter(r["reason"] for r in records if r["reason"]).most_common()),
        "",
    ]
    lines += [f"- seed {r['seed']}: {r['wrong']} ({', '.join(r['odd'])})" for r in records if r["wrong"]]
    return "\n".join(lines).rstrip() + "\n"


def _table(name: str, keys: dict[int, list], records: list[dict]) -> list[str]:
    columns = (AGREES, REFUSED, DIFFERS)
    counts = Counter((key, r["outcome"]) for r in records for key in keys[r["seed"]])
    lines = [f"| {name} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for key in sorted({key for key, _ in counts}):
        lines.append(f"| {key} | " + " | ".join(str(counts[key, column]) for column in columns) + " |")
    return lines
