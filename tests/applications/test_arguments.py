"""What every application takes for inputs, labels, radii and networks, and how it names what it cannot take."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import clinch as cl
from clinch.applications import latent, monitors, policies, regression, segmentation, transforms
from clinch.applications.monitors import BoxMonitor, JoinedMonitor


def net(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*layers).eval()


CLASSIFIER = net(nn.Flatten(), nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 3))
SEGMENTER = net(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 1))
DECODER = net(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 9), nn.Unflatten(1, (1, 3, 3)))
LOADED = {model: cl.load(model, input_shape=shape) for model, shape in ((CLASSIFIER, (1, 3, 3)), (DECODER, (2,)))}
X = torch.rand(3, 1, 3, 3, generator=torch.Generator().manual_seed(0))
Y = CLASSIFIER(X).argmax(1)
MONITOR = BoxMonitor("2", torch.zeros(3, 4), torch.ones(3, 4), torch.full((3, 4), 0.01))

#: name -> (what is called, arguments that it can take)
CALLS = {
    "nearest_objection": (
        lambda net, x, norm, bounds, time_limit: (
            monitors.nearest_objection(net, MONITOR, x, norm=norm, bounds=bounds, time_limit=time_limit).start
        ),
        {"net": LOADED[CLASSIFIER], "x": X, "norm": 2, "bounds": (0, 1), "time_limit": 1e-3},
    ),
    "nearest_missed": (
        lambda net, x, y, norm, bounds, time_limit: (
            monitors.nearest_missed(net, MONITOR, x, y, norm=norm, bounds=bounds, time_limit=time_limit).start
        ),
        {"net": LOADED[CLASSIFIER], "x": X, "y": Y, "norm": 2, "bounds": (0, 1), "time_limit": 1e-3},
    ),
    "detection": (lambda net, x: str(monitors.detection(net, MONITOR, x)), {"net": LOADED[CLASSIFIER], "x": X}),
    "certified_blind": (
        lambda net, x, eps, norm, bounds: monitors.certified_blind(net, MONITOR, x, eps, norm=norm, bounds=bounds),
        {"net": LOADED[CLASSIFIER], "x": X, "eps": 0.1, "norm": 2, "bounds": (0, 1)},
    ),
    "calibrated": (
        lambda net, x: monitors.calibrated(net, MONITOR, x, 0.5).upper,
        {"net": LOADED[CLASSIFIER], "x": X},
    ),
    "linear_change": (
        lambda net, x, eps, norm, bounds: regression.linear_change(net, x, eps, norm=norm, bounds=bounds).value,
        {"net": LOADED[CLASSIFIER], "x": X, "eps": 0.1, "norm": 2, "bounds": (0, 1)},
    ),
    "changeable": (
        lambda net, x, eps, norm, bounds: (
            segmentation.changeable(net, x, eps=eps, norm=norm, bounds=bounds, steps=1).changed
        ),
        {"net": cl.load(SEGMENTER, input_shape=(1, 3, 3)), "x": X, "eps": 0.1, "norm": cl.inf, "bounds": (0, 1)},
    ),
    "reconstruct": (
        lambda net, x, bounds: latent.reconstruct(net, x, steps=1, starts=1, limits=bounds, latent_shape=2).image,
        {"net": LOADED[DECODER], "x": X, "bounds": (-2, 2)},
    ),
    "observations": (
        lambda net, x, eps, norm, bounds: policies.ObservationAttack(net, eps, "noise", norm, bounds)(x).clean,
        {"net": LOADED[CLASSIFIER], "x": X, "eps": 0.1, "norm": cl.inf, "bounds": (0, 1)},
    ),
    "under_transforms": (
        lambda net, x, y, bounds, time_limit: (
            transforms.under_transforms(net, x, y, "brightness=0.01", bounds=bounds, time_limit=time_limit).correct
        ),
        {"net": LOADED[CLASSIFIER], "x": X, "y": Y, "bounds": (0, 1), "time_limit": 0},
    ),
}

#: the same in other words
SAME = {
    "x": [X.numpy(), X.double().numpy(), X.tolist(), X.double(), X.clone().requires_grad_()],
    "y": [Y.numpy(), Y.tolist(), Y.to(torch.int32)],
    "eps": ["1/10", np.float32(0.1), torch.tensor(0.1)],
    "norm": [cl.inf, "linf", "l2", "2", 2.0],
    "bounds": [[0, 1], np.array([0, 1])],
    "time_limit": [0.0],
}

#: what nobody can mean
WRONG = {
    "x": [None, "abc", torch.tensor(0.5), X[:0], X[0], X[..., :2], X + 1j, X * torch.nan, {"a": 1}],
    "y": ["abc", Y[:2], Y + 3, Y - 3, Y.float(), Y[:, None]],
    "eps": [None, "abc", -0.1, torch.nan, torch.inf, torch.ones(2)],
    "norm": [None, "abc", -1, torch.nan],
    "bounds": [0, (0,), (1, 0), "01", (torch.nan, 1)],
    "time_limit": ["abc", -1, torch.nan],
    "net": [None, lambda x: x, "missing.onnx", {"weight": torch.ones(2)}],
}


@pytest.mark.parametrize("name", CALLS)
def test_arrays_lists_and_names_of_norms_are_taken(name):
    call, given = CALLS[name]
    for argument, values in SAME.items():
        for value in values if argument in given else ():
            changed = {**given, argument: value}
            expected = call(**{**given, "norm": 2 if "2" in str(value) else cl.inf} if argument == "norm" else given)
            found = call(**changed)
            assert str(found) == str(expected), (argument, value)


@pytest.mark.parametrize("name", CALLS)
def test_mistakes_are_told_in_one_line_before_any_work(name):
    call, given = CALLS[name]
    for argument, values in WRONG.items():
        for value in values if argument in given else ():
            with warnings.catch_warnings(), pytest.raises(cl.ClinchError) as caught:
                call(**{**given, argument: value})
            assert "\n" not in str(caught.value) and len(str(caught.value)) > 20, (argument, value)


@pytest.mark.parametrize("name", CALLS)
def test_modules_are_loaded_where_they_are_given(name):
    call, given = CALLS[name]
    modules = {network: model for model, network in LOADED.items()}
    assert str(call(**{**given, "net": modules.get(given["net"], SEGMENTER)})) == str(call(**given))


def test_a_monitor_of_another_network_is_named():
    other = cl.load(net(nn.Flatten(), nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 5)), input_shape=(1, 3, 3))
    with pytest.raises(cl.ClinchError, match=r"3 classes, the network outputs of shape \(5,\)"):
        monitors.detection(other, MONITOR, X)
    with pytest.raises(cl.ClinchError, match="no layer 'relu9'"):
        monitors.detection(CLASSIFIER, JoinedMonitor((BoxMonitor("relu9", *[torch.ones(3, 4)] * 3),), every=True), X)


def test_layers_that_name_nothing_are_refused():
    for layers in (None, 3, [], [2]):
        with pytest.raises(cl.ClinchError, match="names no layer"):
            monitors.fit_monitor(CLASSIFIER, layers, X)


def test_a_text_that_is_a_number_is_one():
    region = cl.bounds.ball(X, "1/10", 2)
    assert region.balls[0].radius.tolist() == [0.1] * 3
