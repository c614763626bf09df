"""``clinch verify``: words, exit codes, counterexample files, and one line for everything that is wrong."""

import gzip
import importlib.util
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from clinch.cli.verify import seconds_since_start

_SPEC = importlib.util.spec_from_file_location("vnnlib_cases", Path(__file__).parents[1] / "vnnlib" / "vnnlib_cases.py")
cases = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(cases)

#: Y_0 = |X_0|, Y_1 = X_1
LAYERS = [
    (np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]), np.zeros(4)),
    (np.array([[1, 1, 0, 0], [0, 0, 1, -1]]), np.zeros(2)),
]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with a network, and a function that writes a specification of it."""
    # this process has run other tests before
    monkeypatch.setattr("clinch.cli.verify.seconds_since_start", lambda: 0.0)
    net = cases.network(tmp_path / "net.onnx", LAYERS)

    def specification(conditions, name="spec.vnnlib"):
        text = cases.declared(cases.box(inputs=2) + conditions, 2, 2)
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return net, specification


def test_sat_prints_the_word_and_a_counterexample_that_onnxruntime_confirms(clinch, files):
    net, specification = files
    outcome = clinch("verify", net, specification("(assert (>= Y_0 0.5)) (assert (<= Y_1 -0.25))"), "--timeout", 60)
    assert outcome.code == 0 and outcome.err == ""
    word, _, assignment = outcome.out.partition("\n")
    assert word == "sat" and assignment.startswith("((X_0 ") and assignment.endswith("))\n")
    values = {name: float(v) for name, v in re.findall(r"\((\w+) ([^\s()]+)\)", assignment)}
    x = np.array([[values["X_0"], values["X_1"]]], dtype=np.float32)
    (y,) = onnxruntime.InferenceSession(net).run(None, {"x": x})
    assert y[0].tolist() == [values["Y_0"], values["Y_1"]]
    assert y[0, 0] >= 0.5 and y[0, 1] <= -0.25 and (abs(x) <= 1).all()


def test_unsat_prints_the_word_alone(clinch, files):
    net, specification = files
    outcome = clinch("verify", net, specification("(assert (>= Y_0 1.25))", "spec.vnnlib.gz"))
    assert (outcome.code, outcome.out, outcome.err) == (0, "unsat\n", "")


def test_contradicting_limits_are_unsat_with_the_reason(clinch, files, tmp_path):
    net, specification = files
    target = tmp_path / "verdict.json"
    outcome = clinch("verify", net, specification("(assert (>= X_1 2))"), "--json", target)
    assert (outcome.code, outcome.out) == (0, "unsat\n")
    assert re.fullmatch("clinch: No input meets .*: X_1 would have to be >= 2 and <= 1.\n", outcome.err)
    assert "X_1 would have to be >= 2 and <= 1" in json.loads(target.read_text())["reason"]


TENSORS = "(vnnlib-version <2.0>) (declare-network f (declare-input X real [2]) (declare-output Y real [2]))"


def test_the_command_line_of_the_standard_has_the_property_first(clinch, files, tmp_path):
    net, _ = files
    query = tmp_path / "query.vnnlib"
    box = "(assert (and (<= -1 X[0]) (<= X[0] 1) (<= -1 X[1]) (<= X[1] 1)))"
    query.write_text(f"{TENSORS} {box} (assert (>= Y[0] 0.5))")
    outcome = clinch("verify", query, "--network", f"f={net}", "--timeout", 60)
    assert outcome.code == 0 and outcome.out.startswith("sat\nX real [2]\n")
    query.write_text(f"{TENSORS} {box} (assert (>= Y[0] 1.25))")
    assert clinch("verify", query, "--network", f"f={net}").out == "unsat\n"
    outcome = clinch("verify", query, "--network", f"f={net}", "--timeout", 0)
    assert (outcome.code, outcome.out) == (1, "timed-out\n")


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        (["g=NET"], "declares f; files are given for g"),
        (["f=NET", "g=NET"], "declares f; files are given for f, g"),
        (["NET"], "NAME=FILE"), (["f="], "NAME=FILE"), (["f=NET", "f=NET"], "once for each network"), ([], "--network"),
    ],
)  # fmt: skip
def test_networks_that_the_property_does_not_declare_are_refused(clinch, files, tmp_path, networks, message):
    query = tmp_path / "query.vnnlib"
    query.write_text(f"{TENSORS} (assert (>= Y[0] 0.5))")
    options = [part for text in networks for part in ("--network", text.replace("NET", str(files[0])))]
    outcome = clinch("verify", query, *options)
    assert outcome.code == 2 and message in outcome.err and outcome.err.count("\n") == 1


def test_what_a_tool_says_about_itself_is_one_word_a_line(clinch):
    assert clinch("supports", "--vnnlib-versions").out == "1.0\n2.0\n"
    oldest, newest = clinch("supports", "--onnx-opset-versions").out.split()
    assert int(oldest) == 7 and int(newest) >= 17
    assert clinch("supports", "--onnx-element-types").out == "real\n"
    assert clinch("supports").code == 2


def test_timeout_is_the_honest_negative_answer(clinch, files):
    net, specification = files
    outcome = clinch("verify", net, specification("(assert (>= Y_0 1.25))"), "--timeout", 0)
    assert (outcome.code, outcome.out) == (1, "timeout\n")


def test_the_counterexample_goes_to_its_file_and_is_emptied_where_there_is_none(clinch, files, tmp_path):
    net, specification = files
    target = tmp_path / "found.txt"
    outcome = clinch("verify", net, specification("(assert (>= Y_0 0.5))"), "--counterexample", target)
    assert outcome.out == "sat\n" and target.read_text().startswith("((X_0 ")
    outcome = clinch("verify", net, specification("(assert (>= Y_0 2))"), "--counterexample", target)
    assert outcome.out == "unsat\n" and target.read_text() == ""


def test_json_on_standard_output_is_all_that_is_printed(clinch, files):
    net, specification = files
    content = json.loads(clinch("verify", net, specification("(assert (>= Y_0 0.5))"), "--json", "-").out)
    assert content["answer"] == "sat" and content["counterexample"]["exact"]
    assert content["counterexample"]["values"]["Y"][0] >= 0.5


def test_the_clock_starts_with_the_process():
    began = seconds_since_start()
    time.sleep(0.05)
    assert 0 < began < seconds_since_start() < 24 * 3600


# --- bad input -----------------------------------------------------------------------------------------------------


def unsupported(path):
    """An operator that no reader knows and no function computes: its result is drawn at random."""
    node = helper.make_node("RandomNormalLike", ["x"], ["y"], name="strange")
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def with_nan(path):
    cases.network(path, [(np.array([[1.0, np.nan]]), np.zeros(1))])


def product(path, weight):
    """x times a weight, which None leaves out of the file."""
    shape = [1, 2] if weight is None else [1, weight.shape[1]]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [] if weight is None else [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return model


def without_its_data(path):
    """The weights stand in another file, which is lost."""
    model = product(path, np.ones((2, 2)))
    onnx.save(model, str(path), save_as_external_data=True, location="weights", size_threshold=0)
    (path.parent / "weights").unlink()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (unsupported, "'strange'.*RandomNormalLike cannot be read: there is no function for it"),
        (with_nan, "holds NaN or infinite numbers"),
        (lambda path: product(path, np.array([[1.0, np.inf], [0, 1]])), "weight holds NaN or infinite numbers"),
        (lambda path: product(path, np.ones((3, 2))), r"'y' \(ONNX node MatMul\) .* does not fit its inputs of shapes"),
        (lambda path: product(path, None), "reads the tensor 'w', which no node before it makes"),
        (without_its_data, "tensor 'w' of bad.onnx lies in 'weights', and there is no such file"),
        (lambda path: path.write_text("no network"), "not a readable ONNX file"),
        (lambda path: path.write_bytes(b""), "not a readable ONNX file: it holds no network"),
        (lambda path: path.mkdir(), "There is no file"),
        (lambda path: None, "There is no file"),
    ],
    ids=["unsupported", "nan", "infinite", "shapes", "undefined", "external", "text", "empty", "folder", "missing"],
)
def test_a_bad_network_is_one_line(clinch, files, tmp_path, make, message):
    _, specification = files
    make(tmp_path / "bad.onnx")
    outcome = clinch("verify", tmp_path / "bad.onnx", specification("(assert (>= Y_0 1))"))
    assert outcome.code == 2 and outcome.out == ""
    assert outcome.err.count("\n") == 1 and re.search(message, outcome.err), outcome.err


def test_a_compressed_network_that_is_cut_off_is_one_line(clinch, files, tmp_path):
    net, specification = files
    (tmp_path / "bad.onnx.gz").write_bytes(gzip.compress(net.read_bytes())[:-20])
    outcome = clinch("verify", tmp_path / "bad.onnx.gz", specification("(assert (>= Y_0 1))"))
    assert outcome.code == 2 and outcome.err.count("\n") == 1 and "Compressed file ended" in outcome.err


@pytest.mark.parametrize("length", [8, 40, -20, -8])
def test_a_network_that_is_cut_off_is_one_line(clinch, files, tmp_path, length):
    net, specification = files
    (tmp_path / "bad.onnx").write_bytes(net.read_bytes()[:length])
    outcome = clinch("verify", tmp_path / "bad.onnx", specification("(assert (>= Y_0 1))"))
    assert outcome.code == 2 and outcome.out == "" and outcome.err.count("\n") == 1
    assert "bad" in outcome.err


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda packed: packed[:-20], "Compressed file ended"),
        (lambda packed: packed[:-8] + b"12345678", "CRC check failed"),
        (lambda packed: packed[:2] + b"x" * 40, "compression method"),
        (lambda packed: bytes(range(256)), "codec can't decode"),
        (lambda packed: b"", "declares no input"),
    ],
    ids=["cut", "checksum", "header", "binary", "empty"],
)
def test_a_specification_that_cannot_be_unpacked_is_one_line(clinch, files, tmp_path, spoil, message):
    net, specification = files
    (tmp_path / "bad.vnnlib.gz").write_bytes(spoil(specification("(assert (>= Y_0 1))", "good.vnnlib.gz").read_bytes()))
    outcome = clinch("verify", net, tmp_path / "bad.vnnlib.gz")
    assert outcome.code == 2 and outcome.out == "" and outcome.err.count("\n") == 1
    assert "bad.vnnlib.gz" in outcome.err and message in outcome.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(declare-const X_0 Real)\n(assert (<= X_0", r"bad\.vnnlib, line 2, column 9: this '\('.*not closed"),
        ("(declare-const X_0 Real)\n\n(assert (<= X_7 1))", "line 3, column 13: 'X_7' is not declared"),
        (cases.declared(cases.box() + "(assert (>= Y_0 1))"), "X has 3 elements"),
        (cases.declared("(assert (<= 0 X_0 1)) (assert (>= Y_0 1))", 2, 2), "X_1 has no lower limit"),
        (cases.declared(cases.box(inputs=2) + "\n(assert (>= (* Y_0 Y_1) 1))", 2, 2), "product of variables"),
    ],
)
def test_a_bad_specification_is_one_line(clinch, files, tmp_path, text, message):
    (tmp_path / "bad.vnnlib").write_text(text)
    outcome = clinch("verify", files[0], tmp_path / "bad.vnnlib")
    assert outcome.code == 2 and outcome.out == ""
    assert outcome.err.count("\n") == 1 and re.search(message, outcome.err), outcome.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--timeout", "-1"], "timeout is -1"),
        (["--timeout", "nan"], "timeout is nan"),
        (["--timeout", "soon"], "'--timeout'"),
        (["--device", "nowhere"], "The device 'nowhere' cannot be used"),
        (["--counterexample", "no/such/folder/x.txt"], "Cannot write"),
    ],
)
def test_bad_options_are_one_line(clinch, files, options, message):
    net, specification = files
    outcome = clinch("verify", net, specification("(assert (>= Y_0 2))"), *options)
    assert outcome.code == 2 and outcome.out == "" and outcome.err.count("\n") == 1 and message in outcome.err


def test_the_process_ends_with_the_code_and_needs_nothing_heavy(files):
    net, specification = files
    heavy = ["scipy", "sympy", "matplotlib", "sklearn", "highspy", "torch._dynamo", "rich"]
    look = f"print([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    code = f"import atexit, sys; import clinch.cli as c; code = c.run(sys.argv[1:]); {look}; c.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "verify", str(net), str(specification("(assert (>= Y_0 3))"))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout == "unsat\nunsat\n"
    assert done.stderr == "[]\n"
    done = subprocess.run(
        [sys.executable, "-c", "from clinch.cli import main; main()", "verify", str(net), "nothing.vnnlib"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and done.stdout == "" and "No such file" in done.stderr


def test_unsat_leaves_certificates_that_clinch_check_accepts(clinch, files, tmp_path):
    """One file per case of the specification; against the packed ONNX file and the layer lists."""
    net, specification = files
    spec = specification("(assert (or (and (<= X_0 0.1) (<= Y_0 -0.5)) (and (>= X_0 -0.1) (>= Y_0 1.5))))")
    packed = tmp_path / "net.onnx.gz"
    packed.write_bytes(gzip.compress(Path(net).read_bytes()))
    outcome = clinch("verify", packed, spec, "--timeout", 60, "--certificate", tmp_path / "p.safetensors")
    assert outcome.code == 0 and outcome.out == "unsat\n" and "2 of 2 certificates" in outcome.err
    for case in ("p.0", "p.1"):
        for model in (net, packed, tmp_path / f"{case}.network.safetensors"):
            done = clinch("check", tmp_path / f"{case}.safetensors", model)
            assert done.code == 0 and "PROVEN" in done.out, done.out + done.err


def test_sat_leaves_no_certificate(clinch, files, tmp_path):
    net, specification = files
    spec = specification("(assert (>= Y_0 0.5))")
    outcome = clinch("verify", net, spec, "--timeout", 60, "--certificate", tmp_path / "p.safetensors")
    assert outcome.code == 0 and outcome.out.startswith("sat") and not list(tmp_path.glob("p*.safetensors"))
