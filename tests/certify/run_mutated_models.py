"""Mutated models by hand: ``python tests/certify/run_mutated_models.py --count 10000``.

What the checker accepts of each is compared with what onnxruntime finds. Writes the table of what was run; ends with
exit code 1 where something false was accepted.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from mutated_models import FALSE, examined, page

from resumable import run_campaign

if __name__ == "__main__":
    found = run_campaign(
        __doc__, 10_000, "mutated_models", examined, lambda r: [r["wrong"]] if r["wrong"] else [], page
    )
    sys.exit(int(any(r["outcome"] == FALSE for r in found)))
