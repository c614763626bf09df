"""Networks of VNN-COMP: whether each file loads and agrees with onnxruntime, and what CROWN costs on its first box.

Every network of a folder is loaded, which compares it with onnxruntime, and compared once more at random points of the
box of the first instance that names it; then CROWN bounds what that instance asks, over that box. Seconds are those of
the processor; each folder is a process of its own, whose largest size is told.

    python -m benchmarks vnncomp_load [--data FOLDER] [--only WORD] [--folder NAME] [--keep FOLDER]

What a run has measured stays in the last folder, and is not measured again. Writes
benchmarks/results/vnncomp_load.md; ends with exit code 1 if a file does not load or agree.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import clinch as cl
from benchmarks.common.page import RESULTS, again, table, write_page
from clinch.bounds.crown import activation_bounds, form_bounds, relaxations_from
from clinch.errors import ClinchError, SpecificationError
from clinch.io.data import data_folder
from clinch.query import Query
from clinch.vnnlib.problems import state
from clinch.vnnlib.reader import read_specification

TAKES = "10 minutes"
#: seconds after which CROWN takes what interval arithmetic gives
LIMIT = 240.0
#: random points of the box
POINTS = 10
COLUMNS = ("files", "load", "agree", "largest difference", "CROWN", "load s", "CROWN s", "peak MB", "what is missing")


def first_query(net: cl.Network, network: Path, folder: Path) -> Query | None:
    """The first problem of the first instance that names the network and can be read; None: there is none."""
    name = network.name.removesuffix(".gz")
    with (folder / "instances.csv").open() as stream:
        rows = [row for row in csv.reader(stream) if row and Path(row[0].strip()).name == name]
    for listed in rows:
        path = folder / listed[1].strip()
        path = path if path.exists() else path.with_name(f"{path.name}.gz")
        with suppress(SpecificationError):
            return state(read_specification(path), net).queries[0].take(torch.tensor([0]))
    return None


def difference(net: cl.Network, points: Tensor) -> float:
    """Largest difference from onnxruntime, relative to the size of the output."""
    output = net.layers[-1]
    theirs = net.original(points.to(net.dtype), [output])[output].double()
    with torch.no_grad():
        ours = net.graph_as(torch.float64, "cpu").forward(points.to(net.dtype).double())[net.graph.output]
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30))


def crown(query: Query, limit: float) -> bool:
    """Bound the query's atoms; whether all bounds are finite. Beyond the limit layers keep interval bounds."""
    graph, region, atoms, start = query.graph, query.region, query.atoms, time.process_time()
    limits = activation_bounds(graph, region, atoms.nodes, stop=lambda: time.process_time() - start > limit)
    return bool(form_bounds(graph, atoms, region, relaxations_from(graph, limits, atoms.nodes)).isfinite().all())


def of_network(path: Path, folder: Path) -> dict[str, Any]:
    """What is measured of one file."""
    found: dict[str, Any] = {}
    start = time.process_time()
    try:
        net = cl.load(path)
        found["load"] = time.process_time() - start
        query = first_query(net, path, folder)
        generator = torch.Generator().manual_seed(0)
        share = torch.rand(POINTS, *net.input_shape, generator=generator, dtype=torch.float64)
        box = (torch.zeros_like(share[:1]), torch.ones_like(share[:1]))
        low, high = box if query is None else (query.region.lower, query.region.upper)
        found["difference"] = difference(net, torch.lerp(low, high, share))
        if query is None:
            return found | {"missing": "no instance that can be read names it"}
        start = time.process_time()
        found["finite"] = crown(query, LIMIT)
        found["crown"] = time.process_time() - start
    except ClinchError as error:
        found["missing"] = str(error)[:160]
    return found


def of_folder(folder: Path) -> dict[str, Any]:
    """What is measured of all files of a folder, and the process's largest size."""
    files = sorted((folder / "onnx").iterdir())
    found = {path.name.removesuffix(".gz").removesuffix(".onnx"): of_network(path, folder) for path in files}
    return {"files": found, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def row(name: str, measured: dict[str, Any]) -> list[object]:
    """A folder's line of the table."""
    files = measured["files"].values()
    loads, differences, crowns = ([f[key] for f in files if key in f] for key in ("load", "difference", "crown"))
    agree = [d for d in differences if d < AGREE]
    missing = next((f"{n}: {f['missing']}" for n, f in measured["files"].items() if "missing" in f), None)
    return [
        name, len(files), len(loads), len(agree), max(differences, default=None),
        sum(f.get("finite", False) for f in files),
        max(loads, default=None), max(crowns, default=None), round(measured["peak"]), missing,
    ]  # fmt: skip


#: relative differences below this are rounding of float32
AGREE = 1e-3


def main() -> int:
    """Measure all folders and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=data_folder() / "vnncomp", help="the folders' folder")
    parser.add_argument("--only", default="", help="folders whose name holds this word")
    parser.add_argument("--folder", help="one folder in this process, as JSON on standard output")
    parser.add_argument("--keep", type=Path, help="a folder for what is measured; default: a new temporary one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.folder:
        print(json.dumps(of_folder(options.data / options.folder)))
        return 0
    rows, keep = [], options.keep or Path(tempfile.mkdtemp())
    keep.mkdir(exist_ok=True)
    for folder in sorted(p for p in options.data.iterdir() if (p / "onnx").is_dir() and options.only in p.name):
        kept = keep / f"{folder.name}.json"
        if not kept.exists():
            command = again("--data", options.data, "--folder", folder.name)
            kept.write_text(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        rows.append(row(folder.name, json.loads(kept.read_text())))
        print(*rows[-1], sep="  ", flush=True)
    total, loaded, agree, bounded = (sum(r[i] for r in rows) for i in (1, 2, 3, 5))  # type: ignore[misc]
    lines = [
        f"{total} files: {loaded} load, {agree} agree with onnxruntime at {POINTS} random points of the box of the "
        f"first instance, {bounded} have finite bounds by CROWN over that box. Seconds and sizes are the largest of "
        "a folder.", "", *table(["folder", *COLUMNS], rows),
    ]  # fmt: skip
    if not options.only:
        write_page(RESULTS / "vnncomp_load.md", "Networks of VNN-COMP", lines, ["onnxruntime"])
    return 0 if loaded == agree == total else 1


if __name__ == "__main__":
    sys.exit(main())
