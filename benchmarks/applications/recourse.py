"""The cheapest changes of rows of three tables, beside DiCE and a mixed-integer model in HiGHS.

Breast cancer and wine are scikit-learn's; credit is generated, with categories, whole numbers, a column that stays, one
that may only rise, a relation between two, and at most three changes. Networks of 2 × 20 and 2 × 64 ReLUs behind
scalers and encoders answer no to the rows. Every answer is checked against the schema to the last bit and against the
network in float64 and float32, in code of this page. HiGHS gets the textbook big-M model of the same question, its
big-M from interval arithmetic, and the first rows; DiCE (random sampling, then its sparsity step) too, where it is
installed.

Ends with exit code 1 where an answer breaks a condition, or a proven one is dearer than another's.

    python -m benchmarks recourse [--rows 200] [--highs 10] [--seconds 20] [--out FILE]
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import highspy
import numpy as np
import pandas
import torch

import clinch as cl
from benchmarks.common.cpu_clock import count_cpu_seconds, stop_highs_after
from benchmarks.common.page import RESULTS, table, write_page
from clinch.applications.recourse import Answer, Schema, cheapest

TAKES = "an hour"
MARGIN = 1e-4
#: coefficients that HiGHS drops with a warning
SMALL = 1e-8


class Case(NamedTuple):
    name: str
    rows: Any
    labels: Any
    schema: Schema


def credit(n: int = 1500) -> Case:
    rng = np.random.default_rng(0)
    rows = pandas.DataFrame({
        "age": rng.integers(18, 76, n), "income": rng.gamma(4, 600, n).round(0).astype(int),
        "amount": (rng.gamma(2, 2500, n) + 300).round(-1).astype(int), "duration": rng.integers(1, 21, n) * 3,
        "savings": rng.exponential(2000, n).round(0).astype(int), "cards": rng.integers(0, 6, n),
        "job": rng.choice(["none", "manual", "clerk", "expert"], n, p=[0.1, 0.4, 0.35, 0.15]),
        "housing": rng.choice(["rent", "own", "free"], n), "purpose": rng.choice(["car", "home", "study", "other"], n),
    })  # fmt: skip
    score = rows.income / 1000 - rows.amount / rows.duration / 180 + rows.savings / 4000 + 0.02 * (rows.age - 40)
    score = score - 0.3 * rows.cards - 0.0006 * (rows.age - 45) ** 2 + rng.normal(0, 0.7, n)
    score = score + rows.job.map({"none": -1.5, "manual": 0, "clerk": 0.3, "expert": 0.8})
    score = score + rows.housing.map({"rent": -0.3, "own": 0.5, "free": 0})
    schema = Schema.from_frame(
        rows, stay=["age"], rise=["income"], relations=["amount >= 100 * duration - 3000"], changes=3
    )
    return Case("credit", rows, (score > score.median()).astype(int), schema)


def of_scikit_learn(name: str) -> Case:
    from sklearn import datasets

    data = getattr(datasets, f"load_{name}")(as_frame=True)
    schema = Schema.from_frame(data.data, step=dict.fromkeys(data.data.columns))
    return Case(name, data.data, (data.target == 1).astype(int), schema)


def fitted(case: Case, hidden: tuple[int, ...]) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    categories = [f.name for f in case.schema.features if f.categories is not None]
    numbers = [f.name for f in case.schema.features if f.categories is None]
    first = ColumnTransformer([("numbers", StandardScaler(), numbers), ("categories", OneHotEncoder(), categories)])
    model = MLPClassifier(hidden, max_iter=300, alpha=1e-2, random_state=0)
    return make_pipeline(first if categories else StandardScaler(), model).fit(case.rows, case.labels)


def broken(case: Case, model: Any, answer: Answer) -> str:
    """What is wrong with an answer; nothing: an empty text."""
    if answer.after is None:
        return ""
    found = case.schema.violations(answer.before, answer.after)
    frame = pandas.DataFrame([answer.after])[list(case.rows.columns)]
    inner, mlp = model[:-1].transform(frame), model[-1]
    for dtype in (np.float64, np.float32):
        h = inner.astype(dtype)
        for k, (weight, bias) in enumerate(zip(mlp.coefs_, mlp.intercepts_)):
            h = h @ weight.astype(dtype) + bias.astype(dtype)
            h = np.maximum(h, 0) if k + 1 < len(mlp.coefs_) else h
        if not h[0, 0] > 0:
            found.append(f"says no in {np.dtype(dtype)}")
    return "; ".join(found)


# --- the same question in HiGHS ---------------------------------------------------------------------------------------


def by_highs(case: Case, model: Any, before: dict[str, Any], seconds: float) -> float:
    """The cost that HiGHS finds; infinite without an answer."""
    h = highspy.Highs()
    h.silent()
    for option, value in {"threads": 1, "mip_rel_gap": 1e-3}.items():
        h.setOptionValue(option, value)
    stop_highs_after(h, seconds)
    whole, cost, parts = highspy.HighsVarType.kInteger, 0.0, {}
    changed, numbers, categories = [], [], []
    for feature in case.schema.features:
        old = before[feature.name]
        moved = h.addVariable(lb=0, ub=0 if feature.may == "stay" else 1, type=whole)
        changed.append(moved)
        if feature.categories is not None:
            bits = [h.addVariable(lb=0, ub=1, type=whole) for _ in feature.categories]
            h.addConstr(h.qsum(bits) == 1)
            h.addConstr(bits[feature.categories.index(old)] + moved == 1)
            cost = cost + feature.cost * moved
            categories += bits
            continue
        low, high = feature.limits(old)
        x, up = h.addVariable(lb=low, ub=high), h.addVariable(lb=0, ub=high - low)
        values = feature.values(old)
        if values is not None and low < high:
            chosen = [h.addVariable(lb=0, ub=1, type=whole) for _ in values]
            h.addConstr(h.qsum(chosen) == 1)
            h.addConstr(h.qsum(v * b for v, b in zip(values, chosen)) - x == 0)
        h.addConstr(x - up <= old)
        h.addConstr(x + up >= old)
        h.addConstr(up - (high - low) * moved <= 0)
        cost, parts[feature.name] = cost + feature.cost * up, x
        numbers.append(x)
    if case.schema.changes is not None:
        h.addConstr(h.qsum(changed) <= case.schema.changes)
    if case.schema.relations:
        h.addConstr(parts["amount"] - 100 * parts["duration"] >= -3000)
    _says_yes(h, case, model, before, numbers, categories)
    h.minimize(cost)
    return float(h.getInfo().objective_function_value)


def _says_yes(
    h: highspy.Highs, case: Case, model: Any, before: dict[str, Any], numbers: list[Any], categories: list[Any]
) -> None:
    """The network as ``h = z + s`` with ``0 <= h <= u·b``, ``0 <= s <= −l·(1 − b)``, its decision at least a margin."""
    whole = highspy.HighsVarType.kInteger
    scaler = model[0].transformers_[0][1] if hasattr(model[0], "transformers_") else model[0]
    layer = [(x - m) * (1 / s) for x, m, s in zip(numbers, scaler.mean_, scaler.scale_)] + categories
    limits = [feature.limits(before[feature.name]) for feature in case.schema.features if feature.categories is None]
    low = np.array([(a - m) / s for (a, _), m, s in zip(limits, scaler.mean_, scaler.scale_)] + [0.0] * len(categories))
    high = np.array(
        [(b - m) / s for (_, b), m, s in zip(limits, scaler.mean_, scaler.scale_)] + [1.0] * len(categories)
    )
    mlp = model[-1]
    for k, (weight, bias) in enumerate(zip(mlp.coefs_, mlp.intercepts_)):
        least = weight.T.clip(0) @ low + weight.T.clip(None, 0) @ high + bias
        most = weight.T.clip(0) @ high + weight.T.clip(None, 0) @ low + bias
        z = [
            h.qsum(float(a) * v for a, v in zip(row, layer) if abs(a) > SMALL) + float(b)
            for row, b in zip(weight.T, bias)
        ]
        if k + 1 == len(mlp.coefs_):
            h.addConstr(z[0] >= MARGIN)
            break
        layer = []
        for form, below, above in zip(z, least, most):
            out, b = h.addVariable(lb=0, ub=max(0.0, float(above))), h.addVariable(lb=0, ub=1, type=whole)
            h.addConstr(out - form >= 0)
            h.addConstr(out - max(0.0, float(above)) * b <= 0)
            h.addConstr(out - form - min(0.0, float(below)) * b <= -min(0.0, float(below)))
            layer.append(out)
        low, high = least.clip(0), most.clip(0)


# --- DiCE -------------------------------------------------------------------------------------------------------------


def by_dice(case: Case, model: Any, rows: Any) -> list[float] | None:
    """The cost of DiCE's cheapest of four answers that the schema allows, for each row; None: it is not installed."""
    try:
        import dice_ml
    except ImportError:
        return None
    numbers = [f.name for f in case.schema.features if f.categories is None]
    data = dice_ml.Data(
        dataframe=case.rows.assign(answer=case.labels), continuous_features=numbers, outcome_name="answer"
    )
    explainer = dice_ml.Dice(data, dice_ml.Model(model=model, backend="sklearn"), method="random")
    costs = []
    vary = [f.name for f in case.schema.features if f.may != "stay"]
    unit = {f.name: (f.cost, f.categories is None) for f in case.schema.features}
    for k in range(len(rows)):
        before = rows.iloc[k]
        try:
            answers = explainer.generate_counterfactuals(
                rows.iloc[[k]], total_CFs=4, desired_class=1, features_to_vary=vary, random_seed=0, verbose=False
            ).cf_examples_list[0].final_cfs_df  # fmt: skip
        except Exception:  # what it raises where it finds none
            answers = None
        best = np.inf
        for _, after in answers.iterrows() if answers is not None else ():
            if not case.schema.violations(dict(before), {n: after[n] for n in unit}):
                each = (c * (abs(after[n] - before[n]) if number else after[n] != before[n])
                        for n, (c, number) in unit.items())  # fmt: skip
                best = min(best, sum(each))
        costs.append(best)
    return costs


def measured(case: Case, hidden: tuple[int, ...], options: argparse.Namespace) -> tuple[list[Any], int]:
    """A row of the table, and how often something is wrong."""
    model = fitted(case, hidden)
    rows = case.rows[model.predict(case.rows) == 0].head(options.rows)
    network = cl.load(model)
    began = time.process_time()
    found = cheapest(network, case.schema, rows, 1, time_limit=options.seconds, margin=MARGIN)
    ours = (time.process_time() - began) / len(found)
    wrong = [text for text in (broken(case, model, answer) for answer in found) if text]
    some = min(options.highs, len(found))
    began = time.process_time()
    theirs = [by_highs(case, model, found[k].before, options.seconds) for k in range(some)]
    highs = (time.process_time() - began) / max(1, some)
    cheaper = sum(theirs[k] < found[k].cost * (1 - 2e-3) and found[k].proven for k in range(some))
    began = time.process_time()
    dice = by_dice(case, model, rows.head(some))
    dice_seconds = (time.process_time() - began) / max(1, some)
    for text in wrong:
        print("  broken:", text)
    proven = sum(answer.proven for answer in found)
    answered = [k for k in range(some) if np.isfinite(found[k].cost)]
    both = [k for k in answered if theirs[k] < highspy.kHighsInf]
    ratio = np.mean([theirs[k] / max(found[k].cost, 1e-9) for k in both]) if both else np.nan
    beside = "not installed"
    if dice is not None:
        allowed = [k for k in answered if np.isfinite(dice[k])]
        dearer = np.mean([dice[k] / max(found[k].cost, 1e-9) for k in allowed]) if allowed else np.nan
        beside = f"{len(allowed)} of {some} allowed, {dearer:.2f}, {dice_seconds:.2f}"
        cheaper += sum(dice[k] < found[k].cost * (1 - 2e-3) and found[k].proven for k in allowed)
    return [
        case.name, " × ".join(map(str, hidden)), len(found), len(wrong), f"{proven / len(found):.1%}", f"{ours:.2f}",
        f"{len(both)} of {some} found, {ratio:.4f}, {highs:.2f}", beside,
    ], len(wrong) + cheaper  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--highs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--tables", default="credit,breast_cancer,wine")
    parser.add_argument("--out", type=Path, default=RESULTS / "recourse.md")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    count_cpu_seconds()
    lines, faults = [], 0
    for name in options.tables.split(","):
        case = credit() if name == "credit" else of_scikit_learn(name)
        for hidden in ((20, 20), (64, 64)):
            line, wrong = measured(case, hidden, options)
            lines.append(line)
            faults += wrong
            print(*line, sep="  ", flush=True)
    head = ("table", "network", "rows", "broken", "proven cheapest", "CPU s a row",
            "HiGHS (limit of the clock): cost over Clinch's, CPU s", "DiCE: cost over Clinch's, CPU s")  # fmt: skip
    text = [
        f"At most {options.seconds:g} CPU seconds for an answer, gap 1e-3, margin {MARGIN:g}.",
        "",
        *table(head, lines),
    ]
    write_page(options.out, "Recourse", text, ["scikit-learn", "highspy"])
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
