"""Several studies in one call, methods of one kind, and a normalisation in front of a network."""

import pytest
import torch
from torch import nn

import clinch as cl
from clinch.bounds import ball, crown
from clinch.demo import digits, network
from clinch.study import compare, comparison, evaluate, normalised
from clinch.study.store import Store

DEMO = cl.load(network(), input_shape=(8, 8))


def comparable(found):
    return [row._replace(seconds=0.0) for row in found.rows]


def test_every_combination_is_the_study_of_its_own(tmp_path):
    x, y = digits()
    data = [(x[:12], y[:12]), "digits"]
    asked = {"norms": [cl.inf, 2], "eps": [0.05, None], "methods": ["cheap"], "limit": 12}
    found = compare([DEMO], data, **asked, out=tmp_path, time_limit=60)
    names = [
        f"Sequential-{source}-{ask}-cheap"
        for source in ("arrays", "digits_test")
        for ask in ("linf-eps0.05", "linf-distances", "l2-eps0.05", "l2-distances")
    ]
    assert list(found.runs) == names and {folder.name for folder in tmp_path.iterdir()} == set(names)
    for name, run in found.runs.items():
        ask = run.template
        alone = evaluate(DEMO, norm=ask.norm, eps=ask.eps, methods="cheap", limit=12)
        assert comparable(run) == comparable(alone)
        with Store(tmp_path / name, create=False) as store:
            assert len(store.images()) == 12
    again = compare([DEMO], data, **asked, out=tmp_path, time_limit=0)
    assert [run.rows for run in again.runs.values()] == [run.rows for run in found.runs.values()]
    rows = found.rows()
    assert [(row["norm"], row["eps"]) for row in rows[:4]] == [
        ("linf", "0.05"),
        ("linf", ""),
        ("l2", "0.05"),
        ("l2", ""),
    ]
    low, high = (100 * end for end in found.runs[names[0]].interval)
    assert rows[0]["robust %"] == (f"{low:.2f}" if low == high else f"{low:.2f} .. {high:.2f}")
    assert len(str(found).splitlines()) == 9 and "robust %" in str(found).splitlines()[0]
    assert set(found.to_dict()["runs"]) == set(names)


def test_time_that_is_left_goes_to_those_after(monkeypatch):
    now, shares = [0.0], []

    def spend(*_, time_limit, **__):
        shares.append(time_limit)
        now[0] += [1.0, time_limit, 2.0][len(shares) - 1]

    monkeypatch.setattr(comparison.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(comparison, "evaluate", spend)
    found = compare([DEMO], eps=[0.1, 0.2, 0.3], time_limit=30)
    assert shares == [10.0, 14.5, 14.5] and len(found.runs) == 3


def test_equal_names_get_numbers_and_progress_says_which():
    phases = []
    found = compare([DEMO, DEMO], eps=[0.05], limit=3, progress=lambda tally: phases.append(tally.phase))
    first = "Sequential-digits_test-linf-eps0.05"
    assert list(found.runs) == [first, f"{first}-2"]
    assert {phase.rpartition(":")[0] for phase in phases} == set(found.runs)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"norms": []}, "nothing to compare"), ({"norms": [2, 3]}, "norm is 3"), ({"eps": [0.1, -1]}, "eps is -1"),
     ({"methods": ["prayer"]}, "methods is 'prayer'; choose one of"), ({"time_limit": -1}, "time_limit is -1"),
     ({"methods": ["bounds"]}, "Give eps"), ({"data": ["digits", "minst"]}, "no data 'minst'"),
     ({"data": ["digits", (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))]}, r"have shape \(3,\)")],
)  # fmt: skip
def test_bad_settings_are_one_line_before_any_work(options, message, monkeypatch):
    monkeypatch.setattr(comparison, "evaluate", lambda *_, **__: pytest.fail("work was begun"))
    with pytest.raises(cl.ClinchError, match=message) as caught:
        compare([DEMO], **options)
    assert "\n" not in str(caught.value)


def test_attacks_and_bounds_alone_are_the_ends_of_the_whole(tmp_path):
    ask = {"eps": 0.08, "limit": 40}
    whole, cheap, attacks, bounds = (evaluate(DEMO, methods=m, **ask) for m in ("all", "cheap", "attacks", "bounds"))
    assert attacks.interval[0] == 0.0 and "robust" not in attacks.tally.counts and attacks.tally.counts["attacked"]
    assert "attacked" not in bounds.tally.counts and bounds.tally.counts["robust"]
    assert bounds.interval[0] <= cheap.interval[0] <= whole.interval[0]
    assert whole.interval[1] <= cheap.interval[1] <= attacks.interval[1] <= 1 - whole.tally.counts["misclassified"] / 40
    assert not any(row.method == "search" for row in cheap.rows) and any(row.method == "search" for row in whole.rows)
    evaluate(DEMO, methods="cheap", **ask, out=tmp_path)
    assert comparable(evaluate(DEMO, **ask, out=tmp_path)) == comparable(whole)
    with pytest.raises(cl.ClinchError, match="its problem is"):
        evaluate(DEMO, methods="attacks", **ask, out=tmp_path)


class Channels(nn.Module):
    """A small convolutional network of three channels."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 16, 3)

    def forward(self, x):
        return self.out(torch.relu(self.conv(x)).flatten(1))


def test_a_normalisation_in_front_is_the_network_on_normalised_inputs():
    torch.manual_seed(0)
    model, mean, std = Channels().eval(), [0.5, 0.4, 0.3], [0.2, 0.25, 0.5]
    net = cl.load(model, input_shape=(3, 4, 4))
    pixels = normalised(net, mean, std)
    x = torch.rand(20, 3, 4, 4)
    centre, spread = (torch.tensor(v)[:, None, None] for v in (mean, std))
    z = (x - centre) / spread
    y = model(z).argmax(1)
    with torch.no_grad():
        assert torch.allclose(pixels.graph.forward(x)[pixels.graph.output], model(z), atol=1e-5)
        seen = pixels.original(x, ["input", "normalisation", "conv", "out"])
    assert torch.equal(seen["input"], x) and torch.allclose(seen["normalisation"], z, atol=1e-6)
    assert torch.allclose(seen["out"], model(z), atol=1e-5) and torch.allclose(seen["conv"], model.conv(z), atol=1e-5)
    # a ball around pixels is a box around normalised ones, as wide as each channel's std says
    box = cl.bounds.box((x - 0.02 - centre) / spread, (x + 0.02 - centre) / spread)
    assert torch.allclose(crown(pixels, ball(x, 0.02, cl.inf)), crown(net, box), atol=1e-5)
    found = evaluate(pixels, (x, y), eps=0.02)
    assert set(found.tally.counts) <= {"attacked", "robust"} and found.tally.answered == 20
    with pytest.raises(cl.ClinchError, match="look normalised"):
        evaluate(net, (z, y), eps=0.02)
    assert pixels.name == net.name


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.0), (0.5, -1.0), ([0.1, 0.2], 1.0), (float("nan"), 1.0)])
def test_a_normalisation_that_does_not_fit_is_one_line(mean, std):
    with pytest.raises(cl.ClinchError, match="give") as caught:
        normalised(cl.load(Channels().eval(), input_shape=(3, 4, 4)), mean, std)
    assert "\n" not in str(caught.value)
