"""Small files take little memory: what they state is counted before there is room for it."""

import tracemalloc

import numpy as np
import pytest
from onnx import helper
from onnx_models import model

from clinch.checker.certificate import CERTIFICATE, NETWORK, VERSION, read_certificate, read_network, write_file
from clinch.checker.check import check
from clinch.checker.layers import Refused

#: what a pair of files of at most 256 KiB may take
MOST = 120e6


def peak(action):
    """Bytes taken while something runs, and whether it was refused."""
    tracemalloc.start()
    try:
        action()
        refused = False
    except Refused:
        refused = True
    finally:
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return found, refused


def conv(at, weight, padding, dims=2, stride=1, dilation=1):
    """A convolution of the layer list that reads layer ``at``."""
    lists = {"stride": [stride] * dims, "padding": [padding] * dims, "dilation": [dilation] * dims}
    return {"kind": "convolution", "inputs": [at], "weight": weight, "groups": 1, **lists}


def half(*shape, value=0.01):
    return np.full(shape, value, np.float16)


def many_leaves(depth, inputs, kind):
    """A balanced tree that splits ReLUs, or inputs at the middle of their limits."""
    count = 2 ** (depth + 1) - 1
    inner = 2**depth - 1
    at = np.arange(count)
    level = np.floor(np.log2(at + 1)).astype(int)
    index = np.where(at < inner, level, -1)
    return {
        "tree.kind": np.where(at < inner, kind, 0).astype(np.int8), "tree.index": index.astype(np.int16),
        "tree.first": np.where(at < inner, 2 * at + 1, -1).astype(np.int16),
        "tree.threshold": half(count, value=0.5),
    }  # fmt: skip


ROOT = {"tree.kind": np.zeros(1, np.int8), "tree.index": -np.ones(1, np.int8), "tree.first": -np.ones(1, np.int8),
        "tree.threshold": half(1)}  # fmt: skip


def pair(layers, weights, tensors, *, objective="linear", output=1, clauses=0):
    """A certificate that claims something about the sum of the outputs of a network."""
    inputs = int(np.prod(layers[0]["shape"]))
    leaves = int((tensors["tree.kind"] == 0).sum())
    tensors = {
        "region.lower": half(inputs, value=0.25), "region.upper": half(inputs, value=1),
        "atoms.constant": half(clauses), "atoms.clause": np.arange(clauses).astype(np.int16),
        "leaf.columns": np.zeros(0, np.int8),
        "leaf.alpha": half(leaves, 0), "leaf.beta": half(leaves, 0), "leaf.mu": half(leaves, clauses), **tensors,
    }  # fmt: skip
    if objective == "linear":
        tensors |= {"objective.rows.output": half(1, output), "objective.constant": half(1)}
    claim = {"kind": "bound", "value": -1e6} if objective == "linear" else {"kind": "infeasible"}
    query = {"objective": objective, "balls": [], "sense": 1, "labels": []}
    network = ({"version": VERSION, "layers": layers}, weights)
    return network, ({"version": VERSION, "networks": [], "query": query, "claim": claim, "point": None}, tensors)


def relu(at):
    return {"kind": "relu", "inputs": [at]}


def deep():
    """Many layers, on many boxes."""
    layers = [{"kind": "input", "shape": [8000]}]
    for i in range(0, 40, 2):
        layers += [relu(i), {"kind": "add", "inputs": [i, i + 1]}]
    return pair(layers, {}, many_leaves(3, 8000, 2), output=8000)


def channels_at_places():
    """Few inputs, few outputs, and what is between: a thousand channels at each of many places."""
    layers = [{"kind": "input", "shape": [1000, 2]}, conv(0, "k", 1000, 1), relu(1)]
    return pair(layers, {"k": half(1, 1000, 1)}, many_leaves(3, 2000, 2), output=2002)


def wide_parts():
    """A receptive field that is scattered over wide layers: its parts would be large dense matrices."""
    layers = [{"kind": "input", "shape": [1, 2**15]}]
    layers += [conv(i, "k", 3**i, 1, dilation=3**i) for i in range(9)]
    layers += [conv(9, "k", 1, 1, stride=2**16), relu(10)]
    return pair(layers, {"k": half(1, 1, 3) * np.array([-1, 1, 1], np.float16)}, ROOT)


def padded():
    """A pixel in much padding."""
    return pair([{"kind": "input", "shape": [1, 1, 1]}, conv(0, "k", 4000)], {"k": half(1, 1, 1, 1)}, ROOT)


def repeated():
    """A matrix for each of many rows."""
    layers = [{"kind": "input", "shape": [2000, 4]}, {"kind": "dense", "inputs": [0], "weight": "w"}]
    return pair(layers, {"w": half(4, 4)}, ROOT, output=8000)


def shared():
    """One tensor for many layers."""
    layers = [{"kind": "input", "shape": [90]}, *({"kind": "dense", "inputs": [i], "weight": "w"} for i in range(500))]
    return pair(layers, {"w": half(90, 90)}, ROOT, output=90)


def signs_of_leaves():
    """Many leaves of a network of many ReLUs."""
    layers = [{"kind": "input", "shape": [1, 1, 1]}, conv(0, "k", 200), relu(1)]
    return pair(layers, {"k": half(1, 1, 1, 1)}, many_leaves(11, 1, 1), objective="none")


def boxes_of_leaves():
    """Many leaves with limits of their own of many inputs."""
    layers = [{"kind": "input", "shape": [6000]}, {"kind": "dense", "inputs": [0], "weight": "w"}]
    return pair(layers, {"w": half(1, 6000)}, many_leaves(11, 6000, 2))


def forms_of_atoms():
    """Many conditions, none of which looks at what the objective does."""
    layers = [{"kind": "input", "shape": [6000]}, relu(0)]
    return pair(layers, {}, ROOT, output=6000, clauses=4000)


def uneven_clauses():
    """Many clauses of one atom and one of many."""
    network, (header, tensors) = pair([{"kind": "input", "shape": [1]}, relu(0)], {}, ROOT, clauses=8000)
    tensors["atoms.clause"] = np.minimum(np.arange(8000), 4000).astype(np.int16)
    return network, (header, tensors)


CRAFTED = (
    deep, channels_at_places, wide_parts, padded, repeated, shared, signs_of_leaves, boxes_of_leaves, forms_of_atoms,
    uneven_clauses,
)  # fmt: skip


@pytest.mark.parametrize("crafted", CRAFTED)
def test_a_pair_of_small_files_takes_little(crafted, tmp_path):
    network, (header, tensors) = crafted()
    write_file(tmp_path / "n.safetensors", NETWORK, *network)
    sha256 = read_header(tmp_path / "n.safetensors")
    write_file(tmp_path / "c.safetensors", CERTIFICATE, {**header, "networks": [sha256]}, tensors)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2**18
    files = tmp_path / "c.safetensors", tmp_path / "n.safetensors"
    taken, _ = peak(lambda: check(read_certificate(files[0]), *read_network(files[1])))
    assert taken < MOST


def read_header(path):
    from clinch.checker.certificate import read_file

    return read_file(path, NETWORK)[0]["sha256"]


def test_onnx_files_take_little(tmp_path):
    kernel = {"k": np.ones((1, 1, 1, 1), np.float32), "c": np.ones(1, np.float32)}
    pads = helper.make_node("Conv", ["x", "k"], ["y"], pads=[10**5] * 4)
    wide = helper.make_node("Add", ["x", "c"], ["y"])
    for nodes, shape in (([pads], (1, 1, 1, 1)), ([wide], (1, 1, 10**6, 10**6))):
        (tmp_path / "m.onnx").write_bytes(model(nodes, kernel, shape=shape).SerializeToString())
        taken, refused = peak(lambda: read_network(tmp_path / "m.onnx"))
        assert refused and taken < 10e6
