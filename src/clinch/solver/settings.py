"""What can be set about each engine and about their portfolio: frozen dataclasses, recorded with the solution.

Every field has the value that Clinch was measured with. A field without meaning is refused where the object is made.

Example:
    >>> few.solve(solver="milp", settings=cl.settings.Milp(backend="highs")).status.name
    'OPTIMAL'
    >>> few.solve(settings=cl.settings.Portfolio(attack_share=0.1)).settings.attack_share
    0.1
    >>> few.solve(solver="milp", settings={"head_start": 10}).settings.head_start
    10
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Annotated, Any, ClassVar, Self, get_type_hints

from clinch.errors import ProblemError

__all__ = [
    "Attack",
    "Bounds",
    "BranchAndBound",
    "Count",
    "GeneralSplit",
    "InputSplit",
    "Milp",
    "Polish",
    "Portfolio",
    "Radius",
    "Scipy",
    "Settings",
]


@dataclass(frozen=True)
class _Meaning:
    """What a field may be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _numbers(count: int) -> _Meaning:
    return _Meaning(
        f"{count} numbers from 0 on, in brackets",
        lambda v: isinstance(v, tuple) and len(v) == count and all(_is_number(n) and n >= 0 for n in v),
    )


Share = Annotated[float, _Meaning("a share from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1)]
Positive = Annotated[float, _Meaning("a number above 0", lambda v: _is_number(v) and v > 0)]
Number = Annotated[int, _Meaning("a whole number from 0 on", lambda v: _is_whole(v, 0))]
Some = Annotated[int, _Meaning("a whole number from 1 on", lambda v: _is_whole(v, 1))]
Several = Annotated[int, _Meaning("a whole number from 5 on", lambda v: _is_whole(v, 5))]
Factor = Annotated[int, _Meaning("a whole number from 2 on", lambda v: _is_whole(v, 2))]
Passes = Annotated[int | None, _Meaning("a whole number from 1 on, or None", lambda v: v is None or _is_whole(v, 1))]
Pair = Annotated[tuple[float, float], _numbers(2)]
Triple = Annotated[tuple[float, float, float], _numbers(3)]
Quadruple = Annotated[tuple[float, float, float, float], _numbers(4)]
Flag = Annotated[bool, _Meaning("True or False", lambda v: isinstance(v, bool))]
Backend = Annotated[
    Any,
    _Meaning(
        "the name of a solver library, or an object with solve(...)",
        lambda v: isinstance(v, str) or callable(getattr(v, "solve", None)),
    ),
]


@dataclass(frozen=True)
class Settings:
    """What all of them have in common: fields are checked when the object is made.

    Raises:
        ProblemError: a field has no meaning.
    """

    #: where users find the class
    _place: ClassVar[str] = "cl.settings"

    def __post_init__(self) -> None:
        for name, kind in _kinds(type(self)).items():
            value = getattr(self, name)
            if isinstance(kind, _Meaning):
                if isinstance(value, list):  # as files have them
                    value = tuple(value)
                    object.__setattr__(self, name, value)
                if not kind.holds(value):
                    raise ProblemError(f"settings: {name}={value!r:.60} has no meaning. Give {kind.words}.")
            else:
                object.__setattr__(self, name, kind.of(value))

    @classmethod
    def of(cls, given: Settings | Mapping[str, Any] | None) -> Self:
        """Settings as users write them: an object, fields by name, or None for what is usual.

        Raises:
            ProblemError: settings of something else, or a name that is no field.
        """
        if given is None:
            return cls()
        if isinstance(given, cls):
            return given
        usual = f"Write {cls._place}.{cls.__name__}(...)"
        if not isinstance(given, Mapping):
            raise ProblemError(f"settings is a {type(given).__name__}. {usual}, or its fields by name.")
        names = [one.name for one in fields(cls)]
        for name in given:
            if name not in names:
                near = difflib.get_close_matches(str(name), names, 1) or [", ".join(names)]
                raise ProblemError(f"settings: {cls.__name__} has no field {name!r:.60}. Write {near[0]}.")
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, ready for JSON; an object of the user's own by the name of its class."""
        return {one.name: _plain(getattr(self, one.name)) for one in fields(self)}


@cache
def _kinds(settings: type[Settings]) -> dict[str, _Meaning | type[Settings]]:
    """What each field may be: a meaning, or settings of a kind."""
    hints = get_type_hints(settings, include_extras=True)
    return {one.name: getattr(hints[one.name], "__metadata__", (hints[one.name],))[0] for one in fields(settings)}


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float | str) else type(value).__name__


@dataclass(frozen=True)
class Polish(Settings):
    """Of the walk from an incumbent over linear pieces.

    Attributes:
        programs: solved for one problem, at most.
        rounds: of adding broken sign conditions to one piece, ``added`` in each.
        conditions: sign conditions of one program, at most.
        improvement: one that is a smaller share of the value ends the walk.
        inside: how far inside the conditions to stay, in roundings of the model's dtype of what is summed.
    """

    programs: Some = 60
    rounds: Some = 8
    added: Some = 40
    conditions: Some = 250
    improvement: Positive = 1e-7
    inside: Positive = 4.0


@dataclass(frozen=True)
class Attack(Settings):
    """Of ``solver="attack"``.

    Attributes:
        passes: forward and backward passes for each problem whose objective is a distance; None: as many as
            ``thorough`` says.
        thorough: False: a tenth of the work or less, enough where an exact search with walks of its own comes next.
        polish: whether what was found is taken to the optimum of its linear piece, and of pieces beside it.
        shared: passes for each problem of a thorough attack on a distance, and of a quick one, where candidates share
            conditions, so that many runs go side by side; ``others`` elsewhere; ``sparse`` where they share conditions
            and changed elements are counted, for branch and bound has no walks for those.
        walks: runs and steps of a thorough attack on another objective; ``quick_walks`` of a quick one.
        random: points that walks begin at besides, where linear conditions tie inputs to each other.
        runner_up: how far behind the incumbent a runner-up may lie to be polished.
        polishing: of the walk.
    """

    passes: Passes = None
    thorough: Flag = True
    polish: Flag = True
    shared: Pair = (5000, 2200)
    others: Pair = (800, 120)
    sparse: Some = 10_000
    walks: Pair = (24, 60)
    quick_walks: Pair = (4, 15)
    random: Some = 5
    runner_up: Share = 0.1
    polishing: Polish = field(default_factory=Polish)


@dataclass(frozen=True)
class Bounds(Settings):
    """Of ``solver="bounds"``.

    Attributes:
        limits_share: share of the time that the bounds of the activations may take; the rest is for the last pass.
    """

    limits_share: Share = 0.9


@dataclass(frozen=True)
class Milp(Settings):
    """Of ``solver="milp"``.

    Attributes:
        backend: ``"highs"``, ``"scip"``, ``"gurobi"``, or an object with ``solve(program, *, time_limit, gap, start)``.
        limits_share: share of the time left that bounds of the activations may take before the encoding.
        obbt_share: share of the time left for tightening them by linear programs.
        library_share: time for the library's own search, which looks for points, relative to the tree's.
        head_start: nodes of the tree before the library is asked; ``patience`` the factor to the next time.
        renarrow: an incumbent whose distance is below this share of the last one is worth a new, tighter encoding.
        trials: trial solves of a node where pseudo-costs are not reliable, of ``trial_iterations`` simplex iterations;
            ``reliable``: observations in each direction from which they are (Achterberg, Koch & Martin 2005).
    """

    backend: Backend = "highs"
    limits_share: Share = 0.6
    obbt_share: Share = 0.1
    library_share: Positive = 0.5
    head_start: Some = 200
    patience: Factor = 4
    renarrow: Share = 0.9
    trials: Some = 8
    trial_iterations: Some = 60
    reliable: Some = 4


@dataclass(frozen=True)
class BranchAndBound(Settings):
    """Of ``solver="branch_and_bound"``.

    Attributes:
        batch: subdomains taken up at once.
        levels: neurons that a subdomain is split at in one go, at most.
        root_steps: dual evaluations for subdomains without a parent; ``node_steps`` for children.
        walk_share: share of the search's time for walks from its minimisers to feasible points.
        under_cutoff: whether bounds of open neurons are refined in every subdomain for inputs better than the cutoff,
            where the network has few and that pays.
        by_dual_at: nodes per problem after which bounds of activations in each branch are refined by the dual
            function; ``by_dual_again`` the factor to the next time; ``by_dual_share`` the share of the search's time so
            far that it may take.
        by_search_at: nodes per region after which those bounds are searched for as well, in deep networks;
            ``by_search_late`` in others.
        pause_deep: the tree's time between two layers of that search, relative to the last layer's, in deep networks;
            ``pause`` in others.
    """

    batch: Some = 256
    levels: Some = 4
    root_steps: Some = 20
    node_steps: Some = 8
    walk_share: Share = 0.07
    under_cutoff: Flag = True
    by_dual_at: Number = 1000
    by_dual_again: Factor = 8
    by_dual_share: Share = 0.3
    # on MNIST networks of four and six layers it decides in a minute what the tree alone does not in five, on two
    # layers it pays for long searches only
    by_search_at: Number = 1000
    by_search_late: Number = 12000
    pause_deep: Positive = 0.25
    pause: Positive = 1.0


@dataclass(frozen=True)
class InputSplit(Settings):
    """Of ``solver="input_split"``.

    Attributes:
        batch: boxes bounded at once, at most; ``first_batch``: of the first one, whose time tells how many the next may
            have.
        round_seconds: seconds after which a batch should report.
        levels: how often boxes are halved in one go while there are ``few`` of them, at most.
        walkers: points from which to walk on after a batch; ``walk_share`` the share of the search's time for it.
        offered: points offered for a check at once.
    """

    batch: Some = 2048
    first_batch: Some = 64
    round_seconds: Positive = 0.5
    levels: Some = 5
    few: Some = 16
    walkers: Some = 16
    walk_share: Share = 0.15
    offered: Some = 16


@dataclass(frozen=True)
class GeneralSplit(Settings):
    """Of ``solver="general_split"``.

    Attributes:
        nodes: whether what non-affine layers read is split too; False: the input alone.
        inputs: elements with room up to which the network is asked what splitting each of them gains; beyond that
            they are split where nothing else is left.
        batch: parts bounded at once, at most; ``first_batch``: of the first one, whose time tells how many the next may
            have.
        round_seconds: seconds after which a batch should report.
        root_steps: dual evaluations for parts without a parent; ``node_steps`` for children.
        walkers: points from which to walk on after a batch; ``walk_share`` the share of the search's time for it.
        offered: points offered for a check at once.
    """

    nodes: Flag = True
    inputs: Number = 32
    batch: Some = 1024
    first_batch: Some = 64
    round_seconds: Positive = 0.5
    root_steps: Some = 20
    node_steps: Some = 8
    walkers: Some = 16
    walk_share: Share = 0.1
    offered: Some = 16


@dataclass(frozen=True)
class Count(Settings):
    """Of ``solver="count"``.

    Attributes:
        batch: parts of the search that are split at once.
        branch_and_bound: of the search over each part's convex envelope.
    """

    batch: Some = 4
    branch_and_bound: BranchAndBound = field(default_factory=BranchAndBound)


@dataclass(frozen=True)
class Radius(Settings):
    """Of ``solver="radius"``.

    Attributes:
        pace: how much larger the first ball that is searched is than the largest one that linear bounds prove free, as
            a share of what is between bound and incumbent; ``faster`` and ``slower``: factors to it after a ball that
            was, and was not, proven free.
        ball_share: share of the time left that one ball may take; twice that after a failure.
        branch_and_bound, general_split: of the search inside balls.
    """

    pace: Share = 0.1
    faster: Positive = 1.5
    slower: Share = 0.5
    ball_share: Share = 0.25
    branch_and_bound: BranchAndBound = field(default_factory=BranchAndBound)
    general_split: GeneralSplit = field(default_factory=GeneralSplit)


@dataclass(frozen=True)
class Scipy(Settings):
    """Of SciPy's solvers as engines.

    Attributes:
        iterations: of one run of SLSQP; COBYLA has a hundred times as many.
        sample: points of SHGO's first sample.
        population: points of one generation of differential evolution.
        reach: how far from the middle an input without limits is looked for by solvers that need some.
    """

    iterations: Some = 200
    sample: Some = 128
    population: Several = 64
    reach: Positive = 10.0


@dataclass(frozen=True)
class Portfolio(Settings):
    """Of ``solver=None``: how the engines share the time, and the settings of each.

    Attributes:
        attack_share: share of the time that an attack may take where other engines wait behind it.
        glance_share: share of the time that the search which suits best has before others begin.
        slice_share: share of the time for searches before the thorough attack; ``race_share``: the same of problems
            that are so small that all searches are tried, whose non-affine layers read up to ``race_size`` elements.
        lent_share: share of the time that is left to what cannot go on where it stopped.
        moment: seconds that each search has at first.
        few_inputs: elements with room up to which the input is split; ``very_few_inputs``: up to which that suits
            questions without objective best.
        attack, bounds, radius, branch_and_bound, input_split, general_split, milp, count: of the engines.
    """

    attack_share: Share = 0.25
    slice_share: Share = 0.1
    glance_share: Share = 0.02
    lent_share: Share = 0.5
    moment: Positive = 0.03
    race_share: Share = 0.3
    race_size: Number = 2000
    few_inputs: Number = 16
    very_few_inputs: Number = 8
    attack: Attack = field(default_factory=Attack)
    bounds: Bounds = field(default_factory=Bounds)
    radius: Radius = field(default_factory=Radius)
    branch_and_bound: BranchAndBound = field(default_factory=BranchAndBound)
    input_split: InputSplit = field(default_factory=InputSplit)
    general_split: GeneralSplit = field(default_factory=GeneralSplit)
    milp: Milp = field(default_factory=Milp)
    count: Count = field(default_factory=Count)
