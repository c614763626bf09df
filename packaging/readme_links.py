"""The README as a package index shows it: links that are relative in the repository lead to the public one.

A metadata hook of hatchling: pyproject.toml has no readme of its own, so that the file itself keeps links that work in
every copy of the repository.
"""

from __future__ import annotations

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

#: ``](target`` where the target is no address and no place within the page
_RELATIVE = re.compile(r"(!?)(\[[^\]]*\]\()(?![a-z]+:|#)([^)\s]+)")


def absolute(text: str, source: str) -> str:
    """Markdown whose relative links and pictures are those of the repository at an address.

    Example:
        >>> absolute("[a](docs/a.md) ![b](b.png) [c](https://c.org)", "https://host/us")
        '[a](https://host/us/blob/main/docs/a.md) ![b](https://host/us/raw/main/b.png) [c](https://c.org)'
    """
    return _RELATIVE.sub(lambda m: f"{m[1]}{m[2]}{source}/{'raw' if m[1] else 'blob'}/main/{m[3]}", text)


class ReadmeHook(MetadataHookInterface):
    """Fills in ``project.readme``."""

    def update(self, metadata: dict) -> None:
        """Called by hatchling with the table ``project``."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        shown = absolute(text, metadata["urls"]["Source"])
        metadata["readme"] = {"content-type": "text/markdown", "text": shown}
