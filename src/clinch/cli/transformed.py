"""``clinch evaluate --transform``: a data set under rotations, shifts, blur, brightness, or stickers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clinch.errors import ProblemError

if TYPE_CHECKING:
    from clinch.modeling.model import SymbolicNetwork
    from clinch.study.sources import Source


def evaluate_transforms(
    network: SymbolicNetwork,
    source: Source,
    text: str,
    *,
    limit: int | None,
    lower: float,
    upper: float,
    time_limit: float,
    seed: int,
    json: str | None,
) -> int:
    """Print and write what is known of the images; the exit code.

    Args:
        network: the classifier. source: the images, of which ``limit`` are taken.
        text: what may change, see :meth:`clinch.applications.transforms.Transforms.read`.
        lower, upper: the range of pixels.
        time_limit: seconds for all of them.
        seed: of the attack.
        json: where everything is written as well.
    """
    import torch

    from clinch.applications.transforms import Transforms, under_transforms
    from clinch.cli.console import write_json
    from clinch.io.data import DataError

    transforms = Transforms.read(text)
    batch = source.read(range(source.size if limit is None else min(limit, source.size)), network.input_shape,
                        torch.float32)  # fmt: skip
    error = next((each for each in batch.errors if each is not None), None)
    if error is not None:
        raise DataError(f"{source.name}: {error}")
    found = under_transforms(
        network, batch.x, batch.y, transforms, bounds=(lower, upper), time_limit=time_limit, seed=seed
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


def check_alone(given: dict[str, object]) -> None:
    """Options that say something else about the same images.

    Args:
        given: option -> its value, None or False where it was not given.

    Raises:
        ProblemError: one was given.
    """
    name = next((name for name, value in given.items() if value), None)
    if name is not None:
        raise ProblemError(
            f"--transform changes images by their parameters and takes no {name}. Leave out one of them; --limit, "
            "--lower, --upper, --mean, --std, --time-limit, --seed and --json go with it."
        )
