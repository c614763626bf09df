"""Data for studies: named sets, ``.npz`` files, folders of images, torch data sets, arrays; read batch by batch.

Pixels come out as floating-point numbers in [0, 1] where they were bytes, and as they are where they were not. Nothing
is clipped or normalised: a normalisation belongs into the network, so that radii are in the units of the data.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from clinch.errors import ProblemError, one_line
from clinch.io.cifar import cifar10
from clinch.io.data import VARIABLE, DataError, Images, data_folder, mnist, read_idx
from clinch.io.files import printable, read_limited
from clinch.io.numpy_files import header_in_npz, names_in_npz, stored_in_npz
from clinch.runtime.optional import required
from clinch.study.fingerprint import fingerprint

#: endings of the files that a folder of images is searched for
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", ".webp")
#: what such a file may hold, whatever its name; more pixels are not decoded
FORMATS, MOST_PIXELS = ("PNG", "JPEG", "BMP", "PPM", "WEBP"), 2**24
#: of a JPEG: a progressive one has about ten, and each may refine every pixel
MOST_SCANS = 100
#: bytes of an image written as text, which takes long to read
MOST_LETTERS = 2**20
#: bytes of such a file, files in a folder, and files and folders looked at on the way, at most
IMAGE_LIMIT, MOST_FILES, MOST_ENTRIES = 2**26, 10**7, 2 * 10**7
#: names of the two arrays of an .npz file, in the order they are looked for
ARRAYS = (("x", "y"), ("images", "labels"), ("x_test", "y_test"), ("arr_0", "arr_1"))
SPLITS = ("train", "test")
#: items of a data set that stand for all of them in its hash
SAMPLES = 16


class Batch(NamedTuple):
    """Images as the network takes them.

    Attributes:
        x: ``(N, *input_shape)``; zeros where an image could not be read.
        y: ``(N,)`` labels; -1 where an image could not be read.
        errors: ``(N,)`` why an image could not be read; None for the others.
    """

    x: Tensor
    y: Tensor
    errors: list[str | None]


@dataclass(frozen=True)
class Source:
    """Images that are read when they are needed.

    Attributes:
        name: for people.
        size: number of images.
        hash: of the data; for a torch data set of its length and of :data:`SAMPLES` items.
        items: positions -> image and label of each, or the exception that reading it raised.
        labels: ``(size,)`` where they are known without reading an image; else None.
    """

    name: str
    size: int
    hash: str
    items: Callable[[Sequence[int]], Sequence[tuple[Any, Any] | Exception]]
    labels: Tensor | None = None

    def read(self, places: Sequence[int], shape: tuple[int, ...], dtype: torch.dtype) -> Batch:
        """Images at these places in the network's shape and dtype; what cannot be read gets its error.

        Args:
            places: positions in the data.
            shape: of one input of the network. Images of as many elements take that shape, images whose channels come
                last are turned where the network wants them first.
            dtype: of the network.
        """
        x = torch.zeros((len(places), *shape), dtype=dtype)
        y = torch.full((len(places),), -1, dtype=torch.int64)
        errors: list[str | None] = [None] * len(places)
        for row, item in enumerate(self.items(places)):
            try:
                if isinstance(item, Exception):
                    raise item
                label = _label(item[1])
                x[row] = _pixels(item[0], shape).to(dtype)
                y[row] = label
            except Exception as error:  # whatever a reader raises is this image's failure, not the study's
                x[row] = 0.0
                errors[row] = one_line(error)
        return Batch(x, y, errors)


def open_source(data: Any = "digits") -> Source:
    """What ``--data`` and :func:`clinch.study.evaluate` take.

    ========================= =====================================================================================
    ``digits``                digits of 8 by 8 pixels, those held out from the demo's training (the default)
    ``mnist``                 torchvision's layout: ``MNIST/raw`` in the data folder
    ``mnist-sample``          its first 500 images (2,000 for training), which come with the package
    ``fashion-mnist``         the same: ``FashionMNIST/raw``
    ``cifar10``               ``cifar-10-batches-bin`` or ``-py`` in the data folder
    ``NAME:train``            the training images of any of these; ``NAME:test`` is the default
    ``FILE.npz``              arrays ``x`` and ``y`` (or ``images``, ``labels``; ``x_test``, ``y_test``)
    ``FOLDER``                one folder of images per class, classes in the order of their names
    a torch data set          items of image and label, any object with ``len()`` and ``[]``
    ``(x, y)``                arrays or tensors
    ========================= =====================================================================================

    Raises:
        DataError: an unknown name, a missing or damaged file, or an object that holds no images and labels.

    Example:
        >>> open_source("digits").size
        359
    """
    if isinstance(data, Source):
        return data
    if isinstance(data, (str, Path)):
        return _named(str(data))
    if isinstance(data, tuple) and len(data) == 2:
        return array_source("arrays", *data)
    if isinstance(data, Tensor | np.ndarray):
        raise DataError(
            f"The data are images of shape {tuple(data.shape)} without labels. Give both, as a pair: (x, y)."
        )
    if hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        return dataset_source(data)
    raise DataError(
        f"A {type(data).__name__} is no data. Give a name such as 'mnist', an .npz file, a folder, a data set with "
        "len() and [], or a pair (x, y)."
    )


def laid_out(source: Source, layout: str | None) -> Source:
    """The same data, whose images are said to have their channels first (``"nchw"``) or last (``"nhwc"``).

    Networks that want them elsewhere are given turned images. None: what the shapes say, which is plain unless an
    image's height or width is one to four.

    Raises:
        DataError: another word.
    """
    if layout is None or layout.lower() == "nchw":
        return source
    if layout.lower() != "nhwc":
        raise DataError(f"There is no layout '{layout:.40}'. Write nchw (channels first) or nhwc (channels last).")

    def items(places: Sequence[int]) -> list[tuple[Any, Any] | Exception]:
        return [
            one if isinstance(one, Exception) else (_channels_first(one[0]), one[1]) for one in source.items(places)
        ]

    return replace(source, items=items)


def _channels_first(image: Any) -> Tensor:
    x = _tensor(image)
    return x.permute(2, 0, 1) if x.dim() == 3 else x


def first_shape(source: Source) -> tuple[int, ...] | None:
    """The shape of the first image that can be read, of the first :data:`SAMPLES`; None where none can."""
    for item in source.items(range(min(SAMPLES, source.size))):
        if not isinstance(item, Exception):
            return tuple(_tensor(item[0]).shape)
    return None


def array_source(name: str, x: Any, y: Any) -> Source:
    """Images ``(N, ...)`` and labels ``(N,)`` that are in memory.

    Raises:
        DataError: their numbers differ, or there are none.
    """
    images, labels = _tensor(x), _tensor(y)
    _belong_together(name, tuple(images.shape), tuple(labels.shape))
    if images.is_complex():
        raise DataError(f"{name}: the images have complex numbers; give their real parts, x.real.")
    if labels.dtype.is_floating_point or labels.is_complex() or bool((labels < 0).any()):
        odd = f"of dtype {labels.dtype}" if labels.dtype.is_floating_point else f"as small as {int(labels.min())}"
        raise DataError(f"{name}: the labels are {odd}; give the number of each image's class, from 0 on.")
    return Source(
        name, len(images), fingerprint(images, labels),
        lambda places: list(zip(images[torch.as_tensor(list(places))], labels[torch.as_tensor(list(places))].tolist())),
        labels,
    )  # fmt: skip


def _belong_together(name: str, x: tuple[int, ...], y: tuple[int, ...]) -> None:
    if not x or len(y) != 1 or x[0] != y[0] or not x[0]:
        raise DataError(f"{name}: images of shape {x} and labels of shape {y}; give (N, ...) and (N,) with the same N.")


def dataset_source(dataset: Any, name: str | None = None) -> Source:
    """Any object with ``len()`` and ``[]`` that gives an image and a label, such as a ``torch.utils.data.Dataset``.

    Raises:
        DataError: it is empty.
    """
    size, title = len(dataset), name or type(dataset).__name__
    if not size:
        raise DataError(f"{title} is empty. Give data with at least one image.")

    def items(places: Sequence[int]) -> list[tuple[Any, Any] | Exception]:
        return [_caught(lambda place=place: dataset[place]) for place in places]

    sampled = sorted({round(i * (size - 1) / (SAMPLES - 1)) for i in range(SAMPLES)})
    parts = [str(item) if isinstance(item, Exception) else _hashable(item) for item in items(sampled)]
    return Source(title, size, fingerprint(title, size, parts), items)


def folder_source(folder: Path) -> Source:
    """A folder with one folder of images per class; the classes are numbered in the order of their names.

    Links to files and folders within the folder are followed once; those that lead out of it are not read.

    Raises:
        DataError: there are no such images, one of them is no ordinary file or too large, or a link leads elsewhere.
    """
    inside = folder.resolve()
    classes = sorted(path for path in folder.iterdir() if _within(path, inside).is_dir())
    files = [(path, label) for label, kind in enumerate(classes) for path in _images_below(kind, inside)]
    if not files:
        arrays = sorted(path.name for path in folder.glob("*.npz"))
        found = f" It has {arrays[0]}: name that file." if arrays else ""
        raise DataError(
            f"There are no images in {folder}: it needs one folder per class with files that end with "
            f"{', '.join(ENDINGS)}.{found}"
        )
    parts = [(path.relative_to(folder).as_posix(), fingerprint(_content(path))) for path, _ in files]
    return Source(
        folder.name, len(files), fingerprint(parts),
        lambda places: [_caught(lambda file=files[place]: (_decoded(file[0]), file[1])) for place in places],
        torch.tensor([label for _, label in files]),
    )  # fmt: skip


def _within(path: Path, inside: Path) -> Path:
    """The path, unless it is a link that leads out of the folder."""
    try:
        left = path.is_symlink() and not path.resolve().is_relative_to(inside)
    except (OSError, RuntimeError):  # a circle of links
        left = True
    if left:
        raise DataError(f"'{path}' is a link that leads out of the folder of images. Copy what it leads to.")
    return path


def _images_below(kind: Path, inside: Path) -> list[Path]:
    """The images of one class, in the order of their names."""
    found, waiting, seen = [], [kind], 0
    while waiting:
        for path in waiting.pop().iterdir():
            seen += 1
            if seen > MOST_ENTRIES or len(found) > MOST_FILES:
                raise DataError(f"'{kind}' has too many files. Give a folder with at most {MOST_FILES:,} images.")
            if _within(path, inside).is_dir():
                # a linked folder may lead back here
                waiting += [] if path.is_symlink() else [path]
            elif path.suffix.lower() in ENDINGS:
                found.append(path)
    return sorted(found)


def _content(path: Path) -> bytes:
    """The bytes of an image's file."""
    return read_limited(path, IMAGE_LIMIT, DataError)


# --- names and files --------------------------------------------------------------------------------------------------


def _named(text: str) -> Source:
    name, _, split = text.partition(":")
    if name in _SETS:
        if split not in ("", *SPLITS):
            raise DataError(f"'{text}' names no split: write {name}:train or {name}:test.")
        return array_source(f"{name}:{split or 'test'}", *_SETS[name](split or "test"))
    path = Path(text)
    if path.is_dir():
        return folder_source(path)
    if path.suffix.lower() == ".npz":
        return array_source(path.name, *_npz(path))
    raise DataError(
        f"There is no data '{text}'. Write one of {', '.join(_SETS)}, or name an .npz file, or a folder with one "
        "folder of images per class."
    )


def _digits(split: str) -> tuple[Any, Any]:
    from clinch.demo import digits

    return digits(split)


def _fashion(split: str) -> tuple[Any, Any]:
    folder = data_folder() / "FashionMNIST" / "raw"
    prefix = "train" if split == "train" else "t10k"
    try:
        x, y = (read_idx(folder / f"{prefix}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    except DataError as error:
        raise DataError(f"{error} Put FashionMNIST/raw into a folder and set {VARIABLE} to it.") from None
    if x.ndim != 3 or y.ndim != 1 or len(x) != len(y):
        raise DataError(f"The files of {folder} do not belong together. Fetch them again.")
    return x[:, None].copy(), y.astype(np.int64)


_SETS: dict[str, Callable[[str], tuple[Any, Any]]] = {
    "digits": _digits,
    "mnist": mnist,
    "mnist-sample": lambda split: mnist(split, few=True),
    "fashion-mnist": _fashion,
    "cifar10": cifar10,
}


def images(name: str, split: str = "test") -> Images:
    """Images ``(N, C, H, W)`` in [0, 1], float32, and labels ``(N,)`` of a data set that has a name.

    Args:
        name: ``"digits"`` and ``"mnist-sample"`` come with the package; ``"mnist"``, ``"fashion-mnist"`` and
            ``"cifar10"`` are looked for in the folder that the environment variable ``CLINCH_DATA`` names. Also with
            the split: ``"mnist-sample:train"``.
        split: ``"train"`` or ``"test"``.

    Raises:
        DataError: there is none of that name or split, or its files are not there.

    Example:
        >>> x, y = cl.images("mnist-sample")
        >>> x.shape, y[:3]
        (torch.Size([500, 1, 28, 28]), tensor([7, 2, 1]))
    """
    base, _, own = name.partition(":") if isinstance(name, str) else (repr(name), "", "")
    split = own or split
    if base not in _SETS:
        raise DataError(f"There is no data set '{name!s:.60}'. Known are: {', '.join(_SETS)}.")
    if split not in SPLITS:
        raise DataError(f"There is no split '{split!s:.60}' of {base}. Write train or test.")
    x, y = (_tensor(part) for part in _SETS[base](split))
    return Images(x / 255 if x.dtype == torch.uint8 else x, y)


def is_named(text: str) -> bool:
    """Whether a text names a data set by itself, such as ``mnist:train``, and no file or folder."""
    name, _, split = text.partition(":")
    return name in _SETS and split in ("", *SPLITS)


def _npz(path: Path) -> tuple[Any, Any]:
    try:
        names = names_in_npz(path)
        pair = next((pair for pair in ARRAYS if set(pair) <= set(names)), None)
        if pair is None:
            listed = ", ".join(printable(name[:40], lines=False) for name in names[:8]) or "none"
            raise DataError(f"{path} has arrays {listed}; name them x and y.")
        # what they are said to be comes first: no bytes of arrays that do not belong together are unpacked
        x, y = (header_in_npz(path, name) for name in pair)
        if y.dtype.kind not in "iu":
            raise DataError(f"{path}: {pair[1]} has dtype {y.dtype}; give whole numbers.")
        _belong_together(str(path), x.shape, y.shape)
        return stored_in_npz(path, pair[0]), stored_in_npz(path, pair[1])
    except ProblemError as error:
        raise DataError(str(error)) from None


def _decoded(path: Path) -> np.ndarray:
    """Bytes ``(height, width)`` or ``(height, width, 3)``."""
    images = required("PIL.Image", "data")

    content = _content(path)
    if content.count(b"\xff\xda") > MOST_SCANS and content.startswith(b"\xff\xd8"):
        raise DataError(f"{path.name} has more than {MOST_SCANS} scans, each as long as a whole image. Save it again.")
    if content[:2] in (b"P1", b"P2", b"P3") and len(content) > MOST_LETTERS:
        raise DataError(f"{path.name} has its pixels as text of more than {MOST_LETTERS:,} bytes. Save it as PNG.")
    try:
        # the content decides, not the name: other formats of the library start programs
        with images.open(io.BytesIO(content), formats=FORMATS) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise DataError(f"{path.name} has {picture.width} x {picture.height} pixels. Make it smaller.")
            grey = picture.mode in ("1", "L", "I", "F", "I;16")
            return np.asarray(picture.convert("L" if grey else "RGB"))
    except DataError:
        raise
    except Exception as error:  # a decoder of a damaged file ends in many ways
        reason = one_line(error)[:200]
        raise DataError(f"{path.name} is no image that can be read: {reason}. Save it again as PNG.") from None


def _caught(read: Callable[[], tuple[Any, Any]]) -> tuple[Any, Any] | Exception:
    try:
        return read()
    except Exception as error:
        return error


# --- one image --------------------------------------------------------------------------------------------------------


def _tensor(image: Any) -> Tensor:
    if isinstance(image, Tensor):
        return image.detach().cpu()
    array = np.asarray(image)
    if array.dtype.kind not in "biufc" or array.dtype.itemsize > 8 * (1 + (array.dtype.kind == "c")):
        raise DataError(f"an array of dtype {array.dtype!s:.80} holds no numbers that torch takes; use float32")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if native.dtype.kind == "u" and native.dtype.itemsize > 1:
        # torch computes little with these; beyond int64 they would turn negative
        if native.size and int(native.max()) > np.iinfo(np.int64).max:
            raise DataError(f"a whole number of {int(native.max())} is beyond 64 bits")
        native = native.astype(np.int64)
    native = native if native.flags.writeable and all(n >= 0 for n in native.strides) else native.copy()
    return torch.from_numpy(native)


def _hashable(item: tuple[Any, Any]) -> tuple[Any, str]:
    return _tensor(item[0]), str(item[1])


def _pixels(image: Any, shape: tuple[int, ...]) -> Tensor:
    """An image in the network's shape, its channels where the network has them; bytes as shares of 255."""
    x = _tensor(image)
    x = x / 255.0 if x.dtype == torch.uint8 else x
    if len(shape) == 3 and x.dim() == 3 and tuple(x.shape) != shape:
        turned = [order for order in ((2, 0, 1), (1, 2, 0)) if tuple(x.shape[i] for i in order) == shape]
        x = x.permute(turned[0]) if turned else x
    whole, wanted = ([n for n in extents if n > 1] for extents in (x.shape, shape))
    if x.numel() != math.prod(shape) or (len(whole) == len(wanted) and whole != wanted):
        raise DataError(f"the image has shape {tuple(x.shape)}, the network takes {shape}")
    if not bool(torch.isfinite(x).all()):
        raise DataError("the image has pixels that are NaN or infinite")
    return x.reshape(shape)


def _label(label: Any) -> int:
    number = label.item() if hasattr(label, "item") else label
    if isinstance(number, bool) or int(number) != number:
        raise DataError(f"the label {number!r} is no whole number")
    return int(number)
