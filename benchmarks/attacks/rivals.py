"""The other libraries' minimum-norm attacks, each by what it needs to keep to a number of passes per image.

adv-lib 0.2.8, foolbox 3.3.4 and torchattacks 3.5.1, called as their documentation says, with their own defaults. Two of
adv-lib's imports, torchvision and visdom, are not needed by these attacks and are stood in for.
"""

from __future__ import annotations

import importlib
import math
import sys
import types
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

INF = math.inf
LENGTH = {0.0: "0", 1.0: "1", 2.0: "2", INF: "inf"}

Run = Callable[[nn.Module, Tensor, Tensor, float, int], Tensor]


class Rival(NamedTuple):
    """An attack of another library.

    Attributes:
        library: name of its package.
        name: of the attack.
        norms: where it has a meaning.
        run: ``run(model, x, y, p, passes) -> points``.
        settled: whether it ends by itself, so that more passes change nothing.
    """

    library: str
    name: str
    norms: tuple[float, ...]
    run: Run
    settled: bool = False


def libraries() -> dict[str, object]:
    """What is installed of the three; says in a line what is not."""
    for absent in ("torchvision", "torchvision.models", "visdom"):
        try:
            importlib.import_module(absent)
        except ImportError:
            stand_in = types.ModuleType(absent)
            vars(stand_in)["models"] = stand_in
            sys.modules[absent] = stand_in
    found = {}
    for name, module in (("adv-lib", "adv_lib.attacks"), ("foolbox", "foolbox"), ("torchattacks", "torchattacks")):
        try:
            found[name] = importlib.import_module(module)
        except ImportError as error:
            print(f"{name} is left out: {error}. The docstring of this file says how to install it.")
    return found


def rivals() -> list[Rival]:
    """Every attack of the libraries that are installed."""
    found = libraries()
    known = []
    if "adv-lib" in found:
        known += _adv_lib(found["adv-lib"])
    if "foolbox" in found:
        known += _foolbox(found["foolbox"])
    if "torchattacks" in found:
        known += _torchattacks(found["torchattacks"])
    return known


def _adv_lib(lib) -> list[Rival]:
    first = {1.0: 0.5, 2.0: 0.1}

    def two_thirds(p):
        return 23 if p == 0 else None

    def rival(name, norms, run, settled=False):
        return Rival("adv-lib", name, norms, run, settled)

    return [
        rival("DDN", (2.0,), lambda m, x, y, p, n: lib.ddn(m, x, y, steps=n // 2, levels=None)),
        rival("FMN", (0.0, 1.0, 2.0, INF), lambda m, x, y, p, n: lib.fmn(m, x, y, norm=p, steps=n // 2)),
        rival("ALMA", (1.0, 2.0), lambda m, x, y, p, n: lib.alma(
            m, x, y, num_steps=n // 2, distance=f"l{p:g}", init_lr_distance=first[p])),
        rival("PDPGD", (0.0, 1.0, 2.0, INF), lambda m, x, y, p, n: lib.pdpgd(
            m, x, y, norm=p, num_steps=n // 2, proximal_operator=two_thirds(p))),
        rival("PDGD", (2.0,), lambda m, x, y, p, n: lib.pdgd(m, x, y, num_steps=n // 2)),
        rival("σ-zero", (0.0,), lambda m, x, y, p, n: lib.sigma_zero(m, x, y, num_steps=n // 2)),
        rival("VFGA", (0.0,), lambda m, x, y, p, n: lib.vfga(m, x, y, False, large_memory=True), True),
        rival("FAB", (1.0, 2.0, INF), lambda m, x, y, p, n: lib.fab(m, x, y, norm=p, n_iter=n // 12)),
        rival("FAB-T", (1.0, 2.0, INF), lambda m, x, y, p, n: lib.fab(
            m, x, y, norm=p, n_iter=n // 30, targeted_restarts=True, restarts=9)),
        rival("DeepFool", (2.0, INF), lambda m, x, y, p, n: lib.df(m, x, y, norm=p), True),
        rival("SuperDeepFool", (2.0,), lambda m, x, y, p, n: lib.sdf(m, x, y), True),
        rival("trust region", (2.0, INF), lambda m, x, y, p, n: lib.tr(m, x, y, p=p, adaptive=True, iter=n // 4)),
    ]  # fmt: skip


def _foolbox(lib) -> list[Rival]:
    a = lib.attacks
    fmn = {0.0: a.L0FMNAttack, 1.0: a.L1FMNAttack, 2.0: a.L2FMNAttack, INF: a.LInfFMNAttack}
    deepfool = {2.0: a.L2DeepFoolAttack, INF: a.LinfDeepFoolAttack}

    def called(attack: Callable) -> Run:
        def run(m, x, y, p, n):
            return attack(p, n)(lib.PyTorchModel(m, bounds=(0, 1), device="cpu"), x, y, epsilons=None)[1]

        return run

    known = [
        Rival("foolbox", "DDN", (2.0,), called(lambda p, n: a.DDNAttack(steps=n // 2 - 1))),
        Rival("foolbox", "FMN", (0.0, 1.0, 2.0, INF), called(lambda p, n: fmn[p](steps=n // 2 - 1))),
        Rival("foolbox", "EAD", (1.0,), called(
            lambda p, n: a.EADAttack(binary_search_steps=4, steps=n // 12, decision_rule="L1"))),
        Rival("foolbox", "DeepFool", (2.0, INF), called(lambda p, n: deepfool[p]()), True),
    ]  # fmt: skip
    try:
        importlib.import_module("numba")
    except ImportError:
        print("foolbox's Brendel-Bethge is left out: it needs numba.")
        return known
    bethge = {
        0.0: a.L0BrendelBethgeAttack, 1.0: a.L1BrendelBethgeAttack, 2.0: a.L2BrendelBethgeAttack,
        INF: a.LinfinityBrendelBethgeAttack,
    }  # fmt: skip
    return [
        *known,
        Rival("foolbox", "Brendel-Bethge", tuple(bethge), called(lambda p, n: bethge[p](steps=n // 2 - 20))),
    ]


def _torchattacks(lib) -> list[Rival]:
    def fab(targeted):
        def run(m, x, y, p, n):
            steps = n // 30 if targeted else n // 12
            return lib.FAB(m, norm=f"L{LENGTH[p]}", steps=steps, eps=1e6, multi_targeted=targeted, n_classes=10)(x, y)

        return run

    return [
        Rival("torchattacks", "DeepFool", (2.0,), lambda m, x, y, p, n: lib.DeepFool(m)(x, y), True),
        Rival("torchattacks", "CW", (2.0,), lambda m, x, y, p, n: lib.CW(m, steps=n // 2)(x, y)),
        Rival("torchattacks", "FAB", (1.0, 2.0, INF), fab(False)),
        Rival("torchattacks", "FAB-T", (1.0, 2.0, INF), fab(True)),
    ]


class Counted(nn.Module):
    """A classifier that counts the rows sent through it, forward in :meth:`forward` and backward by a hook."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        # torchattacks asks for the device of a model's parameters
        self.unused = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.rows = 0

    def forward(self, x: Tensor) -> Tensor:
        z = self.function(x)
        self.rows += len(x)
        if z.requires_grad:
            z.register_hook(self._back)
        return z

    def _back(self, gradient: Tensor) -> None:
        self.rows += len(gradient)
