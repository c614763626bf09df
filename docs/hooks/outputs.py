"""Run the Python of a page from top to bottom, and put what it prints behind each block.

    python docs/hooks/outputs.py docs/tutorial.md

All blocks share their names. What a block prints stands behind it, between ``<!-- output -->`` and the end of a block
of text; pictures that it saves are put into ``docs/images``.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: a block of Python, and what it printed where the page shows that
BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n<!-- output -->\n```text\n(?P<output>.*?)```\n)?", re.DOTALL)


class Block(NamedTuple):
    """A block of a page: its code, and what the page says that it prints."""

    code: str
    output: str


def blocks(page: str) -> list[Block]:
    """The blocks of Python of a page in Markdown."""
    return [Block(found["code"], found["output"] or "") for found in BLOCK.finditer(page)]


def run(page: str) -> Iterator[str]:
    """Execute a page's blocks one after the other in the current folder; what each of them prints."""
    names: dict[str, object] = {"__name__": "__main__"}
    for i, block in enumerate(blocks(page)):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block.code, f"block {i}", "exec"), names)
        yield printed.getvalue()


def filled(page: str, outputs: list[str]) -> str:
    """The page with these outputs behind its blocks."""
    rest = iter(outputs)

    def fill(found: re.Match[str]) -> str:
        output = next(rest)
        shown = f"\n<!-- output -->\n```text\n{output}```\n" if output else ""
        return f"```python\n{found['code']}```\n{shown}"

    return BLOCK.sub(fill, page)


def main(path: Path) -> None:
    """Run a page and write its outputs into it."""
    path, page = path.resolve(), path.read_text()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        outputs = list(run(page))
        for picture in Path(folder).glob("*.png"):
            shutil.copy(picture, path.parent / "images" / picture.name)
        os.chdir(path.parent)
    path.write_text(filled(page, outputs))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
