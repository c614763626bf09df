"""A network and its monitor as one module, and as one ONNX file."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from clinch.applications.arguments import Loadable
from clinch.applications.monitors.arguments import belonging
from clinch.applications.monitors.joined import Monitor
from clinch.errors import NetworkError
from clinch.runtime.optional import required

#: of the file: with it a score is what the module computes to within rounding
OPSET = 17
#: inputs on which the file is compared with the module, and how far the two may differ, relatively
SAMPLES, LEEWAY = 4, 1e-3


class Monitored(nn.Module):
    """A network with its monitor: inputs ``(B, *input_shape)`` to outputs ``(B, classes)`` and scores ``(B,)``.

    The score is that of :meth:`BoxMonitor.score` for the class that the network gives the input: the monitor accepts up
    to 0 and objects from 1 on. It is computed in float64 from activations in the network's dtype.

    Args:
        network: what ``clinch.load`` returned, or a file.
        monitor: of that network.

    Example:
        >>> from clinch.applications.monitors import Monitored, fit_monitor
        >>> outputs, score = Monitored(net, fit_monitor(net, "relu2", x_train))(x_train[:3].float())
        >>> outputs.shape, bool((score <= 0).all())
        (torch.Size([3, 10]), True)
    """

    def __init__(self, network: Loadable, monitor: Monitor) -> None:
        super().__init__()
        self.network, self.monitor = belonging(network, monitor), monitor
        self.nodes = {layer: self.network.position(layer) for layer in monitor.layers}

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and scores."""
        graph = self.network.graph_as(self.network.dtype, self.network.device)
        values = graph.forward(x, [*self.nodes.values(), graph.output])
        h = {layer: values[node] for layer, node in self.nodes.items()}
        outputs = values[graph.output]
        # every class's score, of which that of the largest output is taken: a graph has no lists of limits to look up
        scores = torch.stack([self.monitor.score_at(h, c) for c in range(self.monitor.classes)], 1)
        return outputs, scores.gather(1, outputs.argmax(1, keepdim=True)).squeeze(1)


def export_onnx(network: Loadable, monitor: Monitor, path: str | PathLike[str]) -> None:
    """Write a network and its monitor as one ONNX file, with outputs ``output`` and ``score``; see :class:`Monitored`.

    The file is run by onnxruntime on random inputs before it is believed.

    Args:
        network: what ``clinch.load`` returned, or a file.
        monitor: of that network.
        path: of the file.

    Raises:
        NetworkError: torch cannot export the network, or onnxruntime computes something else from the file.
        MissingPackage: without the extra ``onnx``.

    Example:
        >>> from clinch.applications.monitors import export_onnx, fit_monitor
        >>> export_onnx(net, fit_monitor(net, "relu2", x_train), "monitored.onnx")
    """
    required("onnx", "onnx")
    runtime = required("onnxruntime", "onnx")
    module = Monitored(network, monitor).eval()
    network = module.network
    x = torch.rand(SAMPLES, *network.input_shape, generator=torch.Generator().manual_seed(0)).to(network.dtype)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # of the exporter: that it is the older one, and what it takes for constant
            warnings.simplefilter("ignore")
            axes = {name: {0: "batch"} for name in ("input", "output", "score")}
            torch.onnx.export(
                module, (x.to(network.device),), str(path), dynamo=False, opset_version=OPSET,
                input_names=["input"], output_names=["output", "score"], dynamic_axes=axes,
            )  # fmt: skip
    except Exception as reason:  # whatever the exporter raises
        raise NetworkError(f"The network cannot be written as ONNX: {type(reason).__name__}: {reason!s:.300}") from None
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (x, x[1:]):
        with torch.no_grad():
            expected = module(batch.to(network.device))
        for name, found, wanted in zip(("output", "score"), session.run(None, {"input": batch.numpy()}), expected):
            wanted = wanted.cpu().double()
            away = (torch.from_numpy(found).double() - wanted).abs().max()
            if not away <= LEEWAY * wanted.abs().max().clamp(min=1.0):
                Path(path).unlink(missing_ok=True)
                raise NetworkError(
                    f"onnxruntime computes another {name} from {path} than the network, by {float(away):.3g}, so the "
                    "file was removed: export the network without its monitor, and compute the score from its layers."
                )
