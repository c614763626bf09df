"""Names of the version before that still work, with a warning, until the next release.

The table names the new place as text: nothing is imported before an old name is used.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

#: old names, module by module, and where each of them is now; "*" stands for all others
RENAMED: dict[str, dict[str, str]] = {
    "clinch.constraints": dict.fromkeys(("EQUALITY_TOLERANCE", "MARGIN"), "clinch"),
    "clinch.expressions": dict.fromkeys(("Activation", "LinearExpression"), "clinch.modeling.expressions"),
    "clinch.functions": dict.fromkeys(("inf", "norm"), "clinch"),
    "clinch.problem": dict.fromkeys(("Maximize", "Minimize", "Problem"), "clinch"),
    "clinch.certificates.runs": {"certify_run": "clinch.study"},
    "clinch.data": dict.fromkeys(("DataError", "Images", "mnist", "model_file"), "clinch.io.data"),
    "clinch.domains": {},
    "clinch.domains.latent": {"*": "clinch.applications.latent"},
    "clinch.domains.monitors": {"*": "clinch.applications.monitors"},
    "clinch.domains.policies": {"*": "clinch.applications.policies"},
    "clinch.domains.regression": {"*": "clinch.applications.regression"},
    "clinch.domains.segmentation": {"*": "clinch.applications.segmentation"},
    "clinch.solution": dict.fromkeys(("Event", "Proof", "Solution", "Status"), "clinch.solver.solution"),
    "clinch.study": dict.fromkeys(("Claim", "Reproduction", "Table", "reproduce"), "clinch.papers"),
    "clinch.study.figures": {
        "change_figure": "clinch.applications.regression",
        "coverage_figure": "clinch.applications.monitors",
        "learning_figure": "clinch.applications.policies",
        "policy_attack_figure": "clinch.applications.policies",
        "restored_figure": "clinch.applications.latent",
        "segmentation_figure": "clinch.applications.segmentation",
        **dict.fromkeys(
            ("Curve", "Group", "Panel", "comparison_figure", "curves_figure", "draw_comparison"), "clinch.papers"
        ),
        **dict.fromkeys(
            ("Watched", "draw_history", "draw_inputs", "draw_watched", "save", "solution_figure", "style", "summary"),
            "clinch.figures",
        ),
    },
    "clinch.testing.published": {"*": "clinch.papers"},
}


def attributes(module: str) -> Callable[[str], Any]:
    """A module's ``__getattr__``: finds its old names where they are now.

    Args:
        module: the module's name, a key of :data:`RENAMED`.
    """

    def __getattr__(name: str) -> Any:
        table = RENAMED[module]
        place = table.get(name, None if name.startswith("_") else table.get("*"))
        found = importlib.import_module(place) if place else None
        if not hasattr(found, name):
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        warnings.warn(f"{module}.{name} is now {place}.{name}.", DeprecationWarning, stacklevel=2)
        return getattr(found, name)

    return __getattr__


def install() -> None:
    """Let old modules that have gone be imported: each finds its names where they are now."""
    package = Path(__file__).parents[1]
    for name in RENAMED:
        place = package.joinpath(*name.split(".")[1:])
        if place.exists() or place.with_suffix(".py").exists():
            continue
        module = ModuleType(
            name, "The old place of names that are elsewhere now: see :data:`clinch.runtime.renamed.RENAMED`."
        )
        module.__path__ = []  # it may have submodules
        module.__spec__ = ModuleSpec(name, None)
        module.__getattr__ = attributes(name)  # type: ignore[method-assign]
        sys.modules[name] = module
        parent, _, last = name.rpartition(".")
        if parent in sys.modules:
            setattr(sys.modules[parent], last, module)


class _Alias(ModuleType):
    """A module under a second name that stays; it is read when one of its names is wanted."""

    def __init__(self, name: str, place: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self._place = place

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # what tools ask every module for
            raise AttributeError(name)
        module = importlib.import_module(self._place)
        sys.modules[self.__name__] = module
        return getattr(module, name)


def alias(name: str, place: str) -> None:
    """Let a module be imported by a second name that users write, such as ``import clinch.exact``.

    Args:
        name: the second name.
        place: where it is.
    """
    sys.modules[name] = _Alias(name, place)
