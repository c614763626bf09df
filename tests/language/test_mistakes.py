"""What people type by mistake: each gives one line that says what was seen and what to write, or simply works."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import clinch as cl
from clinch.demo import digits, network
from clinch.errors import ClinchError

MODEL = network()
NET = cl.load(MODEL, input_shape=(8, 8))
X, Y = (part[:4] for part in digits("test"))
CONV = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
IMAGES, LABELS = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3])
LAST = IMAGES.permute(0, 2, 3, 1)
A, B, M = cl.attacks, cl.bounds, cl.applications.monitors
BALL = B.ball(X, 0.1, "linf", lower=0, upper=1)


def pgd(x=X, y=Y, net=MODEL, **more):
    return A.pgd(net, x, y, **{"eps": 0.1, "steps": 2, **more})


def solve(**more):
    conditions = [NET.input >= 0, NET.input <= 1, NET.output.argmax() != int(Y[0])]
    return cl.Problem(cl.Minimize(cl.norm(NET.input - X[0], 2)), conditions).solve(**{"time_limit": 0.1, **more})


def study(data, net=MODEL, **more):
    return cl.study.evaluate(net, data, **{"eps": 0.001, "methods": "cheap", "limit": 2, **more})


def npz(folder, x=X, y=Y):
    np.savez(folder / "d.npz", x=np.asarray(x), y=np.asarray(y))
    return str(folder / "d.npz")


def named(folder, name, content):
    (folder / name).write_bytes(content)
    return str(folder / name)


def training():
    return network().train()


#: what is typed -> words of the line
REFUSED = {
    # shapes and layouts
    "one image": (lambda t: pgd(X[0], Y[:1], NET), r"write x\[None\]"),
    "channels last, a network": (lambda t: pgd(LAST, LABELS, cl.load(CONV, (3, 8, 8))), "permute"),
    "channels last, a module": (lambda t: pgd(LAST, LABELS, CONV), r"permute\(0, 3, 1, 2\)"),
    "no image": (lambda t: pgd(X[:0], Y[:0]), "holds no inputs"),
    "text for images": (lambda t: pgd("x"), "no array of numbers"),
    "NaN": (lambda t: pgd(X * math.nan), "NaN or infinity"),
    "images and labels exchanged": (lambda t: pgd(Y, X), "expected"),
    "input_shape of the batch": (lambda t: cl.load(MODEL, X.shape), "without the batch"),
    "input_shape with channels last": (lambda t: cl.load(CONV, (8, 8, 3)), r"give input_shape \(3, 8, 8\)"),
    "no input_shape": (lambda t: cl.load(MODEL), r"input_shape=\(1, 28, 28\)"),
    "x0 flattened": (lambda t: cl.norm(NET.input - X[0].flatten(), 2), r"expected \(8, 8\)"),
    "a ball around one image": (lambda t: B.crown(MODEL, B.ball(X[0], 0.1, 2)), r"x\[None\]"),
    "rows for other outputs": (lambda t: B.crown(MODEL, BALL, torch.eye(3)), r"give \(R, 10\)"),
    "a tensor for a region": (lambda t: B.crown(MODEL, X), "ball"),
    # units
    "bytes as floats": (lambda t: pgd(255 * X), "look like bytes"),
    "bytes": (lambda t: pgd((255 * X).byte()), "look like bytes"),
    "normalised images": (lambda t: pgd((X - 0.5) / 0.25), "look normalised"),
    "bounds of bytes, pixels in [0, 1]": (lambda t: pgd(bounds=(0, 255)), "small part of bounds"),
    "eps of bytes, pixels in [0, 1]": (lambda t: pgd(eps=8), "eps=8/255"),
    "eps of bytes, a study": (lambda t: study((X, Y), eps=8), "8/255"),
    "bytes, a study": (lambda t: study(npz(t, 255 * X)), "look like bytes"),
    "normalised images, a study": (lambda t: study(npz(t, (X - 0.5) / 0.25)), "look normalised"),
    "a ball of bytes in a box of shares": (lambda t: B.ball(255 * X, 0.1, 2, lower=0, upper=1), "same units"),
    "eps as text": (lambda t: pgd(eps="eight"), "8/255"),
    "eps negative": (lambda t: pgd(eps=-1), "positive"),
    "no eps": (lambda t: pgd(eps=None), "eps is missing"),
    "bounds exchanged": (lambda t: pgd(bounds=(1, 0)), "no range"),
    "gap in per cent": (lambda t: solve(gap=5), "per cent"),
    "seconds below zero": (lambda t: solve(time_limit=-1), "zero or more"),
    "seconds as text": (lambda t: solve(time_limit="long"), "seconds"),
    # labels
    "one-hot labels": (lambda t: pgd(y=torch.eye(10)[Y]), r"argmax\(1\)"),
    "labels as floats": (lambda t: pgd(y=Y.float()), r"\.long\(\)"),
    "labels as booleans": (lambda t: pgd(y=Y > 3), "whole numbers"),
    "one label": (lambda t: pgd(y=3), "torch.full"),
    "labels from 1": (lambda t: pgd(y=torch.tensor([1, 10, 2, 3])), "counted from 1"),
    "labels beyond": (lambda t: pgd(y=Y + 100), "classes are 0 to 9"),
    "names for labels": (lambda t: pgd(y=["a", "b", "c", "d"]), "whole numbers"),
    "too few labels": (lambda t: pgd(y=Y[:2]), r"expected \(4,\)"),
    "no labels": (lambda t: pgd(y=None), "labels y"),
    "labels from 1, a study": (lambda t: study(npz(t, y=Y + 1), limit=4), "none of the 10 classes"),
    "one-hot labels, a study": (lambda t: study(npz(t, y=torch.eye(10)[Y])), "whole numbers"),
    "no labels, a study": (lambda t: study(X), r"\(x, y\)"),
    "a one-hot label in a problem": (lambda t: NET.output.argmax() != torch.eye(10)[0], r"argmax\(\)"),
    "a label beyond in a problem": (lambda t: NET.output.argmax() != 10, "from 0 to 9"),
    # models
    "training mode": (lambda t: pgd(net=training()), r"model\.eval\(\)"),
    "training mode, loaded": (lambda t: cl.load(training(), (8, 8)), r"model\.eval\(\)"),
    "a state dict": (lambda t: cl.load(MODEL.state_dict(), (8, 8)), "load_state_dict"),
    "a class": (lambda t: cl.load(nn.Linear, (8,)), "instance"),
    "a function": (lambda t: cl.load(lambda x: x, (8,)), "module whose forward"),
    "a pickle": (lambda t: cl.load(named(t, "a.pt", b"PK\x03\x04junk")), "safetensors"),
    "a damaged file": (lambda t: cl.load(named(t, "a.onnx", b"hello")), "not a readable ONNX file"),
    "a file that is not there": (lambda t: cl.load("nothere.onnx"), "no file"),
    "a table": (lambda t: cl.load(named(t, "a.csv", b"a,b")), r"\.onnx"),
    "one output": (lambda t: pgd(net=nn.Sequential(nn.Flatten(), nn.Linear(64, 1)).eval()), "cl.Problem"),
    "an unknown layer": (lambda t: NET["relu9"], "relu1"),
    "a layer by number": (lambda t: NET[2], "relu1"),
    # problems
    "0 <= x <= 1": (lambda t: 0 <= NET.input <= 1, "as two"),
    "a < b": (lambda t: NET.input < 1, "margin"),
    "torch.relu of a symbol": (lambda t: torch.relu(NET.output), "not defined"),
    "a vector as objective": (lambda t: cl.Minimize(NET.output), "scalar"),
    "two copies of a network": (lambda t: cl.Problem(cl.Minimize(NET.output[0]), [cl.load(MODEL, (8, 8)).input >= 0]), "cl.Variable"),  # noqa: E501
    "a module for a problem": (lambda t: cl.exact.milp(MODEL), "cl.Problem"),
    "a network called on numbers": (lambda t: NET(X), "your own model"),
    # names
    "an unknown norm": (lambda t: pgd(norm="manhattan"), "cl.inf"),
    "an unknown norm, a study": (lambda t: study((X, Y), norm="manhattan"), "norm"),
    "an unknown solver": (lambda t: solve(solver="crown"), "branch_and_bound"),
    "a device that is not there": (lambda t: solve(device="gpu"), "'cpu'"),
    "unknown data": (lambda t: study("imagenet"), "mnist"),
    "arrays of other names": (lambda t: study(named(t, "d.npz", b"")), "d.npz"),
    "several radii in one study": (lambda t: study((X, Y), eps=[0.1, 0.2]), "cl.study.compare"),
    "methods": (lambda t: study((X, Y), methods="fast"), "cheap"),
    "no passes": (lambda t: A.nearest(MODEL, X, Y, passes=None), "whole number"),
    "a monitor of a class without images": (lambda t: M.fit_monitor(NET, "relu2", X), "every class"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_gives_one_line_that_says_what_to_write(name, tmp_path):
    typed, words = REFUSED[name]
    with pytest.raises(ClinchError, match=words) as caught:
        typed(tmp_path)
    line = str(caught.value)
    assert "\n" not in line and 20 < len(line) < 700


def test_at_least_sixty_mistakes_are_known():
    assert len(REFUSED) >= 60


#: what other libraries accept works here too
TAKEN = {
    "a list for images and labels": lambda: pgd(X.tolist(), Y.tolist()),
    "NumPy": lambda: pgd(X.numpy(), Y.numpy()),
    "float64": lambda: pgd(X.double()),
    "inputs that want gradients": lambda: pgd(X.clone().requires_grad_()),
    "a radius for each": lambda: pgd(eps=[0.1, 0.2, 0.1, 0.3]),
    "a step for each": lambda: pgd(step_size=[0.1] * 4),
    "3.0 steps": lambda: pgd(steps=3.0),
    "seed None": lambda: pgd(seed=None),
    "a network for a module": lambda: pgd(net=NET),
    "half precision": lambda: pgd(net=network().half()),
    "no limits of inputs": lambda: pgd(bounds=None),
    "no limits of a ball": lambda: B.ball(X, 0.1, 2, lower=None, upper=None),
    "a gap of None": lambda: solve(gap=None),
    "a library as solver": lambda: solve(solver="highs"),
    "one network to compare": lambda: cl.study.compare(MODEL, (X, Y), norms="Linf", eps=0.1, limit=1, methods="cheap"),
    "networks by name": lambda: cl.study.compare({"a": MODEL}, (X, Y), eps=["1/255"], limit=1, methods="cheap"),
    "no limit of time": lambda: study((X, Y), time_limit=None),
    "a fraction": lambda: study((X, Y), eps="1/2550"),
    "channels last in a study": lambda: study((LAST, LABELS), net=CONV),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_meant_is_plain(name):
    assert TAKEN[name]() is not None


@pytest.mark.parametrize("norm", [cl.inf, np.inf, "inf", "linf", "Linf", "l_inf", "L_inf"])
def test_every_spelling_of_a_norm_is_the_same(norm):
    assert torch.equal(pgd(norm=norm).x, pgd(norm=math.inf).x)
    assert B.ball(X, 0.1, norm).upper.equal(B.ball(X, 0.1, math.inf).upper)
    assert cl.norm(NET.input - X[0], norm).p == math.inf


@pytest.mark.parametrize("bound", ["crown", "alpha_crown", "interval", "fast_dual", "lp"])
def test_bounds_take_modules_and_networks_alike(bound):
    region, rows = B.ball(X[:1], 0.01, "linf", lower=0, upper=1), torch.eye(10)[:2]
    found = [getattr(B, bound)(net, region, rows) for net in (MODEL, NET)]
    assert torch.equal(*found)


def test_layer_limits_take_a_module_too():
    assert B.layer_limits(MODEL, BALL).keys() == B.layer_limits(NET, BALL).keys()
