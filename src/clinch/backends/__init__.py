"""Solver libraries behind one interface: a program goes in, hints come out.

A backend is a module of this folder with ``solve(program, *, time_limit, gap, start, threads, seed)``. It may also
offer ``load(program)``, a model that is solved many times with changed limits. Any object with ``solve`` will do.
"""

from __future__ import annotations

import importlib
from typing import Any

from clinch.errors import BackendError

#: what ``backend=`` can name
BACKENDS = ("highs", "scip", "gurobi")


def find_backend(backend: Any) -> Any:
    """A backend by name; an object with a ``solve`` method is its own backend.

    Raises:
        BackendError: no such backend.
    """
    if not isinstance(backend, str):
        return backend
    if backend not in BACKENDS:
        raise BackendError(f"There is no backend '{backend}'. Choose one of: {', '.join(BACKENDS)}.")
    return importlib.import_module(f"clinch.backends.{backend}")
