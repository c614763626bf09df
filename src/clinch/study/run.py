"""A whole data set: cheap methods for every image, the search where the answer is still open.

Cheap methods first, batch by batch, for every image; then the search, image by image, where the answer is still open,
those nearest to an answer first, each with an equal share of the time that is left: what easy images do not use goes to
the hard ones.

Both are tasks (:mod:`clinch.study.task`) that this process does itself, or hands to workers (:mod:`clinch.study.crew`);
only this process reads the data and writes the results.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clinch.errors import ProblemError, WorkerError
from clinch.geometry.norms import norm_of
from clinch.runtime.arguments import as_gap, as_number, as_seconds, as_whole
from clinch.runtime.devices import usable_device
from clinch.runtime.gradients import with_gradients
from clinch.solver.settings import Portfolio
from clinch.solver.solution import installed_versions
from clinch.study.answers import ATTACK, passes_of
from clinch.study.crew import Alone, Crew
from clinch.study.evaluation import Evaluation, Tally
from clinch.study.fingerprint import fingerprint, model_fingerprint
from clinch.study.fitting import check_data, classifier, note_on_radius
from clinch.study.sources import Source, open_source
from clinch.study.store import Row, Store
from clinch.study.task import Outcome, Study, Task
from clinch.study.template import FAILED, OPEN, UNREAD, Template

if TYPE_CHECKING:
    from torch import nn

    from clinch.modeling.model import SymbolicNetwork

#: fewest seconds that a search is started for
LEAST = 0.5


@with_gradients
def evaluate(
    net: nn.Module | SymbolicNetwork,
    data: Any = "digits",
    *,
    norm: float | str = math.inf,
    eps: float | None = None,
    lower: float = 0.0,
    upper: float = 1.0,
    gap: float = 1e-3,
    methods: str = "all",
    out: str | Path | None = None,
    limit: int | None = None,
    time_limit: float | None = 600.0,
    seed: int = 0,
    device: torch.device | str | None = None,
    executor: Executor | None = None,
    workers: int | None = None,
    progress: Callable[[Tally], None] | None = None,
    settings: Portfolio | Mapping[str, Any] | None = None,
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
        net: a classifier with outputs ``(B, classes)``, or a :class:`clinch.SymbolicNetwork`.
        data: see :func:`clinch.study.open_source`.
        norm: p: 0, 1, 2 or ``cl.inf``, or its name such as ``"linf"``.
        eps: radius; None: minimum distances.
        lower: smallest value of an input's elements; upper: largest. An image outside is a failed row.
        gap: relative gap at which a distance counts as closed.
        methods: ``"all"``, ``"cheap"`` (no search), ``"attacks"`` or ``"bounds"`` alone; see :class:`Template`.
        out: folder of the run; the same call goes on where an earlier one stopped. None: nothing is kept.
        limit: only so many images, the first ones; a later call may ask for more.
        time_limit: seconds for all images together; reaching it is a normal ending. None: no limit.
        seed: of every random choice.
        device: where to compute, such as ``"cuda"``; None: where the model is.
        executor: any ``concurrent.futures.Executor``, such as :class:`clinch.study.RayExecutor`, whose workers do the
            computing; it stays open. None: this process, or processes of our own.
        workers: tasks at a time; None: one, or what the executor has. More than one without an executor: so many
            processes of one thread each. The time limit is wall time, whatever their number.
        progress: called with a :class:`Tally` after every result.
        settings: of the search, as ``cl.settings.Portfolio``; recorded with the run, which goes on with others.

    Raises:
        ProblemError: a setting that has no meaning. DataError: data that is not there. NetworkError: a network that is
            no classifier or cannot be sent to workers, or images that do not fit it. StoreError: a run that cannot be
            written, or of another study. WorkerError: workers that do not start.

    Example:
        >>> cl.study.evaluate(net, "digits", norm=cl.inf, eps=0.02, limit=8, out="run").interval
        (1.0, 1.0)
    """
    if isinstance(eps, list | tuple):
        raise ProblemError(f"eps is a list of {len(eps)} radii: one study has one. Write cl.study.compare for several.")
    radius = None if eps is None else as_number(eps, "eps")
    template = Template(norm_of(norm).p, radius, float(lower), float(upper), as_gap(gap), methods)
    time_limit, seed = as_seconds(time_limit), as_whole(0 if seed is None else seed, "seed")
    _check_numbers(limit, workers)
    chosen = Portfolio.of(settings)
    source = open_source(data)
    network = classifier(net, source)
    place = usable_device(network.device if device is None else device)
    images = source.size if limit is None else min(limit, source.size)
    check_data(template, network, source, images)
    with Store(out, _identity(template, network, source, seed)) as store:
        run = _Run(Study(template, network, seed, str(place), chosen), source, store, images, time_limit, progress)
        store.say(_facts(template, images, chosen))
        run.work(executor, workers)
        run.note_untried()
        store.say({"notes": json.dumps(list(run.notes))})
        return run.evaluation()


def _check_numbers(limit: int | None, workers: int | None) -> None:
    if limit is not None and limit < 1:
        raise ProblemError(f"limit is {limit}; give a number of images, 1 or more.")
    if workers is not None and workers < 1:
        raise ProblemError(f"workers is {workers}; give a number of workers, 1 or more.")


def _facts(template: Template, images: int, settings: Portfolio) -> dict[str, str]:
    """What a run says about itself besides its identity."""
    # attacks are imported where a study begins, so that tables of one open quickly
    from clinch.attacks import NearestSettings, WorstSettings

    attacks = {"worst": WorstSettings().to_dict(), "nearest": NearestSettings().to_dict()}
    return {
        "template": template.to_json(), "images": str(images), "versions": json.dumps(installed_versions()),
        "settings": json.dumps(settings.to_dict()), "attacks": json.dumps(attacks),
    }  # fmt: skip


def _identity(template: Template, network: SymbolicNetwork, source: Source, seed: int) -> dict[str, str]:
    """What tells this study from others; the seed belongs to the question, as random choices do to its rows."""
    return {
        "model": network.name, "model_hash": model_fingerprint(network), "data": source.name,
        "data_hash": source.hash, "problem": f"{template.text}, seed {seed}",
        "problem_hash": fingerprint(template.hash, seed),
        "input_shape": ",".join(map(str, network.input_shape)), "dtype": str(network.dtype).removeprefix("torch."),
    }  # fmt: skip


class _Run:
    """One call of :func:`evaluate`: what is missing, then what is open."""

    def __init__(
        self,
        study: Study,
        source: Source,
        store: Store,
        images: int,
        time_limit: float,
        progress: Callable[[Tally], None] | None,
    ) -> None:
        self.study, self.template, self.network = study, study.template, study.network
        self.source, self.store, self.images, self.progress = source, store, images, progress
        self.classes = self.network.graph.nodes[-1].shape[0]
        self.counts = Counter(store.counts(images))
        self.done = 0
        self.notes: dict[str, None] = dict.fromkeys(note_on_radius(study.template))
        self._began = time.monotonic()
        self._deadline = self._began + time_limit
        self.passes = passes_of(self.template, self.network)

    @property
    def left(self) -> float:
        """Seconds left."""
        return self._deadline - time.monotonic()

    def tally(self, phase: str) -> Tally:
        """Where the study stands."""
        counts = {status: count for status, count in self.counts.items() if count}
        return Tally(self.images, counts, time.monotonic() - self._began, self.done, self.left, phase)

    def evaluation(self) -> Evaluation:
        """What is known now."""
        rows, name, settings = tuple(self.store.rows(self.images)), self.network.name, self.study.settings.to_dict()
        notes = tuple(self.notes)
        return Evaluation(self.template, name, self.source.name, self.tally("done"), rows, notes, settings=settings)

    def work(self, executor: Executor | None, workers: int | None) -> None:
        """Both phases; an interruption by the user ends them as the time limit does."""
        alone = executor is None and workers in (None, 1)
        crew = Alone(self.study) if alone else Crew(self.study, executor, workers, lambda: self.left)
        finished = False
        try:
            for number in range(len(self.passes)):
                self._pass(crew, number)
            if self.template.methods == "all":
                self._dear(crew)
            finished = True
        except KeyboardInterrupt:
            self.notes["Interrupted: this is what was known by then. The same command goes on from here."] = None
        except WorkerError as error:
            self.notes[str(error)] = None
        finally:
            crew.close(stopped=not finished)

    def _put(self, rows: Sequence[Row], phase: str, before: Sequence[str] = ()) -> None:
        """Keep rows, in one transaction."""
        self.store.put(rows)
        self.counts.subtract(before)
        self.counts.update(row.status for row in rows)
        self.done += len(rows)
        if self.progress is not None:
            self.progress(self.tally(phase))

    def _heard(self, outcome: Outcome) -> Outcome:
        self.notes.update(dict.fromkeys(outcome.notes))
        return outcome

    def note_untried(self) -> None:
        """Say of how many images nobody knows because nobody tried: "not attacked" is no answer to an attack then."""
        first = next((n for n, (names, _) in enumerate(self.passes) if ATTACK in names), None)
        tried = 0 if first is None else sum(row.passes > first for row in self.store.rows(self.images, OPEN))
        untried = self.images - self.tally("done").answered - tried
        if self.template.eps is None or not untried:
            return
        why = "only bounds were asked for" if first is None else "the time was over, or they cannot be used"
        self.notes[f"{untried} of the images that count as not attacked were not attacked to the end: {why}."] = None

    # --- every image ------------------------------------------------------------------------------------------------

    def _pass(self, crew: Alone | Crew, number: int) -> None:
        """Methods for the images that have not been through this pass, batch by batch."""
        methods, length = self.passes[number]
        have = self.store.images(self.images)
        again = {row.image: row for row in self.store.rows(self.images, OPEN) if row.passes <= number}

        def keep(rows: Sequence[Row]) -> None:
            # the first pass answers for whole batches, so that their numbers do not depend on what was there before
            new = [row for row in rows if row.image in again or (not number and row.image not in have)]
            if new:
                self._put(new, methods[-1], [again[row.image].status for row in new if row.image in again])

        def tasks() -> Iterator[Task]:
            for start in range(0, self.images, length):
                places = range(start, min(start + length, self.images))
                todo = [image for image in places if image in again or (not number and image not in have)]
                if todo and self.left <= 0:
                    return
                if todo:
                    held = [self._with_input(again[image]) for image in todo] if number else None
                    failed, task = self._task(todo if number else places, methods, number + 1, held, self.left)
                    keep(failed)
                    if task is not None:
                        yield task

        for outcome in crew.run(tasks()):
            keep(self._heard(outcome).rows)

    def _task(
        self, places: Sequence[int], methods: tuple[str, ...], passes: int, held: list[Row] | None, seconds: float
    ) -> tuple[list[Row], Task | None]:
        """Failed rows of the images at these places that cannot be asked about, and a task for the others."""
        batch = self.source.read(places, self.network.input_shape, self.network.dtype)
        low, high = batch.x.flatten(1).amin(1).tolist(), batch.x.flatten(1).amax(1).tolist()
        y = batch.y.tolist()
        errors = [
            error or self.template.complaint(low[b], high[b], y[b], self.classes)
            for b, error in enumerate(batch.errors)
        ]
        failed = [
            Row(place, y[b] if batch.errors[b] is None else None, FAILED, method=UNREAD, error=errors[b])
            for b, place in enumerate(places) if errors[b] is not None
        ]  # fmt: skip
        good = [b for b, error in enumerate(errors) if error is None]
        if not good:
            return failed, None
        return failed, Task(
            tuple(places[b] for b in good), batch.x[good].numpy(), tuple(y[b] for b in good), methods, passes,
            None if held is None else tuple(held[b] for b in good), seconds,
        )  # fmt: skip

    def _with_input(self, row: Row) -> Row:
        return row._replace(found=self.store.found(row.image))

    # --- what is open -----------------------------------------------------------------------------------------------

    def _dear(self, crew: Alone | Crew) -> None:
        """The search for every open image, each with an equal share of the time that is left."""
        passes = len(self.passes)
        waiting = sorted((row for row in self.store.rows(self.images, OPEN) if row.passes >= passes), key=_nearness)
        ready = 0

        def keep(rows: Sequence[Row]) -> None:
            nonlocal ready
            ready += len(rows)
            self._put(rows, "search", [OPEN] * len(rows))

        def tasks() -> Iterator[Task]:
            for row in waiting:
                left = self.left
                if left <= LEAST:
                    return
                seconds = min(max(LEAST, left * crew.workers / (len(waiting) - ready)), left)
                failed, task = self._task([row.image], (), passes, [self._with_input(row)], seconds)
                if failed:
                    keep([failed[0]._replace(label=row.label)])
                if task is not None:
                    yield task

        # with so many left, a share is at most half of the time: a task that waits behind another one is done in time
        for outcome in crew.run(tasks(), ahead=lambda: len(waiting) - ready >= 2 * crew.workers):
            keep(self._heard(outcome).rows)
            if outcome.stopped:
                raise KeyboardInterrupt


def _nearness(row: Row) -> tuple[float, int]:
    """Images nearest to an answer first: the least negative margin, or the smallest gap."""
    if row.value is not None and row.bound is not None:
        return (row.value - row.bound) / max(row.value, 1e-12), row.image
    return (math.inf if row.margin is None else -row.margin), row.image
