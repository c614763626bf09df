"""Spoilt files end in a typed error of one line, within limits of memory, or are read.

``python tests/fuzz/run.py`` does the same for as long as one likes, and with coverage to guide it.
"""

from __future__ import annotations

import gzip
import io
import random
import sqlite3
from contextlib import closing

import onnx
import pytest
from certified import known
from changes import packed, unpacked
from hypothesis import given, settings
from hypothesis import strategies as st
from models import MODELS
from PIL import Image
from targets import mutated, survives, targets

from clinch.checker.certificate import CERTIFICATE, NETWORK
from clinch.errors import NetworkError
from clinch.study.store import Store, StoreError

TARGETS = targets()


def check(target, content, folder):
    error = survives(target, content, folder)
    if error is not None:
        text = str(error)
        assert text and len(text) < 5000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("spoilt")


@pytest.mark.parametrize("name", TARGETS)
def test_the_valid_files_are_read(name, folder):
    for seed in TARGETS[name].seeds():
        assert survives(TARGETS[name], seed, folder) is None
        if TARGETS[name].packed:
            assert survives(TARGETS[name], gzip.compress(seed), folder) is None


@pytest.mark.parametrize("name", TARGETS)
def test_spoilt_files_end_in_typed_errors(name, folder):
    @settings(max_examples=60, database=None)
    @given(st.integers(0, 2**62))
    def spoil(seed):
        check(TARGETS[name], mutated(TARGETS[name], random.Random(seed)), folder)

    spoil()


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_end_in_typed_errors(name, folder):
    @settings(max_examples=30, database=None)
    @given(st.binary(max_size=200))
    def read(content):
        check(TARGETS[name], content, folder)

    read()


#: found by fuzzing: each ended in another error, or in none
FOUND = [
    # room for 32 GiB of limits was made before any was read
    (
        "vnnlib",
        b"(declare-network f (declare-input X float32 [4294967296])(declare-output Y float32 [1]))(assert (<= Y[0] 0))",
    ),
    ("vnnlib", b"(declare-network f (declare-input X float32 [" + b"9" * 5000 + b"]))(assert true)"),
    ("vnnlib", b"(declare-const X_" + b"9" * 5000 + b" Real)"),
    ("vnnlib", b"(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= X_" + b"1" * 5000 + b" 0))"),
    ("vnnlib", b"(" * 10**6),
    ("toml", b"model = " + b"[" * 10**5),
    ("toml", b"x = " + b"9" * 10**5),
    ("toml", b'model = "net.onnx"\n[objective]\nmaximize = "' + b"(" * 9000 + b'"'),
    ("toml", b'model = "net.onnx"\ninput_shape = [2]\n[objective]\nmaximize = "output[9223372036854775808]"'),
    ("toml", b'model = "net.onnx"\n[objective]\nmaximize = "output[' + b"9" * 5000 + b']"'),
    ("toml", b'model = "net.onnx"\n[objective]\nmaximize = "' + b"9" * 400 + b' * output[0]"'),
    ("toml", b'model = "net\\u0000.onnx"\n[objective]\nmaximize = "output[0]"'),
    ("toml", b'model = "net.onnx"\nx0 = "a\\u0000.npy"\n[objective]\nmaximize = "output[0]"'),
    ("toml", b'model = "net.onnx"\nx0 = [' + b"9" * 400 + b', 1]\n[objective]\nminimize = "norm"\np = 2'),
    # an extent's product wraps around in 64 bits
    ("idx", b"\0\0\x08\x04" + b"\0\1\0\0" * 4),
    ("idx", b"\0\0\x08\xff" + b"\0\0\0\1" * 255 + b"\0"),
    ("npz", b"PK\x05\x06" + b"\0" * 18),
    ("npy", b"\x93NUMPY\x01\x00\x76\x00{'descr': '" + b"(" * 90 + b"\n"),
]


@pytest.mark.parametrize("size", [2, 2**31, -(2**40)])
@pytest.mark.parametrize("where", ["read", "unread"])
def test_a_kernel_of_another_size_than_stated_does_not_reach_onnxruntime(folder, size, where):
    """It ended the process there: an assertion of the C++ library."""
    model = MODELS["convolution"]()
    (node,) = [n for n in model.graph.node if n.op_type == "Conv"]
    if where == "unread":
        # a second output that was not asked for, or one that leads nowhere
        node = model.graph.node.add()
        node.CopyFrom(onnx.helper.make_node("Conv", ["p", "w"], ["nowhere"], kernel_shape=[3, 3]))
    (kernel,) = [a for a in node.attribute if a.name == "kernel_shape"]
    kernel.ints[0] = size
    error = survives(TARGETS["onnx"], model.SerializeToString(), folder)
    if where == "unread":
        assert error is None
    else:
        assert isinstance(error, NetworkError) and "kernel_shape" in str(error)


@pytest.mark.parametrize("version", [2**31, 2**62, -1, 0])
@pytest.mark.parametrize("domain", ["", "ai.onnx.ml"])
def test_operator_sets_that_there_are_not(folder, version, domain):
    model = MODELS["residual"]()
    del model.opset_import[:]
    model.opset_import.extend([onnx.helper.make_opsetid("", 17)] if domain else [])
    model.opset_import.append(onnx.helper.make_opsetid(domain, version))
    error = survives(TARGETS["onnx"], model.SerializeToString(), folder)
    assert isinstance(error, NetworkError) and "opset" in str(error).replace("operator set", "opset")


@pytest.mark.parametrize("change", ["no branch", "wrong type", "unknown attribute"])
def test_malformed_nodes_end_in_one_line(folder, change):
    model = MODELS["residual"]()
    node = next(n for n in model.graph.node if n.op_type == ("Concat" if change == "wrong type" else "Mul"))
    if change == "no branch":
        # a branch that a constant condition takes, and that is not there
        node.CopyFrom(onnx.helper.make_node("If", ["size"], list(node.output)))
    elif change == "wrong type":
        node.attribute[0].CopyFrom(onnx.helper.make_attribute("axis", "\x1b[2J"))
    else:
        node.attribute.add(name="strange").type = 77 % 15
    error = survives(TARGETS["onnx"], model.SerializeToString(), folder)
    assert (error is None and change == "unknown attribute") or (
        isinstance(error, NetworkError) and "\n" not in str(error)
    )


def test_padding_makes_no_layer_without_end(folder):
    """A file of 900 bytes made a convolution work for a minute."""
    model = MODELS["convolution"]()
    (pads,) = [t for t in model.graph.initializer if t.name == "pads"]
    sizes = onnx.numpy_helper.to_array(pads).copy()
    sizes[3] = 2**24
    pads.CopyFrom(onnx.numpy_helper.from_array(sizes, "pads"))
    error = survives(TARGETS["onnx"], model.SerializeToString(), folder)
    assert isinstance(error, NetworkError) and "elements for one input" in str(error)


def test_an_external_file_whose_name_is_no_text(folder):
    """Protobuf hands out what is not UTF-8 as bytes, which no path can be made of."""
    model = MODELS["convolution"]()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    tensor.external_data.add(key="location", value="weights??")
    content = model.SerializeToString().replace(b"weights??", b"weights\xff\xfe")
    error = survives(TARGETS["onnx"], content, folder)
    assert isinstance(error, NetworkError) and "UTF-8" in str(error)


@pytest.mark.parametrize("where", ["initializer", "constant"])
def test_the_checker_opens_no_file_that_a_network_names(folder, monkeypatch, where):
    """The library would look for it in the folder that the program runs in."""
    model = onnx.load_from_string(TARGETS["checker-onnx"].seeds()[0])
    tensor = model.graph.initializer[0]
    (folder / "weights").write_bytes(onnx.numpy_helper.to_array(tensor).tobytes())
    monkeypatch.chdir(folder)
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights")
    if where == "constant":
        node = onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
        model.graph.node.insert(0, node)
        del model.graph.initializer[0]
    error = survives(TARGETS["checker-onnx"], model.SerializeToString(), folder)
    assert error is not None and ("external_data" in str(error) or "lie outside of it" in str(error))


@pytest.mark.parametrize(("name", "content"), FOUND, ids=range(len(FOUND)))
def test_what_was_found_stays_mended(name, content, folder):
    check(TARGETS[name], content, folder)


# --- certificates, layer lists, runs and images -----------------------------------------------------------------------


def refused(name, content, folder, text):
    error = survives(TARGETS[name], content, folder)
    assert error is not None and text in str(error) and "\n" not in str(error) and str(error).isprintable()


def changed_header(name, entry, change):
    header, tensors = unpacked(TARGETS[name].seeds()[-1], entry)
    change(header)
    return packed(header, tensors, entry)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda h: h.pop("layers"), "malformed: KeyError"),
        (lambda h: h.update(layers=[]), "empty"),
        (lambda h: h.update(layers=7), "malformed: TypeError"),
        (lambda h: h["layers"][0].update(shape=[-4, -4]), "whole numbers from 1"),
        (lambda h: h["layers"][0].update(shape=[2**40, 2**40]), "too large"),
        (lambda h: h["layers"][0].update(shape=[True, 4.5]), "whole numbers"),
        (lambda h: h["layers"][1].update(stride=[0, 0]), "whole numbers from 1"),
        (lambda h: h["layers"][1].update(stride=[-1, 1]), "whole numbers from 1"),
        (lambda h: h["layers"][1].update(groups=0), "whole numbers from 1"),
        (lambda h: h["layers"][1].update(inputs=[0.5]), "whole numbers from 0"),
        (lambda h: h["layers"][1].update(kind="\x1b[2J\n"), "layer kind"),
    ],
)
def test_malformed_layer_lists_end_in_one_line(folder, change, text):
    refused("layers", changed_header("layers", NETWORK, change), folder, text)


@pytest.mark.parametrize("value", [{"sense": -1}, {"sense": None}, {"labels": 3}, {"labels": None}])
def test_what_a_query_says_to_people_is_checked(folder, value):
    """A distance of the sense -1 was stated as "no input has a distance above", which is false."""
    case = known("distance, p = 2")
    header, tensors = case.proof.certificate
    content = packed({**header, "query": {**header["query"], **value}}, tensors, CERTIFICATE)
    refused("certificate", content, folder, "sense")


def test_a_run_whose_schema_is_no_text_is_refused(folder):
    """SQLite quotes it in its own error, which Python cannot decode then."""
    content = TARGETS["run"].seeds()[0].replace(b"CREATE TABLE study", b"CREATE \xacABLE study")
    refused("run", content, folder, "as a run: ")
    (folder / "results.sqlite").write_bytes(content)
    with pytest.raises(StoreError, match="Cannot use"), Store(folder) as store:
        store.counts()


@pytest.mark.parametrize(
    "script",
    [
        "ALTER TABLE study RENAME TO old; CREATE VIEW study AS WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 "
        "FROM n) SELECT key, value FROM old UNION ALL SELECT k, k FROM n",
        "UPDATE study SET value = '99999999999999999' WHERE key = 'images'",
        "UPDATE results SET image = 4611686018427387904 WHERE image = (SELECT MAX(image) FROM results)",
    ],
)
def test_runs_without_end_are_refused(folder, script):
    with closing(sqlite3.connect(":memory:")) as database:
        database.deserialize(TARGETS["run"].seeds()[0])
        database.executescript(script)
        refused("run", database.serialize(), folder, "results.sqlite")


def test_images_of_other_formats_and_too_many_pixels_are_not_decoded(folder):
    """An EPS file would start a program, a small PNG may hold any number of pixels."""
    refused("image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n", folder, "no image")
    stream = io.BytesIO()
    Image.new("1", (2**14, 2**13)).save(stream, "PNG")
    refused("image", stream.getvalue(), folder, "pixels")
