"""Find the input of a neural network that best meets what you ask for; prove how much better any other could be.

Example:
    >>> import clinch as cl
    >>> net = cl.load(model, input_shape=(8, 8))
    >>> x, z = net.input, net.output
    >>> problem = cl.Problem(cl.Minimize(cl.norm(x - x0, 2)), [x >= 0, x <= 1, z.argmax() != 4])
    >>> solution = problem.solve(time_limit=60)
    >>> solution.status.name, bool(solution.bound <= solution.value)
    ('OPTIMAL', True)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from clinch.errors import ClinchError
from clinch.modeling.constraints import EQUALITY_TOLERANCE, MARGIN
from clinch.modeling.functions import abs, max, min, quad_form, square, stack, sum_squares
from clinch.modeling.functions import joined as concatenate
from clinch.modeling.model import SymbolicNetwork
from clinch.modeling.norms import inf, norm
from clinch.modeling.problem import Maximize, Minimize, Problem
from clinch.modeling.variables import Variable
from clinch.network.network import Network
from clinch.runtime import renamed
from clinch.runtime.version import VERSION
from clinch.solver.solution import Proof, Solution, Status

if TYPE_CHECKING:
    from clinch import applications, attacks, bounds, figures, papers, study, testing, vnnlib
    from clinch.demo.zoo import zoo
    from clinch.modeling.model import load
    from clinch.network.support import supports
    from clinch.runtime.citing import cite
    from clinch.search import entry_points as exact
    from clinch.solver import settings
    from clinch.study.sources import images
    from clinch.vnnlib.verification import verify

__version__ = VERSION

__all__ = [
    "EQUALITY_TOLERANCE",
    "MARGIN",
    "ClinchError",
    "Maximize",
    "Minimize",
    "Network",
    "Problem",
    "Proof",
    "Solution",
    "Status",
    "SymbolicNetwork",
    "Variable",
    "abs",
    "applications",
    "attacks",
    "bounds",
    "cite",
    "concatenate",
    "exact",
    "figures",
    "images",
    "inf",
    "load",
    "max",
    "min",
    "norm",
    "papers",
    "quad_form",
    "settings",
    "square",
    "stack",
    "study",
    "sum_squares",
    "supports",
    "testing",
    "verify",
    "vnnlib",
    "zoo",
]

_ROOMS = ("applications", "attacks", "bounds", "figures", "papers", "study", "testing", "vnnlib")

#: modules that users know by another name than that of their place
_ALIASES = {"exact": "clinch.search.entry_points", "settings": "clinch.solver.settings"}

#: read when first used, so that ``import clinch`` stays quick
_FUNCTIONS = {
    "cite": "clinch.runtime.citing",
    "images": "clinch.study.sources",
    "load": "clinch.modeling.model",
    "supports": "clinch.network.support",
    "verify": "clinch.vnnlib.verification",
    "zoo": "clinch.demo.zoo",
}
_LATE = {
    **_FUNCTIONS,
    **{name: f"clinch.{name}" for name in _ROOMS},
    **_ALIASES,
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'clinch' has no attribute '{name}'")
    module = importlib.import_module(_LATE[name])
    found = getattr(module, name) if name in _FUNCTIONS else module
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


renamed.install()
for _name, _place in _ALIASES.items():
    renamed.alias(f"clinch.{_name}", _place)
