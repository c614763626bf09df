"""What other tools have written, checked: proofs by activation patterns, and counterexamples."""

from __future__ import annotations

from pathlib import Path

from clinch.errors import CertificateError, ProblemError


def check_aptp(proof: Path, network: Path, specification: Path | None, timeout: float, json: str | None) -> int:
    """``clinch check --aptp PROOF NET [SPEC]``: multipliers are found here, and the checker decides.

    Returns:
        0: proven; 1: not.
    """
    from clinch.certificates.pattern_tree import certify_patterns
    from clinch.checker.certificate import read_network
    from clinch.checker.check import check
    from clinch.checker.layers import Refused
    from clinch.cli.console import write_json
    from clinch.io.files import printable
    from clinch.network.load import load
    from clinch.vnnlib.aptp import read_aptp
    from clinch.vnnlib.problems import state
    from clinch.vnnlib.reader import read_specification

    _there(proof, network, specification)
    read = read_aptp(proof)
    asked = read.specification if specification is None else read_specification(specification)
    net = load(network)
    stated = state(asked, net)
    content: dict[str, object] = {"patterns": len(read.patterns), "problems": sum(q.size for q in stated.queries)}
    try:
        proofs = certify_patterns(stated.queries, read.patterns, timeout, net.file)
        layers, sha256 = read_network(network)
        leaves = sum(check(one.certificate, layers, sha256).leaves for one in proofs)
    except (CertificateError, Refused) as reason:
        text = printable(str(reason), lines=False)
        content |= {"proven": False, "reason": text}
        lines = [f"{'NOT PROVEN':<12}{printable(proof.name, lines=False)}: {text}"]
    else:
        content |= {"proven": True, "leaves": leaves}
        lines = [
            f"{'PROVEN':<12}no input meets {printable(asked.name, lines=False)}, by the patterns of "
            f"{printable(proof.name, lines=False)}",
            f"{'about':<12}the real-number function of the weights stored in {printable(network.name, lines=False)} "
            f"(SHA-256 {sha256[:16]}…)",
            f"{'proof':<12}{len(read.patterns)} patterns, which leave nothing out; {leaves} leaves in "
            f"{len(proofs)} problem{'s' * (len(proofs) != 1)}, each with multipliers found here and bounded again",
            f"{'not proven':<12}how the network runs in float32 or on a device",
        ]  # fmt: skip
    if json != "-":
        print("\n".join(lines))
    if json is not None:
        write_json(content, json)
    return 0 if content["proven"] else 1


def check_counterexample(point: Path, network: Path, specification: Path, json: str | None) -> int:
    """``clinch check --counterexample FILE NET SPEC``: whether a point is one, in real numbers and as the model runs.

    Returns:
        0: it is one in both; 1: it is not.
    """
    from clinch.checker.certificate import read_network
    from clinch.checker.layers import Refused
    from clinch.cli.console import write_json
    from clinch.network.load import load
    from clinch.vnnlib.point_check import check_point, read_point
    from clinch.vnnlib.reader import read_specification

    _there(point, network, specification)
    asked = read_specification(specification)
    try:
        layers = read_network(network)[0]
    except Refused:
        layers = None
    found = check_point(asked, load(network), layers, read_point(point, asked))
    good = found.exact is not False and found.violation <= 0
    exact = {True: "it meets the specification", False: "it does not meet the specification", None: "not looked at: "
             "the network is large, or its values are no rational numbers"}[found.exact]  # fmt: skip
    runs = "holds" if found.violation <= 0 else f"fails by {found.violation:.3g}"
    lines = [
        f"{'CONFIRMED' if good else 'REFUTED':<12}the counterexample of {point.name}",
        f"{'exact':<12}in rational numbers, at the decimals of the file: {exact}",
        f"{found.dtype:<12}as onnxruntime runs the model at the nearest numbers of that type: the specification {runs}",
    ]
    if found.difference is not None:
        lines.append(f"{'outputs':<12}those stated differ from these by at most {found.difference:.3g}")
    if json != "-":
        print("\n".join(lines))
    if json is not None:
        write_json({"confirmed": good, **found._asdict()}, json)
    return 0 if good else 1


def _there(*paths: Path | None) -> None:
    for path in paths:
        if path is not None and not path.is_file():
            raise ProblemError(
                f"There is no file '{path}'. Name the proof or point, the network and the specification."
            )
