"""``clinch evaluate MODEL --data D``: a whole data set; several models, data sets, norms, radii or methods at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinch.cli.outputs import output_file, output_folder, output_json
from clinch.cli.transformed import evaluate_transforms
from clinch.errors import ProblemError

if TYPE_CHECKING:
    from clinch.modeling.model import SymbolicNetwork
    from clinch.study.comparison import Comparison
    from clinch.study.evaluation import Evaluation
    from clinch.study.ray_executor import RayExecutor
    from clinch.study.sources import Source


def print_table(rows: Sequence[dict[str, str]], title: str | None = None) -> None:
    """Print rows of texts under the names of their columns; a terminal folds wide cells, a file gets whole lines."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from clinch.io.files import printable
    from clinch.study.columns import heads_of, text_table

    title = None if title is None else printable(title, lines=False)
    console = Console()
    if not console.is_terminal:
        print("\n".join([*([title] if title else []), text_table(rows)]))
        return
    table = Table(*heads_of(rows), title=None if title is None else Text(title), box=SIMPLE_HEAD, title_justify="left")
    for row in rows:
        table.add_row(*(Text(row.get(name, "")) for name in heads_of(rows)))
    console.print(table)


#: options with long texts
_Out = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN", parser=output_folder, help="Keep results in this folder; run again to go on from there."
    ),
]
_Table = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        parser=output_file,
        help="A row per image: .csv, .parquet (extra). A row per combination: .md, .tex; of several also .csv.",
    ),
]
_Eps = Annotated[
    list[str] | None,
    typer.Option(
        metavar="E[,E...]", help="Radii such as 2/255,8/255: robust accuracy as an interval. Without: distances."
    ),
]
_Layout = Annotated[str | None, typer.Option(help="How the images are stored where shapes do not tell: nchw or nhwc.")]
_Text = Annotated[
    Path | None,
    typer.Option(metavar="FILE", parser=output_file, help="Write a methods section in LaTeX, with BibTeX."),
]
_Json = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE", parser=output_json, help="Write everything as JSON; - for standard output."),
]
_Certificates = Annotated[
    bool, typer.Option("--certificates", help="Prove every proven image again into RUN/certificates; needs --out.")
]
_Report = Annotated[
    Path | None,
    typer.Option(metavar="FILE", parser=output_file, help="Write one page as clinch report does; needs --out."),
]
_Ray = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Work on a Ray cluster: auto, local or host:port (extra).")
]
_Transform = Annotated[
    str | None,
    typer.Option(
        metavar="NAME=N[,...]",
        help="Changes in place of norms: rotation in degrees; translation, scaling, blur, contrast, brightness; "
        "sticker (pixels).",
    ),
]
_Mean = Annotated[
    str | None, typer.Option(metavar="M[,M,M]", help="The model takes (x - mean)/std; eps stays in pixels.")
]


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="net.onnx, file.py:function, package.module:function or zoo:NAME."),
    ],
    data: Annotated[
        list[str],
        typer.Option(
            help="digits and mnist-sample, which come along; mnist, fashion-mnist, cifar10 (mnist:train for "
            "training); an .npz file; a folder."
        ),
    ] = ["digits"],  # noqa: B006 - typer reads it and hands out copies
    norm: Annotated[list[str], typer.Option(help="linf, l2, l1 or l0.")] = ["linf"],  # noqa: B006
    eps: _Eps = None,
    transform: _Transform = None,
    methods: Annotated[
        list[str], typer.Option(help="all; cheap (no search of single images); attacks or bounds alone.")
    ] = ["all"],  # noqa: B006
    out: _Out = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N images.")] = None,
    time_limit: Annotated[float, typer.Option(help="Seconds for everything together.")] = 600.0,
    gap: Annotated[float, typer.Option(help="Relative gap at which a distance counts as closed.")] = 1e-3,
    lower: Annotated[float, typer.Option(help="Smallest value of an input's elements.")] = 0.0,
    upper: Annotated[float, typer.Option(help="Largest value of an input's elements.")] = 1.0,
    mean: _Mean = None,
    std: Annotated[str | None, typer.Option(metavar="S[,S,S]", help="See --mean.")] = None,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    device: Annotated[str | None, typer.Option(help="Where to compute, such as cuda.")] = None,
    workers: Annotated[int | None, typer.Option(metavar="N", help="So many processes, one thread each.")] = None,
    ray: _Ray = None,
    layout: _Layout = None,
    input_shape: Annotated[
        str | None, typer.Option(metavar="C,H,W", help="Of a model that does not say; default: the images'.")
    ] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Print every measure for each class too.")] = False,
    table: _Table = None,
    text: _Text = None,
    json: _Json = None,
    certificates: _Certificates = False,
    report: _Report = None,
) -> int:
    """Robust accuracy of a classifier at a radius, or its distances to other classes, for every image of a data set.

    Cheap methods come first for every image, the search where the answer is still open, until the time is over. With
    --out the process may be killed at any moment: the same command goes on from there. Several models, --data, --norm,
    --eps or --methods are all combined, each combination in a folder of its own below --out with an equal share of the
    time that is left. Lists may be written with commas: --eps 2/255,8/255 --norm linf,l2.

    Exit code: 0 every image has an answer; 1 some are open; 2 bad input, also where single images cannot be used.

    Example: clinch evaluate a.onnx b.onnx --data mnist --norm linf --eps 0.02,0.05 --out runs --table robust.tex
    """
    from clinch.cli.study_progress import StudyProgress
    from clinch.runtime.arguments import as_number
    from clinch.study.evaluation import Evaluation
    from clinch.study.sources import laid_out, open_source
    from clinch.study.template import norm_of_name

    radii: list[float] | list[None] = [as_number(part, "--eps") for part in _parts(eps)] or [None]
    norms, methods = [norm_of_name(name) for name in _parts(norm)], _parts(methods)
    one = max(map(len, (models, data, norms, radii, methods))) == 1
    _check_options(one, table, mean, std, workers, out, report, certificates)
    sources = [laid_out(open_source(name), layout) for name in data]
    networks = [_normalised(_network(model, input_shape, sources[0]), mean, std) for model in models]
    common: dict[str, Any] = {
        "lower": lower, "upper": upper, "gap": gap, "out": out, "limit": limit, "time_limit": time_limit, "seed": seed,
        "device": device, "workers": workers,
    }  # fmt: skip
    if transform is not None:
        no = (eps, out, table, text, report, ray, certificates, device, per_class, methods != ["all"], workers, not one)
        return evaluate_transforms(networks[0], sources[0], transform, no, common, json)
    with _cluster(ray, workers) as executor, StudyProgress(None not in radii) as progress:
        more = {**common, "executor": executor, "progress": progress}
        found = _study(one, networks, sources, norms, radii, methods, more)
    _write_paper(found, table, text)
    code = _write(found, per_class, json, out, report, sources[0])
    if certificates and out is not None and isinstance(found, Evaluation):
        _certify(out, networks[0], sources[0], found)
    _refuse_unread(found)
    return code


def _refuse_unread(found: Evaluation | Comparison) -> None:
    """When all is written: images that nothing could be asked about are bad input."""
    from clinch.io.data import DataError
    from clinch.study.evaluation import Evaluation
    from clinch.study.template import UNREAD

    runs = [found] if isinstance(found, Evaluation) else found.runs.values()
    # an image of one data set is in the rows of every model, norm and radius
    unread = {(each.data, row.image): row.error for each in runs for row in each.rows if row.method == UNREAD}
    if unread:
        (data, image), error = next(iter(unread.items()))
        raise DataError(
            f"{len(unread)} of the images cannot be used, the others have their rows; {data}, image {image}: {error}"
        )


def _certify(out: Path, network: SymbolicNetwork, source: Source, found: Evaluation) -> None:
    """A certificate for every proven image; what has none is said on standard error."""
    from clinch.io.files import printable
    from clinch.study.certificates import FOLDER, certify_run

    made = list(certify_run(out, network, source, found.template))
    missing = [one for one in made if one.file is None]
    for one in missing:
        print(f"image {one.image} has no certificate: {printable(one.reason, lines=False)}", file=sys.stderr)
    where = printable(str(out / FOLDER), lines=False)
    print(f"proofs   {len(made) - len(missing)} of {len(made)} certificates in {where}", file=sys.stderr)


def _parts(given: list[str] | None) -> list[str]:
    """Values that were given one by one, or with commas; those of the command line of Windows may have spaces."""
    return [part.strip() for text in given or () for part in text.split(",") if part.strip()]


def _write_paper(found: Evaluation | Comparison, table: Path | None, text: Path | None) -> None:
    """The methods section, and a table: one row per image, or one per combination."""
    from clinch.io.files import write_whole
    from clinch.study.comparison import Comparison
    from clinch.study.store import write_table
    from clinch.study.tables import methods_text, paper_caption, paper_rows, write_paper_table

    if text is not None:
        write_whole(text, methods_text(found))
    if table is None:
        return
    if isinstance(found, Comparison):
        write_paper_table(table, paper_rows(found), caption=paper_caption(found))
    elif table.suffix.lower() in (".md", ".tex"):
        alone = Comparison({"": found})
        write_paper_table(table, paper_rows(alone), caption=paper_caption(alone))
    else:
        write_table(table, found.rows)


def _check_options(
    one: bool,
    table: Path | None,
    mean: str | None,
    std: str | None,
    workers: int | None,
    out: Path | None,
    report: Path | None,
    certificates: bool,
) -> None:
    """Refuse what cannot be done before any work is spent."""
    from clinch.study.store import checked_table
    from clinch.study.tables import checked_paper_table

    if table is not None:
        checked_paper_table(table) if not one or table.suffix.lower() in (".md", ".tex") else checked_table(table)
    if workers is not None and workers < 1:
        raise ProblemError(f"--workers is {workers}; give a number of workers, 1 or more.")
    if (mean is None) != (std is None):
        raise ProblemError("A normalisation needs both --mean and --std.")
    if report is not None and not one:
        raise ProblemError("--report shows one combination. Write clinch report RUN for each folder below --out.")
    if report is not None and out is None:
        raise ProblemError("--report reads the run from its folder. Name one: --out RUN.")
    if certificates and (out is None or not one):
        raise ProblemError(
            "--certificates lie in the folder of one run. Name it with --out, and ask for one combination."
        )


def _study(
    one: bool,
    networks: list[SymbolicNetwork],
    sources: list[Source],
    norms: list[float],
    radii: list[float] | list[None],
    methods: list[str],
    common: dict[str, Any],
) -> Evaluation | Comparison:
    """One study, or one for each combination."""
    from clinch.study.comparison import compare
    from clinch.study.run import evaluate as run

    if one:
        return run(networks[0], sources[0], norm=norms[0], eps=radii[0], methods=methods[0], **common)
    return compare(networks, sources, norms=norms, eps=radii, methods=methods, **common)


def _write(
    found: Evaluation | Comparison,
    per_class: bool,
    json: str | None,
    out: Path | None,
    report: Path | None,
    source: Source,
) -> int:
    """Print and write what was found; the exit code."""
    from clinch.cli.console import write_json
    from clinch.cli.evaluate import print_table
    from clinch.io.files import printable
    from clinch.study.columns import class_rows
    from clinch.study.evaluation import Evaluation

    runs = {"": found} if isinstance(found, Evaluation) else found.runs
    if json != "-":
        if isinstance(found, Evaluation):
            print(printable(str(found)))
        else:
            print_table(found.rows())
        for name, each in runs.items() if per_class else ():
            print_table(class_rows(each), name or None)
    if json is not None:
        write_json(found.to_dict(), json)
    if out is not None and report is not None:
        from clinch.study.report import write_report
        from clinch.study.runs import open_run

        write_report(open_run(out), report, data=source)
    return 0 if all(each.tally.answered == each.tally.images for each in runs.values()) else 1


def _normalised(network: SymbolicNetwork, mean: str | None, std: str | None) -> SymbolicNetwork:
    """The network with --mean and --std in front."""
    from clinch.errors import NetworkError
    from clinch.network.normalise import normalised

    if mean is None or std is None:
        return network
    try:
        numbers = [[float(part) for part in text.split(",")] for text in (mean, std)]
    except ValueError:
        raise NetworkError(f"--mean {mean} --std {std}: write numbers such as 0.49,0.48,0.45.") from None
    return normalised(network, *numbers)


@contextmanager
def _cluster(ray: str | None, workers: int | None) -> Iterator[RayExecutor | None]:
    """The executor of --ray; after an interruption what is still at work is not waited for."""
    if ray is None:
        yield None
        return
    from clinch.study.ray_executor import RayExecutor

    executor = RayExecutor(ray, workers)
    try:
        yield executor
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _network(model: str, input_shape: str | None, source: Source) -> SymbolicNetwork:
    """The model; a function's module is given the shape of the images unless another is named."""
    from clinch.cli.models import load_model, parse_shape
    from clinch.study.sources import first_shape

    if input_shape is not None:
        return load_model(model, input_shape=parse_shape(input_shape))
    written = model.lower().endswith((".onnx", ".onnx.gz"))
    return load_model(model, input_shape=None if written else first_shape(source))
