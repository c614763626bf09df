"""``clinch evaluate MODEL --data D``: a whole data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinch.errors import ProblemError

if TYPE_CHECKING:
    from clinch.network.network import Network
    from clinch.study.evaluation import Evaluation
    from clinch.study.sources import Source


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="An .onnx file, file.py:function or package.module:function.")
    ],
    data: Annotated[
        str,
        typer.Option(help="digits, mnist, fashion-mnist, cifar10 (mnist:train for training), an .npz file, a folder."),
    ] = "digits",
    norm: Annotated[str, typer.Option(help="linf, l2, l1 or l0.")] = "linf",
    eps: Annotated[
        float | None, typer.Option(help="Radius: robust accuracy as an interval. Without: minimum distances.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Keep results in this folder; run again to go on from there.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N images.")] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds for all images together.")] = 600.0,
    gap: Annotated[float, typer.Option(help="Relative gap at which a distance counts as closed.")] = 1e-3,
    lower: Annotated[float, typer.Option(help="Smallest value of an input's elements.")] = 0.0,
    upper: Annotated[float, typer.Option(help="Largest value of an input's elements.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    device: Annotated[str | None, typer.Option(help="Where to compute, such as cuda.")] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="So many processes, one thread each.")] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Work on a Ray cluster: auto, local or host:port (extra).")
    ] = None,
    input_shape: Annotated[
        str | None, typer.Option(metavar="C,H,W", help="Of a model that does not say; default: the images'.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one row per image: .csv, or .parquet (extra).")
    ] = None,
    json: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write everything as JSON; - for standard output.")
    ] = None,
) -> int:
    """Robust accuracy of a classifier at a radius, or its distances to other classes, for every image of a data set.

    Cheap methods come first for every image, the search where the answer is still open, until the time is over. With
    --out the process may be killed at any moment: the same command goes on from there.

    Exit code: 0 every image has an answer; 1 some are open or failed; 2 bad input.

    Example: clinch evaluate net.onnx --data mnist --norm linf --eps 0.02 --out run --time-limit 600
    """
    from clinch.cli.console import write_json
    from clinch.study.sources import open_source
    from clinch.study.store import checked_table, write_table
    from clinch.study.template import norm_of_name

    p = norm_of_name(norm)
    if table is not None:
        checked_table(table)
    source = open_source(data)
    network = _network(model, input_shape, source)
    found = _found(
        network, source, ray, norm=p, eps=eps, lower=lower, upper=upper, gap=gap, out=out, limit=limit,
        time_limit=time_limit, seed=seed, device=device, workers=workers,
    )  # fmt: skip
    if table is not None:
        write_table(table, found.rows)
    if json != "-":
        print(found)
    if json is not None:
        write_json(found.to_dict(), json)
    return 0 if found.tally.answered == found.tally.images else 1


def _found(
    network: Network, source: Source, ray: str | None, *, eps: float | None, workers: int | None, **settings: Any
) -> Evaluation:
    """The study, with its progress shown, by this process, by others or by a cluster."""
    from clinch.cli.study_progress import StudyProgress
    from clinch.study.ray_executor import RayExecutor
    from clinch.study.run import evaluate as run

    if workers is not None and workers < 1:
        raise ProblemError(f"--workers is {workers}; give a number of workers, 1 or more.")
    executor = None if ray is None else RayExecutor(ray, workers)
    try:
        with StudyProgress(eps is not None) as progress:
            return run(network, source, eps=eps, executor=executor, workers=workers, progress=progress, **settings)
    finally:
        if executor is not None:
            # after an interruption what is still at work is not waited for
            executor.shutdown(wait=False, cancel_futures=True)


def _network(model: str, input_shape: str | None, source: Source) -> Network:
    """The model; a function's module is given the shape of the images unless another is named."""
    from clinch.cli.models import load_model, parse_shape
    from clinch.study.sources import first_shape

    if input_shape is not None:
        return load_model(model, input_shape=parse_shape(input_shape))
    written = model.lower().endswith((".onnx", ".onnx.gz"))
    return load_model(model, input_shape=None if written else first_shape(source))
