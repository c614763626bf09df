"""ONNX files of unknown origin: their bytes, their external data, and limits for both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

from clinch.errors import NetworkError
from clinch.io.files import MODEL_LIMIT, PICKLE_ADVICE, is_pickled, is_there, missing, read_limited

#: how many times larger than its file a model may be: layers of zeros that are written out shrink 300 times
_SHRINKS = 400
#: what stands in a repository for a file that is kept elsewhere
_POINTER = b"version https://git-lfs.github.com/spec/"
#: graphs inside nodes inside graphs
_DEPTH = 20


def open_model(path: Path, *, limit: int = MODEL_LIMIT) -> ModelProto:
    """Read an ``.onnx`` or ``.onnx.gz`` file, with the tensors that it keeps in other files of its folder.

    Args:
        path: of the file.
        limit: largest size in bytes, of the uncompressed file and of its external data together.

    Raises:
        NetworkError: there is no such file, it is no ONNX file or larger than the limit, or its external data lies
            outside of its folder.
    """
    if not is_there(path):
        raise NetworkError(missing(path))
    if is_pickled(path):
        raise NetworkError(f"'{path}' {PICKLE_ADVICE}")
    content = read_limited(path, limit, NetworkError, shrinks=_SHRINKS)
    if content.startswith(_POINTER):
        raise NetworkError(f"{path} is a pointer of Git LFS and holds no network. Fetch the file itself: git lfs pull.")
    try:
        model = onnx.load_model_from_string(content)
        outputs = len(model.graph.output)
    except (DecodeError, ValueError, RuntimeError) as error:
        raise NetworkError(f"{path} is not a readable ONNX file: {str(error).rstrip('.')}.") from error
    if not outputs:
        raise NetworkError(f"{path} is not a readable ONNX file: it holds no network.")
    _load_external(model, path, limit - len(content))
    return model


def _load_external(model: ModelProto, path: Path, limit: int) -> None:
    """Read tensors from other files, which must lie in the model's folder or below, links resolved."""
    folder = path.resolve().parent
    for tensor in _tensors(model.graph):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        where = f"The tensor '{tensor.name}' of {path.name}"
        # protobuf hands out what is not UTF-8 as bytes
        if not all(isinstance(value, str) for value in entries.values()):
            raise NetworkError(f"{where} names its external file in something else than UTF-8. Save the model again.")
        target = _confined(folder, entries.get("location", ""), where)
        try:
            offset, length = int(entries.get("offset") or 0), int(entries.get("length") or -1)
            size = target.stat().st_size
        except (ValueError, OSError) as error:
            raise NetworkError(f"{where} cannot be read from its external file: {error}.") from None
        length = size - offset if length < 0 else length
        if not 0 <= offset <= offset + length <= size:
            raise NetworkError(f"{where} asks for bytes {offset} to {offset + length} of a file of {size} bytes.")
        limit -= length
        if limit < 0:
            raise NetworkError(f"{where} makes the model larger than the limit. Save a smaller model.")
        try:
            with target.open("rb") as stream:
                stream.seek(offset)
                tensor.raw_data = stream.read(length)
        except OSError as error:
            raise NetworkError(f"{where} cannot be read from {target.name}: {error.strerror}.") from None
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]


def _confined(folder: Path, location: str, where: str) -> Path:
    """The external file, after every link is followed."""
    absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).drive or location.startswith("\\")
    parts = [*PurePosixPath(location).parts, *PureWindowsPath(location).parts]
    if not location or "\0" in location or absolute or ".." in parts:
        raise NetworkError(
            f"{where} lies in '{location:.100}', outside of the model's folder, and is not read. Put the file beside "
            "the model and save its name alone."
        )
    try:
        target = (folder / location).resolve()
        inside, ordinary = target.is_relative_to(folder), target.is_file()
    except (OSError, ValueError, RuntimeError) as error:
        raise NetworkError(f"{where} cannot be read from its external file: {error}.") from None
    if not inside:
        raise NetworkError(
            f"{where} lies in '{location:.100}', a link out of the model's folder, and is not read. Copy the "
            "file there."
        )
    if not ordinary:
        raise NetworkError(f"{where} lies in '{location:.100}', and there is no such file beside the model.")
    return target


def _tensors(graph: GraphProto, depth: int = 0) -> Iterator[TensorProto]:
    """Every tensor of a graph: initialisers, values of attributes, and those of graphs inside nodes."""
    if depth > _DEPTH:
        raise NetworkError("The model nests graphs too deeply. Save it without control flow.")
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from _of_attribute(attribute, depth)


def _of_attribute(attribute: AttributeProto, depth: int) -> Iterator[TensorProto]:
    yield attribute.t
    yield from attribute.tensors
    for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
        yield from (sparse.values, sparse.indices)
    for graph in (attribute.g, *attribute.graphs):
        yield from _tensors(graph, depth + 1)
