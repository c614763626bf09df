"""Models of tables: what is read from an estimator of scikit-learn says what the estimator says."""

import numpy as np
import pytest
import torch

import clinch as cl
from clinch.errors import NetworkError
from clinch.network.trees import as_in_float64

pandas = pytest.importorskip("pandas")
preprocessing = pytest.importorskip("sklearn.preprocessing")

from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.decomposition import PCA  # noqa: E402
from sklearn.ensemble import (  # noqa: E402
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LinearRegression, LogisticRegression  # noqa: E402
from sklearn.naive_bayes import GaussianNB  # noqa: E402
from sklearn.neural_network import MLPClassifier, MLPRegressor  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.svm import LinearSVC  # noqa: E402
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor  # noqa: E402

RNG = np.random.default_rng(0)
N = 120
ROWS = pandas.DataFrame(
    {"a": RNG.normal(3, 2, N), "b": RNG.gamma(2, 50, N), "c": RNG.choice(["x", "y", "z"], N), "d": RNG.normal(size=N),
     "e": RNG.choice(["low", "middle", "high"], N), "unused": RNG.normal(size=N)}
)  # fmt: skip
SCORE = ROWS.a + ROWS.b / 40 + ROWS.c.map({"x": 0, "y": 1, "z": -1}) + ROWS.d**2
TWO, THREE = (SCORE.median() < SCORE).astype(int), pandas.qcut(SCORE, 3, labels=False)


def encoders():
    return ColumnTransformer(
        [
            ("standard", make_pipeline(preprocessing.StandardScaler(), PCA(2)), ["a", "b"]),
            ("clipped", preprocessing.MinMaxScaler(clip=True), ["d"]),
            ("one", preprocessing.OneHotEncoder(drop="first"), ["c"]),
            ("codes", preprocessing.OrdinalEncoder(categories=[["low", "middle", "high"]]), ["e"]),
        ]
    )


CLASSIFIERS = {
    "mlp": lambda: MLPClassifier((6,), max_iter=20, activation="tanh", random_state=0),
    "logistic": LogisticRegression,
    "svm": LinearSVC,
    "tree": lambda: DecisionTreeClassifier(max_depth=3, random_state=0),
    "forest": lambda: RandomForestClassifier(5, max_depth=3, random_state=0),
    "boosting": lambda: GradientBoostingClassifier(n_estimators=5, max_depth=2, random_state=0),
}
REGRESSORS = {
    "mlp": lambda: MLPRegressor(hidden_layer_sizes=(6, 5), max_iter=20, random_state=0),
    "linear": LinearRegression,
    "tree": lambda: DecisionTreeRegressor(max_depth=4, random_state=0),
    "forest": lambda: RandomForestRegressor(4, max_depth=3, random_state=0),
    "boosting": lambda: GradientBoostingRegressor(n_estimators=6, max_depth=2, random_state=0),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("labels", [TWO, THREE], ids=["two", "three"])
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_pipeline_of_a_classifier_predicts_the_same(kind, labels):
    model = make_pipeline(encoders(), CLASSIFIERS[kind]()).fit(ROWS, labels)
    net = cl.load(model)
    assert [(c.name, c.width) for c in net.table.columns] == [("a", 1), ("b", 1), ("c", 3), ("d", 1), ("e", 1)]
    x = torch.as_tensor(net.table.encode(ROWS))
    scores = net.graph.forward(x)[net.graph.output]
    assert scores.argmax(1).tolist() == model.predict(ROWS).tolist()
    if kind in ("mlp", "logistic"):
        np.testing.assert_allclose(scores.softmax(1), model.predict_proba(ROWS), atol=1e-6)
    decoded = net.table.decode(x)
    assert decoded["c"] == list(ROWS.c) and decoded["e"] == list(ROWS.e)
    np.testing.assert_allclose(decoded["b"], ROWS.b)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", REGRESSORS)
def test_a_regressor_predicts_the_same_and_its_extremes_hold(kind):
    x, y = ROWS[["a", "b", "d"]].to_numpy(copy=True), SCORE.to_numpy(copy=True)
    model = make_pipeline(preprocessing.RobustScaler(), REGRESSORS[kind]()).fit(x, y)
    net = cl.load(model)
    found = net.graph.forward(torch.as_tensor(x))[net.graph.output][:, 0]
    np.testing.assert_allclose(found, model.predict(x), rtol=1e-9, atol=1e-9)
    box = [net.input >= x.min(0), net.input <= x.max(0)]
    solution = cl.Problem(cl.Maximize(net.output[0]), box).solve(time_limit=5)
    samples = RNG.uniform(x.min(0), x.max(0), (2000, 3))
    assert solution.bound >= solution.value >= found.max() - 1e-2 * abs(float(found.max()))
    assert solution.bound >= model.predict(samples).max() - 1e-9


def test_thresholds_are_those_of_numbers_rounded_to_float32():
    rng = np.random.default_rng(1)
    threshold = np.concatenate([rng.normal(size=50), np.float32(rng.normal(size=50)), [0.1, 1.0, -2.5]])
    moved = as_in_float64(threshold)
    for t, m in zip(threshold, moved):
        assert np.float32(m) <= t and not np.float32(np.nextafter(m, np.inf)) <= t


def test_what_cannot_be_read_is_said_in_one_line():
    with pytest.raises(NetworkError, match="is not fitted"):
        cl.load(LogisticRegression())
    with pytest.raises(NetworkError, match="A GaussianNB at this place is not read"):
        cl.load(GaussianNB().fit(ROWS[["a", "b"]], TWO))
    net = cl.load(make_pipeline(encoders(), LogisticRegression()).fit(ROWS, TWO))
    with pytest.raises(NetworkError, match="'w', which is none of its categories: x, y, z"):
        net.table.encode(ROWS.assign(c="w"))
    with pytest.raises(NetworkError, match="no column 'b'"):
        net.table.encode(ROWS.drop(columns="b"))
    with pytest.raises(NetworkError, match="missing or infinite"):
        net.table.encode(ROWS.assign(d=np.nan))
