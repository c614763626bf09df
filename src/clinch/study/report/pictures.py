"""Small pictures of inputs, as PNG in data URIs."""

from __future__ import annotations

import base64
import io

import numpy as np

from clinch.figures.inputs import is_image, pixels

#: colours of elements that were raised and lowered; legible on light and dark ground
RAISED, LOWERED = (226, 98, 16), (42, 136, 208)
#: height of the picture of an input that is no image, in pixels; its widest
STRIP, WIDEST = 24, 512


def input_picture(x: np.ndarray, low: float, high: float) -> str:
    """An input as a data URI: dark for high values where it is grey, so that the page can turn it round in the dark.

    Args:
        x: ``(H, W)``, ``(1, H, W)`` or ``(3, H, W)``; anything else is drawn as a strip, one column per element.
        low: smallest value of an element; high: largest.
    """
    shown = ((_plane(x) - low) / (high - low)).clip(0, 1)
    return _png(255 - _bytes(shown) if shown.ndim == 2 else _bytes(shown))


def difference_picture(delta: np.ndarray) -> str:
    """A difference as a data URI: as opaque as it is large against the largest one; of colours the mean."""
    shown = _plane(delta, signed=True)
    share = np.abs(shown) / max(float(np.abs(shown).max()), 1e-300)
    colour = np.where((shown > 0)[..., None], np.array(RAISED), np.array(LOWERED))
    return _png(np.concatenate([colour.astype(np.uint8), _bytes(share)[..., None]], axis=-1))


def _plane(x: np.ndarray, *, signed: bool = False) -> np.ndarray:
    """``(H, W)`` or ``(H, W, 3)``; of an input that is no image its elements beside each other."""
    if is_image(x.shape):
        # the range is applied by the caller
        return pixels(x, 0.0, 1.0, signed=signed)
    flat = x.reshape(1, -1)
    return np.repeat(flat[:, : STRIP * WIDEST], STRIP, axis=0)


def _bytes(shares: np.ndarray) -> np.ndarray:
    return np.rint(255 * shares).astype(np.uint8)


def _png(content: np.ndarray) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(content).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
