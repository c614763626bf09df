"""Figures of domains: what is drawn, and what is refused."""

import pytest
import torch

from clinch.applications.latent import restored_figure
from clinch.applications.segmentation import segmentation_figure
from clinch.errors import ShapeError
from clinch.figures import save


@pytest.mark.parametrize("shape", [(8, 8), (1, 10, 6), (3, 5, 5)])
def test_restored_images_stand_in_columns_with_their_errors(shape, tmp_path):
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    columns = {"original": x, "damaged": (x - 0.5).abs(), "restored": x}
    figure = restored_figure(columns, truth="original", groups=(1,), heading="h")
    assert len(figure.axes) == 9
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == list(columns)
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels[-1] == "0" and f"{float((columns['damaged'] - x).square().mean()):.3g}" in labels
    assert save(figure, tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


def test_columns_of_two_shapes_are_refused():
    with pytest.raises(ShapeError, match="of one shape"):
        restored_figure({"a": torch.zeros(2, 4, 4), "b": torch.zeros(2, 5, 5)})


def maps(seed, classes=3):
    return torch.randint(classes, (2, 4, 6), generator=torch.Generator().manual_seed(seed))


def test_a_row_shows_input_perturbation_outputs_target_and_states(tmp_path):
    x = torch.rand(2, 1, 4, 6, generator=torch.Generator().manual_seed(0))
    changed = maps(3).bool()
    target = maps(4)
    target[0] = -1
    figure = segmentation_figure(
        x, x + 0.1, maps(1), maps(2), target=target, changed=changed, fixed=~changed, classes=["a", "b"], notes=["n"],
        heading="h",
    )  # fmt: skip
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["input", "perturbation", "output before", "output after", "target", "what is proven"]
    number = int(changed[0].sum())
    assert figure.axes[5].get_xlabel() == f"{number} changed, {24 - number} proven"
    assert not figure.axes[4].axison and figure.axes[10].axison
    assert save(figure, tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    assert len(segmentation_figure(x, x, maps(1), maps(2)).axes) == 8


def test_maps_that_do_not_fit_are_refused():
    x = torch.rand(2, 1, 4, 6)
    with pytest.raises(ShapeError, match="give N of each"):
        segmentation_figure(x, x, maps(1)[:1], maps(1)[:1])
