"""A piece of a study's work as a value: what one batch, or the search for one image, needs and what comes of it.

A worker is sent the study (its question and network) once and keeps it; tasks name it by its hash. What travels between
processes is pickled by the process that made it and read by a worker that it started or that the user's cluster runs:
nothing here reads a file.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from clinch.errors import NetworkError, UnsoundResult, WorkerError, one_line
from clinch.solver.settings import Portfolio
from clinch.study.answers import Batch
from clinch.study.fingerprint import fingerprint, model_fingerprint
from clinch.study.store import Row
from clinch.study.template import FAILED, Template

if TYPE_CHECKING:
    from clinch.modeling.model import SymbolicNetwork


@dataclass(frozen=True)
class Study:
    """What all tasks of a study have in common.

    Attributes:
        template: what is asked about every image.
        network: the classifier.
        seed: of every random choice.
        device: where engines compute, by its name.
        settings: of the search.
    """

    template: Template
    network: SymbolicNetwork
    seed: int
    device: str
    settings: Portfolio = field(default_factory=Portfolio)

    @property
    def key(self) -> str:
        """Hash of all of it."""
        return fingerprint(self.template.hash, model_fingerprint(self.network), self.seed, self.device, self.settings)

    def packed(self) -> bytes:
        """The study as bytes for another process.

        Raises:
            NetworkError: the network's module cannot be pickled.
        """
        try:
            return pickle.dumps(self)
        except NetworkError:
            raise
        except Exception as error:
            reason = one_line(error)
            raise NetworkError(
                f"{self.network.name} cannot be sent to workers ({reason:.200}). Define its class at the top of a "
                "module that can be imported, save the model as ONNX, or work with one process."
            ) from None


@dataclass(frozen=True)
class Task:
    """Work on the images of one batch.

    Attributes:
        images: places of the B images in the data.
        x: ``(B, *input_shape)`` in the network's dtype.
        y: ``(B,)`` labels.
        methods: cheap methods by name; none: the search.
        passes: over all images, that these have been through once this is done.
        earlier: rows of the images, with the inputs found; None where there are none.
        seconds: time limit.
    """

    images: tuple[int, ...]
    x: np.ndarray
    y: tuple[int, ...]
    methods: tuple[str, ...]
    passes: int
    earlier: tuple[Row, ...] | None
    seconds: float

    def singles(self) -> list[Task]:
        """A task for each of the images."""
        return [
            replace(
                self, images=(image,), x=self.x[b : b + 1], y=(self.y[b],),
                earlier=None if self.earlier is None else (self.earlier[b],),
            )
            for b, image in enumerate(self.images)
        ]  # fmt: skip

    def failed(self, method: str, error: str) -> list[Row]:
        """Rows that say why there are no answers."""
        return [Row(image, y, FAILED, method=method, error=error) for image, y in zip(self.images, self.y)]


class Outcome(NamedTuple):
    """What a task has come to.

    Attributes:
        task: what was done.
        rows: of its images.
        notes: what the user should know, one sentence each.
        stopped: whether the user stopped the work before its end.
    """

    task: Task
    rows: list[Row]
    notes: tuple[str, ...] = ()
    stopped: bool = False


def answer(study: Study, task: Task) -> Outcome:
    """Do a task; where the batch fails, each image by itself, and an image that fails is one failed row.

    Raises:
        UnsoundResult: a proof and an attack contradict each other: a defect, which no study may hide.
    """
    try:
        batch = Batch(
            study.template, study.network, _tensor(task.x), torch.tensor(task.y, dtype=torch.int64),
            time_limit=task.seconds, device=torch.device(study.device),
        )  # fmt: skip
        if task.earlier is not None:
            batch.remember(task.earlier)
        stopped, passes = False, task.passes
        if task.methods:
            batch.cheap(task.methods, study.seed)
            passes = task.passes - (not batch.complete)
        else:
            stopped = batch.search(study.seed, study.settings)
        spent = None if task.earlier is None else [row.seconds for row in task.earlier]
        return Outcome(task, batch.rows(task.images, passes, spent), tuple(batch.ledger.notes), stopped)
    except UnsoundResult:
        raise
    except Exception as error:
        if len(task.images) == 1:
            return Outcome(task, task.failed("engine", one_line(error)))
    parts = [answer(study, single) for single in task.singles()]
    notes = dict.fromkeys(note for part in parts for note in part.notes)
    return Outcome(task, [row for part in parts for row in part.rows], tuple(notes), any(p.stopped for p in parts))


def _tensor(x: np.ndarray) -> Tensor:
    # what comes from another process may be read-only
    return torch.from_numpy(x if x.flags.writeable else x.copy())


# --- in a worker ------------------------------------------------------------------------------------------------------

#: the study that this worker was sent last, by its hash
_held: dict[str, Study] = {}


def receive(key: str, content: bytes) -> None:
    """Keep a study for the tasks to come.

    Raises:
        WorkerError: the network cannot be read here, or is another one than where it was sent from.
    """
    if key in _held:
        return
    torch.set_num_threads(1)
    try:
        study = pickle.loads(content)
    except Exception as error:
        reason = one_line(error)
        raise WorkerError(
            f"A worker cannot read the model ({reason:.200}). Define its class in a module that workers can import, or "
            "save the model as ONNX."
        ) from None
    if study.key != key:
        raise WorkerError(
            f"{study.network.name} has other weights in a worker. Let its function return the same weights each time."
        )
    _held.clear()
    _held[key] = study


def answer_here(key: str, task: Task, study: Study | bytes | None = None) -> Outcome | None:
    """Do a task of the study of that hash; None where this worker was not sent it yet."""
    if isinstance(study, Study):
        return answer(study, task)
    if study is not None:
        receive(key, study)
    return answer(_held[key], task) if key in _held else None
