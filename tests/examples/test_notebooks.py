"""The notebooks run from top to bottom on what comes with the package, and hold no output."""

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def test_there_are_seven():
    assert len(NOTEBOOKS) == 7


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_begin_with_words_and_are_clean(path):
    found = cells(path)
    assert found[0]["cell_type"] == "markdown" and found[0]["source"][0].startswith("# ")
    assert all(
        cell["outputs"] == [] and cell["execution_count"] is None for cell in found if cell["cell_type"] == "code"
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    import matplotlib

    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    with matplotlib.rc_context({"backend": "agg"}):
        for number, cell in enumerate(cells(path)):
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), f"{path.name}, cell {number}", "exec"), names)
