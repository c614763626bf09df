"""Networks and images that come with the package."""

import hashlib
from dataclasses import replace

import pytest
import torch

import clinch as cl
from clinch.demo import zoo as room
from clinch.io.data import mnist, model_file, reference_file
from clinch.papers.parts.networks import reference_network


@pytest.mark.parametrize("name", cl.zoo())
def test_each_network_is_the_one_that_is_written_down(name):
    entry, model = room.ZOO[name], cl.zoo(name)
    content = model_file(f"{entry.file}.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest()[:16] == entry.sha256 and len(content) < 2**21
    assert not model.training and entry.recipe and entry.source
    x, y = mnist(few=True)
    with torch.no_grad():
        share = float((model(x).argmax(1) == y).double().mean())
    # of 500 images: four standard errors of the share of all 10,000
    assert abs(share - entry.accuracy) <= 4 * (entry.accuracy * (1 - entry.accuracy) / 500) ** 0.5


def test_images_that_come_along_are_mnists_own():
    train, test = mnist("train", few=True), mnist("test", few=True)
    assert train.x.shape == (2000, 1, 28, 28) and test.y[:5].tolist() == [7, 2, 1, 0, 4]
    assert float(train.x.min()) == 0 and float(train.x.max()) == 1
    assert cl.study.open_source("mnist-sample").size == 500


def test_wrong_names_and_files_are_said(monkeypatch, tmp_path):
    with pytest.raises(cl.ClinchError, match="mnist-small"):
        cl.zoo("resnet50")
    with pytest.raises(cl.ClinchError, match="not trained here"):
        room.train("mnist-wk17a")
    monkeypatch.setattr(room, "_FOLDER", tmp_path)
    (tmp_path / "mnist_small.safetensors").write_bytes(b"other")
    with pytest.raises(cl.ClinchError, match="not those of this version"):
        cl.zoo("mnist-small")


def test_reproductions_find_networks_and_curves_of_the_package():
    assert reference_network("mnist_small").input_shape == (1, 28, 28)
    assert reference_file("balda_fooling_ratio_fcnn.csv").is_file()


def test_a_network_is_trained_again_by_its_recipe(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(room.ZOO, "mnist-small", replace(room.ZOO["mnist-small"], epochs=(2, 1)))
    monkeypatch.setattr("clinch.io.data.mnist", lambda split="test": mnist(split, few=True))
    threads = torch.get_num_threads()
    target = tmp_path / "again.safetensors"
    monkeypatch.setattr("sys.argv", ["zoo", "mnist-small", str(target)])
    room.main()
    torch.set_num_threads(threads)
    assert float(capsys.readouterr().out.split("%")[0]) > 20 and target.stat().st_size > 150_000
    monkeypatch.setattr("sys.argv", ["zoo"])
    with pytest.raises(SystemExit, match="NAME FILE"):
        room.main()
