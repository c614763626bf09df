"""Inputs and attributes of ONNX nodes by the names that the standard's schemas give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from onnx import NodeProto, defs

from clinch.network.onnx_functions import Settings
from clinch.network.onnx_tensors import plain


class Schemas:
    """The schemas of a file's operator sets.

    Args:
        versions: of the operator sets by domain; opset: of the default one.
        dtype: of the file's real numbers.
    """

    def __init__(self, versions: Mapping[str, int], opset: int, dtype: torch.dtype) -> None:
        self.versions, self.opset, self.dtype = versions, opset, dtype

    def bound(self, node: NodeProto, values: Sequence[Any]) -> dict[str, Any]:
        """Inputs and attributes by name, attributes with the standard's defaults."""
        schema = self._schema(node)
        bound: dict[str, Any] = {"opset": self.opset, "outputs": len(node.output)}
        for i, parameter in enumerate(schema.inputs):
            if parameter.option == defs.OpSchema.FormalParameterOption.Variadic:
                bound[parameter.name] = list(values[i:])
            elif i < len(values) and values[i] is not None:
                bound[parameter.name] = values[i]
        return bound | self.attributes(node)

    def attributes(self, node: NodeProto) -> dict[str, Any]:
        """Attributes, with defaults where the standard knows the node."""
        found: dict[str, Any] = {}
        if defs.has(node.op_type, "" if node.domain == "ai.onnx" else node.domain):
            for name, attribute in self._schema(node).attributes.items():
                if attribute.default_value.type:
                    found[name] = plain(attribute.default_value)
        return found | {attribute.name: plain(attribute) for attribute in node.attribute}

    def settings(self, node: NodeProto) -> Settings:
        """The node without its inputs."""
        return Settings(self.attributes(node), self.opset, len(node.output), self.dtype)

    def _schema(self, node: NodeProto) -> Any:
        domain = "" if node.domain == "ai.onnx" else node.domain
        return defs.get_schema(node.op_type, self.versions.get(node.domain, self.opset), domain)
