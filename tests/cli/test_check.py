"""``clinch check``: exit codes and what it prints."""

import gzip
import json

import numpy as np
import pytest
import torch

import clinch as cl
from clinch.cli.check import executed


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A certificate, its layer list, and the ONNX file the network came from."""
    folder = tmp_path_factory.mktemp("certificates")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2)).eval()
    onnx_file(model, folder / "net.onnx")
    net = cl.load(folder / "net.onnx")
    problem = cl.Problem(cl.Maximize(net.output[0] - net.output[1]), [net.input.between(0, 1), net.input[0] <= 0.5])
    layers = problem.solve(5, certificate=True).certificate.save(folder / "c.safetensors")
    return folder / "c.safetensors", layers, folder / "net.onnx"


def onnx_file(model, path):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    w = {name.replace(".", ""): numpy_helper.from_array(t.detach().numpy(), name.replace(".", ""))
         for name, t in model.named_parameters()}  # fmt: skip
    nodes = [
        helper.make_node("Gemm", ["x", "0weight", "0bias"], ["a"], transB=1),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "2weight", "2bias"], ["y"], transB=1),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, k]) for n, k in (("x", 3), ("y", 2))]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], list(w.values()))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def test_a_certificate_passes_with_either_model(clinch, saved):
    certificate, layers, file = saved
    for model in (layers, file):
        done = clinch("check", certificate, model)
        assert done.code == 0, done.out + done.err
        for word in ("PROVEN", "above", "real-number", "rounding", "not proven"):
            assert word in done.out


def test_another_network_or_a_cut_file_is_refused(clinch, saved, tmp_path):
    certificate, _, _ = saved
    torch.manual_seed(1)
    onnx_file(torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2)), tmp_path / "o.onnx")
    done = clinch("check", certificate, tmp_path / "o.onnx")
    assert done.code == 1 and "REFUSED" in done.out and "another network" in done.out
    (tmp_path / "cut.safetensors").write_bytes(certificate.read_bytes()[:-9])
    assert clinch("check", tmp_path / "cut.safetensors", saved[1]).code == 1


def test_a_missing_file_is_bad_input(clinch, saved, tmp_path):
    done = clinch("check", tmp_path / "none.safetensors", saved[1])
    assert done.code == 2 and "no file" in done.err


@pytest.mark.parametrize("name", ["net.onnx.gz", "NET.ONNX.GZ"])
def test_packed_models_are_read(clinch, saved, tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(saved[2].read_bytes()))
    assert clinch("check", saved[0], tmp_path / name).code == 0
    (tmp_path / name).write_bytes(gzip.compress(saved[2].read_bytes())[:-9])
    done = clinch("check", saved[0], tmp_path / name)
    assert done.code == 1 and "REFUSED" in done.out and "cannot be read" in done.out


def test_the_point_is_run_in_float32(clinch, saved, tmp_path):
    certificate, layers, file = saved
    done = clinch("check", certificate, file, "--float32", "--json", tmp_path / "found.json")
    assert "the point holds with objective" in done.out and "no part of the proof" in done.out
    # a bound within a millionth of the optimum leaves no room for rounding in float32
    assert done.code == 1 and "not proven there" in done.out
    found = json.loads((tmp_path / "found.json").read_text())
    # the same in real numbers, up to rounding in float32
    assert found["float32"]["value"] == pytest.approx(found["value"], abs=1e-5)
    assert found["float32"]["violation"] <= 1e-6
    assert "name the .onnx file" in clinch("check", certificate, layers, "--float32").out


def test_the_point_may_fail_in_float32(tmp_path):
    """A point made infeasible by hand: said so, by how much."""
    from clinch.checker.certificate import Certificate

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2)).eval()
    onnx_file(model, tmp_path / "net.onnx")
    x = np.array([0.25, 0.5, 0.75])
    wanted = model(torch.tensor(x, dtype=torch.float32)[None])[0, 0].item()
    tensors = {"point.x": x, "atoms.rows.output": np.array([[1.0, 0.0]]), "atoms.constant": np.array([-wanted + 0.5]),
               "atoms.clause": np.array([0])}  # fmt: skip
    header = {"point": {}, "query": {"objective": "distance", "sense": 1}}
    found = executed(Certificate(header, tensors), tmp_path / "net.onnx")
    assert found.violation == pytest.approx(0.5, abs=1e-5) and "does not hold, by 0.5" in found.text
    assert executed(Certificate({"point": None}, {}), tmp_path / "net.onnx").violation is None
