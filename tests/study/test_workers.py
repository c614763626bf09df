"""Studies done by threads, processes and Ray workers: the rows of one process, also where workers die."""

import itertools
import os
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest
import torch
from torch import nn

import clinch as cl
from clinch.demo import digits, network
from clinch.errors import NetworkError, ProblemError, WorkerError
from clinch.study import RayExecutor, answers, crew, evaluate
from clinch.study.crew import ProcessPool
from clinch.study.store import Store

DEMO = cl.load(network(), input_shape=(8, 8))
EPS, LIMIT = 0.07, 45


@pytest.fixture(autouse=True)
def small_batches_on_one_thread(monkeypatch):
    """Sums of as many parts as in the workers, so that the rows are the same to the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(answers, "LARGEST", 6)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def helper(monkeypatch):
    """``sabotage``, under a name that workers can import."""
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    import sabotage

    yield sabotage
    sys.modules.pop("sabotage", None)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The study as one process does it: its rows, and the folder of its run."""
    folder, threads = tmp_path_factory.mktemp("alone"), torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "LARGEST", 6)
        rows = evaluate(DEMO, eps=EPS, limit=LIMIT, out=folder).rows
    torch.set_num_threads(threads)
    return rows, folder


def comparable(rows):
    return [row._replace(seconds=0.0) for row in rows]


def inputs(folder):
    with Store(folder, create=False) as store:
        return [store.found(row.image) for row in store.rows()]


@pytest.mark.slow
def test_threads_and_any_number_of_tasks_give_the_rows_of_one_process(tmp_path, alone):
    rows, folder = alone
    assert {"robust", "attacked"} <= {row.status for row in rows}
    assert any(row.method == "search" for row in rows), "no image needs a search"
    with ThreadPoolExecutor(2) as executor:
        found = evaluate(DEMO, eps=EPS, limit=LIMIT, out=tmp_path / "threads", executor=executor)
        assert comparable(found.rows) == comparable(rows)
        assert inputs(tmp_path / "threads") == inputs(folder)
        found = evaluate(DEMO, eps=EPS, limit=LIMIT, executor=executor, workers=5)
        assert comparable(found.rows) == comparable(rows)
        assert executor.submit(abs, -1).result() == 1, "the executor is the caller's to close"


def test_bad_images_are_failed_rows_with_workers_too():
    x, y = digits()
    x, y = x[:20].clone(), y[:20].clone()
    x[2, 0, 0], x[5, 1, 1], x[7, 3, 3] = torch.nan, 1.5, -0.5
    alone = evaluate(DEMO, (x, y), eps=0.05)
    with ThreadPoolExecutor(2) as executor:
        found = evaluate(DEMO, (x, y), eps=0.05, executor=executor)
    assert comparable(found.rows) == comparable(alone.rows) and found.tally.counts["failed"] == 3


def test_a_killed_process_costs_nothing_but_time(tmp_path, monkeypatch, helper, alone):
    once = helper.sabotage(ProcessPool, tmp_path, (3,), 1)
    monkeypatch.setattr(crew, "ProcessPool", once)
    found = evaluate(DEMO, eps=EPS, limit=24, workers=2, out=tmp_path / "once")
    assert comparable(found.rows) == comparable(alone[0][:24])
    assert [path.name for path in tmp_path.glob("death-*")] == ["death-0"]


@pytest.mark.slow
def test_an_image_that_kills_every_worker_is_one_failed_row(tmp_path, monkeypatch, helper, alone):
    monkeypatch.setattr(crew, "ProcessPool", helper.sabotage(ProcessPool, tmp_path, (9,), 99))
    found = evaluate(DEMO, eps=EPS, limit=24, workers=2)
    assert [row.image for row in found.rows if row.status == "failed"] == [9]
    assert found.rows[9].error == "its worker died 3 times" and found.rows[9].label == int(digits()[1][9])
    assert len(list(tmp_path.glob("death-*"))) == 6
    # the images of its batch are answered one by one
    others = [i for i in range(24) if i != 9]
    assert [found.rows[i].status for i in others] == [alone[0][i].status for i in others]


class Lossy(Executor):
    """Does every task at once, in this process, and loses the workers of some: the counting without the waiting."""

    _max_workers = 3

    def __init__(self, fatal):
        self.fatal, self.deaths = fatal, 0

    def submit(self, fn, /, *args):
        from concurrent.futures import Future

        from clinch.errors import WorkerLost
        from clinch.study.task import Task

        future = Future()
        task = next((value for value in args if isinstance(value, Task)), None)
        if task is not None and self.fatal & set(task.images):
            self.deaths += 1
            future.set_exception(WorkerLost("gone"))
        else:
            future.set_result(fn(*args))
        return future


def test_lost_workers_are_counted_by_image():
    executor = Lossy({9, 30})
    found = evaluate(DEMO, eps=EPS, limit=LIMIT, executor=executor)
    assert {row.image: row.error for row in found.rows if row.error} == dict.fromkeys(
        (9, 30), "its worker died 3 times"
    )
    assert executor.deaths == 12 and len(found.rows) == LIMIT


def test_workers_that_die_whatever_they_do_end_the_study_with_what_is_known(tmp_path):
    executor = Lossy(set(range(12, LIMIT)))
    found = evaluate(DEMO, eps=EPS, limit=LIMIT, executor=executor, workers=1, out=tmp_path)
    assert any("30 workers died one after the other" in note for note in found.notes) and executor.deaths == 31
    assert [row.image for row in found.rows if row.status != "failed"] == list(range(12))
    # what failed stays failed; what was not looked at is
    again = evaluate(DEMO, eps=EPS, limit=LIMIT, out=tmp_path)
    assert len(again.rows) == LIMIT


def test_a_broken_executor_of_the_callers_ends_the_study_with_what_is_known(tmp_path, helper, alone):
    with helper.Breaking(1) as executor:
        found = evaluate(DEMO, eps=EPS, limit=LIMIT, executor=executor, out=tmp_path)
    assert len(found.rows) == 12 and any("The executor is broken" in note for note in found.notes)
    assert comparable(evaluate(DEMO, eps=EPS, limit=LIMIT, out=tmp_path).rows) == comparable(alone[0])


def test_an_interruption_keeps_what_is_there_and_ends_the_workers(tmp_path, monkeypatch):
    pools = []

    class Watched(ProcessPool):
        def __init__(self, workers):
            super().__init__(workers)
            pools.append(self)

    def interrupt(tally):
        if tally.seen > 12:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(crew, "ProcessPool", Watched)
    # a shell that starts something in the background has it ignore interruptions
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        found = evaluate(DEMO, eps=EPS, limit=LIMIT, workers=2, out=tmp_path, progress=interrupt)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert any(note.startswith("Interrupted") for note in found.notes) and 12 < found.tally.seen < LIMIT
    assert all(not process.is_alive() for process in pools[0]._context.made)


def test_the_time_limit_is_shared_by_all_workers(monkeypatch):
    """With two workers every open image gets twice the share of one, and never more than what is left."""
    given = []

    class Noted(ThreadPoolExecutor):
        def submit(self, fn, /, *args):
            given.append(args[1])
            return super().submit(fn, *args)

    for workers in (1, 2):
        given.clear()
        with Noted(workers) as executor:
            evaluate(DEMO, norm=2, limit=6, time_limit=40, executor=executor)
        shares = [task.seconds for task in given if not task.methods]
        assert len(shares) >= 3, "the images are closed without a search"
        assert 0.8 * workers * 40 / len(shares) <= shares[0] <= workers * 40 / len(shares)
        assert max(shares) <= 40


class Local(nn.Linear):
    """A module with something that cannot be pickled."""

    def __init__(self):
        super().__init__(2, 3)
        self.lock = threading.Lock()


def test_models_that_cannot_be_sent_are_refused_in_one_line(tmp_path):
    x, y = torch.rand(4, 2), torch.zeros(4, dtype=torch.int64)
    net = cl.load(Local().eval(), input_shape=(2,))
    with pytest.raises(NetworkError, match=r"Local cannot be sent to workers .*save the model as ONNX") as caught:
        evaluate(net, (x, y), eps=0.1, workers=2)
    assert "\n" not in str(caught.value)
    live = cl.load(nn.Linear(2, 3).eval(), input_shape=(2,), live=True)
    with pytest.raises(NetworkError, match="live=True"):
        evaluate(live, (x, y), eps=0.1, workers=2)
    with ThreadPoolExecutor(1) as executor:
        assert len(evaluate(net, (x, y), eps=0.1, executor=executor).rows) == 4


def test_bad_settings_of_workers_are_one_line():
    with pytest.raises(ProblemError, match="workers is 0"):
        evaluate(DEMO, eps=EPS, workers=0)

    class Silent(Executor):
        pass

    with pytest.raises(ProblemError, match="Silent does not say how many workers"):
        evaluate(DEMO, eps=EPS, executor=Silent())
    for address, message in {"127.0.0.1:9": "There is no Ray cluster at", "nowhere": "is no address of a Ray"}.items():
        with pytest.raises(WorkerError, match=message) as caught:
            pytest.importorskip("ray", reason="Ray is not installed")
            RayExecutor(address)
        assert "\n" not in str(caught.value)


def test_a_missing_ray_is_told_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(WorkerError, match=r'pip install "clinch-nn\[ray\]"'):
        RayExecutor("auto")


# --- networks in other processes --------------------------------------------------------------------------------------


def moved(value):
    return value


def output(net, x):
    return net.original(x, [net.layers[-1]])[net.layers[-1]]


def test_networks_are_the_same_in_another_process(tmp_path):
    """An ONNX file, after its sessions were made, and a module; both give the same numbers, and so does the graph."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    path = tmp_path / "net.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.zeros(1, 2, 4),), str(path), dynamo=False, dynamic_axes={"x": {0: "n"}},
                          input_names=["x"])  # fmt: skip
    x = torch.rand(3, 2, 4)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        for net in (cl.load(str(path)), cl.load(model, input_shape=(2, 4))):
            there = executor.submit(output, net, x).result()
            back = executor.submit(moved, net).result()
            assert torch.equal(there, output(net, x)) and torch.equal(there, output(back, x))


# --- Ray ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    """A real Ray instance of this machine with two workers."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    # its workers look for modules where the environment says, not where this process does
    places = [os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))
    with warnings.catch_warnings():
        # of Ray's own making: sockets and files it leaves to the garbage collector, options it will change
        warnings.simplefilter("ignore", ResourceWarning)
        warnings.simplefilter("ignore", FutureWarning)
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()
    monkeypatch.undo()


@pytest.mark.slow
def test_ray_workers_of_which_one_is_killed_give_the_rows_of_one_process(cluster, tmp_path, helper, alone):
    rows, folder = alone
    executor = helper.sabotage(RayExecutor, tmp_path, (20,), 1)("auto", 2)
    found = evaluate(DEMO, eps=EPS, limit=LIMIT, out=tmp_path / "ray", executor=executor)
    assert (tmp_path / "death-0").exists() and not found.notes
    assert comparable(found.rows) == comparable(rows)
    assert inputs(tmp_path / "ray") == inputs(folder)


def test_one_ray_worker_has_one_task_at_a_time_though_the_cluster_has_two(cluster, helper):
    executor = RayExecutor("auto", 1)
    spans = sorted(future.result() for future in [executor.submit(helper.span) for _ in range(4)])
    executor.shutdown()
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


@pytest.mark.slow
def test_a_local_ray_whose_worker_dies_prints_nothing():
    pytest.importorskip("ray", reason="Ray is not installed")
    code = (
        "import os, time\n"
        "from clinch.errors import WorkerLost\n"
        "from clinch.study import RayExecutor\n"
        "executor = RayExecutor('local', 1)\n"
        "try:\n"
        "    executor.submit(os._exit, 3).result()\n"
        "except WorkerLost:\n"
        "    print('answer')\n"
        "time.sleep(3)\n"  # for what its threads may still print
        "executor.shutdown()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500)
    assert done.stdout == "answer\n", done.stderr
