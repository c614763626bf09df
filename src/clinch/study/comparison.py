"""Several studies in one call: models × data × norms × radii × methods, with one budget of time."""

from __future__ import annotations

import itertools
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from clinch.errors import ProblemError
from clinch.geometry.norms import norm_of
from clinch.io.files import printable
from clinch.network.network import Network
from clinch.runtime import html
from clinch.runtime.arguments import as_gap, as_number, as_seconds
from clinch.runtime.optional import required
from clinch.study.columns import columns, text_table
from clinch.study.evaluation import Evaluation, Tally
from clinch.study.fitting import check_labels, classifier
from clinch.study.run import evaluate
from clinch.study.sources import Source, open_source
from clinch.study.template import Template, norm_name, radius_text

if TYPE_CHECKING:
    from clinch.modeling.model import SymbolicNetwork


@dataclass(frozen=True)
class Comparison:
    """What several studies found.

    Attributes:
        runs: one :class:`Evaluation` for each combination, by its name, which is that of its folder too.
    """

    runs: dict[str, Evaluation]

    def rows(self) -> list[dict[str, str]]:
        """One row per combination, as texts by the names of the columns."""
        return [
            {
                "model": printable(found.model, lines=False), "data": printable(found.data, lines=False),
                "norm": norm_name(found.template.norm),
                "eps": "" if found.template.eps is None else radius_text(found.template.eps),
                "methods": found.template.methods, **columns(found),
            }
            for found in self.runs.values()
        ]  # fmt: skip

    def to_frame(self) -> Any:
        """A pandas data frame: one line per combination, ends of intervals as numbers (extra ``frames``).

        Raises:
            MissingPackage: pandas is not installed.
        """
        rows = []
        for found in self.runs.values():
            ask, row = found.template, {"model": found.model, "data": found.data}
            row |= {"norm": norm_name(ask.norm), "eps": ask.eps, "methods": ask.methods, "images": found.tally.images}
            for name, measure in found.measures().items():
                ends = measure if isinstance(measure, tuple) else (measure, measure)
                row |= {f"{name}_low": ends[0], f"{name}_high": ends[1]}
            rows.append(row)
        return required("pandas", "frames").DataFrame(rows)

    def to_dict(self) -> dict[str, Any]:
        """Every study by its name, ready for JSON."""
        return {"runs": {name: found.to_dict() for name, found in self.runs.items()}}

    def _repr_html_(self) -> str:
        """What a notebook shows: the table."""
        rows = self.rows()
        return html.table([list(row.values()) for row in rows], list(rows[0])) if rows else ""

    def __str__(self) -> str:
        return text_table(self.rows())


@dataclass(frozen=True)
class _Combination:
    network: SymbolicNetwork
    source: Source
    template: Template

    @property
    def name(self) -> str:
        """SymbolicNetwork, data, norm, radius and methods; letters that a folder's name cannot have become lines."""
        ask = self.template
        parts = [self.network.name, self.source.name, norm_name(ask.norm)]
        parts += ["distances" if ask.eps is None else f"eps{ask.eps:g}"]
        parts += [ask.methods] if ask.methods != "all" else []
        return re.sub(r"[^\w.=-]+", "_", "-".join(parts)).lstrip(".")


def compare(
    nets: nn.Module | SymbolicNetwork | Iterable[nn.Module | SymbolicNetwork] | Mapping[str, Any],
    data: Any = "digits",
    *,
    norms: float | str | Sequence[float | str] = (math.inf,),
    eps: float | Sequence[float | None] | None = (None,),
    methods: str | Sequence[str] = ("all",),
    lower: float = 0.0,
    upper: float = 1.0,
    gap: float = 1e-3,
    out: str | Path | None = None,
    time_limit: float | None = 600.0,
    progress: Callable[[Tally], None] | None = None,
    **options: Any,
) -> Comparison:
    """:func:`evaluate` for every combination of networks, data, norms, radii and methods, one after the other.

    Each gets an equal share of the time that is left: what one leaves goes to those after it. Everything that is asked
    is looked at before the first one starts.

    Args:
        nets: classifiers, one or several; a dictionary names them.
        data: one source, or a list of them; see :func:`clinch.study.open_source`.
        norms: of 0, 1, 2 and ``cl.inf``, one or several, also by name.
        eps: radii, one or several; None: minimum distances.
        methods: see :func:`evaluate`.
        lower: smallest value of an input's elements; upper: largest.
        gap: relative gap at which a distance counts as closed.
        out: each combination is a run in a folder of its own below this one, named after it; the same call goes on
            where an earlier one stopped. None: nothing is kept.
        time_limit: seconds for everything together; None: no limit.
        progress: called with a :class:`Tally`, whose phase begins with the combination's name.
        options: further ones of :func:`evaluate`: ``limit``, ``seed``, ``device``.

    Raises:
        ProblemError: nothing to compare, or a setting without meaning. DataError, NetworkError, StoreError: as
            :func:`evaluate`.

    Example:
        >>> found = cl.study.compare([net], norms=[cl.inf, 2], eps=[0.02, 0.05], limit=4, time_limit=20)
        >>> len(found.rows())
        4
    """
    time_limit = as_seconds(time_limit)
    sources = [open_source(one) for one in (data if isinstance(data, list) else [data])]
    asked = [
        Template(
            norm_of(p).p,
            None if radius is None else as_number(radius, "eps"),
            float(lower),
            float(upper),
            as_gap(gap),
            method,
        )
        for p, radius, method in itertools.product(_several(norms), _several(eps), _several(methods))
    ]
    pairs = [
        (classifier(net, source, name), source)
        for (name, net), source in itertools.product(_titled_nets(nets), sources)
    ]
    for network, source in pairs:
        check_labels(network, source, min(options.get("limit") or source.size, source.size))
    combinations = _named(_Combination(*pair, template) for pair, template in itertools.product(pairs, asked))
    deadline = time.monotonic() + time_limit
    runs = {}
    for number, (name, one) in enumerate(combinations.items()):
        ask = one.template
        runs[name] = evaluate(
            one.network, one.source, norm=ask.norm, eps=ask.eps, lower=ask.lower, upper=ask.upper, gap=ask.gap,
            methods=ask.methods, out=None if out is None else Path(out) / name,
            time_limit=max(0.0, deadline - time.monotonic()) / (len(combinations) - number),
            progress=None if progress is None else _titled(progress, name), **options,
        )  # fmt: skip
    return Comparison(runs)


def _several(given: Any) -> list[Any]:
    """One value as a list of one."""
    return list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]


def _titled_nets(nets: Any) -> list[tuple[str | None, Any]]:
    """Networks and their names; a module that can be walked through is one network all the same."""
    if isinstance(nets, Mapping):
        return list(nets.items())
    return [(None, nets)] if isinstance(nets, nn.Module | Network) else [(None, net) for net in nets]


def _named(combinations: Iterable[_Combination]) -> dict[str, _Combination]:
    """The combinations by name; equal names, of two networks of one class for example, are numbered in their order."""
    found, seen = {}, Counter[str]()
    for one in combinations:
        seen[one.name] += 1
        found[one.name + (f"-{seen[one.name]}" if seen[one.name] > 1 else "")] = one
    if not found:
        raise ProblemError("There is nothing to compare: give at least one network, norm, radius and method.")
    return found


def _titled(progress: Callable[[Tally], None], name: str) -> Callable[[Tally], None]:
    def tell(tally: Tally) -> None:
        progress(tally._replace(phase=f"{name}: {tally.phase}"))

    return tell
