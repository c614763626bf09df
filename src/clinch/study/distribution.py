"""Robustness distributions: the critical radius of every image, its quantiles, and a log-normal fit with its test.

The critical radius of an image is the smallest at which another class is reached (Bosman, Berger, Hoos and van Rijn
2025, "Robustness Distributions in Neural Network Verification", JAIR). There a verifier is asked at a list of radii;
here every image has an interval ``[proven, found]``, and each statement holds for both ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clinch.errors import ProblemError

if TYPE_CHECKING:
    from clinch.study.evaluation import Evaluation

#: resamples of the images for confidence, and of the fit for its test
RESAMPLES = 1000
#: shares of the quantiles that are printed
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Quantile:
    """A quantile of the critical radii: an interval that holds it for these images, and one for their population.

    Attributes:
        share: of the images that lie below.
        proven: of the bounds; found: of the distances.
        low: lower, and high: upper end of a 95 % interval over images drawn anew with replacement (the percentile
            bootstrap of Efron 1979), the lower of the bounds, the upper of the distances.
    """

    share: float
    proven: float
    found: float
    low: float
    high: float


@dataclass(frozen=True)
class LogNormal:
    """``log r ~ N(mu, sigma²)``, and whether the radii look like it.

    Attributes:
        mu: mean of the logarithms; sigma: their standard deviation.
        statistic: the largest distance between the fit and the distribution of the radii (Kolmogorov and Smirnov).
        p: share of samples of the fit, fitted anew, with a larger statistic (Lilliefors 1967, by simulation): a small
            one speaks against the fit.
    """

    mu: float
    sigma: float
    statistic: float
    p: float


@dataclass(frozen=True)
class Distribution:
    """The critical radii of the images that are classified correctly.

    Attributes:
        proven: ``(N,)`` sorted bounds; found: ``(N,)`` sorted distances, infinity where none is known.
        gap: mean of ``(found − proven)/found`` over the images that have a distance.
        closed: share of the images whose relative gap is at most 1e-3.
        quantiles: at :data:`SHARES`.
        fit: of the distances found, None where fewer than three are known.
    """

    proven: Tensor
    found: Tensor
    gap: float
    closed: float
    quantiles: tuple[Quantile, ...]
    fit: LogNormal | None

    def __str__(self) -> str:
        closed = f"{100 * self.closed:.4g} % closed to .1 %"
        lines = [f"images   {len(self.found)}, mean relative gap {100 * self.gap:.3g} %, {closed}"]
        for q in self.quantiles:
            between = f"{q.proven:.5g} .. {q.found:.5g}" if q.found > q.proven else f"{q.found:.5g}"
            lines.append(f"{100 * q.share:>3.0f} %    {between}   (95 % over images: {q.low:.5g} .. {q.high:.5g})")
        if self.fit is not None:
            f = self.fit
            verdict = "speaks against it" if f.p < 0.05 else "does not speak against it"
            lines.append(f"fit      log-normal, mean of logarithms {f.mu:.4g}, deviation {f.sigma:.4g}")
            lines.append(f"test     Lilliefors {f.statistic:.3g}, p = {f.p:.3g}: {verdict}")
        return "\n".join(lines)


def distribution(evaluation: Evaluation, *, shares: tuple[float, ...] = SHARES, seed: int = 0) -> Distribution:
    """The robustness distribution of a study of distances.

    Args:
        evaluation: of :func:`clinch.study.evaluate` without ``eps``, or of :func:`clinch.study.open_run`.
        shares: of the quantiles.
        seed: of the resamples.

    Raises:
        ProblemError: a study at one radius, or no image that is classified correctly.

    Example:
        >>> evaluation = cl.study.evaluate(net, "digits", limit=8, time_limit=20)
        >>> len(cl.study.distribution(evaluation).found)
        8
    """
    if evaluation.template.eps is not None:
        raise ProblemError("A study at one radius has no distribution of radii. Leave eps out.")
    known = evaluation.known
    proven, found = known.bound[known.correct], known.value[known.correct]
    if not len(found):
        raise ProblemError("No image is classified correctly, so that there are no radii. Look at the model and data.")
    finite = found.isfinite()
    gaps = torch.where(finite, (found - proven) / found, 1.0)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(found), (RESAMPLES, len(found)), generator=generator)
    return Distribution(
        proven.sort().values, found.sort().values, float(gaps.mean()), float((gaps <= 1e-3).double().mean()),
        tuple(_quantile(share, proven, found, drawn) for share in shares),
        _fit(found[finite], generator) if int(finite.sum()) >= 3 else None,
    )  # fmt: skip


def _at(share: float, values: Tensor) -> Tensor:
    """The smallest value that so large a share of the last axis does not exceed."""
    place = min(values.shape[-1] - 1, max(0, math.ceil(share * values.shape[-1]) - 1))
    return values.sort(-1).values[..., place]


def _quantile(share: float, proven: Tensor, found: Tensor, drawn: Tensor) -> Quantile:
    low, high = _at(share, proven[drawn]), _at(share, found[drawn])
    return Quantile(
        share, float(_at(share, proven)), float(_at(share, found)), float(_at(0.025, low)), float(_at(0.975, high))
    )


def _statistic(logarithms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, deviation and Kolmogorov-Smirnov statistic of rows ``(R, n)``."""
    n = logarithms.shape[1]
    mean, deviation = logarithms.mean(1, keepdim=True), logarithms.std(1, keepdim=True).clamp(min=1e-300)
    normal = torch.special.ndtr((logarithms.sort(1).values - mean) / deviation)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    worst = torch.maximum((steps[1:] - normal).amax(1), (normal - steps[:-1]).amax(1))
    return mean[:, 0], deviation[:, 0], worst


def _fit(radii: Tensor, generator: torch.Generator) -> LogNormal:
    mean, deviation, statistic = (float(t[0]) for t in _statistic(radii.log().unsqueeze(0)))
    # the statistic of a fit does not depend on its mean and deviation
    drawn = torch.randn(RESAMPLES, len(radii), generator=generator, dtype=torch.float64)
    p = float((_statistic(drawn)[2] >= statistic).double().mean())
    return LogNormal(mean, deviation, statistic, p)
