"""``clinch evaluate --transform``: a data set under rotations, shifts, blur, brightness, or stickers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clinch.errors import ProblemError

if TYPE_CHECKING:
    from clinch.modeling.model import SymbolicNetwork
    from clinch.study.sources import Source

#: options that say something else about the same images
REFUSED = (
    "--eps", "--out", "--table", "--text", "--report", "--ray", "--certificates", "--device", "--per-class",
    "--methods", "--workers", "several models, data sets or norms",
)  # fmt: skip


def evaluate_transforms(
    network: SymbolicNetwork,
    source: Source,
    text: str,
    refused: Sequence[object],
    options: Mapping[str, Any],
    json: str | None,
) -> int:
    """Attack images on a grid of parameters and by gradients, certify them by halving the parameters, print and write
    what is known; the exit code.

    Args:
        network: the classifier. source: the images, of which the option ``limit`` are taken.
        text: what may change, see :meth:`clinch.applications.transforms.Transforms.read`.
        refused: values of :data:`REFUSED`, None or False where nothing was given.
        options: ``limit``, ``lower``, ``upper``, ``time_limit`` and ``seed`` of the command.
        json: where everything is written as well.

    Raises:
        ProblemError: a refused option was given, or changes have no meaning.
        DataError: an image cannot be read.
    """
    import torch

    from clinch.applications.transforms import Transforms, under_transforms
    from clinch.cli.console import write_json
    from clinch.io.data import DataError

    name = next((name for name, value in zip(REFUSED, refused) if value), None)
    if name is not None:
        raise ProblemError(
            f"--transform changes images by their parameters and takes no {name}. Leave out one of them; --limit, "
            "--lower, --upper, --mean, --std, --time-limit, --seed and --json go with it."
        )
    transforms, limit = Transforms.read(text), options["limit"]
    batch = source.read(range(source.size if limit is None else min(limit, source.size)), network.input_shape,
                        torch.float32)  # fmt: skip
    error = next((each for each in batch.errors if each is not None), None)
    if error is not None:
        raise DataError(f"{source.name}: {error}")
    found = under_transforms(
        network,
        batch.x,
        batch.y,
        transforms,
        bounds=(options["lower"], options["upper"]),
        time_limit=options["time_limit"],
        seed=options["seed"],
    )
    if json != "-":
        print(found)
    if json is not None:
        low, high = found.accuracy
        write_json(
            {"data": source.name, "transforms": str(transforms), "accuracy": [low, high], "seconds": found.seconds,
             "images": found.to_rows()},
            json,
        )  # fmt: skip
    return 0 if bool((found.certified | found.attacked).all()) else 1
