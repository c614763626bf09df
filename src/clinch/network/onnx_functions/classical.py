"""Nodes of ``ai.onnx.ml``: what converters write around and instead of networks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clinch.network.onnx_functions.table import Settings, node_type


def _numbers(node: Settings, name: str, like: Tensor) -> Tensor:
    return torch.tensor(node.get(name, []), dtype=like.dtype, device=like.device)


@node_type("ai.onnx.ml.Scaler")
def _scaler(node: Settings, x: Tensor) -> Tensor:
    x = x.to(node.dtype)
    return (x - _numbers(node, "offset", x)) * _numbers(node, "scale", x)


@node_type("ai.onnx.ml.Normalizer")
def _normalizer(node: Settings, x: Tensor) -> Tensor:
    x, kind = x.to(node.dtype), node.get("norm", "MAX")
    order = {"MAX": math.inf, "L1": 1, "L2": 2}[kind]
    size = x.amax(-1, keepdim=True) if kind == "MAX" else torch.linalg.vector_norm(x, order, -1, keepdim=True)
    return torch.where(size == 0, x, x / torch.where(size == 0, torch.ones_like(size), size))


@node_type("ai.onnx.ml.Binarizer")
def _binarizer(node: Settings, x: Tensor) -> Tensor:
    return (x > node.get("threshold", 0.0)).to(x.dtype)


@node_type("ai.onnx.ml.Imputer")
def _imputer(node: Settings, x: Tensor) -> Tensor:
    missing, values = node.get("replaced_value_float", 0.0), _numbers(node, "imputed_value_floats", x)
    return torch.where(torch.isnan(x) if math.isnan(missing) else x == missing, values, x)


@node_type("ai.onnx.ml.OneHotEncoder")
def _one_hot(node: Settings, x: Tensor) -> Tensor:
    if not (known := node.get("cats_int64s")):
        raise NotImplementedError("categories of text")
    return (x.unsqueeze(-1) == torch.tensor(known, device=x.device)).to(node.dtype)


@node_type("ai.onnx.ml.FeatureVectorizer")
def _features(node: Settings, *inputs: Tensor) -> Tensor:
    return torch.cat([x.to(node.dtype).reshape(x.shape[0], -1) for x in inputs], 1)


@node_type("ai.onnx.ml.ArrayFeatureExtractor")
def _extractor(node: Settings, x: Tensor, places: Tensor) -> Tensor:
    found = x.index_select(-1, places.flatten().to(torch.int64))
    return found.reshape(1, -1) if x.dim() == 1 else found


@node_type("ai.onnx.ml.ZipMap")
def _zip_map(node: Settings, x: Tensor) -> Tensor:
    return x


def transformed(scores: Tensor, how: str) -> Tensor:
    """Scores behind a ``post_transform`` of the standard."""
    if how == "LOGISTIC":
        return torch.sigmoid(scores)
    if how == "SOFTMAX":
        return torch.softmax(scores, -1)
    if how == "SOFTMAX_ZERO":
        found = torch.softmax(scores.masked_fill(scores == 0, -math.inf), -1)
        return torch.where(scores == 0, torch.zeros_like(scores), found)
    if how == "PROBIT":
        return math.sqrt(2) * torch.erfinv(2 * scores - 1)
    return scores


def _linear(node: Settings, x: Tensor, count: int) -> Tensor:
    x = x.to(node.dtype)
    scores = x @ _numbers(node, "coefficients", x).reshape(count, -1).mT
    shift = _numbers(node, "intercepts", x)
    return scores + shift if shift.numel() else scores


@node_type("ai.onnx.ml.LinearRegressor")
def _regressor(node: Settings, x: Tensor) -> Tensor:
    return transformed(_linear(node, x, node.get("targets", 1)), node.get("post_transform", "NONE"))


@node_type("ai.onnx.ml.LinearClassifier")
def _classifier(node: Settings, x: Tensor) -> tuple[Tensor, Tensor]:
    labels = node.get("classlabels_ints")
    count = max(len(node.get("intercepts", [])), 1)
    scores = _linear(node, x, count)
    values = transformed(scores, node.get("post_transform", "NONE"))
    if count == 1:
        other = 1 - values if node.get("post_transform", "NONE") == "LOGISTIC" else -values
        values = torch.cat([other, values], 1)
    chosen = values.argmax(1)
    return (chosen if labels is None else torch.tensor(labels)[chosen]), values
