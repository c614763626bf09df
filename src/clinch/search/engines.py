"""The engines that ``solver=`` can name: what each can take, and how it is run.

What an engine needs is imported when it works, so that ``import clinch`` stays quick.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from clinch.geometry.region import unbounded
from clinch.network.ops.base import Interval
from clinch.query import Distance, FormsNorm, Linear, Query
from clinch.runtime import memory
from clinch.runtime.deadline import exactly_until
from clinch.solver.engine import Capability, Engine, Resumable, admit, lacking, surviving, without_slope
from clinch.solver.ledger import Ledger
from clinch.solver.settings import (
    Attack,
    Bounds,
    BranchAndBound,
    Count,
    GeneralSplit,
    InputSplit,
    Milp,
    Radius,
    Scipy,
    Settings,
)
from clinch.solver.solution import Proof

if TYPE_CHECKING:
    from clinch.search.general_split import PartSearch
    from clinch.search.input_split import BoxSearch
    from clinch.search.milp.milp import MilpSearches
    from clinch.search.radius_search import RadiusSearch
    from clinch.search.relu_split import ReluSplit

#: when the portfolio chooses what is there to be compared with
NEVER = "never"
#: facts of operators that CROWN, and everything built on it, reads
RELAXED = ("interval", "relax")


#: gaps between values of discrete inputs that searches which split clauses take as such
GAPS = 512


def in_clauses(query: Query) -> bool:
    """Whether discrete inputs are left to searches that split clauses, one for each gap between their values."""
    return query.region.discrete is None or query.region.discrete.gaps <= GAPS


class AttackEngine:
    """Points by gradients, and by exact optima of linear pieces."""

    name = "attack"
    summary = "gradient attacks and local polish: points only"
    suits = "always"
    facts: tuple[str, ...] = ()
    proves = False
    settings = Attack

    def capability(self, query: Query) -> Capability:
        """All problems."""
        return Capability()

    def run(self, query: Query, ledger: Ledger, seed: int, settings: Attack) -> None:
        """See :class:`clinch.solver.engine.Engine`."""
        from clinch.attacks.local_search import polish
        from clinch.attacks.portfolio import attack

        attack(query, ledger, seed=seed, thorough=settings.thorough, passes=settings.passes, settings=settings)
        # after a quick attack a nearer point is worth it, as it shrinks the region; others only prune
        worth = settings.thorough or isinstance(query.objective, Distance)
        if settings.polish and worth and not ledger.exhausted:
            polish(ledger.query, ledger, settings=settings.polishing)


class BoundsEngine:
    """Interval and CROWN bounds over the incumbent's ball."""

    name = "bounds"
    summary = "interval and CROWN bounds of the whole region"
    suits = "where no search of its own starts with them"
    facts: tuple[str, ...] = RELAXED
    proves = True
    settings = Bounds

    def capability(self, query: Query) -> Capability:
        """Whatever has relaxations; without limits of the input the bound may be infinite."""
        return Capability.of(lacking(self, query))

    def run(self, query: Query, ledger: Ledger, seed: int, settings: Bounds) -> None:
        """See :class:`clinch.solver.engine.Engine`."""
        from clinch.bounds.objective import objective_bound
        from clinch.search.root_bounds import root_bounds

        admit(self, query, ledger)
        if bool(ledger.closed.all()):
            return
        root = root_bounds(query, ledger, settings.limits_share)
        # only the incumbents' balls were searched: outside of them nothing is better than their radius
        bound = objective_bound(query.take(root.problems).narrowed(root.value), root.bounds)
        ledger.prove(torch.minimum(bound, root.value), Proof.LINEAR_RELAXATION, "CROWN", root.problems)

    def at_least(self, query: Query, ledger: Ledger) -> None:
        """Interval bounds of a linear objective, where no bound is known: they need no more than a forward pass."""
        if isinstance(query.objective, Linear) and not bool(torch.isfinite(ledger.bound).any()):
            from clinch.bounds.interval import form_interval

            bound = form_interval(query.graph, query.objective.form, query.region)[:, 0]
            ledger.prove(bound, Proof.INTERVAL, "intervals")

    def limits(
        self, query: Query, ledger: Ledger, layers: Mapping[str, int], memory_limit: int | None
    ) -> dict[str, Interval]:
        """Limits of activations over what is left to search: by CROWN, by intervals where the time is over.

        Args:
            layers: name -> position.
            memory_limit: bytes that they may take; where that is not enough, or a layer has no interval rule, a note
                says so.

        Returns:
            Name -> limits ``(B, *layer_shape)``, on the CPU.
        """
        from clinch.bounds.limits import node_limits

        reason = query.graph.lacking(layers.values(), ("interval",))
        if reason is not None:
            ledger.note(f"There are no limits of layers. {reason}")
        if reason is not None or not layers:
            return {}
        query = query.narrowed(ledger.on(query.device).value)
        found: dict[int, Interval] = {}
        # whoever asks for them gets intervals at least, which take a pass over the network
        with memory.guarded(memory_limit), surviving(ledger), exactly_until(math.inf):
            nodes = list(layers.values())
            found = node_limits(query.graph, query.region, nodes, stop=lambda: ledger.remaining <= 0)
        return {name: Interval(*(side.cpu() for side in found[i])) for name, i in layers.items() if i in found}


class BranchAndBoundEngine:
    """Clinch's own branch and bound over ReLU splits."""

    name = "branch_and_bound"
    summary = "splits kinks (ReLU, leaky ReLU) and disjunctions, bounds by a dual function"
    suits = "networks that bend only at kinks"
    facts: tuple[str, ...] = RELAXED
    proves = True
    settings = BranchAndBound

    def capability(self, query: Query) -> Capability:
        """Distances and linear objectives; where all kinks can be split it ends."""
        if isinstance(query.objective, FormsNorm):
            return Capability.no(
                "Branch and bound takes distances and linear objectives, not a norm of activations. Use "
                "solver='bounds', or state one linear objective per component."
            )
        closes = in_clauses(query) and query.graph.bends_only_at_kinks(query.nodes)
        return Capability.of(lacking(self, query), closes=closes)

    def begin(self, query: Query, ledger: Ledger, settings: BranchAndBound) -> ReluSplit:
        """See :class:`clinch.solver.engine.Resumable`."""
        from clinch.search.relu_split import ReluSplit

        admit(self, query, ledger)
        return ReluSplit(query.with_gaps_as_clauses() if in_clauses(query) else query, ledger, settings)

    def run(self, query: Query, ledger: Ledger, seed: int, settings: BranchAndBound) -> None:
        """See :class:`clinch.solver.engine.Engine`."""
        self.begin(query, ledger, settings).run()


class InputSplitEngine:
    """Branch and bound over boxes of the input."""

    name = "input_split"
    summary = "halves boxes of the input, bounds by CROWN, cuts off what clauses and incumbent exclude"
    suits = "at most 16 input elements with room; first of all at most 8"
    facts: tuple[str, ...] = RELAXED
    proves = True
    settings = InputSplit

    def capability(self, query: Query) -> Capability:
        """Any objective over a bounded input; relaxations become exact as boxes shrink."""
        refusal = unbounded(query.region, "Splitting the input") or lacking(self, query)
        return Capability.of(refusal, closes=True)

    def begin(self, query: Query, ledger: Ledger, settings: InputSplit) -> BoxSearch:
        """See :class:`clinch.solver.engine.Resumable`."""
        from clinch.search.input_split import BoxSearch

        admit(self, query, ledger)
        return BoxSearch(query, ledger, settings)

    def run(self, query: Query, ledger: Ledger, seed: int, settings: InputSplit) -> None:
        """See :class:`clinch.solver.engine.Engine`."""
        self.begin(query, ledger, settings).run()


class GeneralSplitEngine:
    """Branch and bound over splits of the input and of what any non-affine node reads."""

    name = "general_split"
    summary = "splits input elements and what any non-affine layer reads, bounds by a dual function"
    suits = "activation functions that are neither kinks nor encodable, such as sigmoid"
    facts: tuple[str, ...] = RELAXED
    proves = True
    settings = GeneralSplit

    def capability(self, query: Query) -> Capability:
        """Any objective over a bounded input; relaxations become exact as parts shrink."""
        refusal = unbounded(query.region, "General splitting") or lacking(self, query)
        return Capability.of(refusal, closes=True)

    def begin(self, query: Query, ledger: Ledger, settings: GeneralSplit) -> PartSearch:
        """See :class:`clinch.solver.engine.Resumable`."""
        from clinch.search.general_split import PartSearch

        admit(self, query, ledger)
        return PartSearch(query, ledger, settings)

    def run(self, query: Query, ledger: Ledger, seed: int, settings: GeneralSplit) -> None:
        """See :class:`clinch.solver.engine.Engine`."""
        self.begin(query, ledger, settings).run()


def _inside_balls(settings: Radius) -> tuple[tuple[Resumable, Settings], ...]:
    """Searches of what is inside a ball, the best first, with their settings."""
    return (BranchAndBoundEngine(), settings.branch_and_bound), (GeneralSplitEngine(), settings.general_split)


class RadiusEngine:
    """Balls of growing radius that hold nothing feasible."""

    name = "radius"
    summary = "largest balls proven free around a distance's centre, by CROWN, then by branch and bound"
    suits = "distances; first where relaxations over the incumbent's ball say nothing"
    facts: tuple[str, ...] = RELAXED
    proves = True
    settings = Radius

    def capability(self, query: Query) -> Capability:
        """Distances, whatever has relaxations."""
        if not isinstance(query.objective, Distance):
            return Capability.no(
                "Balls of growing radius bound distances. Use solver='branch_and_bound', or state a distance."
            )
        return Capability.of(lacking(self, query))

    def begin(self, query: Query, ledger: Ledger, settings: Radius) -> RadiusSearch:
        """See :class:`clinch.solver.engine.Resumable`."""
        from clinch.search.radius_search import RadiusSearch

        admit(self, query, ledger)
        inside = query.narrowed(torch.ones(query.size, dtype=query.dtype, device=query.device))
        assert isinstance(query.objective, Distance)
        exact = () if query.objective.norm.counts else _inside_balls(settings)
        able = [(engine, its) for engine, its in exact if engine.capability(inside).closes]
        begin = None if not able else lambda inner, ledger: able[0][0].begin(inner, ledger, able[0][1])
        return RadiusSearch(query, ledger, settings, begin)

    def run(self, query: Query, ledger: Ledger, seed: int, settings: Radius) -> None:
        """See :class:`clinch.solver.engine.Engine`."""
        self.begin(query, ledger, settings).run()


class MilpEngine:
    """The mixed-integer encoding, with a tree of its own and a library's search for points."""

    name = "milp"
    summary = "mixed-integer program, solved by HiGHS"
    suits = "max pools, norms of activations, counts"
    facts: tuple[str, ...] = (*RELAXED, "encode")
    proves = True
    settings = Milp

    def capability(self, query: Query) -> Capability:
        """What can be encoded."""
        from clinch.encoding.query_program import unencodable

        return Capability.of(unencodable(query) or lacking(self, query), closes=True)

    def begin(self, query: Query, ledger: Ledger, settings: Milp) -> MilpSearches:
        """See :class:`clinch.solver.engine.Resumable`."""
        from clinch.search.milp.milp import MilpSearches

        admit(self, ledger.query, ledger)
        return MilpSearches(ledger.query, ledger, settings)

    def run(self, query: Query, ledger: Ledger, seed: int, settings: Milp) -> None:
        """See :class:`clinch.solver.engine.Engine`."""
        self.begin(query, ledger, settings).run()


class CountEngine:
    """The search for the fewest changed elements."""

    name = "count"
    summary = "fewest changed elements by the convex envelope of the count"
    suits = "p = 0"
    facts: tuple[str, ...] = RELAXED
    proves = True
    settings = Count

    def capability(self, query: Query) -> Capability:
        """Distances with p = 0."""
        if not isinstance(query.objective, Distance) or not query.objective.norm.counts:
            return Capability.no(
                "The search for the fewest changed elements takes distances with p = 0. Use solver='branch_and_bound'."
            )
        closes = in_clauses(query) and query.graph.bends_only_at_kinks(query.nodes)
        return Capability.of(lacking(self, query), closes=closes)

    def run(self, query: Query, ledger: Ledger, seed: int, settings: Count) -> None:
        """See :class:`clinch.solver.engine.Engine`."""
        from clinch.search.l0_search import fewest_changes

        admit(self, ledger.query, ledger)
        query = ledger.query
        fewest_changes(query.with_gaps_as_clauses() if in_clauses(query) else query, ledger, settings)


#: elements of an input for SLSQP: a step then takes about a tenth of a second
LARGEST = 1024


class ScipyEngine:
    """One of SciPy's general solvers, as a reference."""

    suits = NEVER
    facts: tuple[str, ...] = ()
    proves = False
    settings = Scipy

    def __init__(self, solver: str, *, sides: bool = True) -> None:
        self.solver, self.sides = solver, sides
        self.name = solver if sides else f"{solver}_whole"
        self.summary = "SciPy's general solvers as a reference: points only"

    def capability(self, query: Query) -> Capability:
        """What has slopes; for SLSQP few elements, as one step of its own algebra takes n³ and cannot be stopped."""
        size = query.graph.nodes[0].size
        if self.solver == "slsqp" and size > LARGEST:
            return Capability.no(
                f"SciPy's SLSQP takes inputs of at most {LARGEST:,} elements, as no time limit can end a step of its "
                f"algebra; this one has {size:,}. Use solver='attack'."
            )
        return Capability(without_slope(query))

    def run(self, query: Query, ledger: Ledger, seed: int, settings: Scipy) -> None:
        """See :class:`clinch.solver.engine.Engine`."""
        admit(self, ledger.query, ledger)
        # it lives with the papers, above this file, so that it is named as text
        search = importlib.import_module("clinch.papers.methods.scipy_solvers").scipy_search
        search(self.solver, self.sides, ledger, seed, settings)


#: what any solve falls back on, and what limits of layers come from
BOUNDS = BoundsEngine()
_ALL: tuple[Engine, ...] = (
    AttackEngine(), BOUNDS, RadiusEngine(), BranchAndBoundEngine(), InputSplitEngine(), GeneralSplitEngine(),
    MilpEngine(), CountEngine(),
    ScipyEngine("cobyla"), ScipyEngine("cobyla", sides=False), ScipyEngine("slsqp"), ScipyEngine("slsqp", sides=False),
    ScipyEngine("shgo"), ScipyEngine("differential_evolution"),
)  # fmt: skip
#: what ``solver=`` can name; each also runs by itself
ENGINES: dict[str, Engine] = {engine.name: engine for engine in _ALL}
