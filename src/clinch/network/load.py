"""``cl.load``: from a module or a file to a network, compared with the original."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from clinch.errors import NetworkError
from clinch.io.files import PICKLE_ADVICE, is_pickled
from clinch.network.compare import compare
from clinch.network.fold import with_channels, with_scales
from clinch.network.network import Network
from clinch.runtime import memory
from clinch.runtime.gradients import with_gradients
from clinch.runtime.optional import required

if TYPE_CHECKING:
    from onnx import ModelProto

#: of one input, at most: extents as torch has them, and elements
_DIMENSIONS, _ELEMENTS = 32, 2**31


@with_gradients
def load(
    model: nn.Module | str | PathLike[str] | ModelProto | Network,
    input_shape: Sequence[int] | None = None,
    *,
    name: str | None = None,
    live: bool = False,
    output: str | int | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> Network:
    """Load a model and compare the result with it on random inputs: :func:`clinch.load`, without symbols.

    Raises:
        NetworkError: training mode, no input shape, no batch dimension, weights that are not finite, several inputs or
            outputs, control flow that depends on values, or a difference from the original.
        UnsupportedOperator: a call or ONNX node that cannot be read; gives layer, source line and operator.
    """
    if live and not isinstance(model, nn.Module):
        raise NetworkError(
            f"live=True is for an nn.Module that is trained on; a {type(model).__name__} is not trained."
        )
    if isinstance(model, Network):
        if input_shape is not None and tuple(input_shape) != model.input_shape:
            raise NetworkError(f"This network takes inputs of shape {model.input_shape}, not {tuple(input_shape)}.")
        return model
    try:
        return _load(model, Given(input_shape, name, live, output, fixed))
    except IndexError as error:
        # of numbers that are taken for places, which random ones are not
        title = name or type(model).__name__
        if isinstance(model, nn.Module):
            _looks_up(model, error, title)
        raise NetworkError(
            f"{title} fails on random inputs: {' '.join(str(error).split())}. Load a model that takes any real numbers."
        ) from error
    except (MemoryError, RuntimeError) as error:
        if not memory.ran_out(error):
            raise
        raise NetworkError("The model needs more memory than is free. Free memory, or load a smaller model.") from error


class Given(NamedTuple):
    """What the user says of a model, see :func:`clinch.load`."""

    input_shape: Sequence[int] | None
    name: str | None
    live: bool
    output: str | int | None
    fixed: Mapping[str, Any] | None


def _load(model: nn.Module | str | PathLike[str] | ModelProto, given: Given) -> Network:
    if isinstance(model, nn.Module):
        return _load_module(model, given)
    if type(model).__name__ == "ExportedProgram":
        return _load_module(model.module(), given)  # type: ignore[union-attr]
    if isinstance(model, (str, PathLike)):
        path = Path(model)
        if path.name.endswith((".nnet", ".nnet.gz")):
            from clinch.network.nnet import read_nnet

            module = read_nnet(path)
            stem = path.name.removesuffix(".gz").removesuffix(".nnet")
            shape = (module[0].in_features,)
            return _load_module(module, given._replace(input_shape=given.input_shape or shape, name=given.name or stem))
        if not path.name.endswith((".onnx", ".onnx.gz")) and is_pickled(path):
            raise NetworkError(f"'{path}' {PICKLE_ADVICE}")
        if not path.name.endswith((".onnx", ".onnx.gz")):
            raise NetworkError(
                f"'{path}' is not an .onnx or .onnx.gz file. Load another kind of file into an nn.Module first, "
                "and pass that module."
            )
        required("onnx", "onnx")
        from clinch.network.onnx_file import open_model

        stem = path.name.removesuffix(".gz").removesuffix(".onnx")
        network = _load_onnx(lambda: open_model(path), given, given.name or stem)
        network.file = path if path.name.lower().endswith((".onnx", ".onnx.gz")) else None
        return network
    if type(model).__name__ == "ModelProto":
        return _load_onnx(lambda: model, given, given.name or model.graph.name or "model")
    if hasattr(model, "get_params"):
        from clinch.network.tabular import module_of

        module, table = module_of(model)
        name = given.name or type(model).__name__
        network = _load_module(module, given._replace(input_shape=(table.size,), name=name))
        network.table = table
        return network
    raise NetworkError(
        f"A {type(model).__name__} cannot be loaded. Pass an nn.Module, an .onnx file, an onnx.ModelProto or a fitted "
        "estimator of scikit-learn."
        f"{_instead(model)}"
    )


def _instead(model: object) -> str:
    """What to write, where it is plain what was passed."""
    if isinstance(model, type) and issubclass(model, nn.Module):
        return f" This is a class: pass an instance, such as {model.__name__}(...).eval()."
    if isinstance(model, Mapping) and any(isinstance(value, Tensor) for value in model.values()):
        return " This looks like a state dict: build the module, call module.load_state_dict(...), and pass the module."
    return " For a function write a module whose forward calls it." if callable(model) else ""


# --- modules -------------------------------------------------------------------------------------------------------


def _load_module(model: nn.Module, given: Given) -> Network:
    from clinch.network.module_interface import unwrapped
    from clinch.network.original import OriginalModule, training_module
    from clinch.network.trace import trace

    model = unwrapped(model)
    name = given.name or type(model).__name__
    if given.input_shape is None:
        raise NetworkError(
            f"The shape of one input of {name} is not known. Give it, without the batch: "
            "cl.load(model, input_shape=(1, 28, 28))."
        )
    shape = _checked_shape(given.input_shape)
    training = training_module(model)
    if training is not None:
        part = f"The part '{training}' of {name}" if training else name
        raise NetworkError(f"{part} is in training mode. Call model.eval() first.")
    _finite(model, name)
    parameters = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    dtype = parameters[0].dtype if parameters else torch.float32
    device = parameters[0].device if parameters else torch.device("cpu")
    samples = _samples(shape, dtype, device)
    model = _one_in_one_out(model, given, samples[0][:2], name)
    traced = trace(model, samples[0][:2], live=given.live)
    # weights that are trained on stay where they are
    graph = traced.graph if given.live else with_channels(with_scales(traced.graph))
    native = graph.to(dtype, device)
    original = OriginalModule(model, native, traced.invocations)
    try:
        compare(graph, native, original, samples, name)
    except NetworkError:
        mixing = [error for error in traced.refusals if "batch" in str(error)]
        if mixing:
            raise mixing[0] from None
        raise
    if not given.live:
        return Network(graph, original, dtype=dtype, device=device, name=name)

    def present(x: Tensor, layers: list[str]) -> dict[str, Tensor]:
        """The original, whose functional layers follow the weights too."""
        with torch.no_grad():
            graph = traced.read_again().to(dtype, device)
        return OriginalModule(model, graph, traced.invocations)(x, layers)

    return Network(graph, present, dtype=dtype, device=device, name=name, read_again=traced.read_again)


def _checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    whole = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in whole):
        raise NetworkError(
            f"input_shape={shape!s:.80} is not a shape. Write positive whole numbers, such as (1, 28, 28)."
        )
    if len(whole) > _DIMENSIONS or math.prod(whole) > _ELEMENTS:
        raise NetworkError(
            f"input_shape={shape!s:.80} has more than {_ELEMENTS:,} elements or {_DIMENSIONS} extents. Write the shape "
            "of one input."
        )
    return whole


def _one_in_one_out(model: nn.Module, given: Given, x: Tensor, name: str) -> nn.Module:
    """The module itself, or wrapped so that it takes one tensor and returns one."""
    from clinch.network.module_interface import OneInOneOut, chosen_output, fixed_values, one_input

    fixed = fixed_values(given.fixed or {}, x.dtype, x.device)
    free, wrap = one_input(model, fixed, name)
    whole = OneInOneOut(model, free, fixed, None) if wrap else model
    result = _try(whole, x, name)
    output = chosen_output(result, given.output, len(x), name)
    if output is not None:
        whole = OneInOneOut(model, free, fixed, output)
        result = _try(whole, x, name)
    _rows(result, x, name)
    return whole


def _finite(model: nn.Module, name: str) -> None:
    for key, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise NetworkError(
                f"The parameter '{key}' of {name} waits for a first input, which tells its size. Call the model once "
                "before loading it."
            )
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
            raise NetworkError(f"The parameter '{key}' of {name} holds NaN or infinite numbers. Load finite weights.")


def _channels(shape: tuple[int, ...]) -> str:
    """A word where the shape looks as if the channels stood last."""
    if len(shape) != 3 or shape[2] not in (1, 3, 4) or shape[0] in (1, 3, 4):
        return ""
    first = (shape[2], *shape[:2])
    return f" Its channels stand last: give input_shape {first} (--input-shape {','.join(map(str, first))})."


def _try(model: nn.Module, x: Tensor, name: str) -> Any:
    """What the module returns for two inputs."""
    from clinch.network.export import user_line
    from clinch.network.original import run

    try:
        return run(model, x)[0]
    except Exception as error:
        _looks_up(model, error, name)
        reason = " ".join(str(error).split())
        raise NetworkError(
            f"{name} fails on two inputs of shape {tuple(x.shape[1:])}{user_line(error)}: "
            f"{type(error).__name__}: {reason}. "
            f"Correct input_shape (one input, without the batch), or the model, which must take a batch of any size."
            f"{_channels(tuple(x.shape[1:]))}"
        ) from error


def _looks_up(model: nn.Module, error: Exception, name: str) -> None:
    """Advice where an embedding was asked for a number that is none of its rows."""
    embedding = next((path for path, part in model.named_modules() if isinstance(part, nn.Embedding)), None)
    if embedding is not None and "ind" in str(error):
        size = model.get_submodule(embedding).embedding_dim
        embedding = embedding.removeprefix("_whole.")
        raise NetworkError(
            f"{name} looks up the embedding '{embedding}' of whole numbers, which cannot move a little. Load what "
            f"comes behind it: a module that takes the embedded input, of shape (length, {size})."
        ) from error


def _rows(output: Any, x: Tensor, name: str) -> None:
    """Two rows of real numbers must come out of two inputs."""
    if output.dim() == 0 or output.shape[0] != len(x):
        raise NetworkError(
            f"{name} returns shape {tuple(output.shape)} for a batch of {len(x)} inputs: it has no batch dimension. "
            "Return one row per input."
        )
    if not output.is_floating_point():
        raise NetworkError(
            f"{name} returns {output.dtype}, not real numbers. Return the values before argmax or rounding."
        )


# --- files ---------------------------------------------------------------------------------------------------------


def _load_onnx(opened: Callable[[], ModelProto], given: Given, name: str) -> Network:
    required("onnx", "onnx")
    required("onnxruntime", "onnx")
    from clinch.network.onnx import read
    from clinch.network.original import OriginalFile

    shape = None if given.input_shape is None else _checked_shape(given.input_shape)
    if given.output is not None and not isinstance(given.output, str):
        raise NetworkError(f"output={given.output!s:.40}: an output of {name} has a name. Give that.")
    # nobody but the reader holds the file's content, which it gives up as soon as it can
    found = read(opened(), shape, name, given.output, given.fixed)
    graph = with_channels(with_scales(found.graph))
    native = graph.to(found.dtype, "cpu")
    samples = _samples(found.graph.input_shape, found.dtype, torch.device("cpu"))
    original = OriginalFile(found.model, native, found.tensors, row=found.row, fixed=found.fixed, data=found.data)
    output = found.graph.nodes[-1].name
    try:
        try:
            original(samples[0], [output])
        except Exception:
            if original.by_row:
                raise
            # A free first dimension may still be fixed to 1 inside.
            original.row = (1, *found.graph.input_shape)
            original(samples[0], [output])
    except Exception as error:
        raise NetworkError(f"onnxruntime cannot run {name}: {' '.join(str(error).split())}") from error
    try:
        compare(graph, native, original, samples, name)
    except NetworkError:
        if found.refusals and not original.by_row:
            # A node whose operator was refused since it mixes the batch does so where there are several inputs.
            raise found.refusals[0] from None
        raise
    except (RuntimeError, IndexError) as error:
        if memory.ran_out(error):
            raise
        reason = (str(error).splitlines() or [""])[0]
        raise NetworkError(
            f"The layers of {name} have shapes that depend on the values of its input ({reason}). Save the model up to "
            "where that begins: cl.load(..., output='its tensor')."
        ) from error
    return Network(graph, original, dtype=found.dtype, device="cpu", name=name)


# --- comparison ------------------------------------------------------------------------------------------------------


def _samples(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Three batches of three inputs: pixels, standard normal numbers, and large ones."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(3, *shape, generator=generator, dtype=torch.float64)
    normal = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    large = 10 * torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    return [t.to(device, dtype) for t in (pixels, normal, large)]
