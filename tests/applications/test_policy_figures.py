"""Figures of reinforcement learning: curves with one seed and with several, and what does not fit."""

import pytest

from clinch.applications.policies import learning_figure, policy_attack_figure
from clinch.errors import ShapeError
from clinch.figures import save


def test_learning_curves_are_drawn_with_their_mean(tmp_path):
    panels = {"a": {"plain": [[0, 1, 2], [0, 3, 4]], "refined": [[1, 1, 1]]}, "b": {"plain": [[5, 5, 5]]}}
    figure = learning_figure(panels, [10, 20, 30], heading="h")
    first = figure.axes[0]
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    assert [0, 2, 3] in [list(line.get_ydata()) for line in first.lines]
    legend = first.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["plain (2 seeds)", "refined (1 seed)"]
    assert save(figure, tmp_path / "curves.png").stat().st_size > 1000


def test_curves_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"expected \(seeds, 2\)"):
        learning_figure({"a": {"plain": [[1, 2, 3]]}}, [1, 2])
    with pytest.raises(ShapeError, match="at most 4"):
        learning_figure({"a": {str(k): [[1, 2]] for k in range(5)}}, [1, 2])


def test_returns_and_shares_are_drawn(tmp_path):
    returns = {"no attack": [(6, 0.2), (6, 0.2)], "PGD, worst action": [(5, 0.2), (1, 0.1)]}
    figure = policy_attack_figure((0.01, 0.02), returns, [(0.001, 0.1, 0.3), (0.01, 0.8, 0.9)])
    left, right = figure.axes
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(returns) and left.get_legend() is None
    figure.draw_without_rendering()
    assert legend.get_window_extent().y1 <= min(axes.get_tightbbox().y0 for axes in figure.axes)
    assert [list(line.get_ydata()) for line in left.lines] == [[6, 6], [5, 1]]
    assert [list(line.get_ydata()) for line in right.lines] == [[0.3, 0.9], [0.1, 0.8]]
    assert save(figure, tmp_path / "policies.png").stat().st_size > 1000
