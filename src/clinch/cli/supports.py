"""``clinch supports MODEL``: which layers are supported by which engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from clinch.cli.outputs import output_json

if TYPE_CHECKING:
    from clinch.modeling.model import SymbolicNetwork
    from clinch.network.support import LayerSupport

#: heading -> field of :class:`clinch.network.support.LayerSupport`
ENGINES = {"attacks": "forward", "interval": "interval", "CROWN": "relaxation", "MILP": "exact",
           "certificate": "certificate"}  # fmt: skip


def supports(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="net.onnx, net.onnx.gz, file.py:function or package.module:function.")
    ],
    input_shape: Annotated[
        str | None, typer.Option(metavar="1,28,28", help="Shape of one input; needed for a function.")
    ] = None,
    json: Annotated[
        str | None,
        typer.Option(
            "--json", metavar="FILE", parser=output_json, help="Write the table as JSON; - for standard output."
        ),
    ] = None,
) -> int:
    """Show which layers of a model are supported by which engine.

    Attacks need the forward pass alone; CROWN also stands for branch and bound.

    Exit code: 0 bounds can be proven on this model; 1 some layer allows attacks only; 2 bad input.

    Example: clinch supports clinch.demo:network --input-shape 8,8
    """
    from clinch.cli.console import write_json
    from clinch.cli.models import load_model, parse_shape
    from clinch.network.support import supports as layer_support

    network = load_model(model, input_shape=None if input_shape is None else parse_shape(input_shape))
    rows = layer_support(network)
    whole = {field: all(getattr(row, field) for row in rows) for field in ENGINES.values()}
    engines = _engines(network)
    if json != "-":
        _print(network, rows, whole, engines)
    if json is not None:
        write_json(_content(network, rows, whole, engines), json)
    return 0 if whole["interval"] and whole["relaxation"] else 1


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
    network: SymbolicNetwork, rows: list[LayerSupport], whole: dict[str, bool], engines: dict[str, str]
) -> dict[str, Any]:
    return {
        "model": network.name, "input_shape": network.input_shape, "whole_network": whole,
        "layers": [vars(row) for row in rows], "engines": engines,
    }  # fmt: skip


def _print(network: SymbolicNetwork, rows: list[LayerSupport], whole: dict[str, bool], engines: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from clinch.io.files import printable

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
    console.print(Text(f"{printable(network.name, lines=False)}, input {'×'.join(map(str, network.input_shape))}\n"))
    console.print(table)
    console.print()
    for name, answer in engines.items():
        console.print(Text(f"{name:<18}{printable(answer, lines=False)}"), soft_wrap=True)


def _mark(able: bool) -> str:
    return "yes" if able else "[bold red]no[/bold red]"
