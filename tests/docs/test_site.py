"""The documentation's site: built without a warning, free of the network, every public name in its reference."""

import html.parser
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import clinch

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "clinch.attacks", "clinch.bounds", "clinch.exact", "clinch.certificates", "clinch.figures", "clinch.papers",
    "clinch.settings",
    "clinch.study", "clinch.study.figures", "clinch.testing", "clinch.vnnlib", "clinch.applications.latent",
    "clinch.applications.monitors", "clinch.applications.policies", "clinch.applications.regression",
    "clinch.applications.segmentation",
)  # fmt: skip
NEEDED = ("mkdocs", "material", "mkdocstrings", "mkdocstrings_handlers")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install --group docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


class Fetched(html.parser.HTMLParser):
    """Addresses that a browser loads without being asked."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag in ("script", "img", "iframe", "source", "video"):
            self.addresses.append(values.get("src") or "")
        if tag == "link" and values.get("rel") in ("stylesheet", "preconnect", "preload", "icon"):
            self.addresses.append(values.get("href") or "")


def pages(site):
    return sorted(site.rglob("*.html"))


def test_nothing_comes_from_the_network(site):
    assert len(pages(site)) > 30
    for page in pages(site):
        fetched = Fetched()
        fetched.feed(page.read_text())
        assert [a for a in fetched.addresses if re.match(r"(?:https?:)?//", a)] == [], page.name


def test_every_link_and_picture_inside_the_site_exists(site):
    for page in pages(site):
        if page.name == "404.html":
            continue
        # of tags, not of code that is shown
        for target in re.findall(r'<\w[^<>]*?\s(?:href|src)="?([^"\s>#?]+)', page.read_text()):
            if not re.match(r"[a-z]+:|//", target):
                assert (page.parent / target).exists(), f"{page.relative_to(site)}: {target}"


def test_the_reference_has_every_public_name(site):
    anchors = {a for page in (site / "api").glob("*.html") for a in re.findall(r'id="?([\w.]+)', page.read_text())}
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "hooks" / "site.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    names = [f"clinch.{name}" for name in clinch.__all__ if f"clinch.{name}" not in PACKAGES and name != "vnnlib"]
    names += [f"{package}.{name}" for package in PACKAGES for name in hooks.public(package)]
    names = [name for name in names if name not in (*PACKAGES, "clinch.applications")]
    assert len(names) > 100
    assert [name for name in names if hooks.defined(name) not in anchors and name not in anchors] == []


def test_roles_of_docstrings_are_not_shown(site):
    for page in (site / "api").glob("*.html"):
        assert re.findall(r":(?:func|class|meth|mod|data|attr):", page.read_text()) == [], page.name
        assert "``" not in page.read_text(), page.name
