"""The fully connected CRF against a mean field written out pair by pair, and the lattice against direct sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from segtasks.errors import ConfigError
from segtasks.inference.config import Crf
from segtasks.inference.crf import refine
from segtasks.inference.lattice import Lattice


def scene(height: int, width: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are right on average and smeared, and an image of three flat regions with some noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    region = ((x > width // 2) + 2 * ((y > height // 3) & (x < width // 3))) % classes
    colors = random.integers(0, 256, (classes, 3))
    image = np.clip(colors[region] + random.normal(0, 2, (height, width, 3)), 0, 255).astype(np.uint8)
    logits = 2.0 * np.eye(classes)[region].transpose(2, 0, 1) + random.normal(0, 1.5, (classes, height, width))
    return torch.from_numpy(logits.astype(np.float32))[None], torch.from_numpy(image)[None]


def mean_field(logits: np.ndarray, image: np.ndarray, crf: Crf) -> np.ndarray:
    """Equations of the paper in float64, every pair of pixels written out."""
    classes, height, width = logits.shape
    y, x = np.mgrid[:height, :width].reshape(2, -1).astype(np.float64)
    rgb = image.reshape(-1, 3).astype(np.float64)
    apart = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    unlike = ((rgb[:, None] - rgb[None]) ** 2).sum(2)
    kernels = [
        (crf.bilateral_weight, np.exp(-apart / (2 * crf.bilateral_xy**2) - unlike / (2 * crf.bilateral_rgb**2))),
        (crf.spatial_weight, np.exp(-apart / (2 * crf.spatial_xy**2))),
    ]
    unary = log_softmax(logits.reshape(classes, -1).astype(np.float64), axis=0)
    q = np.exp(unary)
    for _ in range(crf.iterations):
        energy = -unary
        for weight, kernel in kernels:
            scale = 1 / np.sqrt(kernel.sum(1))
            received = scale * ((q * scale) @ kernel)
            energy = energy + weight * (received.sum(0) - received)  # Potts: what every other class sends is a cost
        q = softmax(-energy, axis=0)
    return q.reshape(classes, height, width)


@pytest.mark.parametrize(
    "options", [{}, {"bilateral_xy": 10, "bilateral_rgb": 20, "spatial_xy": 3, "iterations": 4}, {"spatial_weight": 0}], ids=str
)
def test_marginals_are_those_of_the_mean_field_over_all_pairs(options: dict[str, float]) -> None:
    logits_NCHW, images_NHWC = scene(21, 26, 4)
    crf = Crf.model_validate(options)
    found_NCHW = refine(logits_NCHW, images_NHWC, crf)
    expected = mean_field(logits_NCHW[0].numpy(), images_NHWC[0].numpy(), crf)
    assert np.abs(found_NCHW[0].numpy() - expected).max() < 1e-3
    assert (found_NCHW[0].sum(0) - 1).abs().max() < 1e-5
    assert (found_NCHW[0].argmax(0) != logits_NCHW[0].argmax(0)).float().mean() > 0.1  # it did something


def test_the_lattice_gives_nearly_the_same_masks_as_exact_filtering() -> None:
    logits_NCHW, images_NHWC = scene(60, 66, 4)
    exact = refine(logits_NCHW, images_NHWC, Crf(exact_pixels=1 << 16))
    rough = refine(logits_NCHW, images_NHWC, Crf(exact_pixels=0))
    assert (exact - rough).abs().mean() < 0.02
    assert (exact.argmax(1) == rough.argmax(1)).float().mean() > 0.98


@pytest.mark.parametrize(("dims", "mean", "largest"), [(1, 0.001, 0.003), (2, 0.002, 0.006), (3, 0.003, 0.015), (5, 0.006, 0.06)])
def test_the_lattice_averages_as_a_gaussian_does(dims: int, mean: float, largest: float) -> None:
    """Weighted means of random values over 1,500 points in a cube of four standard deviations a side."""
    random = torch.Generator().manual_seed(0)
    points, values = torch.rand(1500, dims, generator=random) * 4, torch.rand(1500, 3, generator=random)
    kernel = torch.exp(-0.5 * torch.cdist(points.double(), points.double()) ** 2)
    expected = (kernel @ values.double()) / kernel.sum(1, keepdim=True)
    found = Lattice(points).filter(torch.cat([values, torch.ones(1500, 1)], dim=1)).double()
    error = (found[:, :3] / found[:, 3:] - expected).abs()
    assert error.mean() < mean
    assert error.max() < largest


def test_far_points_do_not_meet_in_the_lattice() -> None:
    points = torch.tensor([[0.0, 0, 0, 0, 0], [100, 0, 0, 0, 0], [0, -1000, 3, 7, 50]])
    found = Lattice(points).filter(torch.eye(3))
    assert torch.equal(found - torch.diag(torch.diag(found)), torch.zeros(3, 3))
    assert (torch.diag(found) > 0).all()


def test_points_too_far_apart_to_be_numbered_are_refused() -> None:
    with pytest.raises(ConfigError, match="use larger deviations"):
        Lattice(torch.tensor([[0.0] * 5, [1e6] * 5]))


def test_images_of_a_batch_do_not_see_each_other() -> None:
    pairs = [scene(17, 19, 3, seed) for seed in (0, 1)]
    together = refine(torch.cat([pair[0] for pair in pairs]), torch.cat([pair[1] for pair in pairs]), Crf())
    for place, (logits_NCHW, images_NHWC) in enumerate(pairs):
        torch.testing.assert_close(together[place : place + 1], refine(logits_NCHW, images_NHWC, Crf()))


@pytest.mark.parametrize(("height", "width", "classes"), [(1, 1, 3), (1, 70, 2), (80, 64, 1)])
def test_any_size_and_a_single_class(height: int, width: int, classes: int) -> None:
    logits_NCHW, images_NHWC = scene(height, width, classes)
    found = refine(logits_NCHW, images_NHWC, Crf(iterations=2))
    assert found.shape == (1, classes, height, width)
    torch.testing.assert_close(found.sum(1), torch.ones(1, height, width))


def test_images_that_do_not_fit_the_logits_are_refused() -> None:
    logits_NCHW, images_NHWC = scene(8, 9, 2)
    with pytest.raises(ValueError, match=r"needed: \(N, C, H, W\) and \(N, H, W, 3\)"):
        refine(logits_NCHW, images_NHWC[:, :, :-1], Crf())
