"""A loaded network: a graph for the engines, and the user's own model for the re-check."""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from clinch.errors import NetworkError, UnknownLayer
from clinch.network.graph import Graph
from clinch.runtime import html

if TYPE_CHECKING:
    from clinch.network.tabular import Table

#: the user's own model: points ``(B, *input_shape)`` in the model's dtype -> activations of the named layers
Original = Callable[[Tensor, list[str]], dict[str, Tensor]]


class Network:
    """A network with a fixed input shape: a graph for the engines, and the user's own model for the re-check.

    What engines, attacks and bounds take; ``net.layers`` lists the names of its layers. :func:`clinch.load` makes a
    :class:`clinch.SymbolicNetwork`, whose layers are symbols for problem statements too.
    """

    #: whether it computes in the dtype of what it is given, on its device
    any_dtype: ClassVar[bool] = False

    def __init__(
        self,
        graph: Graph,
        original: Original,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        name: str,
        read_again: Callable[[], Graph] | None = None,
    ) -> None:
        self.original = original
        #: the graph with the weights the module has now; None where the weights are those of the time of loading
        self._read_again = read_again
        self.dtype = dtype
        self.device = torch.device(device)
        self.name = name
        #: a call that gives the network again, for a module whose class another process cannot import by name
        self.made_by: tuple[Callable[..., Network], tuple[Any, ...]] | None = None
        #: the ONNX file it was read from, where there is one
        self.file: Path | None = None
        #: what the elements of the input mean, where it is a model of tables
        self.table: Table | None = None
        self._source = graph
        self._graphs: dict[tuple[torch.dtype, torch.device], Graph] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """For a copy in another process: graph and original as they are now, or the call that makes them.

        Raises:
            NetworkError: it was loaded with ``live=True``: a copy would not follow the module's weights.
        """
        if self.made_by is not None:
            return self.made_by
        if self.is_live:
            raise NetworkError(f"{self.name} was loaded with live=True and cannot be copied. Load it without.")
        return copyreg.__newobj__, (type(self),), {**vars(self), "_graphs": {}}  # type: ignore[attr-defined]

    @property
    def is_live(self) -> bool:
        """Whether it follows the module's weights, see :func:`clinch.load`."""
        return self._read_again is not None

    @property
    def graph(self) -> Graph:
        """The graph in the model's dtype, on its device."""
        return self.graph_as(self.dtype, self.device)

    def graph_as(self, dtype: torch.dtype, device: torch.device | str) -> Graph:
        """The graph with parameters of the given dtype on the given device (made once; a live one each time)."""
        if self._read_again is not None:
            with torch.no_grad():
                return self._read_again().to(dtype, device)
        key = (dtype, torch.device(device))
        if key not in self._graphs:
            with torch.inference_mode(False):  # it is kept, for gradients too
                self._graphs[key] = self._source.to(*key)
        return self._graphs[key]

    def differentiable_graph(self, dtype: torch.dtype, device: torch.device | str) -> Graph:
        """As :meth:`graph_as`; for a network loaded with ``live=True`` gradients flow to the module's parameters."""
        return self.graph_as(dtype, device) if self._read_again is None else self._read_again().to(dtype, device)

    def __contains__(self, layer: object) -> bool:
        """Whether there is a layer of that name."""
        return layer in self._source.names

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch."""
        return self._source.input_shape

    @property
    def layers(self) -> list[str]:
        """Names of all layers, in the order of evaluation."""
        return [node.name for node in self._source.nodes]

    def position(self, layer: str) -> int:
        """Position of a layer in the graph.

        Raises:
            UnknownLayer: there is no layer of that name.
        """
        if not isinstance(layer, str) or layer not in self._source.names:
            raise UnknownLayer(f"There is no layer '{layer!s:.200}'. This network has: {', '.join(self.layers)}.")
        return self._source.names[layer]

    def _repr_html_(self) -> str:
        """What a notebook shows: a table of the layers."""
        graph = self._source
        rows = [(node.name, type(node.op).__name__ if i else "", node.shape) for i, node in enumerate(graph.nodes)]
        return html.lines(repr(self)) + html.table(rows, ("layer", "operator", "shape"))

    def __repr__(self) -> str:
        nodes = self._source.nodes
        return f"<Network {self.name}: input {self.input_shape}, output {nodes[-1].shape}, {len(nodes)} layers>"
