"""Mutated certificates by hand, as many as one likes: ``python tests/certify/run.py --count 10000``.

Every certificate is changed in one to three places and written with a digest that fits; what the checker accepts all
the same is compared with an enumeration. Seeds that stand in ``--runs`` are not repeated, so that it can be stopped and
started again. Writes the table of what was run; ends with exit code 1 where something false was accepted.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from mutated import FALSE, examined, page

from resumable import run_campaign

if __name__ == "__main__":
    found = run_campaign(
        __doc__, 10_000, "mutated_certificates", examined, lambda r: [r["wrong"]] if r["wrong"] else [], page
    )  # fmt: skip
    sys.exit(int(any(r["outcome"] == FALSE for r in found)))
