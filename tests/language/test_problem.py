"""What a problem says about itself, and batches."""

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import small_network, symbols

import clinch as cl
from clinch.solver.check_points import check_points

NET = small_network(torch.float32)
x, h, z = symbols(NET)


def test_explain():
    text = cl.Problem(
        cl.Minimize(cl.norm(x - 0.5, 2, weights=2)),
        [x >= 0, x <= 1, z.argmax() == 1, ~h.between(1, 2), cl.norm(x - 0.5, 1) <= 2],
    ).explain()
    assert "minimise the weighted distance of the input from a constant, p = 2" in text
    assert "6 of 6 inputs bounded, between 0 and 1" in text
    assert "p = 1, radius 2" in text
    assert "4 with 13 atoms on relu1, output: 3 of 1 atom, 1 of 10 atoms" in text
    assert "attack            yes" in text
    assert "bounds            no: Layer 'flat': Flat has no interval rule" in text


def test_explain_says_what_an_engine_lacks():
    open_problem = cl.Problem(cl.Maximize(z[0]))
    assert "none of 6 inputs is bounded" in open_problem.explain()
    assert (
        "milp              no: The exact encoding needs finite limits of every input element. Add"
        in open_problem.explain()
    )
    assert "maximise a linear form of output" in open_problem.explain()
    only_input = cl.Problem(cl.Minimize(cl.norm(x - 1, 2)), x.sum() <= 0)
    assert "input_split       yes, once an input is known" in only_input.explain()
    assert (
        "maximise the norm of 4 linear forms of output, p = inf"
        in cl.Problem(cl.Maximize(cl.norm(z, cl.inf))).explain()
    )


def test_batched_or_not():
    assert not cl.Problem(cl.Minimize(cl.norm(x - np.zeros((2, 3)), 2))).batched
    one = cl.Problem(cl.Minimize(cl.norm(x - np.zeros((1, 2, 3)), 2)))
    assert one.batched and one.size == 1
    by_label = cl.Problem(cl.Minimize(cl.norm(x - np.zeros((1, 2, 3)), 2)), z.argmax() != torch.tensor([0, 1, 2]))
    assert by_label.batched and by_label.size == 3
    assert by_label.query.objective.center.shape == (3, 2, 3)
    by_radius = cl.Problem(cl.Minimize(z[0]), cl.norm(x, 2) <= [1, 2])
    assert by_radius.size == 2 and by_radius.query.region.balls[0].radius.tolist() == [1, 2]
    by_weights = cl.Problem(cl.Minimize(cl.norm(x, 2, weights=np.ones((2, 2, 3)))))
    assert by_weights.size == 2


def test_a_constraint_may_stand_alone():
    assert cl.Problem(cl.Minimize(z[0]), x >= 0).query.region.lower.tolist() == [[[0.0] * 3] * 2]


def test_repr():
    assert repr(cl.Problem(cl.Minimize(z[0]), x >= 0)) == "<Problem over small: one problem, 1 constraints>"
    assert repr(z) == "<Activation of shape (4,) over fc2>"


def test_import_reads_nothing_heavy():
    heavy = ("matplotlib", "onnx", "onnxruntime", "sklearn", "scipy", "highspy", "rich", "typer")
    code = (
        "import torch, sys; before = set(sys.modules); import clinch; "
        f"print([m for m in {heavy} if m in set(sys.modules) - before])"
    )
    source = str(Path(cl.__file__).parent.parent)
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": source}, check=True
    )
    assert found.stdout.strip() == "[]"


def test_public_surface():
    for name in cl.__all__:
        assert getattr(cl, name) is not None
        assert name in dir(cl)
    assert not hasattr(cl, "nonsense")


def test_version_is_stated_once():
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert tomllib.loads(project.read_text())["project"]["version"] == cl.__version__


def test_a_loaded_network_can_be_asked_and_checked():
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3)
    ).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    model.requires_grad_(False)
    net = cl.load(model, input_shape=(2, 3))
    x0 = torch.rand(2, 3, generator=generator)
    label = int(model(x0[None]).argmax())
    query = cl.Problem(
        cl.Minimize(cl.norm(net.input - x0, 2)),
        [net.input >= 0, net.input <= 1, net.output.argmax() == label, ~net["2"].between(-1, 100)],
    ).query
    check = check_points(query, x0[None], torch.tensor([0]))
    assert float(check.value) == 0.0 and not bool(check.feasible)
    assert float(check.violation) == pytest.approx(float((100 - model[:3](x0[None])).min()), abs=1e-4)
    inside = cl.Problem(cl.Minimize(net.output[label]), [net.output.argmax() == label, net["2"] >= 0]).query
    check = check_points(inside, x0[None], torch.tensor([0]))
    assert bool(check.feasible)
    assert float(check.value) == pytest.approx(float(model(x0[None])[0, label]), abs=1e-4)


def test_labels_of_a_batch_are_no_single_label_written_as_zeros_and_ones():
    labels = [0] * (z.size - 1) + [1]
    assert cl.Problem(cl.Minimize(0), [x >= 0, x <= 1, z.argmax() != np.array(labels)]).size == z.size
