"""What the names in docstrings' examples stand for: the demo's digits and network, and what is made from them.

An example uses its own module's names first, then the names of its room in :data:`ROOMS`, then those of :func:`shared`.
Files that examples name lie in the folder they run in, see :func:`files`.
"""

from __future__ import annotations

import importlib.util
import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

import clinch as cl
from clinch import demo
from clinch.solver.ledger import Ledger

SPECIFICATION = """(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(declare-const Y_1 Real)
(assert (>= X_0 0)) (assert (<= X_0 1)) (assert (>= X_1 0)) (assert (<= X_1 1))
(assert (>= Y_0 50))
"""


@cache
def shared():
    """Names for every example: ``net`` is trained, ``x`` are eight digits that it classifies correctly as ``y``."""
    model, train, test = demo.network(), demo.digits("train"), demo.digits("test")
    net = cl.load(model, input_shape=demo.SHAPE)
    with torch.no_grad():
        right = (model(test.x).argmax(1) == test.y).nonzero().flatten()[:8]
    x, y = test.x[right], test.y[right]
    x0, label = x[0], int(y[0])
    inside = [net.input >= 0, net.input <= 1]
    problem = cl.Problem(cl.Minimize(cl.norm(net.input - x0, 2)), [*inside, net.output.argmax() != label])
    rows = torch.eye(10, dtype=torch.float64)
    return {
        "cl": cl, "clinch": cl, "torch": torch, "nn": nn, "np": np, "math": math, "model": model, "net": net, "x": x,
        "y": y, "x0": x0, "image": x0, "images": x, "labels": y, "problem": problem, "query": problem.query,
        "ledger": Ledger(problem.query), "x_train": train.x, "y_train": train.y, "x_test": x, "y_test": y,
        "rejected": [*inside, net.output.argmax() == label, ~net["relu2"].between(0.0, _largest(net, train.x))],
        "region": cl.bounds.ball(x, 0.05, cl.inf, lower=0, upper=1),
        "few": few(), "figure": Figure(),
        "evaluation": cl.study.evaluate(net, "digits", norm=2, limit=3),
        "c": torch.stack([(rows[k] - rows)[torch.arange(10) != k] for k in y.tolist()]),
    }  # fmt: skip


def few():
    """The largest output of a network of two inputs: a problem that every engine closes at once."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)).eval().requires_grad_(False)
    net = cl.load(model, input_shape=(2,))
    return cl.Problem(cl.Maximize(net.output[0]), [net.input >= -1, net.input <= 1])


def _largest(net, x):
    node = net.graph.names["relu2"]
    return net.graph.forward(x, [node])[node].amax(0).double()


def latent():
    """A decoder of two latent inputs, images from it, and what is known of them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 36), nn.Unflatten(1, (1, 6, 6))).eval()
        images = decoder(torch.randn(3, 2)).detach()
        noisy = images + 0.1 * torch.randn_like(images)
    known = torch.ones(1, 6, 6, dtype=torch.bool)
    known[0, :, 3:] = False
    net = cl.load(decoder, input_shape=(2,))
    return {"decoder": decoder, "images": images, "noisy": noisy, "known": known, "net": net, "image": images[0]}


def segmentation():
    """A segmenter of three classes with random weights, canvases, and a goal."""
    from clinch.applications.segmentation import Pixels

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)
        net = nn.Sequential(*layers).eval().requires_grad_(False)
        x = torch.rand(2, 1, 6, 8)
    figure = torch.zeros(6, 8, dtype=torch.long)
    return {"net": net, "x": x, "figure": figure, "goal": Pixels(net, x)}


def policies():
    """Observations of MinAtar's Breakout, and the scores of a network with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(400, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
        observations = (torch.rand(4, 4, 10, 10) < 0.1).float()
    return {"network": network.requires_grad_(False), "observations": observations}


#: names of a room, instead of or beside the shared ones
ROOMS = {
    "clinch.applications.latent": cache(latent), "clinch.applications.policies": cache(policies),
    "clinch.applications.segmentation": cache(segmentation),
}  # fmt: skip


def names_for(module):
    """The names that examples of a module may use, its own first."""
    found = dict(shared())
    for room, names in ROOMS.items():
        if module.__name__.startswith(room):
            found |= names()
    return found | {name: value for name, value in vars(module).items() if not name.startswith("__")}


def files(folder: Path) -> None:
    """What examples find in the folder they run in: ``net.onnx``, a property, and two runs."""
    if importlib.util.find_spec("onnx") is None:
        return
    from onnx import TensorProto, helper, numpy_helper, save

    weight = np.array([[1.0, -1.0], [0.5, 2.0]], dtype=np.float32)
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1), helper.make_node("Relu", ["h"], ["y"])]
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.zeros(2, np.float32), "b")]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "example", ends[:1], ends[1:], constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(folder / "net.onnx"))
    (folder / "property.vnnlib").write_text(SPECIFICATION)
    names = shared()
    cl.study.evaluate(names["net"], "digits", norm=cl.inf, eps=0.02, limit=8, out=str(folder / "run"))
    cl.study.evaluate(names["net"], "digits", norm=2, limit=3, out=str(folder / "distances"))
