"""Each exact engine by itself, for people who know which one they want: what users write as ``cl.exact``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch

from clinch.errors import ProblemError
from clinch.runtime.arguments import as_gap, as_seconds
from clinch.runtime.deadline import OutOfTime
from clinch.runtime.devices import usable_device
from clinch.search.engines import ENGINES
from clinch.solver.conclusion import conclude
from clinch.solver.ledger import Ledger
from clinch.solver.settings import BranchAndBound, Count, GeneralSplit, InputSplit, Milp, Settings
from clinch.solver.solution import Event, Solution

if TYPE_CHECKING:
    from clinch.query import Statement

__all__ = ["branch_and_bound", "fewest_changes", "general_split", "input_split", "milp"]


def milp(
    problem: Statement,
    *,
    backend: Any = "highs",
    time_limit: float | None = 60.0,
    gap: float = 1e-6,
    progress: Callable[[Event], None] | None = None,
) -> Solution:
    """Solve a problem through its mixed-integer encoding alone (Tjeng et al. 2019, arXiv 1711.07356).

    Where the paper reports the solver's status, this replays every point and proves every bound again from multipliers.

    Args:
        problem: one problem or a batch.
        backend: name of a solver library, or an object with ``solve(program, *, time_limit, gap, start)``.
        time_limit: seconds; None: no limit.
        gap: relative gap at which to stop.
        progress: called at every improvement.

    Raises:
        UnboundedInputError, UnsupportedByEngine, UnsupportedOperator, BackendError: as the engine's.

    Example:
        >>> cl.exact.milp(few, backend="highs").bound
        0.1977
    """
    return _solved(problem, "milp", Milp(backend=backend), time_limit, gap, progress, "cpu")


def branch_and_bound(
    problem: Statement,
    *,
    batch: int = 256,
    time_limit: float | None = 60.0,
    gap: float = 1e-4,
    progress: Callable[[Event], None] | None = None,
    device: torch.device | str | None = None,
) -> Solution:
    """Solve a problem by Clinch's own branch and bound alone.

    Args:
        problem: one problem or a batch.
        batch: number of domains bounded at once.
        time_limit: seconds; None: no limit.
        gap: relative gap at which to stop.
        progress: called at every improvement.
        device: where domains are bounded; None: where the model is.

    Raises:
        UnsupportedByEngine, UnsupportedOperator: as the engine's. ProblemError: there is no such device.

    Example:
        >>> cl.exact.branch_and_bound(few).status.name
        'OPTIMAL'
    """
    return _solved(problem, "branch_and_bound", BranchAndBound(batch=batch), time_limit, gap, progress, device)


def fewest_changes(
    problem: Statement,
    *,
    time_limit: float | None = 60.0,
    gap: float = 1e-4,
    progress: Callable[[Event], None] | None = None,
) -> Solution:
    """Minimise the number of changed elements (p = 0) by a search over the convex envelope of the count alone.

    Args:
        problem: one problem or a batch, with a p = 0 distance as its objective.
        time_limit: seconds; None: no limit.
        gap: relative gap at which to stop.
        progress: called at every improvement.

    Raises:
        UnsupportedByEngine, UnsupportedOperator: as the engine's.

    Example:
        >>> counted = cl.Problem(cl.Minimize(cl.norm(net.input - x0, 0)), problem.constraints)
        >>> cl.exact.fewest_changes(counted).value
        2.0
    """
    return _solved(problem, "count", Count(), time_limit, gap, progress, "cpu")


def input_split(
    problem: Statement,
    *,
    batch: int = 2048,
    time_limit: float | None = 60.0,
    gap: float = 1e-4,
    progress: Callable[[Event], None] | None = None,
    device: torch.device | str | None = None,
) -> Solution:
    """Solve a problem by halving boxes of the input alone (ReluVal's idea: Wang et al. 2018, arXiv 1804.10829).

    For few input elements; it converges for every operator that has a linear relaxation, kinked or not. Where the paper
    carries symbolic intervals through the network, this bounds boxes by CROWN and cuts off what clauses exclude.

    Args:
        problem: one problem or a batch, with finite limits of every input element.
        batch: number of boxes bounded at once, at most.
        time_limit: seconds; None: no limit.
        gap: relative gap at which to stop.
        progress: called at every improvement.
        device: where boxes are bounded; None: where the model is.

    Raises:
        UnboundedInputError, UnsupportedOperator: as the engine's. ProblemError: there is no such device.

    Example:
        >>> cl.exact.input_split(few).bound
        0.1977
    """
    return _solved(problem, "input_split", InputSplit(batch=batch), time_limit, gap, progress, device)


def general_split(
    problem: Statement,
    *,
    batch: int = 1024,
    time_limit: float | None = 60.0,
    gap: float = 1e-4,
    progress: Callable[[Event], None] | None = None,
    device: torch.device | str | None = None,
) -> Solution:
    """Solve a problem by splits of the input and of what any non-affine layer reads alone (general branching, Shi et
    al. 2024, arXiv 2405.21063).

    For activation functions and products that are no kinks. Where the paper splits layers only and keeps all limits but
    those of the split one, this splits inputs as well and bounds all layers anew in each part.

    Args:
        problem: one problem or a batch, with finite limits of every input element.
        batch: number of parts bounded at once, at most.
        time_limit: seconds; None: no limit.
        gap: relative gap at which to stop.
        progress: called at every improvement.
        device: where parts are bounded; None: where the model is.

    Raises:
        UnboundedInputError, UnsupportedOperator: as the engine's. ProblemError: there is no such device.

    Example:
        >>> cl.exact.general_split(few).bound
        0.1977
    """
    return _solved(problem, "general_split", GeneralSplit(batch=batch), time_limit, gap, progress, device)


def _stated(problem: Any) -> None:
    """Refuse what states no question.

    Raises:
        ProblemError: it is no problem.
    """
    if not hasattr(problem, "query"):
        raise ProblemError(
            f"A {type(problem).__name__} states no question. Pass a cl.Problem: an objective and constraints on "
            "net.input and net.output."
        )


def _solved(
    problem: Statement,
    solver: str,
    settings: Settings,
    time_limit: float | None,
    gap: float | None,
    progress: Callable[[Event], None] | None,
    device: torch.device | str | None,
) -> Solution:
    """What one engine finds by itself, with its tensors on a device (None: the model's)."""
    _stated(problem)
    place = usable_device(problem.network.device if device is None else device)
    ledger = Ledger(problem.query, time_limit=as_seconds(time_limit), gap=as_gap(gap), listener=progress)
    ledger.solver, ledger.settings = solver, settings
    with suppress(OutOfTime), ledger.ending():
        ENGINES[solver].run(problem.query.moved(place), ledger, 0, settings)
    return conclude(problem, ledger)
