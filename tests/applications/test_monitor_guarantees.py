"""Thresholds from held-out inputs, monitors of balls, detection rates, and certified blind radii."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import clinch as cl
from clinch.applications.monitors import (
    BallMonitor,
    Monitored,
    calibrated,
    certified_blind,
    detection,
    export_onnx,
    fit_monitor,
    fitted_to,
    nearest_missed,
    nearest_objection,
    noisy,
    predicted,
)  # fmt: skip
from clinch.applications.monitors.clusters import k_means
from clinch.applications.monitors.detection import Rate, blurred
from clinch.demo import SHAPE, digits, network

NET = cl.load(network(), input_shape=SHAPE)
TRAIN, TEST = digits("train").x[:400], digits("test")
KINDS = [("box", 1), ("box", 2), ("gaussian", 1), ("distance", 2)]


@pytest.fixture(scope="module", params=KINDS, ids=lambda one: f"{one[0]}{one[1]}")
def monitor(request):
    kind, boxes = request.param
    return fit_monitor(NET, "relu2", TRAIN, kind=kind, boxes=boxes, accept=0.9)


def accepted(monitor, x):
    return monitor.score(NET, x, predicted(NET, x)) <= 0


def test_the_threshold_is_the_smallest_that_accepts_so_many_held_out_inputs(monitor):
    held = TEST.x[:100]
    made = calibrated(NET, monitor, held, 0.9)
    wanted = math.ceil(101 * 0.9)
    assert wanted <= int(accepted(made, held).sum()) <= wanted + 1


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_new_inputs_are_accepted_as_often_as_asked_on_average(seed):
    """Split conformal: of exchangeable scores the next one is accepted with at least the share asked for."""
    scores = torch.rand(20, generator=torch.Generator().manual_seed(seed)).sort().values
    limit = scores[math.ceil(20 * 0.9) - 1]
    assert float((scores <= limit).double().mean()) >= 0.9


def test_too_few_held_out_inputs_are_said():
    with pytest.raises(cl.ClinchError, match="at least 99"):
        fit_monitor(NET, "relu2", TRAIN, accept=0.99, held_out=TEST.x[:50])
    with pytest.raises(cl.ClinchError, match="between 0 and 1"):
        fit_monitor(NET, "relu2", TRAIN, accept=99)
    with pytest.raises(cl.ClinchError, match="box, gaussian, distance"):
        fit_monitor(NET, "relu2", TRAIN, kind="tree")


def test_a_module_is_loaded(monitor):
    again = fit_monitor(network(), "relu2", TRAIN, accept=0.9)
    assert torch.equal(again.lower, fit_monitor(NET, "relu2", TRAIN, accept=0.9).lower)


def test_no_input_of_a_certified_ball_is_rejected(monitor):
    x, radius = TEST.x[:30], 0.05
    proven = certified_blind(NET, monitor, x, radius, norm=2)
    assert bool((~proven | accepted(monitor, x)).all()) and bool(proven.any())
    generator = torch.Generator().manual_seed(1)
    for _ in range(30):
        step = torch.randn(x.shape, generator=generator)
        step = radius * step / step.flatten(1).norm(dim=1).view(-1, 1, 1)
        assert bool((~proven | accepted(monitor, (x + step).clamp(0, 1))).all())


@pytest.mark.parametrize(("kind", "boxes"), KINDS)
def test_a_widened_monitor_is_blind_as_far_as_asked_around_its_training_inputs(kind, boxes):
    some = TRAIN[:120]
    plain = fit_monitor(NET, "relu2", some, kind=kind, boxes=boxes, accept=0.9)
    wide = fit_monitor(NET, "relu2", some, kind=kind, boxes=boxes, accept=0.9, blind_radius=0.03)
    own = some[accepted(plain, some)]
    assert bool(certified_blind(NET, wide, own, 0.03).all())
    assert not bool(certified_blind(NET, plain, own, 0.03).all())


def test_a_false_alarm_is_never_nearer_than_a_certified_radius(monitor):
    x = TEST.x[:1]
    alarm = nearest_objection(NET, monitor, x, time_limit=1)
    assert float(alarm.value) >= float(alarm.bound) >= 0
    if math.isfinite(float(alarm.value)):
        found = alarm.x
        assert bool(monitor.score(NET, found, predicted(NET, x)) >= 1 - 1e-4)
        assert not bool(certified_blind(NET, monitor, x, float(alarm.value) * 1.02))


def test_a_miss_of_balls_is_accepted_as_the_class_it_gets():
    monitor = fit_monitor(NET, "relu2", TRAIN, kind="gaussian", accept=0.9)
    missed = nearest_missed(NET, monitor, TEST.x[:1], TEST.y[:1], time_limit=2)
    assert float(missed.bound) <= float(missed.value)
    if int(missed.end[0]) >= 0:
        assert int(missed.end[0]) != int(TEST.y[0])
        assert float(monitor.score(NET, missed.x, missed.end)[0]) <= 1e-3


def test_distances_are_those_of_the_covariance():
    monitor = fit_monitor(NET, "relu2", TRAIN, kind="gaussian")
    assert isinstance(monitor, BallMonitor)
    h = torch.rand(5, 16, dtype=torch.float64)
    away = h - monitor.centres[3, 0]
    precision = monitor.metric @ monitor.metric.T
    assert torch.allclose(monitor.distance(h, 3), (away @ precision * away).sum(1).sqrt())
    with pytest.raises(cl.ClinchError, match="one of its 10 classes"):
        monitor.outside(NET, torch.tensor([1, 2]))


def test_rates_have_wilsons_interval():
    low, high = Rate(9, 10).interval
    assert low == pytest.approx(0.596, abs=1e-3) and high == pytest.approx(0.982, abs=1e-3)
    assert Rate(0, 50).interval[0] == pytest.approx(0) and str(Rate(1, 2)).startswith("50.0 %")


def test_detection_counts_what_is_rejected(monitor):
    found = detection(NET, monitor, TEST.x[:60], {"noise": noisy(TEST.x[:60], 0.5), "itself": TEST.x[:60]})
    assert found.alarms.count == int((~accepted(monitor, TEST.x[:60])).sum()) == found.detected["itself"].count
    assert found.auroc["itself"] == pytest.approx(0.5) and found.auroc["noise"] > 0.5
    assert "noise" in str(found) and found.markdown().count("\n") == 4
    with pytest.raises(cl.ClinchError, match="no inputs"):
        detection(NET, monitor, TEST.x[:0])


def test_other_data_take_the_networks_shape_and_blur_keeps_what_is_flat():
    assert fitted_to(torch.rand(2, 3, 32, 32), (1, 28, 28)).shape == (2, 1, 28, 28)
    assert fitted_to(torch.rand(2, 8, 8), (3, 16, 16)).shape == (2, 3, 16, 16)
    inner = blurred(torch.ones(1, 1, 40, 40), 1.0)[..., 10:-10, 10:-10]
    assert torch.allclose(inner, torch.ones_like(inner), atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_clusters_are_numbered_without_gaps_and_none_is_nearer_to_another_mean(seed, k):
    points = torch.randn(30, 3, generator=torch.Generator().manual_seed(seed)).double()
    cluster = k_means(points, k, seed)
    assert cluster.unique().tolist() == list(range(int(cluster.max()) + 1)) and int(cluster.max()) < k
    means = torch.stack([points[cluster == c].mean(0) for c in cluster.unique()])
    away = torch.cdist(points, means)
    own = away.gather(1, cluster.unsqueeze(1))[:, 0]
    assert bool((own <= away.amin(1) + 1e-9).all())


def test_a_network_and_its_monitor_are_one_onnx_file(monitor, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    path, x = tmp_path / "monitored.onnx", torch.cat([TEST.x[:20], noisy(TEST.x[:20], 0.5)]).float()
    export_onnx(NET, monitor, path)
    outputs, score = onnxruntime.InferenceSession(path).run(None, {"input": x.numpy()})
    assert (torch.from_numpy(outputs).argmax(1) == predicted(NET, x)).all()
    own = monitor.score(NET, x, predicted(NET, x))
    torch.testing.assert_close(torch.from_numpy(score).double(), own, rtol=1e-4, atol=1e-4)
    assert bool((own <= 0).any()) and bool((own > 0).any())
    assert Monitored(NET, monitor)(x)[0].shape == (40, 10)


def test_a_monitor_of_several_layers_and_one_of_another_network(tmp_path):
    monitor = fit_monitor(NET, ["relu1", "relu2"], TRAIN, boxes=2)
    x = TEST.x[:30]
    classes = predicted(NET, x)
    torch.testing.assert_close(Monitored(NET, monitor)(x.float())[1].double(), monitor.score(NET, x, classes))
    other = cl.load(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval(), input_shape=SHAPE)
    with pytest.raises(cl.ClinchError, match="monitor has 10 classes"):
        export_onnx(other, monitor, tmp_path / "none.onnx")
