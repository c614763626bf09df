"""How a study answers for its images: what is cheap on a whole batch at once, then a search for one image.

Every point goes through a ledger, which has it checked by the user's own model in its dtype and in float64, and every
bound too, so that a proof and an attack that contradict each other are an :class:`clinch.errors.UnsoundResult`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from clinch.errors import ClinchError, UnboundedInputError, UnsupportedOperator
from clinch.geometry.norms import norm, norm_of
from clinch.solver.ledger import Ledger
from clinch.solver.solution import Proof
from clinch.study.store import Row
from clinch.study.template import ATTACKED, CLOSED, MISCLASSIFIED, OPEN, ROBUST, Template

if TYPE_CHECKING:
    from clinch.modeling.model import SymbolicNetwork
    from clinch.query import Query
    from clinch.solver.settings import Portfolio

#: passes of the attack inside the ball that every image gets whose bound leaves it open
PASSES = 500
#: most images of a batch, and most activations of all images of a batch together: a kill costs a batch, so that one is
#: to take about a second
LARGEST, ACTIVATIONS = 128, 2**20
#: hidden activations up to which linear bounds come first, with slopes of their own too
NARROW = 2000
#: most pairs of hidden activations of all images of a batch, with slopes and without: the work of linear bounds grows
#: with each neuron that is bounded and each one on its way
SLOPED_PAIRS, PAIRS = 2**25, 2**29
#: most classes of a network whose first-order radii are computed, and elements of all gradients held at once
CLASSES, GRADIENTS = 100, 2**24
#: names of methods in the order they come
CLEAN, LINEAR, ATTACK, SLOPES, SEARCH = "clean prediction", "CROWN", "attack", "alpha-CROWN", "search"


def passes_of(template: Template, network: SymbolicNetwork) -> list[tuple[tuple[str, ...], int]]:
    """The passes over all images, cheapest methods first: names of methods and the images of a batch.

    Where the layers are narrow, linear bounds cost less than an attack, and answer for most images; where they are
    wide, the attack comes first for all images. Both depend on the network alone, and on no clock, so that a resumed
    study has the batches of an uninterrupted one; the numbers of images were chosen so that a batch of the reference
    networks takes one to two seconds of one core.
    """
    nodes = network.graph.nodes
    hidden = sum(nodes[j].size for node in nodes[1:] if not node.op.affine for j in node.inputs)
    length = max(1, min(LARGEST, ACTIVATIONS // sum(node.size for node in nodes)))

    def most(pairs: int) -> int:
        return max(1, min(length, pairs // max(1, hidden) ** 2))

    if hidden <= NARROW:
        near = (CLEAN, ATTACK, LINEAR)
        passes = [(near if template.eps is None else (CLEAN, LINEAR, ATTACK, SLOPES), most(SLOPED_PAIRS))]
    else:
        passes = [((CLEAN, ATTACK), length), ((LINEAR,), most(PAIRS))]
    without = {"attacks": (LINEAR, SLOPES), "bounds": (ATTACK,)}.get(template.methods, ())
    kept = [(tuple(name for name in names if name not in without), length) for names, length in passes]
    return [(names, length) for names, length in kept if names]


class Batch:
    """Answers for the images of one batch, each as good as the methods called so far made it.

    Args:
        template: what is asked.
        network: the classifier.
        x: ``(B, *input_shape)`` in its dtype.
        y: ``(B,)`` labels.
        time_limit: seconds for everything that is done with this batch.
        device: where engines compute.
    """

    def __init__(
        self,
        template: Template,
        network: SymbolicNetwork,
        x: Tensor,
        y: Tensor,
        *,
        time_limit: float = math.inf,
        device: torch.device | None = None,
    ) -> None:
        self.template, self.network, self.y = template, network, y
        self.x = x = x.clamp(template.lower, template.upper)  # what is outside is so by rounding
        self.device = device or network.device
        self.query = template.problem(network, x.double(), y).query
        self.ledger = Ledger(self.query, time_limit=time_limit, gap=template.gap)
        self.methods = [""] * len(x)
        self.clean = torch.zeros(len(x), dtype=torch.bool)
        self.margin = torch.full((len(x),), torch.nan, dtype=torch.float64)
        self.first_order = torch.full((len(x),), torch.nan, dtype=torch.float64)
        self._began = time.monotonic()
        # the objective of a question of yes or no is a constant, and so its own bound: the first input found answers it
        trivial = 0.0 if template.eps is None else self.query.objective.value(self.query.region.lower, {})
        self.ledger.prove(torch.as_tensor(trivial).expand(len(x)).double(), Proof.GEOMETRY, "geometry")

    # --- methods ------------------------------------------------------------------------------------------------------

    def cheap(self, methods: Sequence[str], seed: int) -> None:
        """Some of the methods that every image gets, in this order; each on the images that are still open."""
        for method in methods:
            if method == CLEAN:
                self.clean = self.ledger.offer(self.x, CLEAN)
                self._sign(CLEAN, self.clean.nonzero().flatten())
                self._first_order()
            elif method == ATTACK:
                self._attack(seed)
            elif self.template.eps is None:
                self._near()
            else:
                self._bound(method)

    @property
    def complete(self) -> bool:
        """Whether there was time for everything that was called."""
        return not self._late()

    def search(self, seed: int, settings: Portfolio) -> bool:
        """All engines together, until the time is over; whether the user stopped them."""
        from clinch.solve import search

        before = self.ledger.value.clone(), self.ledger.bound.clone()
        search(self.query.moved(self.device), self.ledger, seed, settings=settings)
        better = (self.ledger.value < before[0]) | (self.ledger.bound > before[1])
        self._sign(SEARCH, better.nonzero().flatten())
        return any(note.startswith("Interrupted") for note in self.ledger.notes)

    def remember(self, rows: Sequence[Row]) -> None:
        """Start from earlier answers of the B images: their inputs are checked again."""
        held = torch.tensor([b for b, row in enumerate(rows) if row.found is not None], dtype=torch.int64)
        if len(held):
            x = torch.stack([_from_bytes(row.found, self.x[0]) for row in rows if row.found is not None])
            self.ledger.offer(x, ATTACK, held)
        for b, row in enumerate(rows):
            if self.template.eps is None and row.bound is not None and row.proof is not None:
                proven = torch.tensor([row.bound], dtype=torch.float64)
                self.ledger.prove(proven, Proof[row.proof], row.method, torch.tensor([b]))
            for name, held in (("margin", self.margin), ("first_order", self.first_order)):
                if (number := getattr(row, name)) is not None:
                    held[b] = number
        self.methods = [row.method for row in rows]

    def _first_order(self) -> None:
        """The first-order radius of every image, where the norm has one and the classes are few."""
        from clinch import attacks

        classes = self.network.graph.nodes[-1].size
        if norm_of(self.template.norm).counts or classes > CLASSES:
            return
        length = max(1, GRADIENTS // (classes * self.x[0].numel()))
        try:
            parts = [
                attacks.first_order_radius(self.network, x, y, norm=self.template.norm)
                for x, y in zip(self.x.split(length), self.y.split(length))
            ]
        except ClinchError as reason:
            self.ledger.note(str(reason))
            return
        self.first_order = torch.cat(parts).cpu()

    def _attack(self, seed: int) -> None:
        """The attack inside the ball; without a radius a quick one for the nearest input."""
        rows = self._open()
        if not len(rows) or self._late():
            return
        if self.template.eps is not None:
            from clinch.attacks.portfolio import worst

            found = worst(
                self.network, self.x[rows], self.y[rows], eps=self.template.eps, norm=self.template.norm,
                passes=PASSES, bounds=(self.template.lower, self.template.upper), seed=seed,
            )  # fmt: skip
            hit, x = found.success.cpu(), found.x
            self.ledger.looked = True
        else:
            from clinch.attacks.portfolio import attack

            part = self.query.take(rows)
            ledger = Ledger(part, time_limit=self.ledger.remaining, gap=self.template.gap)
            attack(part.moved(self.device), ledger, seed=seed, thorough=False)
            hit, x = ledger.value.isfinite(), ledger.x
        self._sign(ATTACK, rows[hit][self.ledger.offer(x[hit], ATTACK, rows[hit])])

    def _near(self) -> None:
        """Without a radius: the largest ball that linear bounds prove free of other classes."""
        from clinch.bounds.certified_radius import certified_radius, crown_ball

        rows = self._open()
        if not len(rows) or self._late():
            return
        part, value = self.query.take(rows).moved(self.device), self.ledger.value[rows].to(self.device)
        try:
            known = crown_ball(part, value, self._late)
            self.ledger.prove(known.bound, Proof.LINEAR_RELAXATION, LINEAR, rows)
            found = certified_radius(part, known.bound, value, known=known, stop=self._late)
        except (UnsupportedOperator, UnboundedInputError) as reason:
            self.ledger.note(str(reason))
            return
        self.ledger.prove(found, Proof.LINEAR_RELAXATION, LINEAR, rows)

    def _bound(self, method: str) -> None:
        """Proven lower limits of the margins of the open images; robust where they are positive."""
        rows = self._open()
        margin = self._margins(self.query.take(rows), method) if len(rows) else None
        if margin is None:
            return
        self.margin[rows] = torch.where(self.margin[rows] > margin, self.margin[rows], margin)
        robust = rows[margin > 0]
        proven = torch.full((len(robust),), torch.inf, dtype=torch.float64)
        self.ledger.prove(proven, Proof.LINEAR_RELAXATION, method, robust)
        self._sign(method, robust)

    @torch.no_grad()
    def _margins(self, query: Query, method: str) -> Tensor | None:
        """``(B,)`` proven lower limits of the label's output minus the largest other one over the query's regions;
        None where the time is over, or where a layer has no linear relaxation."""
        from clinch.bounds.alpha import alpha_activation_bounds, alpha_form_bounds
        from clinch.bounds.crown import activation_bounds, form_bounds, relaxations_from

        if self._late():
            return None
        query = query.moved(self.device)
        graph, region, atoms = query.graph, query.region, query.atoms
        try:
            if method == SLOPES:
                limits = alpha_activation_bounds(graph, region, atoms.nodes, stop=self._late)
                lower = alpha_form_bounds(graph, atoms, region, limits, stop=self._late)
            else:
                limits = activation_bounds(graph, region, atoms.nodes, stop=self._late)
                lower = form_bounds(graph, atoms, region, relaxations_from(graph, limits, atoms.nodes))
        except (UnsupportedOperator, UnboundedInputError) as reason:
            self.ledger.note(str(reason))
            return None
        return lower.amin(1).cpu()

    def _late(self) -> bool:
        return self.ledger.remaining <= 0

    def _open(self) -> Tensor:
        return (~self.ledger.closed).nonzero().flatten()

    def _sign(self, method: str, rows: Tensor) -> None:
        for row in rows.tolist():
            self.methods[row] = method

    # --- rows ---------------------------------------------------------------------------------------------------------

    def rows(self, images: Sequence[int], passes: int, spent: Sequence[float] | None = None) -> list[Row]:
        """The answers as rows of a store.

        Args:
            images: places of the B images in the data.
            passes: that they have been through.
            spent: seconds that each took before; None: none.
        """
        found = self.ledger.value.isfinite()
        x = self.ledger.x.double()
        distance = norm(x - self.x.double(), self.template.norm).tolist()
        size = norm(self.x.double(), self.template.norm).tolist()
        seconds = (time.monotonic() - self._began) / max(1, len(images))
        bound = self.ledger.bound.tolist()
        classes = self._classes(found)
        rows = []
        for b, image in enumerate(images):
            status = self._status(b)
            proven = self._proven(status, bound[b])
            proof = self.ledger.proofs[b] if proven is not None else None
            margin, first_order = float(self.margin[b]), float(self.first_order[b])
            rows.append(Row(
                image, int(self.y[b]), status, distance[b] if found[b] else None, proven,
                None if math.isnan(margin) else max(margin, 0.0) if status == ROBUST else margin,
                None if proof is None else proof.name, self.methods[b], None, passes,
                seconds + (spent[b] if spent else 0.0),
                size[b], None if math.isnan(first_order) else first_order, classes[b],
                self.ledger.x[b].numpy().tobytes() if found[b] else None,
            ))  # fmt: skip
        return rows

    def _classes(self, found: Tensor) -> list[int | None]:
        """The largest output besides the label's at the best input of every image that has one."""
        graph, held = self.network.graph, found.nonzero().flatten()
        classes: list[int | None] = [None] * len(found)
        with torch.no_grad():
            outputs = graph.forward(self.ledger.x[held].to(self.device, self.x.dtype))[graph.output].flatten(1).cpu()
        outputs.scatter_(1, self.y[held, None], -torch.inf)
        for b, label in zip(held.tolist(), outputs.argmax(1).tolist()):
            classes[b] = label
        return classes

    def _status(self, b: int) -> str:
        if self.clean[b]:
            return MISCLASSIFIED
        if self.ledger.bound[b] == torch.inf:
            return ROBUST if self.template.eps is not None else CLOSED
        if self.template.eps is not None:
            return ATTACKED if self.ledger.value[b].isfinite() else OPEN
        return CLOSED if self.ledger.closed[b] else OPEN

    def _proven(self, status: str, bound: float) -> float | None:
        """The distance below which nothing is misclassified."""
        if status == MISCLASSIFIED:
            return 0.0
        if self.template.eps is not None:
            return self.template.eps if status == ROBUST else None
        return bound if bound >= 0 else None


def _from_bytes(content: bytes, like: Tensor) -> Tensor:
    flat = np.frombuffer(content, dtype=like.numpy().dtype).copy()
    return torch.from_numpy(flat).reshape(like.shape)
