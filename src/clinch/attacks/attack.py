"""The anytime attack of ``solve()``: upper bounds for every objective, reported as they are found.

Distances get the default attack (:mod:`clinch.attacks.nearest`), and the pieces of the network on which its runners-up
ended are polished; other objectives get projected gradient over the region (:mod:`clinch.attacks.minimise`).
"""

from __future__ import annotations

from clinch.attacks.conditions import Conditions
from clinch.attacks.linearised import Lanes
from clinch.attacks.minimise import LANES_PER_START, minimise_steps
from clinch.attacks.nearest import search
from clinch.attacks.objective import Objective
from clinch.attacks.polish import polish_from
from clinch.attacks.track import Track
from clinch.query import Distance, Query
from clinch.runtime.gradients import with_gradients
from clinch.solver.ledger import Ledger

#: passes for each problem of a thorough attack on a distance, and of a quick one: where branches share conditions, so
#: that many lanes go side by side, and elsewhere
SHARED, OTHERS = (5000, 2200), (800, 120)
#: the same where changed elements are counted: branch and bound has no walks for those
SHARED_SPARSE = 10_000
#: lanes and steps of a thorough attack on another objective, and of a quick one
WALKS, QUICK_WALKS = (2 * LANES_PER_START, 60), (4, 15)
#: how far behind the incumbent a runner-up may lie to be polished
RUNNER_UP = 0.1


@with_gradients
def attack(query: Query, ledger: Ledger, *, seed: int = 0, thorough: bool = True, passes: int | None = None) -> None:
    """Attack all problems of a query; what is found goes to the ledger.

    Args:
        query: the float64 normal form.
        ledger: receives the points and says when to stop.
        seed: of the random starts.
        thorough: False is enough where an exact search with walks of its own comes next.
        passes: for each problem whose objective is a distance; None: as many as ``thorough`` says.
    """
    if not isinstance(query.objective, Distance):
        goal = Objective(query)
        track = Track(goal, ledger=ledger)
        lanes, steps = WALKS if thorough else QUICK_WALKS
        try:
            minimise_steps(goal, track, count=lanes, steps=steps, draws=goal.draws(seed))
        finally:
            track.report()
        return
    goal = Conditions(query, needed=False, scaled=True)
    track = Track(goal, ledger=ledger)
    track.report()
    wanted = SHARED_SPARSE if goal.shared and goal.p == 0 else (SHARED if goal.shared else OTHERS)[not thorough]
    try:
        finalists = search(track, passes or wanted, goal.draws(seed), quick=not thorough)
    finally:
        track.report()
    if thorough and finalists is not None and not ledger.exhausted:
        _polish_runners_up(ledger, track, finalists)


def _polish_runners_up(ledger: Ledger, track: Track, lanes: Lanes) -> None:
    """A runner-up may lie on a better piece than the incumbent: polish those that are not far behind."""
    value = track.goal.shortened(ledger.value.to(lanes.rows.device))[lanes.rows]
    close = (lanes.distance <= (1 + RUNNER_UP) * value).nonzero().flatten()
    close = close[lanes.distance[close].argsort(stable=True)]
    rows = lanes.rows[close]
    x = track.goal.x[rows]
    polish_from(ledger.query, ledger, track.goal.point(x + lanes.nearest[close].view_as(x), rows), rows.cpu())
