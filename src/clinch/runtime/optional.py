"""Packages that only some of the work needs: how they are imported, and what to install where one is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from clinch.errors import ClinchError, MissingPackage

#: the name under which the project is installed; it is imported as ``clinch``
DISTRIBUTION = "clinch-nn"


def install_line(extra: str) -> str:
    """What to type to install the packages of an extra.

    Example:
        >>> install_line("onnx")
        'pip install "clinch-nn[onnx]"'
    """
    return f'pip install "{DISTRIBUTION}[{extra}]"'


def required(module: str, extra: str, instead: str = "", error: type[ClinchError] = MissingPackage) -> ModuleType:
    """An optional package, imported when it is needed.

    Args:
        module: what to import, such as ``"gymnasium"``.
        extra: of :data:`DISTRIBUTION`, the one that installs it.
        instead: what else would work, as the end of a sentence: ``"or write a .csv"``.
        error: what to raise.

    Raises:
        MissingPackage: it is not installed.

    Example:
        >>> required("math", "onnx").pi
        3.141592653589793
    """
    try:
        return importlib.import_module(module)
    except ImportError as reason:
        # what is missing may be a package that the named one needs
        package = (getattr(reason, "name", None) or module).split(".")[0].replace("_", "-")
        other = f", {instead}" if instead else ""
        raise error(f"{package} is not installed. Run: {install_line(extra)}{other}.") from reason
