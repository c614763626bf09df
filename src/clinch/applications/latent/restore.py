"""Images that a decoder can make: reconstruct, denoise and inpaint a target by its latent input.

A decoder G turns a few latent numbers z into an image. What it can make of a target y is an optimisation of its input,

    ``minimise over z   (Σ_i w_i (G_i(z) − y_i)² + λ ‖z‖²) / Σ_i w_i``

with ``w_i = 1`` for the pixels that count (Bora et al. 2017, arXiv 1703.03208, equation 3; as a use of input
optimisation Lee et al. 2024, activation-descent regularisation). Where z has a standard normal prior, as behind a
variational autoencoder, and the image has noise of scale σ, the most probable z has ``λ = σ²``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clinch.applications.latent.descents import DESCENTS
from clinch.applications.latent.misfit import Misfit
from clinch.attacks.core.classification import Model
from clinch.attacks.core.draws import Draws, fingerprint
from clinch.errors import NetworkError, NonFiniteError, ProblemError, ShapeError
from clinch.modeling.model import SymbolicNetwork
from clinch.modeling.norms import norm
from clinch.modeling.problem import Minimize, Problem
from clinch.runtime.arguments import as_tensor, checked_range
from clinch.runtime.short import short_repr

#: latents that starts are chosen from
CANDIDATES = 512
#: λ where some pixels are missing: noise of scale .22, about what a decoder of digits leaves unexplained
INPAINT_PRIOR = 0.05


@dataclass(frozen=True, repr=False)
class Restored:
    """What a decoder makes of B targets.

    Attributes:
        image: ``(B, *output_shape)`` the decoder's own output.
        z: ``(B, *latent_shape)`` its latent input, in the decoder's dtype.
        error: ``(B,)`` mean squared difference from the target over the pixels that count, evaluated again in float64.
        starts: ``(B, S)`` the same with the prior's part, in the decoder's dtype, for the best point of every start.
        forward: ``(B,)`` rows sent forward, a tangent counting as one.
        backward: ``(B,)`` rows sent backward.
    """

    image: Tensor
    z: Tensor
    error: Tensor
    starts: Tensor
    forward: Tensor
    backward: Tensor

    __repr__ = short_repr


def reconstruct(
    decoder: nn.Module | SymbolicNetwork,
    target: Tensor,
    *,
    method: str = "gauss-newton",
    starts: int = 8,
    steps: int | None = None,
    counted: Tensor | None = None,
    prior: float = 0.0,
    limits: tuple[float, float] | None = None,
    latent_shape: int | tuple[int, ...] | None = None,
    start: Tensor | None = None,
    candidates: int = CANDIDATES,
    seed: int = 0,
) -> Restored:
    """Find the latent input whose image is the nearest to a target: ``min_z (‖w ⊙ (G(z) − y)‖² + λ‖z‖²) / Σ w``.

    All targets and all starts descend at once, and the best start of each target is returned. Starts are chosen first:
    of many standard normal latents, the same for all targets and decoded once, each target takes those that come the
    nearest to it.

    Args:
        decoder: ``nn.Module`` in evaluation mode, or what ``cl.load`` returned.
        target: y, ``(B, *output_shape)``.
        method: a key of :data:`clinch.applications.latent.descents.DESCENTS`.
        starts: descents for each target.
        steps: of each descent; None: the method's own number.
        counted: w, booleans ``(B, *output_shape)`` or ``(*output_shape)``; None: all pixels count.
        prior: λ, in squared pixels for a latent of one.
        limits: the smallest and the largest latent; None: none.
        latent_shape: of one latent input, or its length; an ``nn.Module`` needs it.
        start: ``(B, *latent_shape)`` where the first descent begins instead, such as an encoder's answer.
        candidates: latents to choose the starts from; 0: the first descent begins at zero, the others at random.
        seed: of the candidates.

    Raises:
        ClinchError: an argument that does not fit, in one line, before any gradient is spent.

    Example:
        >>> reconstruct(decoder, images, latent_shape=2).error.mean() < 1e-6
        tensor(True)
    """
    if method not in DESCENTS:
        raise ProblemError(f"method={method!r} is not known. Write one of: {', '.join(DESCENTS)}.")
    chosen = DESCENTS[method]
    steps = chosen.steps if steps is None else steps
    if starts < 1 or steps < 1 or candidates < 0:
        raise ProblemError(f"starts={starts} and steps={steps} must be at least 1, candidates={candidates} at least 0.")
    if not (prior >= 0 and math.isfinite(prior)):
        raise ProblemError(f"prior={prior} weighs the squared latents. Write a finite number >= 0.")
    target = as_tensor(target, "target", "a tensor (B, *output_shape)")
    misfit = _misfit(decoder, target, counted, prior, limits, latent_shape)
    z, rows = _starts(misfit, starts, start, candidates, seed)
    z = misfit.clip(chosen.descend(misfit, rows, z, steps))
    with torch.no_grad():
        value = misfit.value(z, rows).reshape(starts, -1)
    best = value.nan_to_num(nan=torch.inf).argmin(0)
    at = torch.arange(len(best), device=z.device)
    z = z.reshape(starts, len(best), *misfit.latent_shape)[best, at]
    return _checked(misfit, z, value.t().contiguous(), tuple(target.shape))


def denoise(
    decoder: nn.Module | SymbolicNetwork, target: Tensor, *, noise: float, method: str = "gauss-newton",
    starts: int = 8, steps: int | None = None, limits: tuple[float, float] | None = None,
    latent_shape: int | tuple[int, ...] | None = None, start: Tensor | None = None, seed: int = 0,
) -> Restored:  # fmt: skip
    """The most probable image behind a noisy one: :func:`reconstruct` with ``λ = σ²``.

    With normal noise of scale σ in every pixel and a standard normal z, ``−log p(z | y)`` is
    ``(‖G(z) − y‖² + σ²‖z‖²)/(2σ²)`` up to a constant.

    Args:
        decoder: see :func:`reconstruct`, also for what is not listed here.
        target: the noisy images, ``(B, *output_shape)``.
        noise: σ, in the unit of pixels.

    Raises:
        ClinchError: an argument that does not fit.

    Example:
        >>> denoise(decoder, noisy, noise=0.3, latent_shape=2).image.shape
        torch.Size([3, 1, 6, 6])
    """
    if not (noise > 0 and math.isfinite(noise)):
        raise ProblemError(f"noise={noise} is the scale of the noise in a pixel. Write a finite number above 0.")
    return reconstruct(
        decoder, target, method=method, starts=starts, steps=steps, prior=noise**2, limits=limits,
        latent_shape=latent_shape, start=start, seed=seed,
    )  # fmt: skip


def inpaint(
    decoder: nn.Module | SymbolicNetwork, target: Tensor, known: Tensor, *, prior: float = INPAINT_PRIOR,
    method: str = "gauss-newton", starts: int = 8, steps: int | None = None,
    limits: tuple[float, float] | None = None, latent_shape: int | tuple[int, ...] | None = None,
    start: Tensor | None = None, seed: int = 0,
) -> Restored:  # fmt: skip
    """Fill in what is missing of an image: :func:`reconstruct` from the known pixels alone, with a little prior.

    Args:
        decoder: see :func:`reconstruct`, also for what is not listed here.
        target: the images, ``(B, *output_shape)``; what stands in the missing pixels does not matter.
        known: booleans ``(B, *output_shape)`` or ``(*output_shape)``.
        prior: λ; without one the missing part may become anything that fits the rest.

    Raises:
        ClinchError: an argument that does not fit.

    Example:
        >>> inpaint(decoder, images, known, latent_shape=2).image.shape
        torch.Size([3, 1, 6, 6])
    """
    return reconstruct(
        decoder, target, method=method, starts=starts, steps=steps, counted=known, prior=prior, limits=limits,
        latent_shape=latent_shape, start=start, seed=seed,
    )  # fmt: skip


def closest(
    net: SymbolicNetwork, target: Tensor, *, limits: tuple[float, float] = (-3.0, 3.0), known: Tensor | None = None
) -> Problem:
    """The reconstruction as a problem whose solution carries a proof: ``min ‖w ⊙ (G(z) − y)‖₂`` over a latent box.

    ``problem.solve()`` returns a latent input and a bound that none of the box goes below; squared and divided by the
    number of pixels both are mean squared errors.

    Args:
        net: the decoder, from ``cl.load``.
        target: y, ``(*output_shape)`` or ``(B, *output_shape)``.
        limits: the smallest and the largest latent.
        known: booleans, the pixels that count; None: all.

    Raises:
        ProblemError, ShapeError: limits or targets that do not fit.

    Example:
        >>> closest(net, image).solve(time_limit=60).status.name
        'OPTIMAL'
    """
    if not isinstance(net, SymbolicNetwork):
        raise NetworkError(f"A proof reads the network as a graph, not a {type(net).__name__}. Pass cl.load(...).")
    low, high = _checked_limits(limits)
    x = net.input
    return Problem(Minimize(norm(net.output - target, 2, mask=known)), [x >= low, x <= high])


# --- arguments ----------------------------------------------------------------------------------------------------


def _misfit(
    decoder: nn.Module | SymbolicNetwork, target: Tensor, counted: Tensor | None, prior: float,
    limits: tuple[float, float] | None, latent_shape: int | tuple[int, ...] | None,
) -> Misfit:  # fmt: skip
    """The arguments of a descent, checked."""
    model = Model(decoder)
    if target.dim() < 2 or not len(target):
        raise ShapeError(f"target has shape {tuple(target.shape)}; expected (B, *output_shape), a batch of images.")
    if not bool(target.isfinite().all()):
        raise NonFiniteError("target holds NaN or infinity. Leave pixels out with counted= or known= instead.")
    shape = _latent_shape(model, latent_shape)
    _check_outputs(model, shape, tuple(target.shape[1:]))
    weights = torch.ones_like(target, dtype=torch.bool)
    if counted is not None:
        weights = as_tensor(counted, "counted", "a tensor of booleans")
        if weights.dtype != torch.bool or tuple(weights.shape) not in (tuple(target.shape), tuple(target.shape[1:])):
            raise ShapeError(
                f"The pixels that count have shape {tuple(weights.shape)} and dtype {weights.dtype}; expected booleans "
                f"{tuple(target.shape)} or {tuple(target.shape[1:])}."
            )
        weights = weights.expand_as(target)
        empty = (~weights.flatten(1).any(1)).nonzero()
        if len(empty):
            raise ProblemError(f"Of target {int(empty[0])} no pixel counts. Leave at least one.")
    low, high = (-math.inf, math.inf) if limits is None else _checked_limits(limits)
    like = torch.zeros((), dtype=model.dtype, device=model.device)
    return Misfit(model, target.to(like), weights.to(like), shape, float(prior), low, high)


def _latent_shape(model: Model, given: int | tuple[int, ...] | None) -> tuple[int, ...]:
    shape = None if given is None else (given,) if isinstance(given, int) else tuple(given)
    if isinstance(model.net, SymbolicNetwork):
        if shape is not None and shape != model.net.input_shape:
            raise ShapeError(f"latent_shape is {shape}, but the decoder takes {model.net.input_shape}. Leave it out.")
        return model.net.input_shape
    if shape is None:
        raise ProblemError("latent_shape is missing. Write the decoder's number of latents, such as latent_shape=16.")
    if not shape or any(not isinstance(n, int) or n < 1 for n in shape):
        raise ShapeError(f"latent_shape={given} is no shape. Write whole numbers from 1 on.")
    return shape


def _check_outputs(model: Model, latent_shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """One latent of zeros tells whether decoder, latents and targets fit."""
    zero = torch.zeros(1, *latent_shape, dtype=model.dtype, device=model.device)
    try:
        with torch.no_grad():
            output = model(zero)
    except RuntimeError as error:
        message = str(error).splitlines()[0]
        raise ShapeError(f"The decoder does not take latents of shape {latent_shape}: {message}.") from None
    if tuple(output.shape) != (1, *wanted):
        raise ShapeError(
            f"target has images of shape {wanted}, the decoder makes {tuple(output.shape[1:])}. Reshape the targets."
        )


def _checked_limits(limits: tuple[float, float]) -> tuple[float, float]:
    return checked_range(limits, "limits", "(-3.0, 3.0)")


# --- starts and result --------------------------------------------------------------------------------------------


def _starts(misfit: Misfit, starts: int, start: Tensor | None, candidates: int, seed: int) -> tuple[Tensor, Tensor]:
    """Latents ``(S·B, n)``, all first starts before all second ones, and the target of each."""
    count, size = len(misfit.target), misfit.size
    if candidates:  # the same ones for every target
        generator = torch.Generator().manual_seed(seed)
        crowd = torch.randn(max(candidates, starts), size, generator=generator, dtype=torch.float64)
        crowd = misfit.clip(crowd.to(misfit.target))
        z = crowd[misfit.nearest(crowd, starts)].transpose(0, 1).contiguous()
    else:
        draws = Draws.of(fingerprint(misfit.target), seed)
        z = draws.normal(misfit.target.new_zeros(count, starts, size)).transpose(0, 1).contiguous()
        z[0] = 0.0
    if start is not None:
        start = as_tensor(start, "start", "latents (B, *latent_shape)")
        expected = (count, *misfit.latent_shape)
        if tuple(start.shape) != expected or not bool(start.isfinite().all()):
            raise ShapeError(f"start has shape {tuple(start.shape)}; expected finite latents {expected}.")
        z[0] = start.detach().to(z).flatten(1)
    rows = torch.arange(count, device=z.device).repeat(starts)
    return misfit.clip(z.flatten(0, 1)), rows


def _checked(misfit: Misfit, z: Tensor, starts: Tensor, shape: tuple[int, ...]) -> Restored:
    """The images by the decoder itself, and their errors in float64."""
    with torch.no_grad():
        image = misfit.model(z)
        off = misfit.model.finest(z).flatten(1) - misfit.target.double()
    error = (misfit.weights.double() * off**2).sum(1) / misfit.count.double()
    return Restored(image.reshape(shape), z, error, starts, misfit.forward.clone(), misfit.backward.clone())
