"""Everything one can add is complete, and where a piece is forgotten a test fails and names it."""

import pytest
from pieces import KINDS, House, missing

from clinch.errors import ClinchError
from clinch.papers.parts import reproduction

EVERY = [(kind, name) for kind, one in KINDS.items() for name in one.things()]
FIRST = {kind: next(iter(one.things())) for kind, one in KINDS.items()}
EACH_PIECE = [pytest.param(kind, piece, id=f"{kind}-{piece.what}") for kind in KINDS for piece in KINDS[kind].pieces]


@pytest.mark.parametrize(("kind", "name"), EVERY, ids=lambda text: text)
def test_nothing_is_forgotten(kind, name):
    assert missing(kind, name, KINDS[kind].things()[name]) == []


@pytest.mark.parametrize(("kind", "piece"), EACH_PIECE)
def test_a_forgotten_piece_is_named(kind, piece):
    """One that is complete, copied without this one piece: the message names it and nothing else."""
    name = FIRST[kind]
    thing, house = piece.forgotten(name, KINDS[kind].things()[name], House())
    assert missing(kind, name, thing, house) == [f"the {kind} '{name}' lacks {piece.what}"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_thing_with_nothing_but_a_name_is_told_all_its_pieces(kind):
    told = missing(kind, "scratch", KINDS[kind].bare())
    owed = [piece.what for piece in KINDS[kind].pieces]
    # a relaxation that is not there needs no interval rule
    assert [line.partition(" lacks ")[2] for line in told] == [w for w in owed if "relaxation starts" not in w]


def test_a_paper_that_returns_nothing_is_refused(monkeypatch):
    class Module:
        @staticmethod
        def run(*, seed, quick, note):
            note("forgot to return")

    monkeypatch.setattr(reproduction, "names", lambda: ["scratch"])
    monkeypatch.setattr(reproduction.importlib, "import_module", lambda name: Module)
    with pytest.raises((ClinchError, TypeError), match=r"papers/scratch\.py.*run\(\) returned NoneType.*Reproduction"):
        reproduction.reproduce("scratch")
