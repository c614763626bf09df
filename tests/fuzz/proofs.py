"""Certificates and what is read with them as targets of fuzzing; their digests fit, so that what is inside is read."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

from certified import known
from changes import changed, packed, unpacked
from mutations import spoilt_bytes

from clinch.checker.certificate import CERTIFICATE, NETWORK, read_certificate, read_network
from clinch.checker.check import check
from clinch.checker.layers import Layer, Refused, read_layers
from clinch.checker.words import Checked
from clinch.cli.check import statement

CASES = ("maximum, boxes halved", "clauses, boxes halved", "distance, p = 2", "convolution, linear objective")


@cache
def certificates() -> list[bytes]:
    """Certificates of several kinds, as files."""
    return [packed(*known(name).proof.certificate, CERTIFICATE) for name in CASES]


@cache
def layer_lists() -> list[bytes]:
    """The layer lists that these are about."""
    return [packed(*known(name).proof.network, NETWORK) for name in CASES]


@cache
def _networks() -> dict[str, list[Layer]]:
    lists = [known(name).proof.network for name in CASES]
    return {header["sha256"]: read_layers(header, tensors) for header, tensors in lists}


def read_proof(path: Path) -> None:
    """What ``clinch check`` does, with the network that the certificate names."""
    certificate, networks = read_certificate(path), _networks()
    named = certificate.header.get("networks")
    sha256 = next((one for one in networks if isinstance(named, list) and one in named), next(iter(networks)))
    report = check(certificate, networks[sha256], sha256)
    assert statement(Checked(path.name, certificate, networks[sha256], sha256, report), path.name)


def read_layer_list(path: Path) -> None:
    """A network in the neutral format."""
    read_network(path)


def spoilt_certificate(content: bytes, rng: random.Random) -> bytes:
    """One thing of a certificate changed, its digest made to fit."""
    return _spoilt(content, CERTIFICATE, rng)


def spoilt_layers(content: bytes, rng: random.Random) -> bytes:
    """One thing of a layer list changed, its digest made to fit."""
    return _spoilt(content, NETWORK, rng)


def _spoilt(content: bytes, entry: str, rng: random.Random) -> bytes:
    try:
        header, tensors = unpacked(content, entry)
        if not isinstance(header, dict) or not header:
            raise ValueError
    except Exception:
        # what is spoilt already may not be a file any more
        return spoilt_bytes(content, rng)
    _, header, tensors = changed(header, tensors, rng)
    return packed(header, tensors, entry)


#: the checker's own error, which is none of Clinch's: it imports nothing of it
ERRORS = (Refused,)
