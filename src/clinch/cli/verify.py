"""``clinch verify NET.onnx SPEC.vnnlib``: sat, unsat, timeout or unknown, as in VNN-COMP."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clinch.cli.outputs import output_file, output_json

if TYPE_CHECKING:
    from clinch.certificates import SavedProof
    from clinch.errors import CertificateError
    from clinch.vnnlib.specification import Specification
    from clinch.vnnlib.verification import Verdict

#: of the option --counterexample
PointFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", parser=output_file, help="Write the counterexample here, not to standard output."),
]
#: of the option --certificate
CertificateFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        parser=output_file,
        help="Where unsat: prove it once more, and write what clinch check reads.",
    ),
]
#: of the option --json
JsonFile = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="FILE", parser=output_json, help="Write the verdict as JSON; - for standard output."
    ),
]


def verify(
    first: Annotated[
        str,
        typer.Argument(metavar="NET.onnx", help="The network; net.onnx.gz is read too. With --network: the property."),
    ],
    second: Annotated[
        str | None,
        typer.Argument(metavar="SPEC.vnnlib", help="The property, VNN-LIB 1.0 or 2.0; spec.vnnlib.gz is read too."),
    ] = None,
    networks: Annotated[
        list[str] | None,
        typer.Option("--network", metavar="NAME=FILE", help="The file of a network that the property declares."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="Wall time since this process started; no answer comes later.")
    ] = 60.0,
    counterexample: PointFile = None,
    certificate: CertificateFile = None,
    float32: Annotated[
        bool,
        typer.Option("--float32", help="Unsat only where it is proven for float32, whatever the order of summation."),
    ] = False,
    json: JsonFile = None,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    device: Annotated[str | None, typer.Option(help="Where to compute, such as cuda; default: the CPU.")] = None,
) -> int:
    """Decide whether a property has a counterexample; print sat, unsat, timeout or unknown.

    After sat stands the counterexample, which onnxruntime has confirmed. Where the specification's own limits
    contradict each other, the answer is unsat and one line on standard error says which. A specification of several
    cases has one certificate each, with its number before the suffix; the timeout counts again for all of them.

    With --float32 unsat is said of the network as it runs in float32: products and sums in any order, fused or not. It
    is proven by certificates whose bounds hold with that rounding; where one is missing the answer is unknown, and
    standard error says what is.

    The command line of VNN-LIB 2.0 is taken too: the property first, and --network NAME=FILE for each network that it
    declares (but those that it declares equal to another one); a timeout is called timed-out there.

    Exit code: 0 decided, sat or unsat; 1 timeout or unknown, or a certificate is missing; 2 bad input.

    Example: clinch verify net.onnx.gz property.vnnlib.gz --timeout 116 --counterexample found.txt
    """
    import clinch
    from clinch.cli.console import write_json, write_text
    from clinch.io.files import printable

    network, specification = (first, second) if not networks else _standard(first, second, networks)
    if specification is None:
        raise typer.BadParameter("give SPEC.vnnlib, or --network NAME=FILE behind the property.", param_hint=first)
    if counterexample is not None:
        # no older one is taken for this one's, and a file that cannot be written is told before work is spent
        _write(counterexample, "")
    # what is no timeout is refused by verify itself
    left = max(0.0, timeout - seconds_since_start()) if timeout >= 0 else timeout
    keep = certificate is not None or float32
    verdict = clinch.verify(network, specification, timeout=left, seed=seed, device=device, keep_leaves=keep)
    proofs = None
    if float32 and verdict.answer.value == "unsat":
        verdict, proofs = verdict.in_float32(timeout)
    if json is not None:
        named = first if networks else specification
        write_json({"network": network, "specification": named, **verdict.to_dict()}, json)
    if counterexample is not None and verdict.counterexample is not None:
        write_text(counterexample, f"{verdict.counterexample}\n")
    if (verdict.decided and not verdict.problems) or (proofs is not None and not verdict.decided):
        # most often a mistake in the file
        print(printable(f"clinch: {verdict.reason}", lines=False), file=sys.stderr)
    if json != "-":
        _say(verdict, standard=bool(networks), points=counterexample is None)
    if certificate is not None and verdict.answer.value == "unsat":
        # whoever waits for the answer has it before its certificates
        sys.stdout.flush()
        return 0 if _certified(verdict.certify(timeout) if proofs is None else proofs, certificate) else 1
    return 0 if verdict.decided else 1


def _say(verdict: Verdict, *, standard: bool, points: bool) -> None:
    """The answer in a word, in the words of VNN-LIB 2.0's standard or as in VNN-COMP, and the counterexample."""
    from clinch.io.files import printable

    print("timed-out" if standard and verdict.answer.value == "timeout" else verdict.answer.value)
    if verdict.counterexample is not None and points:
        print(printable(str(verdict.counterexample)))


def _standard(query: str, second: str | None, networks: list[str]) -> tuple[str | dict[str, str], Specification]:
    """Network, or several by their names, and property of the standard's command line.

    Raises:
        typer.BadParameter: not exactly the networks that the property declares.
    """
    from clinch.vnnlib.reader import read_specification

    if second is not None:
        raise typer.BadParameter(f"'{second}' is one file too many: the property comes first.", param_hint="--network")
    files = {name: file for name, _, file in (text.partition("=") for text in networks)}
    if not all(files.values()) or len(files) < len(networks):
        raise typer.BadParameter("write NAME=FILE, once for each network.", param_hint="--network")
    specification = read_specification(query)
    # version 1.0 gives its network no name
    declared = specification.networks or (next(iter(files)),)
    if not {*declared} - {*specification.equal} <= set(files) <= set(declared):
        raise typer.BadParameter(
            f"the property declares {', '.join(declared)}; files are given for {', '.join(files)}. "
            "Write --network NAME=FILE for each that is declared.", param_hint="--network",
        )  # fmt: skip
    return (files if len(declared) > 1 else next(iter(files.values()))), specification


def _certified(proofs: list[SavedProof | CertificateError], path: Path) -> bool:
    """Write the certificates; one line on standard error says how many, another why the first missing one is."""
    from clinch.certificates.unsat import save_all
    from clinch.cli.console import OutputError
    from clinch.errors import CertificateError
    from clinch.io.files import printable

    try:
        written = save_all(proofs, path)
    except OSError as error:
        raise OutputError(f"'{path}' cannot be written: {error}. Name a file in a folder of yours.") from None
    print(f"clinch: {len(written)} of {len(proofs)} certificates written.", file=sys.stderr)
    missing = next((reason for reason in proofs if isinstance(reason, CertificateError)), None)
    if missing is not None:
        print(printable(f"clinch: {missing}", lines=False), file=sys.stderr)
    return missing is None


def _write(path: Path, text: str) -> None:
    from clinch.cli.console import OutputError
    from clinch.io.files import write_whole

    try:
        write_whole(path, text)
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror}. Name another file.") from None


def seconds_since_start() -> float:
    """Wall time since this process started, its imports included; where the system does not tell, its CPU time."""
    try:
        # field 22 of the process's line is its start in clock ticks since boot; the name in field 2 may hold spaces
        fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, ValueError, IndexError, AttributeError):
        return time.process_time()
