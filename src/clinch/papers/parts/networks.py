"""The reference networks that reproductions name: those of the zoo, by the names of their files."""

from __future__ import annotations

from clinch.demo.zoo import SHAPE, ZOO, zoo
from clinch.modeling.model import SymbolicNetwork, load


def reference_network(file: str) -> SymbolicNetwork:
    """The network whose weights have this name, such as ``"mnist_dnn2"``."""
    (name,) = (name for name, entry in ZOO.items() if entry.file == file)
    module = zoo(name)
    assert not isinstance(module, list)
    return load(module, input_shape=SHAPE, name=file)
