"""``clinch check CERT MODEL``: whether a certificate proves what it says about a network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from clinch.certify.certificate import Certificate
    from clinch.certify.check import Report


def check(
    certificate: Annotated[Path, typer.Argument(metavar="CERT", help="What solve --certificate wrote.")],
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="The .onnx file, or the layer list CERT.network.safetensors beside it."),
    ],
    json: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write what was found as JSON; - for standard output.")
    ] = None,
) -> int:
    """Check a certificate from the weights of a network, without trusting the solver; docs/certificates.md.

    Exit code: 0 it proves what it says; 1 it does not; 2 a file is not there.

    Example: clinch check monitor.safetensors monitor.network.safetensors
    """
    from clinch.certify.certificate import read_certificate, read_network
    from clinch.certify.check import check as checked
    from clinch.certify.layers import Refused
    from clinch.cli.console import write_json
    from clinch.errors import ProblemError

    for path in (certificate, model):
        if not path.is_file():
            raise ProblemError(f"There is no file '{path}'. Name a certificate and the network it is about.")
    try:
        read = read_certificate(certificate)
        layers, sha256 = read_network(model)
        report = checked(read, layers, sha256)
    except Refused as reason:
        if json != "-":
            print(f"REFUSED. {reason}")
        if json is not None:
            write_json({"proven": False, "reason": str(reason)}, json)
        return 1
    if json != "-":
        print(statement(read, report, model.name, sha256))
    if json is not None:
        write_json({"proven": True, "claim": read.header["claim"], **report._asdict()}, json)
    return 0


def statement(certificate: Certificate, report: Report, model: str, sha256: str) -> str:
    """What is proven, about which function, what rounding has to do with it, and what is not proven."""
    query = certificate.header["query"]
    sense = int(query["sense"])
    name = {"distance": f"distance (p = {query.get('p')})"}.get(query["objective"], "objective")
    if math.isinf(report.bound):
        proven = "No input of the region satisfies the conditions."
    else:
        word = "below" if sense > 0 else "above"
        conditions = " satisfies the conditions and" if len(certificate.tensors["atoms.constant"]) else ""
        proven = f"No input of the region{conditions} has {name} {word} {sense * report.bound:.12g}."
    rows = [
        ("PROVEN", proven),
        ("about", f"the real-number function of the weights stored in {model} (SHA-256 {sha256[:16]}…)"),
        ("proof", f"{report.leaves} leaves that cover the region, each bounded again from the weights"),
        ("rounding", f"at most {report.rounding:.2g} in a leaf's bound, subtracted; margin left {report.margin:.2g}"),
    ]
    if report.value is not None:
        holds = "all conditions hold" if report.violation <= 0 else f"conditions hold up to {report.violation:.2g}"
        rows.append(("point", f"{name} {sense * report.value:.12g} in real numbers, rounding included; {holds}"))
    rows.append(("not proven", "how the network runs in float32 or on a device: rounding there may change its outputs"))
    texts = [str(text) for text in query["labels"][:10]]
    rows += [("condition", text) for text in texts]
    return "\n".join(f"{head:<12}{text}" for head, text in rows)
