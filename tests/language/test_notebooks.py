"""What notebooks show, and the bar that follows a solve."""

import base64
import math
import re
import sys
import types
import zlib
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import clinch as cl
from clinch.demo import SHAPE, digits, network
from clinch.runtime import html
from clinch.solver.solution import Event

NET = cl.load(network(), input_shape=SHAPE)
X, Y = (part[:3] for part in digits("test"))
PROBLEM = cl.Problem(
    cl.Minimize(cl.norm(NET.input - X[0], 2)), [NET.input >= 0, NET.input <= 1, NET.output.argmax() != int(Y[0])]
)


def parsed(text):
    """The piece as a tree: browsers forgive what this does not."""
    return ElementTree.fromstring(f"<all>{text.replace('style=text-align:left', '')}</all>")


@pytest.fixture(scope="module")
def shown():
    solution = PROBLEM.solve(time_limit=30, gap=0.9)
    found = cl.attacks.fgsm(NET, X, Y, eps=0.3)
    run = cl.study.evaluate(NET, (X, Y), eps=0.001, methods="cheap")
    return {"problem": PROBLEM, "network": NET, "solution": solution, "attack": found, "study": run,
            "studies": cl.study.Comparison({"a": run})}  # fmt: skip


@pytest.mark.parametrize("name", ["problem", "network", "solution", "attack", "study", "studies"])
def test_everything_has_a_page_of_its_own_and_a_short_text(shown, name):
    text = shown[name]._repr_html_()
    tree = parsed(text)
    assert len(list(tree)) >= 1 and "<script" not in text and "http" not in text
    assert name in ("solution", "study", "studies") or len(repr(shown[name])) < 300


def test_a_solution_shows_both_inputs_their_difference_and_the_gap(shown):
    solution = shown["solution"]
    tree = parsed(solution._repr_html_())
    assert [image.get("alt") for image in tree.iter("img")] == ["x₀", "x", "x − x₀"]
    assert torch.equal(solution.start, X[0]) and len(list(tree.iter("svg"))) == 1
    assert len(solution.plot().axes) >= 4
    other = cl.Problem(cl.Minimize(NET.output[0]), [NET.input >= 0, NET.input <= 1]).solve(
        time_limit=1, solver="bounds"
    )
    with pytest.raises(cl.ClinchError, match=r"solution\.plot\(x0\)"):
        other.plot()


def test_a_table_of_an_attack_has_a_line_for_each_input(shown):
    pytest.importorskip("pandas")
    frame = shown["attack"].to_frame()
    assert list(frame.columns) == ["success", "distance", "loss", "passes", "reason"] and len(frame) == 3


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=30))
def test_no_text_becomes_markup(text):
    safe = "".join(c for c in text if c.isprintable() or c == " ")
    (cell,) = parsed(html.table([[safe + "<b>&"]])).iter("td")
    assert cell.text.split() == (safe + "<b>&").split() and not list(cell)


def test_an_image_is_the_png_that_it_says():
    image = torch.tensor([[0.0, 1.0], [0.5, 0.25]])
    (found,) = re.findall(r"base64,([A-Za-z0-9+/=]+)", html.picture(image, "t"))
    content = base64.b64decode(found)
    start = content.index(b"IDAT") + 4
    length = int.from_bytes(content[start - 8 : start - 4], "big")
    assert zlib.decompress(content[start : start + length]) == bytes([0, 0, 255, 0, 128, 64])
    assert html.picture(torch.rand(7), "flat") == "" and html.picture(image * math.nan, "t") == ""


def test_a_chart_leaves_out_what_is_not_finite():
    assert html.gap_chart([(0.0, math.inf, -math.inf)]) == ""
    lines = [line.get("points") for line in parsed(html.gap_chart([(0, math.inf, 1), (1, 3, 2)])).iter("polyline")]
    assert "nan" not in " ".join(lines) and "inf" not in " ".join(lines)


def test_a_bar_in_a_terminal_is_one_line(capsys):
    live = cl.figures.Live("digit")
    live(Event(0.5, 3, 2.0, 1.0, "x"))
    live(Event(0.5, 3, 2.0, 1.5, "x"))  # too soon
    assert capsys.readouterr().err == "\rdigit value 2, bound 1, 0.5 s "


def test_a_bar_in_a_notebook_is_kept_up_to_date(monkeypatch):
    shown, display = [], types.ModuleType("IPython.display")
    display.HTML = lambda text: text
    display.display = lambda content, display_id: shown.append(content) or types.SimpleNamespace(update=shown.append)
    python = types.ModuleType("IPython")
    python.get_ipython, python.display = lambda: types.SimpleNamespace(kernel=1), display
    monkeypatch.setitem(sys.modules, "IPython", python)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    live = cl.figures.Live("digit")
    live(Event(0.5, 3, 2.0, 1.0, "x"))
    live._last = 1e-9
    live(Event(1.0, 4, torch.tensor([2.0, 4.0]), torch.tensor([2.0, 2.0]), "x"))
    assert len(shown) == 2 and 'value="0.5000"' in shown[0] and "bound 2" in shown[1]
