"""What to cite: entries for every paper that a public method's docstring names."""

import re

import pytest
from torch import nn

import clinch as cl
from clinch.runtime import citing

METHODS = [
    getattr(room, name) for room in (cl.attacks, cl.bounds, cl.exact) for name in dir(room)
    if not name.startswith("_") and callable(getattr(room, name)) and not isinstance(getattr(room, name), type)
]  # fmt: skip


def keys(text):
    return re.findall(r"^@\w+\{(\w+),", text, re.MULTILINE)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_every_paper_of_a_method_has_its_entry(method):
    found = cl.cite(method)
    assert keys(found)[0] == "clinch" and cl.__version__ in found
    assert not [key for key in keys(found) if key.startswith("arxiv")], "add it to references.bib"
    assert found.count("{") == found.count("}")


def test_entries_are_there_once():
    text = (citing.Path(citing.__file__).with_name("references.bib")).read_text()
    numbers = re.findall(r"eprint = \{([\d.]+)\}", text)
    assert len(set(numbers)) == len(numbers) == len(set(keys(text)))
    assert {n for papers in citing.ENGINES.values() for n in papers} <= set(numbers)


def test_what_an_argument_rests_on_is_not_cited():
    assert keys(cl.cite(cl.attacks.fmn)) == ["clinch", "pintor2021fmn"]


def test_a_paper_without_an_entry_keeps_its_number():
    def method():
        """New, arXiv 9901.00001."""

    assert "eprint = {9901.00001}" in cl.cite(method)


def test_a_solution_cites_who_brought_it_forward(easy):
    assert "zhang2018crown" in keys(cl.cite(easy))
    with pytest.raises(cl.ClinchError, match=r"cl\.attacks\.apgd"):
        cl.cite(3)
    with pytest.raises(cl.ClinchError, match="branch_and_bound"):
        cl.cite("apgd")


@pytest.fixture
def easy():
    net = cl.load(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), (3,))
    x = net.input
    return cl.Problem(cl.Minimize(net.output[0]), [x >= 0, x <= 1]).solve(time_limit=5, solver="bounds")
