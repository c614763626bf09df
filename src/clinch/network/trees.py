"""Decision trees, forests and gradient boosting of scikit-learn as sums of indicator functions.

A node asks whether a feature, rounded to float32, is at most a threshold. A leaf is reached where all answers on its
way are right, and the model is the sum of what its leaves say; between two thresholds of a feature nothing changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clinch.errors import NetworkError
from clinch.network.ops.forest import forest

#: leaves of all trees at most: of a tree 2 to its depth are stored, and all have the depth of the deepest
MOST_LEAVES = 2**21


class Trees(nn.Module):
    """Trees whose leaves are added up, see :func:`clinch.network.ops.forest.forest`; arguments as there."""

    def __init__(self, feature: NDArray, threshold: NDArray, values: NDArray, base: NDArray) -> None:
        super().__init__()
        given = {"feature": feature, "threshold": threshold, "values": values, "base": base}
        for name, array in given.items():
            self.register_buffer(name, torch.as_tensor(np.ascontiguousarray(array)))

    def forward(self, x: Tensor) -> Tensor:
        """From ``(B, n)`` to ``(B, K)``."""
        return forest(x, self.feature, self.threshold, self.values, self.base)


def forest_of(model: Any, inputs: int) -> nn.Module:
    """The trees of a tree, a forest or a boosted model: probabilities, predictions, or the decision function."""
    name = type(model).__name__
    if "GradientBoosting" in name:
        return _boosted(model, inputs)
    trees = list(model.estimators_) if hasattr(model, "estimators_") else [model]
    if getattr(model, "n_outputs_", 1) != 1:
        raise NetworkError(f"A {name} with several outputs is not read. Fit one model for each.")
    values = []
    for tree in trees:
        value = tree.tree_.value[:, 0, :]
        if hasattr(model, "classes_"):
            value = value / value.sum(1, keepdims=True)
        values.append(value / len(trees))
    return _joined([tree.tree_ for tree in trees], values, np.zeros(values[0].shape[1]), inputs)


def _boosted(model: Any, inputs: int) -> nn.Module:
    """The decision function of boosted trees; of two classes ``(0, s)``."""
    stages = model.estimators_
    outputs = stages.shape[1]
    two = hasattr(model, "classes_") and outputs == 1
    width = 2 if two else outputs
    trees, values = [], []
    for stage in stages:
        for k, tree in enumerate(stage):
            value = np.zeros((tree.tree_.node_count, width))
            value[:, 1 if two else k] = model.learning_rate * tree.tree_.value[:, 0, 0]
            trees.append(tree.tree_)
            values.append(value)
    raw = model._raw_predict_init(np.zeros((1, inputs), dtype=np.float32))[0]
    return _joined(trees, values, np.concatenate([[0.0], raw]) if two else raw, inputs)


class Tree(NamedTuple):
    """One of a model's trees.

    Attributes:
        left, right: child of a node, −1 at a leaf.
        feature, threshold: to the left where ``x[feature] <= threshold``.
        depth: of the tree.
        root: node at its top.
    """

    left: NDArray
    right: NDArray
    feature: NDArray
    threshold: NDArray
    depth: int
    root: int = 0


def too_deep(depths: Sequence[int]) -> str | None:
    """What is wrong with trees that are too deep to be stored; None: nothing is."""
    if len(depths) * 2 ** max(depths, default=0) <= MOST_LEAVES:
        return None
    return (
        f"{len(depths)} trees of a depth of up to {max(depths)} take {len(depths)} × 2^{max(depths)} leaves, more than "
        f"{MOST_LEAVES:,}"
    )


def joined(trees: Sequence[Tree], values: Sequence[NDArray]) -> tuple[NDArray, NDArray, NDArray]:
    """Features, thresholds and leaves of trees filled up to the depth of the deepest.

    Args:
        trees: of a depth of at least 1.
        values: of each tree, of its nodes, ``(nodes, K)``.
    """
    level = [np.array([tree.root]) for tree in trees]
    features, thresholds = [], []
    for _ in range(max(tree.depth for tree in trees)):
        inner = [tree.left[nodes] >= 0 for tree, nodes in zip(trees, level)]
        features.append(np.stack([np.where(i, t.feature[n], 0) for t, n, i in zip(trees, level, inner)]))
        thresholds.append(np.stack([np.where(i, t.threshold[n], 0.0) for t, n, i in zip(trees, level, inner)]))
        level = [
            np.stack([np.where(i, t.left[n], n), np.where(i, t.right[n], n)], 1).ravel()
            for t, n, i in zip(trees, level, inner)
        ]
    leaves = np.stack([value[nodes] for value, nodes in zip(values, level)])
    return np.concatenate(features, 1), np.concatenate(thresholds, 1), leaves


def _joined(trees: list[Any], values: list[NDArray], base: NDArray, inputs: int) -> nn.Module:
    """The module of scikit-learn's trees."""
    depths = [int(tree.max_depth) for tree in trees]
    if (problem := too_deep(depths)) is not None:
        raise NetworkError(f"{problem}. Fit with a smaller max_depth.")
    if max(depths) == 0:
        constant = nn.Linear(inputs, len(base), dtype=torch.float64)
        with torch.no_grad():
            constant.weight.zero_()
            constant.bias.copy_(torch.as_tensor(base + sum(value[0] for value in values)))
        return constant
    own = [
        Tree(t.children_left, t.children_right, t.feature, as_in_float64(t.threshold), d) for t, d in zip(trees, depths)
    ]
    return Trees(*joined(own, values), base)


def as_in_float64(threshold: NDArray) -> NDArray[np.float64]:
    """The largest numbers t of float64 with ``float32(t) <= threshold``: ``x <= t`` is what rounding first would say.

    Halfway between two numbers of float32 the even one is taken.
    """
    threshold = np.asarray(threshold, dtype=np.float64)
    below = threshold.astype(np.float32)
    below = np.where(below.astype(np.float64) > threshold, np.nextafter(below, np.float32(-np.inf)), below)
    above = np.nextafter(below, np.float32(np.inf))
    middle = (below.astype(np.float64) + above.astype(np.float64)) / 2
    return np.where(middle.astype(np.float32) <= below, middle, np.nextafter(middle, -np.inf))
