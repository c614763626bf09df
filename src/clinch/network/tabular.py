"""Models of tables: scikit-learn's networks, linear models and trees, behind scalers, encoders and pipelines of them.

A model is read into a module whose input are the columns of a table, one after the other: a number is one element, a
column that the model encodes one-hot has an element for each category, any other category is its code. Scalers and the
rest are layers of the module, in float64. Classifiers give scores: of two classes ``(0, s)`` with s their decision
function, so that the larger one is what ``predict`` says; softmax of the scores of a logistic model or a network are
its probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clinch.errors import NetworkError
from clinch.network.trees import forest_of

#: what a model may say beyond the module by rounding, relative to its largest score or 1
AGREES = 1e-6


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: of the column.
        categories: its values where it is not a number.
        one_hot: whether it has an element of the input for each category; otherwise a category is its code.
    """

    name: str
    categories: tuple[Any, ...] | None = None
    one_hot: bool = False

    @property
    def width(self) -> int:
        """Elements of the input."""
        return len(self.categories) if self.one_hot and self.categories else 1


@dataclass(frozen=True)
class Table:
    """What the elements of an input mean: columns, one after the other."""

    columns: tuple[Column, ...]

    @property
    def size(self) -> int:
        """Elements of an input."""
        return sum(column.width for column in self.columns)

    @property
    def slices(self) -> dict[str, slice]:
        """Where each column stands in an input."""
        ends = np.cumsum([0, *(column.width for column in self.columns)]).tolist()
        return {column.name: slice(a, b) for column, a, b in zip(self.columns, ends, ends[1:])}

    def encode(self, rows: Any) -> NDArray[np.float64]:
        """Inputs ``(N, n)`` of rows: a data frame, a dictionary of columns, or a list of dictionaries.

        Raises:
            NetworkError: a column is missing, or holds something that is no number or none of its categories.
        """
        given = columns_of(rows)
        parts = []
        for column in self.columns:
            if column.name not in given:
                raise NetworkError(f"The rows have no column '{column.name}'. They have: {', '.join(given)}.")
            parts.append(_encoded(column, given[column.name]))
        return np.concatenate(parts, 1)

    def decode(self, x: Any) -> dict[str, list[Any]]:
        """The columns of inputs ``(N, n)``; of a category the largest element, or the nearest code."""
        values = np.asarray(x, dtype=np.float64).reshape(-1, self.size)
        found: dict[str, list[Any]] = {}
        for column, at in zip(self.columns, self.slices.values()):
            part = values[:, at]
            if column.categories is None:
                found[column.name] = part[:, 0].tolist()
                continue
            codes = part.argmax(1) if column.one_hot else part[:, 0].round().astype(int)
            found[column.name] = [column.categories[min(max(code, 0), len(column.categories) - 1)] for code in codes]
        return found


def columns_of(rows: Any) -> dict[str, list[Any]]:
    """The columns of a data frame, a dictionary of columns, or a list of dictionaries."""
    if hasattr(rows, "columns") and hasattr(rows, "to_dict"):
        return {str(name): list(rows[name]) for name in rows.columns}
    if isinstance(rows, Mapping):
        return {str(name): list(values) for name, values in rows.items()}
    listed = list(rows)
    if not listed or not all(isinstance(row, Mapping) for row in listed):
        raise NetworkError("Give rows as a data frame, a dictionary of columns, or a list of dictionaries.")
    return {str(name): [row.get(name) for row in listed] for name in listed[0]}


def _encoded(column: Column, values: Sequence[Any]) -> NDArray[np.float64]:
    if column.categories is None:
        try:
            numbers = np.asarray(values, dtype=np.float64).reshape(-1, 1)
        except (TypeError, ValueError):
            raise NetworkError(f"Column '{column.name}' holds {values[0]!r:.40}, which is no number.") from None
        if not np.isfinite(numbers).all():
            raise NetworkError(f"Column '{column.name}' holds a missing or infinite number. Fill it in first.")
        return numbers
    known = {category: code for code, category in enumerate(column.categories)}
    unknown = next((value for value in values if value not in known), None)
    if unknown is not None or None in values:
        raise NetworkError(
            f"Column '{column.name}' holds {unknown!r:.40}, which is none of its categories: "
            f"{', '.join(map(str, column.categories))!s:.200}."
        )
    codes = np.array([known[value] for value in values], dtype=int)
    return np.eye(column.width)[codes] if column.one_hot else codes[:, None].astype(float)


# --- layers -----------------------------------------------------------------------------------------------------------


class Rescale(nn.Module):
    """``(x − shift) · scale``, column by column."""

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Any, scale: Any) -> None:
        super().__init__()
        self.register_buffer("shift", torch.as_tensor(np.array(shift, dtype=np.float64)))
        self.register_buffer("scale", torch.as_tensor(np.array(scale, dtype=np.float64)))

    def forward(self, x: Tensor) -> Tensor:
        """Shape ``(B, n)``."""
        return (x - self.shift) * self.scale


class Columns(nn.Module):
    """Parts of the columns through a layer each, the results side by side."""

    def __init__(self, parts: Iterable[tuple[Sequence[int], nn.Module]]) -> None:
        super().__init__()
        pairs = list(parts)
        self.parts = nn.ModuleList(module for _, module in pairs)
        self.places = [list(where) for where, _ in pairs]

    def forward(self, x: Tensor) -> Tensor:
        """Shape ``(B, n)``."""
        found = [module(x[:, where]) for where, module in zip(self.places, self.parts)]
        return torch.cat(found, 1) if len(found) > 1 else found[0]


class Clip(nn.Module):
    """Numbers outside limits become the limits."""

    def __init__(self, lower: float, upper: float) -> None:
        super().__init__()
        self.lower, self.upper = lower, upper

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x.clamp(self.lower, self.upper)


def _linear(weight: Any, bias: Any) -> nn.Linear:
    """Weight ``(outputs, inputs)``."""
    weight = torch.as_tensor(np.array(weight, dtype=np.float64))
    weight = weight.reshape(-1, weight.shape[-1])
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.as_tensor(np.broadcast_to(np.array(bias, dtype=np.float64), len(weight)).copy()))
    return layer


def _scores(layer: nn.Linear) -> nn.Linear:
    """Of one decision function the scores of two classes, ``(0, s)``."""
    if layer.out_features > 1:
        return layer
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    return _linear(np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias]))


# --- estimators on numbers --------------------------------------------------------------------------------------------

_ACTIVATIONS = {"identity": nn.Identity, "logistic": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}


def _network(model: Any, inputs: int) -> nn.Module:
    """A multilayer perceptron, without the softmax or sigmoid at its end."""
    layers: list[nn.Module] = []
    for weight, bias in zip(model.coefs_, model.intercepts_):
        layers += [_linear(weight.T, bias), _ACTIVATIONS[model.activation]()]
    last = layers[-2]
    assert isinstance(last, nn.Linear)
    layers = [*layers[:-2], _scores(last) if hasattr(model, "classes_") else last]
    return nn.Sequential(*(layer for layer in layers if not isinstance(layer, nn.Identity)))


def _linear_model(model: Any, inputs: int) -> nn.Module:
    layer = _linear(np.reshape(model.coef_, (-1, inputs)), np.ravel(model.intercept_))
    return _scores(layer) if hasattr(model, "classes_") else layer


def _rescaled(model: Any, inputs: int) -> nn.Module:
    """What scalers do, read off their attributes."""
    name, nothing = type(model).__name__, np.zeros(inputs)
    if name == "MinMaxScaler":
        # x·scale + min
        layer: nn.Module = Rescale(-model.min_ / model.scale_, model.scale_)
        return nn.Sequential(layer, Clip(*model.feature_range)) if model.clip else layer
    if name == "RobustScaler":
        center = nothing if model.center_ is None else model.center_
        return Rescale(center, nothing + 1 if model.scale_ is None else 1 / model.scale_)
    mean = getattr(model, "mean_", None) if getattr(model, "with_mean", False) else None
    scale = model.scale_
    return Rescale(nothing if mean is None else mean, nothing + 1 if scale is None else 1 / scale)


def _projected(model: Any, inputs: int) -> nn.Module:
    if model.whiten:
        raise NetworkError("A PCA with whiten=True is not read. Fit it with whiten=False, and a scaler behind it.")
    mean = np.zeros(inputs) if model.mean_ is None else model.mean_
    return _linear(model.components_, -model.components_ @ mean)


def _selected(model: Any, inputs: int) -> nn.Module:
    return Columns([(np.flatnonzero(model.get_support()).tolist(), nn.Identity())])


_UNCHANGED = ("SimpleImputer", "KNNImputer", "IterativeImputer", "MissingIndicator")
#: what is read, by the names of classes; each takes the estimator and how many numbers go in
LAYERS: dict[str, Callable[[Any, int], nn.Module]] = {
    **dict.fromkeys(("MLPClassifier", "MLPRegressor"), _network),
    **dict.fromkeys(
        ("LogisticRegression", "LogisticRegressionCV", "LinearRegression", "Ridge", "RidgeClassifier", "RidgeCV",
         "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV", "LinearSVC", "LinearSVR", "SGDClassifier", "SGDRegressor",
         "Perceptron"), _linear_model,
    ),
    **dict.fromkeys(("StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler"), _rescaled),
    **dict.fromkeys(("SelectKBest", "SelectPercentile", "SelectFromModel", "VarianceThreshold", "RFE"), _selected),
    "PCA": _projected,
    **dict.fromkeys(
        ("DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreeClassifier", "ExtraTreeRegressor",
         "RandomForestClassifier", "RandomForestRegressor", "ExtraTreesClassifier", "ExtraTreesRegressor",
         "GradientBoostingClassifier", "GradientBoostingRegressor"), forest_of,
    ),
}  # fmt: skip


def _on_numbers(model: Any, inputs: int) -> nn.Module:
    """The layer of an estimator that takes numbers."""
    name = type(model).__name__
    if model is None or isinstance(model, str) or name in _UNCHANGED[:3]:
        return nn.Identity()
    if name == "FunctionTransformer" and model.func is None:
        return nn.Identity()
    if name == "Pipeline":
        return _chain([step for _, step in model.steps], inputs)
    if name not in LAYERS:
        known = ", ".join(LAYERS)
        raise NetworkError(
            f"A {name} at this place is not read. Known are Pipeline, ColumnTransformer and OneHotEncoder or "
            f"OrdinalEncoder in front, and {known}."
        )
    return LAYERS[name](model, inputs)


def _chain(steps: Sequence[Any], inputs: int) -> nn.Sequential:
    layers = []
    for step in steps:
        layers.append(_on_numbers(step, inputs))
        inputs = _outputs(layers[-1], inputs)
    return nn.Sequential(*layers)


def _outputs(layer: nn.Module, inputs: int) -> int:
    with torch.no_grad():
        return layer(torch.zeros(1, inputs, dtype=torch.float64)).shape[1]


# --- what comes first: columns ----------------------------------------------------------------------------------------


def _first(model: Any, names: Sequence[str]) -> tuple[nn.Module, list[Column]]:
    """The layer of what takes the columns themselves, and what they are."""
    name = type(model).__name__
    if name == "OneHotEncoder":
        columns = [Column(n, tuple(c.tolist()), True) for n, c in zip(names, model.categories_)]
        dropped = model.drop_idx_ if model.drop_idx_ is not None else [None] * len(columns)
        kept, at = [], 0
        for column, out in zip(columns, dropped):
            kept += [at + k for k in range(column.width) if k != out]
            at += column.width
        return Columns([(kept, nn.Identity())]), columns
    if name == "OrdinalEncoder":
        return nn.Identity(), [Column(n, tuple(c.tolist())) for n, c in zip(names, model.categories_)]
    if name == "ColumnTransformer":
        return _column_transformer(model, names)
    if name == "Pipeline":
        first, columns = _first(model.steps[0][1], names)
        width = _outputs(first, sum(column.width for column in columns))
        return nn.Sequential(first, _chain([step for _, step in model.steps[1:]], width)), columns
    return _on_numbers(model, len(names)), [Column(n) for n in names]


def _column_transformer(model: Any, names: Sequence[str]) -> tuple[nn.Module, list[Column]]:
    taken: dict[str, Column] = {}
    parts = []
    for _, transformer, which in model.transformers_:
        if isinstance(transformer, str) and transformer == "drop":
            continue
        own = _names(which, names)
        if not own:
            continue
        module, columns = _first(transformer, own)
        for column in columns:
            if taken.setdefault(column.name, column) != column:
                raise NetworkError(
                    f"Column '{column.name}' is encoded in two ways. Use one transformer for it, or give it twice."
                )
        parts.append((module, columns))
    ordered = [taken[name] for name in names if name in taken]
    where = Table(tuple(ordered)).slices
    pairs = []
    for module, columns in parts:
        places = [i for column in columns for i in range(where[column.name].start, where[column.name].stop)]
        pairs.append((places, module))
    return Columns(pairs), ordered


def _names(which: Any, names: Sequence[str]) -> list[str]:
    """The columns of a transformer: names, places, a mask or a slice."""
    if isinstance(which, str):
        return [which]
    if isinstance(which, slice):
        return list(np.array(names, dtype=object)[which])
    listed = list(which)
    if listed and isinstance(listed[0], bool | np.bool_):
        return [name for name, chosen in zip(names, listed) if chosen]
    return [str(one) if isinstance(one, str) else names[int(one)] for one in listed]


def module_of(model: Any) -> tuple[nn.Module, Table]:
    """A fitted estimator as a module in float64, and what its input means.

    Raises:
        NetworkError: it is not fitted, a kind of estimator is not read, or the module says something else than the
            estimator on random rows.
    """
    if not hasattr(model, "n_features_in_"):
        raise NetworkError(f"The {type(model).__name__} is not fitted. Call fit() before loading it.")
    known = getattr(model, "feature_names_in_", None)
    names = [str(n) for n in known] if known is not None else [f"x{i}" for i in range(model.n_features_in_)]
    module, columns = _first(model, names)
    module = module.double().eval().requires_grad_(False)
    table = Table(tuple(columns))
    _compare(model, module, table, names, named=known is not None)
    return module, table


def _compare(model: Any, module: nn.Module, table: Table, names: Sequence[str], *, named: bool) -> None:
    """Random rows through both."""
    rng = np.random.default_rng(0)
    x = np.concatenate([_random_rows(column, rng) for column in table.columns], 1)
    rows = table.decode(x)
    rows |= {name: [0.0] * len(x) for name in names if name not in rows}
    if named:
        import pandas

        given: Any = pandas.DataFrame(rows)[list(names)]
    elif any(column.categories for column in table.columns):
        given = np.array([rows[name] for name in names], dtype=object).T
    else:
        given = np.array([rows[name] for name in names]).T
    with torch.no_grad():
        found = module(torch.as_tensor(table.encode(rows))).numpy()
    said = _said(model, given)
    if said.shape[1] == 1 and found.shape[1] == 2:
        said = np.concatenate([0 * said, said], 1)
    apart = float(np.abs(said - found).max()) if said.shape == found.shape else np.inf
    if not apart <= AGREES * max(1.0, float(np.abs(said).max())):
        raise NetworkError(
            f"The {type(model).__name__} says something else than what was read from it, by up to {apart:.3g}. Load "
            "its last step alone."
        )


def _random_rows(column: Column, rng: np.random.Generator, count: int = 64) -> NDArray[np.float64]:
    if column.categories is None:
        return rng.normal(size=(count, 1)) * 10.0 ** rng.integers(-1, 3, size=(count, 1))
    codes = rng.integers(len(column.categories), size=count)
    return np.eye(column.width)[codes] if column.one_hot else codes[:, None].astype(float)


def _said(model: Any, rows: Any) -> NDArray[np.float64]:
    """Scores ``(N, K)``: decision function, logarithms of probabilities' ratios, or what a regressor predicts."""
    last = model.steps[-1][1] if type(model).__name__ == "Pipeline" else model
    name = type(last).__name__
    if not hasattr(last, "classes_"):
        found = model.predict(rows) if hasattr(model, "predict") else model.transform(rows)
    elif hasattr(model, "decision_function"):
        found = model.decision_function(rows)
    elif name == "MLPClassifier":
        return _mlp_scores(model, last, rows)
    else:
        return np.asarray(model.predict_proba(rows), dtype=np.float64)
    return np.asarray(found, dtype=np.float64).reshape(len(rows), -1)


def _mlp_scores(model: Any, last: Any, rows: Any) -> NDArray[np.float64]:
    """A network has no decision function: its own forward pass up to the last activation."""
    inner = rows if last is model else model[:-1].transform(rows)
    kept, last.out_activation_ = last.out_activation_, "identity"
    try:
        return np.asarray(last._forward_pass_fast(np.asarray(inner, dtype=np.float64), check_input=False))
    finally:
        last.out_activation_ = kept
