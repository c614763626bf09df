"""The pretend device refuses what CUDA refuses, and computes what the CPU computes."""

from __future__ import annotations

import pytest
import torch
from pretend import CUDA, Pretend, PretendCuda, WrongDevice


@pytest.fixture(autouse=True)
def on_pretend():
    with PretendCuda():
        yield


@pytest.mark.parametrize(
    "made",
    [
        lambda: torch.zeros(3, device="cuda"),
        lambda: torch.tensor([1.0, 2.0], device="cuda"),
        lambda: torch.ones(3).to("cuda"),
        lambda: torch.ones(3).to(torch.float64).to(torch.device("cuda")),
        lambda: torch.ones(3).to(torch.zeros(1, device=CUDA)),
        lambda: torch.zeros(3, device=CUDA).new_ones(2),
        lambda: torch.zeros(3, device=CUDA)[torch.tensor([0, 1])],
        lambda: torch.zeros(3, device=CUDA) + torch.tensor(1.0),
    ],
)
def test_what_is_made_there_stays_there(made):
    assert isinstance(made(), Pretend) and made().device == CUDA


@pytest.mark.parametrize(
    "wrong",
    [
        lambda t: t + torch.ones(3),
        lambda t: torch.ones(3)[t.long()],
        lambda t: torch.cat([t, torch.ones(1)]),
        lambda t: torch.stack([t[0], torch.tensor(1.0)]),
        lambda t: torch.where(t > 0, t, torch.ones(3)),
        lambda t: t.index_select(0, torch.tensor([0])),
        lambda t: t.numpy(),
        lambda t: torch.rand(3, generator=torch.Generator(), device="cuda"),
    ],
)
def test_a_stranger_is_refused(wrong):
    with pytest.raises(WrongDevice):
        wrong(torch.zeros(3, device="cuda"))


def test_numbers_views_writes_and_gradients_are_those_of_the_cpu():
    x = torch.arange(6.0).reshape(2, 3)
    there = x.to("cuda")
    assert there.cpu().tolist() == there.tolist() == x.tolist() and float(there.sum()) == 15
    there[0, 1:].mul_(10)
    there[there > 15] = -1
    assert there.tolist() == [[0.0, 10.0, -1.0], [3.0, 4.0, 5.0]]
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad((leaf.to("cuda") ** 2).sum(), leaf)
    assert slope.device.type == "cpu" and torch.equal(slope, 2 * x)
