"""Spoilt files end in a typed error of one line, within limits of time and memory, or are read.

``python tests/fuzz/run.py`` does the same for as long as one likes, and with coverage to guide it.
"""

from __future__ import annotations

import gzip
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import MODELS
from targets import mutated, survives, targets

from clinch.errors import UnsupportedOperator

TARGETS = targets()
#: processor seconds of one file, far above what any takes
SLOW = 20.0


def check(target, content, folder):
    began = time.process_time()
    error = survives(target, content, folder)
    assert time.process_time() - began < SLOW
    if error is not None:
        text = str(error)
        assert text and len(text) < 5000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("spoilt")


@pytest.mark.parametrize("name", TARGETS)
def test_the_valid_files_are_read(name, folder):
    for seed in TARGETS[name].seeds:
        assert survives(TARGETS[name], seed, folder) is None
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


def test_a_kernel_of_another_size_than_stated_does_not_reach_onnxruntime(folder):
    """It ended the process there: an assertion of the C++ library."""
    model = MODELS["convolution"]()
    (kernel,) = [a for n in model.graph.node if n.op_type == "Conv" for a in n.attribute if a.name == "kernel_shape"]
    kernel.ints[0] = 2**31
    error = survives(TARGETS["onnx"], model.SerializeToString(), folder)
    assert isinstance(error, UnsupportedOperator) and "kernel_shape" in str(error)


@pytest.mark.parametrize(("name", "content"), FOUND, ids=range(len(FOUND)))
def test_what_was_found_stays_mended(name, content, folder):
    check(TARGETS[name], content, folder)
