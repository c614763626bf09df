"""Where attacks are: those that one paper needs are reached by name, and old names work and warn."""

from __future__ import annotations

import importlib

import pytest

import clinch as cl
from clinch.attacks import IN_PAPERS, OLD_NAMES


@pytest.mark.parametrize("name", IN_PAPERS)
def test_methods_of_papers_are_reached_by_name(name):
    found = getattr(cl.attacks, name)
    assert found is getattr(importlib.import_module(IN_PAPERS[name]), name) and found.__module__ == IN_PAPERS[name]
    assert name in cl.attacks.__all__ and name in dir(cl.attacks) and found.__doc__


@pytest.mark.parametrize("old", OLD_NAMES)
def test_old_names_warn_and_work(old):
    with pytest.warns(DeprecationWarning, match=f"is now clinch.attacks.{OLD_NAMES[old]}"):
        found = getattr(cl.attacks, old)
    assert found is getattr(cl.attacks, OLD_NAMES[old])


def test_what_never_was_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'never'"):
        _ = cl.attacks.never
