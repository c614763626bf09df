"""Certificates pass the checker, say what is true, and are refused once something in them is changed for the worse."""

import ast
import copy
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from certified import known

import clinch as cl
from clinch.certificates import SavedProof, certify
from clinch.checker.certificate import (
    CERTIFICATE,
    NETWORK,
    Certificate,
    read_certificate,
    read_network,
    write_file,
)
from clinch.checker.check import check
from clinch.checker.layers import Refused, read_layers
from clinch.checker.question import certified_query
from clinch.checker.tree import leaves_of
from clinch.errors import CertificateError
from clinch.network.ops.s_shaped import Sigmoid

CHECKER = sorted(p for p in (Path(cl.__file__).parent / "checker").glob("*.py") if p.stem != "__init__")


def mlp(seed, sizes=(5, 10, 8, 3)):
    torch.manual_seed(seed)
    layers = []
    for a, b in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1]).eval()


def conv(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3, stride=2, padding=1),
        torch.nn.LeakyReLU(0.25),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 3),
    ).eval()


def problem_of(model, kind, shape, seed=0):
    net = cl.load(model, input_shape=shape)
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator)
    box = net.input.between(0, 1)
    label = int(model(x[None]).argmax())
    if kind == "linear":
        near = cl.norm(net.input - x, p=2) <= 0.8
        return cl.Problem(cl.Minimize(net.output[label] - net.output[(label + 1) % 3]), [box, near])
    if kind == "maximise":
        return cl.Problem(cl.Maximize(net.output[0]), [box])
    if kind == "infeasible":
        return cl.Problem(cl.Minimize(0), [box, net.output[0] >= 50])
    p = {"p1": 1, "p2": 2, "pinf": cl.inf}[kind]
    return cl.Problem(cl.Minimize(cl.norm(net.input - x, p=p)), [box, net.output.argmax() != label])


def proven(seed, kind, model=None, shape=(5,), time_limit=10.0):
    problem = problem_of(mlp(seed) if model is None else model, kind, shape, seed)
    return problem, problem.solve(time_limit, gap=0.02, certificate=True)


def from_nothing(seed, kind):
    """Solution, and its certificate by a search of its own, which splits ReLUs."""
    problem = problem_of(mlp(seed), kind, (5,), seed)
    solution = problem.solve(10.0, gap=0.02)
    bound = torch.tensor([problem.query.sense * float(solution.bound)], dtype=torch.float64)
    return solution, certify(problem.query, bound, solution.x[None].double())[0]


@pytest.fixture(scope="module")
def linear():
    """A tree with splits at ReLUs, for a linear objective over box and ball."""
    for seed in range(20):
        proof = from_nothing(seed, "linear")[1]
        if proof.report.leaves >= 4:
            return proof
    raise AssertionError("no tree with splits")


@pytest.fixture(scope="module")
def distance():
    """A tree with a split at a clause, for a distance, with a point."""
    for seed in range(20):
        solution, proof = from_nothing(seed, "p2")
        if isinstance(proof, SavedProof) and proof.report.leaves >= 4 and 0.2 < solution.value < 9:
            return proof
    raise AssertionError("no tree with splits")


@pytest.mark.parametrize("kind", ["linear", "maximise", "p1", "p2", "pinf", "infeasible"])
@pytest.mark.parametrize("seed", [0, 1])
def test_certificates_pass_and_stay_below_every_value(seed, kind):
    problem, solution = proven(seed, kind)
    assert isinstance(solution.certificate, SavedProof), solution.notes
    report = solution.certificate.report
    sense = problem.query.sense
    assert report.bound <= sense * solution.bound
    if np.isfinite(report.bound):
        # within the slack: what is certified is what was reported
        assert report.bound >= sense * solution.bound - 1.01 * max(1e-7, 1e-5 * abs(solution.bound))
        samples = torch.rand(4000, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        query = problem.query.take(torch.zeros(4000, dtype=torch.long))
        value, atoms = query.evaluate(samples)
        good = (query.violation(atoms) <= 0) & query.region.contains(samples)
        assert bool((value[good] >= report.bound).all())


@pytest.mark.parametrize("kind", ["linear", "p2"])
def test_convolutions_and_leaky_relus(kind):
    solution = proven(3, kind, conv(3), (1, 4, 4))[1]
    assert solution.certificate is not None, solution.notes


def test_boxes_are_split_where_kinks_are_many():
    """Two inputs and many ReLUs: the tree has splits at inputs, and the thresholds count."""
    solution = proven(1, "maximise", mlp(1, (2, 80, 60, 2)), (2,))[1]
    proof = solution.certificate
    assert proof is not None, solution.notes
    assert (proof.certificate.tensors["tree.kind"] == 2).any()
    tensors = dict(proof.certificate.tensors)
    for wrong in (7.0, np.nan):
        tensors["tree.threshold"] = np.where(proof.certificate.tensors["tree.kind"] == 2, wrong, 0.0)
        with pytest.raises(Refused):
            check(proof.certificate._replace(tensors=tensors), read_layers(*proof.network), proof.network[0]["sha256"])


# --- mutations -------------------------------------------------------------------------------------------------------


def put(name, value):
    """A mutation that replaces a tensor by a function of it."""

    def change(header, tensors):
        tensors[name] = value(tensors[name].copy())

    return change


def at(name, index, value):
    def change(array):
        array[index] = value
        return array

    return put(name, change)


def head(*path, value):
    def change(header, tensors):
        place = header
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value(place[path[-1]])

    return change


def swapped(a, b):
    def change(header, tensors):
        tensors[a], tensors[b] = tensors[b], tensors[a]

    return change


def first_inner(tensors, count=1):
    return np.flatnonzero(tensors["tree.kind"] != 0)[:count]


def second_parent(header, tensors):
    one, other = first_inner(tensors, 2)
    tensors["tree.first"] = tensors["tree.first"].copy()
    tensors["tree.first"][other] = tensors["tree.first"][one]


def cycle(header, tensors):
    tensors["tree.first"] = tensors["tree.first"].copy()
    tensors["tree.first"][first_inner(tensors, 2)[1]] = 0


def split_twice(header, tensors):
    kinds, first = tensors["tree.kind"], tensors["tree.first"]
    for node in np.flatnonzero(kinds == 1):
        for child in (first[node], first[node] + 1):
            if kinds[child] == 1:
                tensors["tree.index"] = tensors["tree.index"].copy()
                tensors["tree.index"][child] = tensors["tree.index"][node]
                return
    raise AssertionError("no ReLU split below another")


def only_root(header, tensors):
    for name in ("tree.kind", "tree.index", "tree.threshold", "tree.first"):
        tensors[name] = tensors[name][:1] * 0 - (name in ("tree.index", "tree.first"))
    for name in ("leaf.alpha", "leaf.beta", "leaf.mu"):
        tensors[name] = tensors[name][:1] * (name != "leaf.beta")


def drop_node(header, tensors):
    for name in ("tree.kind", "tree.index", "tree.threshold", "tree.first"):
        tensors[name] = tensors[name][:-1]
    for name in ("leaf.alpha", "leaf.beta", "leaf.mu"):
        tensors[name] = tensors[name][:-1]


def drop(name):
    def change(header, tensors):
        del tensors[name]

    return change


def renamed(old, new):
    def change(header, tensors):
        tensors[new] = tensors.pop(old)

    return change


def unsplit_beta(header, tensors):
    """A sign condition that no split gives."""
    root = (tensors["leaf.beta"] == 0).all(0)
    assert root.any()
    tensors["leaf.beta"] = tensors["leaf.beta"] + root.astype(tensors["leaf.beta"].dtype)


def other_atom(header, tensors):
    """Each leaf below a clause split claims an atom that it did not choose."""
    tensors["leaf.mu"] = np.ones_like(tensors["leaf.mu"])


def point_at_center(header, tensors):
    tensors["point.x"] = tensors["objective.center"]


TREE = {
    "a leaf dropped": drop_node,
    "leaf rows dropped": put("leaf.mu", lambda t: t[:-1]),
    "a node with two parents": second_parent,
    "a cycle": cycle,
    "a ReLU split twice": split_twice,
    "the tree cut to its root": only_root,
    "an unknown kind of node": at("tree.kind", 0, 9),
    "a leaf made of the root": at("tree.kind", 0, 0),
    "a split beyond the network": put("tree.index", lambda t: t + 10**6),
    "a split before the network": put("tree.index", lambda t: t * 0 - 1),
    "a child beyond the tree": at("tree.first", 0, 10**6),
    "a child that is the root": at("tree.first", 0, 0),
    "children moved by one": put("tree.first", lambda t: np.where(t >= 0, t + 1, t)),
    "NaN threshold": at("tree.threshold", 0, np.nan),
    "tree of floats": put("tree.index", lambda t: t.astype(float)),
    "an empty tree": put("tree.kind", lambda t: t[:0]),
    "tensors of the tree swapped": swapped("tree.index", "tree.first"),
    "no tree": drop("tree.first"),
}
MULTIPLIERS = {
    "NaN slope": at("leaf.alpha", (0, 0), np.nan),
    "slope above one": at("leaf.alpha", (0, 0), 1.5),
    "slope below zero": at("leaf.alpha", (0, 0), -0.25),
    "NaN sign multiplier": at("leaf.beta", (0, 0), np.nan),
    "negative sign multiplier": put("leaf.beta", lambda t: np.where(t > 0, -t, t) - (t == 0) * 1e-3),
    "multiplier of an unsplit ReLU": unsplit_beta,
    "slopes and sign multipliers swapped": swapped("leaf.alpha", "leaf.beta"),
    "a column twice": put("leaf.columns", lambda t: t * 0),
    "a column beyond the network": put("leaf.columns", lambda t: t + 10**6),
    "multipliers transposed": put("leaf.alpha", lambda t: np.ascontiguousarray(t.T)[:, :-1]),
    "multipliers as integers": put("leaf.alpha", lambda t: t.astype(np.int32)),
    "no multipliers": drop("leaf.beta"),
}
STATEMENT = {
    "another version": head("version", value=lambda v: v + 1),
    "another network": head("networks", value=lambda v: ["0" * 64]),
    "no network": head("networks", value=lambda v: []),
    "NaN bound": head("claim", "value", value=lambda v: float("nan")),
    "infinite bound": head("claim", "value", value=lambda v: float("inf")),
    "bound as a text": head("claim", "value", value=lambda v: "much"),
    "an unknown claim": head("claim", "kind", value=lambda v: "hope"),
    "claimed infeasible": head("claim", value=lambda v: {"kind": "infeasible"}),
    "limits swapped": swapped("region.lower", "region.upper"),
    "NaN limit": at("region.upper", 0, np.nan),
    "no region": drop("region.lower"),
    "an unknown objective": head("query", "objective", value=lambda v: "size"),
}
LINEAR = {
    "unbounded region": put("region.upper", lambda t: t + np.inf),
    "enlarged bound": head("claim", "value", value=lambda v: v + 0.5),
    "objective negated": put("objective.rows.output", lambda t: -t),
    "objective doubled": put("objective.constant", lambda t: t - 0.5),
    "infinite coefficient": at("objective.rows.output", (0, 0), np.inf),
    "an unknown place": renamed("objective.rows.output", "objective.rows.relu:9"),
    "no objective": drop("objective.rows.output"),
    "a larger ball": put("ball.0.radius", lambda t: t * 50),
    "a negative radius": put("ball.0.radius", lambda t: -t),
    "a ball of p = 3": head("query", "balls", value=lambda v: [3.0]),
    "negative weights": put("ball.0.weights", lambda t: -t),
}
DISTANCE = {
    "enlarged bound": head("claim", "value", value=lambda v: 1.1 * v),
    "no multipliers of atoms": put("leaf.mu", lambda t: t * 0),
    "negative multiplier": put("leaf.mu", lambda t: -t),
    "infinite multiplier": at("leaf.mu", (0, 0), np.inf),
    "an atom that need not hold": other_atom,
    "easier atoms": put("atoms.constant", lambda t: t - 10),
    "atoms of the other sign": put("atoms.rows.output", lambda t: -t),
    "more clauses": put("atoms.clause", lambda t: t + 1),
    "an empty clause": at("atoms.clause", 0, 10),
    "another centre": put("objective.center", lambda t: t * 0 + 0.5 + np.arange(len(t))),
    "larger p": head("query", "p", value=lambda v: "inf"),
    "p = 0": head("query", "p", value=lambda v: 0),
    "smaller weights": put("objective.weights", lambda t: t * 0.01),
    "a point outside": put("point.x", lambda t: t + 2),
    "a point that is NaN": at("point.x", 0, np.nan),
    "a point that is not feasible": point_at_center,
    "a better point": head("point", "value", value=lambda v: 0.9 * v),
}


def mutated(proof, change):
    header, tensors = copy.deepcopy(proof.certificate.header), dict(proof.certificate.tensors)
    change(header, tensors)
    return Certificate(header, tensors)


def refused(proof, change, folder):
    """Refused as it is, and, where the format can hold it, after a round trip with a digest that fits."""
    certificate = mutated(proof, change)
    with pytest.raises(Refused):
        check(certificate, read_layers(*proof.network), proof.network[0]["sha256"])
    write_file(folder / "c.safetensors", CERTIFICATE, *certificate)
    with pytest.raises(Refused):
        check(read_certificate(folder / "c.safetensors"), read_layers(*proof.network), proof.network[0]["sha256"])


def test_what_is_mutated_passes_unchanged(linear, distance, tmp_path):
    for proof in (linear, distance):
        write_file(tmp_path / "c.safetensors", CERTIFICATE, *proof.certificate)
        write_file(tmp_path / "n.safetensors", NETWORK, *proof.network)
        report = check(read_certificate(tmp_path / "c.safetensors"), *read_network(tmp_path / "n.safetensors"))
        assert report == proof.report
    assert distance.certificate.header["point"] is not None
    assert len(TREE | MULTIPLIERS | STATEMENT) + len(LINEAR) + len(DISTANCE) >= 60


@pytest.mark.parametrize("name", [*TREE, *MULTIPLIERS, *STATEMENT, *LINEAR])
def test_corrupted_certificates_of_linear_objectives_are_refused(linear, tmp_path, name):
    refused(linear, (TREE | MULTIPLIERS | STATEMENT | LINEAR)[name], tmp_path)


@pytest.mark.parametrize("name", [*TREE, *MULTIPLIERS, *STATEMENT, *DISTANCE])
def test_corrupted_certificates_of_distances_are_refused(distance, tmp_path, name):
    refused(distance, (TREE | MULTIPLIERS | STATEMENT | DISTANCE)[name], tmp_path)


def test_leaves_in_another_order_are_refused():
    """The splits are read off the tree: a sign condition that a leaf uses does not hold on another."""
    proof = known("linear objective, box and ball").proof
    layers, sha256 = read_layers(*proof.network), proof.network[0]["sha256"]
    query = certified_query(proof.certificate, layers)
    relus = sum(layer.size for layer in layers if layer.kind == "relu")
    columns, beta = (proof.certificate.tensors[f"leaf.{name}"] for name in ("columns", "beta"))
    split = leaves_of(proof.certificate, query, query.box, relus, 0)[0].signs[:, columns] != 0
    # leaves and a ReLU that is split on the one and not on the other
    one, other, at = next(zip(*np.nonzero(split[:, None] & ~split[None])))
    used = beta.copy()
    used[one, at] = max(used[one, at], 1e-12)
    check(mutated(proof, put("leaf.beta", lambda _: used)), layers, sha256)
    order = np.arange(len(beta))
    order[[one, other]] = other, one
    with pytest.raises(Refused, match="not split"):
        check(mutated(proof, put("leaf.beta", lambda _: used[order])), layers, sha256)


def test_a_changed_network_is_refused(linear, tmp_path):
    header, tensors = linear.network
    for name in tensors:
        write_file(tmp_path / "n.safetensors", NETWORK, header, {**tensors, name: -tensors[name]})
        with pytest.raises(Refused, match="another network"):
            check(linear.certificate, *read_network(tmp_path / "n.safetensors"))
        # the hash is not what makes it safe: the weights are
        if name == "1.weight":
            with pytest.raises(Refused, match="not closed"):
                check(linear.certificate, read_network(tmp_path / "n.safetensors")[0], header["sha256"])


def test_damaged_files_are_refused(linear, tmp_path):
    path = tmp_path / "c.safetensors"
    write_file(path, CERTIFICATE, *linear.certificate)
    data = path.read_bytes()
    flipped = data[:-1] + bytes([data[-1] ^ 1])
    for damaged in (b"", data[:7], data[: len(data) // 2], data[:-1], data + b"x", flipped, b"\xff" * 100):
        path.write_bytes(damaged)
        with pytest.raises(Refused):
            read_certificate(path)
    write_file(path, NETWORK, *linear.network)
    with pytest.raises(Refused, match="metadata"):
        read_certificate(path)


# --- the rest --------------------------------------------------------------------------------------------------------


#: what reads files, and what says in words what was proven; all other files of the checker decide whether a proof holds
READERS, SPEAKERS = (
    {"certificate", "function_kinds", "layers", "onnx_kinds", "onnx_layers", "onnx_operators", "question"},
    {"words"},
)


def test_the_checker_imports_nothing_else_and_is_short():
    """A stranger can read it alone: NumPy, onnx, safetensors, python-flint for smooth functions, its own files."""
    names = {f"clinch.checker.{path.stem}" for path in CHECKER}
    allowed = {"flint", "numpy", "onnx", "safetensors", "google", *sys.stdlib_module_names}
    deciding = reading = 0
    for path in CHECKER:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                assert module in names or module.split(".")[0] in allowed, f"{path.name} imports {module}"
        reading += code_lines(path.read_text()) * (path.stem in READERS)
        deciding += code_lines(path.read_text()) * (path.stem not in READERS | SPEAKERS)
    assert deciding <= 800 and reading <= 1310


def code_lines(text):
    """Lines that are neither empty, nor a comment, nor documentation."""
    documentation = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            documentation |= set(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(bool(t.strip()) and not t.strip().startswith("#") and i not in documentation for i, t in lines)


def test_what_has_no_place_in_a_certificate_is_said(monkeypatch):
    monkeypatch.setattr(Sigmoid, "named", None)
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Sigmoid(), torch.nn.Linear(3, 1)).eval()
    net = cl.load(model, input_shape=(2,))
    solution = cl.Problem(cl.Minimize(net.output[0]), [net.input.between(0, 1)]).solve(2, certificate=True)
    assert solution.certificate is None
    assert any("no certificate" in note and "Sigmoid" in note for note in solution.notes)
    problem = problem_of(mlp(0), "p2", (5,))
    with pytest.raises(CertificateError, match="linear objectives"):
        net = cl.load(mlp(0), input_shape=(5,))
        counted = cl.Problem(cl.Minimize(cl.norm(net.input - torch.rand(5), p=0)), [net.input.between(0, 1)])
        certify(counted.query, torch.zeros(1))
    found = certify(problem.query, torch.tensor([-torch.inf]))
    assert isinstance(found[0], CertificateError)
