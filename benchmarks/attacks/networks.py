"""The networks that attacks are compared on, with correctly classified images: of MNIST, and of CIFAR-10 from VNN-COMP.

CIFAR-10's images lie in ``cifar10/test.npz`` of the data folder, the competition's networks in ``vnncomp``. Those that
take normalised pixels get the normalisation as a first layer, so that every distance is one of pixels in [0, 1].
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

import clinch as cl
from clinch.io.data import Images, data_folder, mnist, model_file
from clinch.network.network import Network


class Normalised(NamedTuple):
    """What a network expects of pixels: ``(x − mean)/std`` for each channel, or images as height, width, channels."""

    file: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


KW = (0.485, 0.456, 0.406), (0.225, 0.225, 0.225)
CIFAR = {
    "cifar_base_kw": Normalised("oval21/onnx/cifar_base_kw", *KW),
    "cifar_deep_kw": Normalised("oval21/onnx/cifar_deep_kw", *KW),
    "resnet_2b": Normalised("cifar10_resnet/onnx/resnet_2b", (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar10_small": Normalised("marabou-cifar10/onnx/cifar10_small"),
}


@dataclass(frozen=True)
class Subject:
    """A network and images that it classifies correctly.

    Attributes:
        name: of the network.
        net: it takes pixels in [0, 1].
        x: ``(N, *input_shape)``.
        y: ``(N,)``.
    """

    name: str
    net: Network
    x: Tensor
    y: Tensor

    @staticmethod
    def of(name: str, count: int) -> Subject:
        """The first ``count`` images of the test set that the network classifies correctly."""
        net = cifar_network(name) if name in CIFAR else cl.load(str(model_file(f"{name}.onnx")))
        data = _cifar(bool(CIFAR[name].mean), 4 * count) if name in CIFAR else mnist("test")
        x, y = data.x[: 4 * count], data.y[: 4 * count]
        right = (logits(net, x).argmax(1) == y).nonzero().flatten()[:count]
        return Subject(name, net, x[right], y[right])


def logits(net: Network, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Class scores ``(N, C)`` of images, without gradients."""
    graph = net.graph_as(dtype, "cpu")
    with torch.no_grad():
        return graph.forward(x.to(dtype))[graph.output]


def _cifar(channels_first: bool, count: int) -> Images:
    with np.load(data_folder() / "cifar10" / "test.npz") as data:
        pixels, labels = data["x"][:count], data["y"][:count]
    x = torch.from_numpy(pixels.astype(np.float32)) / 255
    x = x.permute(0, 3, 1, 2) if channels_first else x
    return Images(x.contiguous(), torch.from_numpy(labels.astype(np.int64)))


def cifar_network(name: str) -> Network:
    """One of :data:`CIFAR`, which takes pixels in [0, 1]."""
    of = CIFAR[name]
    packed = (data_folder() / "vnncomp" / f"{of.file}.onnx.gz").read_bytes()
    model = onnx.load_model_from_string(gzip.decompress(packed))
    return cl.load(_normalising(model, of) if of.mean else model)


def _normalising(model: onnx.ModelProto, of: Normalised) -> onnx.ModelProto:
    """With ``(x − mean)/std`` in front."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    name = next(value.name for value in graph.input if value.name not in constants)
    for node in graph.node:
        node.input[:] = ["normalised" if one == name else one for one in node.input]
    for label, values in (("mean", of.mean), ("std", of.std)):
        graph.initializer.append(helper.make_tensor(f"pixel_{label}", TensorProto.FLOAT, (1, 3, 1, 1), values))
    graph.node.insert(0, helper.make_node("Div", ["centred", "pixel_std"], ["normalised"]))
    graph.node.insert(0, helper.make_node("Sub", [name, "pixel_mean"], ["centred"]))
    return model
