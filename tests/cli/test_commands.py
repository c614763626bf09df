"""Every command: help with an example, JSON, exit codes, one line for bad input."""

import json
import subprocess
import sys

import pytest

from clinch import __version__
from clinch.cli import app, models
from clinch.errors import NetworkError

COMMANDS = [
    "batch",
    "check",
    "demo",
    "evaluate",
    "figure",
    "recourse",
    "report",
    "reproduce",
    "solve",
    "supports",
    "verify",
]
#: commands whose whole output is a file
WRITERS = ("figure", "report")


def test_every_command_is_covered_here():
    assert sorted(command.name for command in app.registered_commands) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_names_json_and_the_exit_codes(clinch, command):
    outcome = clinch(command, "--help")
    assert outcome.code == 0
    assert f"Example: clinch {command}" in outcome.out
    assert ("--out" if command in WRITERS else "--json") in outcome.out
    assert "Exit code: 0" in outcome.out


def test_version_and_bare_call(clinch):
    assert clinch("--version").out == f"{__version__}\n"
    assert clinch("--name").out == "Clinch\n"
    assert "clinch demo" in clinch().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["supprts", "x.onnx"],
        ["solve"],
        ["solve", "no-such-file.toml"],
        ["supports", "net.onnx", "--bogus"],
        ["supports", "no-such-file.onnx"],
        ["supports", "weights.pt"],
        ["supports", "clinch.demo:network"],
        ["supports", "clinch.demo:network", "--input-shape", "8,x"],
        ["supports", "clinch.demo:nothing", "--input-shape", "8,8"],
        ["supports", "no_such_module:make", "--input-shape", "8,8"],
        ["supports", "clinch.demo:digits", "--input-shape", "8,8"],
        ["evaluate"],
        ["evaluate", "clinch.demo:network", "--data", "minst"],
        ["evaluate", "clinch.demo:network", "--data", "no-such-file.npz"],
        ["evaluate", "clinch.demo:network", "--norm", "l3"],
        ["evaluate", "clinch.demo:network", "--eps", "-1"],
        ["evaluate", "clinch.demo:network", "--limit", "0"],
        ["evaluate", "clinch.demo:network", "--table", "rows.xls"],
        ["evaluate", "clinch.demo:network", "--lower", "2"],
        ["evaluate", "clinch.demo:network", "--out", "pyproject.toml/run"],
        ["evaluate", "no-such-file.onnx"],
        ["evaluate", "clinch.demo:network", "--report", "page.html"],
        ["evaluate", "clinch.demo:network", "--out", "run", "--report", "no/such/folder/page.html"],
        ["evaluate", "clinch.demo:network", "--eps", "0", "--eps", "1", "--out", "run", "--report", "page.html"],
        ["recourse", "n.onnx"],
        ["recourse", "n.onnx", "no-such-rows.csv"],
        ["report"],
        ["report", "no-such-run"],
        ["report", "pyproject.toml"],
        ["report", "no-such-run", "--classes", "no-such-names.txt"],
        ["report", "no-such-run", "--out", "no/such/folder/report.html"],
        ["reproduce"],
        ["reproduce", "adr-rnadom"],
        ["reproduce", "adr-random", "--seed", "-1"],
        ["demo", "--index", "100000"],
        ["demo", "--norm", "3"],
        ["demo", "--out", "picture.txt"],
        ["demo", "--out", "no/such/folder/picture.png"],
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_on_standard_error_and_code_two(clinch, arguments):
    outcome = clinch(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("clinch: ") and outcome.err.count("\n") == 1


def test_a_pickle_is_refused_with_a_way_out():
    with pytest.raises(NetworkError, match=r"pickle.*safetensors.*onnx"):
        models.load_model("weights.pth", input_shape=(3,))


def test_supports_prints_a_row_per_layer_and_writes_json(clinch, tmp_path):
    target = tmp_path / "supports.json"
    outcome = clinch("supports", "clinch.demo:network", "--input-shape", "8,8", "--json", target)
    assert outcome.code == 0
    for layer in ("linear1", "relu1", "linear2", "relu2", "output", "whole network"):
        assert layer in outcome.out
    content = json.loads(target.read_text())
    assert [row["name"] for row in content["layers"]][-2:] == ["relu2", "output"]
    assert content["whole_network"] == {
        "forward": True,
        "interval": True,
        "relaxation": True,
        "exact": True,
        "certificate": True,
    }
    assert set(content["engines"].values()) == {"yes"} and {"milp", "count"} <= set(content["engines"])


def test_supports_answers_one_where_only_attacks_can_run(clinch, tmp_path):
    (tmp_path / "bessel.py").write_text(
        "from torch import nn, special\n\n\nclass Bessel(nn.Module):\n    def forward(self, x):\n"
        "        return special.bessel_j0(x)\n\n\n"
        "def make():\n    return nn.Sequential(nn.Linear(3, 4), Bessel(), nn.Linear(4, 2)).eval()\n"
    )
    outcome = clinch("supports", f"{tmp_path / 'bessel.py'}:make", "--input-shape", "3")
    assert outcome.code == 1
    assert "no CROWN rule: aten.special_bessel_j0" in outcome.out
    assert "no" in outcome.out.splitlines()[-1]


def test_supports_lists_everything_that_cannot_be_read(clinch, tmp_path):
    (tmp_path / "dice.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Dice(nn.Module):\n    def forward(self, x):\n"
        "        y = torch.bernoulli(x.sigmoid())\n        return y + torch.rand_like(x)\n\n\n"
        "def make():\n    return nn.Sequential(nn.Linear(3, 4), Dice()).eval()\n"
    )
    target = tmp_path / "missing.json"
    outcome = clinch("supports", f"{tmp_path / 'dice.py'}:make", "--input-shape", "3", "--json", target)
    assert outcome.code == 2
    assert "bernoulli" in outcome.out and "rand_like" in outcome.out
    assert len(json.loads(target.read_text())["missing"]) == 2


def test_a_function_that_fails_is_told_in_one_line(clinch, tmp_path):
    (tmp_path / "broken.py").write_text("def make():\n    raise RuntimeError('no weights')\n")
    outcome = clinch("supports", f"{tmp_path / 'broken.py'}:make", "--input-shape", "3")
    assert outcome.code == 2 and "no weights" in outcome.err


def test_demo_solves_draws_and_writes_json(clinch, tmp_path):
    picture, target = tmp_path / "demo.png", tmp_path / "demo.json"
    outcome = clinch("demo", "--out", picture, "--json", target)
    assert outcome.code == 0 and outcome.err == ""
    assert picture.read_bytes().startswith(b"\x89PNG")
    solution = json.loads(target.read_text())
    assert solution["status"] == "OPTIMAL"
    assert solution["gap"] <= 1e-3
    assert 0 < solution["bound"] <= solution["value"]


def test_json_on_standard_output_is_all_that_is_printed(clinch, tmp_path):
    outcome = clinch("demo", "--out", tmp_path / "demo.svg", "--norm", "inf", "--json", "-")
    assert json.loads(outcome.out)["value"] > 0


def test_a_file_that_cannot_be_written_is_told(clinch, tmp_path):
    outcome = clinch("supports", "clinch.demo:network", "--input-shape", "8,8", "--json", tmp_path / "no" / "x.json")
    assert outcome.code == 2 and "Cannot write" in outcome.err


def test_the_command_line_alone_imports_nothing_that_a_command_may_not_need():
    heavy = ["matplotlib", "sklearn", "onnx", "scipy", "highspy", "onnxruntime"]
    code = f"import sys, clinch.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
