"""Random statements: each is drawn once and can then be written in Clinch, for a batch or for one of its problems, and
be evaluated directly with NumPy at a point. The two ways share nothing but the drawn numbers."""

import operator
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from small_networks import small_network, symbols

import clinch as cl

NET = small_network()
SYMBOLS = symbols(NET)
BATCH = 3
#: how far from a boundary a point must be for its truth to be compared
SLACK = 1e-7


@dataclass(frozen=True)
class Expr:
    """``write(b)`` is the Clinch expression of problem b (None: of the batch); ``value(acts, b)`` its value."""

    shape: tuple[int, ...]
    write: Callable
    value: Callable


@dataclass(frozen=True)
class Truth:
    """``write(b)`` as above; ``holds(acts, b, slack)`` and ``fails`` say whether it, or its negation, holds.

    A positive slack makes every comparison easier by so much, a negative one harder.
    """

    write: Callable
    holds: Callable
    fails: Callable


def pick(c, batched, b):
    """The constant of problem b, or of the whole batch."""
    return c[b] if batched and b is not None else c


def fixed(c, batched, b):
    return c[b] if batched else c


def numbers(draw, *shape):
    seed = draw(st.integers(0, 2**20))
    return np.round(np.random.default_rng(seed).normal(size=shape), 2)


@st.composite
def constants(draw, shape):
    """A constant for an expression of the shape: scalar, shared, or one per problem. Returns it and whether batched."""
    kind = draw(st.sampled_from(["scalar", "shared", "batched"]))
    if kind == "scalar":
        return float(numbers(draw, 1)[0]), False
    return numbers(draw, *((BATCH,) if kind == "batched" else ()), *shape), kind == "batched"


def layer(k):
    return Expr(SYMBOLS[k].shape, lambda b: SYMBOLS[k], lambda acts, b: acts[k])


@st.composite
def expressions(draw, depth=3):
    if depth == 0:
        return layer(draw(st.integers(0, 2)))
    e = draw(expressions(depth=depth - 1))
    kind = draw(
        st.sampled_from(
            ["index", "scale", "shift", "rshift", "divide", "negate", "sum", "flatten", "matrix", "add", "keep"]
        )
    )
    if kind == "index" and e.shape:
        key = draw(keys(e.shape))
        shape = np.empty(e.shape)[key].shape
        return Expr(shape, lambda b: e.write(b)[key], lambda acts, b: e.value(acts, b)[key])
    if kind in ("scale", "shift", "rshift", "divide"):
        c, batched = draw(constants(e.shape))
        c = np.where(np.abs(c) < 0.05, 0.5, c) if kind == "divide" else c
        op = {
            "scale": operator.mul, "shift": operator.sub, "rshift": lambda a, k: k - a, "divide": operator.truediv,
        }[kind]  # fmt: skip
        return Expr(
            e.shape,
            lambda b: op(e.write(b), pick(c, batched, b)),
            lambda acts, b: op(e.value(acts, b), fixed(c, batched, b)),
        )
    if kind == "negate":
        return Expr(e.shape, lambda b: -e.write(b), lambda acts, b: -e.value(acts, b))
    if kind == "sum":
        return Expr((), lambda b: e.write(b).sum(), lambda acts, b: np.sum(e.value(acts, b)))
    if kind == "flatten":
        return Expr(
            (int(np.prod(e.shape)),), lambda b: e.write(b).flatten(), lambda acts, b: np.ravel(e.value(acts, b))
        )
    if kind == "matrix" and len(e.shape) == 1:
        batched = draw(st.booleans())
        a = numbers(draw, *((BATCH,) if batched else ()), 2, e.shape[0])
        return Expr(
            (2,), lambda b: pick(a, batched, b) @ e.write(b), lambda acts, b: fixed(a, batched, b) @ e.value(acts, b)
        )
    if kind == "add":
        other = draw(expressions(depth=1))
        if other.shape != e.shape:
            other = Expr((), lambda b, o=other: o.write(b).sum(), lambda acts, b, o=other: np.sum(o.value(acts, b)))
        return Expr(
            e.shape, lambda b: e.write(b) + other.write(b), lambda acts, b: e.value(acts, b) + other.value(acts, b)
        )
    return e


@st.composite
def keys(draw, shape):
    n = shape[0]
    kind = draw(st.sampled_from(["integer", "slice", "mask", "fancy", "ellipsis", "whole mask"]))
    if kind == "integer":
        return draw(st.integers(-n, n - 1))
    if kind == "slice":
        return slice(draw(st.integers(0, n - 1)), None, draw(st.integers(1, 2)))
    if kind == "mask":
        return np.array([True, *draw(st.lists(st.booleans(), min_size=n - 1, max_size=n - 1))])
    if kind == "fancy":
        return np.array(draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=4)))
    if kind == "ellipsis":
        return (..., draw(st.integers(0, shape[-1] - 1)))
    mask = numbers(draw, *shape) > 0
    mask.flat[0] = True
    return mask


@st.composite
def leaves(draw):
    kind = draw(st.sampled_from(["le", "ge", "compare", "eq", "argmax ==", "argmax !=", "between", "ball"]))
    if kind.startswith("argmax"):
        return draw(argmaxes(kind == "argmax =="))
    e = draw(expressions(depth=draw(st.integers(0, 3))))
    if kind == "between":
        return draw(betweens(e))
    if kind == "ball":
        return draw(balls(e))
    if kind == "compare":
        other = draw(expressions(depth=1))
        sides = (
            (lambda b: e.write(b).sum() <= other.write(b).sum()),
            lambda acts, b: np.sum(e.value(acts, b)) - np.sum(other.value(acts, b)),
        )
        return comparison(*sides)
    c, batched = draw(constants(e.shape))
    if kind == "le":
        return comparison(
            lambda b: e.write(b) <= pick(c, batched, b), lambda acts, b: e.value(acts, b) - fixed(c, batched, b)
        )
    if kind == "ge":
        return comparison(
            lambda b: pick(c, batched, b) <= e.write(b), lambda acts, b: fixed(c, batched, b) - e.value(acts, b)
        )

    def apart(acts, b):
        return np.abs(e.value(acts, b) - fixed(c, batched, b))

    return Truth(
        lambda b: e.write(b) == pick(c, batched, b),
        lambda acts, b, slack: bool(np.all(apart(acts, b) <= 1e-6 + slack)),
        lambda acts, b, slack: bool(np.any(apart(acts, b) >= 1e-5 - slack)),
    )


def comparison(write, excess):
    """``excess <= 0``, element by element; its negation ``excess >= 1e-5`` somewhere."""
    return Truth(
        write,
        lambda acts, b, slack: bool(np.all(excess(acts, b) <= slack)),
        lambda acts, b, slack: bool(np.any(excess(acts, b) >= 1e-5 - slack)),
    )


@st.composite
def argmaxes(draw, equal):
    margin = draw(st.sampled_from([1e-5, 0.0, 0.3]))
    batched = draw(st.booleans())
    labels = (
        np.array(draw(st.lists(st.integers(0, 3), min_size=BATCH, max_size=BATCH)))
        if batched
        else draw(st.integers(0, 3))
    )

    def lead(acts, b):
        z, c = acts[2], int(fixed(labels, batched, b))
        return z[c] - np.delete(z, c)

    def same(acts, b, slack):
        return bool(np.all(lead(acts, b) >= margin - slack))

    def other(acts, b, slack):
        return bool(np.any(-lead(acts, b) >= margin - slack))

    compare = operator.eq if equal else operator.ne

    def write(b):
        return compare(SYMBOLS[2].argmax(margin=margin), pick(labels, batched, b))

    return Truth(write, same, other) if equal else Truth(write, other, same)


@st.composite
def betweens(draw, e):
    batched = draw(st.booleans())
    shape = ((BATCH,) if batched else ()) + e.shape
    lo = numbers(draw, *shape)
    hi = lo + np.abs(numbers(draw, *shape))
    one_sided = numbers(draw, *shape)
    lo = np.where(one_sided < -1, -np.inf, lo)
    hi = np.where(one_sided > 1, np.inf, hi)
    margin = np.abs(numbers(draw, *e.shape)) if draw(st.booleans()) else 1e-5

    def sides(acts, b):
        v = e.value(acts, b)
        return fixed(lo, batched, b) - v, v - fixed(hi, batched, b)

    return Truth(
        lambda b: e.write(b).between(pick(lo, batched, b), pick(hi, batched, b), margin=margin),
        lambda acts, b, slack: all(bool(np.all(s <= slack)) for s in sides(acts, b)),
        lambda acts, b, slack: any(bool(np.any(s >= margin - slack)) for s in sides(acts, b)),
    )


@st.composite
def balls(draw, e):
    radius = float(abs(numbers(draw, 1)[0])) + 0.1
    weights = np.abs(numbers(draw, *e.shape)) if draw(st.booleans()) else np.ones(e.shape)
    c, batched = draw(constants(e.shape))

    def distance(acts, b):
        return float(np.max(weights * np.abs(e.value(acts, b) - fixed(c, batched, b)), initial=0.0))

    return Truth(
        lambda b: cl.norm(e.write(b) - pick(c, batched, b), cl.inf, weights=weights) <= radius,
        lambda acts, b, slack: distance(acts, b) <= radius + slack,
        lambda acts, b, slack: distance(acts, b) >= radius + 1e-5 - slack,
    )


@st.composite
def constraints(draw, depth=2):
    if depth == 0:
        return draw(leaves())
    kind = draw(st.sampled_from(["leaf", "and", "or", "not"]))
    if kind == "leaf":
        return draw(leaves())
    left = draw(constraints(depth=depth - 1))
    if kind == "not":
        return Truth(lambda b: ~left.write(b), left.fails, left.holds)
    right = draw(constraints(depth=depth - 1))

    def both(how, name):
        return lambda acts, b, slack: how([getattr(left, name)(acts, b, slack), getattr(right, name)(acts, b, slack)])

    if kind == "and":
        return Truth(lambda b: left.write(b) & right.write(b), both(all, "holds"), both(any, "fails"))
    return Truth(lambda b: left.write(b) | right.write(b), both(any, "holds"), both(all, "fails"))
