"""Certificates of networks with every kind of layer, and what the checker says of them once they are changed.

Nothing enumerates these networks. What is accepted is compared with the function that the layer list states, evaluated
by torch at many inputs of the region: none may be better than the bound.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from certified import CASES as ENUMERATED
from changes import changed
from onnx_models import evaluated
from torch import nn

import clinch as cl
from clinch.certificates import SavedProof, certify
from clinch.checker.certificate import VERSION, Certificate
from clinch.checker.check import check
from clinch.checker.layers import MALFORMED, Refused, digest, read_layers
from clinch.checker.question import certified_query

#: the page that the tables are added to, and under which heading
PAGE = Path(__file__).parents[2] / "benchmarks" / "results" / "mutated_certificates.md"
HEADING = "## Every kind of layer"
#: outcomes, as in mutated.py
TRUE, REFUSED, FALSE = "accepted and true", "refused", "accepted and false"
#: inputs at which an accepted certificate is looked at, and what rounding of their values may do
POINTS, TOLERANCE = 4000, 1e-7


class Between(nn.Module):
    """A dense layer, a function, a dense layer."""

    def __init__(self, seed: int, body: Callable[..., torch.Tensor], inputs: int, width: int, left: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.body, self.last = nn.Linear(inputs, width), body, nn.Linear(left, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Two numbers."""
        return self.last(self.body(self.first(x)).flatten(1))


def _image(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.MaxPool2d(2, ceil_mode=True, padding=1), nn.ReLU(),
        nn.AvgPool2d(2, 1), nn.ReflectionPad2d((1, 0, 0, 0)), nn.Flatten(), nn.Linear(12, 2),
    )  # fmt: skip


def _attention(h: torch.Tensor) -> torch.Tensor:
    h = h.view(-1, 2, 4)
    return torch.softmax(h @ h.transpose(1, 2), 2) @ h


#: kind -> what makes a network, shape of its input, whether python-flint is needed
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    "sigmoid": (lambda: Between(1, torch.sigmoid, 2, 6, 6), (2,), True),
    "gelu": (lambda: Between(2, torch.nn.functional.gelu, 2, 6, 6), (2,), True),
    "sin": (lambda: Between(3, lambda h: torch.sin(2 * h), 2, 6, 6), (2,), True),
    "gate": (lambda: Between(4, lambda h: h[:, :3] * torch.tanh(h[:, 3:]), 2, 6, 3), (2,), True),
    "logarithm": (lambda: Between(5, lambda h: torch.log(h.abs() + 1), 2, 6, 6), (2,), True),
    "hard swish": (lambda: Between(6, lambda h: nn.functional.hardswish(3 * h), 2, 6, 6), (2,), False),
    "absolute value": (lambda: Between(7, torch.abs, 2, 6, 6), (2,), False),
    "square and reciprocal": (lambda: Between(8, lambda h: 1 / (h.square() + 1), 2, 6, 6), (2,), False),
    "matrix product": (lambda: Between(9, lambda h: h.view(-1, 2, 3) @ h.view(-1, 3, 2), 2, 6, 4), (2,), False),
    "step": (lambda: Between(10, lambda h: h + torch.floor(2 * h), 2, 4, 4), (2,), False),
    "clamp": (lambda: Between(11, lambda h: h.clamp(-0.2, 0.3).cumsum(1), 2, 6, 6), (2,), False),
    "attention": (lambda: Between(13, _attention, 2, 8, 8), (2,), True),
    "pools": (lambda: _image(12), (1, 6, 6), False),
}


#: the case made by hand
SPLITS = "splits of activations"


class Known(NamedTuple):
    """A certificate of a case."""

    name: str
    proof: Any


class Made(NamedTuple):
    """What is looked at of a :class:`clinch.certificates.SavedProof`."""

    certificate: Certificate
    network: tuple[dict[str, Any], dict[str, np.ndarray]]


def split_by_hand(claim: float, nu: float | None) -> Made:
    """The least hard swish on [-2, 2] is -0.375: a tree that splits what it reads at -1 and the right side at 0.2.

    Args:
        claim: the bound.
        nu: multiplier of "at least the point" on the two leaves on the right; None: there is no tree.
    """
    layers = [{"kind": "input", "shape": [1]}, {"kind": "dense", "inputs": [0], "weight": "w"},
              {"kind": "function", "inputs": [1], "name": "hardswish", "parameters": []}]  # fmt: skip
    header, weights = {"version": VERSION, "layers": layers}, {"w": np.ones((1, 1))}
    sha256, many = digest({**header, "sha256": ""}, weights), nu is not None
    tensors = {
        "region.lower": np.array([-2.0]), "region.upper": np.array([2.0]), "atoms.constant": np.zeros(0),
        "atoms.clause": np.zeros(0, np.int64), "objective.rows.output": np.ones((1, 1)),
        "objective.constant": np.zeros(1), "leaf.columns": np.zeros(0, np.int64),
        "tree.kind": np.array([4, 0, 4, 0, 0] if many else [0]),
        "tree.index": np.array([0, -1, 0, -1, -1] if many else [-1]),
        "tree.threshold": np.array([-1.0, 0, 0.2, 0, 0] if many else [0.0]),
        "tree.first": np.array([1, -1, 3, -1, -1] if many else [-1]),
        **{f"leaf.{name}": np.zeros((3 if many else 1, 0)) for name in ("alpha", "beta", "mu")},
    }  # fmt: skip
    if nu is not None:
        tensors["leaf.nu"] = np.array([[0.0], [nu], [2 * nu]])
    query = {"objective": "linear", "balls": [], "sense": 1, "labels": []}
    stated = {"version": VERSION, "networks": [sha256], "query": query, "claim": {"kind": "bound", "value": claim}}
    return Made(Certificate({**stated, "point": None}, tensors), ({**header, "sha256": sha256}, weights))


def available() -> list[str]:
    """The cases that this environment can check."""
    return [name for name, (_, _, balls) in CASES.items() if not balls or find_spec("flint") is not None]


@cache
def known(name: str) -> Known:
    """The certificate of a case: the smallest first output over a box, to a tenth."""
    make, shape, _ = CASES[name]
    net = cl.load(make().eval(), input_shape=shape)
    centre = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    radius = 0.5 if len(shape) == 1 else 0.15
    conditions = [net.input.between(centre - radius, centre + radius)]
    if name in ("sigmoid", "gate", "absolute value"):
        conditions.append(net.output[1] <= 1.0)
    problem = cl.Problem(cl.Minimize(net.output[0]), conditions)
    query = problem.query.to(torch.float64, "cpu")
    x = centre + radius * (2 * torch.rand(2000, *shape, generator=torch.Generator().manual_seed(1)).double() - 1)
    value, atoms = query.take(torch.zeros(len(x), dtype=torch.long)).evaluate(x)
    best = value.masked_fill((atoms > 0).any(1), torch.inf).argmin()
    bound = value[best] - 0.1 * (1 + value[best].abs())
    (proof,) = certify(query, bound[None], x[best][None], time_limit=20.0)
    if not isinstance(proof, SavedProof):
        raise proof
    return Known(name, proof)


def examined(seed: int) -> dict[str, Any]:
    """A certificate, or its layer list, changed in one to three places; the hash always fits."""
    rng = random.Random(seed)
    names = [*available(), SPLITS]
    name = names[seed % len(names)]
    case = Known(name, split_by_hand(-0.6, -0.4)) if name == SPLITS else known(name)
    network, (header, tensors) = case.proof.network, case.proof.certificate
    of_layers, changes = rng.random() < 0.5, []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if of_layers:
            try:
                change, *network = (_changed_layers if rng.random() < 0.6 else changed)(*network, rng)
            except (*MALFORMED, StopIteration):
                # an earlier change left no list of layers
                change = "nothing more"
        else:
            change, header, tensors = changed(header, tensors, rng)
        changes.append(("layers: " if of_layers else "") + change)
    found = {"seed": seed, "case": case.name, "change": changes[0], "outcome": REFUSED, "stated": "", "wrong": ""}
    try:
        sha256 = digest({**network[0], "sha256": ""}, network[1])
        if of_layers:
            header = {**header, "networks": [sha256]}
        certificate, layers = Certificate(header, tensors), read_layers(*network)
        report = check(certificate, layers, sha256)
    except (Refused, *MALFORMED) as reason:
        return {**found, "stated": str(reason)[:200]}
    wrong = falsehood(certificate, layers, report.bound)
    stated = "the same query" if not of_layers else "another network"
    return {**found, "outcome": FALSE if wrong else TRUE, "stated": stated, "wrong": wrong}


def falsehood(certificate: Certificate, layers: list, bound: float) -> str:
    """An input of the region that satisfies everything and is better than the bound; empty where none was found."""
    with np.errstate(all="ignore"):
        query = certified_query(certificate, layers)
        lower, upper = (np.clip(t, -50, 50) for t in query.box)
        rng = np.random.default_rng(0)
        x = lower + (upper - lower) * rng.random((POINTS, layers[0].size))
        x[: POINTS // 4] = np.where(rng.random((POINTS // 4, layers[0].size)) < 0.5, lower, upper)
        values = {i: evaluated(layers[: i + 1], x) for i in query.forms}
        forms = sum((values[i][0] @ rows.T for i, rows in query.forms.items()), np.zeros(1)) + query.constants
        sizes = sum((values[i][1] @ np.abs(rows).T for i, rows in query.forms.items()), np.zeros(1))
        good = np.ones(POINTS, dtype=bool)
        for members in query.clauses:
            good &= (forms[:, 1 + members] + 1e-9 * (1 + sizes[:, 1 + members]) <= 0).any(1)
        for ball in query.balls:
            good &= np.linalg.norm(ball.weights * (x - ball.center), ball.p, axis=1) <= ball.radius
        value = forms[:, 0]
        if query.ball is not None:
            value = np.linalg.norm(query.ball.weights * (x - query.ball.center), query.ball.p, axis=1)
        better = good & (value < bound - TOLERANCE * (1 + abs(bound)) - 1e-9 * sizes[:, 0])
    return f"bound {bound:.9g}, an input has {value[better].min():.9g}" if better.any() else ""


def _changed_layers(header: dict, tensors: dict, rng: random.Random) -> tuple[str, dict, dict]:
    """One layer of another kind, with other settings, or at another place."""
    header = copy.deepcopy(header)
    layer = rng.choice(header["layers"][1:])
    kind = rng.randrange(4)
    if kind == 0 and "slope" in layer:
        layer["slope"] = rng.choice([-1.0, 0.0, 0.5, 0.999, -3.0, 1.5, None])
    elif kind == 0 and "name" in layer:
        layer["name"] = rng.choice(["tanh", "sigmoid", "exp", "reciprocal", "sqrt", "hardswish", "sign", "nothing"])
    elif kind == 1:
        layer["inputs"] = [rng.randrange(len(header["layers"])) for _ in layer["inputs"]]
    elif kind == 2:
        layer["kind"] = rng.choice(["relu", "add", "product", "function", "sparse", "reshape", "maxpool", "dense"])
    else:
        key = rng.choice(sorted(layer))
        if isinstance(layer[key], list) and layer[key]:
            at = rng.randrange(len(layer[key]))
            layer[key][at] = rng.choice([0, 1, 2, 3, -1, 0.5, [0, 0], [1, 0]])
        else:
            layer[key] = rng.choice([0, 1, -1, 0.5, [], "row", None])
    return "a layer's kind, settings or inputs", header, tensors


def page(records: list[dict]) -> str:
    """The tables of all records, behind what the page says of enumerated networks."""
    head = PAGE.read_text().partition(f"\n{HEADING}")[0].rstrip()
    outcomes = Counter(r["outcome"] for r in records)
    lines = [
        head, "", HEADING, "",
        f"    python tests/certify/run_kinds.py --count {len(records)}", "",
        "Certificates of networks with smooth functions, hard swish, steps, absolute values, products, pools, padding,",
        "batch norm and splits of activations. In half of the records the layer list is changed, and the certificate",
        "names it. What is accepted is compared with the function that the list states, evaluated by torch at",
        f"{POINTS} inputs of the region, a quarter of them corners: none may be better than the bound.", "",
        f"**{len(records)} mutated: {outcomes[REFUSED]} refused, {outcomes[TRUE]} accepted and true, "
        f"{outcomes[FALSE]} accepted and false.**", "",
    ]  # fmt: skip
    for key in ("case", "change"):
        counts = Counter((r[key], r["outcome"]) for r in records)
        lines += [f"| {key} | {REFUSED} | {TRUE} | {FALSE} |", "|---|---|---|---|"]
        for value in sorted({r[key] for r in records}):
            lines.append(f"| {value} | " + " | ".join(str(counts[value, o]) for o in (REFUSED, TRUE, FALSE)) + " |")
        lines.append("")
    lines += [f"- seed {r['seed']} ({r['case']}): {r['wrong']}" for r in records if r["wrong"]]
    return "\n".join(lines).rstrip() + "\n"


assert VERSION == 3 and not set(CASES) & set(ENUMERATED)
