"""Models named on the command line or in a problem file."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from clinch.errors import NetworkError
from clinch.io.files import PICKLE_ADVICE, PICKLED, is_there, missing

if TYPE_CHECKING:
    from clinch.modeling.model import SymbolicNetwork


#: ``zoo:NAME`` is a network that comes with the package; they all read images of MNIST
ZOO, ZOO_SHAPE = "zoo", (1, 28, 28)


def load_model(
    source: str, *, input_shape: tuple[int, ...] | None = None, folder: Path | None = None
) -> SymbolicNetwork:
    """Load a model: an ONNX file, or a Python function that returns an ``nn.Module``.

    Args:
        source: ``net.onnx``, ``net.onnx.gz``, ``file.py:function``, ``package.module:function``, or ``zoo:NAME`` for a
            network of :func:`clinch.zoo`.
        input_shape: shape of one input, without the batch; needed for a function, and for a file that leaves it open.
        folder: relative paths start here; None: in the working directory.

    Raises:
        NetworkError: nothing of that name, a kind of file that is not read, or a function that gives no module.
    """
    import clinch

    name, _, function = source.rpartition(":")
    if name == ZOO:
        return clinch.load(clinch.zoo(function), input_shape=ZOO_SHAPE, name=function)
    if names_function(source):
        model = made_by_function(source, folder)
        if input_shape is None and not hasattr(model, "get_params"):
            raise NetworkError(
                f"The shape of one input of '{source:.200}' is not known: give input_shape (--input-shape 1,28,28)."
            )
        shape = None if hasattr(model, "get_params") else input_shape
        network = clinch.load(model, input_shape=shape, name=function)
        if name.endswith(".py"):
            # classes of a file that is no module are known to nobody by name
            network.made_by = (_again, (f"{((folder or Path()) / name).resolve()}:{function}", input_shape))
        return network
    path = (folder or Path()) / source
    lower = source.lower()
    if lower.endswith(PICKLED):
        raise NetworkError(f"'{source:.200}' {PICKLE_ADVICE}")
    if not lower.endswith((".onnx", ".onnx.gz")):
        raise NetworkError(
            f"'{source:.200}' is not a model: "
            "name an .onnx or .onnx.gz file, file.py:function, package.module:function, or zoo:NAME as in "
            "zoo:mnist-small."
        )
    if not is_there(path):
        raise NetworkError(missing(path))
    return clinch.load(str(path), input_shape=input_shape)


def made_by_function(source: str, folder: Path | None = None) -> Any:
    """What the function that ``file.py:function`` names returns: a module, or an estimator of scikit-learn.

    Raises:
        NetworkError: there is none of that name, it fails, or it returns something else.
    """
    name, _, function = source.rpartition(":")
    return _call(_module(name, folder), name, function)


def _again(source: str, input_shape: tuple[int, ...] | None) -> SymbolicNetwork:
    """The network of a function in another process."""
    return load_model(source, input_shape=input_shape)


def names_function(source: str) -> bool:
    """Whether a model is named as a Python function, ``package.module:function`` or ``file.py:function``."""
    name, colon, _ = source.rpartition(":")
    return bool(colon and name) and name != ZOO and not _is_file_name(source)


def parse_shape(text: str) -> tuple[int, ...]:
    """A shape such as ``1,28,28``.

    Raises:
        NetworkError: not a list of positive whole numbers.
    """
    parts = text.replace("x", ",").split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise NetworkError(f"'{text}' is not a shape: write positive whole numbers such as 1,28,28.")
    return tuple(int(part) for part in parts)


def _is_file_name(source: str) -> bool:
    return source.lower().endswith((".onnx", ".onnx.gz", *PICKLED))


def _module(name: str, folder: Path | None) -> ModuleType:
    if not name.endswith(".py"):
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise NetworkError(
                f"Cannot import '{name:.200}': {error!s:.200}. Name a file instead: path/to/file.py:function."
            ) from None
    path = (folder or Path()) / name
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if not is_there(path) or specification is None or specification.loader is None:
        raise NetworkError(f"There is no Python file {path!s:.400}.")
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        raise NetworkError(f"{path} cannot be run: {type(error).__name__}: {error}.") from error
    return module


def _call(module: ModuleType, name: str, function: str) -> Any:
    from torch import nn

    factory: Callable[[], Any] | None = getattr(module, function, None)
    if not callable(factory):
        raise NetworkError(f"'{name:.200}' has no function '{function:.200}'.")
    try:
        model = factory()
    except Exception as error:
        raise NetworkError(f"{name}:{function}() failed: {type(error).__name__}: {error}.") from error
    if not isinstance(model, nn.Module) and not hasattr(model, "get_params"):
        raise NetworkError(f"{name}:{function}() returned {type(model).__name__}; it must return an nn.Module.")
    return model
