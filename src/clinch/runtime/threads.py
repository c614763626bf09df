"""Threads of torch: one where operations are too small to be shared.

A search makes many operations of a tenth of a millisecond. Handed to several threads each costs more than alone: the
threads wait for one another in a busy loop, which costs twice the processor time on a quiet machine, and on a busy one
the answer comes later too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: activations of a network from which its operations are worth several threads
WORTH = 2000

_lock = threading.Lock()
_within = 0
_before = 1


@contextmanager
def suited_threads(activations: int) -> Iterator[None]:
    """While this lasts, torch has one thread if the network has fewer than :data:`WORTH` activations.

    The number belongs to the whole process: it is put back when the last of those that are under way at once ends.

    Args:
        activations: of one input, all layers together.
    """
    global _within, _before
    if activations >= WORTH:
        yield
        return
    with _lock:
        if not _within:
            _before = torch.get_num_threads()
            torch.set_num_threads(1)
        _within += 1
    try:
        yield
    finally:
        with _lock:
            _within -= 1
            if not _within:
                torch.set_num_threads(_before)
