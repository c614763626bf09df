"""Every command at the level of file descriptors: standard output holds the answer alone, whatever native code prints.

The commands run in children of one process that has imported Clinch, each with files for its descriptors. In each,
native code prints as it likes; and the solver libraries print their own banners.
"""

import json
import os
import re
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import clinch as cl
from clinch.cli import app

MODEL = "clinch.demo:network"
#: command -> the first line and the last one of its standard output
LINES = {
    "batch": (r"set +instances .*", r"descriptors\S* +1 +1 +0 +1 .*"),
    "check": (r"PROVEN +No input of the region .*", r"(not proven|condition) .*"),
    "demo": (r"Held-out digit 60, read as \d\. .*", r"Picture: .*digit\.svg"),
    "evaluate": (r"problem +robust accuracy, .*", r"time .*"),
    "figure": (r".*curve\.svg", r".*curve\.svg"),
    "recourse": (r"row 0 .*", r"1 rows: \d answered, 1 proven, .*"),
    "report": (r".*report\.html", r".*report\.html"),
    "reproduce": (r"Yu and Gao 2024 \(arXiv 2406\.00494\), .*", r"[a-z ]+: .*"),
    "solve": (r"status +OPTIMAL\. .*", r"(tight|time) .*"),
    "supports": (r"network, input 8×8|.*input 8×8", r"count +yes"),
    "verify": (r"unsat", r"unsat"),
}

#: runs each list of arguments in a child of its own; every child prints from native code while the command runs
DRIVER = """
import ctypes, json, os, sys
import clinch.cli, highspy

library = ctypes.CDLL(None)

def speak(word):
    os.write(1, f"NOISE of {word}\\n".encode())
    library.printf(f"NOISE of {word}, buffered\\n".encode())
    library.fflush(None)

def speaking(function):
    def call(*given, **named):
        speak(function.__name__)
        return function(*given, **named)
    return call

clinch.cli.run = speaking(clinch.cli.run)
for number, arguments in enumerate(json.load(sys.stdin)):
    child = os.fork()
    if not child:
        for descriptor, name in ((1, "out"), (2, "err")):
            file = os.open(f"{number}.{name}", os.O_WRONLY | os.O_CREAT)
            os.dup2(file, descriptor)
            os.close(file)
        sys.argv[1:] = arguments
        clinch.cli.main()
    _, status = os.waitpid(child, 0)
    with open(f"{number}.code", "w") as file:
        file.write(str(os.waitstatus_to_exitcode(status)))
"""


class Outcome(NamedTuple):
    arguments: list[str]
    code: int
    out: str
    err: str


def onnx_file(path):
    """A network of eight ReLUs with an input ``X`` of four elements."""
    rng = np.random.default_rng(0)
    w1, b1, w2 = rng.normal(size=(8, 4)), rng.normal(size=8), rng.normal(size=(2, 8))
    weights = {"w1": w1, "b1": b1, "w2": w2, "b2": np.zeros(2)}
    nodes = [
        helper.make_node("Gemm", ["X", "w1", "b1"], ["a"], transB=1),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "w2", "b2"], ["Y"], transB=1),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, k]) for n, k in (("X", 4), ("Y", 2))]
    stored = [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def specification(path, limit):
    inputs = "".join(f"(declare-const X_{i} Real)\n(assert (<= X_{i} 1))\n(assert (>= X_{i} 0))\n" for i in range(4))
    path.write_text(inputs + f"(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n(assert (>= Y_0 {limit}))\n")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Every command, as text and where it can as JSON on standard output."""
    if not hasattr(os, "fork"):
        pytest.skip("the commands run in forked processes")
    folder = tmp_path_factory.mktemp("descriptors")
    onnx_file(folder / "net.onnx")
    net = cl.load(folder / "net.onnx")
    problem = cl.Problem(cl.Maximize(net.output[0]), [net.input.between(0, 1)])
    solution = problem.solve(20, certificate=True)
    layers = solution.certificate.save(folder / "proof.safetensors")
    specification(folder / "spec.vnnlib", solution.bound + 0.01)
    (folder / "instances.csv").write_text("net.onnx,spec.vnnlib,60\n")
    (folder / "problem.toml").write_text(
        'model = "net.onnx"\nrange = [0, 1]\nx0 = [0.5, 0.5, 0.5, 0.5]\n'
        '[objective]\nminimize = "norm"\np = inf\n[[constraints]]\nnot_class = "predicted"\n'
    )
    (folder / "rows.csv").write_text("a,b,c,d\n0.5,0.5,0.5,0.5\n")
    (folder / "schema.toml").write_text("".join(f"[features.{name}]\nrange = [0, 1]\n" for name in "abcd"))
    small = ["--limit", "3", "--eps", "0.05", "--time-limit", "30"]
    lines = {
        "batch": ["batch", "instances.csv", "--out", "batch"],
        "evaluate": ["evaluate", MODEL, *small, "--out", "run"],
        "check": ["check", "proof.safetensors", layers.name],
        "demo": ["demo", "--out", "digit.svg"],
        "figure": ["figure", "run", "--out", "curve.svg"],
        "recourse": ["recourse", "net.onnx", "rows.csv", "--schema", "schema.toml", "--wanted", "0"],
        "report": ["report", "run", "--out", "report.html"],
        "reproduce": ["reproduce", "adr-random", "--quick"],
        "solve": ["solve", "problem.toml", "--solver", "milp"],
        "supports": ["supports", MODEL, "--input-shape", "8,8"],
        "verify": ["verify", "net.onnx", "spec.vnnlib"],
    }
    runs = list(lines.values())
    # the demonstration and even the small one of the published experiments take seconds
    once = ("demo", "figure", "report", "reproduce")
    runs += [[*line, "--json", "-"] for name, line in lines.items() if name not in once]
    subprocess.run(
        [sys.executable, "-c", DRIVER], input=json.dumps(runs), text=True, cwd=folder, timeout=550, check=True,
        env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip
    read = [[(folder / f"{k}.{end}").read_text() for end in ("code", "out", "err")] for k in range(len(runs))]
    return [Outcome(run, int(code), out, err) for run, (code, out, err) in zip(runs, read, strict=True)]


def test_every_command_is_here():
    assert {command.name for command in app.registered_commands} == LINES.keys()


@pytest.mark.parametrize("command", LINES)
def test_standard_output_is_the_answer_alone(outcomes, command):
    (text,) = (o for o in outcomes if o.arguments[0] == command and "--json" not in o.arguments)
    assert text.code == 0, text.err
    assert "NOISE" not in text.out and "HiGHS" not in text.out
    assert text.err.count("NOISE of run") == 2 and "HiGHS" not in text.err
    first, *_, last = 2 * text.out.strip().splitlines()
    assert re.fullmatch(LINES[command][0], first) and re.fullmatch(LINES[command][1], last), text.out
    for json_on_stdout in (o for o in outcomes if o.arguments[0] == command and "--json" in o.arguments):
        assert json_on_stdout.code == 0, json_on_stdout.err
        assert isinstance(json.loads(json_on_stdout.out), dict)


def test_the_installed_command_and_the_module_print_the_same(tmp_path):
    onnx_file(tmp_path / "net.onnx")
    specification(tmp_path / "spec.vnnlib", 1e6)
    line = [sys.executable, "-m", "clinch", "verify", tmp_path / "net.onnx", tmp_path / "spec.vnnlib"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "unsat\n", "")


def test_problems_solved_in_a_process_leave_its_standard_output_alone(tmp_path):
    """What a notebook or a service sees: no banner of any engine."""
    onnx_file(tmp_path / "net.onnx")
    code = (
        "import clinch as cl\n"
        "net = cl.load('net.onnx')\n"
        "for solver in (None, 'milp', 'branch_and_bound'):\n"
        "    for norm in (1, 2):\n"
        "        objective = cl.Minimize(cl.norm(net.input - 0.5, norm))\n"
        "        problem = cl.Problem(objective, [net.input.between(0, 1), net.output.argmax() == 1])\n"
        "        problem.solve(20, solver=solver)\n"
        "print('answer')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "answer\n"), done.stderr
