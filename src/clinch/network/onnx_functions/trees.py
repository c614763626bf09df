"""Trees and support vectors of ``ai.onnx.ml``: what converters of LightGBM, XGBoost and scikit-learn write."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from clinch.network.onnx_functions.classical import transformed
from clinch.network.onnx_functions.table import Excessive, Settings, node_type
from clinch.network.ops.forest import forest
from clinch.network.trees import Tree, joined, too_deep

#: a node's question -> whether x below the threshold goes to the true side, and whether x at the threshold does too
_MODES = {
    "BRANCH_LEQ": (True, True), "BRANCH_LT": (True, False), "BRANCH_GTE": (False, False), "BRANCH_GT": (False, True),
}  # fmt: skip
#: of ``TreeEnsemble``, by number
_NUMBERED = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT")
_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
_POSTS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")

_LISTS = ("nodes_", "target_", "class_", "leaf_", "tree_")

Arrays = tuple[Tensor, Tensor, Tensor]


def _values(node: Settings, name: str) -> tuple:
    """A list of numbers or words, whether it is an attribute of numbers or a tensor."""
    found = node.get(name)
    exact = node.get(f"{name}_as_tensor")
    found = found if exact is None else exact
    if found is None:
        return ()
    values = found.flatten().tolist() if isinstance(found, Tensor) else found
    return tuple(v.decode() if isinstance(v, bytes) else v for v in values)


class _Nodes:
    """The nodes of all trees: place of either child (−1 at a leaf), feature, and threshold for ``x <= threshold``."""

    def __init__(self, count: int) -> None:
        self.left, self.right = np.full(count, -1), np.full(count, -1)
        self.feature, self.threshold = np.zeros(count, dtype=np.int64), np.zeros(count)

    def ask(self, i: int, mode: str, feature: int, threshold: float, true: int, false: int) -> None:
        """A node's question."""
        if mode not in _MODES:
            raise Excessive(f"nodes with the mode {mode} are not read")
        below, included = _MODES[mode]
        self.left[i], self.right[i] = (true, false) if below else (false, true)
        self.feature[i] = feature
        self.threshold[i] = threshold if included else np.nextafter(threshold, -np.inf)

    def depth(self, root: int) -> int:
        """Of the tree below a node."""
        level, depth = [root], 0
        while level := [int(c) for i in level if self.left[i] >= 0 for c in (self.left[i], self.right[i])]:
            depth += 1
            if depth > len(self.left):
                raise ValueError("a tree's nodes lead back to each other")
        return depth


@lru_cache(maxsize=16)
def _filled(settings: tuple[tuple[str, tuple], ...]) -> list[Arrays]:
    """Every tree by itself as :func:`clinch.network.ops.forest.forest` takes it, all of one depth."""
    given = dict(settings)
    nodes, roots, values = _listed(given) if "nodes_treeids" in given else _numbered(given)
    depths = [nodes.depth(root) for root in roots]
    if (problem := too_deep(depths)) is not None:
        raise Excessive(problem)
    trees = [Tree(nodes.left, nodes.right, nodes.feature, nodes.threshold, max(1, *depths), root) for root in roots]
    feature, threshold, leaves = joined(trees, [values] * len(trees))
    return [tuple(torch.as_tensor(a[t : t + 1]) for a in (feature, threshold, leaves)) for t in range(len(trees))]  # type: ignore[misc]


def _listed(given: dict[str, tuple]) -> tuple[_Nodes, list[int], np.ndarray]:
    """Of trees whose nodes and leaves are listed with numbers: nodes, roots, and values of the leaves ``(n, K)``."""
    keys = list(zip(given["nodes_treeids"], given["nodes_nodeids"]))
    place = {key: i for i, key in enumerate(keys)}
    nodes, targets = _Nodes(len(keys)), set()
    for i, (tree, _) in enumerate(keys):
        if given["nodes_modes"][i] != "LEAF":
            true, false = (place[tree, given[f"nodes_{side}nodeids"][i]] for side in ("true", "false"))
            targets |= {true, false}
            nodes.ask(i, given["nodes_modes"][i], given["nodes_featureids"][i], given["nodes_values"][i], true, false)
    values = np.zeros((len(keys), given["count"][0]))
    kind = "target" if "target_ids" in given else "class"
    for tree, node, at, weight in zip(*(given[f"{kind}_{n}"] for n in ("treeids", "nodeids", "ids", "weights"))):
        values[place[tree, node], at] += weight
    first = {tree: i for i, (tree, _) in reversed(list(enumerate(keys))) if i not in targets}
    return nodes, list(first.values())[::-1], values


def _numbered(given: dict[str, tuple]) -> tuple[_Nodes, list[int], np.ndarray]:
    """As :func:`_listed`, of a ``TreeEnsemble``: inner nodes first, leaves behind them."""
    inner, leaves = len(given["nodes_featureids"]), len(given["leaf_targetids"])
    nodes = _Nodes(inner + leaves)
    for i in range(inner):
        mode = given["nodes_modes"][i]
        sides = [given[f"nodes_{s}nodeids"][i] + inner * given[f"nodes_{s}leafs"][i] for s in ("true", "false")]
        mode = _NUMBERED[mode] if mode < len(_NUMBERED) else f"number {mode}"
        nodes.ask(i, mode, given["nodes_featureids"][i], given["nodes_splits"][i], *sides)
    values = np.zeros((inner + leaves, given["count"][0]))
    values[np.arange(inner, inner + leaves), list(given["leaf_targetids"])] = given["leaf_weights"]
    return nodes, list(given["tree_roots"]), values


def _summed(node: Settings, x: Tensor, count: int, aggregate: str) -> Tensor:
    names = [n.removesuffix("_as_tensor") for n in node.attributes if n.startswith(_LISTS)]
    given = {name: _values(node, name) for name in names}
    trees = _filled((*((name, v) for name, v in given.items() if v), ("count", (count,))))
    base = torch.tensor(_values(node, "base_values") or [0.0] * count, dtype=x.dtype)
    if base.numel() != count:
        base = torch.cat([base, base.new_zeros(count - base.numel())])

    def summed(chosen: list[Arrays]) -> Tensor:
        feature, threshold, leaves = (torch.cat(parts) for parts in zip(*chosen))
        return forest(x, feature, threshold.to(x.dtype), leaves.to(x.dtype), base.new_zeros(count))

    if aggregate in ("MIN", "MAX"):
        each = torch.stack([summed([tree]) for tree in trees])
        return (each.amin(0) if aggregate == "MIN" else each.amax(0)) + base
    total = summed(trees)
    return (total / len(trees) if aggregate == "AVERAGE" else total) + base


@node_type("ai.onnx.ml.TreeEnsembleRegressor")
def _regressor(node: Settings, x: Tensor) -> Tensor:
    found = _summed(node, x.to(node.dtype), node.get("n_targets", 1), node.get("aggregate_function", "SUM"))
    return transformed(found, node.get("post_transform", "NONE"))


@node_type("ai.onnx.ml.TreeEnsemble")
def _ensemble(node: Settings, x: Tensor) -> Tensor:
    found = _summed(node, x.to(node.dtype), node.get("n_targets", 1), _AGGREGATES[node.get("aggregate_function", 1)])
    return transformed(found, _POSTS[node.get("post_transform", 0)])


@node_type("ai.onnx.ml.TreeEnsembleClassifier")
def _classifier(node: Settings, x: Tensor) -> tuple[Tensor, Tensor]:
    labels = node.get("classlabels_int64s") or list(range(len(node.get("classlabels_strings") or [])))
    scores = _summed(node, x.to(node.dtype), len(labels), "SUM")
    post = node.get("post_transform", "NONE")
    if len(labels) == 2 and len(set(_values(node, "class_ids"))) == 1:
        return _of_two(scores[:, :1], labels, post, positive=min(_values(node, "class_weights")) >= 0)
    return torch.tensor(labels)[scores.argmax(1)], transformed(scores, post)


def _of_two(score: Tensor, labels: list[int], post: str, *, positive: bool) -> tuple[Tensor, Tensor]:
    """Both classes from the score of one; scores that are never negative are taken for probabilities."""
    chosen = (score[:, 0] > (0.5 if positive else 0.0)).long()
    if post == "LOGISTIC" and not positive:
        both = torch.cat([torch.sigmoid(-score), torch.sigmoid(score)], 1)
    else:
        both = torch.cat([1 - score, score] if positive else [-score, score], 1)
    return torch.tensor(labels)[chosen], both


# --- support vectors -------------------------------------------------------------------------------------------------


def _kernel(node: Settings, x: Tensor, vectors: Tensor) -> Tensor:
    """``K(x, v)`` for every support vector."""
    gamma, shift, degree = [*(node.get("kernel_params") or []), 0.0, 0.0, 3.0][:3]
    kinds: dict[str, Callable[[], Tensor]] = {
        "LINEAR": lambda: x @ vectors.mT,
        "POLY": lambda: (gamma * (x @ vectors.mT) + shift) ** degree,
        "SIGMOID": lambda: torch.tanh(gamma * (x @ vectors.mT) + shift),
        "RBF": lambda: torch.exp(-gamma * ((x.unsqueeze(1) - vectors) ** 2).sum(-1)),
    }
    return kinds[node.get("kernel_type", "LINEAR")]()


def _tensor(node: Settings, name: str) -> Tensor:
    return torch.tensor(_values(node, name), dtype=node.dtype)


@node_type("ai.onnx.ml.SVMRegressor")
def _svm_regressor(node: Settings, x: Tensor) -> Tensor:
    x, count = x.to(node.dtype), node.get("n_supports", 0)
    coefficients, vectors = _tensor(node, "coefficients").to(x), _tensor(node, "support_vectors").to(x)
    vectors = vectors.reshape(count, -1) if count else coefficients.reshape(1, -1)
    kernel = _kernel(node, x, vectors)
    found = (kernel @ coefficients if count else kernel[:, 0]) + _tensor(node, "rho").to(x)[0]
    found = torch.where(found > 0, 1.0, -1.0).to(x) if node.get("one_class", 0) else found
    return transformed(found.unsqueeze(1), node.get("post_transform", "NONE"))


@node_type("ai.onnx.ml.SVMClassifier")
def _svm_classifier(node: Settings, x: Tensor) -> tuple[Tensor, Tensor]:
    labels, counts = list(node.get("classlabels_ints") or []), list(_values(node, "vectors_per_class"))
    if len(counts) != 2 or node.get("prob_a") is not None:
        raise Excessive("support vectors of other than two classes, or with probabilities, are not computed")
    x = x.to(node.dtype)
    kernel = _kernel(node, x, _tensor(node, "support_vectors").to(x).reshape(sum(counts), -1))
    score = (kernel @ _tensor(node, "coefficients").to(x) + _tensor(node, "rho").to(x)[0]).unsqueeze(1)
    positive = min(_values(node, "coefficients")) >= 0
    # the first class is the one that a positive score votes for
    chosen = (score[:, 0] <= 0).long()
    both = torch.cat([1 - score, score] if positive else [-score, score], 1)
    return torch.tensor(labels or [0, 1])[chosen], transformed(both, node.get("post_transform", "NONE"))
