"""Which share of each room's lines the quick suite runs, beside the floor that ``.ci/coverage.toml`` gives it.

    python .ci/coverage_floors.py            # after `coverage run`; exit code 1 where a room is below its floor
    python .ci/coverage_floors.py --write    # floors anew: what was measured, less a point, and never lower than before

A room is a folder of ``src/clinch``; files that lie loose in it are one room, ``clinch``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ROOT / ".ci" / "coverage.toml"
#: points between what is measured and the floor: another machine has other packages, and skips other tests
ROOM_FOR_OTHERS = 1.0


class Share(NamedTuple):
    """Lines of a room that can run, and those that did."""

    lines: int
    run: int

    @property
    def percent(self) -> float:
        """Of the lines that can run."""
        return 100.0 * self.run / self.lines if self.lines else 100.0


def room_of(file: str) -> str:
    """The room of a file, given from the project's folder on."""
    parts = PurePosixPath(file.replace("\\", "/")).parts
    inside = parts[parts.index("clinch") + 1 :]
    return inside[0] if len(inside) > 1 else "clinch"


def rooms(report: Mapping[str, Mapping[str, Mapping[str, int]]]) -> dict[str, Share]:
    """Shares by room, from the ``files`` of coverage's JSON report."""
    lines: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for file, one in report.items():
        if "clinch" in PurePosixPath(file.replace("\\", "/")).parts[:-1]:
            for i, name in enumerate(("num_statements", "covered_lines")):
                lines[room_of(file)][i] += one["summary"][name]
    return {room: Share(*counts) for room, counts in sorted(lines.items())}


def complaints(found: Mapping[str, Share], floors: Mapping[str, float]) -> list[str]:
    """Rooms below their floor, rooms without one, and floors without a room."""
    below = [
        f"{room}: {share.percent:.1f}% of {share.lines} lines run, the floor is {floors[room]:g}%: test what is new"
        for room, share in found.items()
        if room in floors and share.percent < floors[room]
    ]
    new = [f"{room}: a room without a floor; run with --write" for room in found if room not in floors]
    gone = [f"{room}: a floor without a room; take it off {FLOORS.name}" for room in floors if room not in found]
    return below + new + gone


def raised(found: Mapping[str, Share], floors: Mapping[str, float]) -> dict[str, float]:
    """Floors that what was found allows: none falls."""
    able = {room: float(int(max(share.percent - ROOM_FOR_OTHERS, 0.0))) for room, share in found.items()}
    return {room: max(able[room], floors.get(room, 0.0)) for room in found}


def measured() -> dict[str, Share]:
    """What the data files beside the project say, joined."""
    run = [sys.executable, "-m", "coverage"]
    # nothing to join is no failure: it was joined before
    subprocess.run([*run, "combine", "--quiet"], cwd=ROOT, check=False, stderr=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "coverage.json")
        subprocess.run([*run, "json", "--quiet", "-o", str(target)], cwd=ROOT, check=True)
        return rooms(json.loads(target.read_text(encoding="utf-8"))["files"])


def main() -> int:
    """Print the table; judge, or write floors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the floors that hold now")
    options = parser.parse_args()
    floors = tomllib.loads(FLOORS.read_text(encoding="utf-8"))["percent"] if FLOORS.is_file() else {}
    found = measured()
    for room, share in found.items():
        print(f"{room:<16}{share.percent:6.1f}% of {share.lines:>5} lines   floor {floors.get(room, 0.0):g}%")
    total = Share(sum(share.lines for share in found.values()), sum(share.run for share in found.values()))
    print(f"{'all':<16}{total.percent:6.1f}% of {total.lines:>5} lines")
    if options.write:
        lines = [f"{room} = {floor:g}" for room, floor in raised(found, floors).items()]
        head = "# Percent of a room's lines that the quick suite must run: `make coverage` measures it."
        FLOORS.write_text("\n".join([head, "[percent]", *lines]) + "\n", encoding="utf-8")
        return 0
    wrong = complaints(found, floors)
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
