"""The LP bound: the exact optimum of the triangle relaxation (Ehlers 2017, arXiv 1705.01320).

The relaxation is the mixed-integer encoding with its binaries left free between 0 and 1: for a ReLU that is the
triangle. What HiGHS returns is a hint; the bound is recomputed from its multipliers by weak duality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from clinch.backends.highs import HighsModel, load
from clinch.backends.program import Program, Vector
from clinch.bounds.crown import activation_bounds, form_bounds, given_limits, relaxations_from
from clinch.bounds.rows import layer_forms
from clinch.encoding.mixed_integer import Encoder
from clinch.encoding.query_program import encode_balls, encode_network
from clinch.errors import ProblemError, UnboundedInputError, UnsupportedByEngine
from clinch.geometry.region import Region
from clinch.network.graph import Graph
from clinch.network.network import Network
from clinch.network.ops.base import Interval
from clinch.network.ops.encoder import Expression
from clinch.query import Forms, Linear, Query


@dataclass(frozen=True)
class FormPrograms:
    """One problem's relaxation with many objectives.

    Attributes:
        program: variables and rows; its cost is zero.
        costs: ``(R, n)``.
        constants: ``(R,)``.
    """

    program: Program
    costs: Vector
    constants: Vector

    def bounds(self) -> Vector:
        """The proven optimum of each objective ``(R,)``, each solve starting from the last one's basis."""
        model: HighsModel = load(self.program)
        found = np.full(len(self.costs), -np.inf)
        for r, (cost, constant) in enumerate(zip(self.costs, self.constants)):
            model.change_cost(cost)
            duals = model.solve().duals
            if duals is not None:
                found[r] = replace(self.program, cost=cost, constant=float(constant)).bound(duals)
        return found


class _RelaxedEncoder(Encoder):
    """The encoder of the relaxation: where binaries are free, a maximum needs its upper line stated as well."""

    def maximum(self, taps: Sequence[Expression], bounds: Sequence[Interval]) -> Expression:
        """As the exact encoding, and under the upper line of :meth:`clinch.network.ops.max_pool.MaxPool.relax`.

        ``y <= m + (u_j − m)/(u_j − l_j)·(e_j − l_j)``, j the candidate of the largest upper limit, m the larger of the
        second largest upper limit and the largest lower limit.
        """
        result = super().maximum(taps, bounds).flat()
        lower, upper = (torch.stack([t[k].flatten() for t in bounds]) for k in (0, 1))
        top, above = upper.max(0)
        others = upper.scatter(0, above.unsqueeze(0), -torch.inf).amax(0)
        threshold = torch.maximum(others, lower.amax(0))
        start = lower.gather(0, above.unsqueeze(0))[0]
        for k, tap in enumerate(taps):
            which = ((above == k) & (top > threshold) & (top > start)).nonzero().flatten()
            if len(which):
                slope = ((top - threshold) / (top - start))[which]
                line = tap.flat().take(which).scaled(slope)
                offset = (threshold[which] - slope * start[which]).numpy()
                self.constrain(result.take(which) + line.scaled(-torch.ones_like(slope)), -np.inf, offset)
        return result.map(lambda t: t.reshape(-1, *taps[0].shape))


def relaxed_programs(graph: Graph, forms: Forms, region: Region, limits: Mapping[int, Interval]) -> FormPrograms:
    """The triangle relaxation of one problem, with one objective per form.

    Args:
        graph: the network in float64.
        forms: R forms for one problem.
        region: one region.
        limits: of every node that a non-affine node reads, with a batch of one.

    Raises:
        UnsupportedOperator: a layer has no encoding; names it.
    """
    encoder = _RelaxedEncoder(region.lower[0], region.upper[0])
    expressions = encode_network(graph, forms.nodes, encoder, limits)
    total = Expression({}, forms.constant[0])
    for node, rows in forms.coefficients.items():
        matrix = rows[0].flatten(1).T
        total = total + expressions[node].flat().map(lambda t, matrix=matrix: t @ matrix)
    encode_balls(_as_query(graph, region), encoder)
    program = encoder.program(Expression({}, torch.zeros(1, dtype=torch.float64)))
    costs = np.zeros((forms.count, program.variables))
    for block, c in total.coefficients.items():
        costs[:, encoder.columns(block)] += c.T.numpy()
    return FormPrograms(program, costs, total.constant.numpy())


def _as_query(graph: Graph, region: Region) -> Query:
    """A region by itself as a query, for the rows of its balls."""
    nothing = Forms({}, region.lower.new_zeros(region.size, 0))
    objective = Linear(Forms({}, region.lower.new_zeros(region.size, 1)))
    return Query(None, graph, region, objective, nothing, torch.zeros(0, dtype=torch.long))  # type: ignore[arg-type]


def lp_form_bounds(graph: Graph, forms: Forms, region: Region, limits: Mapping[int, Interval]) -> Tensor:
    """Proven lower limits ``(B, R)`` of linear forms over the region by linear programs.

    Args:
        graph: the network in float64, on the CPU.
        forms: R forms for B problems.
        region: B regions: boxes cut by balls with p = 0 or 1.
        limits: of the inputs of non-affine nodes.

    Returns:
        The better of the programs' bounds and of :func:`clinch.bounds.crown.form_bounds`' with the same limits, so that
        a failed solve loses nothing but tightness.
    """
    best = form_bounds(graph, forms, region, relaxations_from(graph, limits, forms.nodes))
    for b in range(region.size):
        one = torch.tensor([b])
        local = {i: held.take(one) for i, held in limits.items()}
        programs = relaxed_programs(graph, forms.take(one), region.take(one), local)
        best[b] = torch.maximum(best[b], torch.from_numpy(programs.bounds()))
    return best


@torch.no_grad()
def lp(
    network: Network,
    region: Region,
    c: Tensor | None = None,
    *,
    layer: str | None = None,
    limits: Mapping[str, Interval] | str = "crown",
) -> Tensor:
    """Certified lower limits of ``c_r · layer(x)`` over a region by the LP triangle relaxation.

    ``min c_r · z`` over all x in the region and all activations with ``y >= 0, y >= x, y <= u(x − l)/(u − l)`` at every
    ReLU of open sign. Where Kolter and Madry's tutorial trusts the solver, this recomputes the bound from its
    multipliers; the programs of one input are solved one after the other from the last basis.

    Args:
        network: from :func:`clinch.load`.
        region: from :func:`clinch.bounds.box` or :func:`clinch.bounds.ball` with p = 0, 1 or infinity, B inputs.
        c: ``(R, size)`` or ``(B, R, size)`` rows on the layer's activations; None: the activations themselves.
        layer: name of a layer; None: the output.
        limits: ``"crown"``, or limits of the layers that non-affine layers read, from
            :func:`clinch.bounds.layer_limits`.

    Returns:
        ``(B, R)`` float64 on the CPU, nowhere below CROWN's with the same limits. No gradients flow.

    Raises:
        UnsupportedByEngine: a ball with another p than 0, 1 and infinity.
        UnboundedInputError: an input element has no finite limits.
        UnknownLayer, ShapeError, UnsupportedOperator: there is no such layer, rows or limits do not fit, or a layer
            below has no encoding. ProblemError: limits is a text other than ``"crown"``.

    Example:
        >>> region = clinch.bounds.ball(x[:3], 0.1, clinch.inf, lower=0, upper=1)
        >>> clinch.bounds.lp(net, region, c[:3]).amin(1)
        tensor([-1.6036, -5.6117,  0.2034], dtype=torch.float64)
    """
    if isinstance(limits, str) and limits != "crown":
        raise ProblemError(f"limits is '{limits}'; write 'crown', or pass clinch.bounds.layer_limits(net, region).")
    for ball in region.balls:
        if not ball.norm.in_rows and bool(torch.isfinite(ball.radius).any()):
            raise UnsupportedByEngine(
                f"An {ball.norm.text} ball is not linear, so that clinch.bounds.lp cannot take it. Use "
                "clinch.bounds.alpha_crown."
            )
    if not bool(torch.isfinite(region.lower).all() & torch.isfinite(region.upper).all()):
        raise UnboundedInputError(
            "The LP relaxation needs finite limits of every input element. Give the region lower= and upper=."
        )
    region = region.to(torch.float64, "cpu")
    graph, node, blocks = layer_forms(network, region, c, layer)
    if isinstance(limits, str):
        held = activation_bounds(graph, region, [node])
    else:
        held = given_limits(graph, region, [node], limits)
    return torch.cat([lp_form_bounds(graph, forms, region, held) for forms in blocks], 1)
