"""Restore digits through a small ReLU decoder: reconstructed, denoised and filled in, with a proof beside one of them.

    python examples/latent.py [--images 6] [--epochs 60] [--time-limit 20] [--mnist] [--figure latent.png]

The decoder of a variational autoencoder is trained first: on the 8 × 8 digits of scikit-learn, with --mnist on MNIST
(20 seconds for 4 epochs). The proof is of a second decoder with three latents and no sigmoid: no latent in [−3, 3]³
comes nearer to the image than the bound.
"""

import argparse

import torch

import clinch as cl
from clinch.applications.latent import closest, denoise, inpaint, reconstruct, restored_figure
from clinch.demo import digits
from clinch.demo.autoencoder import train_autoencoder
from clinch.figures import save
from clinch.io.data import mnist


def main() -> None:
    """Train, restore, print the errors, draw, prove."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--time-limit", type=float, default=20.0)
    parser.add_argument("--mnist", action="store_true")
    parser.add_argument("--figure", default="latent.png")
    options = parser.parse_args()
    train, x = (mnist(s).x if options.mnist else digits(s).x.unsqueeze(1) for s in ("train", "test"))
    x = x[: options.images]
    coder = train_autoencoder(train, latents=16 if options.mnist else 8, epochs=options.epochs)
    decoder, shape = coder.decoder, {"latent_shape": 16 if options.mnist else 8}

    noisy = (x + 0.4 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    known = torch.ones(x.shape[1:], dtype=torch.bool)
    known[:, known.shape[1] // 2 :] = False
    methods = {"gradient\ndescent": "gradient descent", "Adam": "adam", "Gauss-Newton": "gauss-newton"}
    columns = {"original": x, "encoder": decoder(coder.encode(x))}
    columns |= {t: reconstruct(decoder, x, method=m, **shape).image for t, m in methods.items()}
    columns |= {"noisy": noisy} | {f"{t} ": denoise(decoder, noisy, noise=0.4, method=m, **shape).image
                                   for t, m in methods.items()}  # fmt: skip
    columns |= {"half of it": torch.where(known, x, 0.5), "filled in": inpaint(decoder, x, known, **shape).image}
    for title, images in columns.items():
        print(f"{' '.join(title.split()):<18} mean squared error {float((images - x).square().mean()):.5f}")
    heading = "Images restored through the latent input of a decoder"
    save(restored_figure(columns, truth="original", groups=(1, 5, 9), heading=heading), options.figure)

    small = train_autoencoder(digits("train").x, latents=3, widths=(16,), epochs=options.epochs, linear=True).decoder
    solution = closest(cl.load(small, input_shape=(3,)), digits("test").x[0]).solve(time_limit=options.time_limit)
    value, bound = solution.value**2 / 64, solution.bound**2 / 64
    print(f"proof: error {value:.5f}, none below {bound:.5f}, {solution.status.name}")


if __name__ == "__main__":
    main()
