"""Published experiments in their small setting: what is published stands beside what is computed, and bounds hold."""

from __future__ import annotations

import math

import pytest
import torch

from clinch.figures import save
from clinch.io.data import DataError, mnist, model_file, reference_file
from clinch.papers import Reproduction, balda_figure2, lbfgs, monitor, reproduce, tutorial_attacks, tutorial_bounds
from clinch.papers.balda_figure2 import Outcome
from clinch.papers.parts.balda import FCNN, LENET
from clinch.papers.parts.reproduction import CANNOT, FAILS, HOLDS


def small(name: str, *models: str, curves: bool = False) -> Reproduction:
    """The quick setting, skipped where its data is missing."""
    try:
        mnist("test")
        for model in models:
            model_file(model)
        if curves:
            reference_file("balda_fooling_ratio_lenet.csv")
    except DataError as reason:
        pytest.skip(f"needs MNIST and the reference models: {reason}")
    found = reproduce(name, quick=True)
    assert found.name == name and found.tables and found.claims
    assert {claim.verdict for claim in found.claims} <= {HOLDS, FAILS, CANNOT}
    assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)
    return found


@pytest.mark.data
def test_table_1_of_document_3(tmp_path):
    found = small("balda-table1", "mnist_lenet5_published.safetensors", "mnist_fcnn.onnx")
    rows = {(row[0], row[1]): row[2:] for row in found.tables[0].rows}
    published, ours = rows[(LENET.title, "ρ̂₁")]
    assert published == 0.077 and ours == pytest.approx(published, abs=0.02)
    assert rows[("NIN (CIFAR-10)", "ρ̂₂")] == (0.004, None)
    verdicts = {claim.text: claim.verdict for claim in found.claims}
    assert verdicts["LeNet-5 is more robust than FCNN by ρ̂₁"] == HOLDS
    assert verdicts["FCNN: ρ̂₁ is 0.036"] == CANNOT
    assert save(found.figure, tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.data
def test_figure_2_of_document_3():
    found = small("balda-figure2", "mnist_lenet5_published.safetensors", "mnist_fcnn.onnx", curves=True)
    ours, published = found.tables[:2]
    assert ours.title.startswith(FCNN.title) and published.columns[1:] == tuple(balda_figure2.COLUMNS)
    proven = ours.columns.index(balda_figure2.PROVEN)
    assert all(max(row[1:proven]) <= row[proven] <= 1 for row in ours.rows)
    assert len(found.figure.axes) == 2


def test_points_apart_count_in_standard_errors():
    same = Outcome(LENET, (0.1,), {"m": (0.5,)}, {"m": (0.5,)}, 1024)
    assert same.apart("m") == (0.0, 0.0)
    far = Outcome(LENET, (0.1,), {"m": (0.5,)}, {"m": (0.6,)}, 1024)
    distance, errors = far.apart("m")
    assert distance == pytest.approx(0.1) and errors == pytest.approx(0.1 / math.sqrt(0.55 * 0.45 * 2 / 1024), rel=1e-3)
    none = Outcome(LENET, (0.1,), {"m": (0.0,)}, {"m": (0.0,)}, 512)
    assert torch.tensor(none.apart("m")).tolist() == [0.0, 0.0]


@pytest.mark.slow
@pytest.mark.data
def test_attacks_of_document_1():
    found = small("tutorial-attacks", *(f"{name}.onnx" for name in tutorial_attacks.NETWORKS))
    errors = {(row[0], row[1]): row[2:4] for row in found.tables[0].rows}
    assert errors[(tutorial_attacks.FGSM, "cnn")][0] == 0.4173
    assert all(0 <= ours <= 1 for _, ours in errors.values())
    for name in ("dnn2", "dnn4", "cnn"):
        assert errors[(tutorial_attacks.PGD, name)][1] <= errors[(tutorial_attacks.OURS, name)][1]
    assert any("α 10⁴" in claim.text for claim in found.claims)


@pytest.mark.slow
@pytest.mark.data
def test_exact_margins_of_document_1():
    found = small("tutorial-milp", "mnist_small.onnx")
    for _, published, value, bound, forward, _, search, proven in found.tables[0].rows:
        assert bound <= value + 1e-4 and proven <= search + 1e-4
        assert max(bound, proven) <= min(value, search) + 1e-4
        assert forward == pytest.approx(value, abs=1e-3) and isinstance(published, float)
    assert {c.text: c.verdict for c in found.claims}["ε = 0.05: certified, no other class is possible"] == HOLDS


@pytest.mark.data
def test_bounds_of_document_1():
    found = small("tutorial-bounds", "mnist_small.onnx", "mnist_dnn2.onnx")
    table = found.tables[0]
    columns = dict(zip(table.columns, zip(*table.rows[:-1])))
    exact = columns[tutorial_bounds.EXACT]
    for name in (tutorial_bounds.INTERVAL, tutorial_bounds.LP, tutorial_bounds.CROWN, tutorial_bounds.TIGHT):
        assert all(low <= high + 1e-4 for low, high in zip(columns[name], exact))
    assert columns[f"{tutorial_bounds.LP}, published"][0] == 8.67912
    verdicts = {claim.text: claim.verdict for claim in found.claims}
    assert verdicts["ε = 0.02: interval bounds do not prove all of them"] == HOLDS


@pytest.mark.data
def test_the_monitor_of_document_0():
    found = small("monitor", "mnist_small.onnx")
    rows = {row[0]: row[1] for row in found.tables[0].rows}
    proven = rows.pop("proven: nothing is nearer than")
    assert proven > 0 and set(monitor.WAYS) | set(monitor.ENGINES) <= set(rows)
    assert all(value is None or value >= proven - 1e-6 for value in rows.values())


def test_solvers_differ_where_one_kind_alone_finds_something():
    def outcome(local: float, whole: float) -> monitor.Outcome:
        values = {monitor.COBYLA: local, monitor.SLSQP: math.inf, monitor.SHGO: whole, monitor.EVOLUTION: math.inf}
        return monitor.Outcome(values, 1.0, {})

    assert monitor._differ(outcome(math.inf, 2.0)) and monitor._differ(outcome(1.0, 2.0))
    assert not monitor._differ(outcome(math.inf, math.inf)) and not monitor._differ(outcome(2.0, 2.001))


@pytest.mark.slow
@pytest.mark.data
def test_examples_of_document_2():
    found = small("lbfgs", *(f"{name}.onnx" for name in lbfgs.NETWORKS))
    distortions, transfer, optima = found.tables
    assert all(row[2] == 1.0 for row in distortions.rows if not row[0].endswith("published"))
    own = {row[0]: row[1 + k] for k, name in enumerate(lbfgs.NETWORKS) for row in transfer.rows if row[0] == name}
    assert own == dict.fromkeys(lbfgs.NETWORKS, 1.0)
    assert all(proven <= best * (1 + 1e-6) <= ours * (1 + 1e-3) for _, ours, best, proven, _ in optima.rows)


def test_distortions_claims_and_magnified_examples_of_document_2():
    x0 = torch.rand(4, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x0 + torch.tensor([0.02, 0.04, 0.06, 0.08]).reshape(4, 1, 1, 1)
    made = lbfgs.Examples(x, torch.ones(4, dtype=torch.bool), lbfgs._distortion(x, x0), 0.0)
    assert made.mean == pytest.approx(0.05)
    assert lbfgs._distortion(lbfgs._magnified(x0, made), x0).tolist() == pytest.approx([lbfgs.MAGNIFIED] * 4)

    def verdicts(success: bool, own: float, bound: float) -> dict[str, str]:
        one = lbfgs.Examples(x, torch.full((4,), success), made.distortion, 0.0)
        sources = dict.fromkeys(lbfgs.NETWORKS, one)
        error = {(s, n): 0.3 for s in sources for n in sources}
        error |= {(f"{s}, magnified to {lbfgs.MAGNIFIED:g}", n): 0.9 for s in sources for n in sources}
        noise = {k: dict.fromkeys(sources, own) for k in ("as the network's own examples", f"{lbfgs.MAGNIFIED:g}")}
        distance = torch.ones(4, dtype=torch.float64)
        optimum = lbfgs.Optimum(distance, distance, bound * distance)
        assert len(lbfgs._figure(sources, error).axes) == 1 + len(sources)
        assert all(len(row) == 5 for row in lbfgs._transfer(error, noise).rows)
        return {claim.text: claim.verdict for claim in lbfgs._claims(sources, error, noise, optimum)}

    judged = set(verdicts(True, 0.0, 0.999).values())
    assert judged == {HOLDS, CANNOT}
    wrong = verdicts(False, 0.5, 1.1)
    assert [text[:10] for text, verdict in wrong.items() if verdict == FAILS] == [
        "An example", "The averag", "Noise of t", "Examples a", "small: no "
    ]  # fmt: skip
