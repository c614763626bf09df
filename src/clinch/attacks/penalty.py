"""The penalty attack: conditions as hinge losses beside the squared distance, and its preset, Carlini and Wagner's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from clinch.attacks.core.arguments import Attacked, attack_method, nearest_objective_of
from clinch.attacks.core.attack_query import ANY, Answer, Losses
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Progress, line_search_to_input
from clinch.attacks.core.gradient_steps import cosine
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.result import AttackResult
from clinch.attacks.core.settings import AttackSettings, Fields
from clinch.attacks.minimum_norm.candidates import nearest_candidates
from clinch.errors import ProblemError
from clinch.geometry.elementwise import atanh
from clinch.geometry.norms import norm_of
from clinch.geometry.projection import project_into
from clinch.geometry.region import Region
from clinch.solver.settings import Positive, Share


@dataclass(frozen=True)
class PenaltySettings(AttackSettings):
    """Of :func:`penalty`.

    Attributes:
        decay: Adam's averages of gradients, and of their ``squares`` (Kingma and Ba 2015, arXiv 1412.6980).
        tiny: the smallest root that Adam divides by.
        last_step: the step at the end, as a share of the first.
        apart: factor between neighbouring weights as long as none has failed, or none has succeeded.
        beyond: how far beyond the goal the hinge losses aim, relative to the candidate at the clean input.
    """

    decay: Share = 0.9
    squares: Share = 0.999
    tiny: Positive = 1e-12
    last_step: Share = 0.02
    apart: Positive = 3.0
    beyond: Share = 1e-4


@attack_method
def penalty(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    norm: float = 2.0,
    steps: int = 120,
    rounds: int = 4,
    weights: int = 3,
    first_weight: float | None = None,
    step_size: float | None = None,
    confidence: float = 0.0,
    branches: int | None = 16,
    change_of_variables: bool = False,
    settings: PenaltySettings | Fields | None = None,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """Minimise ``‖z − x‖₂² + c·Σ_i max(L_i(z), −κ)`` by Adam, and search over c, several at once.

    L₁ is the margin to one other class, or of a problem one atom of its largest clause ("leave through the top of
    neuron 3"); L₂ the worst of all other clauses. It is ``L_m + λ_f·L_f + λ_d·‖x − x0‖²`` of the monitor problem with
    ``λ_f = 1`` and ``λ_d = 1/c``, for labels objective f₆ of Carlini and Wagner 2017 (arXiv
    1608.04644, section V). Each round tries ``weights`` values of c, spread in equal ratios over the interval between
    the largest that failed and the smallest that succeeded. Ours: without a first weight c starts at ``2d/‖∇L₁‖``,
    right where L₁ is linear and d its distance; the step decays by cosine, from a fifth of what the linearised solution
    moves any element; the last points are drawn back along the ray to x. To try each class or atom, however many, wrap
    it: :func:`clinch.attacks.decomposition`.

    Args:
        net: a classifier; or a problem whose objective is a Euclidean distance, then without x and y.
        norm: 2, as the penalty is a squared Euclidean distance.
        steps: of Adam in each round.
        rounds: of the search over c.
        weights: values of c in each round.
        first_weight: c at first; None: for each input by linearisation.
        step_size: Adam's; None: for each input by linearisation.
        confidence: κ, in the units of the losses.
        candidates: L₁ is one class or atom after the other of so many, those that linearisation at x says to be the
            nearest; None: whichever is smallest at each step, which ends where that one cannot be moved.
        change_of_variables: optimise w with ``z = (l+u)/2 + (u−l)/2·tanh w`` instead of clipping to the range; elements
            without limits stay as they are.

    Example:
        >>> nearest_found = penalty(problem, steps=50, rounds=3).distance
    """
    numbers = PenaltySettings.of(settings)
    if min(steps, rounds, weights, branches or 1) < 1:
        raise ProblemError(
            f"steps={steps}, rounds={rounds}, weights={weights} and branches={branches} must be at least 1."
        )
    for name, number in (("first_weight", first_weight), ("step_size", step_size)):
        if number is not None and not number > 0:
            raise ProblemError(f"{name}={number} must be positive.")
    objective = nearest_objective_of(net, x, y, target=target, bounds=bounds, norm=norm)
    if objective.norm is not norm_of(2):
        raise ProblemError(f"The penalty is a squared Euclidean distance, not norm={objective.p:g}. Write norm=2.")
    best_points = BestPoints(objective, settings=numbers, record=history, progress=progress, steps=rounds * steps)
    scale = _scale(best_points, branches, first_weight, step_size)
    search = _Search.around(scale.weight)
    for _ in range(rounds if len(objective.todo) else 0):
        c = search.next(weights, numbers.apart)
        reached = _adam(best_points, scale, c, steps, confidence, change_of_variables)
        search.learn(c, reached)
    line_search_to_input(best_points)
    return best_points.result()


@attack_method
def carlini_wagner(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    norm: float = 2.0,
    steps: int = 1000,
    rounds: int = 9,
    first_weight: float = 1e-3,
    step_size: float = 0.01,
    confidence: float = 0.0,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """:func:`penalty` as published: ``z = ½(tanh w + 1)``, one c at a time from 10⁻³ on, 9 rounds.

    ``min ‖z − x‖₂² + c·max(max_{c≠t} f_c − f_t, −κ)`` (Carlini and Wagner 2017, arXiv 1608.04644, sections V and VI).
    Until it succeeds c grows by 10, then it is bisected, in ratios. Ours: the decaying step, the pull back along the
    ray, untargeted runs on the margin, and a clean input just outside the range of tanh is moved inside by 10⁻⁶.
    Arguments, result and errors: see :func:`penalty`.

    Example:
        >>> carlini_wagner(net, x[:2], y[:2], steps=100, rounds=4, first_weight=0.1).distance
        tensor([0.6433, 0.2478], dtype=torch.float64)
    """
    return penalty(
        net, x, y, norm=norm, steps=steps, rounds=rounds, weights=1, first_weight=first_weight, step_size=step_size,
        confidence=confidence, branches=None, change_of_variables=True, target=target, bounds=bounds, history=history,
        progress=progress,
    )  # fmt: skip


@dataclass
class _Scale:
    """What linearisation says of A attempts: row, candidate, weight c, Adam's step, how far beyond the goal to aim."""

    indices: Tensor
    candidate: Tensor
    weight: Tensor
    step: Tensor
    beyond: Tensor

    def repeated(self, count: int) -> _Scale:
        """Each attempt so many times."""
        return _Scale(*(t.repeat_interleave(count) for t in vars(self).values()))


def _scale(
    best_points: BestPoints, branches: int | None, first_weight: float | None, step_size: float | None
) -> _Scale:
    s = best_points.objective.numbers(PenaltySettings)
    objective = best_points.objective
    near = nearest_candidates(objective, objective.todo, branches or 1)
    best_points.note_gradient(near.steepness.unsqueeze(1), near.indices)
    one = torch.ones_like(near.length)
    weight = torch.where(near.met, 2 * near.length / torch.where(near.met, near.steepness, one), one)
    reach = near.move.abs().amax(1)
    step = torch.where(near.met & (reach > 0), 0.2 * reach, 0.01 * one)
    candidate = torch.full_like(near.candidate, ANY) if branches is None else near.candidate
    weight = weight if first_weight is None else first_weight * one
    return _Scale(
        near.indices, candidate, weight, step if step_size is None else step_size * one, s.beyond * near.value.abs()
    )


@dataclass
class _Search:
    """log c of A attempts: the largest that failed, the smallest that reached the goal, and where to begin."""

    low: Tensor
    high: Tensor
    middle: Tensor

    @staticmethod
    def around(weight: Tensor) -> _Search:
        return _Search(torch.full_like(weight, -torch.inf), torch.full_like(weight, torch.inf), weight.log())

    def next(self, count: int, apart: float) -> Tensor:
        """Weights ``(A, count)``, in increasing order."""
        place = torch.arange(1, count + 1, dtype=self.low.dtype, device=self.low.device)
        # one weight alone climbs by tens, as published
        gap = torch.log(torch.tensor(apart if count > 1 else 10.0, dtype=self.low.dtype))
        failed, worked = self.low.isfinite().unsqueeze(1), self.high.isfinite().unsqueeze(1)
        low, high, middle = (t.unsqueeze(1) for t in (self.low, self.high, self.middle))
        first = middle + gap * (place - (count + 1) / 2)
        inside = low + (high - low) * place / (count + 1)
        one_sided = torch.where(failed, low + gap * place, high - gap * place.flip(0))
        return torch.where(failed & worked, inside, torch.where(failed | worked, one_sided, first)).exp()

    def learn(self, c: Tensor, reached: Tensor) -> None:
        """Narrow the interval: ``reached (A, count)`` says which weights led to the goal."""
        log = c.log()
        self.high = torch.minimum(self.high, torch.where(reached, log, torch.inf).amin(1))
        failed = torch.where(~reached & (log < self.high.unsqueeze(1)), log, -torch.inf).amax(1)
        self.low = torch.maximum(self.low, failed)


def _adam(
    best_points: BestPoints, scale: _Scale, c: Tensor, steps: int, confidence: float, change_of_variables: bool
) -> Tensor:  # fmt: skip
    """One run of Adam for each attempt and weight ``(A, W)``; which of them reached the goal, ``(A, W)``."""
    s = best_points.objective.numbers(PenaltySettings)
    objective, count = best_points.objective, c.shape[1]
    runs = scale.repeated(count)
    indices, size = runs.indices, along(runs.step, objective.x)
    region, loss = objective.region.take(indices), _hinge(runs.candidate, c.flatten(), confidence + runs.beyond)
    to_input, to_variable = _variables(region) if change_of_variables else (None, None)
    z = project_into(region, objective.x[indices])
    v = z if to_variable is None else to_variable(z)
    mean, square = torch.zeros_like(v), torch.zeros_like(v)
    reached = torch.zeros(len(indices), dtype=torch.bool, device=v.device)
    for k in range(steps):
        inner = None
        if to_input is not None:
            z, inner = to_input(v)
            z = project_into(region, z)
        slopes = objective.slopes(z, indices, loss)
        best_points.note_gradient(slopes.gradients, indices)
        best_points.update(z, indices, slopes.margin)
        reached |= slopes.margin < 0
        gradient = slopes.gradients[:, 0] + _pull(objective, z, indices)
        gradient = gradient if inner is None else gradient * inner
        mean = s.decay * mean + (1 - s.decay) * gradient
        square = s.squares * square + (1 - s.squares) * gradient.square()
        root = (square / (1 - s.squares ** (k + 1))).sqrt() + s.tiny
        v = v - cosine(1.0, s.last_step, k, steps) * size * (mean / (1 - s.decay ** (k + 1))) / root
        if to_input is None:
            v = z = project_into(region, v)
        best_points.step()
    return reached.reshape(-1, count)


def _hinge(candidate: Tensor, weight: Tensor, beyond: Tensor) -> Losses:
    """``c·Σ_i max(L_i, −κ)`` of each run, up to a constant."""

    def loss(answer: Answer, which: Tensor) -> Tensor:
        hinges = (answer.conditions(candidate[which]) + beyond[which].unsqueeze(1)).clamp(min=0)
        return weight[which].unsqueeze(1) * hinges.sum(1, keepdim=True)

    return loss


def _pull(objective: AttackObjective, z: Tensor, indices: Tensor) -> Tensor:
    """The gradient of the squared distance."""
    delta = 2 * (z - objective.x[indices])
    return delta if objective.weights is None else delta * objective.weights[indices].square()


def _variables(region: Region) -> tuple[Callable[[Tensor], tuple[Tensor, Tensor]], Callable[[Tensor], Tensor]]:
    """``w -> z`` with its derivative, and ``z -> w``."""
    limited = region.lower.isfinite() & region.upper.isfinite() & (region.lower < region.upper)
    middle = torch.where(limited, (region.lower + region.upper) / 2, 0.0)
    half = torch.where(limited, (region.upper - region.lower) / 2, 1.0)

    def to_input(w: Tensor) -> tuple[Tensor, Tensor]:
        bent = w.tanh()
        return torch.where(limited, middle + half * bent, w), torch.where(limited, half * (1 - bent.square()), 1.0)

    def to_variable(z: Tensor) -> Tensor:
        inside = ((z - middle) / half).clamp(-1 + 1e-6, 1 - 1e-6)
        return torch.where(limited, atanh(inside), z)

    return to_input, to_variable
