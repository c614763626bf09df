"""Lemmas of a certificate: limits of activations that are narrower than the checker's own, with what proves them.

They are found as a search finds them (:mod:`clinch.search.refine_by_dual`), layer by layer, by ascent of the dual
function with one activation as the objective. What is written down are slopes and multipliers; the limit itself is what
the checker makes of them, and the next layer starts from that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from clinch.bounds.ascent import ascend
from clinch.bounds.domains import Relaxed, fresh_domains
from clinch.certificates.checked_lines import CheckedNetwork, checked_balls, source_of
from clinch.checker.certificate import Certificate
from clinch.checker.check import relu_spans, take_lemmas
from clinch.checker.layers import read_by_bends
from clinch.checker.lines import Box
from clinch.checker.question import CertifiedQuery
from clinch.checker.rigorous import Relaxation as Checked
from clinch.checker.tree import root_of
from clinch.query import Forms, Linear, Query
from clinch.search.refine_by_dual import with_target
from clinch.search.relu_branching import decided

#: dual evaluations of each limit; numbers that the multipliers of those looked at at once may take
STEPS, ROWS = 20, 2**21
#: limits are worth a lemma where they become narrower by this share of the width
WORTH = 1e-3


class LemmaSearch:
    """Looks for lemmas over the region of one problem.

    Args:
        query: one problem, as :class:`clinch.certificates.proof_search.ProofSearch` takes it.
        certified: the same in the checker's numbers, less the claimed bound.
        goal: that bound; None: there is no linear objective.
        checked: the network as the checker reads it.
        over: whether the time is.

    Attributes:
        network: what the checker finds over the region, with the lemmas so far; proven: their limits, by layer.
    """

    def __init__(
        self, query: Query, certified: CertifiedQuery, goal: float | None, checked: CheckedNetwork,
        over: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.query, self.certified, self.goal, self.checked, self.over = query, certified, goal, checked, over
        box = Box(*(t.flatten(1).numpy() for t in (query.region.lower, query.region.upper)))
        with np.errstate(all="ignore"):
            self.network = Checked(checked.layers, box, checked_balls(query))
        self.proven: dict[int, Box] = {}
        self._found: list[dict[str, np.ndarray]] = []
        read = list(read_by_bends(checked.layers))
        self._starts = dict(zip(read, np.cumsum([0, *(checked.layers[i].size for i in read)]).tolist()))
        self._spans = relu_spans(checked.layers)
        relus = sum(part.stop - part.start for part in self._spans.values())
        self._root = root_of(box.lower[0], box.upper[0], relus, certified.clauses)

    @property
    def sharpened(self) -> CheckedNetwork:
        """The network with what the lemmas prove."""
        return self.checked._replace(root=self.network, proven=self.proven)

    def round(self, conditions: bool) -> None:
        """Look once at every layer whose signs are open.

        Args:
            conditions: only inputs that satisfy the conditions, and are better than the claim, are of interest.
        """
        query, choice = self.query, decided(self.query)
        if conditions and self.goal is None and not bool((choice >= 0).any()):
            return
        if conditions:
            target = torch.tensor([math.inf if self.goal is None else self.goal], dtype=query.dtype)
            query, choice = with_target(query, choice, target)
        for node in [kink.node for kink in self._relaxed(query).kinks]:
            below = [i for i in query.graph.ancestors([node]) if i and i != node]
            if self.over() or not (conditions or any(not query.graph.nodes[i].op.affine for i in below)):
                continue
            self._look(query, node, choice, conditions)

    def _relaxed(self, query: Query) -> Relaxed:
        return self.checked.relaxed(query, self.network, None)

    def _look(self, query: Query, node: int, choice: Tensor, conditions: bool) -> None:
        """Lemmas of what one node reads."""
        graph, j = query.graph, query.graph.nodes[node].inputs[0]
        kink = next(kink for kink in self._relaxed(query).kinks if kink.node == node)
        element = kink.which[((kink.bounds.lower < 0) & (kink.bounds.upper > 0))[0]]
        none = Forms({}, query.region.lower.new_zeros(1, 0))
        own = query if conditions else replace(query, atoms=none, clause=query.clause[:0])
        own_choice = choice if conditions else choice[:, :0]
        form = Forms({j: none.constant.new_zeros(1, 1, *graph.nodes[j].shape)}, none.constant.new_zeros(1, 1))
        relaxed = self._relaxed(replace(own, objective=Linear(form)))
        size = max(1, ROWS // (2 * graph.nodes[j].size + 4 * relaxed.width + 1))
        parts = [self._multipliers(relaxed, j, some, own_choice) for some in element.split(size) if len(some)]
        if parts and not self.over():
            shared = {"columns": parts[0]["columns"]}
            self._take({name: np.concatenate([part[name] for part in parts]) for name in parts[0]} | shared)

    def _multipliers(self, relaxed: Relaxed, j: int, element: Tensor, choice: Tensor) -> dict[str, np.ndarray]:
        """Lemmas of both limits of some elements."""
        count, shape = 2 * len(element), relaxed.query.graph.nodes[j].shape
        each = torch.arange(count)
        rows = relaxed.query.region.lower.new_zeros(count, math.prod(shape))
        rows[each, element.repeat(2)] = torch.where(each < len(element), 1.0, -1.0).to(rows.dtype)
        form = Forms({j: rows.reshape(count, 1, *shape)}, rows.new_zeros(count, 1))
        part = relaxed.take(torch.zeros_like(each))
        part = replace(part, query=replace(part.query, objective=Linear(form)))
        domains = fresh_domains(part, each, choice.expand(count, -1))
        first = replace(domains, mu=torch.zeros_like(domains.mu))
        found = ascend(part, first, STEPS, stop=self.over).domains
        at, place = source_of(self.checked.layers, self.checked.positions[j], element.repeat(2).numpy())
        total = self.query.atoms.count
        weight = found.mu[:, total:] if found.mu.shape[1] > total else rows.new_zeros(count, 1)
        mu = found.mu[:, :total] if found.mu.shape[1] else rows.new_zeros(count, total)
        return {
            "activation": np.array([self._starts[i] for i in at.tolist()], dtype=np.int64) + place,
            "side": (each >= len(element)).to(torch.uint8).numpy(),
            "weight": weight.numpy(), "mu": mu.numpy(),
            "columns": self._columns(part), "alpha": found.alpha.float().numpy(),
        }  # fmt: skip

    def _columns(self, relaxed: Relaxed) -> np.ndarray:
        starts = (self._spans[self.checked.positions[kink.node]].start + kink.which for kink in relaxed.kinks)
        return torch.cat([torch.zeros(0, dtype=torch.long), *starts]).numpy()

    def _take(self, lemmas: dict[str, np.ndarray]) -> None:
        """What the checker makes of the lemmas of one layer."""
        order = np.argsort(lemmas["activation"], kind="stable")
        lemmas = {name: t if name == "columns" else t[order] for name, t in lemmas.items()}
        some = Certificate({}, {f"lemma.{name}": t for name, t in lemmas.items()})
        with np.errstate(all="ignore"):
            found = take_lemmas(some, self.network, self.certified, self._root)
        for i, box in found.items():
            self.proven[i] = box.within(self.proven.get(i, box))
        self._found.append(lemmas)

    def tensors(self) -> dict[str, np.ndarray]:
        """Those of the certificate."""
        if not self._found:
            return {}
        columns = np.unique(np.concatenate([part["columns"] for part in self._found]))
        alpha = np.full((sum(len(part["side"]) for part in self._found), len(columns)), 0.5, dtype=np.float32)
        start = 0
        for part in self._found:
            rows = np.arange(start, start := start + len(part["side"]))
            alpha[np.ix_(rows, np.searchsorted(columns, part["columns"]))] = part["alpha"]
        joined = {
            name: np.concatenate([part[name] for part in self._found])
            for name in ("activation", "side", "weight", "mu")
        }
        return {f"lemma.{name}": t for name, t in (joined | {"columns": columns, "alpha": alpha}).items()}
