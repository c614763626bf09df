"""Documentation both ways: what there is has its line, and what has a line is there."""

import importlib
import importlib.util
import re

import pytest
from documented import GUIDES, KINDS, REFERENCE, ROOT, commands, extras, spans, targets, undocumented

import clinch
from clinch.search.engines import ENGINES
from clinch.solve import LIBRARIES

PAGES = [*GUIDES, *REFERENCE]
#: `cl.attacks.nearest(net, ...)` names a thing, `cl.attacks.` followed by nothing does not
DOTTED = re.compile(r"(?<![\w./\[-])(?:cl|clinch)((?:\.[A-Za-z_]\w*)+)(?![\w/]|\.(?:py|toml|md))")
#: parts of names that are files of a user, not the package's
FILES = ("net.onnx", "clinch.png")


def name_of(page):
    return str(page.relative_to(ROOT))


def resolves(dotted):
    value, path = clinch, "clinch"
    for part in dotted.strip(".").split("."):
        path += f".{part}"
        if not hasattr(value, part):
            try:
                value = importlib.import_module(path)
            except ImportError:
                return False
            continue
        value = getattr(value, part)
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_everything_there_is_has_its_line(kind):
    assert undocumented(kind) == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_line_is_named(kind):
    if kind != "exact search":
        (message,) = undocumented(kind, ["never_was"])
        assert kind in message and "never_was" in message and ".md" in message


def test_the_reference_has_every_public_package():
    listed = "\n".join(page.read_text() for page in REFERENCE)
    packages = [name for name in clinch.__all__ if importlib.util.find_spec(f"clinch.{name}") is not None]
    missing = [name for name in packages if f"clinch.{name}" not in listed]
    assert missing == []
    values = [name for name in clinch.__all__ if name not in packages]
    assert [name for name in values if f"::: clinch.{name}\n" not in listed + "\n"] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_names_in_the_text_exist(page):
    inline, _ = spans(page)
    wrong = [match[0] for text in inline for match in DOTTED.finditer(text) if not resolves(match[1])]
    assert [name for name in wrong if not name.endswith(FILES)] == []


def lines_of(page):
    """What a reader would type: spans and lines of blocks that begin with a program's name."""
    inline, blocks = spans(page)
    return [text.strip().removeprefix("$ ") for text in [*inline, *blocks]]


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_commands_and_their_options_exist(page):
    known, wrong = commands(), []
    for line in lines_of(page):
        match = re.match(r"clinch ([a-z]+)\b(.*)", line)
        if match is None:
            continue
        name, rest = match[1], match[2].split("   ")[0].partition("#")[0]
        if name not in known:
            wrong.append(line)
            continue
        wrong += [f"{name} {o}" for o in re.findall(r"(?<!\S)\[?(--[a-z][\w-]*)", rest) if o not in known[name]]
    assert wrong == []


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_make_targets_extras_and_engines_exist(page):
    text, wrong = page.read_text(), []
    wrong += [name for line in lines_of(page) for name in re.findall(r"^make ([a-z-]+)", line) if name not in targets()]
    wrong += [name for name in re.findall(r"clinch-nn\[([a-z]+)\]", text) if name not in extras()]
    wrong += [name for name in re.findall(r'solver="(\w+)"', text) if name not in (*ENGINES, *LIBRARIES)]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page):
    inline, blocks = spans(page)
    named = {
        match for text in [*inline, *blocks]
        for match in re.findall(r"(?<![\w/.-])(?:src|tests|benchmarks|docs|examples|\.ci)/[\w./-]*\w", text)
    }  # fmt: skip
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_benchmarks_that_are_named_exist(page):
    found = set(re.findall(r"python -m benchmarks (\w+)", page.read_text()))
    known = {path.stem for path in (ROOT / "benchmarks").glob("*/*.py")}
    assert found - {"NAME"} <= known
