"""Crafted files through the command line: exit code, lines, peak memory and CPU seconds of each, in a table.

``python -m benchmarks crafted_files [--only WORD] [--out FILE]``. Each file meets a process of its own that may have
1 GiB of data. The libraries are imported before, by the process it comes from: their memory counts, their time does
not.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NoReturn

import torch

from benchmarks.common.page import ROOT
from clinch.cli import run

sys.path.insert(0, str(ROOT / "tests" / "untrusted"))

from crafted import CASES

TAKES = "5 minutes"
#: bytes of data a process may have; seconds of CPU after which it is ended
MEMORY, HANGING = 2**30, 60


def measured(arguments: list[str], environment: dict[str, str]) -> tuple[int, int, float, float, str]:
    """Exit code, lines on standard error, peak resident MB, CPU seconds, the first line."""
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as answer:
        child = os.fork()
        if not child:
            _command(arguments, environment, answer.fileno(), said.fileno())
        _, status, used = os.wait4(child, 0)
        said.seek(0)
        text = said.read().decode(errors="replace")
    code = os.waitstatus_to_exitcode(status)
    return code, text.count("\n"), used.ru_maxrss / 1024, used.ru_utime + used.ru_stime, text


def _command(arguments: list[str], environment: dict[str, str], answer: int, said: int) -> NoReturn:
    """The command line in a process of its own, which has imported what it needs."""
    code = 120
    try:
        os.environ.update(environment)
        os.dup2(answer, 1)
        os.dup2(said, 2)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (HANGING, HANGING))
        code = run(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Measure all, or those whose name holds a word."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="A word in the name.")
    parser.add_argument("--out", type=Path, help="A .csv file.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    import onnxruntime  # noqa: F401 - so that no case pays for it
    import scipy.optimize  # noqa: F401
    import sklearn.datasets  # noqa: F401

    import clinch
    import clinch.study.run  # noqa: F401

    rows, peak = [], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'before':45} {peak:5.0f} MB")
    for name, make in CASES.items():
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            case = make(Path(folder))
            size = sum(f.lstat().st_size for f in Path(folder).rglob("*") if f.is_file() or f.is_symlink())
            code, lines, peak, seconds, said = measured(case.arguments, case.environment)
        rows.append((name, size, code, lines, round(peak), round(seconds, 1)))
        print(f"{name:45} {size:>12,} B  exit {code:>3}  lines {lines}  {peak:5.0f} MB  {seconds:5.1f} s", flush=True)
        print(f"    {' '.join(said[-300:].split())}", flush=True)
    if options.out is not None:
        with options.out.open("w", newline="") as file:
            csv.writer(file).writerows([("file", "bytes", "exit", "lines", "peak MB", "CPU s"), *rows])


if __name__ == "__main__":
    main()
