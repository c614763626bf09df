"""Every package that an install takes has its version in constraints.txt, and every install reads that file."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
PINS = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in LINES}
#: come with some builds of torch alone, which choose their versions
OF_A_BUILD = re.compile(r"(nvidia|cuda|triton)\b")


def group(name):
    """The requirements of a dependency group, those of the groups it includes too."""
    for entry in PROJECT["dependency-groups"][name]:
        if isinstance(entry, str):
            yield entry
        else:
            yield from group(entry["include-group"])


def declared():
    """Everything that the project's files ask for."""
    project = PROJECT["project"]
    found = [*PROJECT["build-system"]["requires"], "pip", *project["dependencies"]]
    for part in project["optional-dependencies"].values():
        found += part
    for name in PROJECT["dependency-groups"]:
        found += group(name)
    return [Requirement(text) for text in found]


def needed(requirements):
    """Name -> who asks for it, for requirements and what these require in turn, as far as it is installed here."""
    found, seen = {}, set()
    waiting = [(requirement, "pyproject.toml") for requirement in requirements]
    while waiting:
        requirement, who = waiting.pop()
        name = canonicalize_name(requirement.name)
        found.setdefault(name, who)
        for extra in {"", *requirement.extras} - {e for n, e in seen if n == name}:
            seen.add((name, extra))
            try:
                inner = [Requirement(text) for text in requires(name) or ()]
            except PackageNotFoundError:
                continue
            here = default_environment() | {"extra": extra}
            waiting += [(one, name) for one in inner if one.marker is None or one.marker.evaluate(here)]
    return {name: who for name, who in found.items() if not OF_A_BUILD.match(name)}


def test_every_requirement_has_a_pin():
    missing = {name: f"asked for by {who}" for name, who in needed(declared()).items() if name not in PINS}
    assert missing == {}, "run: make pins"


def test_what_is_asked_for_in_turn_is_found():
    """The walk itself: a requirement of an extra of a requirement."""
    found = needed([Requirement("gymnasium[mujoco]"), Requirement("pytest-xdist")])
    if "mujoco" not in found:
        pytest.skip("gymnasium is not installed")
    assert {"mujoco", "glfw", "execnet", "pluggy", "numpy"} <= found.keys()
    assert found["execnet"] == "pytest-xdist" and "nvidia-cublas" not in found


def test_pins_are_exact_and_meet_what_is_asked_for():
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in LINES), LINES
    assert len(LINES) == len(PINS)
    assert not [name for name in PINS if OF_A_BUILD.match(name)]
    for requirement in declared():
        pin = PINS[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin, prereleases=True), f"{requirement} is pinned to {pin}"


def test_every_install_reads_the_pins():
    texts = {path: path.read_text() for path in (ROOT / "Makefile", ROOT / "README.md", ROOT / "CONTRIBUTING.md")}
    installs = [
        line for text in texts.values() for line in text.splitlines() if re.search(r"pip install (?!.*'clinch)", line)
    ]
    assert installs
    assert [line for line in installs if "constraints.txt" not in line] == []


def test_groups_hold_what_their_commands_need():
    extras = PROJECT["project"]["optional-dependencies"]
    assert sorted(group("rl")) == sorted(extras["rl"])
    assert set(extras["rl"]) | set(extras["convex"]) | set(extras["ray"]) <= set(group("dev"))
    assert set(extras["rl"]) <= set(group("docs"))
    assert any(text.startswith("ruff") for text in group("docs"))


def test_what_is_declared_for_development_is_used():
    used = "".join(path.read_text() for path in (ROOT / "Makefile", ROOT / ".ci" / "run", ROOT / "pyproject.toml"))
    used = used.partition("[dependency-groups]")[0] + used.partition("[tool.hatch")[2]
    for path in (ROOT / "tests").rglob("*.py"):
        used += path.read_text()
    for path in (ROOT / "src").rglob("*.py"):
        used += path.read_text()
    marks = {"pytest-timeout": "timeout = ", "pytest-xdist": "-n $(WORKERS)", "stable-baselines3": "stable_baselines3"}
    for requirement in map(Requirement, PROJECT["dependency-groups"]["dev"][:-1]):
        word = marks.get(requirement.name, requirement.name)
        assert word in used, f"{requirement.name} is declared and not used"
