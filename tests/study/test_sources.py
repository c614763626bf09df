"""Data for studies: every kind of source, and what is wrong with the others."""

import pickle
import struct

import numpy as np
import pytest
import torch
from PIL import Image

import clinch as cl
from clinch.io.data import DataError
from clinch.study import evaluate
from clinch.study.sources import array_source, dataset_source, first_shape, open_source

RNG = np.random.default_rng(0)


def read(source, shape, places=None):
    return source.read(places or range(source.size), shape, torch.float32)


def idx(array):
    return b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_torchvision_layout(tmp_path, monkeypatch, name, folder):
    monkeypatch.setenv("CLINCH_DATA", str(tmp_path))
    with pytest.raises(DataError, match="There is no"):
        open_source(name)
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    images, labels = RNG.integers(0, 256, (5, 28, 28), dtype=np.uint8), np.array([7, 2, 1, 0, 4], dtype=np.uint8)
    (raw / "t10k-images-idx3-ubyte").write_bytes(idx(images))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx(labels))
    batch = read(open_source(name), (1, 28, 28))
    assert torch.equal((batch.x[:, 0] * 255).round().to(torch.uint8), torch.from_numpy(images))
    assert batch.y.tolist() == labels.tolist() and batch.errors == [None] * 5
    assert read(open_source(name), (784,), range(1, 3)).x.shape == (2, 784)


def test_cifar_binaries(tmp_path, monkeypatch):
    monkeypatch.setenv("CLINCH_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"no file .*test_batch\.bin"):
        open_source("cifar10")
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    images, labels = RNG.integers(0, 256, (3, 3, 32, 32), dtype=np.uint8), [3, 8, 0]
    content = b"".join(bytes([y]) + x.tobytes() for x, y in zip(images, labels))
    (folder / "test_batch.bin").write_bytes(content)
    batch = read(open_source("cifar10"), (3, 32, 32))
    assert torch.equal((batch.x * 255).round().to(torch.uint8), torch.from_numpy(images)) and batch.y.tolist() == labels
    (folder / "test_batch.bin").write_bytes(content[:-1])
    with pytest.raises(DataError, match="no multiple of 3073"):
        open_source("cifar10")


def test_cifar_as_torchvision_leaves_it(tmp_path, monkeypatch):
    monkeypatch.setenv("CLINCH_DATA", str(tmp_path))
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    x, labels = RNG.integers(0, 256, (3, 3, 32, 32), dtype=np.uint8), [3, 8, 0]
    # the keys' order is that of the published files, whose strings are those of Python 2 or bytes
    for keys in (str, str.encode):
        batch = {
            "batch_label": "testing batch 1 of 1",
            "labels": labels,
            "data": x.reshape(3, -1),
            "filenames": ["a", "b"],
        }
        content = pickle.dumps({keys(key): value for key, value in batch.items()}, protocol=2)
        (folder / "test_batch").write_bytes(content)
        found = read(open_source("cifar10"), (3, 32, 32))
        assert torch.equal((found.x * 255).round().to(torch.uint8), torch.from_numpy(x)) and found.y.tolist() == labels
    assert torch.equal(cl.images("cifar10").x, found.x)
    for wrong in (content[:-100], content[:3000], b"", pickle.dumps({"labels": [1, 2], "data": b"0" * 3072})):
        (folder / "test_batch").write_bytes(wrong)
        with pytest.raises(DataError, match="Fetch it again"):
            open_source("cifar10")


def test_nothing_in_a_pickle_of_images_runs(tmp_path, monkeypatch):
    class Runs:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").write_text, ("yes",))

    monkeypatch.setenv("CLINCH_DATA", str(tmp_path))
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps({"labels": [1], "data": Runs()}))
    with pytest.raises(DataError):
        cl.images("cifar10")
    assert not (tmp_path / "ran").exists()


def test_images_of_a_name():
    x, y = cl.images("mnist-sample:train")
    assert x.shape == (2000, 1, 28, 28) and x.dtype == torch.float32 and len(y) == 2000
    assert repr(cl.images("digits")).startswith("Images(x=(359, ")
    for name, split in (("minst", "test"), (None, "test"), ("digits", "tset"), ("digits:all", "test")):
        with pytest.raises(cl.ClinchError, match="There is no"):
            cl.images(name, split)


def test_a_folder_with_arrays_says_so(tmp_path):
    np.savez(tmp_path / "test.npz", x=np.zeros((1, 2)), y=np.zeros(1))
    with pytest.raises(DataError, match=r"It has test\.npz: name that file"):
        open_source(str(tmp_path))


def test_npz_with_channels_last(tmp_path):
    x, y = RNG.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8), np.arange(4)
    np.savez(tmp_path / "set.npz", x=x, y=y)
    batch = read(open_source(tmp_path / "set.npz"), (3, 6, 5))
    assert torch.allclose(batch.x, torch.from_numpy(x).permute(0, 3, 1, 2) / 255.0) and batch.y.tolist() == [0, 1, 2, 3]
    np.savez(tmp_path / "other.npz", pixels=x, y=y)
    np.savez(tmp_path / "labels.npz", x=x, y=y + 0.5)
    (tmp_path / "broken.npz").write_bytes((tmp_path / "set.npz").read_bytes()[:100])
    for name, message in (
        ("other.npz", "name them x and y"), ("labels.npz", "give whole numbers"), ("broken.npz", "cannot be read"),
        ("nowhere.npz", "No such file"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            open_source(tmp_path / name)


def test_image_folder_and_a_corrupt_file(tmp_path):
    with pytest.raises(DataError, match="one folder per class"):
        open_source(tmp_path)
    pixels = RNG.integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    for name, array in zip(("cat", "dog"), pixels):
        (tmp_path / name).mkdir()
        Image.fromarray(array).save(tmp_path / name / "1.png")
    (tmp_path / "dog" / "0.png").write_bytes(b"no image")
    source = open_source(tmp_path)
    batch = read(source, (3, 4, 4))
    assert batch.y.tolist() == [0, -1, 1]
    assert batch.errors[0] is None and "UnidentifiedImageError" in batch.errors[1] and batch.errors[2] is None
    assert torch.allclose(batch.x[2], torch.from_numpy(pixels[1]).permute(2, 0, 1) / 255.0)
    assert first_shape(source) == (4, 4, 3)


def test_any_data_set_and_what_its_items_raise():
    class Set(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            if i == 1:
                raise OSError("disk on fire")
            return torch.full((2, 2), torch.nan if i == 2 else 0.5), i

    batch = read(open_source(Set()), (4,))
    assert batch.errors[0] is None and batch.errors[3] is None
    assert batch.errors[1] == "OSError: disk on fire" and "NaN" in batch.errors[2]
    assert dataset_source(Set()).hash == dataset_source(Set()).hash
    wrong = read(open_source(Set()), (5,))
    assert "the network takes (5,)" in wrong.errors[0]


def test_hashes_follow_the_content():
    x, y = torch.rand(3, 2, generator=torch.Generator().manual_seed(0)), torch.arange(3)
    other = x.clone()
    other[2, 1] += 1e-6
    hashes = [array_source("a", a, b).hash for a, b in ((x, y), (other, y), (x, y.flip(0)), (x.view(3, 2, 1), y))]
    assert len(set(hashes)) == 4 and array_source("b", x.clone(), y).hash == hashes[0]


@pytest.mark.parametrize(
    ("data", "message"),
    [("minst", "no data 'minst'"), ("mnist:validation", "mnist:train or mnist:test"), (7, "int is no data"),
     ((torch.zeros(3, 2), torch.zeros(2)), "same N"), ([], "empty")],
)  # fmt: skip
def test_bad_data_is_one_line(data, message):
    with pytest.raises(DataError, match=message) as caught:
        open_source(data)
    assert "\n" not in str(caught.value)


def test_digits_are_the_default():
    source = open_source()
    batch = read(source, (8, 8))
    assert source.size == 359 and batch.x.shape == (359, 8, 8) and batch.errors == [None] * 359
    assert float(batch.x.min()) >= 0 and float(batch.x.max()) <= 1 and set(batch.y.tolist()) == set(range(10))
    assert open_source("digits:train").hash != source.hash


def test_a_corrupt_image_is_one_failed_row_of_a_study(tmp_path):
    for name, shade in (("0", 40), ("1", 200)):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.fromarray(np.full((4, 4), shade + i, np.uint8)).save(tmp_path / name / f"{i}.png")
    whole = (tmp_path / "1" / "1.png").read_bytes()
    (tmp_path / "1" / "1.png").write_bytes(whole[:40])
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 16))
        model[1].bias.copy_(torch.tensor([8.0, -8.0]))
    found = evaluate(cl.load(model, input_shape=(1, 4, 4)), tmp_path, eps=0.05)
    assert [row.status for row in found.rows] == ["robust"] * 4 + ["failed", "robust"]
    assert found.rows[4].label is None and "Error" in found.rows[4].error
    assert found.interval == (5 / 6, 1.0)


def test_some_images_of_mnist_come_with_the_package():
    source = open_source("mnist-sample")
    assert source.size == 500 and open_source("mnist-sample:train").size == 2000
    assert source.labels[:3].tolist() == [7, 2, 1]
