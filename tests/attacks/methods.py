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
        kind: "budget" takes ``eps`` and stays inside that ball; "nearest" looks for the smallest distance; "parameters"
            has limits of its own.
        shared: whether inputs share what is found, so that none is attacked alone.
        norms: the norms it has a meaning for.
        problems: whether it takes a ``cl.Problem`` too.
        targets: whether it takes ``target=``.
        linear: within which factor of the closed form it comes on linear classifiers ("nearest" only).
        strong: whether it finds something where a ball of twice the closed form's distance is given ("budget" only).
        gradients: whether it asks for gradients, and says so where all of them are zero.
        needs: a package it cannot do without.
        settings: further arguments for tests, so that they stay quick.
        thorough: arguments that take their place where closeness is measured.
    """

    function: Callable[..., AttackResult]
    kind: str
    norms: tuple[float, ...] = ALL_NORMS
    problems: bool = True
    targets: bool = True
    linear: float = 1.01
    strong: bool = True
    gradients: bool = True
    needs: str = ""
    shared: bool = False
    settings: dict = field(default_factory=dict)
    thorough: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.function.__name__


#: of the methods that take every p >= 1
REAL_NORMS = (1.0, 1.5, 2.0, math.inf)

METHODS = [
    Method(cl.attacks.nearest, "nearest", settings={"passes": 120}),
    Method(cl.attacks.activation_descent, "budget", norms=(1.0, 2.0, math.inf), settings={"steps": 60}),
    Method(cl.attacks.apgd, "budget", norms=(1.0, 2.0, math.inf), settings={"steps": 60}),
    Method(cl.attacks.fgsm, "budget", norms=(2.0, math.inf)),
    Method(cl.attacks.frank_wolfe, "budget", settings={"steps": 60}),
    Method(cl.attacks.pgd, "budget", settings={"steps": 60}),
    Method(cl.attacks.worst, "budget", settings={"passes": 500}),
    Method(cl.attacks.linear_model_descent, "budget", norms=REAL_NORMS),
    Method(cl.attacks.linear_model_score, "budget", norms=(3.0, math.inf), problems=False, strong=False),
    Method(cl.attacks.super_deepfool, "nearest", norms=(2.0,), settings={"steps": 4}),
    Method(
        cl.attacks.autoattack,
        "budget",
        norms=(1.0, 2.0, math.inf),
        problems=False,
        targets=False,
        settings={"steps": 20, "queries": 40, "classes": 3},
    ),
    Method(cl.attacks.deepfool, "nearest", norms=REAL_NORMS),
    Method(cl.attacks.fast_grad, "budget", norms=(2.0, math.inf), problems=False, strong=False),
    Method(cl.attacks.linear_model_feasibility, "budget", norms=REAL_NORMS),
    Method(cl.attacks.linear_model_step, "budget", norms=REAL_NORMS, strong=False),
    Method(cl.attacks.linear_model_convex, "budget", norms=(1.5, 2.0, math.inf), strong=False, needs="cvxpy"),
    Method(
        cl.attacks.lbfgs,
        "nearest",
        norms=(2.0,),
        problems=False,
        settings={"steps": 10, "searches": 4, "sharpness": 30.0},
    ),
    Method(cl.attacks.random_signs, "budget", norms=(math.inf,), strong=False, gradients=False),
    Method(cl.attacks.shortest_linear, "nearest", norms=REAL_NORMS, settings={"steps": 10}),
    Method(cl.attacks.bisection, "nearest", settings={"steps": 20, "rounds": 7, "starts": 1}),
    Method(
        cl.attacks.carlini_wagner,
        "nearest",
        norms=(2.0,),
        linear=1.02,
        settings={"steps": 100, "rounds": 4, "first_weight": 0.1},
    ),
    Method(cl.attacks.orthogonal_pgd, "budget", norms=(1.0, 2.0, math.inf), settings={"steps": 60}),
    Method(cl.attacks.penalty, "nearest", norms=(2.0,), settings={"steps": 60, "rounds": 3}),
    Method(cl.attacks.selective_pgd, "budget", norms=(1.0, 2.0, math.inf), settings={"steps": 60}),
    # RMSProp's steps end at a hundredth of the first one: some of the distance is left, for p = 1 a few
    # percent, and how much turns with the last bit of the images
    Method(cl.attacks.alma, "nearest", norms=(1.0, 2.0), linear=1.15, settings={"steps": 60}, thorough={"steps": 600}),
    # the gradient of cross-entropy mixes the classes: 4.5% too far at any number of steps; that of the margin does not
    Method(cl.attacks.ddn, "nearest", norms=(2.0,), linear=1.05, settings={"steps": 60}),
    Method(cl.attacks.fab, "nearest", norms=(1.0, 2.0, math.inf), settings={"steps": 10}),
    Method(cl.attacks.fab_t, "nearest", norms=(1.0, 2.0, math.inf), settings={"steps": 10}),
    Method(cl.attacks.fmn, "nearest", settings={"steps": 60}, thorough={"steps": 200}),
    # Adam moves every element at the same speed and the averaged multiplier swings around its value: published so
    Method(cl.attacks.pdpgd, "nearest", linear=1.25, settings={"steps": 60}, thorough={"steps": 300}),
    # decisions alone: random directions in place of gradients
    Method(
        cl.attacks.hop_skip_jump,
        "nearest",
        norms=(1.0, 2.0, math.inf),
        linear=6.0,
        gradients=False,
        settings={"passes": 400},
        thorough={"passes": 3000},
    ),
    Method(
        cl.attacks.square, "budget", norms=(1.0, 2.0, math.inf), gradients=False, strong=False, settings={"steps": 200}
    ),
    Method(
        cl.attacks.minimal_apgd,
        "nearest",
        norms=(1.0, 2.0, math.inf),
        linear=1.05,
        settings={"steps": 10, "searches": 6},
        thorough={"steps": 50, "searches": 12},
    ),
    Method(
        cl.attacks.transfer,
        "budget",
        norms=(2.0, math.inf),
        problems=False,
        strong=False,
        settings={"nesterov": True, "scales": 2, "neighbours": 2},
    ),
    Method(
        cl.attacks.universal,
        "budget",
        norms=(1.0, 2.0, math.inf),
        problems=False,
        strong=False,
        shared=True,
        settings={"steps": 20},
    ),
    Method(cl.attacks.patch, "parameters", norms=(0.0,), problems=False, settings={"size": 2, "steps": 20}),
    Method(
        cl.attacks.rotation_translation, "parameters", norms=(math.inf,), problems=False, settings={"rotation": 90.0}
    ),
    Method(
        cl.attacks.colour,
        "parameters",
        norms=(math.inf,),
        problems=False,
        settings={"brightness": 0.6, "contrast": 0.9, "grid": 3},
    ),
    Method(cl.attacks.sigma_zero, "nearest", norms=(0.0,), settings={"steps": 60}),
    Method(cl.attacks.vfga, "nearest", norms=(0.0,)),
]
