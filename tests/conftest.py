"""What holds for every test: fixed examples, no network, and data only where a test says that it needs some.

Hypothesis draws the same examples on every run, so that a red suite means a changed project.
``HYPOTHESIS_PROFILE=explore make test`` draws new ones each time; whatever it finds belongs into the tests.
"""

import importlib.util
import os
import tempfile
import zlib
from pathlib import Path

import pytest
from hypothesis import settings

from clinch.io.data import VARIABLE, data_folder

settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=50)
settings.register_profile("explore", derandomize=False, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

# --- no network ------------------------------------------------------------------------------------------------------

OFFLINE = Path(__file__).with_name("offline")
_SPEC = importlib.util.spec_from_file_location("offline_sitecustomize", OFFLINE / "sitecustomize.py")
offline = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(offline)

_paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
if str(OFFLINE) not in _paths:
    os.environ["PYTHONPATH"] = os.pathsep.join([str(OFFLINE), *_paths])
# a file for each process of the suite, so that an attempt is the running test's
_handle, _name = tempfile.mkstemp(prefix="clinch-tests-network-")
os.close(_handle)
ATTEMPTS = Path(_name)
os.environ[offline.LOG] = str(ATTEMPTS)

# Ray reports to its makers
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


@pytest.fixture(autouse=True)
def _no_network():
    """A test that tried to reach another machine fails, whatever became of the error."""
    yield
    if ATTEMPTS.stat().st_size:
        tried = ATTEMPTS.read_text().splitlines()
        ATTEMPTS.write_text("")
        pytest.fail(f"a test tried {tried[0]} ({len(tried)} attempts). Give it data of its own, or mark it: data")


def pytest_unconfigure():
    ATTEMPTS.unlink(missing_ok=True)


# --- data ------------------------------------------------------------------------------------------------------------

#: named, so that nothing is fetched where it is missing; and what tests see that are not marked ``data``
DATA, NO_DATA = str(data_folder()), os.path.join(os.devnull, "no-data")
os.environ[VARIABLE] = DATA


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Data is there for tests marked ``data`` alone: the others are the same on every machine."""
    os.environ[VARIABLE] = DATA if item.get_closest_marker("data") else NO_DATA


# --- tables ----------------------------------------------------------------------------------------------------------


def _entry(name, value, item):
    """One entry of one axis of a table, the same in every process."""
    text = getattr(value, "name", None) or getattr(value, "__name__", None) or repr(value)
    # what has no name of its own makes its row stand for itself
    return name, item.callspec.id if " at 0x" in text else text


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a test marked ``table`` the quick suite runs rows that hold every entry of every axis; the others are slow.

    Rows are taken in the order of a hash, so that entries meet by chance and no axis stays at its first entry.
    """
    seen = {}
    tables = [item for item in items if item.get_closest_marker("table") and hasattr(item, "callspec")]
    for item in sorted(tables, key=lambda item: (zlib.crc32(item.nodeid.encode()), item.nodeid)):
        entries = {_entry(name, value, item) for name, value in item.callspec.params.items()}
        known = seen.setdefault((item.path, item.originalname), set())
        if entries <= known:
            item.add_marker(pytest.mark.slow)
        known |= entries
