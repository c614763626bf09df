"""A whole data set: cheap methods for every image, the search where the answer is still open.

Cheap methods first, batch by batch, for every image; then the search, image by image, where the answer is still open,
those nearest to an answer first, each with an equal share of the time that is left: what easy images do not use goes to
the hard ones.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clinch.devices import usable_device
from clinch.errors import NetworkError, ProblemError, UnsoundResult
from clinch.study.answers import Batch, passes_of
from clinch.study.evaluation import Evaluation, Tally
from clinch.study.fingerprint import fingerprint, model_fingerprint
from clinch.study.sources import Source, open_source
from clinch.study.store import Row, Store
from clinch.study.template import FAILED, OPEN, Template

if TYPE_CHECKING:
    from torch import nn

    from clinch.network.network import Network

#: fewest seconds that a search is started for
LEAST = 0.5


def evaluate(
    net: nn.Module | Network,
    data: Any = "digits",
    *,
    norm: float = math.inf,
    eps: float | None = None,
    lower: float = 0.0,
    upper: float = 1.0,
    gap: float = 1e-3,
    methods: str = "all",
    out: str | Path | None = None,
    limit: int | None = None,
    time_limit: float = 600.0,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Callable[[Tally], None] | None = None,
) -> Evaluation:
    """Robust accuracy of a classifier at a radius as an interval, or the distance of every image to another class.

    With ``eps`` the interval is ``[#{proven robust}, #{not misclassified, not attacked}] / #images``, where robust
    means that the label's output is the single largest one for every x with ``‖x − x₀‖_p <= eps`` in the box. Without
    it every image gets the smallest distance that was found and a proven bound below it.

    Batches get the clean prediction, CROWN's bounds, :func:`clinch.attacks.worst` and bounds with slopes of their own
    (for distances :func:`clinch.attacks.nearest` and CROWN); then every image that is open gets the search of
    :meth:`clinch.Problem.solve` with an equal share of the time that is left. An image that cannot be read or makes an
    engine fail is one row with its error, counted as not proven and not attacked.

    Args:
        net: a classifier with outputs ``(B, classes)``, or a :class:`clinch.Network`.
        data: see :func:`clinch.study.open_source`.
        norm: p: 0, 1, 2 or ``cl.inf``.
        eps: radius; None: minimum distances.
        lower: smallest value of an input's elements; upper: largest. An image outside is a failed row.
        gap: relative gap at which a distance counts as closed.
        methods: ``"all"``, ``"cheap"`` (no search), ``"attacks"`` or ``"bounds"`` alone; see :class:`Template`.
        out: folder of the run; the same call goes on where an earlier one stopped. None: nothing is kept.
        limit: only so many images, the first ones; a later call may ask for more.
        time_limit: seconds for all images together; reaching it is a normal ending.
        seed: of every random choice.
        device: where to compute, such as ``"cuda"``; None: where the model is.
        progress: called with a :class:`Tally` after every result.

    Raises:
        ProblemError: a setting that has no meaning. DataError: data that is not there. NetworkError: a network that is
            no classifier, or images that do not fit it. StoreError: a run that cannot be written, or of another study.

    Example:
        >>> found = cl.study.evaluate(cl.load("net.onnx"), "mnist", norm=cl.inf, eps=0.02, out="run")
        >>> found.interval
    """
    radius = None if eps is None else float(eps)
    template = Template(float(norm), radius, float(lower), float(upper), float(gap), methods)
    if not time_limit >= 0:
        raise ProblemError(f"time_limit is {time_limit}; give seconds, zero or more.")
    if limit is not None and limit < 1:
        raise ProblemError(f"limit is {limit}; give a number of images, 1 or more.")
    source = open_source(data)
    network = classifier(net, source)
    place = usable_device(network.device if device is None else device)
    images = source.size if limit is None else min(limit, source.size)
    with Store(out, _identity(template, network, source, seed)) as store:
        run = _Run(template, network, source, store, images, time_limit, seed, place, progress)
        run.work()
        rows = tuple(store.rows(images))
        return Evaluation(template, network.name, source.name, run.tally("done"), rows, tuple(run.notes))


def _identity(template: Template, network: Network, source: Source, seed: int) -> dict[str, str]:
    """What tells this study from others; the seed belongs to the question, as random choices do to its rows."""
    return {
        "model": network.name, "model_hash": model_fingerprint(network), "data": source.name,
        "data_hash": source.hash, "problem": f"{template.text}, seed {seed}",
        "problem_hash": fingerprint(template.hash, seed),
        "input_shape": ",".join(map(str, network.input_shape)), "dtype": str(network.dtype).removeprefix("torch."),
    }  # fmt: skip


def classifier(net: nn.Module | Network, source: Source) -> Network:
    """The network, and whether the first image that can be read fits it."""
    from clinch.network.load import load
    from clinch.network.network import Network
    from clinch.study.sources import first_shape

    shape = first_shape(source)
    network = net if isinstance(net, Network) else load(net, input_shape=shape or ())
    outputs = network.graph.nodes[-1].shape
    if len(outputs) != 1 or outputs[0] < 2:
        raise NetworkError(f"{network.name} has outputs of shape {outputs}; a study needs one output per class, (K,).")
    if shape is not None and math.prod(shape) != math.prod(network.input_shape):
        raise NetworkError(
            f"{network.name} takes inputs of shape {network.input_shape}, but the images of {source.name} have shape "
            f"{shape}. Name data that fits."
        )
    return network


#: work on a batch, from its earlier rows; says how many passes its images have been through
Work = Callable[[Batch, list[Row] | None], int]


class _Run:
    """One call of :func:`evaluate`: what is missing, then what is open."""

    def __init__(
        self,
        template: Template,
        network: Network,
        source: Source,
        store: Store,
        images: int,
        time_limit: float,
        seed: int,
        device: torch.device,
        progress: Callable[[Tally], None] | None,
    ) -> None:
        self.template, self.network, self.source, self.store = template, network, source, store
        self.images, self.seed, self.device, self.progress = images, seed, device, progress
        self.classes = network.graph.nodes[-1].shape[0]
        self.counts = Counter(store.counts(images))
        self.done = 0
        self.notes: dict[str, None] = {}
        self._began = time.monotonic()
        self._deadline = self._began + time_limit
        self.passes = passes_of(template, network)

    @property
    def left(self) -> float:
        """Seconds left."""
        return self._deadline - time.monotonic()

    def tally(self, phase: str) -> Tally:
        """Where the study stands."""
        counts = {status: count for status, count in self.counts.items() if count}
        return Tally(self.images, counts, time.monotonic() - self._began, self.done, self.left, phase)

    def work(self) -> None:
        """Both phases; an interruption by the user ends them as the time limit does."""
        try:
            for number, (methods, length) in enumerate(self.passes):
                self._pass(number, methods, length)
            if self.template.methods == "all":
                self._dear()
        except KeyboardInterrupt:
            self.notes["Interrupted: this is what was known by then. The same command goes on from here."] = None

    def _put(self, rows: Sequence[Row], phase: str, before: Sequence[str] = ()) -> None:
        """Keep rows, in one transaction."""
        self.store.put(rows)
        self.counts.subtract(before)
        self.counts.update(row.status for row in rows)
        self.done += len(rows)
        if self.progress is not None:
            self.progress(self.tally(phase))

    # --- every image ------------------------------------------------------------------------------------------------

    def _pass(self, number: int, methods: Sequence[str], length: int) -> None:
        """Methods for the images that have not been through this pass, batch by batch."""
        have = self.store.images(self.images)
        again = {row.image: row for row in self.store.rows(self.images, OPEN) if row.passes <= number}
        for start in range(0, self.images, length):
            places = range(start, min(start + length, self.images))
            todo = [image for image in places if image in again or (not number and image not in have)]
            if not todo:
                continue
            if self.left <= 0:
                return
            # the first pass answers for whole batches, so that their numbers do not depend on what was there before
            asked = places if not number else todo
            held = [again[image] for image in asked] if number else None
            rows = {row.image: row for row in self._batch(asked, number, methods, held)}
            self._put([rows[i] for i in todo], methods[-1], [again[i].status for i in todo if i in again])

    def _batch(self, places: Sequence[int], number: int, methods: Sequence[str], held: list[Row] | None) -> list[Row]:
        """Rows of the images at these places; where the batch fails, of each by itself."""
        batch = self.source.read(places, self.network.input_shape, self.network.dtype)
        low, high = batch.x.flatten(1).amin(1).tolist(), batch.x.flatten(1).amax(1).tolist()
        errors = [
            error or self.template.complaint(low[b], high[b], label, self.classes)
            for b, (error, label) in enumerate(zip(batch.errors, batch.y.tolist()))
        ]
        good = [b for b, error in enumerate(errors) if error is None]
        failed = [
            Row(place, int(batch.y[b]) if batch.errors[b] is None else None, FAILED, method="read", error=error)
            for b, (place, error) in enumerate(zip(places, errors)) if error is not None
        ]  # fmt: skip

        def work(answers: Batch, earlier: list[Row] | None) -> int:
            if earlier is not None:
                answers.remember(earlier)
            answers.cheap(methods, self.seed)
            return number + answers.complete

        images = [places[b] for b in good]
        earlier = None if held is None else [self._with_input(held[b]) for b in good]
        return failed + self._answered(images, batch.x[good], batch.y[good], work, earlier, self.left)

    def _with_input(self, row: Row) -> Row:
        return row._replace(found=self.store.found(row.image))

    def _answered(
        self, images: list[int], x: Tensor, y: Tensor, work: Work, earlier: list[Row] | None, seconds: float
    ) -> list[Row]:
        """What the work finds out about images; an image that fails is one failed row."""
        if not images:
            return []
        try:
            answers = Batch(self.template, self.network, x, y, time_limit=seconds, device=self.device)
            passes = work(answers, earlier)
            self.notes.update(dict.fromkeys(answers.ledger.notes))
            return answers.rows(images, passes, [row.seconds for row in earlier] if earlier else None)
        except UnsoundResult:  # a defect, which no study may hide
            raise
        except Exception as error:
            if len(images) > 1:
                ones = [slice(b, b + 1) for b in range(len(images))]
                return [
                    row for b in ones
                    for row in self._answered(images[b], x[b], y[b], work, earlier[b] if earlier else None, seconds)
                ]  # fmt: skip
            text = " ".join(f"{type(error).__name__}: {error}".split())
            return [Row(images[0], int(y[0]), FAILED, method="engine", error=text)]

    # --- what is open -----------------------------------------------------------------------------------------------

    def _dear(self) -> None:
        """The search for every open image, each with an equal share of the time that is left."""
        waiting = sorted(
            (row for row in self.store.rows(self.images, OPEN) if row.passes >= len(self.passes)), key=_nearness
        )
        stopped = False

        def work(answers: Batch, earlier: list[Row] | None) -> int:
            nonlocal stopped
            answers.remember(earlier or [])
            stopped = answers.search(self.seed)
            return len(self.passes)

        for number, row in enumerate(waiting):
            if self.left <= LEAST:
                return
            seconds = min(max(LEAST, self.left / (len(waiting) - number)), self.left)
            one = self.source.read([row.image], self.network.input_shape, self.network.dtype)
            if one.errors[0] is not None:
                rows = [Row(row.image, row.label, FAILED, method="read", error=one.errors[0])]
            else:
                rows = self._answered([row.image], one.x, one.y, work, [self._with_input(row)], seconds)
            self._put(rows, "search", [row.status])
            if stopped:
                raise KeyboardInterrupt


def _nearness(row: Row) -> tuple[float, int]:
    """Images nearest to an answer first: the least negative margin, or the smallest gap."""
    if row.value is not None and row.bound is not None:
        return (row.value - row.bound) / max(row.value, 1e-12), row.image
    return (math.inf if row.margin is None else -row.margin), row.image
