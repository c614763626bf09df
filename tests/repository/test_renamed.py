"""Names of the version before: each still works, warns, and is what stands in the new place."""

import importlib
import subprocess
import sys

import pytest

from clinch.runtime.renamed import RENAMED

OLD = [
    (module, name, place)
    for module, table in RENAMED.items()
    for old, place in table.items()
    for name in (importlib.import_module(place).__all__ if old == "*" else [old])
]


@pytest.mark.parametrize(("module", "name", "place"), OLD, ids=lambda text: text)
def test_an_old_name_warns_and_works(module, name, place):
    importlib.import_module(module.rpartition(".")[0])
    old = importlib.import_module(module)
    try:
        new = getattr(importlib.import_module(place), name)
    except ImportError as error:
        pytest.skip(str(error))
    with pytest.warns(DeprecationWarning, match=f"is now {place}.{name}"):
        assert getattr(old, name) is new


def test_what_never_was_is_an_attribute_error():
    for module in RENAMED:
        importlib.import_module(module.rpartition(".")[0])
        with pytest.raises(AttributeError, match=module):
            _ = importlib.import_module(module).never_was


def test_an_old_module_is_imported_as_users_wrote_it():
    lines = ("import warnings", "warnings.simplefilter('ignore', DeprecationWarning)",
             "from clinch.domains.monitors import BoxMonitor", "print(BoxMonitor.__module__)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "clinch.applications.monitors.boxes"
