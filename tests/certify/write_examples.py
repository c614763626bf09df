"""Write the example files that docs/certificates.md lists: ``python tests/certify/write_examples.py``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

import clinch as cl
from clinch.certificates import SavedProof, certify, produce
from clinch.search.general_split import general_split
from clinch.search.input_split import input_split
from clinch.solver.ledger import Ledger
from clinch.solver.settings import GeneralSplit

FOLDER = Path(__file__).parent / "examples"


def network(n: int = 2) -> cl.Network:
    """Two layers of four neurons, with weights that are multiples of a quarter."""
    torch.manual_seed(11)
    model = nn.Sequential(nn.Linear(n, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        for layer in (model[0], model[2], model[4]):
            layer.weight.copy_((8 * layer.weight).round() / 4)
            layer.bias.copy_((8 * layer.bias).round() / 4)
    return cl.load(model, input_shape=(n,))


def examples() -> dict[str, SavedProof]:
    """By name."""
    net = network()
    x, z = torch.tensor([0.25, -0.5], dtype=torch.float64), net.output
    box, label = (
        net.input.between(-1, 1),
        int(net.graph.forward(x[None].float(), [net.graph.output])[net.graph.output].argmax()),
    )
    values = net.graph.forward(2 * torch.rand(4000, 2) - 1, [net.graph.output])[net.graph.output]
    high = float(values[:, 0].max()) + 0.5
    either = (z[0] >= high) | (z[1] >= float(values[:, 1].max()) + 0.5)
    asked = {
        "linear bound, ReLU splits": (cl.Minimize(z[0] - z[1]), [box], None),
        "linear bound, input splits": (cl.Minimize(z[0] - z[1]), [box], input_split),
        "linear bound, splits at activations": (cl.Maximize(z[1]), [box], general_split),
        "infeasible, a clause of two atoms": (cl.Minimize(0), [box, either], input_split),
        "distance, p = 1": (cl.Minimize(cl.norm(net.input - x, p=1)), [box, z.argmax() != label], None),
        "distance, p = 2": (cl.Minimize(cl.norm(net.input - x, p=2)), [box, z.argmax() != label], None),
        "distance, p = inf": (cl.Minimize(cl.norm(net.input - x, p=cl.inf)), [box, z.argmax() != label], None),
        "linear bound in a ball, p = 2": (cl.Minimize(z[0]), [box, cl.norm(net.input - x, p=2) <= 0.5], None),
    }  # fmt: skip
    found = {}
    for name, (objective, conditions, engine) in asked.items():
        problem = cl.Problem(objective, conditions)
        query, trees = problem.query, ()
        solution = problem.solve(10, gap=1e-3)
        bound = torch.tensor([query.sense * float(solution.bound)], dtype=torch.float64)
        if engine is not None:
            ledger = Ledger(query, time_limit=10, gap=1e-3, trees=[])
            engine(query, ledger, *([GeneralSplit(inputs=0)] if engine is general_split else []))
            trees, bound = ledger.trees, ledger.bound
        (proof,) = certify(query, bound, solution.x[None].double(), time_limit=10, trees=trees)
        assert isinstance(proof, SavedProof), (name, proof)
        found[name] = proof
    return found | {"linear bound, lemmas": with_lemmas()}


def with_lemmas() -> SavedProof:
    """One leaf, of three layers of neurons."""
    torch.manual_seed(3)
    layers = [part for n in (2, 4, 4) for part in (nn.Linear(n, 4), nn.ReLU())]
    net = cl.load(nn.Sequential(*layers, nn.Linear(4, 1)).eval(), input_shape=(2,))
    query = cl.Problem(cl.Minimize(net.output[0]), [net.input.between(-1, 1)]).query
    x = 2 * torch.rand(4000, 2) - 1
    least = net.graph.forward(x, [net.graph.output])[net.graph.output].amin().double()
    plans = produce._plans
    produce._plans = lambda known, distance: [produce.Plan(most=1, lemmas=2)]
    try:
        (proof,) = certify(query, least[None] - 0.06, x[:1].double(), time_limit=10)
    finally:
        produce._plans = plans
    assert isinstance(proof, SavedProof), proof
    return proof


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    wanted = examples() if len(sys.argv) < 2 else {"linear bound, lemmas": with_lemmas()}
    for name, proof in wanted.items():
        path = FOLDER / (name.replace(", ", "-").replace(" = ", "").replace(" ", "_") + ".safetensors")
        proof.save(path)
        print(
            path.name,
            path.stat().st_size,
            proof.report.leaves,
            sorted(set(proof.certificate.tensors["tree.kind"].tolist())),
        )
