"""Whole data sets: intervals and distances against exact answers, bad images, resumed and killed runs."""

import json
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import clinch as cl
from clinch.demo import digits, network
from clinch.io.data import DataError, model_file
from clinch.study import answers, evaluate, open_source
from clinch.study.fingerprint import model_fingerprint
from clinch.study.store import Store, StoreError
from clinch.study.template import Template

DEMO = cl.load(network(), input_shape=(8, 8))


def linear():
    """A linear classifier of three classes over two inputs, and its distances in closed form."""
    model = nn.Linear(2, 3).eval()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.2], [-0.8, 0.6], [0.1, -1.1]]))
        model.bias.copy_(torch.tensor([0.0, 0.3, 0.5]))
    x = 0.3 + 0.4 * torch.rand(40, 2, generator=torch.Generator().manual_seed(1))
    return model, x, model(x).argmax(1)


def exact_distances(model, x, y, dual):
    w, z = model.weight.detach().double(), x.double() @ model.weight.detach().double().T + model.bias.detach().double()
    margins = z.gather(1, y[:, None]) - z
    steep = torch.linalg.vector_norm(w[y][:, None] - w[None], ord=dual, dim=2)
    return torch.where(steep > 0, margins / steep, torch.inf).amin(1)


@pytest.mark.parametrize(("p", "dual"), [(2, 2), (cl.inf, 1)])
def test_distances_of_a_linear_classifier_are_exact(p, dual):
    model, x, y = linear()
    exact = exact_distances(model, x, y, dual)
    net = cl.load(model, input_shape=(2,))
    found = evaluate(net, (x, y), norm=p, lower=-9.0, upper=9.0, time_limit=30)
    value, bound = (torch.tensor([getattr(row, name) for row in found.rows]) for name in ("value", "bound"))
    assert found.tally.counts == {"closed": 40}
    assert torch.all(bound <= exact * (1 + 1e-6)) and torch.all(exact <= value * (1 + 1e-6))
    assert torch.all(value - bound <= 1e-3 * value + 1e-6)
    eps = 1.001 * float(exact.median())
    low, high = found.certified(eps)
    assert low <= float((exact > eps).double().mean()) <= high
    answer = evaluate(net, (x, y), norm=p, eps=eps, lower=-9.0, upper=9.0, time_limit=30)
    assert answer.interval[0] <= float((exact > eps).double().mean()) <= answer.interval[1]
    assert sum(answer.tally.counts.values()) == 40


def test_answers_agree_with_a_grid_on_a_tiny_network():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(2, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.rand(60, 2)
    with torch.no_grad():  # every class has a part of the square
        model[-1].weight *= 5
        model[-1].bias -= model(x).mean(0)
    y = model(x).argmax(1)
    y[:3] = (y[:3] + 1) % 3
    found = evaluate(cl.load(model, input_shape=(2,)), (x, y), eps=0.1, time_limit=60)
    steps = torch.linspace(-0.1, 0.1, 81)
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
    fooled = torch.stack([(model((x[i] + grid).clamp(0, 1)).argmax(1) != y[i]).any() for i in range(60)])
    status = [row.status for row in found.rows]
    assert set(status) == {"misclassified", "attacked", "robust"} and status[:3] == ["misclassified"] * 3
    for i, row in enumerate(found.rows):
        assert not (fooled[i] and row.status == "robust")
        assert row.status == "robust" or row.value <= 0.1 * (1 + 1e-9)
    low, high = found.interval
    assert low == high == status.count("robust") / 60
    tallies = found.per_class()
    assert sum(t.images for t in tallies.values()) == 60
    assert sum(t.counts.get("robust", 0) for t in tallies.values()) == status.count("robust")


def test_the_inputs_kept_fool_the_model(tmp_path):
    x, y = digits()
    found = evaluate(DEMO, eps=0.06, limit=60, out=tmp_path)
    model, kept = network(), 0
    with Store(tmp_path, create=False) as store:
        for row in found.rows:
            content = store.found(row.image)
            assert (content is not None) == (row.status in ("attacked", "misclassified"))
            if content is not None:
                near = torch.from_numpy(np.frombuffer(content, np.float32).copy()).view(1, 8, 8)
                assert int(model(near).argmax()) != int(y[row.image])
                assert float((near - x[row.image]).abs().max()) <= 0.06 + 1e-6
                assert float(near.min()) >= 0 and float(near.max()) <= 1
                kept += 1
    assert kept and found.tally.counts["robust"]


def test_a_time_limit_of_zero_leaves_the_interval_open():
    found = evaluate(DEMO, eps=0.05, limit=20, time_limit=0)
    assert found.interval == (0.0, 1.0) and not found.rows and found.tally.answered == 0


def test_bad_images_are_failed_rows_and_the_others_are_as_ever():
    x, y = digits()
    x, y = x[:12].clone(), y[:12].clone()
    good = {row.image: row.status for row in evaluate(DEMO, (x, y), eps=0.05).rows}
    x[2, 0, 0], x[5, 1, 1] = torch.nan, 1.5
    found = evaluate(DEMO, (x, y), eps=0.05)
    errors = {row.image: row.error for row in found.rows if row.status == "failed"}
    assert set(errors) == {2, 5}
    assert "NaN" in errors[2] and "outside of [0, 1]" in errors[5]
    assert {row.image: row.status for row in found.rows if not row.error} == {
        image: status for image, status in good.items() if image not in errors
    }
    low, high = found.interval
    assert high - low >= 2 / 12 - 1e-12


def test_labels_beyond_the_classes_are_one_line_before_any_work(tmp_path):
    x, y = digits()
    x, y = x[:12], y[:12].clone()
    y[7] = y[9] = 10
    with pytest.raises(cl.ClinchError, match=r"label 10 of image 7 is none of the 10 classes.*2 of 12"):
        evaluate(DEMO, (x, y), eps=0.05, out=tmp_path / "run")
    with pytest.raises(cl.ClinchError, match="label 10 of image 7"):
        cl.study.compare([DEMO], (x, y), eps=[0.05], time_limit=5)
    assert not (tmp_path / "run").exists()
    assert evaluate(DEMO, (x, y), eps=0.05, limit=7, time_limit=0).tally.images == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: 255 * x, "uint8 or divide them by 255"),
        (lambda x: 4 * x - 2, "normalised"),
        (lambda x: x + torch.nan, "NaN"),
    ],
)
def test_data_of_another_scale_is_one_line_before_any_work(change, message, tmp_path):
    x, y = digits()
    with pytest.raises(cl.ClinchError, match=message):
        evaluate(DEMO, (change(x[:20]), y[:20]), eps=0.05, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_radius_for_shares_of_the_range_is_told():
    x, y = digits()
    found = evaluate(DEMO, (255 * x[:2], y[:2]), eps=0.03, upper=255, methods="bounds")
    assert any("units" in note for note in found.notes)


def test_an_engine_that_fails_on_one_image_fails_on_that_image_alone(monkeypatch):
    from clinch.study.answers import Batch

    x, y = digits()
    cheap = Batch.cheap

    def fragile(self, methods, seed):
        if bool((self.x == x[3]).flatten(1).all(1).any()):
            raise RuntimeError("out of memory")
        cheap(self, methods, seed)

    monkeypatch.setattr(Batch, "cheap", fragile)
    found = evaluate(DEMO, (x[:6], y[:6]), eps=0.02)
    assert [row.image for row in found.rows if row.status == "failed"] == [3]
    assert found.rows[3].error == "RuntimeError: out of memory" and len(found.rows) == 6


def comparable(rows):
    return [row._replace(seconds=0.0) for row in rows]


def test_a_run_goes_on_where_it_stopped_and_may_grow(tmp_path, monkeypatch):
    monkeypatch.setattr(answers, "LARGEST", 10)
    whole = evaluate(DEMO, eps=0.06, limit=45)
    seen = []

    class Stop(Exception):
        pass

    def stop(tally):
        seen.append(tally)
        if len(seen) == 2:
            raise Stop

    with pytest.raises(Stop):
        evaluate(DEMO, eps=0.06, limit=45, out=tmp_path, progress=stop)
    assert evaluate(DEMO, eps=0.06, limit=20, out=tmp_path, time_limit=0).tally.seen == 20
    done = evaluate(DEMO, eps=0.06, limit=45, out=tmp_path)
    assert comparable(done.rows) == comparable(whole.rows)
    again = evaluate(DEMO, eps=0.06, limit=45, out=tmp_path)
    assert again.tally.done == 0 and again.rows == done.rows
    assert [t.images for t in seen] == [45, 45] and seen[0].interval[0] <= done.interval[0]


@pytest.mark.parametrize("options", [{"eps": 0.06}, {"eps": 0.3, "norm": 2}, {"eps": 4, "norm": 0}])
def test_rows_do_not_depend_on_the_batch(monkeypatch, options):
    """What attacks find, bit by bit; linear bounds are products of matrices, equal up to rounding."""
    found = []
    for largest in (128, 7, 1):
        monkeypatch.setattr(answers, "LARGEST", largest)
        found.append(comparable(evaluate(DEMO, limit=16, **options).rows))
    for rows in found[1:]:
        assert [row._replace(margin=0.0) for row in rows] == [row._replace(margin=0.0) for row in found[0]]
        margins = [[-1.0 if row.margin is None else row.margin for row in each] for each in (rows, found[0])]
        assert margins[0] == pytest.approx(margins[1], rel=1e-9)


@pytest.mark.parametrize("options", [{"eps": 0.06}, pytest.param({"norm": 2}, marks=pytest.mark.slow)])
def test_wide_networks_are_attacked_first_and_end_with_the_same_answers(tmp_path, monkeypatch, options):
    narrow = evaluate(DEMO, limit=24, **options)
    monkeypatch.setattr(answers, "NARROW", 0)
    monkeypatch.setattr(answers, "PAIRS", 48 * 48 * 5)
    phases = []
    wide = evaluate(DEMO, limit=24, out=tmp_path, **options, progress=lambda tally: phases.append(tally.phase))
    assert phases[:6] == ["attack", *["CROWN"] * 5] and set(phases[6:]) <= {"search"}
    assert [row.status for row in wide.rows] == [row.status for row in narrow.rows]
    assert all(row.passes == 2 for row in wide.rows if row.method in ("CROWN", "search"))


def test_images_that_had_no_time_are_taken_up_again(tmp_path, monkeypatch):
    whole = evaluate(DEMO, eps=0.06, limit=20)
    monkeypatch.setattr(answers.Batch, "_late", lambda self: True)
    hurried = evaluate(DEMO, eps=0.06, limit=20, out=tmp_path)
    assert hurried.tally.counts["open"] and all(row.passes == 0 for row in hurried.rows if row.status == "open")
    monkeypatch.undo()
    assert comparable(evaluate(DEMO, eps=0.06, limit=20, out=tmp_path).rows) == [
        row._replace(passes=old.passes) if old.status != "open" else row
        for row, old in zip(comparable(whole.rows), hurried.rows)
    ]


def test_batches_are_small_where_networks_are_large():
    """What a kill costs, by the counts that decide it: activations, and pairs of them where they are bounded."""
    eps, distance = Template(eps=0.1), Template()

    def lengths(*widths):
        layers = [part for a, b in pairwise((2, *widths)) for part in (nn.Linear(a, b), nn.ReLU())]
        net = cl.load(nn.Sequential(*layers, nn.Linear(widths[-1], 3)).eval(), input_shape=(2,))
        found = [answers.passes_of(template, net) for template in (eps, distance)]
        assert [length for _, length in found[0]] == [length for _, length in found[1]]
        return [length for _, length in found[0]]

    assert lengths(50) == [128] and lengths(500) == [128]
    assert lengths(800, 800) == [2**25 // 1600**2]
    assert lengths(2000, 3000) == [2**20 // (2 + 2 * 5000 + 3), 2**29 // 5000**2]
    assert lengths(30000) == [17, 1]


def test_a_late_batch_is_told_from_a_whole_one():
    """Linear bounds that were cut short are weaker, and still below what sampled inputs reach."""
    x, y = digits()
    x, y = x[:16], y[:16]
    whole = answers.Batch(Template(eps=0.1), DEMO, x, y)
    late = answers.Batch(Template(eps=0.1), DEMO, x, y)
    whole.cheap(["CROWN"], 0)
    asked = iter([False])
    late._late = lambda: next(asked, True)  # there is time when it begins, and none from then on
    late.cheap(["CROWN"], 0)
    assert whole.complete and not late.complete
    near = (x[:, None] + 0.2 * torch.rand(16, 200, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.1).clamp(0, 1)
    z = network()(near.flatten(0, 1)).unflatten(0, (16, 200)).double()
    label = z.gather(2, y[:, None, None].expand(16, 200, 1))[..., 0]
    others = z.scatter(2, y[:, None, None].expand(16, 200, 1), -torch.inf).amax(2)
    assert torch.all(late.margin <= whole.margin + 1e-9) and bool((late.margin < whole.margin - 1e-3).any())
    assert torch.all(whole.margin <= (label - others).amin(1) + 1e-5)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("options", [{"eps": 0.02}, {"eps": 0.06}, {}])
def test_a_time_limit_holds_where_one_batch_takes_long(options):
    """Twenty seconds for fifty images of a network with 47,000 activations to bound."""
    try:
        net, source = cl.load(str(model_file("mnist_cnn.onnx"))), open_source("mnist")
    except DataError as error:
        pytest.skip(str(error))
    found = evaluate(net, source, limit=50, time_limit=20, **options)
    assert found.tally.seen == 50 and found.tally.seconds < 25
    assert found.tally.counts["open"], "there was time for everything"


@pytest.mark.parametrize(
    ("change", "part"), [({"eps": 0.07}, "problem"), ({"seed": 1}, "problem"), ({"data": "digits:train"}, "data")]
)
def test_runs_are_not_mixed(tmp_path, change, part):
    evaluate(DEMO, eps=0.06, limit=4, out=tmp_path)
    with pytest.raises(StoreError, match=f"another study: its {part} is"):
        evaluate(DEMO, **{"eps": 0.06, "limit": 4, **change}, out=tmp_path)


def test_another_model_is_another_study(tmp_path):
    evaluate(DEMO, eps=0.06, limit=4, out=tmp_path)
    model = network()
    with torch.no_grad():
        model.output.bias[3] += 1e-3
    changed = cl.load(model, input_shape=(8, 8))
    assert model_fingerprint(changed) != model_fingerprint(DEMO)
    with pytest.raises(StoreError, match="another study: its model is"):
        evaluate(changed, eps=0.06, limit=4, out=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"norm": 3}, "norm is 3"), ({"eps": -1.0}, "eps is -1"), ({"eps": float("nan")}, "eps is nan"),
     ({"limit": 0}, "limit is 0"), ({"time_limit": -1}, "time_limit is -1"), ({"lower": 1.0}, "range is 1.0 to 1.0"),
     ({"gap": -1}, "gap is -1"),
     ({"data": (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))}, r"have shape \(3,\)")],
)  # fmt: skip
def test_bad_settings_are_one_line_before_any_work(options, message):
    with pytest.raises(cl.ClinchError, match=message) as caught:
        evaluate(DEMO, **options)
    assert "\n" not in str(caught.value)


#: runs the study in children that are killed at random moments, a quarter of them counted from the start and the others
#: from the first result, which workers take long to bring; in one process that has imported everything
KILLER = """
import json, os, random, select, signal, sys, time, warnings
import torch
torch.set_num_threads(1)
import clinch as cl
from clinch.demo import network
from clinch.study import answers, evaluate
from clinch.study.store import Store
warnings.simplefilter("error")
answers.LARGEST = 3
net = cl.load(network(), input_shape=(8, 8))
folder, workers = sys.argv[1], int(sys.argv[2])
def run(out, workers=1, progress=None):
    return evaluate(net, eps=0.07, limit=45, out=out, workers=workers, progress=progress)
run(folder + "/warm")
run(folder + "/whole")
moments = [time.monotonic()]
run(folder + "/timed", workers, lambda tally: moments.append(time.monotonic()))
start, work = moments[1] - moments[0], moments[-1] - moments[1]
generator, partial = random.Random(5), 0
for kill in range(int(sys.argv[3])):
    heard, tell = os.pipe()
    child = os.fork()
    if not child:
        run(folder + "/killed", workers, lambda tally: os.write(tell, b"."))
        os._exit(0)
    os.close(tell)
    if kill % 4:
        select.select([heard], [], [])
        # what is left gets less from kill to kill
        time.sleep(generator.uniform(0.0, work / 8))
    else:
        time.sleep(generator.uniform(0.0, start))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(heard)
    with Store(folder + "/killed") as store:
        rows = list(store.rows())
        partial += 0 < sum(row.status != "open" for row in rows) and (
            len(rows) < 45 or any(row.status == "open" for row in rows))
run(folder + "/killed", workers)
def rows(name):
    with Store(folder + "/" + name, create=False) as store:
        return [[list(row._replace(seconds=0.0)), (store.found(row.image) or b"").hex()] for row in store.rows()]
print(json.dumps({"same": rows("whole") == rows("killed"), "rows": len(rows("killed")), "partial": partial,
                  "search": sum(row[0][7] == "search" for row in rows("whole"))}))
"""


@pytest.mark.parametrize(
    ("workers", "kills"),
    [(1, 8), pytest.param(1, 20, marks=pytest.mark.slow), pytest.param(2, 20, marks=pytest.mark.slow)],
)
def test_a_run_killed_again_and_again_ends_with_the_rows_of_an_uninterrupted_one(tmp_path, workers, kills):
    outcome = subprocess.run(
        [sys.executable, "-c", KILLER, str(tmp_path), str(workers), str(kills)],
        capture_output=True, text=True, timeout=550,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr
    answer = json.loads(outcome.stdout)
    assert answer["same"] and answer["rows"] == 45
    assert answer["partial"] >= kills // 4, "the kills missed the work"


@pytest.mark.parametrize(
    ("more", "untried"), [({"methods": "bounds"}, "only bounds"), ({"time_limit": 0}, "the time was")]
)
def test_not_attacked_is_said_of_no_image_that_nobody_tried_to_attack(more, untried):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3))
    net = cl.load(model.eval(), input_shape=(1, 2, 3))
    x = torch.rand(5, 1, 2, 3)
    y = net.graph.forward(x)[net.graph.output].argmax(1)
    study = cl.study.evaluate(net, (x, y), eps=0.6, **more)
    count = study.tally.images - study.tally.answered
    assert count and any(note.startswith(f"{count} of the images") and untried in note for note in study.notes)
    assert str(study).endswith(study.notes[-1])
    tried = cl.study.evaluate(net, (x, y), eps=0.6, methods="attacks")
    assert not any("to the end" in note for note in tried.notes)
