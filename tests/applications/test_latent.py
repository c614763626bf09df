"""Latent inputs of decoders: every descent against closed forms, limits, masks, priors, and the proof beside them."""

import itertools
import math

import pytest
import torch
from torch import nn

import clinch as cl
from clinch.applications.latent import closest, denoise, inpaint, reconstruct
from clinch.applications.latent.descents import DESCENTS
from clinch.applications.latent.misfit import Misfit
from clinch.attacks.core.classification import Model
from clinch.demo import digits
from clinch.demo.autoencoder import train_autoencoder
from clinch.errors import ClinchError, NetworkError, NonFiniteError, ProblemError, ShapeError

METHODS = list(DESCENTS)


def linear(latents=3, shape=(2, 4), seed=0):
    """An affine decoder, whose best latents are a linear least-squares problem; and its matrix and offset."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(latents, math.prod(shape)).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 1, generator=generator)
    return nn.Sequential(layer, nn.Unflatten(1, shape)).eval(), layer.weight.detach(), layer.bias.detach()


def targets(count, shape=(2, 4), seed=1):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kinked(seed=0):
    """Two latents, two hidden ReLU layers, four outputs, float64."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.8, generator=generator)
    return model


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("prior", [0.0, 0.7])
def test_a_linear_decoder_has_a_closed_form(method, prior):
    decoder, matrix, offset = linear()
    y = targets(5)
    counted = torch.rand(5, 2, 4, generator=torch.Generator().manual_seed(2)) < 0.8
    found = reconstruct(
        decoder, y, method=method, counted=counted, prior=prior, latent_shape=3, starts=2, candidates=0, steps=600
    )
    for b in range(5):
        w = counted[b].flatten().double()
        normal = matrix.T @ (w.unsqueeze(1) * matrix) + prior * torch.eye(3, dtype=torch.float64)
        z = torch.linalg.solve(normal, matrix.T @ (w * (y[b].flatten() - offset)))
        off = w * (matrix @ z + offset - y[b].flatten())
        error = float((off**2).sum() / w.sum())
        value = error + prior * float((z**2).sum() / w.sum())
        assert float(found.starts[b].min()) == pytest.approx(value, rel=1e-4)
        tolerance = 1e-4 if method in ("gauss-newton", "lbfgs") else 3e-2
        assert torch.allclose(found.z[b], z, atol=tolerance)
        assert float(found.error[b]) == pytest.approx(error, rel=1e-2)


@pytest.mark.parametrize("method", METHODS)
def test_limits_hold_and_are_reached(method):
    decoder, matrix, offset = linear()
    y = 5 * targets(4)
    found = reconstruct(decoder, y, method=method, latent_shape=3, limits=(-0.4, 0.3), starts=2, steps=400)
    assert float(found.z.min()) >= -0.4 and float(found.z.max()) <= 0.3
    # the minimum over the box: the best of the minima of its 27 faces that lie inside
    for b in range(4):
        best = math.inf
        for face in itertools.product((None, -0.4, 0.3), repeat=3):
            free = [i for i in range(3) if face[i] is None]
            z = torch.tensor([0.0 if v is None else v for v in face], dtype=torch.float64)
            if free:
                rest = y[b].flatten() - offset - matrix @ z
                z[free] = torch.linalg.lstsq(matrix[:, free], rest).solution
            if bool((z >= -0.4 - 1e-12).all() and (z <= 0.3 + 1e-12).all()):
                best = min(best, float(((matrix @ z + offset - y[b].flatten()) ** 2).mean()))
        assert float(found.error[b]) == pytest.approx(best, rel=1e-3)


# activation descent draws noise and probes for all lanes together
@pytest.mark.parametrize("method", [method for method in METHODS if method != "activation descent"])
def test_lanes_do_not_depend_on_their_neighbours(method):
    decoder, y = kinked(), targets(6, (4,))
    z = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = reconstruct(decoder, y, method=method, latent_shape=2, start=z, starts=1, steps=40)
    alone = [
        reconstruct(decoder, y[b : b + 1], method=method, latent_shape=2, start=z[b : b + 1], starts=1, steps=40)
        for b in range(6)
    ]
    assert torch.allclose(together.error, torch.cat([a.error for a in alone]), rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_decoders_own_images_are_found_again(method):
    decoder = kinked(3)
    with torch.no_grad():
        z = torch.randn(8, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        y = decoder(z)
    found = reconstruct(decoder, y, method=method, latent_shape=2, starts=8)
    scale = float(y.var(0).mean())
    assert float(found.error.median()) < {"gradient descent": 1e-3, "adam": 1e-3}.get(method, 1e-7) * scale
    # the best start is the one returned, and what is returned is the decoder's own
    assert torch.allclose(found.starts.amin(1), found.error, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(found.image, decoder(found.z))
    again = reconstruct(decoder, y, method=method, latent_shape=2, starts=8)
    assert torch.equal(again.z, found.z)


def test_passes_are_counted():
    asked = torch.zeros(3, dtype=torch.long)

    class Counting(nn.Module):
        def forward(self, z):
            asked[0] += len(z)
            return z.repeat(1, 2)

    y = targets(1, (4,))
    found = reconstruct(Counting().eval(), y, method="adam", latent_shape=2, starts=3, steps=5, candidates=0)
    assert int(found.forward) == 3 * 6 and int(found.backward) == 3 * 6
    # besides the six: one latent to compare shapes, the values of all starts, the image and its float64 check; a batch
    # is filled to four rows
    assert int(asked[0]) == 4 * (6 + 1 + 1 + 2)


def test_the_jacobian_is_the_true_one():
    decoder, y = kinked(), targets(3, (4,))
    misfit = Misfit(Model(decoder), y, torch.ones_like(y), (2,), 0.3, -math.inf, math.inf)
    z = torch.randn(3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = torch.arange(3)
    value, gradient = misfit.slope(z, rows)
    model = misfit.residuals(z, rows)
    assert torch.allclose(model.value, value) and torch.allclose(2 * model.gradient, gradient)
    for b in range(3):
        jacobian = torch.autograd.functional.jacobian(decoder, z[b])
        assert torch.allclose(model.normal[b], (jacobian.T @ jacobian + 0.3 * torch.eye(2)) / 4)


def test_denoising_and_inpainting_beat_the_damage():
    x = digits("train").x
    decoder = train_autoencoder(x, latents=6, widths=(64,), epochs=40, linear=True).decoder
    clean = digits("test").x[:40]
    generator = torch.Generator().manual_seed(0)
    noisy = clean + 0.3 * torch.randn(clean.shape, generator=generator)
    plain = reconstruct(decoder, noisy, latent_shape=6)
    restored = denoise(decoder, noisy, noise=0.3, latent_shape=6)

    def error(image):
        return float((image - clean).square().mean())

    assert error(restored.image) < 0.6 * error(noisy) and error(restored.image) < error(plain.image)
    known = torch.ones(8, 8, dtype=torch.bool)
    known[5:] = False
    spoiled = torch.where(known, clean, torch.rand(clean.shape, generator=generator))
    filled = inpaint(decoder, spoiled, known, latent_shape=6)
    other = inpaint(decoder, torch.where(known, clean, 0.0), known, latent_shape=6)
    assert torch.equal(filled.image, other.image)  # what stands in the missing pixels does not matter
    assert error(filled.image) < 0.6 * error(torch.where(known, clean, clean[:, :5].mean()))


def test_value_and_bound_enclose_the_best_over_a_latent_box():
    decoder = kinked(2)
    net = cl.load(decoder, input_shape=(2,))
    y = 2 * targets(1, (4,), seed=5)
    known = torch.tensor([True, True, True, False])
    solution = closest(net, y[0], limits=(-2.0, 2.0), known=known).solve(time_limit=20)
    grid = torch.cartesian_prod(*2 * (torch.linspace(-2, 2, 401, dtype=torch.float64),))
    with torch.no_grad():
        least = float(((decoder(grid) - y)[:, :3]).norm(dim=1).min())
    found = reconstruct(net, y, counted=known, limits=(-2.0, 2.0), starts=16)
    attained = float(found.error) ** 0.5 * 3**0.5
    assert solution.bound <= least + 1e-12 and solution.bound <= attained * (1 + 1e-9)
    assert attained == pytest.approx(float(solution.value), rel=2e-3) and solution.gap < 2e-3
    assert least == pytest.approx(attained, rel=5e-2)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"method": "newton"}, ProblemError, "method='newton' is not known. Write one of: gradient descent"),
        ({"starts": 0}, ProblemError, "starts=0"),
        ({"steps": 0}, ProblemError, "steps=0"),
        ({"candidates": -1}, ProblemError, "candidates=-1"),
        ({"prior": -1.0}, ProblemError, "prior=-1.0"),
        ({"prior": math.nan}, ProblemError, "prior=nan"),
        ({"limits": (1.0, -1.0)}, ProblemError, "limits=.* is no range"),
        ({"latent_shape": None}, ProblemError, "latent_shape is missing"),
        ({"latent_shape": 0}, ShapeError, "is no shape"),
        ({"latent_shape": 4}, ShapeError, "does not take latents of shape"),
        ({"target": targets(2, (3, 4))}, ShapeError, "the decoder makes"),
        ({"target": torch.full((1, 2, 4), math.nan)}, NonFiniteError, "NaN"),
        ({"target": torch.zeros(8)}, ShapeError, "a batch of images"),
        ({"counted": torch.ones(2, 4)}, ShapeError, "expected booleans"),
        ({"counted": torch.zeros(2, 4, dtype=torch.bool)}, ProblemError, "no pixel counts"),
        ({"start": torch.zeros(3, 3)}, ShapeError, "start has shape"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, says):
    decoder, _, _ = linear()
    with pytest.raises(error, match=says.replace("(", r"\(")) as caught:
        reconstruct(decoder, **{"target": targets(2), "latent_shape": 3, **arguments})
    assert isinstance(caught.value, ClinchError) and "\n" not in str(caught.value)


def test_bad_decoders_and_noise_are_refused():
    decoder, _, _ = linear()
    with pytest.raises(NetworkError, match="training mode"):
        reconstruct(linear()[0].train(), targets(1), latent_shape=3)
    with pytest.raises(ProblemError, match="noise=0"):
        denoise(decoder, targets(1), noise=0.0, latent_shape=3)
    with pytest.raises(NetworkError, match="reads the network as a graph"):
        closest(decoder, targets(1)[0])
    net = cl.load(decoder, input_shape=(3,))
    with pytest.raises(ShapeError, match="Leave it out"):
        reconstruct(net, targets(1), latent_shape=2)
    with pytest.raises(ProblemError, match=r"limits=.* is no range"):
        closest(net, targets(1)[0], limits=(1.0, 1.0))
