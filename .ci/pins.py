"""Write ``constraints.txt``: the version of every package that any install of the project takes.

``make pins`` keeps the versions that stand in the file, adds what is missing and drops what nothing needs any more;
``make pins UPGRADE=1`` takes the newest of everything but the lines kept by hand. pip resolves all groups and extras,
the build backend and itself in one go, for the Python and the platform it runs on, and installs nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "constraints.txt"
#: the first line of the part that this program writes
MADE = "# made by `make pins`; change the lines above or the requirements in pyproject.toml, and run it again"
#: what the project is installed with, beside its own requirements
INSTALLERS = ["pip", "editables"]
#: come with some builds of torch alone, each with versions of their own
OF_A_BUILD = re.compile(r"(nvidia|cuda|triton)\b")


def normalised(name: str) -> str:
    """A package's name as registries compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def by_hand() -> list[str]:
    """The lines above those that are made."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return lines[: lines.index(MADE)] if MADE in lines else [line for line in lines if line.startswith("torch==")]


def resolved(constraints: list[str]) -> dict[str, str]:
    """Name -> version of all that an install of everything takes."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = [part for group in project["dependency-groups"] for part in ("--group", group)]
    everything = f".[{','.join(project['project']['optional-dependencies'])}]"
    with tempfile.TemporaryDirectory() as folder:
        limits, report = Path(folder, "constraints.txt"), Path(folder, "report.json")
        limits.write_text("\n".join(constraints), encoding="utf-8")
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet",
             "--disable-pip-version-check", "--report", report, "--constraint", limits, *groups,
             *INSTALLERS, *project["build-system"]["requires"], "--editable", everything],
            cwd=ROOT, check=True,
        )  # fmt: skip
        installed = json.loads(report.read_text(encoding="utf-8"))["install"]
    found = {normalised(one["metadata"]["name"]): one["metadata"]["version"] for one in installed}
    # a local version such as 2.13.0+cpu names the build, which each machine chooses for itself
    return {name: version.partition("+")[0] for name, version in found.items() if not OF_A_BUILD.match(name)}


def main() -> None:
    """Read the options and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest of everything but the lines by hand")
    parser.add_argument("--by-hand", action="store_true", help="only print the lines kept by hand")
    given = parser.parse_args()
    kept = by_hand()
    if given.by_hand:
        print("\n".join(kept))
        return
    old = kept if given.upgrade else FILE.read_text(encoding="utf-8").splitlines()
    versions = resolved(old)
    hand = {normalised(line.partition("==")[0]) for line in kept if "==" in line}
    made = [f"{name}=={version}" for name, version in sorted(versions.items()) if name not in {*hand, "clinch-nn"}]
    FILE.write_text("\n".join([*kept, MADE, *made]) + "\n", encoding="utf-8")
    print(f"{FILE.name}: {len(made) + len(hand)} packages")


if __name__ == "__main__":
    main()
