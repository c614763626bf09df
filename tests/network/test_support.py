"""What is said of a model before a problem about it is stated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import clinch as cl
from clinch.errors import NetworkError


class Draws(nn.Module):
    """Two layers that cannot be read."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.bernoulli(x) + torch.rand_like(x).relu() + torch.randn_like(x)


def test_each_layer_has_a_row_and_engines_name_what_they_lack():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.GELU()).eval()
    found = cl.supports(model, (3,))
    assert (len(found), found[1].operator, found.missing) == (4, "ReLU", ())
    assert [row.exact for row in found] == [True, True, True, False]
    assert found.without("MILP") == ["GELU"] and found.without("CROWN") == []
    assert list(cl.supports(cl.load(model, (3,)))) == list(found)
    table = str(found).splitlines()
    assert table[0].split() == ["layer", "operator", "output", "attacks", "interval", "CROWN", "MILP", "certificate"]
    assert table[4].split() == ["3", "GELU", "4", "yes", "yes", "yes", "no", "yes"]


def test_everything_in_the_way_is_listed():
    found = cl.supports(Draws().eval(), (3,))
    assert len(found) == 0 and len(found.missing) == 3
    assert all("random" in text for text in found.missing) and "bernoulli" in str(found)


def test_an_engine_of_no_such_name_is_refused():
    with pytest.raises(NetworkError, match="CROWN"):
        cl.supports(nn.Sequential(nn.Linear(2, 2)).eval(), (2,)).without("crown")
