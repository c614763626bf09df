"""Modules beside the tests are imported by their plain names."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


#: laws that are tried with every method, and the methods that take most of their time: those rows are slow tests
LAWS = ("test_conformance", "test_units", "test_scale", "test_alone", "test_modes")
COSTLY = ("lbfgs", "carlini_wagner", "linear_model_convex", "activation_descent", "bisection", "decomposition")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark the costly rows of the laws."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec and item.path.stem in LAWS and any(name in callspec.id for name in COSTLY):
            item.add_marker(pytest.mark.slow)
