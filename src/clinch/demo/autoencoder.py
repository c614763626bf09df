"""A small ReLU variational autoencoder, trained in seconds: the decoder that examples and benchmarks look into."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Autoencoder(NamedTuple):
    """Both halves in evaluation mode.

    Attributes:
        encoder: images ``(N, *shape)`` to ``(N, 2·latents)``, the means first, then the log-variances.
        decoder: latents ``(N, latents)`` to images ``(N, *shape)`` in [0, 1], or near it where it ends linearly.
    """

    encoder: nn.Sequential
    decoder: nn.Sequential

    def encode(self, x: Tensor) -> Tensor:
        """The means ``(N, latents)`` of images ``(N, *shape)``, without gradients."""
        with torch.no_grad():
            return self.encoder(x).chunk(2, 1)[0]


def train_autoencoder(
    x: Tensor, *, latents: int = 16, widths: tuple[int, ...] = (400,), epochs: int = 4, batch: int = 128,
    learning_rate: float = 1e-3, linear: bool = False, seed: int = 0,
) -> Autoencoder:  # fmt: skip
    """Minimise ``reconstruction + KL(q(z | x) ‖ N(0, 1))`` with Adam (Kingma and Welling 2014, arXiv 1312.6114).

    The reconstruction is the binary cross-entropy of the pixels behind a sigmoid; for a decoder that ends linearly, so
    that it is linear on each of its pieces, ``10·‖G(z) − x‖²``.

    Args:
        x: images ``(N, *shape)`` with pixels in [0, 1].
        latents: n.
        widths: hidden ReLU layers of the encoder; the decoder has them in the opposite order.
        epochs: passes over the images.
        batch: images of one step.
        learning_rate: of Adam.
        linear: whether the decoder ends without a sigmoid.
        seed: of weights, order and noise.

    Example:
        >>> decoder = train_autoencoder(images[:, None], latents=2, widths=(16,), linear=True, epochs=1).decoder
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, decoder = _halves(tuple(x.shape[1:]), latents, widths)
        parameters = [*encoder.parameters(), *decoder.parameters()]
        optimiser = torch.optim.Adam(parameters, lr=learning_rate)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(batch):
                loss = _loss(encoder, decoder, x[rows], linear)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    if not linear:
        decoder.append(nn.Sigmoid())
    for half in (encoder, decoder):
        half.eval().requires_grad_(False)
    return Autoencoder(encoder, decoder)


def _halves(shape: tuple[int, ...], latents: int, widths: tuple[int, ...]) -> tuple[nn.Sequential, nn.Sequential]:
    pixels = torch.Size(shape).numel()

    def dense(sizes: tuple[int, ...]) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for fed, width in pairwise(sizes):
            layers += [nn.Linear(fed, width), nn.ReLU()]
        return layers[:-1]

    encoder = nn.Sequential(nn.Flatten(), *dense((pixels, *widths, 2 * latents)))
    decoder = nn.Sequential(*dense((latents, *widths[::-1], pixels)), nn.Unflatten(1, shape))
    return encoder, decoder


def _loss(encoder: nn.Module, decoder: nn.Module, x: Tensor, linear: bool) -> Tensor:
    mean, log_variance = encoder(x).chunk(2, 1)
    output = decoder(mean + torch.randn_like(mean) * (log_variance / 2).exp())
    if linear:
        misfit = 10 * (output - x).square().flatten(1).sum(1)
    else:
        misfit = nn.functional.binary_cross_entropy_with_logits(output, x, reduction="none").flatten(1).sum(1)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
    return (misfit + divergence).mean()
