"""The central property: the normal form means what was written. Random statements against direct evaluation."""

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from statements import BATCH, NET, SLACK, constants, constraints, expressions, fixed, pick

import clinch as cl
from clinch.errors import EmptyRegionError, ProblemError
from clinch.modeling.canonicalize import dense_forms

x, h, z = (cl.modeling.expressions.Activation(NET, node) for node in (0, 3, 4))


def points(seed, count):
    return torch.randn(count, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def activations(point):
    """Input, hidden layer and output at one point."""
    found = NET.graph.forward(point[None], [0, 3, 4])
    return [found[node][0].numpy() for node in (0, 3, 4)]


def one_per_problem(problem, point):
    return point[None].expand(problem.size, *point.shape)


@given(expressions(depth=4), st.integers(0, 1000))
@settings(deadline=None, max_examples=40)
def test_expressions_mean_what_numpy_computes(e, seed):
    written = e.write(None)
    assert written.shape == e.shape
    forms = dense_forms(written.flatten(), BATCH)
    for point in points(seed, 3):
        found = forms.values(NET.graph.forward(point[None].expand(BATCH, 2, 3), [0, *forms.nodes]))
        for b in range(BATCH):
            np.testing.assert_allclose(found[b].numpy(), np.ravel(e.value(activations(point), b)), rtol=1e-9, atol=1e-9)


@given(constraints(depth=3), st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_a_point_is_feasible_exactly_where_the_statement_holds(statement, seed):
    written = statement.write(None)
    cloud = points(seed, 8)
    try:
        problem = cl.Problem(cl.Minimize(0 * z[0]), written)
    except EmptyRegionError:
        problem = None
    except ProblemError as error:
        assert "one problem per alternative" in str(error)
        reject()
    for point in cloud:
        acts = activations(point)
        for b in range(written.batch or 1):
            easy, hard = statement.holds(acts, b, SLACK), statement.holds(acts, b, -SLACK)
            if easy != hard:
                continue
            if problem is None:
                # some problem of the batch is empty: with one problem nothing may satisfy it
                assert written.batch not in (None, 1) or not hard
                continue
            rows = one_per_problem(problem, point)
            violation = problem.query.violation(problem.query.evaluate(rows)[1])
            inside = problem.query.region.contains(rows)
            assert bool((violation[b] <= 0) & inside[b]) == hard


@given(constraints(depth=2), constraints(depth=1), st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_a_batch_is_the_stack_of_its_problems(first, second, seed):
    stated = [first, second]

    x0 = np.arange(BATCH * 6.0).reshape(BATCH, 2, 3)

    def problem(b):
        """Problem b, or the batch; None where the statement was found empty."""
        try:
            return cl.Problem(cl.Minimize(cl.norm(x - pick(x0, True, b))), [s.write(b) for s in stated])
        except EmptyRegionError:
            return None

    def judged(query, point):
        rows = point.expand(query.size, *point.shape)
        value, atoms = query.evaluate(rows)
        return value, (query.violation(atoms) <= 0) & query.region.contains(rows)

    whole, alone = problem(None), [problem(b) for b in range(BATCH)]
    if whole is None:
        assert None in alone
        return
    assert whole.batched and whole.size == BATCH
    for point in points(seed, 4):
        values, feasible = judged(whole.query, point)
        for b, single in enumerate(alone):
            if single is None:
                assert not feasible[b]
                continue
            assert not single.batched and single.size == 1
            value, its_feasible = judged(single.query, point)
            torch.testing.assert_close(values[b], value[0])
            assert bool(feasible[b]) == bool(its_feasible[0])


@given(expressions(depth=2), st.sampled_from([0, 1, 2, cl.inf]), st.booleans(), st.booleans(), st.data())
@settings(deadline=None, max_examples=40)
def test_objectives_have_their_direct_value(e, p, maximise, masked, data):
    c, batched = data.draw(constants(e.shape))
    seed = data.draw(st.integers(0, 1000))
    weights = np.abs(np.random.default_rng(seed).normal(size=e.shape))
    mask = np.random.default_rng(seed + 1).random(e.shape) < 0.7 if masked else None
    norm = cl.norm(e.write(None) - c, p, weights=weights, mask=mask)
    problem = cl.Problem((cl.Maximize if maximise else cl.Minimize)(norm))
    for point in points(seed, 2):
        value = problem.query.objective.value(
            one_per_problem(problem, point),
            problem.query.graph.forward(one_per_problem(problem, point), problem.query.nodes),
        )
        for b in range(problem.size):
            d = np.ravel(e.value(activations(point), b) - fixed(c, batched, b))
            w = np.ravel(weights * (1.0 if mask is None else mask))
            direct = np.sum(w * (np.abs(d) > 1e-12)) if p == 0 else np.linalg.norm(w * d, p) if len(d) else 0.0
            assert problem.query.sense * float(value[b]) == pytest.approx(direct, rel=1e-9, abs=1e-9)


@given(expressions(depth=3), st.booleans(), st.integers(0, 1000))
@settings(deadline=None, max_examples=50)
def test_linear_objectives_have_their_direct_value(e, maximise, seed):
    problem = cl.Problem((cl.Maximize if maximise else cl.Minimize)(e.write(None).sum()))
    for point in points(seed, 2):
        value, _ = problem.query.evaluate(one_per_problem(problem, point))
        for b in range(problem.size):
            direct = np.sum(e.value(activations(point), b))
            assert problem.query.sense * float(value[b]) == pytest.approx(direct, rel=1e-9, abs=1e-9)
