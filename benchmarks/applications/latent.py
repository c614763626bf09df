"""Reconstruction through the latent input of a ReLU decoder: every descent, beside the encoder and SciPy's L-BFGS-B.

Two decoders of variational autoencoders with 16 latents, trained here on MNIST in seconds (`clinch.demo.autoencoder`):
one hidden layer, where the problem is easy, and two, where descents end in different places. The first 50 test images.
The figures to reach were measured on another decoder of the same kind, trained in 17 s, whose encoder had an error of
.01538: Adam .0113, Adam with 8 starts .01117 in 1.7 s, L-BFGS-B with 4 starts .01108 in 17 s.

    python -m benchmarks latent [--images 50] [--seed 0]

Writes benchmarks/results/latent.md. CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import scipy.optimize
import torch

from benchmarks.common.page import RESULTS, write_page
from clinch.applications.latent import reconstruct
from clinch.demo.autoencoder import Autoencoder, train_autoencoder
from clinch.io.data import mnist

TAKES = "15 minutes"
DECODERS = {
    "16-400-784, 4 epochs": {"widths": (400,), "epochs": 4},
    "16-128-256-784, 6 epochs": {"widths": (256, 128), "epochs": 6},
}
#: name, method, starts, steps, candidates
OURS = (
    ("gradient descent, from 0", "gradient descent", 1, 300, 0),
    ("gradient descent, 8 starts", "gradient descent", 8, 300, 0),
    ("Adam, from 0", "adam", 1, 200, 0),
    ("Adam, 8 starts", "adam", 8, 200, 0),
    ("Adam, 8 chosen starts", "adam", 8, 200, 512),
    ("activation descent, from 0", "activation descent", 1, 300, 0),
    ("activation descent, 8 chosen starts", "activation descent", 8, 300, 512),
    ("batched L-BFGS, from 0", "lbfgs", 1, 150, 0),
    ("batched L-BFGS, 4 starts", "lbfgs", 4, 150, 0),
    ("batched L-BFGS, 8 chosen starts", "lbfgs", 8, 150, 512),
    ("Gauss-Newton, 1 chosen start", "gauss-newton", 1, 25, 512),
    ("Gauss-Newton, 4 chosen starts", "gauss-newton", 4, 25, 512),
    ("Gauss-Newton, 8 chosen starts (the default)", "gauss-newton", 8, 25, 512),
)


def timed(work: Callable[[], float]) -> tuple[float, float]:
    begin = time.process_time()
    return work(), time.process_time() - begin


def scipy_lbfgs(coder: Autoencoder, x: torch.Tensor, starts: int, seed: int) -> float:
    """SciPy's L-BFGS-B, one image and one start after the other."""
    rng, errors = np.random.default_rng(seed), []
    for image in x:

        def value(z: np.ndarray, image: torch.Tensor = image) -> tuple[float, np.ndarray]:
            point = torch.tensor(z, dtype=torch.float32).unsqueeze(0).requires_grad_()
            error = (coder.decoder(point)[0] - image).square().mean()
            (gradient,) = torch.autograd.grad(error, point)
            return float(error.detach()), gradient[0].double().numpy()

        first = [np.zeros(16), *rng.normal(size=(starts - 1, 16))]
        found = [scipy.optimize.minimize(value, z, jac=True, method="L-BFGS-B").fun for z in first]
        errors.append(min(found))
    return float(np.mean(errors))


def table(name: str, coder: Autoencoder, x: torch.Tensor, seconds: float, seed: int) -> list[str]:
    with torch.no_grad():
        encoder = float((coder.decoder(coder.encode(x)) - x).square().mean())
    lines = [
        f"\n## Decoder {name}, trained in {seconds:.0f} s\n",
        "| | mean squared error | of the encoder's | CPU seconds | rows forward | backward |",
        "|---|---|---|---|---|---|",
        f"| the encoder's own answer | {encoder:.5f} | 1 | | | |",
    ]
    error, spent = timed(lambda: scipy_lbfgs(coder, x, 4, seed))
    lines.append(f"| SciPy L-BFGS-B, 4 starts | {error:.5f} | {error / encoder:.3f} | {spent:.1f} | | |")
    for title, method, starts, steps, candidates in OURS:
        begin = time.process_time()
        found = reconstruct(
            coder.decoder, x, method=method, starts=starts, steps=steps, candidates=candidates, latent_shape=16,
            seed=seed,
        )  # fmt: skip
        spent, error = time.process_time() - begin, float(found.error.mean())
        passes = f"{float(found.forward.double().mean()):.0f} | {float(found.backward.double().mean()):.0f}"
        lines.append(f"| {title} | {error:.5f} | {error / encoder:.3f} | {spent:.2f} | {passes} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, x = mnist("train").x, mnist("test").x[: options.images]
    lines = [
        f"First {options.images} MNIST test images, 16 latents, starts of seed {options.seed}; one thread. "
        "Chosen starts: the nearest of 512 random latents, decoded once for all images.",
        "\nMeasured elsewhere on another decoder of the same kind (trained in 17 s, encoder .01538): gradient descent "
        ".0120, Adam .0113, Adam with 8 starts .01117 in 1.7 s, SciPy's L-BFGS-B with 4 starts .01108 in 17 s: .72 of "
        "the encoder's error. Absolute errors belong to their decoders; the share of the encoder's compares.",
    ]
    for name, settings in DECODERS.items():
        begin = time.process_time()
        coder = train_autoencoder(train, seed=options.seed, **settings)
        lines += table(name, coder, x, time.process_time() - begin, options.seed)
    write_page(RESULTS / "latent.md", "Reconstruction through a decoder's latent input", lines)


if __name__ == "__main__":
    main()
