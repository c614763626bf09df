"""Every kind of layer has certificates that are accepted, and none that is false; ``run_kinds.py`` does it for many."""

from importlib.util import find_spec
from unittest import mock

import kinds
import numpy as np
import pytest
import torch
from kinds import CASES, FALSE, REFUSED, available, examined, known
from onnx import helper
from onnx_models import model

import clinch as cl
from clinch.certificates import SavedProof, certify
from clinch.checker.certificate import CERTIFICATE, NETWORK, Certificate, read_certificate, read_network, write_file
from clinch.checker.check import check
from clinch.checker.layers import KINDS, Refused, read_layers
from clinch.checker.lines import lines_of
from clinch.checker.onnx_layers import read_onnx

COUNT = 72


@pytest.mark.parametrize("name", CASES)
def test_a_certificate_is_accepted_again_and_true(name, tmp_path):
    if name not in available():
        pytest.skip("python-flint is not there")
    proof = known(name).proof
    beside = proof.save(tmp_path / "c.safetensors")
    layers, sha256 = read_network(beside)
    certificate = read_certificate(tmp_path / "c.safetensors")
    report = check(certificate, layers, sha256)
    assert report.bound == proof.report.bound and report.margin > 0
    assert kinds.falsehood(certificate, layers, report.bound) == ""
    # no better one: an input comes near
    assert kinds.falsehood(certificate, layers, report.bound + 0.2 * (1 + abs(report.bound)))


def test_splits_of_activations_prove_what_one_leaf_does_not():
    def checked(claim, nu):
        certificate, network = kinds.split_by_hand(claim, nu)
        return check(certificate, read_layers(*network), network[0]["sha256"])

    assert checked(-1.01, None).leaves == 1 and checked(-0.6, -0.4).leaves == 3
    # the multipliers are needed, with their sign, and of limits that the splits gave
    for claim, nu in ((-0.6, None), (-0.6, 0.0), (-0.3, -0.4), (-0.6, 0.4)):
        with pytest.raises(Refused, match=r"not closed|not split on that side"):
            checked(claim, nu)
    certificate, network = kinds.split_by_hand(-0.6, -0.4)
    for name, value in (("tree.threshold", 3.0), ("tree.index", 1), ("tree.kind", 5)):
        tensors = {**certificate.tensors, name: certificate.tensors[name].copy()}
        tensors[name][2] = value
        with pytest.raises(Refused):
            check(certificate._replace(tensors=tensors), read_layers(*network), network[0]["sha256"])


def test_every_kind_of_layer_is_in_a_certificate():
    stated = {layer["kind"] for name in available() for layer in known(name).proof.network[0]["layers"]}
    assert {"function", "maxpool", "product", "sparse", "relu", "dense", "convolution"} <= stated <= set(KINDS)


def test_nothing_false_is_accepted():
    found = [examined(seed) for seed in range(COUNT)]
    assert [r for r in found if r["outcome"] == FALSE] == []
    refused = sum(r["outcome"] == REFUSED for r in found)
    assert COUNT / 4 < refused < COUNT


def test_a_checker_that_errs_is_found():
    def careless(layer, boxes, slopes=None):
        """Lines moved into the function."""
        lines, limits = lines_of(layer, boxes, slopes)
        return lines._replace(low_offset=lines.low_offset + 5, high_offset=lines.high_offset - 5), limits

    proof = known("hard swish").proof
    header = {**proof.certificate.header, "claim": {"kind": "bound", "value": proof.report.bound + 0.3}}
    layers, hashed = read_layers(*proof.network), proof.network[0]["sha256"]
    certificate = Certificate({**header, "point": None}, proof.certificate.tensors)
    with pytest.raises(Refused, match="not closed"):
        check(certificate, layers, hashed)
    with (
        mock.patch("clinch.checker.rigorous.lines_of", careless),
        mock.patch("clinch.checker.check.lines_of", careless),
    ):
        assert kinds.falsehood(certificate, layers, check(certificate, layers, hashed).bound)


def test_without_the_extra_the_function_is_named(tmp_path):
    header = {"version": 3, "layers": [{"kind": "input", "shape": [2]},
              {"kind": "function", "inputs": [0], "name": "sigmoid", "parameters": []}]}  # fmt: skip
    write_file(tmp_path / "n.safetensors", NETWORK, header, {"x": np.zeros(1)})
    with mock.patch("clinch.checker.layers.find_spec", lambda name: None):
        with pytest.raises(Refused, match="sigmoid: the checker needs python-flint"):
            read_network(tmp_path / "n.safetensors")
        header["layers"][1] |= {"name": "hardswish"}
        assert len(read_layers(header, {})) == 2


@pytest.mark.parametrize("extra", [{"left": [0, 9]}, {"left": [0, -1]}, {"out": [0, 7]}, {"left": [0]}])
def test_places_outside_are_refused(extra):
    tensors = {name: np.array(t, np.int32) for name, t in extra.items()}
    layer = {"kind": "product", "inputs": [0, 0], "shape": [2], **{name: name for name in extra}}
    with pytest.raises(Refused):
        read_layers({"version": 3, "layers": [{"kind": "input", "shape": [2]}, layer]}, tensors)


def test_windows_of_padding_alone_are_refused():
    settings = {"window": [2], "stride": [2], "padding": [[4, 0]], "dilation": [1], "extents": [3]}
    header = {
        "version": 3,
        "layers": [{"kind": "input", "shape": [1, 4]}, {"kind": "maxpool", "inputs": [0], **settings}],
    }
    with pytest.raises(Refused, match="padding alone"):
        read_layers(header, {})


def test_a_certificate_holds_for_the_onnx_file_itself(tmp_path):
    rng = np.random.default_rng(0)
    constants = {"k": rng.normal(size=(2, 1, 2, 2)), "w": rng.normal(size=(8, 2)), "low": -0.5, "two": 2.0}
    constants |= {name: rng.uniform(0.5, 1.5, 2) for name in ("scale", "b", "mean", "var")}
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"]), helper.make_node("HardSwish", ["c"], ["h"]),
        helper.make_node("BatchNormalization", ["h", "scale", "b", "mean", "var"], ["n"]),
        helper.make_node("MaxPool", ["n"], ["p"], kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1]),
        helper.make_node("Clip", ["p", "low"], ["l"]), helper.make_node("Softsign", ["l"], ["s"]),
        helper.make_node("Mul", ["s", "l"], ["m"]), helper.make_node("Pow", ["m", "two"], ["q"]),
        helper.make_node("Flatten", ["q"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]  # fmt: skip
    path, single = tmp_path / "m.onnx", {name: np.asarray(t, np.float32) for name, t in constants.items()}
    path.write_bytes(model(nodes, single, shape=(1, 1, 4, 4)).SerializeToString())
    net = cl.load(path)
    problem = cl.Problem(cl.Minimize(net.output[0]), [net.input.between(0, 0.3)])
    bound = cl.bounds.crown(net, cl.bounds.box(torch.zeros(1, 1, 4, 4), 0.3 * torch.ones(1, 1, 4, 4)))[0, :1]
    (proof,) = certify(problem.query, bound, onnx=path)
    layers, sha256 = read_onnx(path)
    assert isinstance(proof, SavedProof) and sha256 in proof.certificate.header["networks"]
    report = check(proof.certificate, layers, sha256)
    assert report.bound == proof.report.bound and report.margin > 0
    assert kinds.falsehood(proof.certificate, layers, report.bound) == ""


@pytest.mark.skipif(find_spec("flint") is None, reason="python-flint is not there")
def test_a_solve_hands_over_the_certificate(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Sigmoid(), torch.nn.Linear(5, 2)).eval()
    net = cl.load(model, input_shape=(3,))
    solution = cl.Problem(cl.Maximize(net["1"][2]), [net.input.between(0, 1)]).solve(10, certificate=True)
    proof = solution.certificate
    assert proof is not None and "objective.rows.function:0" in proof.certificate.tensors
    write_file(tmp_path / "c.safetensors", CERTIFICATE, *proof.certificate)
    assert check(read_certificate(tmp_path / "c.safetensors"), read_layers(*proof.network), proof.network[0]["sha256"])
