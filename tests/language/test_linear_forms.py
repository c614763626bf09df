"""Linear forms as text: what they mean, what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import clinch
from clinch.demo import SHAPE, network
from clinch.errors import ClinchError, ProblemError
from clinch.modeling.linear_forms import parse_constraint, parse_form


@pytest.fixture(scope="module")
def net():
    return clinch.load(network(), input_shape=SHAPE)


def value(form, net, x):
    """Value of a scalar form at one input, through the normal form of a problem."""
    query = clinch.Problem(clinch.Minimize(form), [net.input >= 0, net.input <= 1]).query
    return float(query.evaluate(x[None].double())[0])


coefficients = st.lists(st.integers(-9, 9).filter(bool), min_size=1, max_size=5)


@given(coefficients, st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_a_form_has_the_value_of_its_terms(net, factors, seed):
    x = torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed))
    text = " + ".join(f"({c}) * output[{k}]" for k, c in enumerate(factors)) + " - 0.5*input[0, 3] / 2 - -relu2[-1]"
    with torch.no_grad():
        model = network().double()
        z, h = model(x[None].double())[0], model[:5](x[None].double())[0]
    expected = sum(c * z[k] for k, c in enumerate(factors)) - 0.25 * x[0, 3] + h[-1]
    assert value(parse_form(text, net), net, x) == pytest.approx(float(expected), rel=1e-5, abs=1e-4)


def test_a_quoted_name_is_a_layer(net):
    assert parse_form("'linear2'[3]", net).shape == ()


@pytest.mark.parametrize("text", ["output[0] <= 1", "output[0] + 0.5 >= output[1]", "0.5 == input[1, 1]", "relu2 <= 9"])
def test_comparisons_are_constraints(net, text):
    box = [net.input >= 0, net.input <= 1]
    free, bound = (
        clinch.Problem(clinch.Minimize(net.output[0]), more).query
        for more in (box, [*box, parse_constraint(text, net)])
    )
    # it adds a clause, or (on single inputs) a tighter limit
    assert bound.clauses > free.clauses or bool((bound.region.lower > free.region.lower).any())


REFUSED_FORMS = [
    "", "output[", "output[0] ** 2", "output[0] * output[1]", "1 / output[0]", "output[0] / 0", "7", "1/0", "True",
    "output[0] <= 1", "max(output)", "output.sum()", "__import__('os').system('true')", "output[True]", "output[1.5]",
    "output[0:2]", "[output[0]]", "lambda: 1", "output[0] if 1 else 2", "nothing[0]", "output[99]", "output",
    "b'x'[0]", "1j * output[0]", "(" * 500 + "output[0]" + ")" * 500, "+".join(["output[0]"] * 999),
    "output[0]" + " " * 10_000,
]  # fmt: skip


@pytest.mark.parametrize("text", REFUSED_FORMS, ids=lambda text: text[:30])
def test_what_is_not_a_linear_form_is_refused(net, text):
    with pytest.raises(ClinchError):
        clinch.Minimize(parse_form(text, net))


@pytest.mark.parametrize("text", ["output[0]", "output[0] < 1", "0 <= output[0] <= 1", "1 <= 2", "output[0] != 1"])
def test_what_is_not_a_comparison_is_refused(net, text):
    with pytest.raises(ProblemError):
        parse_constraint(text, net)


@given(st.text(max_size=40))
@settings(max_examples=100, deadline=None)
def test_any_text_gives_a_form_or_a_typed_error(net, text):
    try:
        form = parse_form(text, net)
    except ClinchError:
        return
    assert form.network is net
