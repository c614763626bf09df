"""Certificates: how many are accepted, and what checking costs beside finding.

    python -m benchmarks certificates [--only GROUP,...] [--limit N] [--minutes M] [--out runs/certificates]

Groups: random networks (six kinds of problems), MNIST (distances and radii of mnist_small, mnist_dnn2, mnist_wk17a,
mnist_cnn) and the ACAS Xu specifications of VNN-COMP. *Finding* is the CPU time of the solve and of the proof that is
written; *checking* that of reading the files back and checking them, in the same process, one thread. A finished case
is one line of ``results.jsonl`` and is not run again. Writes ``benchmarks/results/certificates.md``; ends with exit
code 1 where the checker refuses a certificate that was written.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

import clinch as cl
from benchmarks.common.cpu_clock import count_cpu_seconds
from benchmarks.common.page import RESULTS, write_page
from clinch.certificates import SavedProof, certify
from clinch.checker.certificate import read_certificate, read_network
from clinch.checker.check import check
from clinch.checker.layers import Refused
from clinch.errors import CertificateError
from clinch.io.data import data_folder, mnist, model_file
from clinch.vnnlib.verification import Answer

TAKES = "hours; --minutes limits it"
#: seconds for a solve, and as many for its certificate
SECONDS = 20.0
#: model -> how often each kind of question is asked; a radius is asked for per image
RADII = {"mnist_small": 0.01, "mnist_dnn2": 0.01, "mnist_wk17a_linf0.1": 0.05, "mnist_cnn": 0.004}
COUNTS = {"mnist_small": 150, "mnist_dnn2": 150, "mnist_wk17a_linf0.1": 40, "mnist_cnn": 10}
KINDS = ("linear", "maximise", "l1", "l2", "linf", "infeasible")

#: what was proven: certificates or reasons
Proofs = list[SavedProof | CertificateError]
Case = tuple[str, str, Callable[[], Proofs | None]]


def random_problem(seed: int, kind: str) -> cl.Problem:
    """A dense network with ReLUs and a problem around a random input."""
    torch.manual_seed(seed)
    sizes = [(5, 10, 8, 3), (8, 16, 3), (3, 12, 12, 3), (6, 10, 10, 10, 3)][seed % 4]
    layers: list[torch.nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1]).eval()
    net, x = cl.load(model, input_shape=(sizes[0],)), torch.rand(sizes[0])
    label, box = int(model(x[None]).argmax()), net.input.between(0, 1)
    if kind == "linear":
        near = cl.norm(net.input - x, p=2) <= 0.5
        return cl.Problem(cl.Minimize(net.output[label] - net.output[(label + 1) % 3]), [box, near])
    if kind == "maximise":
        return cl.Problem(cl.Maximize(net.output[0] - 0.5 * net.output[1]), [box])
    if kind == "infeasible":
        return cl.Problem(cl.Minimize(0), [box, net.output[0] >= 20])
    p = {"l1": 1, "l2": 2, "linf": cl.inf}[kind]
    return cl.Problem(cl.Minimize(cl.norm(net.input - x, p=p)), [box, net.output.argmax() != label])


def solved(problem: cl.Problem) -> Proofs | None:
    """Solve and certify; None where there is nothing to prove."""
    solution = problem.solve(SECONDS, gap=0.01)
    bound = torch.tensor([problem.query.sense * float(solution.bound)], dtype=torch.float64)
    # a question without objective has something to prove where nothing is feasible
    if not bool(bound == torch.inf if problem.query.feasibility else bound > -torch.inf):
        return None
    return certify(problem.query, bound, solution.x[None].double(), time_limit=SECONDS, onnx=problem.network.file)


def images(name: str) -> Iterator[Case]:
    """Distances and radii of one MNIST network."""
    net, data = cl.load(model_file(f"{name}.onnx")), mnist()
    for i in range(COUNTS[name]):
        x, label = torch.as_tensor(data.x[i], dtype=torch.float32).reshape(1, 28, 28), int(data.y[i])
        box, distance = net.input.between(0, 1), cl.norm(net.input - x, p=cl.inf)
        fooled = net.output.argmax() != label
        radius = cl.Problem(cl.Minimize(0), [box, distance <= RADII[name], fooled])
        yield name, f"radius {RADII[name]:g} of image {i}", lambda problem=radius: solved(problem)
        if name in ("mnist_small", "mnist_dnn2"):
            nearest = cl.Problem(cl.Minimize(distance), [box, fooled])
            yield name, f"distance of image {i}", lambda problem=nearest: solved(problem)


def acasxu() -> Iterator[Case]:
    """The specifications of VNN-COMP; those with a counterexample have nothing to prove."""
    folder = data_folder() / "vnncomp" / "acasxu"

    def prove(network: Path, specification: Path) -> Proofs | None:
        verdict = cl.verify(network, specification, timeout=SECONDS, keep_leaves=True)
        if verdict.answer is not Answer.UNSAT:
            return None
        return verdict.certify(SECONDS)

    for row in csv.reader((folder / "instances.csv").open()):
        network, specification = ((folder / name) for name in row[:2])
        network = network if network.is_file() else network.with_name(network.name + ".gz")
        specification = (
            specification if specification.is_file() else specification.with_name(specification.name + ".gz")
        )
        name = f"{network.name.split('_batch')[0]} {specification.name.split('.')[0]}"
        yield "acasxu", name, lambda a=network, b=specification: prove(a, b)


def cases(chosen: set[str] | None, limit: int) -> Iterator[Case]:
    """Cases, group after group."""
    if chosen is None or "random" in chosen:
        for seed, kind in itertools.islice(itertools.product(range(100), KINDS), limit):
            yield "random", f"{kind} {seed}", lambda a=seed, b=kind: solved(random_problem(a, b))
    for name in COUNTS:
        if chosen is None or name in chosen:
            yield from itertools.islice(images(name), limit)
    if chosen is None or "acasxu" in chosen:
        yield from itertools.islice(acasxu(), limit)


def run(group: str, name: str, prove: Callable[[], Proofs | None]) -> dict:
    """One line of the results: a certificate is written, read back and checked."""
    began = time.process_time()
    proofs = prove()
    finding = time.process_time() - began
    row = {"group": group, "case": name, "asked": len(proofs or ()), "written": 0, "accepted": 0, "leaves": 0,
           "finding": finding, "checking": 0.0, "reason": ""}  # fmt: skip
    for proof in proofs or ():
        if not isinstance(proof, SavedProof):
            row["reason"] = str(proof)
            continue
        row["written"] += 1
        with tempfile.TemporaryDirectory() as folder:
            beside = proof.save(Path(folder) / "c.safetensors")
            began = time.process_time()
            try:
                report = check(read_certificate(Path(folder) / "c.safetensors"), *read_network(beside))
                row["accepted"] += 1
                row["leaves"] += report.leaves
            except Refused as reason:
                row["reason"] = f"refused: {reason}"
            spent = time.process_time() - began
        row["checking"] += spent
        # the proof was checked once already before it was handed out
        row["finding"] -= spent
    return row


def table(rows: list[dict]) -> list[str]:
    """The page."""
    lines = [
        "Finding: CPU seconds of the solve and of the proof that is written; checking: of reading the files back and",
        f"checking them, one thread. {SECONDS:g} s for each solve and again for its certificate; what was not proven",
        "in that time is *missing*.",
        "",
        "| group | cases | certificates | accepted | refused | missing | leaves, mean | finding s, mean "
        "| checking s, mean | checking / finding, mean | median | worst | of the sums |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups = list(dict.fromkeys(row["group"] for row in rows))
    for group in [*groups, "all"]:
        own = [row for row in rows if group in (row["group"], "all")]
        done = [row for row in own if row["written"]]
        if not done:
            continue
        written, accepted = (sum(row[name] for row in own) for name in ("written", "accepted"))
        missing = sum(row["asked"] for row in own) - written
        ratios = [row["checking"] / max(row["finding"], 1e-9) for row in done]
        finding, checking = (sum(row[name] for row in done) for name in ("finding", "checking"))
        lines.append(
            f"| {group} | {len(own)} | {written} | {accepted} | {written - accepted} | {missing} "
            f"| {sum(row['leaves'] for row in done) / written:.1f} "
            f"| {finding / written:.3f} | {checking / written:.3f} | {statistics.mean(ratios):.2f} "
            f"| {statistics.median(ratios):.2f} | {max(ratios):.2f} | {checking / finding:.2f} |"
        )
    reasons = sorted({f"{row['group']}, {row['case']}: {row['reason']}" for row in rows if row["reason"]})
    return [*lines, "", "Missing or refused:", "", *(f"- {reason}" for reason in reasons[:40] or ["none"])]


def main() -> None:
    """Run what is missing, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", help="groups, separated by commas")
    parser.add_argument("--limit", type=int, default=10**6, help="cases of each group")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of CPU time, after which it ends")
    parser.add_argument("--out", type=Path, default=Path("runs/certificates"))
    chosen = parser.parse_args()
    count_cpu_seconds()
    chosen.out.mkdir(parents=True, exist_ok=True)
    log = chosen.out / "results.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    have = {(row["group"], row["case"]) for row in rows}
    with log.open("a") as stream:
        for group, name, prove in cases(None if chosen.only is None else set(chosen.only.split(",")), chosen.limit):
            if (group, name) in have:
                continue
            if time.process_time() > 60 * chosen.minutes:
                break
            rows.append(run(group, name, prove))
            stream.write(json.dumps(rows[-1]) + "\n")
            stream.flush()
    lines = table(rows)
    write_page(RESULTS / "certificates.md", "Certificates", lines)
    print(*lines, sep="\n")
    sys.exit(1 if any(row["accepted"] < row["written"] for row in rows) else 0)


if __name__ == "__main__":
    main()
