"""The cheapest change of a row that a schema allows and a model answers as wanted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clinch.applications.recourse.schema import Schema
from clinch.errors import EmptyRegionError, ProblemError
from clinch.modeling.constraints import Constraint
from clinch.modeling.expressions import LinearExpression
from clinch.modeling.linear_forms import parse_constraint
from clinch.modeling.model import SymbolicNetwork, load
from clinch.modeling.norms import norm
from clinch.modeling.problem import Minimize, Problem
from clinch.network.tabular import Table, columns_of
from clinch.solver.solution import Solution, Status, relative_gap

#: by how much the wanted class leads, in scores; what float32 takes for another answer is tried again with ten times it
MARGIN, TRIES = 1e-4, 3
#: what relations are tightened by, relative to their terms, so that they hold whatever order a sum is taken in
SUMS = 1e-12
#: what the gap of a cost that was added up anew may exceed the one that was asked by
ROUNDED = 1e-6


@dataclass(frozen=True)
class Answer:
    """The cheapest change of one row.

    Attributes:
        before: the row.
        after: the row with the change; None: none was found.
        cost: of the change; infinite without one.
        bound: proven: no change that the schema allows and the model answers as wanted costs less.
        status: as of :class:`clinch.Solution`; INFEASIBLE: it is proven that there is none.
        seconds: that it took.
        robust: proven: no change of the numbers by less than this share of their range makes the answer another one;
            None where it was not asked.
    """

    before: dict[str, Any]
    after: dict[str, Any] | None
    cost: float
    bound: float
    status: Status
    seconds: float
    robust: float | None = None

    @property
    def changes(self) -> dict[str, tuple[Any, Any]]:
        """Column -> its value before and after, of those that change."""
        after = self.after or self.before
        return {name: (old, after[name]) for name, old in self.before.items() if after.get(name, old) != old}

    @property
    def proven(self) -> bool:
        """Whether it is the cheapest, or that there is none."""
        return self.status in (Status.OPTIMAL, Status.INFEASIBLE)

    def to_dict(self) -> dict[str, Any]:
        """For a table or JSON."""
        changes = {name: list(pair) for name, pair in self.changes.items()}
        return {"status": self.status.name, "cost": self.cost, "bound": self.bound, "changes": changes,
                "after": self.after, "robust": self.robust, "seconds": self.seconds}  # fmt: skip


@dataclass(frozen=True)
class Recourse:
    """Answers for rows: for each the cheapest, then others.

    Attributes:
        answers: for each row one or more.
    """

    answers: tuple[tuple[Answer, ...], ...]

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, row: int) -> Answer:
        """The cheapest answer of a row."""
        return self.answers[row][0]

    def __iter__(self) -> Iterator[Answer]:
        return (several[0] for several in self.answers)

    def to_rows(self) -> list[dict[str, Any]]:
        """A row for each answer: number of the row, status, cost, bound, and the columns after the change."""
        return [
            {"row": row, "status": one.status.name, "cost": one.cost, "bound": one.bound, "changed": len(one.changes)}
            | (one.after or one.before)
            for row, several in enumerate(self.answers)
            for one in several
        ]

    def to_frame(self) -> Any:
        """As a pandas data frame."""
        import pandas

        return pandas.DataFrame(self.to_rows())

    def __str__(self) -> str:
        lines = []
        for row, several in enumerate(self.answers):
            for one in several:
                changes = ", ".join(f"{name} {_short(a)} -> {_short(b)}" for name, (a, b) in one.changes.items())
                said = changes or ("no change" if one.after is not None else "none was found")
                proof = "cheapest" if one.status is Status.OPTIMAL else f"at least {one.bound:.4g}"
                if one.status is Status.INFEASIBLE:
                    said, proof = "there is none", "proven"
                lines.append(f"row {row}  cost {one.cost:.4g}  {proof}  {said}")
        return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def cheapest(
    model: Any,
    schema: Schema,
    rows: Any,
    wanted: int | tuple[float, float] = 1,
    *,
    diverse: int = 1,
    robust: bool = False,
    time_limit: float = 30.0,
    gap: float = 1e-3,
    margin: float = MARGIN,
    solver: str | None = None,
) -> Recourse:
    """The cheapest changes of rows that a schema allows and a model answers as wanted, each with a proof.

    ``min Σ_i cost_i·|after_i − before_i|`` over what the schema allows, ``z_wanted`` the largest score by a margin.
    Answers are checked: every condition of the schema holds to the last bit, and the model answers as wanted in float64
    and in float32.

    Args:
        model: a network, or what :func:`clinch.load` takes: a fitted estimator or pipeline of scikit-learn, or a module
            whose input are the schema's features one after the other, with an element for each category.
        schema: what may change and what it costs.
        rows: a data frame, a dictionary of columns, or a list of dictionaries.
        wanted: the class, by number; of a regressor lower and upper limit of its output.
        diverse: answers for each row: every further one is the cheapest that leaves at least one feature alone which
            each answer before it changes.
        robust: whether to prove how far the numbers may deviate from each answer, see :attr:`Answer.robust`.
        time_limit: seconds for each answer.
        gap: relative gap at which an answer counts as the cheapest.
        margin: by how much the wanted class leads.
        solver: as of :meth:`clinch.Problem.solve`.

    Returns:
        An answer for each row, or several.

    Raises:
        ProblemError: the schema does not fit the model or the rows, or wanted is no class.

    Example:
        >>> from clinch.applications.recourse import Feature, Schema
        >>> votes = nn.Linear(2, 2)  # one more unit of income is worth three less of debt
        >>> votes.weight.data, votes.bias.data = torch.tensor([[0.0, 0.0], [3.0, -1.0]]), torch.tensor([0.0, -5.5])
        >>> schema = Schema((Feature("income", lower=0, upper=9, step=1), Feature("debt", lower=0, upper=9, step=1)))
        >>> found = cheapest(votes.eval(), schema, [{"income": 2, "debt": 3}], wanted=1)
        >>> found[0].changes, found[0].proven
        ({'income': (2, 3)}, True)
    """
    network = model if isinstance(model, SymbolicNetwork) else _loaded(model, schema)
    table = schema.table(network.table)
    if network.input_shape != (table.size,):
        raise ProblemError(
            f"The schema has {table.size} numbers and categories; the model takes {network.input_shape}."
        )
    question = _Question(network, schema, table, wanted, gap, time_limit, solver)
    columns = columns_of(rows)
    names = [feature.name for feature in schema.features]
    missing = next((name for name in names if name not in columns), None)
    if missing is not None:
        raise ProblemError(f"The rows have no column '{missing}'. They have: {', '.join(columns)}.")
    found = []
    for row in range(len(columns[names[0]])):
        before = {name: _plain(columns[name][row]) for name in names}
        several: list[Answer] = []
        for _ in range(max(1, diverse)):
            answer = question.answer(before, margin, [list(one.changes) for one in several])
            if several and answer.after is None:
                break
            several.append(question.with_robustness(answer) if robust else answer)
            if not answer.changes:
                break
        found.append(tuple(several))
    return Recourse(tuple(found))


def _loaded(model: Any, schema: Schema) -> SymbolicNetwork:
    shape = None if hasattr(model, "get_params") else (schema.table(None).size,)
    return load(model, input_shape=shape)


def _plain(value: Any) -> Any:
    """A number or text of Python's own, as files have them."""
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True)
class _Question:
    """What is asked of every row."""

    network: SymbolicNetwork
    schema: Schema
    table: Table
    wanted: int | tuple[float, float]
    gap: float
    time_limit: float
    solver: str | None

    def answer(self, before: dict[str, Any], margin: float, others: Sequence[Sequence[str]] = ()) -> Answer:
        """The cheapest answer; what float32 sees otherwise is asked again with a larger margin.

        Args:
            before: the row.
            margin: by how much the wanted class leads.
            others: features that earlier answers changed, each list not to be changed as a whole.
        """
        seconds = 0.0
        answer = None
        for attempt in range(TRIES):
            try:
                problem = self.problem(before, margin * 10.0**attempt, others)
            except EmptyRegionError:
                return Answer(before, None, np.inf, np.inf, Status.INFEASIBLE, seconds)
            solution = self._solved(problem)
            seconds += solution.seconds
            first = answer is None
            answer = self._read(before, solution, seconds, answer.bound if answer is not None else None)
            if answer.after is None or self._holds(before, answer.after):
                return answer
            if first and attempt + 1 == TRIES:
                break
        assert answer is not None
        return replace(answer, after=None, cost=np.inf, status=Status.UNKNOWN)

    def _solved(self, problem: Problem) -> Solution:
        """Halves of boxes first where steps leave few points near the row; then all engines, for the other half."""
        if self.solver is not None or problem.query.region.discrete is None:
            return problem.solve(time_limit=self.time_limit, gap=self.gap, solver=self.solver)
        first = problem.solve(time_limit=self.time_limit / 2, gap=self.gap, solver="input_split")
        if _one(first) in (Status.OPTIMAL, Status.INFEASIBLE):
            return first
        second = problem.solve(time_limit=self.time_limit / 2, gap=self.gap)
        best = first if float(first.value) < float(second.value) else second
        bound, seconds = max(first.bound, second.bound), first.seconds + second.seconds
        closed = relative_gap(torch.tensor(float(best.value)), torch.tensor(float(bound))) <= self.gap
        return replace(best, bound=bound, seconds=seconds, status=Status.OPTIMAL if bool(closed) else best.status)

    def problem(self, before: Mapping[str, Any], margin: float, others: Sequence[Sequence[str]] = ()) -> Problem:
        """The statement for one row."""
        x, z = self.network.input, self.network.output
        start = torch.as_tensor(self.table.encode([before])[0])
        conditions, names, shares = self._features(x, start, before)
        if self.schema.changes is not None:
            conditions.append(norm(x - start, 0, weights=shares) <= float(self.schema.changes))
        for relation in self.schema.relations:
            conditions += _strictly(parse_constraint(relation, names))
        for several in others:
            kept: Constraint | None = None
            for name in several:
                at = self.table.slices[name]
                at = slice(at.start + int(start[at].argmax()), at.stop) if at.stop - at.start > 1 else at
                same = x[at.start] == float(start[at.start])
                kept = same if kept is None else kept | same
            conditions += [] if kept is None else [kept]
        if isinstance(self.wanted, tuple):
            low, high = self.wanted
            conditions.append(z[0].between(low + margin * np.isfinite(low), high - margin * np.isfinite(high)))
        else:
            conditions.append(z.argmax(margin) == self.wanted)
        return Problem(Minimize(norm(x - start, 1, weights=self.weights())), conditions)

    def _features(
        self, x: LinearExpression, start: Tensor, before: Mapping[str, Any]
    ) -> tuple[list[Constraint], dict[str, LinearExpression], Tensor]:
        """Conditions on single features, what names stand for, and each element's share in the count of changes."""
        conditions: list[Constraint] = []
        names: dict[str, LinearExpression] = {}
        lower, upper = start.clone(), start.clone()
        shares = torch.ones_like(start)
        for column, at in zip(self.table.columns, self.table.slices.values()):
            feature = self.schema[column.name]
            if column.categories is None:
                names[column.name] = x[at.start]
                low, high = feature.limits(float(before[column.name]))
                lower[at], upper[at] = low, high
                values = feature.values(float(before[column.name]))
                if values is not None and low < high:
                    conditions.append(x[at.start].among(values))
                continue
            allowed = [c in (feature.categories or ()) or c == before[column.name] for c in column.categories]
            moves = feature.may != "stay"
            if column.one_hot:
                names |= {f"{column.name}={c}": x[at.start + k] for k, c in enumerate(column.categories)}
                shares[at] = 0.5
                if moves:
                    lower[at], upper[at] = 0.0, torch.tensor(allowed, dtype=torch.float64)
                    conditions.append(x[at].one_hot())
                continue
            if moves:
                codes = [float(k) for k, fine in enumerate(allowed) if fine]
                lower[at], upper[at] = min(codes), max(codes)
                conditions.append(x[at.start].among(codes))
        return [x >= lower, x <= upper, *conditions], names, shares

    def weights(self) -> NDArray[np.float64]:
        """What a unit of each element of the input costs: of a category half, as it leaves one and takes another."""
        found = []
        for column in self.table.columns:
            cost = self.schema[column.name].cost
            found += [cost / 2 if column.one_hot else cost] * column.width
        return np.array(found)

    def _read(self, before: dict[str, Any], solution: Solution, seconds: float, bound: float | None) -> Answer:
        """What a solution says of the row; the bound of a smaller margin is the one that counts."""
        proven = float(solution.bound) if bound is None else bound
        if not np.isfinite(float(solution.value)):
            return Answer(before, None, np.inf, proven, _one(solution), seconds)
        decoded = {name: values[0] for name, values in self.table.decode(solution.x.double()).items()}
        after = {name: decoded.get(name, old) for name, old in before.items()}
        # numbers that are whole before are whole after
        after = {n: int(v) if isinstance(before[n], int) and float(v).is_integer() else v for n, v in after.items()}
        moved = np.abs(self.table.encode([after])[0] - self.table.encode([before])[0])
        cost = float(moved @ self.weights())
        closed = relative_gap(torch.tensor(cost), torch.tensor(proven)) <= self.gap + ROUNDED
        status = Status.OPTIMAL if bool(closed) else Status.FEASIBLE
        return Answer(before, after, cost, proven, status, seconds)

    def _holds(self, before: dict[str, Any], after: dict[str, Any]) -> bool:
        """Whether the schema is kept to the last bit and both precisions answer as wanted."""
        if self.schema.violations(before, after):
            return False
        x = torch.as_tensor(self.table.encode([after]))
        for dtype in (torch.float64, torch.float32):
            graph = self.network.graph_as(dtype, "cpu")
            z = graph.forward(x.to(dtype))[graph.output].flatten()
            if isinstance(self.wanted, tuple):
                fine = self.wanted[0] <= float(z[0]) <= self.wanted[1]
            else:
                fine = int(z.argmax()) == self.wanted
            if not fine:
                return False
        return True

    def with_robustness(self, answer: Answer) -> Answer:
        """The answer with how far all numbers may deviate, as a share of their ranges."""
        if answer.after is None:
            return answer
        x, z = self.network.input, self.network.output
        at = torch.as_tensor(self.table.encode([answer.after])[0])
        lower, upper, weights = at.clone(), at.clone(), torch.zeros_like(at)
        for column, where in zip(self.table.columns, self.table.slices.values()):
            feature = self.schema[column.name]
            width = feature.upper - feature.lower
            if column.categories is None and width > 0:
                lower[where], upper[where], weights[where] = at[where] - width, at[where] + width, 1 / width
        if isinstance(self.wanted, tuple):
            other: Constraint = ~z[0].between(*self.wanted, margin=0.0)
        else:
            other = z.argmax(margin=0.0) != self.wanted
        problem = Problem(Minimize(norm(x - at, float("inf"), weights=weights)), [x >= lower, x <= upper, other])
        found = problem.solve(time_limit=self.time_limit, gap=0.05, solver=self.solver)
        return replace(answer, robust=min(1.0, float(found.bound)))


def _one(solution: Solution) -> Status:
    """The status of one problem."""
    assert isinstance(solution.status, Status)
    return solution.status


def _strictly(relation: Any) -> list[Constraint]:
    """A relation, tightened so that rounding cannot break it; an equality as it is."""
    if relation.equality is not None:
        return [relation]
    atoms = relation.atoms
    size = 1.0 + float(atoms.constant.abs().max())
    return [atoms + SUMS * size <= 0.0]
