"""Which image classifiers of timm load, are attacked, and have a bound's rules in every layer.

Random weights, those of last layers that begin at zero and the statistics of batch norm too; small images. Every
network is loaded, which compares it with the module and with itself in float64; projected gradient descent attacks one
image. The needed pieces of timm do without torchvision, which it asks for: where that is absent, names that stand for
nothing take its place.

    pip install timm
    python -m benchmarks timm_models [--only WORD]

Writes benchmarks/results/timm_models.md.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import sys
import time
import types
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import clinch as cl
from benchmarks.common.page import RESULTS, table, write_page
from clinch.errors import ClinchError
from clinch.network.support import supports

TAKES = "20 minutes"
CLASSES = 10
RADIUS, STEPS = 8 / 255, 5


class Architecture(NamedTuple):
    """The height of an image, and what :func:`timm.create_model` is told beside the name."""

    size: int
    options: dict[str, Any]


def _sized(size: int, **options: Any) -> Architecture:
    """One that must know its images' size."""
    return Architecture(size, {"img_size": size, **options})


def _any(size: int, **options: Any) -> Architecture:
    """One that takes images of all sizes."""
    return Architecture(size, options)


ARCHITECTURES: dict[str, Architecture] = {
    "resnet18": _any(32),
    "resnet26": _any(32),
    "seresnet18": _any(32),
    "ecaresnet26t": _any(32),
    "skresnet18": _any(32),
    "res2net50_14w_8s": _any(64),
    "nf_resnet26": _any(32),
    "dm_nfnet_f0": _any(32),
    "vgg11_bn": _any(32, mlp_ratio=1 / 16),
    "densenet121": _any(32),
    "mobilenetv2_050": _any(64),
    "mobilenetv3_small_050": _any(64),
    "efficientnet_b0": _any(64),
    "ghostnet_050": _any(64),
    "repvgg_a0": _any(32),
    "regnetx_002": _any(32),
    "regnety_002": _any(32),
    "convnext_atto": _any(32),
    "edgenext_xx_small": _any(64),
    "inception_v3": _any(80),
    "xception41": _any(64),
    "darknet53": _any(64),
    "cspresnet50": _any(64),
    "hrnet_w18_small": _any(64),
    "dla34": _any(64),
    "poolformer_s12": _any(64),
    "mobilevit_xxs": _any(64),
    "mixer_s32_224": _sized(64),
    "resmlp_12_224": _sized(64),
    "gmlp_ti16_224": _sized(64),
    "vit_tiny_patch16_224": _sized(64),
    "deit_tiny_distilled_patch16_224": _sized(64),
    "swin_tiny_patch4_window7_224": _sized(64, window_size=4),
    "coat_lite_tiny": _sized(64),
    "levit_128s": _sized(224),
}


class Absent:
    """Stands for a class of torchvision that nothing here is an instance of."""


def _stand_in(name: str, **content: Any) -> None:
    module = types.ModuleType(name)
    vars(module).update(content, __path__=[])
    sys.modules[name] = module


@functools.cache
def models() -> Any:
    """timm; without torchvision its models alone, and the constants of its data."""
    if importlib.util.find_spec("torchvision") is None:
        found = importlib.util.find_spec("timm")
        if found is None or found.origin is None:
            raise SystemExit("timm is not installed: pip install timm.")
        for name in ("torchvision", "torchvision.ops"):
            _stand_in(name)
        _stand_in("torchvision.ops.misc", FrozenBatchNorm2d=Absent)
        constants: dict[str, Any] = {}
        exec((Path(found.origin).parent / "data" / "constants.py").read_text(encoding="utf-8"), constants)
        _stand_in("timm.data", **{name: value for name, value in constants.items() if name.isupper()})
    return importlib.import_module("timm")


def made(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """A network in evaluation mode with random weights, and the shape of an image."""
    architecture = ARCHITECTURES[name]
    torch.manual_seed(0)
    model = models().create_model(name, num_classes=CLASSES, **architecture.options).eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d) and part.running_mean is not None:
            part.running_mean.uniform_(-0.1, 0.1)
            part.running_var.uniform_(0.8, 1.2)  # type: ignore[union-attr]
        if isinstance(part, nn.Linear) and not bool(part.weight.any()):
            part.weight.data.normal_(0, 0.02)  # a last layer that begins at zero
    return model, (3, architecture.size, architecture.size)


def attacked(net: cl.Network, x: Tensor) -> tuple[float, float]:
    """Margin of the network's own class at an image, and at the worst input that a few steps find."""
    label = net.graph.forward(x)[net.graph.output].argmax(1)

    def margin(z: Tensor) -> float:
        scores = net.graph.forward(z)[net.graph.output]
        own = scores.gather(1, label[:, None])
        return float((own - scores.scatter(1, label[:, None], -torch.inf)).amin())

    found = cl.attacks.pgd(net, x, label, eps=RADIUS, steps=STEPS)
    return margin(x), margin(found.x)


def row(name: str) -> tuple[list[Any], bool, bool]:
    """A row of the table, whether the network loads and is attacked, and whether it has all rules."""
    began = time.process_time()
    model, shape = made(name)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    about = [name, f"{shape[1]}", f"{size:.1f}"]
    try:
        net = cl.load(model, shape, name=name)
        layers = supports(net)
        loaded = time.process_time() - began
        x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(1))
        before, after = attacked(net, x)
    except ClinchError as error:
        return [*about, None, None, None, None, str(error)], False, False
    missing = sorted({layer.operator for layer in layers if not (layer.interval and layer.relaxation)})
    lower = after < before
    said = ", ".join(missing) or "–"
    return [*about, len(layers), f"{loaded:.1f}", f"{before:.3g}", f"{after:.3g}", said], lower, not missing


def main() -> int:
    """Count over the list and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="architectures whose name holds this word")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    only = options.only
    names = [only] if only in ARCHITECTURES else [name for name in ARCHITECTURES if only in name]
    rows, attacks, complete = [], 0, 0
    for name in names:
        found, works, ruled = row(name)
        rows.append(found)
        attacks, complete = attacks + works, complete + ruled
        print(*found, flush=True)
    columns = ["architecture", "pixels", "million weights", "layers", "CPU s to load", "margin", "attacked", "no rules"]
    lines = [
        f"Of {len(names)} architectures {attacks} load and are attacked (ℓ∞ 8/255, {STEPS} steps lower the margin of "
        f"the network's own class), {complete} have rules for interval bounds and CROWN in every layer.", "",
        *table(columns, rows),
    ]  # fmt: skip
    print(f"{attacks} of {len(names)} attacked, {complete} with all rules")
    if not only:
        write_page(RESULTS / "timm_models.md", "Classifiers of timm that load and are attacked", lines, ["timm"])
    return 0 if attacks == len(names) else 1
