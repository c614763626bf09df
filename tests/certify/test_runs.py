"""Certificates of whole runs: one file for each image that the study has proven, kept, and for no other study."""

import pytest
import torch

import clinch as cl
from clinch.checker.certificate import read_certificate, read_network
from clinch.checker.check import check
from clinch.study import evaluate
from clinch.study.certificates import certify_run
from clinch.study.store import StoreError
from clinch.study.template import Template


def study(seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(4, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3)).eval()
    x = torch.rand(12, 4)
    return cl.load(model, input_shape=(4,)), (x, model(x).argmax(1))


@pytest.mark.parametrize(("eps", "norm"), [(0.1, cl.inf), (None, 2)])
def test_every_proven_image_has_a_certificate(tmp_path, eps, norm):
    net, data = study()
    found = evaluate(net, data, norm=norm, eps=eps, out=tmp_path, time_limit=30)
    rows = {row.image: row for row in found.rows if row.status in ("robust", "closed")}
    assert len(rows) >= 3
    made = list(certify_run(tmp_path, net, data, Template(float(norm), eps), time_limit=10))
    assert {one.image for one in made if one.file is not None} >= rows.keys()
    layers, sha256 = read_network(tmp_path / "certificates" / "network.safetensors")
    for one in made:
        if one.file is not None:
            report = check(read_certificate(one.file), layers, sha256)
            assert report.bound == one.bound
            assert eps is not None or one.bound <= rows[one.image].bound
            one.file.touch()
    times = [one.file.stat().st_mtime_ns for one in made if one.file]
    again = list(certify_run(tmp_path, net, data, Template(float(norm), eps), time_limit=10))
    assert times == [one.file.stat().st_mtime_ns for one in again if one.file]


def test_another_study_is_refused(tmp_path):
    net, data = study()
    evaluate(net, data, eps=0.1, out=tmp_path / "run", time_limit=30)
    other, others = study(1)
    for wrong, arguments in {
        "network": (other, data, Template(eps=0.1)),
        "data": (net, others, Template(eps=0.1)),
        "question": (net, data, Template(eps=0.2)),
    }.items():
        with pytest.raises(StoreError, match=f"another {wrong}"):
            list(certify_run(tmp_path / "run", *arguments))
    with pytest.raises(StoreError, match="no run"):
        list(certify_run(tmp_path / "nothing", net, data, Template(eps=0.1)))
