"""What the site adds to the pages of ``docs``: files that they link to, pages the navigation forgot, the public names.

* Pages link to scripts and results beside ``docs`` (``../examples/latent.py``), as a reader of the repository needs it.
  Each of those files becomes a page, and the links lead there; a folder becomes a page that lists its files.
* A page of ``docs`` that ``nav`` does not name is put under *Guides*.
* In the reference, ``::: clinch.attacks.nearest`` may name what is public; it is written as where it is defined, which
  is what mkdocstrings can read when a function is called as its module. ``!!! public clinch.study`` stands for all
  public names of that package that the reference does not have elsewhere.
"""

from __future__ import annotations

import importlib
import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
#: files outside of ``docs`` that become part of the site
SHOWN = (
    "examples/*.py", "examples/*.toml", "benchmarks/*/[a-z]*.py", "benchmarks/results/*.md", "benchmarks/results/*.png",
    "CHANGELOG.md", "CONTRIBUTING.md", "PERFORMANCE.md", "SECURITY.md",
)  # fmt: skip
#: folders among them, each with a page that lists its files
QUESTIONS = sorted(path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("benchmarks/*/__init__.py"))
FOLDERS = ("examples", "benchmarks", *QUESTIONS, "benchmarks/results")
#: endings of files that the site shows without a page around them, or that are pages
AS_IT_IS = (".md", ".png", ".svg")
LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json"}
#: the section that takes pages which the navigation does not name
GUIDES = "Guides"

_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_NAME = re.compile(r"^::: (clinch[\w.]*)$", re.MULTILINE)
_PUBLIC = re.compile(r"^!!! public (clinch[\w.]*)$", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages that ``nav`` does not name under :data:`GUIDES`; mkdocs' notice about its future is left out."""
    folder = Path(config.docs_dir)
    named = set(_pages(config.nav))
    missing = [path.name for path in sorted(folder.glob("*.md")) if path.name not in named]
    for entry in config.nav or []:
        if isinstance(entry, dict) and GUIDES in entry:
            entry[GUIDES] += missing
    return config


def _pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav or []
    return [page for entry in entries for page in _pages(entry)]


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add what :func:`shown` finds: Markdown and pictures as they are, anything else as pages that show it."""
    for path in shown(Path(config.docs_dir)):
        name = path.relative_to(ROOT).as_posix()
        if path.suffix in AS_IT_IS:
            files.append(File.generated(config, site_path(name), abs_src_path=str(path)))
        else:
            files.append(File.generated(config, site_path(name), content=listing(path)))
    for folder in FOLDERS:
        if files.get_file_from_path(f"{folder}/index.md") is None:
            files.append(File.generated(config, f"{folder}/index.md", content=contents(ROOT / folder)))
    return files


def shown(folder: Path) -> list[Path]:
    """Files of the repository outside of ``docs``: :data:`SHOWN`, and what pages of ``docs`` link to besides."""
    found = {path for pattern in SHOWN for path in ROOT.glob(pattern)}
    for page in folder.glob("*.md"):
        targets = {(folder / match[2]).resolve() for match in _LINK.finditer(page.read_text()) if ":" not in match[2]}
        found |= {path for path in targets if path.is_file() and ROOT in path.parents and folder not in path.parents}
    return sorted(found - {ROOT / "README.md"})


def contents(folder: Path) -> str:
    """A page that lists the files of a folder with their first lines."""
    rows = [f"# {folder.relative_to(ROOT)}", "", "| file | what it is |", "|---|---|"]
    for inner in sorted(folder.glob("*/__init__.py")):
        first = inner.read_text().lstrip().splitlines()[0].strip('" ')
        rows.append(f"| [{inner.parent.name}]({inner.parent.name}/index.md) | {first} |")
    for path in sorted([*folder.glob("*.md"), *folder.glob("[a-z]*.py"), *folder.glob("*.toml")]):
        first = path.read_text().lstrip().splitlines()[0].strip('#" ').replace("|", "\\|")
        rows.append(f"| [{path.name}]({path.name}) | {first} |")
    return "\n".join(rows) + "\n"


def listing(path: Path) -> str:
    """A page that shows a script."""
    name = path.relative_to(ROOT).as_posix()
    language = LANGUAGES.get(path.suffix, "text")
    return f"# {path.name}\n\n`{name}`\n\n````{language}\n{path.read_text()}````\n"


def site_path(name: str) -> str:
    """Where the site has a file of the repository, both relative: ``docs/x.md`` at ``x.md``, a script as a page."""
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    if name in FOLDERS:
        return f"{name}/index.md"
    return name if Path(name).suffix in AS_IT_IS else f"{name}.md"


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links between files of the repository to where the site has them; name what is public."""
    here = page.file.src_uri
    if page.file.generated_by is not None:
        repository = here
    else:
        repository = f"docs/{here}"
        markdown = reference(markdown) if here.startswith("api/") else markdown

    # what a block printed is drawn differently from code
    markdown = markdown.replace("<!-- output -->\n```text", "```{.text .output}")

    def lead(match: re.Match[str]) -> str:
        if ":" in match[2]:
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(repository), match[2]))
        if target == "README.md":
            target = "docs/index.md"
        found = posixpath.relpath(site_path(target), posixpath.dirname(here) or ".")
        return f"{match[1]}{found}{match[3] or ''}{match[4]}"

    # code has brackets and parentheses too
    parts = re.split(r"(^```.*?^```|`[^`\n]*`)(?!\])", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if i % 2 else _LINK.sub(lead, part) for i, part in enumerate(parts))


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A bar in code in a table is escaped in Markdown, and shown without the escape."""
    return re.sub(r"<code>[^<]*</code>", lambda match: match[0].replace("\\|", "|"), html)


# --- the reference -------------------------------------------------------------------------------------------------


def reference(markdown: str) -> str:
    """A page of the reference with each public name as where it is defined, and the packages' other names."""
    listed = {name for page in (ROOT / "docs" / "api").glob("*.md") for name in _NAME.findall(page.read_text())}

    def others(match: re.Match[str]) -> str:
        package = importlib.import_module(match[1])
        names = [f"{match[1]}.{name}" for name in public(match[1]) if not _is_module(getattr(package, name))]
        return "\n\n".join(f"::: {name}" for name in names if name not in listed)

    return _NAME.sub(lambda match: entry(match[1]), _PUBLIC.sub(others, markdown))


def entry(name: str) -> str:
    """What mkdocstrings reads for a public name: its path, and the heading under which people know it."""
    last = name.rpartition(".")[2]
    return f"::: {defined(name)}\n    options:\n      heading: {name}\n      toc_label: {last}"


def public(package: str) -> list[str]:
    """The public names of a package, in order: ``__all__``, or what it imports under the same name on purpose."""
    module = importlib.import_module(package)
    if hasattr(module, "__all__"):
        return list(module.__all__)
    text = Path(str(module.__file__)).read_text()
    return re.findall(r"^from clinch\S* import \w+ as (\w+)$", text, re.MULTILINE)


def defined(name: str) -> str:
    """Where a public name is defined: ``clinch.attacks.pgd`` is ``clinch.attacks.pgd.pgd``."""
    package, _, last = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(package), last)
    except (ImportError, AttributeError):
        logging.getLogger("mkdocs.hooks").warning("The reference names %s, which does not exist.", name)
        return name
    if _is_module(found) or not hasattr(found, "__qualname__"):
        return name
    return f"{found.__module__}.{found.__qualname__}"


def _is_module(found: object) -> bool:
    return type(found).__name__ == "module"
