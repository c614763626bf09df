"""Every engine says what it can take, and takes exactly that; its settings, its docs and its reasons are complete."""

import dataclasses
import math
import re
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import clinch as cl
from clinch.errors import ProblemError, UnsupportedByEngine
from clinch.network.ops.base import Operator
from clinch.search.engines import ENGINES, LARGEST, NEVER
from clinch.search.race import Job
from clinch.solve import _entrants, _ranked
from clinch.solver.engine import Resumable, outlook
from clinch.solver.ledger import Ledger
from clinch.testing.networks import dense, max_pooled, multilayer, network_of

DOCS = Path(__file__).parents[2] / "docs" / "concepts.md"
PORTFOLIO = {name: engine for name, engine in ENGINES.items() if engine.suits != NEVER}


def smooth(activation):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 2)).double().eval()
    return cl.load(module, input_shape=(3,))


class Opaque(Operator):
    """An operator that states nothing but its value."""

    def forward(self, *inputs):
        return inputs[0].sin()


def opaque():
    rng = torch.Generator().manual_seed(2)
    return network_of([("fc1", dense(rng, 3, 4), (0,)), ("odd", Opaque(), (1,)), ("fc2", dense(rng, 4, 2), (2,))], (3,))


def problems(net):
    """One of every kind: name -> problem."""
    x, z = net.input, net.output.flatten() if len(net.output.shape) > 1 else net.output
    x0 = torch.full(net.input_shape, 0.4, dtype=torch.float64)
    box, some = [x >= -1, x <= 1], [z[0] <= z[1] + 3]
    norms = {"0": 0, "1": 1, "2": 2, "3": 3, "inf": cl.inf}
    table = {f"distance {p}": cl.Problem(cl.Minimize(cl.norm(x - x0, q)), [*box, *some]) for p, q in norms.items()}
    table |= {f"norm {p}": cl.Problem(cl.Minimize(cl.norm(z, q)), [*box, *some]) for p, q in norms.items()}
    table |= {f"large norm {p}": cl.Problem(cl.Maximize(cl.norm(z, q)), box) for p, q in norms.items()}
    table |= {
        f"ball {p}": cl.Problem(cl.Minimize(z[0]), [*box, cl.norm(x - x0, q) <= (2 if q == 0 else 0.5)])
        for p, q in norms.items()
    }
    open_ = {f"{p}, unbounded": cl.Problem(cl.Minimize(cl.norm(x - x0, q)), some) for p, q in norms.items() if p != "1"}
    half = cl.norm(x - x0, 2, weights=(torch.arange(x.size).reshape(x.shape) % 2).double())
    return table | open_ | {
        "linear": cl.Problem(cl.Minimize(z[0] - z[1]), box),
        "feasibility": cl.Problem(cl.Minimize(0), [*box, (z[0] <= 0) | (z[1] <= 0)]),
        "linear, unbounded": cl.Problem(cl.Minimize(z[0]), x >= 0),
        "half weighed, unbounded": cl.Problem(cl.Minimize(half), some),
        "batch": cl.Problem(cl.Minimize(cl.norm(x - torch.stack([x0, x0 + 0.1]), 2)), [*box, *some]),
        "input alone": cl.Problem(cl.Minimize(cl.norm(x - x0, 1)), [*box, x.sum() <= 0]),
    }  # fmt: skip


@cache
def asked():
    """Every kind of problem about every kind of network."""
    networks = {
        "relu": multilayer(torch.Generator().manual_seed(1)),
        "max pool": max_pooled(torch.Generator().manual_seed(1)),
        "sigmoid": smooth(nn.Sigmoid()),
        "opaque": opaque(),
    }
    return {(network, kind): p for network, net in networks.items() for kind, p in problems(net).items()}


def attempt(engine, problem, seconds):
    """What an engine raises about a problem that it is given a moment for."""
    ledger = Ledger(problem.query, time_limit=seconds, gap=0.3)
    try:
        engine.run(problem.query, ledger, 0, engine.settings())
    except UnsupportedByEngine as reason:
        return reason
    return None


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_takes_what_it_says_and_refuses_the_rest_for_the_reason_it_gives(name):
    engine = ENGINES[name]
    # what needs no fact of operators asks for none of the others' networks
    kinds = {key: p for key, p in asked().items() if engine.facts or key[0] == "relu"}
    for key, problem in kinds.items():
        seconds = 0.1 if engine.facts else 0.02
        said, happened = engine.capability(problem.query).refusal, attempt(engine, problem, seconds)
        assert (type(said), str(said)) == (type(happened), str(happened)), key
    if engine.facts:
        said = engine.capability(asked()["opaque", "distance 0"].query)
        assert not said and not said.closes and "Opaque" in str(said)


@pytest.mark.parametrize("name", ENGINES)
def test_a_reason_is_one_line_that_says_what_to_do(name):
    reasons = {str(r) for p in asked().values() if (r := ENGINES[name].capability(p.query).refusal) is not None}
    for reason in reasons:
        assert "\n" not in reason and re.search(r"\b(Use|Add|attacks still run)\b", reason), reason
        named = re.findall(r"solver='(\w+)'", reason)
        assert set(named) <= set(ENGINES) - {name}, reason


def test_slsqp_is_not_begun_where_no_limit_could_end_it():
    module = nn.Linear(LARGEST + 1, 2).double().eval()
    net = cl.load(module, input_shape=(LARGEST + 1,))
    problem = cl.Problem(cl.Minimize(net.output[0]), [net.input >= 0, net.input <= 1])
    with pytest.raises(UnsupportedByEngine, match=r"1,025. Use solver='attack'"):
        problem.solve(solver="slsqp")


def test_some_engine_of_the_portfolio_that_proves_takes_every_problem_with_limits():
    for (network, kind), problem in asked().items():
        if network != "opaque" and "unbounded" not in kind:
            able = {name for name, engine in PORTFOLIO.items() if engine.capability(problem.query).closes}
            assert able, (network, kind)


ORDER = {
    ("relu", "linear"): ("input_split branch_and_bound", "branch_and_bound"),
    ("relu", "distance 0"): ("count milp", "count milp"),
    ("relu", "norm 1"): ("input_split milp", "milp"),
    ("relu", "norm 2"): ("input_split general_split", "general_split"),
    ("max pool", "distance 2"): ("input_split milp branch_and_bound", "milp branch_and_bound"),
    ("max pool", "ball 2"): ("input_split general_split", "general_split branch_and_bound"),
    ("sigmoid", "distance 0"): ("input_split general_split", "general_split branch_and_bound"),
    ("sigmoid", "linear"): ("input_split general_split", "general_split branch_and_bound"),
    ("opaque", "linear"): ("", ""),
}


@pytest.mark.parametrize(("case", "few", "many"), [(case, *names) for case, names in ORDER.items()])
def test_the_portfolio_orders_engines_by_what_they_can_take(case, few, many):
    query = asked()[case].query
    for settings, expected in ((cl.settings.Portfolio(), few), (cl.settings.Portfolio(few_inputs=0), many)):
        ledger = Ledger(query)
        assert _ranked(Job(query, ledger, 0, settings)) == expected.split()
        assert all("was skipped" in note for note in ledger.notes)


def test_an_input_without_limits_can_be_taken_once_a_near_input_is_known():
    for kind in ("2, unbounded", "inf, unbounded"):
        query = asked()["relu", kind].query
        now, later = ENGINES["milp"].capability(query), outlook(ENGINES["milp"], query)
        assert not now and (later.later or kind == "2, unbounded")
        assert str(outlook(ENGINES["input_split"], query)) == "yes, once an input is known"
    for kind in ("0, unbounded", "half weighed, unbounded", "linear, unbounded"):
        assert not outlook(ENGINES["input_split"], asked()["relu", kind].query), kind


def test_what_the_portfolio_says_is_what_explain_says():
    for problem in asked().values():
        text = problem.explain()
        for name, engine in PORTFOLIO.items():
            assert re.search(rf"^{name} +{re.escape(str(outlook(engine, problem.query)))}$", text, re.MULTILINE)


def test_every_engine_has_its_settings_and_its_place_in_the_portfolio():
    fields = {field.name: field for field in dataclasses.fields(cl.settings.Portfolio)}
    for name, engine in ENGINES.items():
        assert engine.name == name
        assert getattr(cl.settings, engine.settings.__name__) is engine.settings, name
        assert engine.settings.__name__ in cl.settings.__all__
        assert (name in PORTFOLIO) == (name in fields), f"{name} needs its field in settings.Portfolio"
        assert isinstance(engine, Resumable) == hasattr(engine, "begin")


def test_the_docs_have_the_line_of_every_engine():
    rows = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    for name, engine in ENGINES.items():
        row = next((row for row in rows if f"`{name}`" in row.split("|")[1]), "")
        assert row.split("|")[2:4] == [f" {engine.summary} ", f" {engine.suits} "], f"docs/concepts.md: {name}"
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1]) if f"| `{name}`" in row}
    assert {name for name in named if name in ENGINES} >= set(PORTFOLIO)


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [getattr(cl.settings, name) for name in cl.settings.__all__ if name != "Settings"])
def test_a_field_without_meaning_is_refused_in_one_line(kind):
    for field in dataclasses.fields(kind):
        for wrong in (math.nan, -1, [], "much" if field.name != "backend" else None):
            with pytest.raises(ProblemError, match=f"{field.name}|settings") as caught:
                kind(**{field.name: wrong})
            assert "\n" not in str(caught.value)
    assert kind.of(kind().to_dict()) == kind(), "what is recorded can be used again"
    lines = kind.__doc__ or ""
    assert all(field.name in lines for field in dataclasses.fields(kind)), "every field is explained"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"settings": {"bach": 2}, "solver": "branch_and_bound"}, "no field 'bach'. Write batch"),
        ({"settings": cl.settings.Milp()}, r"Write cl\.settings\.Portfolio"),
        ({"settings": cl.settings.Portfolio(), "solver": "milp"}, r"Write cl\.settings\.Milp"),
        ({"settings": 3, "solver": "milp"}, r"settings is a int"),
        ({"settings": {"milp": {"backend": 7}}}, "backend=7"),
        ({"settings": {"attack_share": 2}}, "a share from 0 to 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_work(given, message):
    with pytest.raises(ProblemError, match=message):
        asked()["relu", "linear"].solve(**given)


def test_settings_are_recorded_with_the_solution():
    problem = asked()["relu", "linear"]
    one = problem.solve(solver="milp", settings={"head_start": 7})
    assert one.solver == "milp" and one.settings == cl.settings.Milp(head_start=7)
    assert one.to_dict()["solver"] == "milp" and one.to_dict()["settings"]["head_start"] == 7
    all_ = problem.solve(settings=cl.settings.Portfolio(few_inputs=0, milp=cl.settings.Milp(patience=2)))
    assert all_.solver is None and all_.to_dict()["settings"]["milp"]["patience"] == 2
    assert problem.solve().settings == cl.settings.Portfolio()
    assert cl.exact.branch_and_bound(problem, batch=3).settings == cl.settings.BranchAndBound(batch=3)


def test_settings_change_what_is_done():
    problem = asked()["relu", "linear"]
    few, none = (problem.solve(settings=cl.settings.Portfolio(few_inputs=n)) for n in (16, 0))
    assert few.value == pytest.approx(none.value, abs=1e-5)
    who = [{event.who for event in solution.history} for solution in (few, none)]
    assert "input split" in who[0] and "input split" not in who[1]


@pytest.mark.parametrize("few", [16, 0])
def test_a_distance_in_a_smooth_network_gets_balls_before_a_search_of_everything(few):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 2)).double().eval()
    net, x0 = cl.load(model, input_shape=(12,)), torch.zeros(12, dtype=torch.float64)
    x, away = net.input, net.output[0] <= float(model(x0)[0].detach()) - 0.5
    query = cl.Problem(cl.Minimize(cl.norm(x - x0, 2)), [x >= -1, x <= 1, away]).query
    job = Job(query, Ledger(query, time_limit=60), 0, cl.settings.Portfolio(few_inputs=few))
    turns = [turn.name for turn in _entrants(job, _ranked(job), small=False)]
    assert turns.index("radius") < turns.index("general_split")
