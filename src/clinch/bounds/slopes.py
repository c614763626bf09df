"""Ascent on the slopes of lower lines: the inner loop of α-CROWN (Xu et al. 2020, arXiv 2011.13824).

A form's bound is a function of the slope of every open ReLU's lower line, ``α`` in [a, 1]. One step of the ascent is a
pass backward and a pass forward:

* backward, the form's coefficients ``A`` on the output of every ReLU, and from those on the input its minimiser;
* forward, that minimiser through the lines that the backward pass used: ``v`` at the input of every ReLU.

The bound is linear in each layer's slopes given the others', with ``∂ bound / ∂ α_j = max(A_j, 0) · v_j``: what
automatic differentiation would find, without its memory and temporaries.

Nodes of other functions choose among mixtures of valid lines (:mod:`clinch.bounds.free_lines`) in the same two passes.
Every form has choices of its own. They are looked for in float32, where a pass costs half, and the bound is evaluated
in float64 at the choices found. Any in range give a proven bound, so that nothing rests on float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor

from clinch.bounds.dead import MOSTLY_ALIVE, cut, cuttable
from clinch.bounds.free_lines import FreeLines, lines_of
from clinch.geometry.linear_minimum import flatten_ball, linear_minimum
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.ops.base import Interval, Relaxation
from clinch.query import Activations, Forms
from clinch.runtime import deadline

#: decay of the two moments of Adam, faster than usual: a few steps must do
FIRST, SECOND = 0.4, 0.9
#: first step on slopes in [0, 1]; cosine decay to zero. Measured: 0.2 to 1 end within 1e-4 of each other after 20 steps
STEP_SIZE = 0.4

#: dtype of the search; the bound is evaluated in that of the graph
SEARCH = torch.float32

Slopes = dict[int, Tensor]


class Passes:
    """The two passes for one block of problems and forms.

    Args:
        graph: the network in the dtype to compute in.
        forms: r forms for b problems.
        region: b regions.
        lines: of every node with a choice that the forms depend on, for the b problems.
        relaxations: of the other non-affine nodes, likewise.
    """

    def __init__(
        self, graph: Graph, forms: Forms, region: Region,
        lines: Mapping[int, FreeLines], relaxations: Mapping[int, Relaxation],
    ) -> None:  # fmt: skip
        self.graph, self.forms, self.region = graph, forms, region
        self.lines, self.relaxations = lines, relaxations
        self.shape = (region.size, forms.count)
        self.lower, self.upper = (t.flatten(1).unsqueeze(1) for t in (region.lower, region.upper))
        self.nodes = [i for i in graph.ancestors(forms.nodes) if i]
        self.affine = {i: graph.relax(i, []) for i in self.nodes if graph.nodes[i].op.affine}
        #: what the nodes with a choice read
        self.read = [j for i in lines for j in graph.nodes[i].inputs]
        #: coefficients on the outputs of non-affine nodes in the last backward pass, as their lines keep them
        self.seen: dict[int, Tensor] = {}

    def take(self, index: Tensor) -> Passes:
        """The same for some problems."""
        lines = {i: line.on(index) for i, line in self.lines.items()}
        relaxations = {i: r.take(index) for i, r in self.relaxations.items()}
        part = Passes(self.graph, self.forms.take(index), self.region.take(index), lines, relaxations)
        part.seen = {i: rows[index] for i, rows in self.seen.items()}
        return part

    def backward(self, slopes: Slopes) -> tuple[Tensor, Tensor]:
        """Bounds ``(b, r)`` at choices ``(b, r, m)`` of each node, and the minimisers ``(b, r, inputs)``."""
        rows, offset = self.linear(slopes)
        if rows is None:
            return offset, self.lower.expand(*self.shape, -1)
        value, point = self._minimum(rows)
        return offset + value, point

    def linear(self, slopes: Slopes, arrived: dict[int, Tensor] | None = None) -> tuple[Tensor | None, Tensor]:
        """The linear lower limits that choices give: rows ``(b, r, inputs)``, None for zeros, and offsets ``(b, r)``.

        Args:
            arrived: receives the coefficients on every node.
        """
        offset = self.forms.constant.expand(self.shape)
        pending = {i: c.expand(self.shape[0], *c.shape[1:]) for i, c in self.forms.coefficients.items()}
        for i in reversed(self.nodes):
            if i not in pending:
                continue
            deadline.look()
            rows = pending.pop(i)
            if arrived is not None:
                arrived[i] = rows
            if i in self.lines:
                back, constant, self.seen[i] = self.lines[i].backward(rows.flatten(2), slopes[i])
                carried = [t.reshape(*self.shape, *shape) for t, shape in zip(back, self.graph.shapes(i))]
            elif i in self.affine:
                carried, constant = self.affine[i].backward(rows)
            else:
                self.seen[i] = rows
                carried, constant = self.relaxations[i].backward(rows)
            offset = offset + constant
            for j, part in zip(self.graph.nodes[i].inputs, carried):
                pending[j] = pending[j] + part if j in pending else part
        return (pending[0].flatten(2) if 0 in pending else None), offset

    def _minimum(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The minimum over box ∩ ball; with several balls the largest of their minima."""
        if not self.region.balls:
            point = torch.where(rows > 0, self.lower, self.upper)
            return torch.linalg.vecdot(rows, point), point
        values, points = zip(
            *(linear_minimum(rows, self.lower[:, 0], self.upper[:, 0], flatten_ball(b)) for b in self.region.balls)
        )
        value, which = torch.stack(values).max(0)
        index = which[None, :, :, None].expand(1, *points[0].shape)
        return value, torch.stack(points).gather(0, index)[0]

    def gradient(self, slopes: Slopes, point: Tensor) -> Slopes:
        """Each bound's gradient by its choices, ``(b, r, m)`` per node, after :meth:`backward` at these choices."""
        return self.rises(slopes, self.activations(slopes, point, self.read))

    def activations(self, slopes: Slopes, point: Tensor, wanted: Iterable[int]) -> Activations:
        """Values of wanted nodes, ``(b·r, *node_shape)``, where points go through the lines that rows chose."""
        override = {i: partial(self.through, i, slopes) for i in (*self.lines, *self.relaxations)}
        return self.graph.forward(point.reshape(-1, *self.graph.input_shape), wanted, override, in_parts=True)

    def rises(self, slopes: Slopes, at: Activations) -> Slopes:
        """The gradient by choices, from :meth:`activations` of the nodes that those with a choice read."""
        nodes = self.graph.nodes
        return {
            i: line.gradient([at[j].reshape(*self.shape, -1) for j in nodes[i].inputs], self.seen[i], slopes[i])
            for i, line in self.lines.items()
        }

    def through(self, i: int, slopes: Slopes, *inputs: Tensor) -> Tensor:
        """What the lines that rows chose in the last backward pass say of a node at values of its inputs."""
        if i not in self.lines:
            return self._adjoint(i, *inputs)
        at = [h.reshape(*self.shape, -1) for h in inputs]
        return self.lines[i].forward(at, self.seen[i], slopes[i]).reshape(-1, *self.graph.nodes[i].shape)

    def _adjoint(self, i: int, *inputs: Tensor) -> Tensor:
        """Values at a node's inputs through the lines its relaxation used: the derivative of the bound by its rows."""
        with torch.enable_grad():
            rows = self.seen[i].detach().requires_grad_()
            carried, constant = self.relaxations[i].backward(rows)
            total = constant.sum() + sum((c * v.reshape(c.shape)).sum() for c, v in zip(carried, inputs))
            (out,) = torch.autograd.grad(total, rows)
        return out.reshape(-1, *self.graph.nodes[i].shape)


def ascend(
    graph: Graph,
    light: Graph,
    forms: Forms,
    region: Region,
    limits: Mapping[int, Interval],
    steps: int,
    stop: Callable[[], bool],
) -> Tensor:
    """The best bounds ``(b, r)`` that so many steps on the slopes find, the first at CROWN's slopes.

    Args:
        graph: the network in float64.
        light: the same network in the dtype :data:`SEARCH`.
        forms: r forms for b problems; region: b regions.
        limits: of the inputs of non-affine nodes that the forms depend on, ``(b, *shape)``.
        steps: evaluations; one gives CROWN's bound.
        stop: asked after every step; once true, the best so far counts.

    Returns:
        Proven lower limits; minus infinity where nothing follows (an unbounded input).
    """
    lines, fixed, coarse = {}, {}, {}
    for i in graph.ancestors(forms.nodes):
        node = graph.nodes[i]
        if not i or node.op.affine:
            continue
        inputs = [limits[j] for j in node.inputs]
        free = lines_of(node.op, inputs, graph.shapes(i))
        if free is not None:
            lines[i] = free
        else:
            fixed[i] = graph.relax(i, inputs)
            coarse[i] = light.relax(i, [Interval(*(t.to(SEARCH) for t in limit)) for limit in inputs])
    alive = _alive(graph, forms, lines)
    if alive:
        graph, light = cut(graph, alive), cut(light, alive)
        rows = {i: c[..., alive[i]] if i in alive else c for i, c in forms.coefficients.items()}
        forms = Forms(rows, forms.constant)
        lines = {i: line.take(alive[i]) if i in alive else line for i, line in lines.items()}
    exact = Passes(graph, forms, region, lines, fixed)
    slopes = {i: line.start.expand(*exact.shape, -1) for i, line in lines.items()}
    movable = any(bool((line.least < line.most).any()) for line in lines.values())
    if steps > 1 and movable and not stop():
        device = region.lower.device
        quick = Passes(
            light, forms.to(SEARCH, device), region.to(SEARCH, device),
            {i: line.to(SEARCH) for i, line in lines.items()}, coarse,
        )  # fmt: skip
        found = _search(quick, {i: s.to(SEARCH) for i, s in slopes.items()}, steps, stop)
        # float32 may round a slope out of its range
        slopes = {
            i: torch.minimum(torch.maximum(s.to(region.lower.dtype), lines[i].least), lines[i].most)
            for i, s in found.items()
        }
    bound, _ = exact.backward(slopes)
    return torch.where(torch.isfinite(bound), bound, -torch.inf)


def _alive(graph: Graph, forms: Forms, lines: Mapping[int, FreeLines]) -> dict[int, Tensor]:
    """The elements that are not dead for all problems, of ReLU nodes where leaving out the others pays."""
    alive = {}
    for i in cuttable(graph, forms.nodes):
        living = lines[i].alive() if i in lines else None
        if living is not None:
            # a layer without elements has no shape to speak of
            kept = living.nonzero().flatten() if bool(living.any()) else living.new_zeros(1, dtype=torch.long)
            if len(kept) < MOSTLY_ALIVE * graph.nodes[i].size:
                alive[i] = kept
    return alive


def _search(passes: Passes, start: Slopes, steps: int, stop: Callable[[], bool]) -> Slopes:
    """Projected Adam; each form keeps the slopes of its best bound."""
    slopes = {i: s.clone(memory_format=torch.contiguous_format) for i, s in start.items()}
    best = {i: s.clone() for i, s in slopes.items()}
    moments = {i: (torch.zeros_like(s), torch.zeros_like(s)) for i, s in slopes.items()}
    reached: Tensor | None = None
    for step in range(steps):
        value, point = passes.backward(slopes)
        if reached is None:
            reached = value
        else:
            better = value > reached  # false for NaN
            reached = torch.where(better, value, reached)
            for i, s in slopes.items():
                best[i] = torch.where(better.unsqueeze(2), s, best[i])
        if step == steps - 1 or stop():
            break
        rate = STEP_SIZE * 0.5 * (1 + math.cos(math.pi * step / steps)) / (1 - FIRST ** (step + 1))
        for i, gradient in passes.gradient(slopes, point).items():
            first, second = moments[i]
            first.lerp_(gradient, 1 - FIRST)
            second.mul_(SECOND).addcmul_(gradient, gradient, value=1 - SECOND)
            scale = (second / (1 - SECOND ** (step + 1))).sqrt_().add_(torch.finfo(gradient.dtype).tiny)
            moved = slopes[i].addcdiv_(first, scale, value=rate)
            line = passes.lines[i]
            torch.minimum(torch.maximum(moved, line.least, out=moved), line.most, out=moved)
    return best
