"""``clinch check CERT MODEL``: what a certificate proves about a network, and whether that answers a question."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from clinch.cli.outputs import output_json

if TYPE_CHECKING:
    from clinch.checker.certificate import Certificate
    from clinch.checker.words import Checked
    from clinch.cli.question import Answer, Question

#: a file's own texts that are shown
LABELS = 10

#: of the option --question
QuestionFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="PROBLEM.toml or SPEC.vnnlib of yours: is it this that is proven?"),
]
#: of the option --bound
AskedBound = Annotated[
    float | None,
    typer.Option(help="The bound of the question's objective to be proven; default: the optimum, within its gap."),
]
#: of the option --also
FurtherFiles = Annotated[
    list[Path] | None,
    typer.Option("--with", metavar="CERT", help="A further certificate, for a question of several cases."),
]
#: of the option --json
JsonFile = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="FILE", parser=output_json, help="Write what was found as JSON; - for standard output."
    ),
]
#: of the option --aptp
ProofFile = Annotated[
    Path | None,
    typer.Option(metavar="PROOF", help="Another verifier's proof by activation patterns, about NET.onnx [SPEC]."),
]
#: of the option --float32
InFloat32 = Annotated[
    bool,
    typer.Option(
        "--float32", help="Also check the proof for float32, any order of summation; run the model at the point."
    ),
]
#: of the option --counterexample
PointFile = Annotated[
    Path | None, typer.Option(metavar="POINT", help="Any tool's counterexample, about NET.onnx SPEC.vnnlib.")
]


def check(
    certificate: Annotated[
        Path,
        typer.Argument(
            metavar="CERT", help="What --certificate wrote. With --aptp or --counterexample: the .onnx file."
        ),
    ],
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="MODEL",
            help="The .onnx or .onnx.gz file, or the layer list CERT.network.safetensors beside it. With --aptp or "
            "--counterexample: the .vnnlib file.",
        ),
    ] = None,
    question: QuestionFile = None,
    bound: AskedBound = None,
    also: FurtherFiles = None,
    aptp: ProofFile = None,
    counterexample: PointFile = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="For the multipliers of --aptp.")] = 600.0,
    run_code: Annotated[
        bool, typer.Option("--run-code", help="Let PROBLEM.toml name a Python function as its model, and run it.")
    ] = False,
    float32: InFloat32 = False,
    json: JsonFile = None,
) -> int:
    """Check a certificate from the weights of a network, without trusting the solver; docs/certificates.md.

    With --question the answer is about your file: the certificate, or several with --with, must cover its region, all
    its cases and its objective, and prove --bound where you give one.

    With --aptp PROOF NET.onnx [SPEC.vnnlib] the proof of another verifier is checked: whether its activation patterns
    leave nothing out, and each of them by multipliers that are found here; no solver is trusted. With --counterexample
    POINT NET.onnx SPEC.vnnlib a point is looked at in rational numbers, and as onnxruntime runs the model.

    Exit code: 0 it proves what it says, and the question; 1 it does not, with what is missing; 2 bad input.

    Example: clinch check monitor.safetensors monitor.network.safetensors

    Example: clinch check p.safetensors net.onnx --question property.vnnlib

    Example: clinch check --aptp proof.aptp net.onnx property.vnnlib
    """
    from clinch.checker.layers import Refused
    from clinch.cli.console import write_json
    from clinch.cli.foreign import check_aptp, check_counterexample
    from clinch.errors import ProblemError

    if aptp is not None:
        return check_aptp(aptp, certificate, model, timeout, json)
    if model is None:
        raise ProblemError("Name two files: CERT MODEL, or NET.onnx SPEC.vnnlib with --counterexample.")
    if counterexample is not None:
        return check_counterexample(counterexample, certificate, model, json)
    files = [certificate, *(also or [])]
    _check_options(files, model, question, bound, also)
    # bad input is told before work is spent
    asked = None if question is None else _asked(question, model, run_code)
    try:
        checked = _checked(files, model)
    except Refused as reason:
        if json != "-":
            print(f"REFUSED. {reason}")
        if json is not None:
            write_json({"proven": False, "reason": str(reason)}, json)
        return 1
    found = None if asked is None else _answered(asked, checked, bound)
    run = executed(checked[0].certificate, model) if float32 else None
    rounded = [in_float32(one) for one in checked] if float32 else []
    if json != "-":
        print("\n".join([*_verdict(asked, found), *(statement(one, model.name, asked is None) for one in checked)]))
        for text in [*rounded, *([] if run is None else [run.text])]:
            print(f"{'float32':<12}{text}")
    if json is not None:
        execution = None if run is None else {**run._asdict(), "proof": rounded}
        write_json({**_content(checked, asked, found), "float32": execution}, json)
    held = not any(text.startswith("not") for text in rounded)
    return 0 if (found is None or found.proven) and held else 1


def in_float32(one: Checked) -> str:
    """Whether an accepted certificate also proves what it says of the network as it runs in float32."""
    from clinch.certificates.float32 import running_in_float32
    from clinch.checker.check import check
    from clinch.checker.layers import Refused
    from clinch.checker.question import certified_query

    try:
        layers = running_in_float32(one.layers, certified_query(one.certificate, one.layers).box)
        report = check(one.certificate._replace(header={**one.certificate.header, "point": None}), layers, one.sha256)
    except Refused as reason:
        return f"not proven there: {reason}"
    return (
        "proven there too, for inputs of that type: whatever the order in which each layer adds, with or without fused "
        f"multiply-add; margin left {report.margin:.2g}"
    )


def _check_options(
    files: list[Path], model: Path, question: Path | None, bound: float | None, also: list[Path] | None
) -> None:
    from clinch.errors import ProblemError

    for path in (*files, model, *([] if question is None else [question])):
        if not path.is_file():
            raise ProblemError(f"There is no file '{path}'. Name a certificate and the network it is about.")
    if question is None and (bound is not None or also):
        raise ProblemError("--bound and --with are about a question. Name its file: --question PROBLEM.toml.")
    if bound is not None and not math.isfinite(bound):
        raise ProblemError(f"--bound is {bound}; give a finite number.")


def _asked(question: Path, model: Path, run_code: bool) -> Question:
    from clinch.cli.question import read_question

    return read_question(question, model, run_code=run_code)


def _checked(files: list[Path], model: Path) -> list[Checked]:
    """Certificates that the checker has accepted; the first other one is refused."""
    from clinch.checker.certificate import read_certificate, read_network
    from clinch.checker.check import check as accepted
    from clinch.checker.layers import Refused
    from clinch.checker.words import Checked

    found: list[Checked] = []
    layers, sha256 = read_network(model)
    for path in files:
        try:
            read = read_certificate(path)
            found.append(Checked(path.name, read, layers, sha256, accepted(read, layers, sha256)))
        except Refused as reason:
            raise Refused(str(reason) if len(files) == 1 else f"'{path.name}': {reason}") from None
    return found


def _answered(question: Question, checked: list[Checked], bound: float | None) -> Answer:
    from clinch.cli.question import answer

    return answer(question, checked, bound)


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
    from clinch.modeling.model import load

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


def _verdict(question: Question | None, answer: Answer | None) -> list[str]:
    """Whether the question is proven; nothing where there is none."""
    from clinch.io.files import printable

    if question is None or answer is None:
        return []
    name = printable(question.name, lines=False)
    if not answer.proven:
        return [f"{'NOT PROVEN':<12}the question of {name}: {printable(answer.reason, lines=False)}."]
    if question.nothing:
        return [f"{'PROVEN':<12}the question of {name}: no input meets its own limits: {printable(question.nothing)}."]
    texts = [_said(b, question.queries[0].sense) for b in answer.bounds]
    if len(set(texts)) == 1:
        return [f"{'PROVEN':<12}the question of {name}: {texts[0]}."]
    return [
        f"{'PROVEN':<12}the question of {name}, all {len(texts)} problems of it:",
        *(f"{'':<12}{b}: {text}" for b, text in enumerate(texts)),
    ]


def _said(bound: float | None, sense: int) -> str:
    assert bound is not None
    if math.isinf(bound):
        return "no input satisfies its conditions"
    return f"no input that it allows has an objective {'below' if sense > 0 else 'above'} {bound!r}"


def _content(checked: list[Checked], question: Question | None, answer: Answer | None) -> dict[str, Any]:
    """The fields of --json; those of the first certificate by their names."""
    first = checked[0]
    claim: dict[str, Any] = {"kind": "infeasible"}
    if math.isfinite(first.report.bound):
        claim = {"kind": "bound", "value": first.report.bound}
    asked = None
    if question is not None and answer is not None:
        asked = {"file": question.name, "proven": answer.proven, "problems": question.size, "reason": answer.reason,
                 "bounds": list(answer.bounds)}  # fmt: skip
    return {
        "proven": answer is None or answer.proven, "question": asked, "claim": claim, **first.report._asdict(),
        "sha256": first.sha256, "says": [_rows(one)["says"] for one in checked], "region": _rows(first)["region"],
        "conditions": _rows(first)["conditions"], "unchecked_labels": _labels(first.certificate),
    }  # fmt: skip


def _rows(one: Checked) -> dict[str, Any]:
    """What a certificate proves, in words made from its numbers."""
    from clinch.checker.question import certified_query
    from clinch.checker.words import condition_texts, proven_text, region_text

    query, sense = certified_query(one.certificate, one.layers), int(one.certificate.header["query"]["sense"])
    return {
        "says": proven_text(query, one.report, sense, one.layers),
        "region": region_text(query.box, query.balls, one.layers),
        "conditions": condition_texts(query, one.layers),
    }


def _labels(certificate: Certificate) -> list[str]:
    from clinch.checker.words import quoted

    return [quoted(text) for text in certificate.header["query"]["labels"][:LABELS]]


def statement(one: Checked, model: str, alone: bool = True) -> str:
    """What is proven, about which function, what rounding has to do with it, and what is not proven.

    Every word is made from the certificate's numbers. What its author wrote stands at the end, quoted.

    Args:
        one: what the checker has accepted.
        model: name of the file.
        alone: whether it is what was asked for; where a question was, PROVEN is not said of anything else.
    """
    from clinch.io.files import printable

    report, said, query = one.report, _rows(one), one.certificate.header["query"]
    rows = [
        ("PROVEN" if alone else "it proves", said["says"]),
        ("about", f"the real-number function of the weights stored in {printable(model, lines=False)} (SHA-256 "
                  f"{one.sha256[:16]}…)"),
        ("region", said["region"]),
        *(("condition", text) for text in said["conditions"]),
        ("proof", f"{report.leaves} leaves that cover the region, each bounded again from the weights"),
        ("rounding", f"at most {report.rounding:.2g} in a leaf's bound, subtracted; margin left {report.margin:.2g}"),
    ]  # fmt: skip
    if report.value is not None:
        name = f"distance (p = {float(query['p']):g})" if query["objective"] == "distance" else "objective"
        holds = "all conditions hold" if report.violation <= 0 else f"conditions hold up to {report.violation:.2g}"
        value = f"{int(query['sense']) * report.value:.12g}"
        rows.append(("point", f"{name} {value} in real numbers, rounding included; {holds}"))
    rows.append(("not proven", "how the network runs in float32 or on a device: rounding there may change its outputs"))
    lines = [] if alone else [f"\ncertificate {printable(one.name, lines=False)}"]
    lines += [f"{head:<12}{text}" for head, text in rows]
    labels = _labels(one.certificate)
    if labels:
        more = len(query["labels"]) - len(labels)
        lines += ["not checked, no part of the proof: texts that the file's author wrote"]
        lines += [f"{'':<12}{text}" for text in labels] + ([f"{'':<12}and {more} more"] if more > 0 else [])
    return "\n".join(lines)
