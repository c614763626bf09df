"""``clinch supports MODEL``: which layers are supported by which engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinch.cli.outputs import output_json

if TYPE_CHECKING:
    from clinch.modeling.model import SymbolicNetwork
    from clinch.network.support import Support

#: columns of a table that is not written to a terminal
_WIDE = 200


#: what the standard's ``supports --...`` prints; proofs are about the real numbers that a network's weights define
VNNLIB_VERSIONS, ELEMENT_TYPES = ("1.0", "2.0"), ("real",)


def supports(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="net.onnx, file.py:function, package.module:function or zoo:NAME."),
    ] = None,
    input_shape: Annotated[
        str | None, typer.Option(metavar="1,28,28", help="Shape of one input; needed for a function.")
    ] = None,
    json: Annotated[
        str | None,
        typer.Option(
            "--json", metavar="FILE", parser=output_json, help="Write the table as JSON; - for standard output."
        ),
    ] = None,
    vnnlib_versions: Annotated[bool, typer.Option("--vnnlib-versions", help="First and last version read.")] = False,
    opset_versions: Annotated[bool, typer.Option("--onnx-opset-versions", help="First and last one read.")] = False,
    element_types: Annotated[bool, typer.Option("--onnx-element-types", help="Types that proofs are about.")] = False,
) -> int:
    """Show which layers of a model are supported by which engine.

    Attacks need the forward pass alone; CROWN also stands for branch and bound. Of a model that cannot be read,
    everything that is in the way is listed.

    Without a model, what VNN-LIB 2.0 has a tool say about itself is printed by --vnnlib-versions and its like.

    Exit code: 0 bounds can be proven on this model; 1 some layer allows attacks only; 2 bad input, or a model that
    cannot be read.

    Example: clinch supports clinch.demo:network --input-shape 8,8
    """
    if vnnlib_versions or opset_versions or element_types:
        _print_standard(vnnlib_versions, opset_versions, element_types)
        return 0
    if model is None:
        raise typer.BadParameter("name a model, such as net.onnx.", param_hint="MODEL")
    from clinch.cli.console import write_json
    from clinch.cli.models import load_model, parse_shape
    from clinch.errors import UnsupportedOperator
    from clinch.network.support import ENGINES
    from clinch.network.support import supports as layer_support

    try:
        network = load_model(model, input_shape=None if input_shape is None else parse_shape(input_shape))
    except UnsupportedOperator as error:
        if not error.missing:
            raise
        if json != "-":
            _print_missing(model, error.missing)
        if json is not None:
            write_json({"model": model, "missing": list(error.missing)}, json)
        return 2
    rows = layer_support(network)
    whole = {field: all(getattr(row, field) for row in rows) for field in ENGINES.values()}
    engines = _engines(network)
    if json != "-":
        _print(network, rows, whole, engines)
    if json is not None:
        write_json(_content(network, rows, whole, engines), json)
    return 0 if whole["interval"] and whole["relaxation"] else 1


def _print_standard(vnnlib: bool, opset: bool, types: bool) -> None:
    """What a tool that conforms to VNN-LIB 2.0 says about itself, one word a line."""
    from clinch.runtime.optional import required

    defs = required("onnx.defs", "onnx")
    from clinch.network.onnx import OLDEST_OPSET

    newest = str(defs.onnx_opset_version())
    for wanted, words in ((vnnlib, VNNLIB_VERSIONS), (opset, (str(OLDEST_OPSET), newest)), (types, ELEMENT_TYPES)):
        if wanted:
            print(*words, sep="\n")


def _engines(network: SymbolicNetwork) -> dict[str, str]:
    """What every engine that Clinch chooses among says about problems of the whole network: yes, or why not."""
    from clinch.modeling.norms import norm
    from clinch.modeling.problem import Minimize, Problem
    from clinch.solve import capabilities

    x, total = network.input, network.output.sum()
    box = [x >= 0, x <= 1]
    linear, counted = Problem(Minimize(total), box), Problem(Minimize(norm(x, 0)), [*box, total <= 0])
    first, second = capabilities(linear.query), capabilities(counted.query)
    return {name: str(said if said else second[name]) for name, said in first.items()}


def _content(
    network: SymbolicNetwork, rows: Support, whole: dict[str, bool], engines: dict[str, str]
) -> dict[str, Any]:
    return {
        "model": network.name, "input_shape": network.input_shape, "whole_network": whole,
        "layers": [vars(row) for row in rows], "engines": engines,
    }  # fmt: skip


def _print_missing(model: str, missing: tuple[str, ...]) -> None:
    """A line for each layer that cannot be read, and what would work instead once."""
    from rich.console import Console
    from rich.text import Text

    from clinch.io.files import printable

    console = Console(highlight=False)
    console.print(Text(f"{printable(model, lines=False)} cannot be read.\n"))
    for text in missing:
        console.print(Text(printable(text.split(". ")[0].rstrip(".") + ".", lines=False)), soft_wrap=True)
    for advice in dict.fromkeys(text.split(". ")[-1] for text in missing):
        console.print(Text("\n" + printable(advice, lines=False)), soft_wrap=True)


def _print(network: SymbolicNetwork, rows: Support, whole: dict[str, bool], engines: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from clinch.io.files import printable
    from clinch.network.support import ENGINES

    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("layer", "operator", "output"):
        table.add_column(heading, overflow="fold")
    for heading in ENGINES:
        table.add_column(heading, justify="center")
    for row in rows:
        marks = [_mark(getattr(row, field)) for field in ENGINES.values()]
        names = (Text(printable(text, lines=False)) for text in (row.name, row.operator))
        table.add_row(*names, "×".join(map(str, row.shape)), *marks)
    table.add_row()
    table.add_row("[bold]whole network[/bold]", "", "", *(_mark(able) for able in whole.values()))
    console = Console(highlight=False)
    if not console.is_terminal:
        # a file or a pipe has no width at which names would have to be broken
        console.width = max(console.width, _WIDE)
    console.print(Text(f"{printable(network.name, lines=False)}, input {'×'.join(map(str, network.input_shape))}\n"))
    console.print(table)
    console.print()
    for heading, field in ENGINES.items():
        without = [row for row in rows if not getattr(row, field)]
        if without:
            names = dict.fromkeys(row.operator for row in without)
            console.print(Text(f"no {heading} rule: {printable(', '.join(names), lines=False)}"), soft_wrap=True)
    for name, answer in engines.items():
        console.print(Text(f"{name:<18}{printable(answer, lines=False)}"), soft_wrap=True)


def _mark(able: bool) -> str:
    return "yes" if able else "[bold red]no[/bold red]"
