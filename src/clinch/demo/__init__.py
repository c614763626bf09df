"""The demo's data and network: scikit-learn's bundled digits (8×8) and a small ReLU network shipped as safetensors.

Nothing is downloaded. ``python -m clinch.demo.train`` makes the network again.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

#: weights of :func:`network`, as trained by ``clinch.demo.train``
WEIGHTS = Path(__file__).with_name("digits.safetensors")
#: shape of one image
SHAPE = (8, 8)
#: every fifth image is kept out of training
FOLD = 5


class Digits(NamedTuple):
    """Images ``(N, 8, 8)`` with pixels in [0, 1], float32, and labels ``(N,)``."""

    x: Tensor
    y: Tensor


def digits(split: str = "test") -> Digits:
    """The digits that come with scikit-learn: 1,438 of them for training, 359 held out (every fifth).

    Args:
        split: ``"train"`` or ``"test"``.
    """
    from sklearn.datasets import load_digits

    if split not in ("train", "test"):
        raise ValueError(f"split is 'train' or 'test', not {split!r}.")
    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(np.asarray(pixels) / 16.0, dtype=torch.float32).reshape(-1, *SHAPE)
    y = torch.tensor(np.asarray(labels), dtype=torch.int64)
    held_out = torch.arange(len(x)) % FOLD == FOLD - 1
    rows = held_out if split == "test" else ~held_out
    return Digits(x[rows], y[rows])


def architecture() -> nn.Sequential:
    """The demo's network with fresh weights: 64-32-16-10 with ReLU, layers ``relu1`` and ``relu2`` by name."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            linear1=nn.Linear(64, 32),
            relu1=nn.ReLU(),
            linear2=nn.Linear(32, 16),
            relu2=nn.ReLU(),
            output=nn.Linear(16, 10),
        )
    )


def network() -> nn.Sequential:
    """The trained network that comes with the package, in evaluation mode."""
    from safetensors.torch import load_file

    model = architecture()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()
