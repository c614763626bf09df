"""SciPy's solvers are stopped from outside, wherever their own algebra happens to be."""

import sys

import pytest

from clinch.papers.methods.scipy_solvers import _OutOfTime, _unseen_where_swallowed


class _Raises:
    """Raises where Python swallows: in a finaliser."""

    def __init__(self, reason: type[BaseException]) -> None:
        self.reason = reason

    def __del__(self) -> None:
        raise self.reason


@pytest.mark.parametrize(("reason", "reports"), [(_OutOfTime, 0), (ValueError, 1)])
def test_a_stop_that_a_finaliser_swallows_is_not_reported(monkeypatch, reason, reports):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: seen.append(report.exc_type))
    with _unseen_where_swallowed():
        _Raises(reason)
    assert seen == [reason] * reports
