"""What of an ONNX file is read: its input, the output that is asked for, and the nodes that this output needs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from google.protobuf.message import Message
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    ValueInfoProto,
    helper,
    inliner,
    numpy_helper,
)

from clinch.errors import NetworkError
from clinch.network.ops.base import Shape

DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
}
#: bytes from which on a tensor lies beside the model, where all such tensors have so many
LARGE_TENSOR, LARGE_MODEL = 2**20, 2**25
#: nodes that a file's functions may become, and functions that may call each other
MOST_NODES, MOST_NESTED = 2**17, 256
#: elements at most of a sparse tensor with its zeros
MOST_FILLED = 2**26
#: nodes that wrap their first input in something that is no tensor
_WRAPPERS = {"ZipMap", "SequenceConstruct"}


def stated(value: ValueInfoProto) -> list[int | None]:
    """The extents of a tensor as the file states them; None where it leaves one open."""
    extents = value.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in extents]


def _listed(values: Iterable[ValueInfoProto]) -> str:
    def one(value: ValueInfoProto) -> str:
        extents = "×".join("?" if n is None else str(n) for n in stated(value))
        return f"{value.name} ({extents})" if extents else value.name

    return ", ".join(one(value) for value in values)


def choose_input(
    model: ModelProto, fixed: Mapping[str, Any], where: str
) -> tuple[ValueInfoProto, dict[str, np.ndarray]]:
    """The input that is free, and the values of the others.

    Raises:
        NetworkError: not all but one are fixed, or a value does not fit.
    """
    initial = {t.name for t in model.graph.initializer}
    inputs = {i.name: i for i in model.graph.input if i.name not in initial}
    unknown = [name for name in fixed if name not in inputs]
    if unknown:
        raise NetworkError(f"{where} has no input '{unknown[0]}'. Its inputs are {_listed(inputs.values())}.")
    free = [value for name, value in inputs.items() if name not in fixed]
    if len(free) != 1:
        raise NetworkError(
            f"{where} has {len(inputs)} inputs, {_listed(inputs.values())}, and {len(free)} of them are free; one is "
            "needed. Fix the others: cl.load(..., fixed={'name': value})."
        )
    return free[0], {name: _constant(inputs[name], value, where) for name, value in fixed.items()}


def _constant(entry: ValueInfoProto, value: Any, where: str) -> np.ndarray:
    """A fixed input in the type and shape that the file states, for a batch of one."""
    dtype = helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
    try:
        array = np.asarray(value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value).astype(dtype)
    except (TypeError, ValueError) as error:
        raise NetworkError(f"The fixed value of '{entry.name}' is no array of numbers ({error}).") from error
    extents = stated(entry)
    given = array.shape
    if array.ndim == len(extents) - 1 and extents[0] in (None, 1):
        array = array[None]
    if array.ndim != len(extents) or any(n is not None and n != m for n, m in zip(extents, array.shape)):
        shape = "×".join("?" if n is None else str(n) for n in extents)
        raise NetworkError(
            f"The fixed value of '{entry.name}' has shape {given}, and {where} takes {shape}. Give that shape."
        )
    return array


def input_shape(entry: ValueInfoProto, given: Shape | None, where: str, most: int) -> tuple[Shape, bool]:
    """Shape of one input, and whether the file has a batch dimension in front of it.

    A first dimension that is 1 or open is the batch, unless the given shape says that it belongs to the input.
    """
    extents = stated(entry)
    name = f"The input '{entry.name}' of {where}"
    raw = [d.dim_value if d.HasField("dim_value") else "?" for d in entry.type.tensor_type.shape.dim]
    # -1 says that an extent is open, and so does 0 of the batch
    wrong = any(isinstance(n, int) and (n < -1 or (n == 0 and i > 0)) for i, n in enumerate(raw))
    if wrong or math.prod(n or 1 for n in extents) > most:
        raise NetworkError(
            f"{name} has shape {raw}; each extent is at least 1, and at most {most:,} elements are read. Save a "
            "smaller model."
        )
    if not extents:
        raise NetworkError(f"{name} is a single number without a dimension. Save the model for rows of numbers.")
    # a single number needs no batch
    batched = extents[0] is None or (extents[0] == 1 and len(extents) > 1)
    rest = extents[1:] if batched else extents
    if given is None:
        if None in rest:
            shown = [n or "?" for n in extents]
            raise NetworkError(f"{name} leaves its shape open: {shown}. Give the shape of one input as input_shape=.")
        return tuple(n for n in rest if n is not None), batched
    if _fits(given, rest):
        return tuple(given), batched
    if _fits(given, extents):
        return tuple(given), False
    raise NetworkError(f"{name} has shape {tuple(rest)} without the batch, not {tuple(given)}. Correct input_shape.")


def _fits(given: Shape, extents: list[int | None]) -> bool:
    return len(given) == len(extents) and all(n is None or n == m for n, m in zip(extents, given))


def choose_output(model: ModelProto, name: str | None, where: str) -> str:
    """The tensor that is the network's output: the one asked for, or else the only one of real numbers.

    Raises:
        NetworkError: there is none of that name, or several of real numbers and none was asked for.
    """
    outputs = list(model.graph.output)
    made = {o: node for node in model.graph.node for o in node.output if o}
    if name is not None:
        if name not in made and name not in {o.name for o in outputs}:
            raise NetworkError(f"{where} has no output '{name}'. Its outputs are {_listed(outputs)}.")
        return _unwrapped(name, made)
    real = [o.name for o in outputs if _is_real(o, made)]
    if len(outputs) == 1:
        return _unwrapped(outputs[0].name, made)
    if len(real) != 1:
        raise NetworkError(
            f"{where} has {len(outputs)} outputs, {_listed(outputs)}, {len(real)} of them of real numbers. Choose one: "
            f"cl.load(..., output='{(real or [outputs[0].name])[0]}')."
        )
    return _unwrapped(real[0], made)


def _is_real(output: ValueInfoProto, made: Mapping[str, NodeProto]) -> bool:
    if output.name in made and made[output.name].op_type in _WRAPPERS:
        return True
    return output.type.tensor_type.elem_type in DTYPES


def _unwrapped(name: str, made: Mapping[str, NodeProto]) -> str:
    """What a sequence of maps holds, for converters that end with one."""
    while name in made and made[name].op_type in _WRAPPERS:
        name = made[name].input[0]
    return name


def needed_nodes(graph: GraphProto, outputs: Iterable[str]) -> list[NodeProto]:
    """The nodes that tensors depend on, in the file's order."""
    wanted, kept = set(outputs), []
    for node in reversed(graph.node):
        if wanted.intersection(o for o in node.output if o):
            kept.append(node)
            wanted.update(_read_by(node))
    return kept[::-1]


def own_copy(model: ModelProto) -> ModelProto:
    """The model itself, or a copy where it has branches, of which those never taken are cut off."""
    if model.functions:
        # functions of the file's own in place of their calls
        _count_calls(model)
        model = inliner.inline_local_functions(model)
    if not model.graph.sparse_initializer and all(node.op_type != "If" for node in model.graph.node):
        return model
    copied = ModelProto()
    copied.CopyFrom(model)
    for sparse in copied.graph.sparse_initializer:
        copied.graph.initializer.append(_filled(sparse))
    del copied.graph.sparse_initializer[:]
    return copied


def _count_calls(model: ModelProto) -> None:
    """Refuse functions that call themselves, or that would become very many nodes.

    Raises:
        NetworkError: they do.
    """
    bodies = {(f.domain, f.name): f.node for f in model.functions}
    counts: dict[tuple[str, str], int] = {}
    begun: set[tuple[str, str]] = set()

    def nodes(of: Iterable[NodeProto]) -> int:
        total = 0
        for node in of:
            key = (node.domain, node.op_type)
            if key in bodies and key not in counts:
                if key in begun or len(begun) > MOST_NESTED:
                    raise NetworkError(f"The function '{key[1]:.40}' of the file calls itself. Save the model without.")
                begun.add(key)
                counts[key] = nodes(bodies[key])
            inner = (graph.node for a in node.attribute for graph in (a.g, *a.graphs))
            total += counts.get(key, 1) + sum(map(nodes, inner))
        return total

    if nodes(model.graph.node) > MOST_NODES:
        raise NetworkError(f"The file's functions become more than {MOST_NODES:,} nodes. Load a smaller network.")


def _filled(sparse: SparseTensorProto) -> TensorProto:
    """A sparse tensor with its zeros; as large a one as its file may ask for is read."""
    extents, values = tuple(sparse.dims), numpy_helper.to_array(sparse.values)
    if not all(n > 0 for n in extents) or math.prod(extents) > MOST_FILLED:
        raise NetworkError(
            f"The sparse tensor '{sparse.values.name:.40}' has shape {list(extents)!s:.60}; at most {MOST_FILLED:,} "
            "elements are taken. Load a smaller network."
        )
    places = numpy_helper.to_array(sparse.indices)
    whole = np.zeros(math.prod(extents), values.dtype)
    flat = np.ravel_multi_index(tuple(places.T), extents) if places.ndim == 2 else places
    whole[flat] = values
    return numpy_helper.from_array(whole.reshape(extents), sparse.values.name)


def without_data(model: ModelProto, arrays: Mapping[str, np.ndarray]) -> tuple[ModelProto, dict[str, np.ndarray]]:
    """A model whose large tensors lie beside it, and these by name; the model itself where they are small.

    Args:
        model: the file's content, not changed.
        arrays: values of its initialisers.
    """
    large = {t.name: arrays[t.name] for t in model.graph.initializer if arrays[t.name].nbytes >= LARGE_TENSOR}
    if sum(array.nbytes for array in large.values()) < LARGE_MODEL:
        return model, {}
    found = ModelProto()
    _copy_fields(model, found, "graph")
    _copy_fields(model.graph, found.graph, "initializer")
    for tensor in model.graph.initializer:
        kept = found.graph.initializer.add()
        if tensor.name in large:
            kept.name, kept.data_type, kept.data_location = tensor.name, tensor.data_type, TensorProto.EXTERNAL
            kept.dims.extend(tensor.dims)
            kept.external_data.add(key="location", value="memory")
        else:
            kept.CopyFrom(tensor)
    return found, large


def _copy_fields(source: Message, target: Message, but: str) -> None:
    """Everything that a message holds but one field."""
    for field, value in source.ListFields():
        if field.name == but:
            continue
        if field.is_repeated:
            getattr(target, field.name).extend(value)
        elif field.message_type is not None:
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)


def cut(model: ModelProto, outputs: Iterable[str], fixed: Iterable[str]) -> ModelProto:
    """A model of what tensors depend on alone: what was not read, and may hold anything, is not run either.

    Args:
        model: the file's content.
        outputs: names of the tensors that it gives out.
        fixed: names of inputs that are given at each run, used or not.
    """
    names, whole = sorted(outputs), model.graph
    nodes = needed_nodes(whole, names)
    wanted = {name for node in nodes for name in _read_by(node)} | set(names)
    initial = {t.name for t in whole.initializer}
    infos = {o.name: o for o in whole.output}
    kept = helper.make_graph(
        nodes,
        whole.name,
        [i for i in whole.input if i.name in wanted or i.name in fixed or i.name not in initial],
        [infos.get(name) or helper.make_empty_tensor_value_info(name) for name in names],
        [t for t in whole.initializer if t.name in wanted],
    )
    return helper.make_model(kept, opset_imports=model.opset_import, ir_version=model.ir_version)


def _read_by(node: NodeProto) -> Iterator[str]:
    """What a node reads, in the graphs inside it too."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from _captured(graph)


def _captured(graph: GraphProto) -> Iterator[str]:
    yield from (o.name for o in graph.output)
    for node in graph.node:
        yield from _read_by(node)
