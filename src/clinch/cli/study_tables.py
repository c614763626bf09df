"""Tables of studies on the terminal: one row per class, or one per combination."""

from __future__ import annotations

from collections.abc import Sequence


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
