"""Where to split a box: the input element that takes most of the relaxations' error away.

    score_i = Σ_r |row_ri|·w_i + Σ_e loss_e · min(1, |h_e(x + w_i/2 e_i) − h_e(x − w_i/2 e_i)| / (u_e − l_e))

w is the box's width, x its centre, e runs over the inputs of non-affine nodes with limits ``[l_e, u_e]``, and
``loss_e`` is what the relaxation of element e costs the forms r that matter: coefficient times mean gap between its two
lines. The second factor is the share of the element's range that splitting i can take away, measured by the network
itself at the centres of the box's faces; these points are candidates for the search as well.

Dense networks of one or two layers of kinks take weights instead of faces, at a tenth of the time and with as good a
choice (on random networks of ten inputs the same bound after as many boxes; every further layer makes weights blunter):

    score_i = w_i · (Σ_r |row_ri| + Σ_e |W|ᵀ…|W|ᵀ loss_e / (u_e − l_e)),

the share that narrower limits of each element take away, carried down to the input by the weights' absolute values and
by the mean slope of every kink in between.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from clinch.network.graph import Graph
from clinch.network.ops.base import Interval, Lines, Relaxation
from clinch.query import Activations, Query
from clinch.search.input_bounding import SHALLOW, BoxBounds

#: elements of the input that are looked at in each box
CANDIDATES = 16
#: score of an element of the region's full width beside the best one's: every element is split in the end
WIDTH = 0.01


class Faces(NamedTuple):
    """Centres of the boxes and of their faces, and what the query says there.

    Attributes:
        candidates: ``(D, C)`` input elements looked at.
        points: ``(D, 1 + 2C, *input_shape)``: the centre, then the upper and the lower face of each candidate.
        value: ``(D, 1 + 2C)`` objective.
        atoms: ``(D, 1 + 2C, K)``.
        activations: of the inputs of non-affine nodes, ``(D, 1 + 2C, *node_shape)``.
    """

    candidates: Tensor
    points: Tensor
    value: Tensor
    atoms: Tensor
    activations: Activations


def look_at_faces(query: Query, found: BoxBounds, width: Tensor) -> Faces:
    """Evaluate the network at the centres of boxes and faces.

    Args:
        query: the folded query the bounds were made for.
        found: D boxes.
        width: ``(B, n)`` of the problems' whole boxes.
    """
    boxes = found.boxes
    low, high = boxes.lower.flatten(1), boxes.upper.flatten(1)
    size, count = len(boxes), min(CANDIDATES, low.shape[1])
    rough = _scores_of_rows(found, width)
    candidates = rough.topk(count, 1).indices if count < low.shape[1] else _all(low)
    half = ((high - low) / 2).gather(1, candidates).unsqueeze(2)
    step = torch.zeros(size, count, low.shape[1], dtype=low.dtype, device=low.device)
    step.scatter_(2, candidates.unsqueeze(2), half)
    centre = ((low + high) / 2).unsqueeze(1)
    points = torch.cat([centre, centre + step, centre - step], 1)
    flat = points.reshape(-1, *boxes.lower.shape[1:])
    problem = boxes.problem.repeat_interleave(1 + 2 * count)
    local = query.take(problem)
    read = {query.graph.nodes[i].inputs[0] for i in found.coefficients}
    with torch.no_grad():
        activations = query.graph.forward(flat, {*query.nodes, *read})
    value = local.objective.value(flat, activations).reshape(size, -1)
    atoms = local.atoms.values(activations).expand(len(flat), query.atoms.count)
    atoms = atoms.reshape(size, 1 + 2 * count, query.atoms.count)
    inner = {j: activations[j].reshape(size, 1 + 2 * count, *activations[j].shape[1:]) for j in read}
    return Faces(candidates, points.reshape(size, -1, *boxes.lower.shape[1:]), value, atoms, inner)


def split_scores(query: Query, found: BoxBounds, faces: Faces, width: Tensor) -> Tensor:
    """``(D, n)`` scores of the input elements; −infinity for elements that cannot be split."""
    scores = _scores_of_rows(found, width)
    count = faces.candidates.shape[1]
    weight = _weights(found, query.atoms.count)
    gained = scores.new_zeros(len(scores), count)
    for i, rows in found.coefficients.items():
        limits = found.inputs[i]
        loss = _loss(query, i, rows, weight, limits, found.relaxations[i])
        h = faces.activations[query.graph.nodes[i].inputs[0]]
        change = (h[:, 1 : 1 + count] - h[:, 1 + count :]).flatten(2).abs()
        span = (limits.upper - limits.lower).flatten(1)
        share = loss / torch.where(span > 0, span, 1.0)
        gained = gained + torch.minimum(change * share.unsqueeze(1), loss.unsqueeze(1)).sum(2)
    scores = scores.scatter_add(1, faces.candidates, gained.nan_to_num(nan=0.0))
    return _splittable(found, scores, width)


def weighs(graph: Graph, bent: list[int], below: list[int]) -> bool:
    """Whether :func:`weighed_scores` takes the place of faces.

    Args:
        graph: the network.
        bent: its non-affine nodes that matter.
        below: all nodes that matter.
    """
    ops = [(i, graph.nodes[i].op) for i in below if i]
    flat = all(op.elementwise or op.keeps_order or graph.matrix(i) is not None for i, op in ops)
    return flat and len(bent) <= SHALLOW


def weighed_scores(query: Query, found: BoxBounds, width: Tensor) -> Tensor:
    """As :func:`split_scores`, by weights alone."""
    graph, weight = query.graph, _weights(found, query.atoms.count)
    pending: dict[int, Tensor] = {}
    for i in sorted(found.relaxations, reverse=True):
        node = graph.nodes[i]
        j = node.inputs[0]
        pull = pending.pop(i, None)
        if i in found.coefficients:
            limits, lines = found.inputs[i], found.relaxations[i]
            assert isinstance(lines, Lines)
            span = (limits.upper - limits.lower).flatten(1)
            share = _loss(query, i, found.coefficients[i], weight, limits, lines) / torch.where(span > 0, span, 1.0)
            mean = (lines.lower_slope + lines.upper_slope).flatten(1) / 2
            pull = share if pull is None else torch.addcmul(share, pull, mean)
        elif pull is not None and (matrix := graph.matrix(i)) is not None:
            pull = pull @ matrix.weight.abs()
        if pull is not None:
            pending[j] = pending[j] + pull if j in pending else pull
    scores = _scores_of_rows(found, width)
    if 0 in pending:
        scores = torch.addcmul(
            scores, pending[0].nan_to_num(nan=0.0), (found.boxes.upper - found.boxes.lower).flatten(1)
        )
    return _splittable(found, scores, width)


def _splittable(found: BoxBounds, scores: Tensor, width: Tensor) -> Tensor:
    """Scores with a little for the width, so that every element is split in the end; −infinity where none can be."""
    best = scores.amax(1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
    low, high = found.boxes.lower.flatten(1), found.boxes.upper.flatten(1)
    scores = scores + WIDTH * best * _relative(found, width)
    middle = (low + high) / 2
    return torch.where((middle > low) & (middle < high), scores, -torch.inf)


def _all(low: Tensor) -> Tensor:
    return torch.arange(low.shape[1], device=low.device).expand(len(low), -1)


def _relative(found: BoxBounds, width: Tensor) -> Tensor:
    """``(D, n)`` widths relative to those of the whole box."""
    boxes = found.boxes
    whole = width[boxes.problem]
    return (boxes.upper - boxes.lower).flatten(1) / torch.where(whole > 0, whole, 1.0)


def _weights(found: BoxBounds, atoms: int) -> Tensor:
    """``(D, R)`` forms that matter: the objective's, and atoms that may hold in the box."""
    weight = (~(found.lower > 0)).to(found.rows)
    weight[:, atoms:] = 1.0
    return weight


def _scores_of_rows(found: BoxBounds, width: Tensor) -> Tensor:
    """``Σ_r |row_ri|·w_i``; a millionth of the relative width breaks ties."""
    boxes = found.boxes
    rows = found.rows.abs().sum(1) * (boxes.upper - boxes.lower).flatten(1)
    return rows.nan_to_num(nan=0.0) + 1e-6 * _relative(found, width)


def _loss(query: Query, node: int, rows: Tensor, weight: Tensor, limits: Interval, relaxation: Relaxation) -> Tensor:
    """``(D, m)`` what the relaxation costs, for each element of the node's first input."""
    if isinstance(relaxation, Lines) and relaxation.lower_slope.dim() == limits.lower.dim():
        slope = relaxation.upper_slope - relaxation.lower_slope
        gap = slope * (limits.lower + limits.upper) / 2 + relaxation.upper_offset - relaxation.lower_offset
        coefficients = torch.einsum("dr,drn->dn", weight, rows.flatten(2).abs().expand(len(weight), -1, -1))
        return (coefficients * gap.flatten(1)).nan_to_num(nan=0.0).clamp(min=0)
    # any other operator of one input: the whole loss at the centre, spread over the inputs by their width
    centre = (limits.lower + limits.upper) / 2
    if len(query.graph.nodes[node].inputs) > 1:
        return centre.flatten(1).new_zeros(centre.flatten(1).shape)
    carried, offset = relaxation.backward(rows)
    value = (rows.flatten(2) * query.graph.nodes[node].op.forward(centre).flatten(1).unsqueeze(1)).sum(2)
    line = (carried[0].flatten(2) * centre.flatten(1).unsqueeze(1)).sum(2) + offset
    total = (weight * (value - line)).sum(1, keepdim=True).nan_to_num(nan=0.0).clamp(min=0)
    span = (limits.upper - limits.lower).flatten(1)
    return total * span / span.sum(1, keepdim=True).clamp(min=torch.finfo(span.dtype).tiny)
