"""Standard output at the level of the descriptor: what native code prints stays out of the answer."""

import subprocess
import sys
import textwrap

import pytest

#: a library that prints natively, at once and through the buffer of the C library
NATIVE = """
import ctypes, os
library = ctypes.CDLL(None)

def speak(word):
    os.write(1, f"{word} written\\n".encode())
    library.printf(f"{word} printed\\n".encode())
"""


def output(code, *, stdout=subprocess.PIPE):
    """What a process that runs this code leaves on its standard output and standard error."""
    code = NATIVE + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_what_is_printed_inside_is_dropped_and_nothing_else():
    out, err = output(
        """
        from clinch.backends.quiet import silenced
        speak("before")
        with silenced():
            speak("inside")
        speak("after")
        """
    )
    assert sorted(out.split("\n")[:-1]) == ["after printed", "after written", "before printed", "before written"]
    assert err == ""


def test_threads_inside_at_once_restore_the_descriptor_when_the_last_one_leaves():
    out, _ = output(
        """
        import threading
        from clinch.backends.quiet import silenced

        first_is_in, second_left = threading.Event(), threading.Event()

        def longer():
            with silenced():
                first_is_in.set()
                second_left.wait(60)
                speak("inside")

        thread = threading.Thread(target=longer)
        thread.start()
        first_is_in.wait(60)
        with silenced():
            speak("inside too")
        second_left.set()
        thread.join()
        descriptors = len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else None
        for _ in range(3):
            with silenced():
                pass
        assert descriptors is None or len(os.listdir("/proc/self/fd")) == descriptors
        try:
            with silenced():
                raise KeyError
        except KeyError:
            print("answer")
        """
    )
    assert out == "answer\n"


def test_a_closed_descriptor_is_left_closed():
    _, err = output(
        """
        import sys
        from clinch.backends.quiet import reserve_stdout, silenced
        os.close(1)
        with silenced():
            pass
        sys.stdout = None
        reserve_stdout()
        try:
            os.fstat(1)
        except OSError:
            print("closed", file=sys.stderr)
        """
    )
    assert err == "closed\n"


def test_reserved_standard_output_takes_only_what_python_prints():
    out, err = output(
        """
        import sys
        from clinch.backends.quiet import reserve_stdout
        encoding = sys.stdout.encoding
        print("early answer")
        reserve_stdout()
        speak("native")
        library.fflush(None)
        os.system("echo from a child")
        print("answer ü")
        assert sys.stdout.encoding == encoding
        """
    )
    assert out == "early answer\nanswer ü\n"
    assert sorted(err.splitlines()) == ["from a child", "native printed", "native written"]


@pytest.mark.parametrize("backend", ["highs", "scip", "gurobi"])
def test_solving_in_a_process_leaves_its_standard_output_alone(backend):
    library = pytest.importorskip({"highs": "highspy", "scip": "pyscipopt", "gurobi": "gurobipy"}[backend])
    maker = {"highs": "Highs", "scip": "Model", "gurobi": "Model"}[backend]
    out, _ = output(
        f"""
        import threading
        import numpy as np, scipy.sparse
        import {library.__name__} as foreign
        from clinch.backends import find_backend
        from clinch.backends.program import Program

        class Printing(foreign.{maker}):
            printed = False
            def __init__(self, *arguments, **named):
                if "{backend}" == "highs" and not Printing.printed:
                    speak("banner")
                Printing.printed = True
                super().__init__(*arguments, **named)

        foreign.{maker} = Printing
        rows = scipy.sparse.csr_array(np.array([[1.0, 1.0]]))
        end = np.array([1.5])
        for integer, quadratic in ((False, None), (True, None), (False, np.ones(2))):
            program = Program(-np.ones(2), rows, -end, end, np.zeros(2), np.ones(2), np.full(2, integer), quadratic)
            found = []
            work = lambda: found.append(find_backend("{backend}").solve(program).value)
            threads = [threading.Thread(target=work) for _ in range(2)]
            for thread in [*threads]:
                thread.start()
            for thread in threads:
                thread.join()
            work()
            assert len(found) == 3 and max(found) < -0.9
        assert Printing.printed
        print("answer")
        """
    )
    assert out == "answer\n"
