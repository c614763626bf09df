"""The checker: what a certificate proves about a network, found out again from the weights.

It trusts nothing that a search said: limits, lines and bounds are computed again in :mod:`clinch.checker.rigorous`,
and the leaves come from the tree, whose nodes cover what they split by construction. On a leaf every input that is
better than the claimed bound L and satisfies all conditions has::

    w·(objective − L) + Σ_k μ_k atom_k − Σ_j β_j s_j ẑ_j <= 0      w, μ, β >= 0, s_j ẑ_j >= 0, atom_k <= 0

so that a positive lower bound of the left side shows that there is none. For distances ``w = 0`` and the inputs looked
at are those of the ball of radius L.

A lemma is such a sum over the whole region with ``±z`` of one activation in it and any ``w >= 0``: its lower bound is
one of ``±z`` on every input that could contradict the claim. It states no limit: what its multipliers prove is taken.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from clinch.checker.certificate import Certificate
from clinch.checker.layers import MALFORMED, Array, Layer, Refused, read_by_bends
from clinch.checker.lines import Box, Lines, down, gamma, lines_of, up
from clinch.checker.question import CertifiedQuery, certified_query
from clinch.checker.rigorous import Ball, Relaxation, interval
from clinch.checker.tree import Leaves, leaves_of, root_of

#: numbers that the layers of one slice of leaves may hold, and leaves in it at most
SLICE, LEAVES = 2**20, 256
#: layers whose lines may have any slopes, which a certificate may state
SLOPED = ("function", "product")
#: by how much, relatively, a point may pass a ball's radius
RADIUS = 1e-9


class Report(NamedTuple):
    """What was checked.

    Attributes:
        bound: no input does better, in the minimising sense; infinity: no input satisfies the conditions.
        margin: by how much the leaf that is closest to it stays above zero; rounding: the largest error subtracted.
        leaves: number of leaves.
        value: the point's objective is at most this, None where the certificate has no point; violation: no condition
            of the point fails by more, at most 0 where all hold.
    """

    bound: float
    margin: float
    rounding: float
    leaves: int
    value: float | None
    violation: float


def check(certificate: Certificate, layers: list[Layer], sha256: str) -> Report:
    """Check a certificate against a network; ``sha256`` is the hash of the file or list the layers come from.

    Raises:
        Refused: it does not prove what it claims; says what is wrong first.
    """
    try:
        with np.errstate(all="ignore"):
            return _check(certificate, layers, sha256)
    except MALFORMED as error:
        raise Refused(f"The certificate is malformed: {type(error).__name__} {error}") from None


def _check(certificate: Certificate, layers: list[Layer], sha256: str) -> Report:
    certificate.must_name(sha256)
    query, claim = certified_query(certificate, layers), certificate.header["claim"]
    infeasible = claim["kind"] == "infeasible"
    bound = float("inf") if infeasible else float(claim["value"])
    if not infeasible and (claim["kind"] != "bound" or not np.isfinite(bound) or query.objective == "none"):
        raise Refused("The claim is neither a finite bound of an objective nor that nothing is feasible.")
    stated: dict[str, Any] | None = certificate.header["point"]
    value, violation = (None, 0.0) if stated is None else point_limits(certificate, layers)
    if stated is not None and not (violation <= float(stated["violation"]) and (value or 0) <= float(stated["value"])):
        raise Refused("The point is not feasible, or not as good as stated.")
    box, balls = query.box, list(query.balls)
    if query.ball is not None and not infeasible:
        ball = query.ball._replace(radius=bound)
        box, balls = hull(box, ball), balls + ([ball] if ball.p != np.inf else [])
        if bound <= 0 or (box.lower > box.upper).any():
            return Report(bound, np.inf, 0.0, 0, value, violation)
    query = query.better_than(bound if query.objective == "linear" and not infeasible else None)
    margin, rounding, count = _leaves(certificate, layers, query, box, balls)
    return Report(bound, margin, rounding, count, value, violation)


def hull(box: Box, ball: Ball) -> Box:
    """The box cut down to the ball's own, rounded outwards."""
    reach = np.where(ball.weights > 0, up(ball.radius / ball.weights), np.inf)
    return Box(np.maximum(box.lower, down(ball.center - reach)), np.minimum(box.upper, up(ball.center + reach)))


def _leaves(
    c: Certificate, layers: list[Layer], query: CertifiedQuery, box: Box, balls: list[Ball]
) -> tuple[float, float, int]:
    """Smallest margin, largest rounding and number of leaves; refused where a margin is not positive."""
    relus, read = (sum(layers[i].size for i in which) for which in (relu_spans(layers), read_by_bends(layers)))
    leaves, which = leaves_of(c, query, box, relus, read)
    count, n, columns = len(leaves.signs), box.lower.shape[1], c.distinct("leaf.columns", relus)
    every = multipliers(c, "leaf", count, columns, which)
    network, seen, margin, rounding = Relaxation(layers, box, balls), np.concatenate([*box], 1), np.inf, 0.0
    root = root_of(box.lower[0], box.upper[0], relus, query.clauses)
    proven = take_lemmas(c, network, query, root) if len(c.tensors.get("lemma.activation", ())) else {}
    for start in range(0, count, at_once(layers)):
        at = slice(start, start + at_once(layers))
        part = Leaves(*(t[at] if len(t) == count else t for t in leaves))
        # leaves of one box, such as the children at a clause, share what is found for it
        ends, owner = np.unique(np.concatenate([part.lower, part.upper], 1), axis=0, return_inverse=True)
        if not np.array_equal(ends, seen):
            own, seen = part._replace(lower=ends[:, : n + len(which)], upper=ends[:, n + len(which) :]), ends
            inputs = Box(own.lower[:, :n], own.upper[:, :n])
            network = Relaxation(layers, inputs, balls, cuts_of(own, which, layers, proven))
        some = network if len(ends) == 1 else network.take(owner.ravel())
        found = margins(some_of(every, at), some, query, part, which, columns)
        if not (found > 0).all():
            worst = int(np.argmin(np.where(found > 0, np.inf, 0.0)))
            raise Refused(f"Leaf {start + worst} is not closed: its bound is {found[worst]:.3g}, not above 0.")
        margin, rounding = min(margin, float(found.min())), max(rounding, some.rounding)
    return margin, rounding, count


def at_once(layers: list[Layer]) -> int:
    """How many leaves or lemmas are looked at together."""
    return max(1, min(LEAVES, SLICE // sum(layer.work for layer in layers)))


def relu_spans(layers: list[Layer]) -> dict[int, slice]:
    """Where the elements of each ReLU layer stand when all stand in a row."""
    relus = [i for i, layer in enumerate(layers) if layer.kind == "relu"]
    ends = np.cumsum([0, *(layers[i].size for i in relus)]).tolist()
    return {i: slice(start, end) for i, start, end in zip(relus, ends, ends[1:])}


def multipliers(c: Certificate, of: str, count: int, columns: Array, which: Array) -> dict[str, Array]:
    """What a certificate states of all leaves or lemmas, by name; a leaf has the weight 1, a lemma no splits."""
    given = {"weight": np.ones((count, 1)), "nu": np.zeros((count, len(which))), "slopes": np.zeros((count, 0))}
    given |= {"beta": np.zeros((count, len(columns)), np.half)} if of == "lemma" else {}
    found = {f"leaf.{name}": c.tensors.get(f"{of}.{name}", given.get(name)) for name in ("mu", "alpha", "beta", *given)}
    if any(t is None or len(t) != count for t in found.values()):
        raise Refused(f"There are not as many multipliers as there are of each {of}.")
    return found  # type: ignore[return-value]


def some_of(found: dict[str, Array], rows: Array | slice) -> Certificate:
    """The multipliers of some."""
    return Certificate({}, {name: t[rows] for name, t in found.items()})


def take_lemmas(c: Certificate, network: Relaxation, query: CertifiedQuery, root: Leaves) -> dict[int, Box]:
    """Cut the network over the region to what the certificate's lemmas prove: limits of the layers they are about.

    They are taken in their order; those of one layer start from the same limits as long as their numbers do not fall.

    Args:
        root: what holds on the whole region.
    """
    layers, count, read = network.layers, len(c.tensors["lemma.activation"]), list(read_by_bends(network.layers))
    starts = np.cumsum([0, *(layers[i].size for i in read)])
    number = c.whole("lemma.activation", (count,), 0, starts[-1] - 1)
    side, columns = c.whole("lemma.side", (count,), 0, 1), c.distinct("lemma.columns", root.signs.shape[1])
    every, at = multipliers(c, "lemma", count, columns, columns[:0]), np.searchsorted(starts, number, "right") - 1
    for group in np.split(np.arange(count), np.flatnonzero((np.diff(at) != 0) | (np.diff(number) < 0)) + 1):
        i, first = read[at[group[0]]], starts[at[group[0]]]
        ends = np.full((2, layers[i].size), np.inf)
        for rows in np.split(group, range(at_once(layers), len(group), at_once(layers))):
            leaves, element = Leaves(*(np.repeat(t, len(rows), 0) for t in root)), number[rows] - first
            signs = (element[:, None] == np.arange(layers[i].size)) * (1.0 - 2.0 * side[rows, None])
            least = margins(some_of(every, rows), network, query, leaves, columns[:0], columns, {i: signs})
            np.fmin.at(ends, (side[rows], element), -least)
        network.cut(i, Box(-ends[:1], ends[1:]))
    return {read[k]: network.limits[read[k]] for k in np.unique(at)}


def _by_layer(values: Array, which: Array, layers: list[Layer], fill: float) -> dict[int, Array]:
    """Numbers ``(D, V)`` of the activations that a tree splits, by layer; fill for the others of it."""
    sizes = {i: layers[i].size for i in read_by_bends(layers)}
    whole = np.full((len(values), sum(sizes.values())), fill)
    whole[:, which] = values
    return dict(zip(sizes, np.split(whole, np.cumsum(list(sizes.values())), 1)))


def cuts_of(leaves: Leaves, which: Array, layers: list[Layer], proven: dict[int, Box]) -> dict[int, Box]:
    """Limits of activations, by layer: of those that a tree splits, and those that lemmas have proven."""
    sides = ((t[:, layers[0].size :], fill) for t, fill in ((leaves.lower, -np.inf), (leaves.upper, np.inf)))
    lower, upper = (_by_layer(t, which, layers, fill) for t, fill in sides)
    return {i: Box(lower[i], upper[i]).within(proven.get(i, Box(lower[i], upper[i]))) for i in lower}


def margins(
    c: Certificate, network: Relaxation, query: CertifiedQuery, leaves: Leaves, which: Array, columns: Array,
    also: dict[int, Array] | None = None,
) -> Array:  # fmt: skip
    """``(D,)`` lower bounds of the sums, for a query less its bound; infinity on leaves without inputs.

    Args:
        c: multipliers of the leaves. which: activations that are split. columns: ReLUs that alpha and beta are about.
        also: forms ``(D, size)`` of layers that are added, by layer.
    """
    count, end = leaves.signs.shape
    mu = c.numbers("leaf.mu", (count, len(query.constants) - 1))
    alpha, beta = (c.numbers(f"leaf.{name}", (count, len(columns))) for name in ("alpha", "beta"))
    weights = np.concatenate([c.numbers("leaf.weight", (count, 1)), mu], 1)
    allowed = np.zeros((count, len(query.constants)), dtype=bool)
    np.put_along_axis(allowed, leaves.choice, True, 1)
    unasked = mu[~allowed[:, :-1]].any() or beta[leaves.signs[:, columns] == 0].any()
    if unasked or (weights < 0).any() or (beta < 0).any():
        raise Refused("A multiplier is negative, or belongs to an atom that need not hold or a ReLU that is not split.")
    slopes, betas, empty = np.full((count, end), np.nan), np.zeros((count, end)), network.empty
    slopes[:, columns], betas[:, columns] = alpha, beta
    known: dict[int, Any] = dict(_lines(c.numbers("leaf.slopes", c.tensors["leaf.slopes"].shape), network))
    offset, size = (weights @ query.constants)[:, None], (weights @ np.abs(query.constants))[:, None]
    for i, forms in query.forms.items():
        size = size + ((weights @ np.abs(forms))[:, None] @ network.limits[i].size[..., None])[..., 0]
    rows: dict[int, Array] = {}
    error = gamma(mu.shape[1] + 4) * size
    for i, terms in [*((i, weights @ forms) for i, forms in query.forms.items()), *(also or {}).items()]:
        error = error + _join(rows, i, terms, network)
    for i, part in relu_spans(network.layers).items():
        j, low, sign = network.layers[i].inputs[0], network.layers[i].slope, leaves.signs[:, part]
        z = network.limits[j]
        if (slopes[:, part] < low).any() or (slopes[:, part] > 1).any():
            raise Refused("The slope of a lower line lies outside of what the ReLU allows.")
        empty = empty | (((sign > 0) & (z.upper < 0)) | ((sign < 0) & (z.lower > 0))).any(1)
        known[i] = slopes[:, part], sign
        error = error + _join(rows, j, -betas[:, part] * sign, network)
    nu = c.numbers("leaf.nu", (count, len(which)))
    # in ν·(z − upper) where ν is positive, ν·(z − lower) where it is negative
    ends = (t[:, network.layers[0].size :] for t in (leaves.upper, leaves.lower))
    moved = nu * np.where(nu == 0, 0.0, np.where(nu > 0, *ends))
    if not np.isfinite(moved).all():
        raise Refused("A multiplier belongs to an activation that is not split on that side.")
    offset = offset - moved.sum(1, keepdims=True)
    error = error + gamma(moved.shape[1] + 1) * np.abs(moved).sum(1, keepdims=True)
    for i, terms in _by_layer(nu, which, network.layers, 0.0).items():
        error = error + _join(rows, i, terms, network)
    rows = rows or {0: np.zeros((count, 1, network.layers[0].size))}
    return np.where(empty, np.inf, network.lower(rows, offset, error, known)[:, 0])


def _join(rows: dict[int, Array], i: int, terms: Array, network: Relaxation) -> Array | float:
    """Add coefficients to the rows of a layer; what rounding may have changed."""
    if terms.any():
        rows[i] = rows.get(i, 0.0) + terms[:, None]
    return 0.0 if not terms.any() else gamma(1) * (np.abs(rows[i]) @ network.limits[i].size[..., None])[..., 0]


def _lines(slopes: Array, network: Relaxation) -> dict[int, Lines]:
    """Lines of the slopes ``(D, S)`` that are stated: by layer those below on each input, then those above."""
    found, start, count = {}, 0, len(slopes)
    for i in [i for i, layer in enumerate(network.layers) if layer.kind in SLOPED and slopes.size]:
        inputs, size = network.layers[i].inputs, network.layers[i].size
        part = slopes[:, start : (start := start + 2 * len(inputs) * size)].reshape(count, 2, -1, size)
        boxes = [Box(*(np.broadcast_to(t, (count, size)) for t in network.limits[j])) for j in inputs]
        found[i] = lines_of(network.layers[i], boxes, list(part.transpose(1, 2, 0, 3)))[0]
    if start != slopes.shape[1]:
        raise Refused("There are slopes of lines that the network does not have.")
    return found


def point_limits(c: Certificate, layers: list[Layer]) -> tuple[float, float]:
    """Upper limits of the objective and of the largest violation at the certificate's point, by interval arithmetic."""
    with np.errstate(all="ignore"):
        return values_at(certified_query(c, layers), c.numbers("point.x", (layers[0].size,))[None], layers)


def values_at(query: CertifiedQuery, x: Array, layers: list[Layer]) -> tuple[float, float]:
    """Upper limits of the objective and of the largest violation of a query at an input ``(1, n)``."""
    limits = [Box(x, x)]
    for layer in layers[1:]:
        limits.append(interval(layer, [limits[j] for j in layer.inputs]))
    most = query.constants
    for i, forms in query.forms.items():
        most = up(most + interval(Layer("affine", (i,), (1,), forms, np.zeros(len(forms))), [limits[i]]).upper[0])
    violation = max((float(most[1 + members].min()) for members in query.clauses), default=-np.inf)
    if (x < query.box.lower).any() or (x > query.box.upper).any():
        violation = np.inf
    for ball in query.balls:
        violation = max(violation, _distance(x, ball) - ball.radius * (1 + RADIUS))
    return (float(most[0]) if query.ball is None else _distance(x, query.ball)), violation


def _distance(x: Array, ball: Ball) -> float:
    """``‖w ⊙ (x − center)‖_p``, rounded upwards."""
    moved = ball.weights * np.abs(x[0] - ball.center)
    norm = {1.0: moved.sum(), 2.0: np.sqrt((moved**2).sum()) + 1e-150, np.inf: moved.max()}[ball.p]
    return float(up(norm * (1 + gamma(len(moved) + 4))))
