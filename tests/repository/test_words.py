"""Words: sources are named by author, year and number, and nothing refers to a paper that readers do not have."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: what stood for papers and private notes while the project was written
FORBIDDEN = re.compile(r"\b[Dd]ocuments? [0-4]\b|\bMETHODS (?:section|§)|\bDESIGN\.md|\bHOUSE\.md|document0")


def written():
    if (ROOT / ".git").exists():
        done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
        return [ROOT / name for name in done.stdout.splitlines()]
    return [path for path in ROOT.rglob("*") if ".venv" not in path.parts]


def test_nothing_refers_to_what_readers_do_not_have():
    ours = Path(__file__).resolve()
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in written()
        if path.suffix in (".py", ".md", ".yml", ".toml", ".html") and path.resolve() != ours and path.is_file()
        for match in FORBIDDEN.finditer(path.read_text())
    ]
    assert not found, "\n".join(found)
