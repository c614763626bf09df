import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from exact_cases import CLAUSES, OBJECTIVES, close, generator, normal, query
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from clinch.backends import highs
from clinch.backends.program import Outcome
from clinch.errors import BackendError, UnsoundResult
from clinch.geometry.region import Region
from clinch.network.ops.dense import Dense
from clinch.network.ops.relu import LeakyReLU
from clinch.query import Distance, Forms, FormsNorm, Linear, Query
from clinch.search.milp.milp import milp
from clinch.solver.ledger import Ledger
from clinch.solver.settings import Milp
from clinch.solver.solution import Proof
from clinch.testing.brute_force import brute_force
from clinch.testing.networks import ENCODABLE, dense, multilayer, network_of

pytestmark = pytest.mark.table

SEEDS = st.integers(0, 10_000)


@settings(deadline=None, max_examples=15)
@given(SEEDS, st.sampled_from(ENCODABLE), st.sampled_from(OBJECTIVES), st.sampled_from(CLAUSES))
def test_exact_equals_brute_force(seed, make, kind, clauses):
    rng = generator(seed)
    net = make(rng)
    assume(kind != "distance 0" or net.graph.nodes[0].size <= 6)
    q = query(net, rng, kind, clauses)
    ledger = milp(q, gap=1e-7)
    best = brute_force(q)
    assert close(best, float(ledger.value))
    assert close(best, float(ledger.bound))


@pytest.mark.slow
@settings(deadline=None, max_examples=6)
@given(SEEDS, st.sampled_from([1.0, -1.0]))
def test_a_norm_of_activations_equals_the_same_norm_built_from_relus(seed, scale):
    rng = generator(seed)
    net = multilayer(rng)
    output, n = net.graph.nodes[-1], 2
    rows = normal(rng, n, output.size)
    layers = [(node.name, node.op, node.inputs) for node in net.graph.nodes[1:]]
    last = len(layers)
    layers += [("both", Dense(torch.cat([rows, -rows])), (last,)), ("parts", LeakyReLU(), (last + 1,))]
    extended = network_of(layers, net.input_shape)
    shape = (1, *net.input_shape)
    region = Region(-torch.ones(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64))
    none = Forms({}, torch.zeros(1, 0, dtype=torch.float64)), torch.zeros(0, dtype=torch.long)
    ones = torch.full((1, 1, 2 * n), scale, dtype=torch.float64)
    total = Forms({last + 2: ones}, torch.zeros(1, 1, dtype=torch.float64))
    forms = Forms({last: rows[None]}, torch.zeros(1, n, dtype=torch.float64))
    reference = brute_force(Query(extended, extended.graph, region, Linear(total), *none))
    found = milp(Query(net, net.graph, region, FormsNorm(forms, 1.0, scale), *none), gap=1e-7)
    assert close(reference, float(found.value))
    assert close(reference, float(found.bound))


@pytest.mark.parametrize("backend", ["scip", "gurobi"])
@settings(deadline=None, max_examples=8)
@given(seed=SEEDS, make=st.sampled_from(ENCODABLE), kind=st.sampled_from(OBJECTIVES), clauses=st.sampled_from(CLAUSES))
def test_every_library_gives_the_same_answer(backend, seed, make, kind, clauses):
    pytest.importorskip({"scip": "pyscipopt", "gurobi": "gurobipy"}[backend], reason=f"{backend} is not installed")
    rng = generator(seed)
    net = make(rng)
    q = query(net, rng, "distance 1" if kind == "distance 0" and net.graph.nodes[0].size > 6 else kind, clauses)
    ledger = milp(q, settings=Milp(backend=backend), gap=1e-5)
    best = brute_force(q)
    assert close(best, float(ledger.value))
    assert close(best, float(ledger.bound), 1e-4)


def test_problems_of_a_batch_are_solved_apart():
    rng = generator(5)
    q = query(multilayer(rng), rng, "distance inf", "any")
    lower, upper = q.region.lower.repeat(3, 1), q.region.upper.repeat(3, 1)
    center = lower + (upper - lower) * torch.rand(3, 3, generator=rng, dtype=torch.float64)
    atoms = Forms(q.atoms.coefficients, q.atoms.constant.repeat(3, 1))
    batch = replace(q, region=Region(lower, upper), objective=Distance(center, math.inf), atoms=atoms)
    ledger = milp(batch, gap=1e-7)
    assert bool(ledger.closed.all())
    for b in range(3):
        assert close(brute_force(batch, b), float(ledger.value[b]))
    one = milp(batch, problems=[1], gap=1e-7)
    assert one.closed.tolist() == [False, True, False]


def hard(seed=1):
    """A problem that takes longer than a moment: 16 inputs, two layers of 24."""
    rng = generator(seed)
    net = network_of(
        [
            ("fc1", dense(rng, 16, 24), (0,)), ("relu1", LeakyReLU(), (1,)), ("fc2", dense(rng, 24, 24), (2,)),
            ("relu2", LeakyReLU(), (3,)), ("fc3", dense(rng, 24, 3), (4,)),
        ],
        (16,),
    )  # fmt: skip
    return query(net, rng, "linear", "none")


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.3])
def test_any_time_limit_ends_normally(seconds):
    ledger = milp(hard(), time_limit=seconds)
    assert float(ledger.bound) <= float(ledger.value)
    if not seconds:
        assert not ledger.history


def test_an_interrupt_leaves_a_sound_bound():
    class Interrupting:
        def __init__(self):
            self.solved = 0

        def solve(self, program, **settings):
            self.solved += 1
            if self.solved > 12:
                raise KeyboardInterrupt
            return highs.solve(program, **settings)

    q = hard()
    ledger = Ledger(q, gap=1e-6)
    with pytest.raises(KeyboardInterrupt):
        milp(q, ledger, settings=Milp(backend=Interrupting()))
    assert torch.isfinite(ledger.bound).all()
    assert float(ledger.bound) <= float(milp(q, time_limit=1).value)


# --- a backend that lies can cost time, never truth ---------------------------------------------------------------


class Liar:
    """HiGHS, with its answers spoilt."""

    def __init__(self, kind, seed):
        self.kind, self.rng = kind, np.random.default_rng(seed)

    def solve(self, program, **settings):
        honest = highs.solve(program, **settings)
        return getattr(self, self.kind)(program, honest)

    def wrong_duals(self, program, honest):
        noise = 100 * self.rng.normal(size=program.constraints)
        return replace(honest, duals=noise, ray=noise)

    def infeasible_points(self, program, honest):
        point = honest.point
        return replace(honest, point=None if point is None else point + self.rng.normal(size=len(point)))

    def always_infeasible(self, program, honest):
        return Outcome("infeasible", ray=self.rng.normal(size=program.constraints), value=-1e9, bound=1e9)

    def optimal_too_early(self, program, honest):
        middle = (program.lower + program.upper) / 2
        return Outcome("optimal", point=middle, duals=np.zeros(program.constraints), value=1e9, bound=1e9)

    def not_a_number(self, program, honest):
        nan = np.full(program.constraints, np.nan)
        return Outcome("optimal", np.full(program.variables, np.nan), nan, nan, np.nan, np.nan)

    def silent(self, program, honest):
        return Outcome("time")


KINDS = [name for name in vars(Liar) if not name.startswith("_") and name != "solve"]


@settings(deadline=None, max_examples=25)
@given(SEEDS, st.sampled_from(KINDS), st.sampled_from(OBJECTIVES), st.sampled_from(CLAUSES))
def test_a_lying_backend_never_makes_the_ledger_wrong(seed, lie, kind, clauses):
    rng = generator(seed)
    q = query(multilayer(rng), rng, kind, clauses)
    best = brute_force(q)
    ledger = milp(q, settings=Milp(backend=Liar(lie, seed)), time_limit=0.1)
    bound, value = float(ledger.bound), float(ledger.value)
    assert bound <= best or close(bound, best, 1e-6)
    assert value >= best or close(value, best, 1e-6)
    if math.isfinite(float(ledger.value)):
        check = q.evaluate(ledger.x)
        assert float(q.violation(check[1])) <= 0


def test_a_bound_without_a_proof_is_refused():
    q = hard()
    ledger = Ledger(q)
    with pytest.raises(UnsoundResult):
        ledger.prove(torch.tensor([1.0], dtype=torch.float64), "optimal", "solver")
    assert ledger.bound.tolist() == [-math.inf]


def test_infeasibility_is_proven_not_believed():
    rng = generator(7)
    q = query(multilayer(rng), rng, "linear", "impossible")
    ledger = milp(q)
    assert ledger.bound.tolist() == [math.inf]
    assert ledger.proofs[0] in (Proof.TREE, Proof.LINEAR_RELAXATION)


def test_an_unknown_backend_is_named():
    with pytest.raises(BackendError, match="highs"):
        milp(hard(), settings=Milp(backend="cplex"))


def test_a_problem_without_any_row_is_closed_too():
    rng = generator(7239)
    q = query(multilayer(rng), rng, "distance 1", "none")
    ledger = milp(q)
    nearest = q.objective.center.clamp(q.region.lower, q.region.upper)
    assert bool(ledger.closed.all())
    assert ledger.value.tolist() == pytest.approx(q.objective.value(nearest, {}).tolist(), abs=1e-9)
