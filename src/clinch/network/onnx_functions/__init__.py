"""ONNX node types as functions of torch: what attacks follow where a node has no operator of its own."""

from __future__ import annotations

import importlib
import pkgutil

from clinch.network.onnx_functions.table import FUNCTIONS as FUNCTIONS
from clinch.network.onnx_functions.table import Excessive as Excessive
from clinch.network.onnx_functions.table import Settings as Settings

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
