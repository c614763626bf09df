"""``clinch check CERT MODEL``: whether a certificate proves what it says about a network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from clinch.cli.outputs import output_json

if TYPE_CHECKING:
    from clinch.certify.certificate import Certificate
    from clinch.certify.check import Report


def check(
    certificate: Annotated[Path, typer.Argument(metavar="CERT", help="What solve --certificate wrote.")],
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", help="The .onnx or .onnx.gz file, or the layer list CERT.network.safetensors beside it."
        ),
    ],
    float32: Annotated[
        bool, typer.Option("--float32", help="Also run the ONNX model at the point, as onnxruntime does; no proof.")
    ] = False,
    json: Annotated[
        str | None,
        typer.Option(
            "--json", metavar="FILE", parser=output_json, help="Write what was found as JSON; - for standard output."
        ),
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
    run = executed(read, model) if float32 else None
    if json != "-":
        print(statement(read, report, model.name, sha256))
        if run is not None:
            print(f"{'float32':<12}{run.text}")
    if json is not None:
        execution = None if run is None else run._asdict()
        write_json({"proven": True, "claim": read.header["claim"], **report._asdict(), "float32": execution}, json)
    return 0


class Execution(NamedTuple):
    """The point of a certificate under the model as it runs.

    Attributes:
        value: the objective, as the certificate minimises it; violation: of the conditions, at most 0 where all hold;
            both None where there is nothing to run.
        text: the same in words.
    """

    value: float | None
    violation: float | None
    text: str


def executed(certificate: Certificate, model: Path) -> Execution:
    """Run an ONNX model by onnxruntime on the CPU, in its own dtype, at the certificate's point: a test, no proof."""
    if certificate.header["point"] is None:
        return Execution(None, None, "the certificate has no point to run")
    if not model.name.lower().endswith((".onnx", ".onnx.gz")):
        return Execution(None, None, "not run: name the .onnx file that the certificate is about, not its layer list")
    import numpy as np
    import torch

    from clinch.certificates.layer_list import places
    from clinch.network.load import load

    network, tensors = load(model), certificate.tensors
    nodes = {name: node for node, name in places(network.graph).items()}
    nodes |= {"input": 0, "output": network.graph.output}
    x = torch.from_numpy(tensors["point.x"]).to(network.dtype).reshape(1, *network.input_shape)

    def forms(prefix: str, constant: str) -> np.ndarray:
        total = tensors.get(constant, np.zeros(1)).astype(np.float64)
        for name in [name for name in tensors if name.startswith(prefix)]:
            node = nodes[name.removeprefix(prefix)]
            layer = network.graph.nodes[node].name
            h = x if not node else network.original(x, [layer])[layer]
            total = total + tensors[name].astype(np.float64) @ h.detach().to("cpu", torch.float64).flatten().numpy()
        return total

    atoms, clause = forms("atoms.rows.", "atoms.constant"), tensors["atoms.clause"]
    violation = max((float(atoms[clause == k].min()) for k in np.unique(clause)), default=0.0)
    linear = certificate.header["query"]["objective"] == "linear"
    # a distance is one of inputs: the model has no part in it
    value = float(forms("objective.rows.", "objective.constant")[0]) if linear else None
    holds = "holds" if violation <= 0 else f"does not hold, by {violation:.3g}"
    said = f" with objective {int(certificate.header['query']['sense']) * value:.12g}" if value is not None else ""
    text = f"the point {holds}{said} where onnxruntime runs {model.name} on this CPU in {str(network.dtype)[6:]}"
    return Execution(value, violation, text + "; this is a test and no part of the proof")


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
