"""Ready-made statements for fields of use: monitors, regression, segmentation, decoders, policies."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

#: the fields, each a package of its own that is imported when it is first used
FIELDS = tuple(sorted(found.name for found in pkgutil.iter_modules(__path__)))


def __getattr__(name: str) -> ModuleType:
    if name not in FIELDS:
        raise AttributeError(f"module 'clinch.applications' has no attribute '{name}'; it has {', '.join(FIELDS)}")
    return importlib.import_module(f"clinch.applications.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *FIELDS})
