"""Parts of a region bounded as the checker bounds them: its limits, its lines with slopes of our own, its verdict.

A part is a leaf of a certificate's tree: a box of inputs, and limits that splits gave to activations. Multipliers and
slopes are looked for by ascent of the dual function of :mod:`clinch.bounds.part_dual` on the checker's limits; the
bound is what the checker makes of them, so that what is closed here is closed there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from clinch.bounds.ascent import Climb
from clinch.bounds.crown import relaxations_from
from clinch.bounds.domains import SEARCH
from clinch.bounds.free_lines import FreeLines, quick_relax
from clinch.bounds.part_dual import Layout, PartDual
from clinch.certificates.checked_lines import CheckedNetwork, checked_balls, source_of
from clinch.checker.certificate import Certificate
from clinch.checker.check import SLOPED, cuts_of, margins, relu_spans
from clinch.checker.layers import read_by_bends
from clinch.checker.lines import Box
from clinch.checker.question import CertifiedQuery
from clinch.checker.rigorous import Relaxation as Checked
from clinch.checker.tree import Leaves
from clinch.geometry.clip import clip_to_clauses
from clinch.network.graph import Graph
from clinch.network.ops.base import Interval, Relaxation
from clinch.query import Distance, Query
from clinch.search.part_bounding import PartBounder, PartEvaluation
from clinch.search.parts import Parts
from clinch.solver.settings import GeneralSplit

#: number of an activation that the checker does not split; no columns
NONE, NOTHING = -(2**40), torch.zeros(0, dtype=torch.long)


@dataclass(frozen=True)
class ProofParts(Parts):
    """Parts with what a certificate says of them.

    Attributes:
        cuts: ``(D, 2, S)`` limits that splits gave, −infinity and infinity where there were none.
        slopes: ``(D, L)`` of the lines of functions and products, as ``leaf.slopes`` has them.
        kept: ``(D, 2, n)`` limits of the box outside of which the claim holds by the linear limit that was found.
        plain: ``(D,)`` parts that the checker closes by lines of its own.
    """

    cuts: Tensor
    slopes: Tensor
    kept: Tensor
    plain: Tensor

    # multipliers keep their precision
    LIGHT: ClassVar[frozenset[str]] = frozenset()


class Seen(NamedTuple):
    """What the checker finds for some parts: its relaxation, they as its leaves, the activations that are split."""

    network: Checked
    leaves: Leaves
    which: np.ndarray

    def take(self, index: Tensor) -> Seen:
        """The same for some of them."""
        at = index.numpy()
        return Seen(self.network.take(at), Leaves(*(t[at] for t in self.leaves)), self.which)


class Numbering:
    """What the checker calls the elements of a query's sites, its ReLUs and its slopes.

    Attributes:
        sites: ``(S,)`` number of the activation that is split at each site element; −1 − k for input element k.
        relus: ``(A,)`` choices that are slopes of ReLUs; columns: their numbers among all ReLUs of the network.
        count: number of the network's ReLUs. spans: of each ReLU layer, by position.
        slopes: layer with lines of any slope -> its columns in ``leaf.slopes``; width: of them all.
    """

    def __init__(self, graph: Graph, layout: Layout, checked: CheckedNetwork) -> None:
        layers, positions = list(checked.layers), checked.positions
        starts, end = {}, 0
        for i in read_by_bends(layers):
            starts[i], end = end, end + layers[i].size
        self.sites = torch.full((layout.width,), NONE)
        for j, columns in layout.sites.items():
            at, element = source_of(layers, positions[j], np.arange(graph.nodes[j].size))
            first = np.array([starts.get(i, NONE) for i in at.tolist()], dtype=np.int64)
            self.sites[columns] = torch.from_numpy(np.where(at == 0, -1 - element, np.maximum(first + element, NONE)))
        self.sites[(self.sites < 0) & (self.sites < -graph.nodes[0].size)] = NONE
        self.spans = relu_spans(layers)
        self.count = sum(part.stop - part.start for part in self.spans.values())
        own = [(c, self.spans[positions[i]]) for i, c in layout.choices.items() if positions[i] in self.spans]
        none = torch.zeros(0, dtype=torch.long)
        self.relus, self.columns = (
            torch.cat([none, *(torch.arange(pair[k].start, pair[k].stop) for pair in own)]) for k in (0, 1)
        )
        self.slopes, self.width = {}, 0
        for i in [i for i, layer in enumerate(layers) if layer.kind in SLOPED]:
            size = 2 * len(layers[i].inputs) * layers[i].size
            self.slopes[i], self.width = slice(self.width, self.width + size), self.width + size


class CheckedBounder(PartBounder):
    """Bounds parts by what the checker says of them.

    Args:
        query: one problem in float64 on the CPU, as :class:`clinch.certificates.proof_search.ProofSearch` takes it.
        certified: the same in the checker's numbers.
        checked: the network as the checker reads it.
        claim: the bound of a linear objective that every part is to have; None: nothing is to be feasible.
        target: what the dual function is to reach.
        over: whether the time is.
    """

    def __init__(
        self, query: Query, certified: CertifiedQuery, checked: CheckedNetwork, claim: float | None, target: float,
        over: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.query, self.graph, self.layout = query, query.graph, Layout.of(query)
        self.certified, self.checked, self.claim, self.target, self.over = certified, checked, claim, target, over
        self.claimed = certified.better_than(claim)
        self.inputs, self.settings, self.dual_proves = self.graph.nodes[0].size, GeneralSplit(), True
        self.light = self.graph.to(SEARCH, "cpu")
        self.balls = checked_balls(query)
        self.numbers = Numbering(self.graph, self.layout, checked)
        self.unsplittable = self.numbers.sites == NONE

    def bound(self, nodes: Parts, fresh: bool, seen: Seen | None = None) -> PartEvaluation:
        """Bounds, after a few steps where the checker's own lines are not enough; parts that the checker accepts have
        reached the claim.

        Args:
            seen: what the checker finds for the parts, where that is known.
        """
        assert isinstance(nodes, ProofParts)
        seen = self.seen(nodes) if seen is None else seen
        lines: dict[int, FreeLines] = {}
        limits, relaxations = self._relaxed(seen.network, lines)
        local = self._local(nodes)
        dual = PartDual(local, self.layout, limits, nodes.cut, nodes.allowed(), relaxations, lines)
        dual.limit(nodes.cuts)
        parts = self.pointed(nodes, seen.network)
        parts = replace(parts, limits=self._splittable(self.layout.pack(limits, nodes.lower.flatten(1))))
        best = self._start(parts, dual)
        plain = nodes.alpha.isnan().all(1) & (nodes.beta == 0).all(1)
        parts = replace(self._at(parts, dual, best, seen.network), plain=plain)
        verdict = self._verdict(parts, seen)
        going = (~(verdict > 0)).nonzero().flatten()
        if len(going):
            best, pace = self._climbed(dual, best, parts.pace, going, fresh)
            parts = self._at(replace(parts, pace=pace, plain=plain & (verdict > 0)), dual, best, seen.network)
            verdict = torch.where(verdict > 0, verdict, self._verdict(parts, seen))
        found = dual(best)
        parts = replace(parts, bound=self._bound(verdict, found.bound), kept=self._kept(parts, dual))
        return PartEvaluation(parts, found.point.reshape(nodes.lower.shape), limits, dual, best)

    def conditions(self, network: Checked) -> Tensor:
        """``(D, K)`` the checker's lower limits of the atoms, by its own lines; −infinity where there are none."""
        rows = {i: forms[None, 1:] for i, forms in self.certified.forms.items()}
        with np.errstate(all="ignore"):
            least = network.lower(rows, self.certified.constants[None, 1:], np.zeros((1, 1)))
        return torch.from_numpy(least).nan_to_num(-torch.inf)

    def pointed(self, nodes: ProofParts, network: Checked) -> ProofParts:
        """Parts that nothing is known about begin with the one condition whose lower limit is largest."""
        blank = nodes.mu.isnan().all(1) & (nodes.choice >= 0).any(1)
        if self.claim is not None or not bool(blank.any()):
            return nodes
        usable = torch.where(nodes.allowed(), self.conditions(network), -torch.inf)
        chosen = torch.zeros_like(nodes.mu).scatter(1, usable.argmax(1, keepdim=True), 1.0)
        use = blank & (usable.amax(1) > 0)
        return replace(nodes, mu=torch.where(use.unsqueeze(1), chosen, nodes.mu))

    def _climbed(
        self, dual: PartDual, packed: Tensor, pace: Tensor, going: Tensor, fresh: bool
    ) -> tuple[Tensor, Tensor]:
        """Multipliers and paces after an ascent of some parts."""
        target = packed.new_full((len(going),), self.target)
        light = dual.take(going).light(self.light)
        climb = Climb(light, packed[going].to(SEARCH), pace[going], target, self._simplex())
        climb.run(self.settings.root_steps if fresh else self.settings.node_steps, 0.2, self.over)
        packed, pace = packed.clone(), pace.clone()
        packed[going], pace[going] = climb.best.to(packed), (2.0 * climb.paces).clamp(0.15, 1.0).to(pace)
        return torch.minimum(torch.maximum(packed, dual.least), dual.most), pace

    def _at(self, parts: ProofParts, dual: PartDual, packed: Tensor, network: Checked) -> ProofParts:
        """The parts with these multipliers."""
        alpha, beta, mu = packed.tensor_split([self.layout.freedom, self.layout.freedom + self.layout.width], 1)
        return replace(parts, alpha=alpha, beta=beta, mu=mu, slopes=self._slopes(dual, packed, network))

    def refine(self, found: PartEvaluation) -> PartEvaluation:
        """As they are: what is cut away would have to be proven, too."""
        return found

    def in_balls(self, nodes: Parts) -> Parts:
        """As they are."""
        return nodes

    def _kept(self, parts: ProofParts, dual: PartDual) -> Tensor:
        """Boxes ``(D, 2, n)`` outside of which the linear limit is above the target."""
        low, high = parts.lower.flatten(1), parts.upper.flatten(1)
        offset = dual.offset - (0.0 if isinstance(self.query.objective, Distance) else self.target)
        one = parts.problem.new_zeros(1)
        kept = torch.stack(clip_to_clauses(low, high, dual.rows.unsqueeze(1), offset.unsqueeze(1), one), 1)
        gone = (kept[:, 0] > kept[:, 1]).any(1)
        return torch.where(gone[:, None, None], torch.stack([low, high], 1), kept)

    # --- pieces -------------------------------------------------------------------------------------------------------

    def seen(self, nodes: ProofParts) -> Seen:
        """What the checker finds for parts."""
        used = nodes.cut.any(0).nonzero().flatten()
        which, at = torch.unique(self.numbers.sites[used], return_inverse=True)
        sides = []
        for side, (box, how) in enumerate(((nodes.lower, "amax"), (nodes.upper, "amin"))):
            cut = nodes.cuts.new_full((len(nodes), len(which)), math.inf if side else -math.inf)
            cut = cut.scatter_reduce(1, at.expand(len(nodes), -1), nodes.cuts[:, side, used], how)
            sides.append(torch.cat([box.flatten(1), cut], 1).numpy())
        signs = np.zeros((len(nodes), self.numbers.count), dtype=np.int8)
        leaves, layers = Leaves(signs, sides[0], sides[1], nodes.choice.numpy()), self.checked.layers
        box = Box(*(side[:, : self.inputs] for side in sides))
        with np.errstate(all="ignore"):
            proven = self.checked.proven or {}
            cuts = cuts_of(leaves, which.numpy(), layers, proven) if len(which) else proven
            network = Checked(layers, box, self.balls, cuts)
        return Seen(network, leaves, which.numpy())

    def _relaxed(
        self, network: Checked, lines: dict[int, FreeLines]
    ) -> tuple[dict[int, Interval], dict[int, Relaxation]]:
        """The checker's limits of the sites and the input, and relaxations from these."""
        limits = {}
        for j in (0, *self.layout.sites):
            shape = (-1, *self.graph.nodes[j].shape)
            limits[j] = Interval(
                *(torch.from_numpy(t).reshape(shape) for t in network.limits[self.checked.positions[j]])
            )
        quick = quick_relax(lines)

        def relax(graph: Graph, i: int, inputs: Sequence[Interval]) -> Relaxation:
            own = None if i in self.layout.choices else self.checked.lines(graph, i, network)
            return quick(graph, i, inputs) if own is None else own

        return limits, relaxations_from(self.graph, limits, self.query.nodes, relax)

    def _slopes(self, dual: PartDual, best: Tensor, network: Checked) -> Tensor:
        """``(D, L)`` slopes of all lines: the checker's own where nothing else was chosen."""
        found = best.new_zeros(len(best), self.numbers.width)
        chosen, _, _ = dual.split(best)
        by_layer = {}
        for i, alpha in chosen.items():
            slopes = dual.passes.lines[i].slopes(alpha)
            at = self.checked.bend(i)
            if slopes is not None and at in self.numbers.slopes:
                by_layer[at] = slopes.flatten(1)
        for at, columns in self.numbers.slopes.items():
            lines = network.lines[at]
            own = torch.from_numpy(np.concatenate([lines.low, lines.high]).swapaxes(0, 1).reshape(len(best), -1))
            theirs = by_layer.get(at, own)
            usable = theirs.shape == own.shape
            found[:, columns] = torch.where(theirs.isfinite(), theirs, own) if usable else own
        return found.float()

    def _splittable(self, packed: Tensor) -> Tensor:
        """Limits of the sites, a single number where the checker knows no split."""
        packed[:, 0, self.unsplittable] = packed[:, 1, self.unsplittable]
        return packed

    def numbers_of(self, parts: ProofParts, which: Tensor) -> dict[str, np.ndarray]:
        """The tensors of the parts as leaves; which: ``(V,)`` numbers of the activations that are split. Where all are
        plain there are no columns for slopes."""
        used = parts.cut.any(0).nonzero().flatten()
        nu = parts.beta.new_zeros(len(parts), len(which))
        nu.index_add_(1, torch.searchsorted(which, self.numbers.sites[used]), parts.beta[:, used])
        columns, slopes = (
            (self.numbers.relus, parts.slopes) if not bool(parts.plain.all()) else (NOTHING, parts.slopes[:, :0])
        )
        alpha = parts.alpha[:, columns]
        given = {
            "alpha": alpha,
            "beta": torch.zeros_like(alpha),
            "mu": parts.mu,
            "nu": nu,
            "slopes": slopes,
        }
        return {f"leaf.{name}": t.numpy() for name, t in given.items()}

    def columns_of(self, parts: ProofParts) -> np.ndarray:
        """``leaf.columns`` of :meth:`numbers_of`."""
        return (NOTHING if bool(parts.plain.all()) else self.numbers.columns).numpy()

    def _verdict(self, parts: ProofParts, seen: Seen) -> Tensor:
        """``(D,)`` the checker's lower bounds of what has to be positive."""
        tensors = self.numbers_of(parts, torch.from_numpy(seen.which))
        tensors = {name: np.nan_to_num(t, posinf=0.0, neginf=0.0) for name, t in tensors.items()}
        tensors["leaf.weight"] = np.ones((len(parts), 1))
        with np.errstate(all="ignore"):
            found = margins(
                Certificate({}, tensors),
                seen.network,
                self.claimed,
                seen.leaves,
                seen.which,
                self.columns_of(parts),
            )
        return torch.from_numpy(found)

    def _bound(self, verdict: Tensor, bound: Tensor) -> Tensor:
        """What is proven of the parts: that of the checker where it bounds an objective."""
        if self.claim is not None:
            least = self.claim + verdict
            below = math.nextafter(self.claim, -math.inf)
        else:
            least, below = bound, math.nextafter(self.target, -math.inf)
        least = least.nan_to_num(-math.inf, math.inf, -math.inf).clamp(max=below)
        return torch.where(verdict > 0, math.inf, least)
