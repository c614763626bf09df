"""Pages with a form of their own: glossary, decisions, design."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
GREEK = {"α": "alpha", "β": "beta", "γ": "gamma", "ℓ": "l"}
MOST_TERMS, MOST_LINES, DECISIONS = 60, 30, 10


def terms():
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    return [row for row in rows if row[0] != "term"]


def sort_key(term):
    return "".join(GREEK.get(letter, letter) for letter in term.lower())


def test_the_glossary_has_each_term_once_in_order():
    names = [name for name, _ in terms()]
    assert 30 <= len(names) <= MOST_TERMS
    assert len(set(names)) == len(names)
    assert names == sorted(names, key=sort_key)


@pytest.mark.parametrize(("name", "meaning"), terms(), ids=lambda text: text[:30])
def test_a_meaning_is_short_and_says_more_than_the_term(name, meaning):
    assert len(meaning) <= 110 and meaning.strip().lower() != name.lower()


def records():
    return sorted(path for path in (DOCS / "decisions").glob("*.md") if path.name != "index.md")


def test_decisions_are_numbered_without_gaps_and_listed():
    numbers = [int(path.name[:4]) for path in records()]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= DECISIONS
    index = (DOCS / "decisions" / "index.md").read_text()
    for path in records():
        title = path.read_text().splitlines()[0].removeprefix(f"# {path.name[:4]} ")
        assert f"| [{path.name[:4]}]({path.name}) | {title} |" in index


@pytest.mark.parametrize("path", records(), ids=lambda path: path.stem)
def test_a_decision_is_half_a_page_with_its_four_parts(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_LINES
    parts = re.findall(r"^\*\*(\w[\w ]*)\.\*\*", text, re.MULTILINE)
    assert parts == ["Question", "Decision", "Instead of", "Price"]


@pytest.mark.parametrize("path", [DOCS / "design.md", *(DOCS / "decisions").glob("*.md")], ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def design():
    spec = importlib.util.spec_from_file_location("design", DOCS / "hooks" / "design.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def part_of(page, name):
    return re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", page, re.DOTALL)[1]


def rooms_of(table):
    """Each row's floor and room."""
    return re.findall(r"^\| *(\d*) *\| `(\w+)` \|", table, re.MULTILINE)


def nesting(picture):
    """Each room with its depth; the functions named beside it may differ."""
    return [(len(line) - len(line.lstrip()), line.split()[0]) for line in picture.splitlines() if line.strip(" `")]


def test_the_design_page_has_the_floors_and_the_way_of_the_code():
    made = design()
    page = made.PAGE.read_text()
    assert rooms_of(part_of(page, "floors")) == rooms_of(made.floors_table()), "run: python docs/hooks/design.py"
    assert nesting(part_of(page, "way")) == nesting(made.way()), "run: python docs/hooks/design.py"


def test_the_navigation_has_every_page():
    text = (ROOT / "mkdocs.yml").read_text()
    for page in [*DOCS.glob("*.md"), *(DOCS / "decisions").glob("*.md")]:
        name = page.relative_to(DOCS).as_posix()
        assert name in text or page.parent == DOCS, name
