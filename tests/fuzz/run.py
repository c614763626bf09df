"""Fuzz one reader for some minutes, by hand: ``python tests/fuzz/run.py onnx --minutes 10``.

Every file that ends in something else than a typed error, or takes too long, is kept in the folder that ``--out``
names, and belongs into ``tests/fuzz/cases``. Where atheris is installed, ``--coverage`` lets libFuzzer guide the bytes.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "certify"))

from targets import Target, mutated, survives, targets

#: seconds of processor time that one file may take
SLOW = 20.0


class Hunt:
    """Counts what comes out and keeps what should not."""

    def __init__(self, target: Target, out: Path) -> None:
        self.target, self.out = target, out
        self.outcomes: Counter[str] = Counter()
        self.places: Counter[str] = Counter()
        self.longest = 0.0
        self.folder = Path(tempfile.mkdtemp())

    def once(self, content: bytes) -> None:
        # what kills the process is still there afterwards
        (self.out / f"{self.target.name}.last").write_bytes(content)
        began = time.process_time()
        try:
            error = survives(self.target, content, self.folder)
            self.outcomes["read" if error is None else type(error).__name__] += 1
        except Exception as error:
            self._keep(content, f"{type(error).__name__}: {error}"[:200], traceback.format_exc())
        seconds = time.process_time() - began
        self.longest = max(self.longest, seconds)
        if seconds > SLOW:
            self._keep(content, f"{seconds:.0f} s", "")

    def _keep(self, content: bytes, what: str, trace: str) -> None:
        place = next((line.strip() for line in reversed(trace.splitlines()) if line.startswith("  File")), "slow")
        self.outcomes["DEFECT"] += 1
        self.places[place] += 1
        if self.places[place] == 1:
            name = f"{self.target.name}-{len(self.places)}"
            (self.out / name).write_bytes(content)
            (self.out / f"{name}.txt").write_text(what + "\n" + trace)
            print(f"{name}: {what}\n  {place}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader", choices=sorted(targets()))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzz-found"))
    parser.add_argument("--coverage", action="store_true", help="guided by atheris")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    hunt = Hunt(targets()[given.reader], given.out)
    end = time.monotonic() + 60 * given.minutes
    if given.coverage:
        _guided(hunt, end)
        return
    rng = random.Random(given.seed)
    while time.monotonic() < end:
        hunt.once(mutated(hunt.target, rng))
    print(f"{given.reader}: {dict(hunt.outcomes)}, longest {hunt.longest:.1f} s")


def _guided(hunt: Hunt, end: float) -> None:
    import atheris

    def mutate(content: bytes, size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        chosen = replace(hunt.target, seeds=lambda: [content])
        return (atheris.Mutate(content, size) if rng.random() < 0.5 else mutated(chosen, rng))[:size]

    def test(content: bytes) -> None:
        if time.monotonic() > end:
            print(f"{hunt.target.name}: {dict(hunt.outcomes)}, longest {hunt.longest:.1f} s", flush=True)
            # libFuzzer has no ordinary end
            sys.stdout.flush()
            import os

            os._exit(0)
        hunt.once(content)

    import clinch

    for name in [n for n in sys.modules if n.startswith("clinch.")]:
        for value in list(vars(sys.modules[name]).values()):
            if callable(value) and getattr(value, "__module__", None) == name and hasattr(value, "__code__"):
                setattr(sys.modules[name], value.__name__, atheris.instrument_func(value))
    assert clinch
    corpus = hunt.folder / "corpus"
    corpus.mkdir()
    for i, content in enumerate(hunt.target.seeds()):
        (corpus / str(i)).write_bytes(content)
    atheris.Setup([sys.argv[0], "-max_len=20000", "-rss_limit_mb=6000", str(corpus)], test, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
