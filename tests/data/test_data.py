"""The MNIST reader: idx files plain and compressed, damaged files, where data is looked for."""

import gzip
import struct

import numpy as np
import pytest
import torch

from clinch.io import data
from clinch.io.data import DataError, mnist, model_file, read_idx, reference_file


def idx(array):
    return b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    """A data folder with five test images in torchvision's layout."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    labels = np.array([7, 2, 1, 0, 4], dtype=np.uint8)
    (raw / "t10k-images-idx3-ubyte").write_bytes(idx(images))
    (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return tmp_path, images, labels


def test_images_and_labels_in_order(folder):
    root, images, labels = folder
    x, y = mnist("test", root)
    assert x.shape == (5, 1, 28, 28) and x.dtype == torch.float32
    assert torch.equal((x[:, 0] * 255).round().to(torch.uint8), torch.from_numpy(images))
    assert y.tolist() == labels.tolist()


def test_the_environment_variable_names_the_folder(folder, monkeypatch):
    monkeypatch.setenv("CLINCH_DATA", str(folder[0]))
    assert len(mnist("test").x) == 5
    with pytest.raises(DataError, match="train-images"):
        mnist("train")


def test_the_environment_variable_may_name_the_folder_above(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CLINCH_DATA", str(tmp_path))
    assert data.data_folder() == tmp_path
    (tmp_path / "data").symlink_to(folder[0], target_is_directory=True)
    assert data.data_folder() == tmp_path / "data" and len(mnist("test").x) == 5


def test_without_files_openml_is_asked_and_its_failure_is_told(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.delenv("CLINCH_DATA", raising=False)
    monkeypatch.setattr(data, "data_folder", lambda: tmp_path)
    monkeypatch.setattr("sklearn.datasets.fetch_openml", refuse)
    with pytest.raises(DataError, match=r"no route to host.*CLINCH_DATA"):
        mnist("test")


def test_openml_gives_the_same_split_as_the_files(tmp_path, monkeypatch):
    pixels = np.zeros((70_000, 784), dtype=np.uint8)
    pixels[60_000:, 0] = 255
    monkeypatch.delenv("CLINCH_DATA", raising=False)
    monkeypatch.setattr(data, "data_folder", lambda: tmp_path)
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda *a, **k: (pixels, np.full(70_000, "3")))
    x, y = mnist("test")
    assert len(x) == 10_000 and bool((x[:, 0, 0, 0] == 1).all()) and bool((y == 3).all())


DAMAGED = {
    "empty": b"",
    "short": b"\x00\x00",
    "text": b"not an idx file",
    "floats": b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00",
    "no shape": b"\x00\x00\x08\x03\x00\x00",
    "truncated": idx(np.zeros(4, np.uint8))[:-1],
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_are_refused(tmp_path, content):
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(DataError, match="Fetch it again"):
        read_idx(path)


def test_a_damaged_archive_and_a_missing_file_are_refused(tmp_path):
    (tmp_path / "images.gz").write_bytes(gzip.compress(idx(np.zeros(99, np.uint8)))[:-9])
    with pytest.raises(DataError, match="Compressed file ended"):
        read_idx(tmp_path / "images")
    with pytest.raises(DataError, match="no file"):
        read_idx(tmp_path / "labels")


def test_images_and_labels_that_do_not_belong_together(folder):
    root, _, labels = folder
    (root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels[:3])))
    with pytest.raises(DataError, match="belong together"):
        mnist("test", root)
    with pytest.raises(DataError, match="'train' or 'test'"):
        mnist("validation", root)


def test_models_lie_in_or_beside_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CLINCH_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError, match=r"CLINCH_DATA"):
        model_file("net.onnx")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "net.onnx").touch()
    assert model_file("net.onnx") == tmp_path / "models" / "net.onnx"
    with pytest.raises(DataError, match=r"no reference 'curve\.csv'"):
        reference_file("curve.csv")
    (tmp_path / "data" / "references").mkdir(parents=True)
    (tmp_path / "data" / "references" / "curve.csv").touch()
    assert reference_file("curve.csv") == tmp_path / "data" / "references" / "curve.csv"
