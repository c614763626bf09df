"""The iteration of activation descent: primal steps on inputs and pattern variables, a dual step on the multiplier.

For L runs at once, on any objective of the surrogate's activations. See :func:`activation_descent` for the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.attacks.core.batches import along
from clinch.attacks.core.draws import Draws
from clinch.attacks.gated_network import GatedNetwork, probes_for
from clinch.errors import ProblemError
from clinch.geometry.directions import steepest_direction
from clinch.geometry.elementwise import sigmoid

#: offset inside the sigmoid, so that a neuron at the threshold is on
OFFSET = 1e-6
#: how far a pattern variable starts from the threshold 0.5, and how far it may go
START, REACH = 0.01, 0.2
#: limits of the multiplier
LEAST, MOST = 0.2, 10.0
#: consistency loss up to which the multiplier is lowered
SATISFIED = 1e-2
#: least squared length of a normal, in means of its layer
SHORTEST = 1e-3
#: longest gradient that is followed as it is; longer ones are scaled down to it
LONGEST = 1.0


@dataclass(frozen=True)
class PatternSettings:
    """How pattern variables are optimised; the published values are the presets below.

    Attributes:
        pattern_step: step size of the pattern variables.
        multiplier: the first c.
        multiplier_step: rate of the dual ascent on c.
        relief: what c is lowered by where the patterns are consistent.
        noise: standard deviation of the perturbation of pattern gradients.
        quiet: length of a layer's gradient up to which it is perturbed.
        rest: steps between two perturbations of a layer.
        reread: read the patterns from the input anew every so many steps; None: never.
        sharpness: slope α of the sigmoid.
        probes: random directions by which the lengths of the neurons' normals are estimated in each step.
        memory: weight of the estimates of the steps before.
        output_moves_patterns: ablation M1: whether the objective's gradient moves the patterns.
        consistency_moves_input: ablation M2: whether the consistency loss moves the input.
        normalise: ablation M3: whether pre-activations and objective are divided by the lengths of their normals.
        perturb: ablation M4: whether pattern gradients are perturbed.

    Raises:
        ProblemError: a number without meaning.
    """

    pattern_step: float = 1.0
    multiplier: float = 1.0
    multiplier_step: float = 1e-2
    relief: float = 1e-2
    noise: float = 0.1
    quiet: float = 1e-4
    rest: int = 25
    reread: int | None = None
    sharpness: float = 2000.0
    probes: int = 4
    memory: float = 0.8
    output_moves_patterns: bool = True
    consistency_moves_input: bool = True
    normalise: bool = True
    perturb: bool = True

    def __post_init__(self) -> None:
        if self.probes < 1 or not 0 <= self.memory < 1 or not (self.pattern_step > 0 and self.sharpness > 0):
            raise ProblemError(
                f"probes={self.probes} must be at least 1, memory={self.memory} in [0, 1), pattern_step="
                f"{self.pattern_step} and sharpness={self.sharpness} positive."
            )
        if self.reread is not None and self.reread < 1:
            raise ProblemError(f"reread={self.reread} is no number of steps. Write 1 or more, or None for never.")


#: small and large random networks, classifiers, and adversarially trained ones (Yu and Gao 2024, appendix C)
SMALL = PatternSettings()
LARGE = PatternSettings(pattern_step=1.25, multiplier_step=1e-4, noise=0.35, quiet=1e-2)
CLASSIFIER = PatternSettings(0.25, 0.5, 1e-4, relief=1e-3, noise=1e-4, quiet=1e-5, rest=5, reread=16)
ROBUST_CLASSIFIER = PatternSettings(0.25, 0.5, 1e-4, relief=1e-3, noise=1e-3, quiet=1e-5, rest=5, reread=16)

#: what is to become small, ``(L,)``, in terms of all activations of the surrogate
Lowered = Callable[[Mapping[int, Tensor]], Tensor]


class PatternRuns:
    """L runs: where they are, their pattern variables and multipliers.

    Args:
        surrogate: the network with switches.
        z: ``(L, *input_shape)`` where runs begin.
        settings: of the pattern variables.
        draws: ``(L,)`` of perturbations and probes.
        norm: in which steps of the input are as long as they may be; None: Euclidean, shorter where the gradient is.

    Attributes:
        z: ``(L, *input_shape)``.
        patterns: ``(L, *shape)`` for each gate, below 0.5 where the neuron counts as on.
        multiplier: ``(L,)`` c.
    """

    def __init__(
        self, surrogate: GatedNetwork, z: Tensor, settings: PatternSettings, draws: Draws,
        norm: float | None = None,
    ) -> None:  # fmt: skip
        self.surrogate, self.settings, self.z, self.norm = surrogate, settings, z.detach(), norm
        self.patterns: dict[int, Tensor] = {}
        self.multiplier = z.new_full((len(z),), settings.multiplier)
        self._draws = draws
        self._normals: dict[int, Tensor] = {}
        self._since = torch.zeros(len(surrogate.gates), len(z), dtype=torch.long, device=z.device)
        self._count = 0

    def keep(self, which: Tensor) -> None:
        """Drop the other runs."""
        if bool(which.all()):
            return
        self.z, self.multiplier, self._since = self.z[which], self.multiplier[which], self._since[:, which]
        self._draws = self._draws.take(which)
        self.patterns = {i: s[which] for i, s in self.patterns.items()}
        self._normals = {i: n[which] for i, n in self._normals.items()}

    @property
    def passes(self) -> tuple[int, int]:
        """Rows that one look and one step send forward and backward, for each run."""
        if not self.surrogate.gates:
            return 2, 1
        measured = min(self.settings.probes, self.z.shape[1:].numel()) if self.settings.normalise else 0
        return 2 + measured, 2

    def look(self) -> dict[int, Tensor]:
        """Activations of the network itself where runs are; gradients flow to z."""
        self.z = self.z.detach().requires_grad_()
        with torch.enable_grad():
            return self.surrogate.evaluate(self.z)

    def step(
        self, activations: Mapping[int, Tensor], lowered: Lowered, size: Tensor, project: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """One step of all runs.

        Args:
            activations: what :meth:`look` returned.
            lowered: to be made small.
            size: ``(L,)`` length of a step of the input.
            project: brings points back to where they must stay.

        Returns:
            ``(L, *input_shape)`` the objective's gradient on the input, before it is scaled.
        """
        settings, gates = self.settings, self.surrogate.gates
        before = {i: activations[self.surrogate.before(i)] for i in gates}
        every = settings.reread
        if not self.patterns or (every is not None and self._count and self._count % every == 0):
            self.patterns = {i: 0.5 - START * value.detach().sign() for i, value in before.items()}
        patterns = {i: s.detach().requires_grad_() for i, s in self.patterns.items()}
        downhill = self._objective_gradients(patterns, lowered)
        slope = downhill[0]
        if settings.normalise:
            length = _length(slope)
            scale = 1 / torch.where(length > 0, length, 1.0)
            downhill = [along(scale, g) * g for g in downhill]
        consistency, pull = self._consistency_gradients(before, patterns)
        weight = self.multiplier
        toward = downhill[0] + along(weight, slope) * pull[0] * settings.consistency_moves_input
        with torch.no_grad():
            self.z = project(self.z.detach() - along(size, slope) * self._direction(toward))
            for k, i in enumerate(gates):
                own = downhill[1 + k] * settings.output_moves_patterns
                gradient = self._perturbed(k, _shortened(own + along(weight, own) * pull[1 + k]))
                moved = patterns[i].detach() - settings.pattern_step * gradient
                self.patterns[i] = moved.clamp(0.5 - REACH, 0.5 + REACH)
            risen = weight + settings.multiplier_step * consistency
            self.multiplier = torch.where(consistency <= SATISFIED, weight - settings.relief, risen).clamp(LEAST, MOST)
        self._count += 1
        return slope

    def _objective_gradients(self, patterns: dict[int, Tensor], lowered: Lowered) -> list[Tensor]:
        """On the input and on each gate's patterns; keeps what the surrogate's normals measure."""
        settings = self.settings
        with torch.enable_grad():
            point = self.z.detach().requires_grad_()
            on = {i: 1 - sigmoid(settings.sharpness * (s - 0.5 + OFFSET)) for i, s in patterns.items()}
            values = self.surrogate.forward(point, on)
            value = lowered(values)
        gradients = _gradients(value, [point, *patterns.values()])
        if settings.normalise and self.surrogate.gates:
            self._measure({i: v.detach() for i, v in values.items()}, {i: a.detach() for i, a in on.items()})
        return gradients

    def _measure(self, values: Mapping[int, Tensor], switches: Mapping[int, Tensor]) -> None:
        """Average the squared lengths of the neurons' normals over the steps."""
        shape = tuple(self.z.shape[1:])
        probes = probes_for(shape, self.settings.probes, self._draws.at(self._count), self.z)
        found = self.surrogate.squared_normals(values, switches, probes)
        exact = self.z.shape[1:].numel() <= self.settings.probes
        old = 0.0 if exact else self.settings.memory
        for i, squares in found.items():
            self._normals[i] = squares if i not in self._normals else old * self._normals[i] + (1 - old) * squares

    def _consistency_gradients(
        self, before: Mapping[int, Tensor], patterns: dict[int, Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """``Σ_i C_i`` and its gradients on the input and on each gate's patterns."""
        total = self.z.new_zeros(len(self.z))
        with torch.enable_grad():
            for i, value in before.items():
                if self.settings.normalise:
                    value = value * _inverse_length(self._normals[self.surrogate.before(i)])
                off, on = (patterns[i] - 0.5).relu(), (0.5 - patterns[i]).relu()
                wrong = (value.relu() * off).flatten(1).amax(1) + ((-value).relu() * on).flatten(1).amax(1)
                total = total + wrong
        return total.detach(), _gradients(total, [self.z, *patterns.values()])

    def _direction(self, gradient: Tensor) -> Tensor:
        """Uphill, at most of length 1."""
        if self.norm is None:
            return _shortened(gradient)
        return steepest_direction(gradient, max(2.0, self.norm))

    def _perturbed(self, gate: int, gradient: Tensor) -> Tensor:
        """A layer's gradient, with noise where it is short and has not had any for a while."""
        settings, since = self.settings, self._since[gate]
        due = (self._count - since >= settings.rest) & (_length(gradient) <= settings.quiet)
        if not settings.perturb or not bool(due.any()):
            return gradient
        self._since[gate] = torch.where(due, self._count, since)
        noise = self._draws.at(self._count).at(gate).normal(gradient)
        return gradient + along(settings.noise * due.to(gradient), gradient) * noise


def _gradients(value: Tensor, points: list[Tensor]) -> list[Tensor]:
    if not value.requires_grad:
        return [torch.zeros_like(p) for p in points]
    found = torch.autograd.grad(value.nan_to_num().sum(), points, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g.nan_to_num(0.0, 0.0, 0.0) for g, p in zip(found, points)]


def _inverse_length(squares: Tensor) -> Tensor:
    """``1/n`` for ``n² (L, *shape)``, those of neurons cut off from the input limited by the others of their layer."""
    mean = squares.flatten(1).mean(1)
    return torch.maximum(squares, along(SHORTEST * torch.where(mean > 0, mean, 1.0), squares)).rsqrt()


def _length(gradient: Tensor) -> Tensor:
    return torch.linalg.vector_norm(gradient.flatten(1), dim=1)


def _shortened(gradient: Tensor) -> Tensor:
    """Scaled down to length 1 where it is longer."""
    return gradient / along(_length(gradient).clamp(min=LONGEST), gradient)
