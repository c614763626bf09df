"""Changes with few parameters (clinch.applications.transforms): boxes hold what changes make, verdicts hold."""

import pytest
import torch
from torch import nn

import clinch as cl
from clinch.applications.transforms import Transforms, under_transforms
from clinch.applications.transforms.families import changed, enclosed
from clinch.errors import ProblemError

LOW, HIGH = torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
REACH = torch.tensor([40, 0.2, 0.2, 0.3, 1.0, 0.9, 0.3], dtype=torch.float64)


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 12), nn.ReLU(), nn.Linear(12, 3)).eval()


@pytest.mark.parametrize("width", [1e-3, 0.3])
@pytest.mark.parametrize("seed", range(4))
def test_boxes_hold_what_changes_make(seed, width):
    g = torch.Generator().manual_seed(seed)
    x = images(3, 2, 9, 7, seed=seed)
    reach = REACH * torch.rand(7, generator=g) * (torch.rand(7, generator=g) < 0.7)
    middle = (2 * torch.rand(3, 7, generator=g, dtype=torch.float64) - 1) * reach
    spread = width * torch.rand(3, 7, generator=g, dtype=torch.float64) * reach
    least, most = (middle - spread).maximum(-reach), (middle + spread).minimum(reach)
    box = enclosed(x, least, most, LOW, HIGH)
    for k in range(40):
        share = torch.rand(3, 7, generator=g, dtype=torch.float64)
        theta = least + (most - least) * (share.round() if k % 3 == 0 else share)
        for single in (False, True):
            z = changed(*(t.float() if single else t for t in (x, theta, LOW, HIGH))).clamp(0, 1)
            assert bool((z >= box.lower).all()) and bool((z <= box.upper).all())
    if width < 0.01:
        assert float((box.upper - box.lower).max()) < 0.05, "boxes shrink with their parameters"


def test_places_between_pixels_are_looked_at():
    x = torch.zeros(1, 1, 1, 5, dtype=torch.float64)
    x[..., 2] = 1.0
    theta = torch.zeros(1, 7, dtype=torch.float64)
    theta[:, 2] = 0.3  # one and a half pixels
    box = enclosed(x, -theta, theta, LOW, HIGH)
    assert box.upper.flatten().tolist() == pytest.approx([0, 1, 1, 1, 0], abs=0.51)
    assert bool((box.upper.flatten()[1:4] >= 1).all()) and float(box.upper[..., 0]) == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("text", ["rotation=9", "brightness=0.1", "translation=0.03,contrast=0.2", "blur=1"])
def test_verdicts_hold_on_a_grid(net, text):
    x = images(8, 1, 6, 8).float()
    y = net(x).argmax(1)
    found = under_transforms(net, x, y, text, boxes=400)
    assert bool(found.certified.any()) and not bool((found.certified & found.attacked).any())
    assert torch.equal((net(found.x).argmax(1) != y), found.attacked)
    reach = torch.tensor(Transforms.read(text).reach)
    g = torch.Generator().manual_seed(1)
    theta = (2 * torch.rand(8 * 300, 7, generator=g) - 1) * reach
    z = changed(x.repeat_interleave(300, 0), theta, LOW.float(), HIGH.float()).clamp(0, 1)
    wrong = (net(z).argmax(1) != y.repeat_interleave(300)).reshape(8, 300).any(1)
    assert not bool((wrong & found.certified).any())


def test_stickers_of_any_place(net):
    x = images(6, 1, 6, 8, seed=2).float()
    y = net(x).argmax(1)
    found = under_transforms(net, x, y, Transforms(sticker=1))
    assert bool((found.certified | found.attacked).all()) and found.certified.any() and found.attacked.any()
    for b in found.attacked.nonzero().flatten().tolist():
        moved = (found.x[b] != x[b])[0].nonzero()
        assert int(net(found.x[b : b + 1]).argmax()) != int(y[b])
        assert len(moved) == 1
    for b in found.certified.nonzero().flatten().tolist():  # every place
        for place in range(48):
            z = x[b].flatten().repeat(11, 1)
            z[:, place] = torch.linspace(0, 1, 11)
            assert bool((net(z).argmax(1) == y[b]).all())


def test_wrong_labels_count_as_attacked_and_time_is_kept(net):
    x = images(3, 1, 6, 8).float()
    wrong = (net(x).argmax(1) + 1) % 3
    found = under_transforms(net, x, wrong, "rotation=5")
    assert found.attacked.all() and found.accuracy == (0.0, 0.0)
    late = under_transforms(net, x, net(x).argmax(1), "rotation=20", time_limit=0.0)
    assert not late.certified.any()
    assert "under these changes" in str(found) and found.to_rows()[0]["verdict"] == "attacked"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rotate=5", "no change 'rotate'"), ("rotation", "name=number"), ("rotation=-1", "0 to 180"),
        ("sticker=1.5", "whole pixels"), ("sticker=2,blur=1", "comes alone"), ("blur=0", "nothing may change"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_said(text, said):
    with pytest.raises(ProblemError, match=said):
        Transforms.read(text)


def test_images_have_rows_and_columns(net):
    with pytest.raises(ProblemError, match="rows and columns"):
        under_transforms(
            cl.load(nn.Linear(4, 2).eval(), input_shape=(4,)), torch.rand(2, 4), torch.zeros(2), "rotation=5"
        )
    with pytest.raises(ProblemError, match="larger than"):
        under_transforms(net, images(1, 1, 6, 8).float(), torch.zeros(1, dtype=torch.long), "sticker=7")
