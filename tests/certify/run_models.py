"""Random models by hand, as many as one likes: ``python tests/certify/run_models.py --count 20000``.

What the checker reads of each is compared with onnxruntime. Writes the table of what was run; ends with exit code 1
where something was read as another function than it is.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from read_models import DIFFERS, examined, page

from resumable import run_campaign

if __name__ == "__main__":
    found = run_campaign(__doc__, 20_000, "read_models", examined, lambda r: [r["wrong"]] if r["wrong"] else [], page)
    sys.exit(int(any(r["outcome"] == DIFFERS for r in found)))
