"""From the arguments that all attacks share to an objective, with every check made before a gradient is spent."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from clinch.attacks.core.attack_query import AttackQuery
from clinch.attacks.core.averages import Averaged
from clinch.attacks.core.classification import ClassQuery, check_p
from clinch.attacks.core.limits import NO_LIMITS, InputLimits, Limited
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.problem_query import ProblemQuery
from clinch.attacks.core.result import HasQuery, query_of
from clinch.attacks.core.step_functions import Replaced
from clinch.errors import ProblemError, ShapeError, UnsupportedByEngine
from clinch.geometry.norms import norm_of
from clinch.network.network import Network
from clinch.query import Distance, Query
from clinch.runtime.arguments import as_whole, checked_radii
from clinch.runtime.gradients import with_gradients

#: what attacks take first
Attacked: TypeAlias = nn.Module | Network | HasQuery | Query | AttackQuery | AttackObjective | Limited

P = ParamSpec("P")
R = TypeVar("R")

#: what arguments mean for every attack that has them and says nothing else
COMMON = {
    "net": """a classifier, ``nn.Module`` or what ``cl.load`` returned; or, where that has a meaning, a problem or what
        an application asks, then without x and y.""",
    "x": "``(B, *input_shape)`` clean inputs.",
    "y": "``(B,)`` labels.",
    "eps": "the radius of the ball to attack in, one or ``(B,)``; None: that of the problem's own ball.",
    "norm": "0, any number from 1 on, or ``cl.inf``; a problem whose objective is a distance has its own.",
    "target": "one class or ``(B,)``; None: any class but the label.",
    "bounds": """the range of inputs, two numbers or tensors that broadcast to x; None: no limits. A problem states its
        own.""",
    "loss": '``"margin"`` or a key of :data:`clinch.attacks.LOSSES`; None: cross-entropy, for a problem the margin.',
    "outputs": 'what f is, ``"logits"`` or ``"probabilities"``.',
    "settings": "the numbers that the method was tuned with: an object, or its fields by name; results record them.",
    "seed": "of everything random; an attack that draws nothing takes it for the sake of uniformity.",
    "history": "whether to keep the course of the attack.",
    "progress": "called after each step with the numbers of steps done and planned.",
    "backward": """of a classifier: takes the same inputs, returns outputs of the same shape; their gradients stand for
        the network's (BPDA, Athalye et al. 2018, arXiv 1802.00420). Without it rounding, signs, comparisons and argmax
        inside a network are passed straight through where the true gradient is zero.""",
    "eot": """of a stochastic classifier: so many runs are averaged in each pass, and success is a rate, see
        :attr:`AttackResult.rate`.""",
    "mask": "of a classifier: where elements may change, booleans that broadcast to x; others are immutable.",
    "reach": """of a classifier: how far each element may move, a number or a tensor that broadcasts to x: an eps of
        each feature, and with p = 0 what bounds the changes that are counted.""",
    "grid": """of a classifier: elements take values ``x + k·grid`` with whole k only, a number or a tensor that
        broadcasts to x, 0 for any value: ``1/255`` for images of 8 bits, 1 for whole numbers.""",
    "pixels": "of a classifier of images: whether p = 0 counts a pixel once, over its channels.",
}
#: arguments of every attack that only what is attacked depends on: the model, and its inputs
OF_MODELS = ("backward", "eot")
OF_INPUTS = ("mask", "reach", "grid", "pixels")
#: whole numbers, by whatever type they are written
COUNTED = {"steps", "passes", "restarts"}
RESULT = """
Returns:
    Points inside the ball, or the nearest ones found; see :class:`AttackResult`."""
ERRORS = """
Raises:
    ClinchError: an argument that does not fit, in one line, before any gradient is spent.
"""


def attack_method(function: Callable[P, R]) -> Callable[P, R]:
    """An attack: it has gradients whatever mode the caller's code is in, takes the arguments :data:`OF_MODELS` and
    :data:`OF_INPUTS` besides its own, and its docstring says of every argument what it means, those of :data:`COMMON`
    too."""
    signature = inspect.signature(function)
    own = tuple(n for n in (*OF_MODELS, *OF_INPUTS) if n not in signature.parameters)
    optional = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None) for n in own]
    signature = signature.replace(parameters=[*signature.parameters.values(), *optional])
    # where None has a meaning it is left to the attack
    counted = {n for n in COUNTED & signature.parameters.keys() if signature.parameters[n].default is not None}
    function.__doc__ = _completed(inspect.getdoc(function) or "", list(signature.parameters))

    @functools.wraps(function)
    def attack(*args: P.args, **kwargs: P.kwargs) -> R:
        given = {name: kwargs.pop(name, None) for name in own}
        for name in counted & kwargs.keys():
            kwargs[name] = as_whole(kwargs[name], name)
        if "seed" in kwargs:
            kwargs["seed"] = as_whole(0 if kwargs["seed"] is None else kwargs["seed"], "seed")
        if any(value is not None for value in given.values()):
            net, rest = (kwargs.pop("net"), args) if "net" in kwargs else (args[0], args[1:])
            return function(_modified(net, **given), *rest, **kwargs)  # type: ignore[call-arg]
        return function(*args, **kwargs)

    attack.__signature__ = signature  # type: ignore[attr-defined]
    return with_gradients(attack)


def _modified(
    net: object, backward: Callable[[Tensor], Tensor] | None = None, eot: int | None = None, **limits: object
) -> object:
    """A classifier with a gradient of its own, or with its runs averaged, or with limits of its inputs."""
    if any(value is not None for value in limits.values()):
        if not isinstance(net, nn.Module | Network):
            given = ", ".join(f"{name}=" for name, value in limits.items() if value is not None)
            raise ProblemError(
                f"{given} is for classifiers with inputs and labels. A problem states its own conditions."
            )
        return Limited(_modified(net, backward, eot), InputLimits(**limits))  # type: ignore[arg-type]
    if backward is None and eot is None:
        return net
    if not isinstance(net, nn.Module):
        raise ProblemError("backward= and eot= are for classifiers that are modules. Pass the nn.Module itself.")
    model = net if backward is None else Replaced(net, backward)
    model = model if eot is None else Averaged(model, eot)
    model.training = net.training  # a new module is in training mode
    return model


def _completed(doc: str, names: list[str]) -> str:
    text, _, rest = doc.partition("\nArgs:\n")
    stated, _, rest = rest.partition("\n\n") if rest else ("", "", "")
    if not stated:
        text, found, rest = text.partition("\nExample:")
        rest = found.strip("\n") + rest
    own: dict[str, str] = {}
    for line in stated.splitlines():
        name = line.strip().partition(":")[0]
        if not line.startswith("     ") and name in names:
            own[name] = line
        elif own:
            own[list(own)[-1]] += f"\n{line}"
    lines = [own.get(name, f"    {name}: {COMMON.get(name, '')}".rstrip()) for name in names]
    ends = [end for end in (RESULT, ERRORS) if end.split()[0] not in rest]
    return "\n".join([text, "Args:", *lines, *ends, rest]).rstrip()


def objective_of(
    net: Attacked, x: Tensor | None = None, y: Tensor | None = None, *, target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0), norm: float = torch.inf, outputs: str = "logits",
    any_p: bool = False, scaled: bool = True,
) -> AttackObjective:  # fmt: skip
    """The objective of an attack: classifier, inputs and labels, or a problem alone. An objective is returned as it is.

    Args:
        net: with ``x``, ``y``, ``target``, ``bounds`` and ``norm`` as :data:`COMMON` says.
        outputs: ``"logits"`` or ``"probabilities"``.
        any_p: whether the attack takes every p >= 1, but not 0.
        scaled: whether the attack works in the units of :mod:`clinch.attacks.core.units`; otherwise in the user's.

    Raises:
        ProblemError: labels without inputs, or inputs for a problem; and what :class:`ClassQuery` and
            :class:`ProblemQuery` raise.
    """
    norm, limits = norm_of(norm).p, NO_LIMITS
    if isinstance(net, Limited):
        net, limits = net.net, net.limits
    stated, inputs = isinstance(net, AttackQuery | AttackObjective), not (x is None and y is None and target is None)
    if not stated and (isinstance(net, nn.Module | Network) or not (isinstance(net, Query) or hasattr(net, "query"))):
        if x is None or y is None:
            raise ProblemError("A classifier is attacked at inputs x with labels y. Pass both, or a cl.Problem alone.")
        query = ClassQuery(
            net, x, y, target=target, bounds=bounds, p=norm, outputs=outputs, any_p=any_p, limits=limits  # type: ignore[arg-type]
        )  # fmt: skip
        return AttackObjective(query, scaled=scaled)
    if inputs:
        what = "A goal" if stated else "A problem"
        raise ProblemError(f"{what} states its own inputs and conditions. Leave out x, y and target.")
    if isinstance(net, AttackQuery | AttackObjective):
        objective = AttackObjective(net) if isinstance(net, AttackQuery) else net
        if norm not in (torch.inf, objective.p):
            raise ProblemError(
                f"norm={norm:g}, but the goal measures distances with norm={objective.p:g}. Leave norm out."
            )
        return objective
    objective = AttackObjective(ProblemQuery(query_of(net), norm), scaled=scaled)  # type: ignore[arg-type]
    check_p(objective.p, any_p)
    return objective


def nearest_objective_of(
    net: Attacked, x: Tensor | None = None, y: Tensor | None = None, *, target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0), norm: float = torch.inf,
) -> AttackObjective:  # fmt: skip
    """:func:`objective_of` for attacks that look for the smallest distance.

    Raises:
        UnsupportedByEngine: a problem with another objective than a distance, or a goal that is a matter of degree; and
            what :func:`objective_of` raises.
    """
    objective = objective_of(net, x, y, target=target, bounds=bounds, norm=norm)
    _check_enough(objective)
    query = objective.query
    if isinstance(query, ProblemQuery) and not isinstance(query.stated.objective, Distance):
        raise UnsupportedByEngine(
            "This attack looks for the smallest distance, and the problem's objective is none. Use "
            "clinch.attacks.minimise instead."
        )
    return objective


def lowering_objective(problem: HasQuery | Query) -> AttackObjective:
    """The objective of attacks that lower a problem's own: points that satisfy every clause, the smaller the better."""
    return AttackObjective(ProblemQuery(query_of(problem), needed=False, lowers=True))


def check_norm(
    objective: AttackObjective, method: str, norms: tuple[float, ...] | None = None, *, counts: bool = False
) -> AttackObjective:
    """The objective itself, where a method that looks for the smallest distance can measure distances to it.

    Args:
        objective: the objective.
        method: its name.
        norms: what it has a meaning for; None: every p from 1 on.
        counts: whether p = 0 is taken too, where norms is None.

    Raises:
        UnsupportedByEngine: another norm than the method has a meaning for, or weights, or a goal that is a matter of
            degree.
    """
    _check_enough(objective)
    taken = objective.p in norms if norms is not None else counts or not objective.norm.counts
    if not taken:
        known = "a number from 1 on" if norms is None else " or ".join(norm_of(p).written for p in norms)
        raise UnsupportedByEngine(
            f"{method} has no meaning for norm={objective.p:g}. Use norm={known}, or another attack."
        )
    if objective.weights is not None:
        raise UnsupportedByEngine(f"{method} measures distances without weights. Use solve() for them.")
    return objective


def _check_enough(objective: AttackObjective) -> None:
    if objective.query.graded:
        raise UnsupportedByEngine(
            "This attack looks for the smallest distance, and the goal is as much as possible within a ball. State how "
            "much is enough, such as share=0.5 of the pixels."
        )


def radius_of(objective: AttackObjective, eps: float | Tensor | None) -> Tensor:
    """Radii ``(B,)`` in float64.

    Raises:
        ProblemError: not positive and finite, or missing.
        ShapeError: neither one number nor one for each input.
    """
    if eps is None:
        balls = objective.region.balls
        if len(balls) != 1 or balls[0].norm is not objective.norm:
            raise ProblemError("eps is missing. Give the radius of the ball to attack in, such as eps=0.1.")
        return balls[0].radius.double()
    radius = checked_radii(eps, objective.size).to(objective.x.device)
    check_reaches(float(radius.max()), objective)
    if not objective.norm.is_box:  # whose limits lie on the grid
        objective.units = objective.units.inside()
    return objective.shortened(radius).clone()


def check_reaches(eps: float, objective: AttackObjective) -> None:
    """Ask back where a radius is larger than the whole range of the inputs, as 8 is for pixels in [0, 1].

    Raises:
        ProblemError: it is; only the maximum norm tells, whose radii have the units of the inputs.
    """
    if not objective.norm.is_box or objective.weights is not None or isinstance(objective.query, ProblemQuery):
        return
    units = objective.units
    widest = float((units.upper.double() - units.lower.double()).max())  # in the user's, as eps is
    if eps > widest * (1 + 1e-9):
        byte = f" For inputs that were bytes write eps={eps:g}/255." if 1 < eps <= 255 and widest == 1 else ""
        raise ProblemError(
            f"eps={eps:g} is larger than the whole range of the inputs, {widest:g}: eps is in their units.{byte} Where "
            "the inputs have another range pass it as bounds=(lowest, highest)."
        )


def steps_of(objective: AttackObjective, step_size: float | Tensor, radius: Tensor) -> Tensor:
    """Step sizes that a user states, one or ``(B,)``, like radii ``(B,)`` of :func:`radius_of`.

    Raises:
        ProblemError: not positive and finite, or neither one number nor one for each input.
    """
    size = torch.as_tensor(step_size).to(radius)
    if size.dim() > 1 or (size.dim() and len(size) not in (1, len(radius))):
        raise ShapeError(f"step_size has shape {tuple(size.shape)}; expected one number or ({objective.size},).")
    if not bool((size > 0).all() and size.isfinite().all()):
        raise ProblemError(f"step_size={step_size} must be positive and finite.")
    return objective.shortened(size.expand(len(radius)), steps=True)
