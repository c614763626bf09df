"""What of the extra ``clinch[rl]`` is missing, said in one line."""

from __future__ import annotations

import importlib
from types import ModuleType

from clinch.errors import BackendError


def required(name: str) -> ModuleType:
    """An optional package, imported when it is needed.

    Args:
        name: of the package, such as ``"gymnasium"``.

    Raises:
        BackendError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as reason:
        package = name.split(".")[0].replace("_", "-")
        raise BackendError(f'{package} is not installed. Run: pip install "clinch[rl]"') from reason
