"""Where to split: what upper lines cost; domains that depend on nothing open go on all the same."""

from __future__ import annotations

import pytest
import torch
from dual_cases import query_of, random, relaxed_of

from clinch.bounds.ascent import ascend
from clinch.bounds.domains import fresh_domains
from clinch.search.relu_branching import intercepts, next_elements, open_elements, relaxation_loss, split_scores, stuck
from clinch.testing.networks import KINKED, multilayer


def bounded(make, seed, split=None):
    rng = random(seed)
    query = query_of(make(rng), rng, "linear", None).take(torch.zeros(4, dtype=torch.long))
    query = type(query)(**{**vars(query), "atoms": query.atoms.select(slice(0)), "clause": query.clause[:0]})
    relaxed = relaxed_of(query)
    d = fresh_domains(relaxed, torch.arange(4), torch.full((4, 0), -1), split)
    return relaxed, ascend(relaxed, d, 10)


@pytest.mark.parametrize("make", KINKED)
@pytest.mark.parametrize("seed", range(3))
def test_an_intercept_is_what_the_chords_offset_takes_from_the_bound(make, seed):
    relaxed, ascent = bounded(make, seed)
    found, open_ = intercepts(relaxed, ascent), open_elements(relaxed, ascent.domains)
    for kink in relaxed.kinks:
        lower, upper = kink.bounds
        offset = -upper * lower * (1 - kink.op.negative_slope) / (upper - lower)
        rows = ascent.rows[:, kink.columns]
        used, at = open_[:, kink.columns] & (rows < 0), found[:, kink.columns]
        assert torch.allclose(at[used], (-rows * offset)[used], rtol=1e-9)
    assert bool((found[~open_] == -1).all() and (found[open_] > 0).all())


def test_where_no_open_element_has_a_coefficient_what_broken_signs_depend_on_is_split_next():
    relaxed, ascent = bounded(multilayer, 1)
    second = relaxed.kinks[-1].columns
    split = torch.zeros(4, relaxed.width, dtype=torch.int8)
    # all of the last layer is off: the objective is a constant, and says nothing about the first layer
    split[:, second] = -1
    relaxed, ascent = bounded(multilayer, 1, split)
    ascent = ascent._replace(rows=torch.where(split < 0, ascent.rows, 0.0))
    assert bool(stuck(relaxed, ascent).all())
    open_ = open_elements(relaxed, ascent.domains)
    assert torch.equal(split_scores(relaxed, ascent), relaxation_loss(relaxed, ascent))
    if bool(open_.any()):
        chosen = next_elements(relaxed, ascent, 1)
        assert bool((chosen >= 0).all() and open_.gather(1, chosen).all())
