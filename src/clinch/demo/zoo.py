"""Networks that come with the package: small MNIST classifiers, each with its recipe, its accuracy and its hash.

``cl.zoo()`` lists them, ``cl.zoo("mnist-small")`` is one as an ``nn.Module``. Inputs are ``(N, 1, 28, 28)`` pixels in
[0, 1], outputs ten scores. ``python -m clinch.demo.zoo NAME FILE`` trains one of ours again, from the full MNIST.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import overload

import torch
from torch import nn

from clinch.errors import ProblemError

#: shape of one input of every network here
SHAPE = (1, 28, 28)
_FOLDER = Path(__file__).with_name("weights")
#: stochastic gradient descent without momentum, batches of 100, a new order each epoch, PyTorch's own start, seed 0
_RECIPE = "cross-entropy, SGD at 0.1, batches of 100, seed 0"


@dataclass(frozen=True)
class Entry:
    """A network of the zoo.

    Attributes:
        file: its weights, beside this module.
        make: the module with fresh weights.
        accuracy: share of the 10,000 MNIST test images whose class is right.
        sha256: of the file, its first 16 letters.
        recipe: how it was trained.
        source: whose it is, and under which licence.
        epochs: of our own recipe, and from which epoch on the step size is a tenth; None where it is not ours.
    """

    file: str
    make: Callable[[], nn.Sequential]
    accuracy: float
    sha256: str
    recipe: str
    source: str = "trained for this project, Apache-2.0"
    epochs: tuple[int, int] | None = None


def _dense(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _lenet5(pool: type[nn.AvgPool2d] | type[nn.MaxPool2d]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), pool(2), nn.Conv2d(6, 16, 5), nn.ReLU(), pool(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def _cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(3136, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip


def _adr() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 10), nn.ReLU(), nn.Conv2d(8, 32, 8), nn.ReLU(), nn.Conv2d(32, 32, 8), nn.ReLU(), nn.Flatten(),
        nn.Linear(800, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip


def _wk17a() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(1568, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip


def _ours(epochs: int, last: int) -> str:
    return f"{_RECIPE}, {epochs} epochs" + (f", at 0.01 from epoch {last} on" if last < epochs else "")


_ADR = "Yu and Gao 2024 (arXiv 2406.00494), github.com/hoy021/ADR-GD, MIT"
#: name -> what is known of it
ZOO = {
    "mnist-small": Entry(
        "mnist_small", lambda: _dense(784, 50, 20, 10), 0.9670, "4f59e565c67d19b5", _ours(10, 10), epochs=(10, 10)
    ),
    "mnist-dnn2": Entry(
        "mnist_dnn2", lambda: _dense(784, 200, 10), 0.9718, "f5e107fffb90bf06", _ours(10, 10), epochs=(10, 10)
    ),
    "mnist-dnn4": Entry(
        "mnist_dnn4", lambda: _dense(784, 200, 100, 100, 10), 0.9791, "598d439b5e9e1474", _ours(10, 10), epochs=(10, 10)
    ),
    "mnist-fcnn": Entry(
        "mnist_fcnn", lambda: _dense(784, 150, 100, 10), 0.9814, "54d1d0b8b4097b92", _ours(40, 32), epochs=(40, 32)
    ),
    "mnist-cnn": Entry(
        "mnist_cnn", _cnn, 0.9892, "a0d1e03b427239fe", _ours(4, 3) + ", the last with seed 1", epochs=(4, 3)
    ),
    "mnist-lenet5": Entry(
        "mnist_lenet5", lambda: _lenet5(nn.AvgPool2d), 0.9908, "24857af80454f900", _ours(20, 14), epochs=(20, 14)
    ),
    "mnist-lenet5-max": Entry(
        "mnist_lenet5_max", lambda: _lenet5(nn.MaxPool2d), 0.9914, "5973781378fb4724", _ours(8, 6), epochs=(8, 6)
    ),
    "mnist-adrgd-clean": Entry("mnist_adrgd_clean", _adr, 0.9871, "b38a443246be5cac", "clean, 20 epochs", _ADR),
    "mnist-adrgd-pgd": Entry(
        "mnist_adrgd_pgd", _adr, 0.9894, "82e068e0575f0215", "against PGD in linf, ε = 0.25, 20 steps, 20 epochs", _ADR
    ),
    "mnist-wk17a": Entry(
        "mnist_wk17a_linf0.1", _wk17a, 0.9811, "fd83c4a76f0b463b", "against the dual bound in linf, ε = 0.1",
        "Wong and Kolter 2018 (arXiv 1711.00851), as in github.com/vtjeng/MIPVerify_data, MIT",
    ),
}  # fmt: skip


@overload
def zoo(name: None = None) -> list[str]: ...
@overload
def zoo(name: str) -> nn.Sequential: ...
def zoo(name: str | None = None) -> nn.Sequential | list[str]:
    """A network that comes with the package, in evaluation mode; without a name the names of all.

    Args:
        name: such as ``"mnist-small"``; :data:`ZOO` says of each how it was trained, whose it is and how accurate.

    Raises:
        ProblemError: there is no such network, or its file is not the one that belongs to this version.

    Example:
        >>> model = cl.zoo("mnist-small")
        >>> cl.load(model, input_shape=(1, 28, 28)).output.shape
        (10,)
    """
    if name is None:
        return list(ZOO)
    if name not in ZOO:
        raise ProblemError(f"There is no network '{name:.80}' in the zoo. It has: {', '.join(ZOO)}.")
    from safetensors.torch import load

    entry = ZOO[name]
    content = (_FOLDER / f"{entry.file}.safetensors").read_bytes()
    if not hashlib.sha256(content).hexdigest().startswith(entry.sha256):
        raise ProblemError(f"The weights of '{name}' are not those of this version. Install Clinch again.")
    module = entry.make()
    module.load_state_dict(load(content))
    return module.eval().requires_grad_(False)


def train(name: str, *, seed: int = 0) -> nn.Sequential:
    """Train one of our networks again by its recipe, on the 60,000 images of MNIST.

    The result depends on the machine's rounding: other weights of about the same accuracy.

    Raises:
        ProblemError: a network that others have trained. DataError: MNIST is not there.
    """
    from clinch.io.data import mnist

    if name not in ZOO or (epochs := ZOO[name].epochs) is None:
        own = ", ".join(n for n, entry in ZOO.items() if entry.epochs)
        raise ProblemError(f"'{name:.80}' is not trained here. Choose one of: {own}.")
    x, y = mnist("train")
    torch.manual_seed(seed)
    module = ZOO[name].make()
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    for epoch in range(epochs[0]):
        for group in optimiser.param_groups:
            group["lr"] = 0.01 if epoch >= epochs[1] else 0.1
        for rows in torch.randperm(len(x)).split(100):
            optimiser.zero_grad()
            nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            optimiser.step()
    return module.eval()


def main() -> None:
    """Train one network and write its weights."""
    from safetensors.torch import save_file

    from clinch.io.data import mnist

    if len(sys.argv) != 3:
        raise SystemExit("python -m clinch.demo.zoo NAME FILE.safetensors")
    torch.set_num_threads(1)
    module = train(sys.argv[1])
    save_file(module.state_dict(), sys.argv[2])
    x, y = mnist("test")
    with torch.no_grad():
        print(f"{float((module(x).argmax(1) == y).double().mean()):.2%} of the test images: wrote {sys.argv[2]}")


if __name__ == "__main__":
    main()
