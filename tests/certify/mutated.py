"""What the checker says of a randomly changed certificate, and whether what it accepts is true."""

from __future__ import annotations

import platform
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from certified import CASES, FAR, Known, known, query_of
from changes import changed, packed

from clinch.checker.certificate import CERTIFICATE, Certificate, read_certificate
from clinch.checker.check import Report, check
from clinch.checker.layers import Refused, read_layers
from clinch.errors import ClinchError
from clinch.query import Query
from clinch.testing.brute_force import brute_force

#: outcomes
TRUE, REFUSED, FALSE = "accepted and true", "refused", "accepted and false"
#: by how much an enumeration may err, relatively and absolutely
TOLERANCE = 1e-6
#: of the tables
COLUMNS = ("refused", "accepted, the same query", "accepted, another query", "accepted and false")


def examined(seed: int) -> dict[str, Any]:
    """One certificate, changed in one to three places and written with a digest that fits."""
    rng = random.Random(seed)
    name = list(CASES)[seed % len(CASES)]
    case = known(name)
    header, tensors = case.proof.certificate
    changes = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if header:
            change, header, tensors = changed(header, tensors, rng)
            changes.append(change)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.safetensors"
        path.write_bytes(packed(header, tensors, CERTIFICATE))
        found = {"seed": seed, "case": name, "change": changes[0], "outcome": REFUSED, "stated": "", "wrong": ""}
        try:
            certificate = read_certificate(path)
            report = check(certificate, read_layers(*case.proof.network), case.proof.network[0]["sha256"])
        except Refused as reason:
            return {**found, "stated": str(reason)[:200]}
    same = same_query(certificate, case.proof.certificate)
    query = query_of(certificate, case.graph)
    optimum = case.optimum if same else optimum_of(query)
    wrong = falsehood(case, certificate, query, report, optimum)
    stated = "the same query" if same else "another query"
    return {**found, "outcome": FALSE if wrong else TRUE, "stated": stated, "wrong": wrong}


def same_query(one: Certificate, other: Certificate) -> bool:
    """Whether two certificates state the same objective, region and clauses."""

    def part(c: Certificate) -> dict[str, Any]:
        return {n: t for n, t in c.tensors.items() if n.split(".")[0] in ("region", "ball", "atoms", "objective")}

    a, b = part(one), part(other)
    if a.keys() != b.keys() or not all(np.array_equal(a[n], b[n]) for n in a):
        return False
    return all(one.header["query"].get(key) == other.header["query"].get(key) for key in ("objective", "p", "balls"))


def optimum_of(query: Query) -> float:
    """By enumeration; where that has no room for a query, the best of many random inputs, which is never below it."""
    try:
        return brute_force(query)
    except ClinchError:
        return sampled(query)


def sampled(query: Query, count: int = 20000) -> float:
    """The best objective of random inputs that satisfy everything."""
    lower, upper = query.region.lower, query.region.upper
    rng = torch.Generator().manual_seed(0)
    x = lower + (upper - lower) * torch.rand((count, *lower.shape[1:]), dtype=torch.float64, generator=rng)
    many = query.take(torch.zeros(count, dtype=torch.long))
    value, atoms = many.evaluate(x)
    good = many.region.contains(x) & (many.violation(atoms) <= 0)
    return float(value[good].min()) if bool(good.any()) else np.inf


def falsehood(case: Known, certificate: Certificate, query: Query, report: Report, optimum: float) -> str:
    """What an accepted certificate says that is not so; empty where all is."""
    near = TOLERANCE * max(1.0, abs(optimum))
    if report.bound > optimum + near:
        return f"bound {report.bound:.9g}, optimum {optimum:.9g}"
    stated = certificate.header["point"]
    if stated is None:
        return ""
    x = torch.from_numpy(certificate.tensors["point.x"].astype(np.float64)).reshape(1, *case.graph.input_shape)
    value, atoms = query.evaluate(x)
    region, violation = query.region, float(query.violation(atoms))
    if not bool(((x >= region.lower) & (x <= region.upper)).all()):
        violation = np.inf
    violation = max([violation, *(float(ball.distance(x) - ball.radius * (1 + 1e-9)) for ball in region.balls)])
    if violation > float(stated["violation"]) + 1e-9:
        return "the point is not feasible"
    if float(value) > float(stated["value"]) + 1e-9 * max(1.0, abs(float(value))):
        return f"the point has {float(value):.9g}, stated {stated['value']}"
    return ""


# --- the page ---------------------------------------------------------------------------------------------------------


def _column(record: dict) -> str:
    return record["outcome"] if record["outcome"] != TRUE else f"accepted, {record['stated']}"


def table(records: list[dict], key: str) -> list[str]:
    """Counts of outcomes by a field of the records, as Markdown."""
    counts = Counter((r[key], _column(r)) for r in records)
    lines = [f"| {key} | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for value in sorted({r[key] for r in records}):
        lines.append(f"| {value} | " + " | ".join(str(counts[value, column]) for column in COLUMNS) + " |")
    return lines


def page(records: list[dict]) -> str:
    """The tables of all records."""
    outcomes = Counter(r["outcome"] for r in records)
    lines = [
        "# Mutated certificates",
        "",
        f"    python tests/certify/run.py --count {len(records)}",
        "",
        f"{len(CASES)} certificates of problems with 8 to 9 ReLUs, whose optimum an enumeration of all linear pieces",
        "knows: it shares no search and no bound with the checker. Each is changed at random in one to three places of",
        "header and tensors and written with a digest that fits, so that the digest refuses none of them.",
        "",
        "What is accepted all the same must be true: the bound is at most the optimum of the query that the file now",
        f"states (enumerated again where that changed; to {TOLERANCE:g}, infinite limits of the input cut at {FAR:g},",
        "the best of 20,000 random inputs where an enumeration has no room for it), and the point is as good and as",
        "feasible as stated. Many changes leave a true statement: a smaller bound, another slope that also suffices.",
        "",
        f"Python {platform.python_version()}, torch {torch.__version__}, {platform.machine()}.",
        "",
        f"**{len(records)} mutated certificates: {outcomes[REFUSED]} refused, {outcomes[TRUE]} accepted and true, "
        f"{outcomes[FALSE]} accepted and false.**",
        "",
        *table(records, "case"),
        "",
        "By the first change:",
        "",
        *table(records, "change"),
        "",
    ]
    lines += [f"- seed {r['seed']} ({r['case']}): {r['wrong']}" for r in records if r["wrong"]]
    return "\n".join(lines).rstrip() + "\n"
