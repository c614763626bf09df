"""Activation descent (ADR-GD) over the latent inputs of a ReLU decoder, as in Yu and Gao 2024 on generative models."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from clinch.applications.latent.misfit import Misfit
from clinch.attacks.activation_steps import PatternRuns, PatternSettings
from clinch.attacks.core.draws import Draws, fingerprint
from clinch.attacks.core.gradient_steps import cosine
from clinch.attacks.gated_network import GatedNetwork, relu_layers
from clinch.modeling.model import SymbolicNetwork, load

#: Euclidean length of a step, first and last, in standard deviations of a latent element times √n
LENGTH = (0.2, 0.002)
#: perturbations of the patterns, and steps after which they are read from the latent anew
SETTINGS = PatternSettings(pattern_step=0.25, multiplier=0.5, multiplier_step=1e-4, noise=1e-3, rest=5, reread=16)


def activation_descent(misfit: Misfit, rows: Tensor, z: Tensor, steps: int) -> Tensor:
    """Steps on the latent and on variables for the pattern of the decoder's ReLUs, tied together by a Lagrangian.

    The misfit of the surrogate network takes the place of the loss in :mod:`clinch.attacks.activation_descent`'s
    formulas (Yu and Gao 2024, arXiv 2406.00494, equations 6 to 10). We differ in the length of the steps, which shrinks
    along half a cosine, and in keeping the best latent under the decoder itself.
    """
    net = misfit.model.net
    graph = load(net, None if isinstance(net, SymbolicNetwork) else misfit.latent_shape).graph
    shape = (-1, *misfit.latent_shape)

    def lowered(values: Mapping[int, Tensor], latent: Tensor) -> Tensor:
        return misfit.of_output(values[graph.output].flatten(1), latent.flatten(1), rows)

    surrogate = GatedNetwork(graph, [0, graph.output], relu_layers(graph, None))
    lanes = PatternRuns(surrogate, z.reshape(shape), SETTINGS, Draws.of(fingerprint(misfit.target), 0).runs(rows))
    best, least = z.clone(), z.new_full((len(z),), torch.inf)
    forward, backward = lanes.passes
    unit = misfit.size**0.5
    for k in range(steps):
        seen = lanes.look()
        value = lowered(seen, lanes.z).detach()
        better = value < least
        best = torch.where(better.unsqueeze(1), lanes.z.detach().flatten(1), best)
        least = torch.where(better, value, least)
        size = z.new_full((len(z),), unit * cosine(*LENGTH, k, steps))
        lanes.step(seen, lambda values: lowered(values, values[0]), size, misfit.clip)
        misfit.note(rows, forward, backward)
    with torch.no_grad():
        value = misfit.value(lanes.z.flatten(1), rows)
    misfit.note(rows, 1, 0)
    return torch.where((value < least).unsqueeze(1), lanes.z.flatten(1), best)
