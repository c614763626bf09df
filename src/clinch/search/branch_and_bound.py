"""Best-first branch and bound, written once.

A search keeps the nodes that may hold something better than what is known. In every round the first of them are split,
their children bounded, and what cannot hold anything better is finished; the others wait for their turn. The bound of a
problem is the smallest over its finished and its waiting nodes: it is proven at any time, and rises all the time.

What a node is, how it is bounded, where it is split and who solves what cannot be split is up to four objects: the
goal, a bounder, a brancher and a leaf solver. The instances split ReLUs (:mod:`clinch.search.relu_split`), the input
(:mod:`clinch.search.input_split`), counted elements (:mod:`clinch.search.l0_search`) and binaries
(:mod:`clinch.search.milp.lp_tree`); they refine bounds of activations (:mod:`clinch.search.refine_by_search`) and prove
once more (:mod:`clinch.certificates.proof_search`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

from clinch.search.node_store import Nodes, NodeStore

N = TypeVar("N", bound=Nodes)
N_co = TypeVar("N_co", bound=Nodes, covariant=True)
N_contra = TypeVar("N_contra", bound=Nodes, contravariant=True)


class Evaluation(Protocol[N_co]):
    """Nodes with their bounds, and whatever else points and splits are found from."""

    @property
    def nodes(self) -> N_co:
        """The nodes, bounds raised."""
        ...

    def take(self, index: Tensor) -> Self:
        """The same for some nodes."""
        ...


E = TypeVar("E", bound=Evaluation)
E_contra = TypeVar("E_contra", bound=Evaluation, contravariant=True)


class Goal(Protocol[E_contra]):
    """What a search is for, of B problems."""

    @property
    def exhausted(self) -> bool:
        """Whether to stop."""
        ...

    @property
    def seconds(self) -> float:
        """Present time."""
        ...

    @property
    def remaining(self) -> float:
        """Seconds left."""
        ...

    def targets(self) -> Tensor:
        """``(B,)`` a node whose bound has reached this holds nothing of interest; −infinity where a problem needs no
        more."""
        ...

    def offer(self, found: E_contra) -> None:
        """Look for points in nodes that were bounded and are still open."""

    def finish(self, nodes: Nodes) -> None:
        """Hear of nodes that are finished, for good."""

    def prove(self, bound: Tensor) -> None:
        """Hear of the proven bounds ``(B,)``, after every round."""


class Bounder(Protocol[N_contra, E]):
    """Proves bounds."""

    def bound(self, nodes: N_contra, fresh: bool) -> E:
        """Bound nodes; fresh: they have nothing from a parent to start from."""
        ...

    def refine(self, found: E) -> E:
        """Raise what is known about nodes that :meth:`bound` has left open, where more effort pays."""
        return found


@dataclass(frozen=True)
class Branched(Generic[N]):
    """Nodes after their split: children, those that are to be bounded afresh, and nodes that cannot be split."""

    children: N
    fresh: N | None = None
    leaves: N | None = None


class Brancher(Protocol[N, E_contra]):
    """Splits nodes. What the parts of a node leave out of it must hold nothing of interest."""

    def choose(self, found: E_contra) -> N:
        """Bounded nodes as they wait: with their next split."""
        ...

    def split(self, nodes: N) -> Branched[N]:
        """Split nodes as chosen."""
        ...

    def priority(self, nodes: N) -> Tensor | None:
        """``(D,)`` in which order nodes are taken up, the smallest first; None: their bounds."""
        return None


class LeafSolver(Protocol[N]):
    """Solves nodes that cannot be split."""

    def solve(self, leaves: N) -> tuple[N, N]:
        """Leaves that are finished, and those that go on waiting."""
        ...


class BestFirst(Generic[N, E]):
    """One search over B problems; it may stop at any time and go on later.

    Args:
        problems: B.
        goal, bounder, brancher: see above.
        leaf_solver: None: what cannot be split is finished.
        batch: nodes taken up at once, at most; first_batch: at first, None: as many.
        seconds: how long a round should take, at most: its size changes as that allows; None: it stays.
        in_turns: see :class:`clinch.search.node_store.NodeStore`.

    Attributes:
        store: the waiting nodes. finished: ``(B,)`` the smallest bound of finished ones.
        bounded: ``(B,)`` number of nodes bounded so far.
    """

    def __init__(
        self, problems: int, goal: Goal[E], bounder: Bounder[N, E], brancher: Brancher[N, E], *,
        leaf_solver: LeafSolver[N] | None = None, batch: int = 256, first_batch: int | None = None,
        seconds: float | None = None, in_turns: bool = False, device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.goal, self.bounder, self.brancher, self.leaf_solver = goal, bounder, brancher, leaf_solver
        self.batch, self.seconds = batch, seconds
        self.size = self.first = batch if first_batch is None else min(batch, first_batch)
        self.store: NodeStore[N] = NodeStore(in_turns=in_turns, device=device)
        self.finished = torch.full((problems,), torch.inf, dtype=torch.float64, device=device)
        self.bounded = torch.zeros(problems, dtype=torch.long, device=device)
        self._targets: Tensor | None = None

    @property
    def least(self) -> Tensor:
        """``(B,)`` proven: nothing has a smaller objective than this."""
        return torch.minimum(self.finished, self.store.least(len(self.finished)))

    # --- the loop -----------------------------------------------------------------------------------------------------

    def plant(self, roots: N) -> None:
        """Bound the nodes that everything grows from; where that fails nothing has begun."""
        try:
            self._bound(roots, fresh=True)
        except BaseException:
            self.store.clear()
            self.finished.fill_(torch.inf)
            raise
        self.goal.prove(self.least)

    def run(self) -> None:
        """Work until no node waits or the goal is exhausted."""
        while len(self.store) and not self.goal.exhausted:
            self.round()
        self.goal.prove(self.least)

    def round(self) -> None:
        """Split the first nodes and bound their children."""
        began, before = self.goal.seconds, self.bounded.sum()
        self._prune()
        if len(self.store):
            with self._at_work(self.store.pop(self.size)) as nodes:
                self._work(self._wanted(nodes))
        if self.seconds is not None:
            self._adapt(self.goal.seconds - began, int(self.bounded.sum() - before))
        self.goal.prove(self.least)

    def _work(self, nodes: N) -> None:
        if not len(nodes):
            return
        branched = self.brancher.split(nodes)
        if branched.fresh is not None:
            self._bound(branched.fresh, fresh=True)
        self._bound(branched.children, fresh=False)
        if branched.leaves is not None:
            self._close(branched.leaves)

    def rebound(self) -> None:
        """Bound all waiting nodes again: the bounder knows more than before."""
        with self._at_work(self.store.pop(len(self.store))) as nodes:
            self.settle(self.bounder.bound(nodes, fresh=False))

    def replace(self, chosen: Tensor, found: E) -> None:
        """Put other nodes, which cover the same, in place of waiting ones chosen by a mask over the store's columns."""
        with self._at_work(self.store.take_out(chosen)):
            if len(found.nodes):
                self.settle(found)

    @contextmanager
    def _at_work(self, nodes: N) -> Iterator[N]:
        """Whatever happens to nodes at work: where it goes wrong they wait again as they did."""
        try:
            yield nodes
        except BaseException:
            self.store.push(nodes, self.brancher.priority(nodes))
            raise

    def _adapt(self, seconds: float, count: int) -> None:
        assert self.seconds is not None
        allowed = min(self.seconds, max(0.1 * self.goal.remaining, 0.02))
        # on a busy machine rounds take longer, and smaller ones even more so for each node
        least = self.first if allowed == self.seconds else 1
        if count:
            self.size = int(max(least, min(self.batch, 4 * self.size, self.size * allowed / max(seconds, 1e-9))))

    def _prune(self) -> None:
        """Finish waiting nodes that new targets have closed."""
        targets = self.goal.targets()
        if not len(self.store) or (self._targets is not None and torch.equal(targets, self._targets)):
            return
        self._targets = targets
        closed = self.store.column("bound") >= targets[self.store.column("problem")]
        if bool(closed.any()):
            self._finish(self.store.take_out(closed))

    # --- nodes --------------------------------------------------------------------------------------------------------

    def settle(self, found: E) -> None:
        """Finish what holds nothing of interest; look for points in the others, and let them wait."""
        found = self._open(found)
        if len(found.nodes):
            found = self._open(self.bounder.refine(found))
        if len(found.nodes):
            self.goal.offer(found)
            waiting = self.brancher.choose(found)
            self.store.push(waiting, self.brancher.priority(waiting))

    def _wanted(self, nodes: N) -> N:
        """Nodes that may hold something of interest; the others are finished."""
        closed = nodes.bound >= self.goal.targets()[nodes.problem]
        if not bool(closed.any()):
            return nodes
        self._finish(nodes.take(closed))
        return nodes.take(~closed)

    def _bound(self, nodes: N, *, fresh: bool) -> None:
        if len(nodes):
            self.bounded.index_add_(0, nodes.problem, torch.ones_like(nodes.problem))
            self.settle(self.bounder.bound(nodes, fresh))

    def _open(self, found: E) -> E:
        """What is still open; the rest is finished."""
        nodes = found.nodes
        closed = nodes.bound >= self.goal.targets()[nodes.problem]
        if not bool(closed.any()):
            return found
        self._finish(nodes.take(closed))
        return found.take((~closed).nonzero().flatten())

    def _close(self, leaves: N) -> None:
        if not len(leaves):
            return
        if self.leaf_solver is None:
            self._finish(leaves)
            return
        finished, waiting = self.leaf_solver.solve(leaves)
        self._finish(finished)
        self.store.push(waiting, self.brancher.priority(waiting))

    def _finish(self, nodes: N) -> None:
        if len(nodes):
            self.finished.scatter_reduce_(0, nodes.problem, nodes.bound, "amin")
            self.goal.finish(nodes)
