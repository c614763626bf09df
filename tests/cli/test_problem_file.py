"""Problem files: the problem they state is the one written in Python; mistakes are told in one line."""

import json

import numpy as np
import pytest
import torch

import clinch
from clinch.applications.monitors import BoxMonitor, predicted
from clinch.cli.problem_file import read_problem
from clinch.demo import digits
from clinch.errors import ClinchError, ProblemError

HEAD = 'model = "clinch.demo:network"\ninput_shape = [8, 8]\nrange = [0, 1]\n'
X0 = 'x0 = {dataset = "digits", index = 0}\n'
NEAREST = '[objective]\nminimize = "norm"\np = 2\n'
#: everything up to the first constraint
ONE = HEAD + X0 + NEAREST + "[[constraints]]\n"


@pytest.fixture
def read(tmp_path):
    """Write the text to a file and read it as a problem."""

    def call(text):
        path = tmp_path / "problem.toml"
        path.write_text(text)
        return read_problem(path)

    return call


def same(left, right, *, points=64):
    """Whether two queries agree on objective, feasibility and region at random points."""
    generator = torch.Generator().manual_seed(0)
    assert left.size == right.size and left.clauses == right.clauses
    assert torch.equal(left.region.lower, right.region.lower) and torch.equal(left.region.upper, right.region.upper)
    for _ in range(points):
        x = torch.rand(left.size, *left.graph.input_shape, generator=generator, dtype=torch.float64)
        (a, b), (c, d) = left.evaluate(x), right.evaluate(x)
        assert torch.allclose(a, c) and torch.allclose(left.violation(b), right.violation(d))


def test_the_monitor_problem_is_the_one_in_python(read):
    stated = read(
        HEAD
        + X0
        + NEAREST
        + '[[constraints]]\nclass = "predicted"\nmargin = 1e-3\n[[constraints]]\nmonitor = "relu2"\nfit = "digits"\n'
    )
    net, x0 = stated.network, digits().x[0]
    label = int(predicted(net, x0[None]))
    monitor = BoxMonitor.fit(net, "relu2", digits("train").x)
    x, z = net.input, net.output
    wanted = [x >= 0, x <= 1, z.argmax(margin=1e-3) == label, monitor.outside(net, label)]
    same(stated.problem.query, clinch.Problem(clinch.Minimize(clinch.norm(x - x0, 2)), wanted).query)


def test_limits_from_files_and_inline_agree(read, tmp_path):
    low, high = np.arange(16) / 10, np.arange(16) / 10 + 2
    np.savez(tmp_path / "box.npz", lower=low, upper=high)
    np.save(tmp_path / "x0.npy", digits().x[:3].numpy())
    head = (
        HEAD + 'x0 = {file = "x0.npy", index = 1}\n' + NEAREST + '[[constraints]]\nmonitor = "relu2"\nmargin = 0.01\n'
    )
    by_file = read(head + 'lower = "box.npz:lower"\nupper = "box.npz:upper"\noutside = false\n')
    inline = read(head + f"lower = {low.tolist()}\nupper = {high.tolist()}\noutside = false\n")
    same(by_file.problem.query, inline.problem.query)
    assert torch.equal(by_file.x0.float(), digits().x[1])


def test_any_all_and_not_join(read):
    either = 'any = [{class = 3}, {all = [{class = 4}, {linear = "output[4] >= 2"}]}]\n'
    joined = read(ONE + either + "[[constraints]]\nnot = {class = 3}\n")
    z, x = joined.network.output, joined.network.input
    wanted = [x >= 0, x <= 1, (z.argmax() == 3) | ((z.argmax() == 4) & (z[4] >= 2)), ~(z.argmax() == 3)]
    same(joined.problem.query, clinch.Problem(clinch.Minimize(clinch.norm(x - digits().x[0], 2)), wanted).query)


def test_a_batch_of_inputs_classes_and_radii(read):
    stated = read(
        HEAD + 'x0 = {dataset = "digits", index = [0, 2, 11]}\n[objective]\nmaximize = "output[9] - output[4]"\n'
        '[[constraints]]\nball = "inf"\nradius = [0.02, 0.05, 0.1]\n[[constraints]]\nclass = [4, 4, 4]\n'
        "[solve]\ngap = 0.01\nseed = 3\n"
    )
    net, x0 = stated.network, digits().x[[0, 2, 11]]
    x, z = net.input, net.output
    ball = clinch.norm(x - x0, clinch.inf) <= torch.tensor([0.02, 0.05, 0.1], dtype=torch.float64)
    same(
        stated.problem.query,
        clinch.Problem(
            clinch.Maximize(z[9] - z[4]), [x >= 0, x <= 1, ball, z.argmax() == torch.tensor([4, 4, 4])]
        ).query,
    )
    assert stated.options == {"gap": 0.01, "seed": 3}


def test_weights_and_mask(read):
    weights, mask = np.linspace(0.5, 2, 64).reshape(8, 8), (np.arange(64) % 3 > 0).reshape(8, 8)
    stated = read(HEAD + X0 + NEAREST + f"weights = {weights.tolist()}\nmask = {mask.astype(int).tolist()}\n")
    x = stated.network.input
    objective = clinch.Minimize(clinch.norm(x - digits().x[0], 2, weights=weights, mask=mask))
    same(stated.problem.query, clinch.Problem(objective, [x >= 0, x <= 1]).query)


MISTAKES = {
    "unknown key": (HEAD + X0 + "contraints = []\n" + NEAREST, "did you mean 'constraints'"),
    "not toml": ("model = ", "is not TOML"),
    "no model": (X0 + NEAREST, "'model' is missing"),
    "no objective": (HEAD + X0, "'objective' is missing"),
    "both senses": (HEAD + X0 + '[objective]\nminimize = "norm"\nmaximize = "output[0]"\n', "exactly one of minimize"),
    "no sense": (HEAD + X0 + "[objective]\np = 2\n", "exactly one of minimize"),
    "p with a linear form": (HEAD + '[objective]\nminimize = "output[0]"\np = 2\n', "no key 'p'"),
    "unknown norm": (HEAD + X0 + '[objective]\nminimize = "norm"\np = 0.5\n', "Write 0, any number from 1 on"),
    "norm without x0": (HEAD + NEAREST, "has no x0"),
    "x0 of another shape": (HEAD + "x0 = [1, 2, 3]\n" + NEAREST, "x0: shape (3,)"),
    "x0 ragged": (HEAD + "x0 = [[1, 2], [3]]\n" + NEAREST, "not an array"),
    "x0 nan": (HEAD + f"x0 = {[[float('nan')] * 8] * 8}\n" + NEAREST, "NaN"),
    "two sources": (HEAD + 'x0 = {dataset = "digits", values = [1], index = 1}\n' + NEAREST, "exactly one of"),
    "unknown data set": (HEAD + 'x0 = {dataset = "digit", index = 1}\n' + NEAREST, "no data set 'digit'"),
    "unknown split": (HEAD + 'x0 = {dataset = "digits", split = "all", index = 1}\n' + NEAREST, "no split 'all'"),
    "index": (HEAD + 'x0 = {dataset = "digits", index = 99999}\n' + NEAREST, "out of range"),
    "no index": (HEAD + 'x0 = {dataset = "digits"}\n' + NEAREST, "'index' is missing"),
    "no such file": (HEAD + 'x0 = "nothing.npy"\n' + NEAREST, "there is no file"),
    "not an array file": (HEAD + 'x0 = "nothing.csv"\n' + NEAREST, "x.npy or x.npz:key"),
    "range": (HEAD.replace("[0, 1]", "[0]") + X0 + NEAREST, "two entries"),
    "range crossed": (HEAD.replace("[0, 1]", "[1, 0]") + X0 + NEAREST, ""),
    "class name": (ONE + 'class = "four"\n', "give a whole number"),
    "class true": (ONE + "class = true\n", "give a whole number"),
    "class 10": (ONE + "class = 10\n", "out of range"),
    "constraint key": (ONE + "clas = 3\n", "did you mean 'class'"),
    "constraint of two kinds": (ONE + "class = 3\nnot_class = 4\n", "no key 'not_class'"),
    "empty constraint": (ONE + "", "it is empty"),
    "constraint number": (HEAD + X0 + "constraints = [3]\n" + NEAREST, "give a table"),
    "unknown layer": (ONE + 'monitor = "relu9"\nlower = 0\nupper = 1\n', "relu2"),
    "monitor without limits": (ONE + 'monitor = "relu2"\nlower = 0\n', "'upper' is missing"),
    "fit and limits": (ONE + 'monitor = "relu2"\nfit = "digits"\nlower = 0\n', "no key 'lower'"),
    "ball without radius": (ONE + 'ball = "inf"\n', "'radius' is missing"),
    "linear": (ONE + 'linear = "output[0]"\n', "exactly one of <="),
    "any empty": (ONE + "any = []\n", "at least one"),
    "solve key": (HEAD + X0 + NEAREST + "[solve]\ntimelimit = 3\n", "did you mean 'time_limit'"),
    "solve kind": (HEAD + X0 + NEAREST + '[solve]\ngap = "small"\n', "give a number"),
    "shape": (HEAD.replace("[8, 8]", "[8, -8]") + X0 + NEAREST, "positive whole numbers"),
    "model kind": (HEAD.replace("clinch.demo:network", "net.h5") + X0 + NEAREST, "is not a model"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_in_one_line(read, name):
    text, message = MISTAKES[name]
    with pytest.raises(ClinchError) as caught:
        read(text)
    assert message in str(caught.value) and "\n" not in str(caught.value).strip()


def test_a_pickled_array_is_refused(read, tmp_path):
    np.save(tmp_path / "x0.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ProblemError, match="cannot be read"):
        read(HEAD + 'x0 = "x0.npy"\n' + NEAREST)


def test_solve_prints_writes_json_and_answers_zero(clinch, tmp_path):
    path, target = tmp_path / "problem.toml", tmp_path / "solution.json"
    path.write_text(ONE + 'not_class = "predicted"\n[solve]\ntime_limit = 30\n')
    outcome = clinch("solve", path, "--json", target, "--gap", "0.01")
    assert outcome.code == 0 and outcome.err == "" and outcome.out.startswith("status")
    solution = json.loads(target.read_text())
    assert solution["gap"] <= 0.01 and 0 < solution["bound"] <= solution["value"]


def test_solve_answers_one_where_nothing_exists(clinch, tmp_path):
    path = tmp_path / "problem.toml"
    path.write_text(ONE + 'ball = "inf"\nradius = 0.001\n[[constraints]]\nclass = 0\n')
    outcome = clinch("solve", path)
    assert outcome.code == 1 and "INFEASIBLE" in outcome.out


def test_the_examples_are_read(pytestconfig):
    for path in sorted((pytestconfig.rootpath / "examples").glob("*.toml")):
        assert read_problem(path).problem.size >= 1
