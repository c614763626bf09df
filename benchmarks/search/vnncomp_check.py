"""Checks a counterexample of VNN-COMP without a line of Clinch: onnxruntime, and a small evaluator of VNN-LIB formulas.

python -m benchmarks vnncomp_check NET.onnx SPEC.vnnlib COUNTEREXAMPLE
"""

from __future__ import annotations

import gzip
import math
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime

#: VNN-COMP's own: of the inputs' limits and the outputs' conditions, and of the outputs that were reported
TOLERANCE = 1e-4
_COMPARE = {"<=": 1.0, "<": 1.0, ">=": -1.0, ">": -1.0}


def content(path: Path) -> bytes:
    """A file, or its compressed sibling."""
    if not path.is_file() and path.with_name(path.name + ".gz").is_file():
        path = path.with_name(path.name + ".gz")
    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def tensor_of(name: str) -> str:
    """``X`` of ``X_3`` and of ``X[0,3]``."""
    return re.split(r"_\d+$|\[", name)[0]


def read_counterexample(text: str) -> dict[str, float]:
    """Values by the names of the specification: ``((X_0 0.5) ...)``, or tensors as version 2.0 lists them."""
    if text.lstrip().startswith("("):
        return {name: float(value) for name, value in re.findall(r"\(\s*([XY]_\d+)\s+([^\s()]+)\s*\)", text)}
    values: dict[str, float] = {}
    name, positions = "", iter(())
    for line in text.split("\n"):
        header = re.fullmatch(r"(\w+) \w+ \[([\d,]*)\]", line.strip())
        if header:
            name = header[1]
            positions = np.ndindex(*[int(n) for n in header[2].split(",") if n])
        elif line.strip():
            index = ",".join(map(str, next(positions)))
            values[f"{name}[{index}]" if index else name] = float(line)
    return values


def violation(text: str, values: dict[str, float]) -> float:
    """By how much the assertions of a specification fail at these values: at most 0 where all hold."""
    text = re.sub(r";[^\n]*", "", text)
    tokens = re.findall(r"[()]|[^\s()\[\]]+(?:\s*\[[\d,\s]+\])?", re.sub(r'"[^"]*"', '""', text))
    worst, place = -math.inf, 0
    while place < len(tokens):
        end, depth = place + 1, 1
        while depth:
            depth += {"(": 1, ")": -1}.get(tokens[end], 0)
            end += 1
        if tokens[place + 1] == "assert":
            worst = max(worst, _formula(_tree(tokens[place:end]), values))
        place = end
    return worst


def _tree(tokens: list[str]) -> list:
    stack: list[list] = [[]]
    for token in tokens:
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(re.sub(r"\s", "", token))
    return stack[0][0][1]


def _formula(tree: list, values: dict[str, float]) -> float:
    head, *parts = tree
    if head in ("and", "or"):
        return (max if head == "and" else min)(_formula(part, values) for part in parts)
    left, right = (_number(part, values) for part in parts)
    return abs(left - right) if head in ("=", "==") else _COMPARE[head] * (left - right)


def _number(tree: str | list, values: dict[str, float]) -> float:
    if isinstance(tree, str):
        return values[tree] if tree in values else float(tree)
    head, *parts = tree
    numbers = [_number(part, values) for part in parts]
    if head == "*":
        return math.prod(numbers)
    if head == "+":
        return sum(numbers)
    return -numbers[0] if len(numbers) == 1 else numbers[0] - sum(numbers[1:])


def check(network: Path, specification: Path, counterexample: Path) -> tuple[bool, str]:
    """Whether a counterexample is one, within VNN-COMP's tolerance, and what was found."""
    text = content(specification).decode()
    values = read_counterexample(content(counterexample).decode())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content(network), options, providers=["CPUExecutionProvider"])
    wanted = session.get_inputs()[0]
    tensors = list(dict.fromkeys(tensor_of(name) for name in values))
    # hidden tensors, if any, stand between the input and the output
    inputs, outputs = ([n for n in values if tensor_of(n) == tensor] for tensor in (tensors[0], tensors[-1]))
    x, y = ([values[name] for name in names] for names in (inputs, outputs))
    dtype = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}[wanted.type]
    shape = [n if isinstance(n, int) else 1 for n in wanted.shape]
    found = session.run(None, {wanted.name: np.array(x, dtype=dtype).reshape(shape)})[0].flatten()
    if found.shape != (len(y),) or not np.allclose(found, y, rtol=TOLERANCE, atol=TOLERANCE):
        return False, "the network computes other outputs"
    fails = violation(text, values | dict(zip(outputs, found.astype(float).tolist())))
    if not fails <= TOLERANCE:
        return False, f"the specification fails by {fails:.3g}"
    return True, "exact" if fails <= 0 else f"within {fails:.3g}"


if __name__ == "__main__":
    right, how = check(*map(Path, sys.argv[1:4]))
    print(how)
    sys.exit(0 if right else 1)
