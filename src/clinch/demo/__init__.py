"""The demo's data and network: digits of 8 × 8 pixels and a small ReLU network, both as files of the package.

Nothing is downloaded. ``python -m clinch.demo.train`` makes the network again.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from clinch.runtime.short import short_repr

#: weights of :func:`network`, as trained by ``clinch.demo.train``
WEIGHTS = Path(__file__).with_name("digits.safetensors")
#: pixels 0 to 16 ``(1797, 8, 8)`` and labels, as bytes
IMAGES = Path(__file__).with_name("digits.npz")
#: shape of one image
SHAPE = (8, 8)
#: every fifth image is kept out of training
FOLD = 5


class Digits(NamedTuple):
    """Images ``(N, 8, 8)`` with pixels in [0, 1], float32, and labels ``(N,)``."""

    x: Tensor
    y: Tensor

    __repr__ = short_repr


def digits(split: str = "test") -> Digits:
    """Handwritten digits: 1,438 of them for training, 359 held out (every fifth).

    The test part of the set of Alpaydin and Kaynak 1998 (UCI, DOI 10.24432/C50P49, CC BY 4.0), in scikit-learn's order.

    Args:
        split: ``"train"`` or ``"test"``.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split is 'train' or 'test', not {split!r}.")
    with np.load(IMAGES, allow_pickle=False) as held:
        x = torch.from_numpy(held["x"].astype(np.float32) / 16)
        y = torch.from_numpy(held["y"].astype(np.int64))
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
