"""No test reaches the network: Python's sockets connect to this machine alone, in the suite and in what it starts.

``tests/conftest.py`` puts this folder on ``PYTHONPATH``, so that every Python process a test starts imports this file
by itself. Loopback, the machine's own addresses and Unix sockets stay open: Ray and multiprocessing use them. Whoever
tries more gets an ``OSError``, and the attempt is written down where the suite looks after each test: code that takes
the error for a missing network does not hide it.
"""

import ipaddress
import os
import socket
import sys

#: names the file that attempts are written to
LOG = "CLINCH_TESTS_NETWORK_LOG"
_LOCAL_NAMES = {"", "localhost", "localhost.localdomain", "ip6-localhost", socket.gethostname(), socket.getfqdn()}
_INET = (socket.AF_INET, socket.AF_INET6)


class NetworkForbidden(OSError):
    """A test tried to reach another machine."""


def _address(host):
    """A host as an address; None where it is a name."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _text(host):
    return host.decode() if isinstance(host, bytes) else host or ""


def is_here(host):
    """Whether a host name or address is this machine."""
    host = _text(host)
    if host in _LOCAL_NAMES:
        return True
    address = _address(host)
    if address is None:
        return False
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # only an address of this machine can be bound to
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def _refuse(what):
    # Ray's dashboard asks which cloud it runs in, whatever it is told: refused, but no fault of the test
    theirs = os.path.join("ray", "dashboard") in sys.argv[0]
    if (path := os.environ.get(LOG)) and not theirs:
        with open(path, "a", encoding="utf-8") as log:
            log.write(f"{what}\n")
    raise NetworkForbidden(f"no test reaches the network, and this one tried {what}")


def _checked_connect(name):
    original = getattr(socket.socket, name)

    def connect(self, address):
        if self.family in _INET and not is_here(address[0]):
            if self.type == socket.SOCK_DGRAM:  # sends nothing: how programs ask for their own address
                raise NetworkForbidden(f"no route to {address}")
            _refuse(f"to connect to {address}")
        return original(self, address)

    return connect


def _checked_sendto(self, data, *rest):
    if self.family in _INET and not is_here(rest[-1][0]):
        _refuse(f"to send to {rest[-1]}")
    return _SENDTO(self, data, *rest)


def _checked_lookup(name):
    original = getattr(socket, name)

    def lookup(host, *given, **named):
        # an address is not looked up anywhere
        if _address(_text(host)) is None and not is_here(host):
            _refuse(f"to look up {host!r}")
        return original(host, *given, **named)

    return lookup


_SENDTO = socket.socket.sendto


def forbid():
    """From here on this process reaches this machine alone."""
    if getattr(socket, "clinch_tests_are_offline", False):
        return
    socket.clinch_tests_are_offline = True
    socket.socket.connect = _checked_connect("connect")
    socket.socket.connect_ex = _checked_connect("connect_ex")
    socket.socket.sendto = _checked_sendto
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        setattr(socket, name, _checked_lookup(name))


forbid()
