"""A second checker, written from docs/certificates.md alone, in rational numbers and plain Python.

It shares no line with ``clinch.checker``: it takes headers and tensors as they are, and rounds nothing. Networks are
small and made of dense layers and ReLUs; regions are boxes.
"""

from __future__ import annotations

from fractions import Fraction
from math import inf
from typing import Any, NamedTuple

Row = list[Fraction]
#: limits of one element; lines of a ReLU: slope below, slope and offset above
Limits = list[tuple[Fraction, Fraction]]


class Dense(NamedTuple):
    source: int
    weight: list[Row]
    bias: Row


class Relu(NamedTuple):
    source: int
    slope: Fraction


class Leaf(NamedTuple):
    """Box, signs of ReLUs by number, chosen atoms, and limits of activations by number."""

    box: Limits
    signs: dict[int, int]
    atoms: set[int]
    cuts: dict[int, tuple[Fraction | float, Fraction | float]]


def exact(values: Any) -> Any:
    """Numbers of an array as fractions, in nested lists."""
    if getattr(values, "ndim", 0):
        return [exact(v) for v in values]
    return Fraction(float(values))


class ExactChecker:
    """One certificate over one layer list: ``network`` and ``certificate`` are pairs of header and tensors."""

    def __init__(self, network: tuple[dict, dict], certificate: tuple[dict, dict]) -> None:
        (header, weights), (self.header, self.tensors) = network, certificate
        self.layers: list[Dense | Relu | None] = []
        self.sizes: list[int] = []
        for stated in header["layers"]:
            kind = stated["kind"]
            if kind == "input":
                self.layers.append(None)
                self.sizes.append(len(self.tensors["region.lower"]))
            elif kind == "dense":
                weight = exact(weights[stated["weight"]])
                bias = exact(weights[stated["bias"]]) if "bias" in stated else [Fraction(0)] * len(weight)
                self.layers.append(Dense(stated["inputs"][0], weight, bias))
                self.sizes.append(len(weight))
            else:
                assert kind == "relu", kind
                self.layers.append(Relu(stated["inputs"][0], Fraction(float(stated.get("slope", 0.0)))))
                self.sizes.append(self.sizes[stated["inputs"][0]])
        self.relus = [i for i, layer in enumerate(self.layers) if isinstance(layer, Relu)]
        self.first, count = {}, 0
        for i in self.relus:
            self.first[i] = count
            count += self.sizes[i]
        #: activations are numbered in the order of the layers that ReLUs read
        self.read, at = {}, 0
        for j in sorted({self.layers[i].source for i in self.relus}):
            self.read[j] = at
            at += self.sizes[j]
        clause = self.tensors["atoms.clause"].tolist()
        self.members = [[k for k, c in enumerate(clause) if c == d] for d in range(max(clause, default=-1) + 1)]
        claim = self.header["claim"]
        self.bound = None if claim["kind"] == "infeasible" else Fraction(float(claim["value"]))
        box = list(zip(exact(self.tensors["region.lower"]), exact(self.tensors["region.upper"])))
        #: what holds on the whole region, and what lemmas have proven there of activations by number
        self.root = Leaf(box, {}, {m[0] for m in self.members if len(m) == 1}, {})
        self.proven: dict[int, tuple[Fraction, Fraction]] = {}
        self.nothing = False

    # --- the tree ---------------------------------------------------------------------------------------------------

    def leaves(self) -> list[Leaf]:
        """In the order of their nodes."""
        kind, index, first = (self.tensors[f"tree.{n}"].tolist() for n in ("kind", "index", "first"))
        threshold = exact(self.tensors["tree.threshold"])
        found, going = {}, [(0, self.root)]
        while going:
            node, state = going.pop()
            k, i, child, t = kind[node], index[node], first[node], threshold[node]
            if k == 0:
                found[node] = state
            elif k == 1:
                for side, sign in enumerate((1, -1)):
                    going.append((child + side, state._replace(signs={**state.signs, i: sign})))
            elif k == 2:
                low, high = state.box[i]
                for side, ends in enumerate(((low, t), (t, high))):
                    going.append((child + side, state._replace(box=[*state.box[:i], ends, *state.box[i + 1 :]])))
            elif k == 3:
                for side, atom in enumerate(self.members[i]):
                    box = self.cut(state.box, atom)
                    going.append((child + side, state._replace(atoms=state.atoms | {atom}, box=box)))
            else:
                low, high = state.cuts.get(i, (-inf, inf))
                for side, ends in enumerate(((low, t), (t, high))):
                    going.append((child + side, state._replace(cuts={**state.cuts, i: ends})))
        return [found[node] for node in sorted(found)]

    def cut(self, box: Limits, atom: int) -> Limits:
        """The box where an atom about one input element alone holds; a point of it where that is nothing."""
        rows = {name: exact(t)[atom] for name, t in self.tensors.items() if name.startswith("atoms.rows.")}
        own = rows.pop("atoms.rows.input", [])
        used = [j for j, value in enumerate(own) if value]
        if len(used) != 1 or any(any(row) for row in rows.values()):
            return box
        (j,), (low, high) = used, box[used[0]]
        end = min(max(-exact(self.tensors["atoms.constant"])[atom] / own[j], low), high)
        return [*box[:j], (low, end) if own[j] > 0 else (end, high), *box[j + 1 :]]

    # --- limits and bounds --------------------------------------------------------------------------------------------

    def limits(self, leaf: Leaf) -> tuple[list[Limits], bool]:
        """Of every layer over the leaf's box, and whether cuts contradict them."""
        found, empty = [leaf.box], False
        for i, layer in enumerate(self.layers[1:], 1):
            before = found[layer.source]
            if isinstance(layer, Relu):
                a = layer.slope
                found.append([(max(low, a * low), max(u, a * u)) for low, u in before])
                continue
            own = []
            for row, b in zip(layer.weight, layer.bias):
                low = b + sum(w * (lo if w >= 0 else up) for w, (lo, up) in zip(row, before))
                high = b + sum(w * (up if w >= 0 else lo) for w, (lo, up) in zip(row, before))
                own.append((low, high))
            found.append(own)
            if i in self.read and layer.source:
                for e, (low, high) in enumerate(own):
                    if low < 0 < high:
                        unit = [Fraction(int(k == e)) for k in range(len(own))]
                        least = self.lower({i: unit}, Fraction(0), found, {}, {})
                        most = -self.lower({i: [-v for v in unit]}, Fraction(0), found, {}, {})
                        own[e] = (max(low, least), min(high, most))
            if i in self.read:
                for e in range(len(own)):
                    number = self.read[i] + e
                    low, high = leaf.cuts.get(number, (-inf, inf))
                    least, most = self.proven.get(number, (-inf, inf))
                    new = max(own[e][0], low, least), min(own[e][1], high, most)
                    empty = empty or new[0] > new[1]
                    own[e] = own[e] if new[0] > new[1] else new
        return found, empty

    def lower(
        self, rows: dict[int, Row], offset: Fraction, limits: list[Limits], alpha: dict[int, Fraction],
        signs: dict[int, int],
    ) -> Fraction:  # fmt: skip
        """A lower bound of a sum of linear forms of layers."""
        pending = dict(rows)
        for i in range(max(rows, default=0), 0, -1):
            if i not in pending:
                continue
            row, layer = pending.pop(i), self.layers[i]
            if isinstance(layer, Dense):
                offset += sum(r * b for r, b in zip(row, layer.bias))
                n = self.sizes[layer.source]
                part = [sum(r * w[k] for r, w in zip(row, layer.weight)) for k in range(n)]
            else:
                part = []
                for e, r in enumerate(row):
                    slope, add = self.line(i, e, r > 0, limits[layer.source][e], alpha, signs)
                    part.append(r * slope)
                    offset += r * add
            old = pending.get(layer.source, [Fraction(0)] * len(part))
            pending[layer.source] = [a + b for a, b in zip(old, part)]
        row = pending.get(0, [])
        return offset + sum(r * (lo if r >= 0 else up) for r, (lo, up) in zip(row, limits[0]))

    def line(
        self, i: int, e: int, below: bool, ends: tuple[Fraction, Fraction], alpha: dict[int, Fraction],
        signs: dict[int, int],
    ) -> tuple[Fraction, Fraction]:  # fmt: skip
        """Slope and offset of the line below or above a ReLU."""
        a, (low, high), number = self.layers[i].slope, ends, self.first[i] + e
        sign = signs.get(number, 0)
        if sign > 0 or (not sign and low >= 0):
            return Fraction(1), Fraction(0)
        if sign < 0 or (not sign and high <= 0):
            return a, Fraction(0)
        if below:
            return alpha.get(number, Fraction(1) if high > -low else a), Fraction(0)
        chord = (high - a * low) / (high - low)
        return chord, high - chord * high

    # --- the verdict --------------------------------------------------------------------------------------------------

    def position(self, place: str) -> int:
        """Of a named place."""
        if place in ("input", "output"):
            return 0 if place == "input" else len(self.layers) - 1
        kind, k = place.split(":")
        return self.relus[int(k)] if kind == "relu" else self.layers[self.relus[int(k)]].source

    def weighted(self, weight: Fraction, mu: Row) -> tuple[dict[int, Row], Fraction]:
        """Forms by layer and constant of ``weight·(objective − bound) + Σ μ_k atom_k``."""
        t, rows = self.tensors, {}
        offset = sum((m * exact(c) for m, c in zip(mu, t["atoms.constant"])), Fraction(0))
        for name in t:
            if name.startswith("atoms.rows."):
                width = range(t[name].shape[1])
                _add(rows, self.position(name[11:]), [sum(m * exact(r[k]) for m, r in zip(mu, t[name])) for k in width])
            if name.startswith("objective.rows.") and self.bound is not None:
                _add(rows, self.position(name[15:]), [weight * v for v in exact(t[name][0])])
        if self.bound is not None:
            offset += weight * (exact(t["objective.constant"][0]) - self.bound)
        return rows, offset

    def layer_of(self, number: int) -> tuple[int, int]:
        """Layer and element of an activation by its number."""
        j = max((j for j, start in self.read.items() if start <= number), key=self.read.__getitem__)
        return j, number - self.read[j]

    def unit(self, j: int, e: int, value: Fraction) -> Row:
        """A row of a layer with one entry."""
        return [Fraction(0)] * e + [value] + [Fraction(0)] * (self.sizes[j] - e - 1)

    def take_lemmas(self) -> None:
        """Limits that lemmas prove, one layer after another."""
        t = self.tensors
        if "lemma.activation" not in t:
            return
        limits, self.nothing = self.limits(self.root)
        columns, waiting, last, before = t["lemma.columns"].tolist(), [], None, -1
        for d, number in enumerate([*t["lemma.activation"].tolist(), None]):
            j = None if number is None else self.layer_of(number)[0]
            if j != last or number < before:
                for k, side, value in waiting:
                    e = self.layer_of(k)[1]
                    low, high = limits[last][e]
                    new = (max(low, value), high) if side == 0 else (low, min(high, -value))
                    self.nothing = self.nothing or new[0] > new[1]
                    limits[last][e] = limits[last][e] if new[0] > new[1] else new
                waiting, last = [], j
            if number is None:
                break
            before = number
            weight, mu = exact(t["lemma.weight"][d][0]), exact(t["lemma.mu"][d])
            side, alpha = int(t["lemma.side"][d]), {c: exact(v) for c, v in zip(columns, t["lemma.alpha"][d])}
            assert weight >= 0 and all(m >= 0 and (not m or k in self.root.atoms) for k, m in enumerate(mu))
            rows, offset = self.weighted(weight, mu)
            _add(rows, j, self.unit(j, self.layer_of(number)[1], Fraction(1 - 2 * side)))
            waiting.append((number, side, self.lower(rows, offset, limits, alpha, {})))
        named = {self.layer_of(number)[0] for number in t["lemma.activation"].tolist()}
        self.proven = {self.read[j] + e: limits[j][e] for j in named for e in range(self.sizes[j])}
        self.at_root = limits

    def margins(self) -> list[Fraction | float]:
        """For each leaf a lower bound of what has to be positive; infinity where a split contradicts the limits."""
        t = self.tensors
        self.take_lemmas()
        columns, leaves = t["leaf.columns"].tolist(), self.leaves()
        which = sorted({i for i, k in zip(t["tree.index"].tolist(), t["tree.kind"].tolist()) if k == 4})
        found: list[Fraction | float] = []
        for d, leaf in enumerate(leaves):
            whole = self.proven and leaf.box == self.root.box and not leaf.cuts
            limits, empty = (self.at_root, self.nothing) if whole else self.limits(leaf)
            alpha = {c: exact(v) for c, v in zip(columns, t["leaf.alpha"][d])}
            beta = {c: exact(v) for c, v in zip(columns, t["leaf.beta"][d])}
            mu = [exact(v) for v in t["leaf.mu"][d]]
            nu = [exact(v) for v in t["leaf.nu"][d]] if "leaf.nu" in t else [Fraction(0)] * len(which)
            assert all(v >= 0 for v in (*mu, *beta.values())) and all(
                not m or k in leaf.atoms for k, m in enumerate(mu)
            )
            rows, offset = self.weighted(Fraction(1), mu)
            for i in self.relus:
                for e in range(self.sizes[i]):
                    number, j = self.first[i] + e, self.layers[i].source
                    sign = leaf.signs.get(number, 0)
                    low, high = limits[j][e]
                    empty = empty or (sign > 0 and high < 0) or (sign < 0 and low > 0)
                    if beta.get(number, 0):
                        assert sign
                        _add(rows, j, self.unit(j, e, -beta[number] * sign))
            for v, number in zip(nu, which):
                if v:
                    (j, e), ends = self.layer_of(number), leaf.cuts[number]
                    offset -= v * Fraction(ends[1] if v > 0 else ends[0])
                    _add(rows, j, self.unit(j, e, v))
            found.append(inf if empty else self.lower(rows, offset, limits, alpha, leaf.signs))
        return found


def _add(rows: dict[int, Row], at: int, row: Row) -> None:
    rows[at] = [a + b for a, b in zip(rows[at], row)] if at in rows else list(row)
