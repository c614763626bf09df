"""The state of a sequence of attacks on disk after each of them, so that what ends the process costs one attack."""

from __future__ import annotations

import zlib
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clinch.attacks.core.best_points import BestPoints
from clinch.attacks.core.result import StageLog
from clinch.errors import ProblemError
from clinch.io.files import is_there, replacing
from clinch.io.numpy_files import names_in_npz, read_npz

#: bits of a hash that float64 holds
HELD = 2**52 - 1


class KeptStages:
    """A file with the points, passes and log of a sequence of attacks, written as a whole or not at all.

    Args:
        path: of the file, ``.npz``.
        best_points: of the sequence; its state is set to what the file holds.
        asked: what decides what attacks do besides inputs, labels and network, in words.

    Attributes:
        log: of the attacks that are done.

    Raises:
        ProblemError: the file holds other inputs, another network or other arguments, is damaged, or cannot be written.
    """

    def __init__(self, path: str | PathLike[str], best_points: BestPoints, asked: str) -> None:
        self.path, self.best_points, self.log = Path(path), best_points, list[StageLog]()
        self.key = self._key(asked)
        if is_there(self.path):
            self._read()
        else:
            self.save([])

    def save(self, log: list[StageLog]) -> None:
        """Write what is known after these attacks."""
        self.log = log
        arrays = {name: value.cpu().double().numpy() for name, value in self.best_points.state().items()}
        arrays["key"] = self.key.cpu().numpy()
        for stage in log:
            arrays[f"stage {stage.name}"] = np.array([stage.found, stage.passes], dtype=np.float64)
        try:
            with replacing(self.path) as beside, beside.open("wb") as stream:
                np.savez(stream, **arrays)  # type: ignore[arg-type]
        except OSError as error:
            raise ProblemError(f"Cannot write {self.path}: {error.strerror}. Name another file as keep=.") from None

    def _read(self) -> None:
        names = names_in_npz(self.path)
        state = self.best_points.state()
        if not {"key", *state} <= set(names):
            raise ProblemError(f"{self.path} is no state of this attack. Name another file as keep=.")
        key = torch.from_numpy(read_npz(self.path, "key"))
        if key.shape != self.key.shape or not torch.equal(key, self.key.cpu().double()):
            raise ProblemError(
                f"{self.path} was written for other inputs, labels, another network or other arguments. Name another "
                "file as keep=, or delete this one."
            )
        self.best_points.restore({name: torch.from_numpy(read_npz(self.path, name)) for name in state})
        for name in names:
            if name.startswith("stage "):
                found, passes = read_npz(self.path, name).tolist()
                self.log.append(StageLog(name.removeprefix("stage "), int(found), int(passes)))

    def _key(self, asked: str) -> Tensor:
        """``(B + 2,)`` hashes of inputs and labels, of what the network says about them, and of the arguments."""
        objective = self.best_points.objective
        everyone = torch.arange(objective.size, device=objective.x.device)
        margin = objective.verdict(objective.start, everyone)[1].nan_to_num().cpu().float()
        rest = [zlib.crc32(text) for text in (margin.numpy().tobytes(), asked.encode())]
        return torch.cat([(objective.fingerprint & HELD).cpu(), torch.tensor(rest)]).double()
