"""What is committed: nothing that a command wrote by mistake."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOP = {
    ".ci", ".github", ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md", "CITATION.cff", "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md", "Dockerfile", "LICENSE", "Makefile", "PERFORMANCE.md", "README.md", "SECURITY.md", "benchmarks",
    "competition", "constraints.txt", "docs", "examples", "mkdocs.yml", "packaging", "pyproject.toml", "src", "tests",
}  # fmt: skip
#: only where a program makes them on purpose
DATABASES = (".sqlite", ".sqlite3", ".db", ".pyc", ".log", ".tmp", ".orig", ".rej", ".whl")


def git(*arguments):
    if not (ROOT / ".git").exists():
        pytest.skip("this tree is no git checkout")
    done = subprocess.run(["git", *arguments, "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name]


def test_the_top_level_holds_what_belongs_there():
    assert {name.partition("/")[0] for name in git("ls-files")} == TOP, "name what is new in TOP"


def test_names_are_plain_and_nothing_is_a_leftover():
    names = git("ls-files")
    plain = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.+-]*")
    assert [name for name in names if not all(plain.fullmatch(part) for part in name.split("/"))] == []
    assert [name for name in names if name.endswith(DATABASES)] == []


def test_nothing_that_is_ignored_is_committed():
    assert git("ls-files", "--cached", "--ignored", "--exclude-standard") == []


def test_what_commands_write_by_default_is_ignored():
    written = [".venv/x", "clinch-demo.png", "figure.png", "site/index.html", "runs/x", "src/clinch/__pycache__/x.pyc"]
    if not (ROOT / ".git").exists():
        pytest.skip("this tree is no git checkout")
    line = ["git", "check-ignore", *written]
    assert subprocess.run(line, cwd=ROOT, capture_output=True, text=True).stdout.split() == written
