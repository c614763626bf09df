"""What an attack returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from clinch.attacks.core.averages import SuccessRate
from clinch.attacks.core.settings import AttackSettings
from clinch.query import Query
from clinch.runtime import html
from clinch.runtime.optional import required

#: points that a notebook shows
PICTURES = 8
#: why an input has no success, and why it needed no attack
ALREADY, NO_GRADIENT, NOT_FOUND = (
    "the clean input reaches the goal already", "the gradient was zero wherever the attack looked",
    "not found with the passes given",
)  # fmt: skip
#: how far to go on along the ray from the centre where rounding has left a point just short of its goal
NUDGES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
#: and farther for models of 16 bits, whose neighbouring numbers lie so far apart that less is rounded away
COARSE_NUDGES = (*NUDGES, 3e-2, 1e-1)


class HasQuery(Protocol):
    """A problem statement with its normal form, such as ``clinch.Problem``."""

    @property
    def query(self) -> Query:
        """The normal form in float64."""
        ...


class History(NamedTuple):
    """An attack's course, one line for each of S steps.

    Attributes:
        passes: ``(S, B)`` rows sent through the network so far, forward and backward together.
        distance: ``(S, B)`` of the nearest point so far that reaches the goal, infinity before there is one.
        margin: ``(S, B)`` of the best point so far; negative where it reaches the goal.
    """

    passes: Tensor
    distance: Tensor
    margin: Tensor


class StageLog(NamedTuple):
    """One attack of a sequence.

    Attributes:
        name: of the attack.
        found: inputs that it was the first to bring to their goal.
        passes: rows forward and backward for all inputs.
    """

    name: str
    found: int
    passes: int


@dataclass(frozen=True, repr=False)
class AttackResult:
    """The best points of an attack, and what they cost.

    Attributes:
        x: ``(B, *input_shape)`` in the model's dtype; without success the best attempt.
        success: ``(B,)`` whether the point reaches its goal, by the original model in its own dtype and, where
            ``exact``, in float64.
        value: ``(B,)`` objective in float64, in the query's minimising sense, for labels the distance; infinity
            without success.
        distance: ``(B,)`` distance from the clean input in the attack's norm, in float64; infinity without success.
        loss: ``(B,)`` the margin in float64, of a problem the violation: at most 0 exactly where the goal is reached.
        forward: ``(B,)`` rows sent forward through the network.
        backward: ``(B,)`` rows sent backward; neither counts the clean prediction nor the check of the result.
        reason: for each input why there is no success, or why no attack was needed; empty elsewhere.
        history: the course of the attack, where asked for.
        exact: whether float64 had its say. A module that casts inside is run in float64 without its casts to other real
            dtypes; where it fails even so ``success`` is its own dtype's word alone. Problems are about networks that
            were loaded, whose float64 graph always has its say.
        settings: the numbers of the method, where it has some besides its arguments.
        rate: of a stochastic model, attacked with ``eot=``: how often the points reach their goal, with the interval;
            success is then that most runs do, for certain.
        parameters: of an attack that searches parameters in place of elements, or something that inputs share, what it
            found, by name; rows of inputs without success are the best attempt.
        log: of a sequence of attacks what each found and cost; ``notes`` what casts doubt on the outcome.
    """

    x: Tensor
    success: Tensor
    value: Tensor
    distance: Tensor
    loss: Tensor
    forward: Tensor
    backward: Tensor
    reason: tuple[str, ...]
    history: History | None = None
    exact: bool = True
    settings: AttackSettings | None = None
    rate: SuccessRate | None = None
    log: tuple[StageLog, ...] = ()
    notes: tuple[str, ...] = ()
    parameters: Mapping[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        found, size = int(self.success.sum()), len(self.success)
        near = self.distance[self.success.bool()]
        median = f", median distance {float(near.median()):.4g}" if len(near) else ""
        return f"<AttackResult: {found} of {size} found{median}, {float(self.passes.double().mean()):.4g} passes each>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the first inputs, their distances, and why others were not found."""
        heads = ("", "found", "distance", "loss", "passes", "reason")
        columns = (self.success.tolist(), self.distance.tolist(), self.loss.tolist(), self.passes.tolist(), self.reason)
        rows = [(b, *row) for b, row in enumerate(zip(*columns))]
        shown = "".join(html.picture(x, str(b)) for b, x in enumerate(self.x[:PICTURES]))
        return html.lines(repr(self)) + shown + html.table(rows, heads)

    def to_frame(self) -> Any:
        """A pandas data frame with a line per input: success, distance, loss, passes, reason (extra ``frames``).

        Raises:
            MissingPackage: pandas is not installed.
        """
        columns = {"success": self.success, "distance": self.distance, "loss": self.loss, "passes": self.passes}
        content = {name: column.cpu().numpy() for name, column in columns.items()}
        return required("pandas", "frames").DataFrame({**content, "reason": self.reason})

    @property
    def passes(self) -> Tensor:
        """``(B,)`` forward and backward rows together."""
        return self.forward + self.backward


def query_of(problem: HasQuery | Query) -> Query:
    """The normal form of a problem, on its model's device; a query stays on its own."""
    if isinstance(problem, Query):
        return problem
    return problem.query.moved(problem.query.network.device)
