"""AutoAttack: the fixed sequence of attacks that robustness is compared by, made of the parts that are here."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from os import PathLike

import torch
from torch import Tensor

from clinch.attacks.apgd import adaptive_steps
from clinch.attacks.core.arguments import Attacked, attack_method, check_norm, objective_of, radius_of
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.classification import ClassQuery
from clinch.attacks.core.draws import Draws
from clinch.attacks.core.kept import KeptStages
from clinch.attacks.core.restarts import starts
from clinch.attacks.core.result import AttackResult, StageLog
from clinch.attacks.fab import fab_steps
from clinch.attacks.square import square_steps
from clinch.errors import ProblemError, UnsupportedByEngine

#: attacks of each version, in their order
VERSIONS = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
PARTS = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square", "apgd-pm")
#: random starts of APGD and FAB in the version "plus"
RESTARTS = 5
#: clean inputs whose scores are looked at, and how near to one their sum is where they are probabilities
FEW, SUM = 16, 1e-3


@attack_method
def autoattack(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: float | Tensor | None = None,
    norm: float = torch.inf,
    version: str = "standard",
    steps: int = 100,
    queries: int = 5000,
    classes: int = 9,
    attacks: Sequence[str] | None = None,
    keep: str | PathLike[str] | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """APGD on cross-entropy, targeted APGD, targeted FAB and Square in turn, each on what the ones before have left.

    Croce and Hein 2020 (arXiv 2003.01690): ``"standard"`` is these four, ``"plus"`` adds APGD on the difference-of-
    logits ratio and untargeted FAB with 5 restarts each, ``"rand"`` is APGD on both losses for stochastic models, with
    ``eot=20``. Where we differ: our own APGD, FAB and Square, each input's random numbers are its own, and targeted
    runs go at the same time. :func:`worst` finds as much for a fraction of the passes; this one is for comparison.

    Args:
        version: ``"standard"``, ``"plus"`` or ``"rand"``.
        steps: of APGD and FAB; ``queries`` of Square; ``classes`` that targeted attacks aim at, the nearest.
        queries: see there.
        classes: see there.
        attacks: names of parts in the place of a version: those above, ``"apgd-ce"``, ``"apgd-dlr"``, ``"apgd-t"``,
            ``"fab"``, ``"fab-t"`` and ``"square"``, and ``"apgd-pm"``, APGD on the probability margin (Xie et al. 2024,
            arXiv 2411.15210).
        keep: a file, ``.npz``, that is written after each part; a run that finds it goes on after the last one done
            and ends with the same points.

    Returns:
        As of every attack inside a ball; :attr:`AttackResult.log` says what each attack found and cost, and
        :attr:`AttackResult.notes` what casts doubt on the outcome.

    Example:
        >>> found = autoattack(net, x, y, eps=0.1, steps=20, queries=100)
        >>> [(stage.name, stage.found) for stage in found.log][0]
        ('apgd-ce', 5)
    """
    names = _names(version, attacks)
    if min(steps, queries, classes) < 1:
        raise ProblemError(f"steps={steps}, queries={queries} and classes={classes} must be at least 1.")
    objective = objective_of(net, x, y, bounds=bounds, norm=norm)
    if not isinstance(objective.query, ClassQuery):
        raise UnsupportedByEngine("AutoAttack follows losses of class scores, and a problem has none. Use worst.")
    check_norm(objective, "AutoAttack", (1.0, 2.0, torch.inf))
    radius = radius_of(objective, eps)
    best_points = BestPoints(objective, record=history, progress=progress)
    restarts = RESTARTS if version == "plus" and attacks is None else 1
    draws = objective.draws(seed)
    asked = f"{names} {steps} {queries} {classes} {restarts} {objective.norm} {radius.tolist()} {seed}"
    kept = None if keep is None else KeptStages(keep, best_points, asked)
    log = [] if kept is None else list(kept.log)
    parts: dict[str, Callable[[Draws], None]] = {
        "apgd-ce": lambda d: _gradients(best_points, radius, steps, "cross-entropy", 0, restarts, d),
        "apgd-pm": lambda d: _gradients(best_points, radius, steps, "probability margin", 0, restarts, d),
        "apgd-dlr": lambda d: _gradients(best_points, radius, steps, "dlr", 0, restarts, d),
        "apgd-t": lambda d: _gradients(best_points, radius, steps, "dlr", classes, 1, d),
        "fab": lambda d: _nearest(best_points, radius, steps, None, restarts, d),
        "fab-t": lambda d: _nearest(best_points, radius, steps, classes, 1, d),
        "square": lambda d: square_steps(best_points, _left(best_points), radius, queries, d),
    }
    for number, name in enumerate(names):
        if number < len(log):
            continue
        before, spent = int(best_points.success.sum()), objective.forward + objective.backward
        parts[name](draws.at(number))
        passes = objective.forward + objective.backward - spent
        log.append(StageLog(name, int(best_points.success.sum()) - before, int(passes.sum())))
        if kept is not None:
            kept.save(log)
    found = best_points.result(radius)
    return replace(found, log=tuple(log), notes=_doubts(best_points, log, classes))


def _names(version: str, attacks: Sequence[str] | None) -> tuple[str, ...]:
    """The parts, in their order."""
    if version not in VERSIONS:
        raise ProblemError(f"version={version!r:.60} is not known. Write one of: {', '.join(VERSIONS)}.")
    names = VERSIONS[version] if attacks is None else tuple(attacks)
    if not names or not set(names) <= set(PARTS) or len(set(names)) < len(names):
        raise ProblemError(f"attacks={list(names)!r:.80} are no parts, each once. Write some of: {', '.join(PARTS)}.")
    return names


def _left(best_points: BestPoints) -> Tensor:
    """The inputs whose goal is not reached yet."""
    todo = best_points.objective.todo
    return todo[~best_points.success[todo]]


def _gradients(
    best_points: BestPoints, radius: Tensor, steps: int, loss: str, targets: int, restarts: int, draws: Draws
) -> None:
    """APGD from random points."""
    begin = starts(best_points, radius, targets=targets, restarts=restarts, noisy=True, draws=draws)
    if len(begin.indices):
        adaptive_steps(best_points, begin, radius, steps, loss)


def _nearest(
    best_points: BestPoints, radius: Tensor, steps: int, classes: int | None, restarts: int, draws: Draws
) -> None:
    """FAB, whose points count where they lie inside the ball."""
    rest = copy.copy(best_points.objective)  # counts its passes in the same place
    rest.todo = _left(best_points)
    own = BestPoints(rest)
    fab_steps(own, draws, steps=steps, restarts=restarts, classes=classes)
    best_points.note_gradients_of(own)
    near = rest.todo[own.distance[rest.todo] <= radius[rest.todo]]
    if len(near):
        best_points.update(own.x[near], near, own.margin[near], own.distance[near])
    best_points.step()


def _doubts(best_points: BestPoints, log: list[StageLog], classes: int) -> tuple[str, ...]:
    """What AutoAttack warns of."""
    notes, last = [], {stage.name: stage.found for stage in log}
    objective, query = best_points.objective, best_points.objective.query
    assert isinstance(query, ClassQuery)
    if objective.width <= classes and "apgd-t" in last:
        notes.append(f"There are fewer than {classes} other classes: targeted attacks aim at all of them.")
    if _sums_to_one(query):
        notes.append(
            "The network's outputs are probabilities: gradients vanish behind a softmax. Return what goes into it."
        )
    blind = len(best_points.blind)
    if blind:
        notes.append(f"The gradient of {blind} inputs was zero throughout: only what needs none says something there.")
    if query.steps:
        notes.append("The network has step functions, which gradients pass straight through. Try backward= too.")
    if query.model.average is not None and not {"apgd-ce", "apgd-dlr"}.issuperset(last):
        notes.append('The network answers differently each time: version="rand" is meant for it.')
    if last.get("square"):
        notes.append(
            f"Square found {last['square']} inputs that gradients had missed: they may be masked. Try backward=."
        )
    return tuple(notes)


def _sums_to_one(query: ClassQuery) -> bool:
    """Whether scores of the clean inputs are probabilities."""
    with torch.no_grad():
        scores = query.model(query.objective.center[:FEW]).double()
    return len(scores) > 0 and bool((scores >= 0).all()) and bool(((scores.sum(1) - 1).abs() < SUM).all())
