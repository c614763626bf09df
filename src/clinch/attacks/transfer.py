"""Transfer attacks: points that are made on other networks, and judged by the one that is attacked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clinch.attacks.core.arguments import Attacked, attack_method, check_norm, objective_of, radius_of, steps_of
from clinch.attacks.core.attack_query import Loss
from clinch.attacks.core.batches import along
from clinch.attacks.core.best_points import BestPoints, Progress
from clinch.attacks.core.classification import ClassQuery, Model
from clinch.attacks.core.differentiation import gradient_of
from clinch.attacks.core.draws import Draws
from clinch.attacks.core.losses import loss_of
from clinch.attacks.core.objective import AttackObjective
from clinch.attacks.core.restarts import never_blind
from clinch.attacks.core.result import AttackResult
from clinch.errors import NetworkError, ProblemError, UnsupportedByEngine
from clinch.geometry.directions import steepest_direction
from clinch.geometry.projection import project_into
from clinch.geometry.region import Region

#: of an input's random numbers: whether it is resized, to what size and where to, and its neighbours
CHANCE, SIZE, PLACE, NEIGHBOUR = 0, 1, 2, 3


@attack_method
def transfer(
    net: Attacked,
    x: Tensor | None = None,
    y: Tensor | None = None,
    *,
    eps: float | Tensor | None = None,
    norm: float = torch.inf,
    surrogates: nn.Module | Sequence[nn.Module] | None = None,
    steps: int = 10,
    step_size: float | Tensor | None = None,
    momentum: float = 1.0,
    nesterov: bool = False,
    scales: int = 1,
    diversity: float = 0.0,
    smallest: float = 0.9,
    kernel: int = 0,
    neighbours: int = 0,
    spread: float = 1.5,
    loss: str | None = None,
    target: Tensor | int | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    seed: int = 0,
    history: bool = False,
    progress: Progress | None = None,
) -> AttackResult:
    """Gradient steps on surrogates of the network, which itself is asked once, at the end.

    ``g ← μ·g + (∇L + v)/‖∇L + v‖₁,   z ← P(z − α·v(g))`` on the mean of the surrogates' logits. With μ alone it is
    MI-FGSM (Dong et al. 2018, arXiv 1710.06081); each further piece is an argument, and they combine:

    - ``nesterov``: the gradient where momentum leads, NI; ``scales=5``: the mean gradient at ``z/2^i``, SI (both Lin et
      al. 2020, arXiv 1908.06281).
    - ``diversity=0.5``: with that probability the image is made smaller, down to ``smallest``, at a random place, DI
      (Xie et al. 2019, arXiv 1803.06978).
    - ``kernel=15``: gradients blurred by a Gaussian of that side and a sixth of it as deviation, TI (Dong et al. 2019,
      arXiv 1904.02884).
    - ``neighbours=20``: v is by how much the mean gradient within ``spread·eps`` differed from that at z in the step
      before, VMI (Wang and He 2021, arXiv 2103.15571).

    Where we differ: images are resized by bilinear sampling with margins of zeros, and cross-entropy is followed
    through log-odds (see :data:`clinch.attacks.LOSSES`).

    Args:
        norm: 2 or ``cl.inf``.
        surrogates: networks with the same inputs and classes; None: the network itself, as an attack with gradients.
        steps: gradient steps.
        step_size: α, one or ``(B,)``; None: ``eps/steps``.
        momentum: μ.
        nesterov: see above, as for the five that follow.
        scales: images of so many scales.
        diversity: a probability; ``smallest`` the least size, as a share.
        smallest: see there.
        kernel: an odd number of pixels, 0 for none.
        neighbours: random points; ``spread`` of their cube, in eps.
        spread: see there.

    Returns:
        As of every attack inside a ball. Passes are those of the surrogates, each counted, and one of the network.

    Example:
        >>> transfer(net, x, y, eps=0.1, surrogates=model, nesterov=True, scales=5).success.double().mean()
        tensor(0.6250, dtype=torch.float64)
    """
    pieces = Pieces(momentum, nesterov, scales, diversity, smallest, kernel, neighbours, spread)
    pieces.check(steps)
    objective = objective_of(net, x, y, target=target, bounds=bounds, norm=norm)
    if not isinstance(query := objective.query, ClassQuery):
        raise UnsupportedByEngine("Surrogates are classifiers, and a problem has no class scores. Use pgd.")
    check_norm(objective, "A transfer attack", (2.0, torch.inf))
    pieces.check_shape(objective.x)
    radius, function = radius_of(objective, eps), loss_of(query, loss)
    size = radius / steps if step_size is None else steps_of(objective, step_size, radius)
    models = _models(query, surrogates, objective)
    best_points = BestPoints(objective, record=history, progress=progress, steps=steps)
    indices = objective.todo
    if len(indices):
        descent = _Descent(objective, models, function, pieces, radius[indices], objective.draws(seed).take(indices))
        z = descent.run(best_points, indices, objective.within(radius[indices], indices), size[indices], steps)
        best_points.update(z, indices, objective.look(z, indices))
    return best_points.result(radius)


@dataclass(frozen=True)
class Pieces:
    """What makes a point transfer; see :func:`transfer`."""

    momentum: float
    nesterov: bool
    scales: int
    diversity: float
    smallest: float
    kernel: int
    neighbours: int
    spread: float

    def check(self, steps: int) -> None:
        """Raise a ProblemError for what has no meaning."""
        if min(steps, self.scales) < 1 or self.neighbours < 0 or not self.momentum >= 0:
            raise ProblemError(
                f"steps={steps} and scales={self.scales} must be at least 1, neighbours={self.neighbours} and momentum="
                f"{self.momentum} at least 0."
            )
        if not (0 <= self.diversity <= 1 and 0 < self.smallest <= 1 and self.spread > 0):
            raise ProblemError(
                f"diversity={self.diversity} is a probability, smallest={self.smallest} a share above 0, at most 1, "
                f"and spread={self.spread} above 0."
            )
        if self.kernel < 0 or (self.kernel and self.kernel % 2 == 0):
            raise ProblemError(f"kernel={self.kernel} must be an odd number of pixels, or 0 for none.")

    def check_shape(self, x: Tensor) -> None:
        """Raise a ProblemError where only images have what is asked for."""
        if (self.diversity or self.kernel) and x.dim() != 4:
            raise ProblemError(
                f"diversity= and kernel= are for images (B, channels, height, width); x has shape {tuple(x.shape)}."
            )


class _Descent:
    """The gradients that runs follow.

    Args:
        objective: gives units and counts passes.
        models: the surrogates.
        loss: what is lowered; None: the margin.
        pieces: see there.
        radius: ``(A,)``.
        draws: ``(A,)``.
    """

    def __init__(
        self, objective: AttackObjective, models: list[Model], loss: Loss | None, pieces: Pieces, radius: Tensor,
        draws: Draws,
    ) -> None:  # fmt: skip
        self.objective, self.models, self.loss, self.pieces = objective, models, loss, pieces
        self.radius, self.draws = radius.to(objective.x), draws
        self._variance: Tensor | None = None

    def run(self, best_points: BestPoints, indices: Tensor, ball: Region, size: Tensor, steps: int) -> Tensor:
        """Where runs of inputs ``(A,)`` end after so many steps of sizes ``(A,)``."""
        z, p, momentum = self.objective.start[indices], self.objective.p, self.pieces.momentum
        step, average = along(size.to(z), z), torch.zeros_like(z)
        for k in range(steps):
            ahead = z - step * momentum * steepest_direction(average, p) if self.pieces.nesterov else z
            gradient = self.gradient(ahead, indices, k)
            best_points.note_gradient(gradient, indices)
            gradient = never_blind(gradient, k)
            length = gradient.flatten(1).abs().sum(1).clamp(min=torch.finfo(gradient.dtype).tiny)
            average = momentum * average + gradient / along(length, z)
            z = project_into(ball, z - step * steepest_direction(average, p))
            best_points.step()
        return z

    def gradient(self, z: Tensor, indices: Tensor, step: int) -> Tensor:
        """``(A, *input_shape)`` of step number ``step`` at points of inputs ``(A,)``."""
        draws = self.draws.at(step)
        plain = self._mean(z, indices, draws)
        found = plain if self._variance is None else plain + self._variance
        if self.pieces.neighbours:
            total, reach = torch.zeros_like(z), along(self.pieces.spread * self.radius, z)
            for k in range(self.pieces.neighbours):
                own = draws.at(NEIGHBOUR + k)
                total += self._mean(z + reach * own.at(NEIGHBOUR).symmetric(z), indices, own)
            self._variance = total / self.pieces.neighbours - plain
        return _blurred(found, self.pieces.kernel) if self.pieces.kernel else found

    def _mean(self, z: Tensor, indices: Tensor, draws: Draws) -> Tensor:
        """The mean gradient over scales."""
        point, values = z.detach().requires_grad_(), []
        with torch.enable_grad():
            x = self.objective.point(point, indices)
            for k in range(self.pieces.scales):
                values.append(self._value(x / 2**k, indices, draws.at(k)))
            total = torch.stack(values).mean(0)
        self.objective.count(indices, forward=len(self.models) * len(values), backward=len(self.models) * len(values))
        return gradient_of(total, point)

    def _value(self, x: Tensor, indices: Tensor, draws: Draws) -> Tensor:
        """The loss ``(A,)`` of the surrogates' mean logits."""
        x = _diverse(x, draws, self.pieces) if self.pieces.diversity else x
        query = self.objective.query
        assert isinstance(query, ClassQuery)
        logits = torch.stack([model(x.to(model.device, model.dtype)).to(self.objective.x) for model in self.models])
        answer = query.answer_from(logits.mean(0), indices)
        return answer.margin if self.loss is None else self.loss(answer, indices, torch.arange(len(x), device=x.device))


def _models(
    query: ClassQuery, surrogates: nn.Module | Sequence[nn.Module] | None, objective: AttackObjective
) -> list[Model]:
    """The surrogates, each of which takes the inputs and has the same classes."""
    if surrogates is None:
        return [query.model]
    given = [surrogates] if isinstance(surrogates, nn.Module) or not isinstance(surrogates, Sequence) else surrogates
    if not given:
        raise ProblemError("surrogates=[] is empty. Give networks, or leave it out to use the attacked one.")
    models, few = [Model(one, scores=True) for one in given], objective.todo[:1]
    for place, model in enumerate(models):
        with torch.no_grad():
            found = model(objective.point(objective.start[few], few).to(model.device, model.dtype))
        if found.shape != (len(few), query.classes):
            raise NetworkError(
                f"surrogates[{place}] returns shape {tuple(found.shape)} for {len(few)} inputs; expected "
                f"({len(few)}, {query.classes}), scores of the same classes."
            )
    return models


def _diverse(x: Tensor, draws: Draws, pieces: Pieces) -> Tensor:
    """Some images made smaller, at a random place on a ground of zeros."""
    size, place = draws.at(SIZE).uniform(x[:, 0, 0, 0]), draws.at(PLACE).symmetric(x[:, 0, 0, :1].expand(-1, 2))
    share = pieces.smallest + (1 - pieces.smallest) * size
    matrix = x.new_zeros(len(x), 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1 / share
    matrix[:, :, 2] = place * (1 - share).unsqueeze(1) / share.unsqueeze(1)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    smaller = F.grid_sample(x, grid, align_corners=False)
    chosen = draws.at(CHANCE).uniform(x[:, 0, 0, 0]) < pieces.diversity
    return torch.where(along(chosen, x), smaller, x)


def _blurred(gradient: Tensor, kernel: int) -> Tensor:
    """Each channel convolved with a Gaussian."""
    place = torch.arange(kernel, dtype=gradient.dtype, device=gradient.device) - kernel // 2
    row = torch.exp(-0.5 * (place / max(kernel / 6, 0.5)).square())
    window = torch.outer(row, row) / row.sum().square()
    channels = gradient.shape[1]
    return F.conv2d(gradient, window.expand(channels, 1, -1, -1), padding=kernel // 2, groups=channels)
