"""The user's own model as a source of activations: what every point is checked against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor  # type: ignore[import-not-found]

from clinch.errors import NetworkError
from clinch.network.graph import Graph
from clinch.network.ops.base import Shape

if TYPE_CHECKING:
    from onnx import ModelProto

#: a module's path and which of its calls in one forward pass, counted from 0
Invocation = tuple[str, int]


def training_module(model: nn.Module) -> str | None:
    """Path of the first module in training mode, ``""`` for the model itself; None where all are in evaluation mode."""
    if "eval" in vars(model):
        return None  # what torch.export made has no modes, and no eval() of its own either
    return next((path for path, module in model.named_modules() if module.training), None)


@contextmanager
def _hooks(model: nn.Module, record: Callable[[Invocation, Any], None], paths: Iterable[str] | None) -> Iterator[None]:
    """Forward hooks on the named modules (None: on all), gone afterwards whatever happens."""
    wanted = None if paths is None else set(paths)
    calls: Counter[str] = Counter()
    handles = []

    def hook_for(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            record((path, calls[path]), output)
            calls[path] += 1

        return hook

    try:
        for path, module in model.named_modules():
            if wanted is None or path in wanted:
                handles.append(module.register_forward_hook(hook_for(path)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def run(model: nn.Module, x: Tensor, wanted: Iterable[Invocation] | None = ()) -> tuple[Any, dict[Invocation, Tensor]]:
    """Run a module without gradients: its output, and copies of the tensors that its parts returned.

    Args:
        model: in evaluation mode.
        x: ``(B, *input_shape)``; not changed, even by a model that works in place.
        wanted: the calls of parts to record; None for all of them.
    """
    chosen = None if wanted is None else set(wanted)
    found: dict[Invocation, Tensor] = {}

    def record(invocation: Invocation, output: Any) -> None:
        # A later layer may work in place on this very tensor, so that it has to be copied at once. What torch.func maps
        # over the batch is no tensor outside of that.
        mapped = isinstance(output, Tensor) and is_functorch_wrapped_tensor(output)
        if isinstance(output, Tensor) and not mapped and (chosen is None or invocation in chosen):
            found[invocation] = output.detach().clone()

    paths = None if chosen is None else {path for path, _ in chosen}
    with torch.no_grad(), _hooks(model, record, paths):
        output = model(x.clone())
    return output, found


class OriginalModule:
    """Activations of an ``nn.Module``: those of its parts through temporary hooks, its output from itself.

    A layer that is a functional call inside some ``forward`` is no output of a part: its value comes from the graph, in
    the model's dtype.

    Args:
        model: the user's module; never changed.
        graph: the network in the model's dtype, on its device.
        invocations: position of a layer in the graph -> the call of a part whose output it is.
    """

    def __init__(self, model: nn.Module, graph: Graph, invocations: dict[int, Invocation]) -> None:
        self.model = model
        self.graph = graph
        self.invocations = invocations

    def __call__(self, x: Tensor, layers: list[str]) -> dict[str, Tensor]:
        """Activations ``(B, *shape)`` of the named layers at ``x`` of shape ``(B, *input_shape)``.

        Raises:
            NetworkError: the module was put into training mode after it was loaded.
        """
        training = training_module(self.model)
        if training is not None:
            part = f"Its part '{training}'" if training else "The model"
            raise NetworkError(f"{part} was put into training mode after loading. Call model.eval().")
        positions = {layer: self.graph.names[layer] for layer in layers}
        inner = {i for i in positions.values() if 0 < i < self.graph.output}
        hooked = {i: self.invocations[i] for i in inner if i in self.invocations}
        output, found = run(self.model, x, hooked.values())
        if len(x) == 1 and self._lost_the_batch(output):
            # squeeze() takes the batch for one of its own dimensions where it is 1
            output, found = run(self.model, torch.cat([x, x]), hooked.values())
            output, found = output[:1], {key: value[:1] for key, value in found.items()}
        values = {0: x, self.graph.output: output} if self.graph.output else {0: output}
        values |= {i: found[invocation] for i, invocation in hooked.items()}
        if inner - hooked.keys():
            with torch.no_grad():
                values |= self.graph.forward(x, inner - hooked.keys())
        return {layer: _with_axis(values[i]) for layer, i in positions.items()}

    def _lost_the_batch(self, output: Any) -> bool:
        """Whether what a single input gave is the output without a batch."""
        shape = self.graph.nodes[self.graph.output].shape
        return isinstance(output, Tensor) and tuple(output.shape) == tuple(n for n in shape if n != 1) != (1, *shape)


def _with_axis(values: Any) -> Any:
    """One number per input as a row of one, as the graph has it."""
    return values.unsqueeze(1) if isinstance(values, Tensor) and values.dim() == 1 else values


class OriginalFile:
    """Activations of an ONNX file through onnxruntime, on one CPU thread.

    Args:
        model: the file's content.
        graph: the network in the model's dtype, on the CPU.
        tensors: position of a layer in the graph -> the file's tensor.
        row: the shape in which the file takes one input at a time; None where it takes any number of them.
        fixed: values of the file's other inputs.
        data: large tensors that the model only names.
    """

    def __init__(
        self,
        model: ModelProto,
        graph: Graph,
        tensors: dict[int, str],
        *,
        row: Shape | None,
        fixed: dict[str, np.ndarray] | None = None,
        data: dict[str, np.ndarray] | None = None,
    ) -> None:
        self.model = model
        self.data = data or {}
        self.graph = graph
        self.tensors = tensors
        self.row = row
        self.fixed = fixed or {}
        self._sessions: dict[frozenset[str], Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For a copy in another process: the file's content without onnxruntime's sessions, made anew there."""
        return {**vars(self), "_sessions": {}}

    def __call__(self, x: Tensor, layers: list[str]) -> dict[str, Tensor]:
        """Activations ``(B, *shape)`` of the named layers at ``x`` of shape ``(B, *input_shape)``."""
        positions = {layer: self.graph.names[layer] for layer in layers}
        fetched = sorted({i for i in positions.values() if i and i in self.tensors})
        values: dict[int, Tensor] = {0: x}
        if fetched:
            names = [self.tensors[i] for i in fetched]
            arrays = self._run(x.detach().cpu().numpy(), names)
            shapes = (self.graph.nodes[i].shape for i in fetched)
            values |= {
                # whole numbers and truth values are real ones in the graph
                i: torch.from_numpy(a).reshape(len(x), *s).to(x.device, x.dtype if a.dtype.kind in "iub" else None)
                for i, a, s in zip(fetched, arrays, shapes)
            }
        computed = set(positions.values()) - values.keys()
        if computed:
            with torch.no_grad():
                values |= self.graph.forward(x, computed)
        return {layer: values[i] for layer, i in positions.items()}

    def _run(self, x: np.ndarray, names: list[str]) -> list[np.ndarray]:
        session = self._session(frozenset(names))
        key = self.model_input
        if self.row is None:
            return session.run(names, {**self.fixed, key: x})
        rows = [session.run(names, {**self.fixed, key: one.reshape(self.row)}) for one in x]
        return [np.stack([row[k] for row in rows]) for k in range(len(names))]

    @property
    def by_row(self) -> bool:
        """Whether the file takes one input at a time."""
        return self.row is not None

    @property
    def model_input(self) -> str:
        """Name of the file's input tensor."""
        return self.graph.nodes[0].name

    def _session(self, names: frozenset[str]) -> Any:
        """A session that gives out these tensors (kept for the next time)."""
        if names not in self._sessions:
            import onnxruntime

            from clinch.network.onnx_choice import cut

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            options.inter_op_num_threads = 1
            options.log_severity_level = 4
            model = cut(self.model, names, self.fixed)
            used = [t.name for t in model.graph.initializer if t.name in self.data]
            if used:
                # as they are, without copies of theirs
                options.add_session_config_entry("session.disable_prepacking", "1")
                shared = [onnxruntime.OrtValue.ortvalue_from_numpy(self.data[name]) for name in used]
                options.add_external_initializers(used, shared)
            self._sessions[names] = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        return self._sessions[names]
