"""Recourse: answers are the cheapest of all that a schema allows, keep it to the last bit, and are proven."""

import itertools

import numpy as np
import pytest

import clinch as cl
from clinch.applications.recourse import Feature, Schema, cheapest, read_schema
from clinch.errors import ProblemError

pandas = pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    n = 160
    rows = pandas.DataFrame(
        {"age": rng.integers(20, 61, n), "income": rng.integers(10, 41, n) * 100, "job": rng.choice(["a", "b", "c"], n)}
    )
    score = rows.income / 1000 + rows.job.map({"a": -0.8, "b": 0.0, "c": 0.7}) - 0.02 * (rows.age - 35) ** 2 / 5
    return rows, (score > score.median()).astype(int)


@pytest.fixture(scope="module")
def pipeline(frame):
    from sklearn.compose import ColumnTransformer
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    first = ColumnTransformer([("n", StandardScaler(), ["age", "income"]), ("c", OneHotEncoder(), ["job"])])
    model = MLPClassifier((8,), max_iter=400, alpha=0.01, random_state=0, learning_rate_init=0.01)
    return make_pipeline(first, model).fit(*frame)


@pytest.fixture(scope="module")
def schema():
    return Schema(
        (
            Feature("age", lower=20, upper=60, step=5, may="rise", cost=0.05),
            Feature("income", lower=1000, upper=4000, step=250, cost=0.001),
            Feature("job", categories=("a", "b", "c"), cost=0.8),
        ),
        relations=("income <= 90 * age", "income + 500 * 'job=c' <= 4200"),
        changes=2,
    )


def by_enumeration(pipeline, schema, before, wanted=1):
    """All that the schema allows, tried one by one: the least cost of those that the model answers as wanted."""
    values = [
        feature.categories or feature.values(before[feature.name]) or [before[feature.name]]
        for feature in schema.features
    ]
    rows = [dict(zip([f.name for f in schema.features], row)) for row in itertools.product(*values)]
    rows = [row for row in rows if not schema.violations(before, row)]
    table = pandas.DataFrame(rows)
    fine = pipeline.predict(table) == wanted
    unit = {f.name: f.cost for f in schema.features}
    cost = sum(
        unit[n] * (table[n] != before[n] if n == "job" else (table[n] - before[n]).abs())
        for n in ("age", "income", "job")
    )
    return cost[fine].min() if fine.any() else np.inf


@pytest.mark.parametrize("row", range(3))
def test_it_is_the_cheapest_of_all(frame, pipeline, schema, row):
    rows = frame[0][pipeline.predict(frame[0]) == 0].iloc[[row * 7]]
    (answer,) = cheapest(pipeline, schema, rows, 1, time_limit=20)
    known = by_enumeration(pipeline, schema, answer.before)
    if np.isinf(known):
        assert answer.status is cl.Status.INFEASIBLE and answer.after is None and answer.proven
        return
    assert answer.proven and answer.bound <= answer.cost + 1e-9
    assert answer.cost == pytest.approx(known, rel=2e-3)
    assert schema.violations(answer.before, answer.after) == []
    assert pipeline.predict(pandas.DataFrame([answer.after]))[0] == 1
    assert set(answer.changes) <= {"age", "income", "job"} and len(answer.changes) <= 2


def test_further_answers_leave_something_alone_and_robustness_is_proven(frame, pipeline):
    rows = frame[0][pipeline.predict(frame[0]) == 0].head(1)
    schema = Schema.from_frame(frame[0], stay=["age"])
    found = cheapest(pipeline, schema, rows, 1, diverse=2, robust=True, time_limit=20)
    several = found.answers[0]
    assert [one.cost for one in several] == sorted(one.cost for one in several)
    for earlier, later in itertools.combinations(several, 2):
        assert not set(earlier.changes) <= set(later.changes)
    first = several[0]
    assert 0 <= first.robust <= 1
    rng = np.random.default_rng(0)
    moved = pandas.DataFrame([first.after] * 200)
    for name in ("age", "income"):
        width = schema[name].upper - schema[name].lower
        moved[name] = moved[name] + first.robust * width * rng.uniform(-1, 1, 200)
    assert (pipeline.predict(moved) == 1).all()
    assert len(found.to_frame()) == len(several) and "row 0" in str(found)


def test_a_regressor_is_asked_for_a_range():
    from sklearn.tree import DecisionTreeRegressor

    rng = np.random.default_rng(0)
    rows = rng.integers(0, 10, (80, 2)).astype(float)
    tree = DecisionTreeRegressor(max_depth=3, random_state=0).fit(rows, rows[:, 0] * rows[:, 1])
    schema = Schema((Feature("x0", lower=0, upper=9, step=1), Feature("x1", lower=0, upper=9, step=1)))
    before = {"x0": 1.0, "x1": 1.0}
    (answer,) = cheapest(tree, schema, [before], (30.0, np.inf), time_limit=20)
    grid = np.array(list(itertools.product(range(10), repeat=2)), dtype=float)
    assert answer.proven and answer.cost == np.abs(grid[tree.predict(grid) >= 30.0] - 1).sum(1).min()


def test_a_schema_is_read_from_a_file_and_off_rows(tmp_path, frame):
    (tmp_path / "s.toml").write_text(
        'changes = 2\nrelations = ["age <= 5 * income", "\'job=a\' + age <= 61"]\n'
        '[features.age]\nrange = [20, 60]\nstep = 5\nmay = "rise"\n[features.income]\nrange = [0, 9000]\ncost = 0.5\n'
        '[features.job]\ncategories = ["a", "b"]\n'
    )
    read = read_schema(tmp_path / "s.toml")
    assert read.changes == 2 and read["age"].values(33.0) == [33.0, 35.0, 40.0, 45.0, 50.0, 55.0, 60.0]
    before = {"age": 33, "income": 10.0, "job": "a"}
    assert read.violations(before, {"age": 35, "income": 10.0, "job": "b"}) == []
    assert len(read.violations(before, {"age": 30, "income": 3.0, "job": "c"})) == 4
    own = Schema.from_frame(frame[0])
    assert own["age"].step == 1 and own["income"].step == 100 and own["job"].categories == ("a", "b", "c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no features"),
        ("[features.a]\nrange = [1, 0]", "lower limit first"),
        ("[features.a]\nstep = 1", "has no limits"),
        ("[features.a]\nrange = [0, 1]\nmay = 'fly'", "Write one of: change, rise, fall, stay"),
        ("[features.a]\nrange = [0, 1]\nstep = 'one'", "Write a number"),
        ("[features.a]\ncategories = ['x']", "two or more different values"),
        ("[features.a]\nrange = [0, 1]\nprice = 1", "unknown key 'price'"),
        ("relations = ['b <= 1']\n[features.a]\nrange = [0, 1]", "There is no 'b'"),
        ("changes = 0\n[features.a]\nrange = [0, 1]", "whole number from 1 on"),
        ("features = ", "s.toml"),
    ],
)
def test_what_a_schema_lacks_is_said_in_one_line(tmp_path, text, message):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(ProblemError, match=message) as caught:
        read_schema(tmp_path / "s.toml")
    assert "\n" not in str(caught.value)
