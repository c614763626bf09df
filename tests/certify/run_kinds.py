"""Mutated certificates of every kind of layer: ``python tests/certify/run_kinds.py --count 2000``, with python-flint.

As ``run.py``; the tables stand below those of that page. Ends with exit code 1 where something false was accepted.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from kinds import FALSE, PAGE, examined, page

from resumable import run_campaign

if __name__ == "__main__":
    sys.argv += ["--out", str(PAGE)]
    found = run_campaign(
        __doc__, 2000, "mutated_kinds", examined, lambda r: [r["wrong"]] if r["wrong"] else [], page
    )  # fmt: skip
    sys.exit(int(any(r["outcome"] == FALSE for r in found)))
