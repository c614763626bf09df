"""Small networks are searched by one thread, and the process has its threads back afterwards, however it ends."""

import pytest
import torch

import clinch as cl
from clinch.demo import SHAPE, digits, network
from clinch.runtime.threads import WORTH, suited_threads


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_solve_of_a_small_network_has_one_thread(two_threads):
    net = cl.load(network(), input_shape=SHAPE)
    x, x0 = net.input, digits("test").x[0]
    problem = cl.Problem(cl.Maximize(net.output[3]), [x >= 0, x <= 1, cl.norm(x - x0, cl.inf) <= 0.01])
    seen = []
    problem.solve(time_limit=10, progress=lambda event: seen.append(torch.get_num_threads()))
    assert seen and set(seen) == {1} and torch.get_num_threads() == 2


def test_threads_come_back_when_the_last_one_ends(two_threads):
    first, second = suited_threads(10), suited_threads(WORTH - 1)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.get_num_threads() == 1
    second.__exit__(None, None, None)
    assert torch.get_num_threads() == 2
    with pytest.raises(KeyboardInterrupt), suited_threads(10):
        raise KeyboardInterrupt
    assert torch.get_num_threads() == 2


def test_large_networks_keep_their_threads(two_threads):
    with suited_threads(WORTH):
        assert torch.get_num_threads() == 2
