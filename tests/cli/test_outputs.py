"""Options that name where results go: ``-`` works as standard output, or is refused in one line before any work."""

import os

import pytest
from typer.main import get_command

from clinch.cli import app

#: options that name a file to be read
READ = ("question", "expected", "schema")
TARGETS = sorted(
    (name, option.opts[-1])
    for name, command in get_command(app).commands.items()
    for option in command.params
    if option.param_type_name == "option" and option.metavar in ("FILE", "DIR", "RUN") and option.name not in READ
)
#: what each command is about, none of which is there: bad input
ABOUT = {
    "batch": ["i.csv"],
    "check": ["c", "m"], "demo": ["--index", "100000"], "evaluate": ["m"], "figure": ["run"],
    "recourse": ["n.onnx", "rows.csv"], "report": ["run"],
    "reproduce": ["nothing"], "solve": ["p.toml"], "supports": ["m"], "verify": ["n.onnx", "s.vnnlib"],
}  # fmt: skip


def test_the_options_that_write_are_found():
    assert len(TARGETS) >= 18
    assert {"--out", "--json", "--table", "--text", "--report", "--keep", "--certificate", "--counterexample"} == {
        option for _, option in TARGETS
    }


@pytest.mark.parametrize("command, option", TARGETS, ids="".join)
def test_a_dash_is_standard_output_or_refused(clinch, command, option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = clinch(command, *ABOUT[command], option, "-")
    if option == "--json":
        assert "stands for" not in outcome.err
    else:
        assert option in outcome.err and "- stands for standard output" in outcome.err
        assert outcome.err.count("\n") == 1
    assert outcome.code == 2 and outcome.out == ""
    assert not any(name.startswith("-") for name in os.listdir(tmp_path))


@pytest.mark.parametrize("command, option", TARGETS, ids="".join)
def test_an_empty_name_and_a_missing_folder_are_refused_before_work(clinch, command, option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = clinch(command, *ABOUT[command], option, "")
    assert outcome.code == 2 and option in outcome.err and "empty" in outcome.err and outcome.err.count("\n") == 1
    if (command, option) not in (("evaluate", "--out"), ("reproduce", "--out")):
        outcome = clinch(command, *ABOUT[command], option, "no/such/file.png")
        assert outcome.code == 2 and "Cannot write no/such/file.png" in outcome.err
    assert os.listdir(tmp_path) == []
