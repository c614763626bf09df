"""The suite's own rules: no network in it or in what it starts, data only for tests that are marked."""

import socket
import subprocess
import sys

import pytest

from clinch.io.data import DataError, mnist, model_file

TRIES = {
    "an address": "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)",
    "a name": "import urllib.request; urllib.request.urlopen('http://example.invalid/', timeout=1)",
    "a packet": (
        "import socket\n"
        "with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:\n"
        "    sender.sendto(b'x', ('192.0.2.1', 9))"
    ),
}


@pytest.fixture
def attempts(monkeypatch, tmp_path):
    """The file of attempts, this test's own: they are meant."""
    monkeypatch.setenv("CLINCH_TESTS_NETWORK_LOG", str(tmp_path / "attempts"))
    return tmp_path / "attempts"


@pytest.mark.parametrize("code", TRIES.values(), ids=TRIES)
def test_the_network_is_out_of_reach_and_an_attempt_is_written_down(code, attempts):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "no test reaches the network" in done.stderr
    assert attempts.read_text().startswith("to ")
    attempts.write_text("")
    with pytest.raises(OSError, match="no test reaches the network"):
        exec(code, {})
    assert attempts.read_text().startswith("to ")


def test_a_swallowed_attempt_fails_its_test(pytester_file):
    done = pytester_file(
        "import socket\n\n\ndef test_tries():\n    try:\n        socket.create_connection(('192.0.2.1', 80))\n"
        "    except OSError:\n        pass\n"
    )
    assert done.returncode == 1 and "tried to connect to ('192.0.2.1', 80)" in done.stdout


@pytest.fixture
def pytester_file(tmp_path):
    """Runs a file of tests with the suite's conftest."""

    def run(text):
        from pathlib import Path

        here = Path(__file__).parents[1]
        (tmp_path / "conftest.py").write_text((here / "conftest.py").read_text())
        (tmp_path / "offline").mkdir()
        (tmp_path / "offline" / "sitecustomize.py").write_text((here / "offline" / "sitecustomize.py").read_text())
        (tmp_path / "test_tries.py").write_text(text)
        line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path]
        return subprocess.run(line, capture_output=True, text=True, timeout=120, cwd=tmp_path)

    return run


def test_this_machine_stays_in_reach():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()[:2]):
        server.accept()[0].close()
    assert socket.getaddrinfo("localhost", 80)


def test_a_test_without_the_mark_sees_no_data():
    with pytest.raises(DataError, match="There is no"):
        mnist("test")
    with pytest.raises(DataError, match="There is no"):
        model_file("mnist_small.onnx")
