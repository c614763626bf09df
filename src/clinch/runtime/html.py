"""What notebooks show of an object: small pieces of HTML that load nothing and contain no script.

Every text is escaped: names and notes may come from a file of a stranger.
"""

from __future__ import annotations

import base64
import html
import math
import struct
import zlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

#: Okabe and Ito's colours of values and bounds, as in the figures
VALUE, BOUND, INK = "#D55E00", "#0072B2", "#8A8A8A"
#: points of a chart, and rows of a table, at most
POINTS, ROWS = 200, 30


def table(rows: Sequence[Sequence[object]], heads: Sequence[str] = ()) -> str:
    """A table; of more than :data:`ROWS` rows the first ones, with the number of the others."""
    kept = [
        f"<tr>{''.join(f'<td style=text-align:left>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows[:ROWS]
    ]
    top = f"<tr>{''.join(f'<th style=text-align:left>{_text(head)}</th>' for head in heads)}</tr>" if heads else ""
    more = f"<tr><td>and {len(rows) - ROWS} more</td></tr>" if len(rows) > ROWS else ""
    return f"<table>{top}{''.join(kept)}{more}</table>"


def lines(text: str) -> str:
    """Plain text, line by line."""
    return f"<pre>{html.escape(text)}</pre>"


def picture(x: Tensor, title: str, *, signed: bool = False, size: int = 96) -> str:
    """An input ``(H, W)``, ``(1, H, W)`` or ``(3, H, W)`` as an image with a title; nothing where it is none.

    Args:
        x: pixels; they are spread over the range that they have.
        title: below the image.
        signed: whether zero is grey, as of a difference.
        size: of the image in a page, in pixels.
    """
    image = x.detach().cpu().double()
    image = image[0] if image.dim() == 3 and image.shape[0] == 1 else image
    flat = image.dim() == 2 and min(image.shape) > 1
    if not (flat or (image.dim() == 3 and image.shape[0] == 3)) or not bool(image.isfinite().all()):
        return ""
    if signed:
        reach = float(image.abs().max()) or 1.0
        image = 0.5 + image / (2 * reach)
    else:
        low, high = min(0.0, float(image.min())), max(1.0, float(image.max()))
        image = (image - low) / (high - low)
    pixels = (255 * image).round().to(torch.uint8)
    content = base64.b64encode(_png(pixels if flat else pixels.permute(1, 2, 0))).decode("ascii")
    style = f"width:{size}px;height:{size}px;image-rendering:pixelated"
    return (
        f'<figure style="display:inline-block;margin:4px"><img alt="{html.escape(title)}" style="{style}" '
        f'src="data:image/png;base64,{content}"/><figcaption>{html.escape(title)}</figcaption></figure>'
    )


def _png(pixels: Tensor) -> bytes:
    """Bytes ``(H, W)`` or ``(H, W, 3)`` as a PNG file."""
    height, width = pixels.shape[:2]
    rows = pixels.contiguous().numpy().reshape(height, -1)
    body = b"".join(b"\x00" + row.tobytes() for row in rows)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0 if pixels.dim() == 2 else 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def gap_chart(points: Iterable[tuple[float, float, float]], width: int = 260, height: int = 110) -> str:
    """Value and bound over the seconds, as steps in an SVG; points are (seconds, value, bound)."""
    kept = [p for p in points if math.isfinite(p[1]) or math.isfinite(p[2])][-POINTS:]
    numbers = [n for _, *pair in kept for n in pair if math.isfinite(n)]
    if not numbers:
        return ""
    end, low, high = max(kept[-1][0], 1e-9), min(numbers), max(numbers)
    room = (high - low) or 1.0

    def path(which: int) -> str:
        steps, last = [], None
        for point in kept:
            if not math.isfinite(point[which]):
                continue
            x, y = 4 + (width - 8) * point[0] / end, 4 + (height - 8) * (high - point[which]) / room
            steps += [f"{x:.1f},{y:.1f}"] if last is None else [f"{x:.1f},{last:.1f}", f"{x:.1f},{y:.1f}"]
            last = y
        return " ".join([*steps, f"{width - 4:.1f},{last:.1f}"]) if last is not None else ""

    drawn = "".join(
        f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path(k)}"/>'
        for k, colour in ((1, VALUE), (2, BOUND))
    )
    label = f"value (orange) and bound (blue) over {end:.3g} s, from {low:.4g} to {high:.4g}"
    return (
        f'<figure style="display:inline-block;margin:4px"><svg role="img" aria-label="{label}" width="{width}" '
        f'height="{height}" style="border:1px solid {INK}">{drawn}</svg><figcaption>{label}</figcaption></figure>'
    )


def bar(value: float, bound: float, seconds: float, title: str = "") -> str:
    """One line: how near the bound has come to the value."""
    closed = (
        max(0.0, min(1.0, 1 - abs(value - bound) / max(abs(value), 1e-12))) if math.isfinite(value - bound) else 0.0
    )
    shown = [f"{n:.6g}" if math.isfinite(n) else "none" for n in (value, bound)]
    return (
        f'<div>{html.escape(title)} <progress value="{closed:.4f}" max="1" aria-label="gap closed"></progress> '
        f"value {shown[0]}, bound {shown[1]}, {seconds:.1f} s</div>"
    )


def _text(cell: object) -> str:
    return html.escape(" ".join(f"{cell:.6g}".split()) if isinstance(cell, float) else " ".join(str(cell).split()))
