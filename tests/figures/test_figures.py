"""Figures: every shape of input, histories with holes, what is drawn where."""

import pytest
import torch

from clinch.errors import ShapeError
from clinch.figures import Watched, save, solution_figure, summary
from clinch.papers import Group, comparison_figure
from clinch.solver.solution import Event, Solution, Status

INF = float("inf")
HISTORY = [
    Event(0.01, 1, INF, 0.0, "geometry"),
    Event(0.02, 9, 1.4, 0.0, "attack"),
    Event(0.30, 9, 1.4, 0.5, "CROWN"),
    Event(2.00, 20, 0.9, 0.8991, "branch and bound"),
]


def solved(x, history, value=0.9, bound=0.8991, *, seconds=2.5):
    """A solution with this history; batched where the numbers are tensors."""
    batched = isinstance(value, torch.Tensor)
    gap = (value - bound) / value
    return Solution(Status.FEASIBLE, x, value, bound, gap, None, (), history, seconds, 20, batched=batched)


WATCHED = Watched(
    lower=torch.tensor([0.0, 0.0, 0.0]),
    upper=torch.tensor([4.0, 2.0, 0.0]),
    margin=torch.tensor([0.04, 0.02, 0.001]),
    before=torch.tensor([1.0, 1.0, 0.0]),
    after=torch.tensor([4.04, 2.01, 0.0]),
    layer="relu2",
)


@pytest.mark.parametrize("shape", [(8, 8), (1, 28, 28), (3, 32, 32), (5,), (784,), (2, 3, 4), (1, 784, 1)])
def test_any_input_shape_is_drawn(shape, tmp_path):
    generator = torch.Generator().manual_seed(0)
    x0, x = torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)
    path = save(solution_figure(x0, solved(x, HISTORY), heading="h", watched=WATCHED), tmp_path / "new" / "figure.png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_only_neurons_outside_by_their_margin_are_marked():
    assert WATCHED.left.tolist() == [True, False, False]
    figure = solution_figure(torch.zeros(8, 8), solved(torch.ones(8, 8), HISTORY), watched=WATCHED)
    assert "neurons of relu2: 1 outside its box" in [axes.get_title() for axes in figure.axes]


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_last_value_and_bound_are_written():
    figure = solution_figure(torch.zeros(4), solved(torch.ones(4), HISTORY))
    assert texts(figure) == ["value 0.9", "bound 0.8991"]


def test_a_problem_of_a_batch_is_picked():
    value, bound = torch.tensor([1.0, 5.0]), torch.tensor([0.5, 4.0])
    solution = solved(torch.ones(2, 4), [Event(0.1, 1, value, bound, "attack")], value, bound)
    assert texts(solution_figure(torch.zeros(4), solution, problem=1)) == ["value 5", "bound 4"]
    assert summary(solution, "distance", 1).startswith("distance = 5")


@pytest.mark.parametrize(
    ("history", "value", "bound"),
    [
        ([], INF, -INF),
        (HISTORY[:1], INF, 0.0),
        ([Event(0.0, 1, 2.0, -INF, "attack")], 2.0, -INF),
        ([Event(0.0, 1, -2.0, 3.0, "attack")], -2.0, 3.0),
    ],
    ids=["nothing", "bound only", "value only", "maximised"],
)
def test_histories_with_holes_are_drawn(history, value, bound, tmp_path):
    solution = solved(torch.zeros(4), history, value, bound, seconds=0.0)
    save(solution_figure(torch.zeros(4), solution), tmp_path / "figure.svg")
    assert ("no input found" in summary(solution, "q")) == (value == INF)


def test_inputs_of_two_shapes_are_refused():
    with pytest.raises(ShapeError, match="x0 has shape"):
        solution_figure(torch.zeros(4), solved(torch.zeros(5), HISTORY))


def test_methods_are_compared_on_ordinary_and_logarithmic_axes(tmp_path):
    plain = Group("a", "success, %", ("x", "y"), ((10.0,), (20.0,)), span=(0, 100))
    steep = Group("b", "missing", ("x", "y"), ((1.0, 0.0), (INF,)), (None, 0.5), "mean", floor=1e-3)
    figure = comparison_figure([plain, steep], "h")
    left, right = figure.axes
    assert left.get_xlim() == (0, 100) and right.get_xscale() == "log"
    drawn = [value for line in right.lines for value in line.get_xdata()]
    assert sorted(drawn) == [1e-3, 0.5, 0.5005, 1.0]
    assert save(figure, tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
