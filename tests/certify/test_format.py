"""Every content of the two formats has one meaning: names of places, digests, entries."""

import json

import numpy as np
import pytest
from certified import known
from safetensors.numpy import save_file

from clinch.certificates import layer_list
from clinch.checker.certificate import CERTIFICATE, NETWORK, read_certificate, read_network, write_file
from clinch.checker.check import check
from clinch.checker.layers import Refused, digest, places, read_layers

CASE = "linear objective, box and ball"


def proof():
    return known(CASE).proof


@pytest.mark.parametrize(
    "alias", ["before:2", "relu:00", "relu:\u0660", "relu:0 ", "Output", "output:0", "relu:-0", "relu:"]
)
def test_a_place_has_one_name(alias, tmp_path):
    header, tensors = proof().certificate
    tensors = {**tensors, f"objective.rows.{alias}": tensors["objective.rows.output"] * 0 - 5}
    write_file(tmp_path / "c.safetensors", CERTIFICATE, header, tensors)
    with pytest.raises(Refused, match="no place"):
        check(read_certificate(tmp_path / "c.safetensors"), read_layers(*proof().network), proof().network[0]["sha256"])


@pytest.mark.parametrize("name", [CASE, "convolution, linear objective"])
def test_writer_and_checker_give_the_same_names(name):
    case = known(name)
    found = places(read_layers(*case.proof.network))
    assert found == {place: node for node, place in layer_list.places(case.graph).items()}
    assert len(set(found.values())) == len(found)


def test_an_output_that_is_a_relu_and_an_input_of_two_have_one_name():
    stated = [{"kind": "input", "shape": [2]}, {"kind": "shift", "inputs": [0], "bias": "b"},
              *({"kind": "relu", "inputs": [i]} for i in (1, 1, 3))]  # fmt: skip
    layers = read_layers({"version": 2, "layers": stated}, {"b": np.ones(2)})
    assert places(layers) == {"input": 0, "before:0": 1, "relu:0": 2, "relu:1": 3, "output": 4}


def test_the_digest_tells_contents_apart_whatever_their_names_hold():
    one = {"a": np.zeros(1, np.uint8), "b": np.zeros(1, np.uint8)}
    # the whole of the second tensor, as a text without lengths would have it, in the name of the first
    other = {"a |u1 [1]\n\0\nb": np.zeros(1, np.uint8)}
    contents = [
        one,
        other,
        {"a": np.zeros(2, np.uint8)},
        {"a": np.zeros((1, 2), np.uint8)},
        {"a": np.zeros(1, "<u2")},
        {},
    ]
    assert len({digest({}, tensors) for tensors in contents}) == len(contents)
    assert digest({}, {"a": np.array([1, 2], ">i4")}) == digest({}, {"a": np.array([1, 2], "<i4")})


def test_former_versions_are_refused_in_one_line(tmp_path):
    for entry, content, read in (
        (CERTIFICATE, proof().certificate, read_certificate),
        (NETWORK, proof().network, read_network),
    ):
        header, tensors = content
        write_file(tmp_path / "f.safetensors", entry, {**header, "version": 1}, tensors)
        with pytest.raises(Refused, match=r"version 1; .* version 3: write it again"):
            read(tmp_path / "f.safetensors")


def test_what_stands_twice_or_means_nothing_is_refused(tmp_path):
    header, tensors = proof().certificate
    path = tmp_path / "c.safetensors"
    for extra in ("ball.00.radius", "ball.1.radius", "leaf.gamma", "objective.center", "note"):
        write_file(path, CERTIFICATE, header, {**tensors, extra: np.zeros(1)})
        with pytest.raises(Refused, match=extra.replace(".", r"\.")):
            read_certificate(path)
    write_file(path, CERTIFICATE, {**header, "claim": {**header["claim"], "note": 1}}, tensors)
    with pytest.raises(Refused, match="note"):
        read_certificate(path)
    text = json.dumps(header)
    save_file(tensors, path, {CERTIFICATE: text[:-1] + ', "claim": {"kind": "infeasible"}}'})
    with pytest.raises(Refused, match="twice"):
        read_certificate(path)


@pytest.mark.parametrize(
    "layer",
    [
        {"kind": "reshape", "inputs": [0, 0], "shape": [2]}, {"kind": "relu", "inputs": [0, 0]},
        {"kind": "relu", "inputs": []}, {"kind": "add", "inputs": [0]}, {"kind": "relu", "inputs": [0], "alpha": 0.5},
        {"kind": "relu", "inputs": [0], "slope": "0.5"}, {"kind": "relu", "inputs": [0], "slope": True},
        {"kind": "dense", "inputs": [0], "weight": "w", "stride": [1]}, {"kind": "dense", "inputs": [0]},
    ],
)  # fmt: skip
def test_a_layer_has_the_inputs_and_settings_of_its_kind(layer):
    header = {"version": 2, "layers": [{"kind": "input", "shape": [2]}, layer]}
    with pytest.raises(Refused):
        read_layers(header, {"w": np.eye(2)})
