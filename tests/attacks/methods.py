"""Every public attack in one table: what :mod:`test_conformance` asks of each of them.

A new attack is one file and one row here; a test fails where the row is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import clinch as cl
from clinch.attacks import AttackResult

ALL_NORMS = (0.0, 1.0, 2.0, math.inf)


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        function: the attack.
        kind: "budget" takes ``eps`` and stays inside that ball; "nearest" looks for the smallest distance.
        norms: the norms it has a meaning for.
        problems: whether it takes a ``cl.Problem`` too.
        targets: whether it takes ``target=``.
        linear: within which factor of the closed form it comes on linear classifiers ("nearest" only).
        strong: whether it finds something where a ball of twice the closed form's distance is given ("budget" only).
        settings: further arguments for tests, so that they stay quick.
    """

    function: Callable[..., AttackResult]
    kind: str
    norms: tuple[float, ...] = ALL_NORMS
    problems: bool = True
    targets: bool = True
    linear: float = 1.01
    strong: bool = True
    settings: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.function.__name__


METHODS = [
    Method(cl.attacks.apgd, "budget", norms=(1.0, 2.0, math.inf), settings={"steps": 60}),
    Method(cl.attacks.fgsm, "budget", norms=(2.0, math.inf)),
    Method(cl.attacks.frank_wolfe, "budget", settings={"steps": 60}),
    Method(cl.attacks.pgd, "budget", settings={"steps": 60}),
    Method(cl.attacks.worst, "budget", settings={"passes": 500}),
]
