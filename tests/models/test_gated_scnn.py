from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from segtasks.config import Plugin
from segtasks.errors import ConfigError
from segtasks.models import deeplabv3plus, gated_scnn
from segtasks.models._base import Outputs
from segtasks.models._dual_task import (
    boundary_consistency,
    boundary_cross_entropy,
    boundary_strength,
    dual_task,
    semantic_boundaries,
)
from segtasks.models._image_edges import canny, gradient_magnitude, sobel
from segtasks.plugins import configure
from segtasks.testing import models as contract
from segtasks.transforms.normalise import Normalise

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def parameters(net: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def wave(*shape: int, step: float = 0.7) -> torch.Tensor:
    """Numbers that look random and that another implementation can be given too: sin(step), sin(2 step), ..."""
    return torch.sin(step * torch.arange(1, int(np.prod(shape)) + 1, dtype=torch.float64)).reshape(shape).float()


def blocks(classes: int, seed: int = 0, *, ignored: float = 0.0) -> torch.Tensor:
    """A target (2, 24, 30) of rectangles, with some pixels ignored."""
    random = np.random.default_rng(seed)
    target = np.kron(random.integers(0, classes, (2, 4, 5)), np.ones((1, 6, 6), dtype=np.int64))
    target[random.random(target.shape) < ignored] = 255
    return torch.from_numpy(target)


def small(**options) -> torch.nn.Module:
    torch.manual_seed(0)
    return gated_scnn.build(gated_scnn.Config(**{**gated_scnn.SMALL, **options}), 4)


# the architecture


def test_the_shape_stream_has_the_reference_codes_parameters_but_for_six_biases_that_a_batch_norm_removes():
    # nv-tlabs/GSCNN's BasicBlock, GatedSpatialConv2d and 1x1 convolutions, built for these channels: of ResNet-50's layer2-4, and its own
    assert parameters(gated_scnn.ShapeStream(64, [512, 1024, 2048])) == 106_603 - 6
    assert parameters(gated_scnn.ShapeStream(64, [256, 512, 4096])) == 107_883 - 6


@pytest.mark.parametrize(("backbone", "share"), [("resnet50", 0.0043), ("resnet101", 0.0029)])
def test_shape_stream_and_fusion_add_the_papers_share_of_parameters_to_deeplabv3plus(backbone, share):
    """Table 5 of the paper: +0.43% on ResNet-50, +0.29% on ResNet-101."""
    with torch.device("meta"):
        plain = deeplabv3plus.build(deeplabv3plus.Config(backbone=backbone, separable=False), 19)
        gated = gated_scnn.build(gated_scnn.Config(backbone=backbone), 19)
    assert parameters(gated) / parameters(plain) - 1 == pytest.approx(share, abs=0.00005)


def test_the_gate_gives_the_reference_codes_numbers():
    """GatedSpatialConv2d of nv-tlabs/GSCNN in training mode, with these weights and inputs, run once."""
    gate = gated_scnn.GatedConv(2)
    steps = {"conv.weight": 0.3, "attention.0.weight": 0.4, "attention.0.bias": 0.5, "attention.1.weight": 0.6, "attention.1.bias": 0.7}
    steps |= {"attention.3.weight": 0.8, "attention.4.weight": 1.0, "attention.4.bias": 1.1}
    with torch.no_grad():
        for name, parameter in gate.named_parameters():
            parameter.copy_(wave(*parameter.shape, step=steps.pop(name)))
    assert not steps
    result = gate.train()(wave(1, 2, 3, 4), wave(1, 1, 3, 4, step=1.1))
    expected = [0.70697904, -0.66561711, 0.15556884, 0.64573383, 1.53021252, -0.95354033, -0.25803089, 1.40908861]
    torch.testing.assert_close(result.flatten()[::3], torch.tensor(expected), rtol=0, atol=1e-6)


def test_the_gate_is_equations_1_and_2():
    torch.manual_seed(0)
    gate = gated_scnn.GatedConv(3)
    for _ in range(3):
        gate.train()(torch.randn(2, 3, 5, 5) + 1, torch.randn(2, 1, 5, 5))
    state = {name: tensor.numpy() for name, tensor in gate.eval().state_dict().items()}
    shape, regular = torch.randn(1, 3, 4, 6), torch.randn(1, 1, 4, 6)

    def norm(x, number):
        part = {key: state[f"attention.{number}.{key}"][:, None] for key in ("weight", "bias", "running_mean", "running_var")}
        return (x - part["running_mean"]) / np.sqrt(part["running_var"] + 1e-5) * part["weight"] + part["bias"]

    s, r = shape.numpy().reshape(3, -1), regular.numpy().reshape(1, -1)
    hidden = state["attention.1.weight"][:, :, 0, 0] @ norm(np.concatenate([s, r]), 0) + state["attention.1.bias"][:, None]
    alpha = 1 / (1 + np.exp(-norm(state["attention.3.weight"][:, :, 0, 0] @ np.maximum(hidden, 0), 4)))
    expected = state["conv.weight"][:, :, 0, 0] @ (s * alpha + s)
    with torch.no_grad():
        np.testing.assert_allclose(gate(shape, regular).numpy().reshape(3, -1), expected, rtol=1e-4, atol=1e-5)


def test_in_training_the_boundarys_logits_come_with_the_images_size():
    output = small().train()(torch.randn(2, 3, 33, 47))
    assert isinstance(output, Outputs)
    assert output.logits_NCHW.shape == (2, 4, 33, 47)
    assert {name: tuple(tensor.shape) for name, tensor in output.auxiliary.items()} == {"boundary": (2, 1, 33, 47)}


@pytest.mark.slow
@pytest.mark.parametrize("edges", ["canny", "none"])
def test_every_kind_of_edges_keeps_the_contract(edges):
    contract.check_model(gated_scnn, {**gated_scnn.SMALL, "edges": edges})


@pytest.mark.slow
def test_with_canny_the_net_exports():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    contract.exports_to_onnx_with_equal_argmax(gated_scnn, {**gated_scnn.SMALL, "edges": "canny"})


@pytest.mark.slow
def test_canny_compiles_in_one_graph():
    grey = torch.randint(0, 256, (2, 3, 33, 47), generator=torch.Generator().manual_seed(0)).float()
    compiled = torch.compile(canny, fullgraph=True)
    assert torch.equal(compiled(grey, 100, 400, 64), canny(grey, 100, 400, 64))


@pytest.mark.parametrize("edges", ["sobel", "canny"])
def test_the_images_edges_reach_the_logits(edges):
    net = small(edges=edges).eval()
    with torch.no_grad():
        net.fuse.weight[0, 1] = 50.0
        image = torch.randn(1, 3, 32, 32)
        before = net(image)
        net.fuse.weight[0, 1] = 0.0
        assert (net(image) - before).abs().max() > 1e-3


# edges of the image


def test_sobel_is_scipys_and_a_unit_step_has_a_gradient_of_1():
    image = np.random.default_rng(0).normal(size=(9, 13)).astype(np.float32)
    dx, dy = sobel(torch.from_numpy(image)[None, None])
    np.testing.assert_allclose(dx[0, 0], ndimage.sobel(image, axis=1, mode="nearest"), atol=1e-5)
    np.testing.assert_allclose(dy[0, 0], ndimage.sobel(image, axis=0, mode="nearest"), atol=1e-5)
    step = torch.zeros(1, 2, 4, 6)
    step[:, 1, :, 3:] = 1
    assert gradient_magnitude(step)[0, 0].tolist() == [[0, 0, 1, 1, 0, 0]] * 4


@pytest.mark.parametrize("thresholds", [(10, 100), (50, 300)])
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 7, 1), (5, 1, 3), (33, 47, 1), (64, 80, 3), (40, 40, 4)])
def test_canny_with_enough_steps_is_opencvs_pixel_by_pixel(shape, thresholds):
    cv2 = pytest.importorskip("cv2")
    noise = np.random.default_rng(1).integers(0, 256, shape).astype(np.uint8)
    smooth = np.clip(ndimage.gaussian_filter(noise.astype(float), (2, 2, 0)) * 6 - 640, 0, 255).astype(np.uint8)
    for image in (noise, smooth):
        ours = canny(torch.from_numpy(image).permute(2, 0, 1)[None].float(), *thresholds, steps=shape[0] * shape[1])
        assert np.array_equal(ours[0, 0].numpy() * 255, cv2.Canny(image, *thresholds))


@pytest.mark.parametrize(("name", "missed"), [("astronaut", 0.0048), ("coffee", 0.0004), ("rocket", 0.0007)])
def test_canny_with_the_default_steps_loses_few_edge_pixels_of_photographs_and_invents_none(name, missed):
    """On standardised images, with the default grey levels. `missed` is measured, of OpenCV's edge pixels; with 128 steps all are found."""
    cv2 = pytest.importorskip("cv2")
    image = getattr(pytest.importorskip("skimage.data"), name)()
    expected = cv2.Canny(image, 10, 100) > 0
    shares = []
    for steps in (gated_scnn.Config().canny_steps, 128):
        net = small(edges="canny", canny_steps=steps)
        ours = net._edges(Normalise(*IMAGENET)(torch.from_numpy(image)[None]))[0, 0].numpy() > 0
        assert not (ours & ~expected).any()
        shares.append((expected & ~ours).sum() / expected.sum())
    assert shares == pytest.approx([missed, 0], abs=0.0001)


def test_weak_edges_are_followed_for_as_many_pixels_as_there_are_steps():
    """One line of contrast 20 (weak: 80) with one strong end."""
    grey = torch.zeros(1, 1, 40, 9)
    grey[..., 5:] = 20.0
    grey[:, :, :3, 5:] = 200.0
    weak_rows = [int(canny(grey, 10, 100, steps=steps)[0, 0, 5:].sum()) for steps in (0, 10, 20, 60)]
    assert weak_rows[0] == 0
    assert weak_rows[2] - weak_rows[1] == 10
    assert weak_rows[3] == 35


# what the two tasks cost


@pytest.mark.parametrize("radius", [1, 2, 3, 5])
def test_boundaries_are_the_pixels_within_a_distance_of_another_class(radius):
    target = blocks(4, ignored=0.2)
    boundary, valid = semantic_boundaries(target, 4, radius)
    assert np.array_equal(valid, target != 255)
    for image, found in zip(target.numpy(), boundary.numpy(), strict=True):
        expected = np.zeros(image.shape, dtype=bool)
        for number in range(4):  # of each class: how far is the nearest pixel of another class?
            others = (image != number) & (image != 255)
            expected |= (image == number) & (ndimage.distance_transform_edt(~others) <= radius)
        assert np.array_equal(found, expected)


def test_neither_the_images_border_nor_ignored_pixels_make_a_boundary():
    target = torch.ones(1, 8, 8, dtype=torch.int64)
    target[0, 2:4] = 255
    boundary, valid = semantic_boundaries(target, 3, 2)
    assert not boundary.any()
    assert valid.sum() == 48


def test_the_boundarys_cross_entropy_is_the_reference_codes():
    """bce2d of nv-tlabs/GSCNN on these numbers, run once."""
    logits, boundary = wave(1, 5, 6, step=1.3) * 3, torch.zeros(1, 5, 6, dtype=torch.bool)
    boundary[..., 2:4] = True
    boundary[0, 0, 3] = False
    assert boundary_cross_entropy(logits, boundary, torch.ones_like(boundary)).item() == pytest.approx(0.5239921808, abs=1e-6)


def test_the_boundarys_cross_entropy_weighs_each_side_by_the_share_of_the_other_and_counts_valid_pixels():
    logits = torch.tensor([[[0.0, 2.0, -1.0, 3.0, 77.0]]], dtype=torch.float64)
    boundary = torch.tensor([[[True, False, False, False, False]]])
    valid = torch.tensor([[[True, True, True, True, False]]])
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    expected = -(3 / 4 * np.log(sigmoid(0)) + 1 / 4 * sum(np.log(1 - sigmoid(x)) for x in (2, -1, 3))) / 4
    assert boundary_cross_entropy(logits, boundary, valid).item() == pytest.approx(expected)


def test_zeta_is_the_gradient_of_the_filtered_classes_over_the_root_of_2():
    classes = np.random.default_rng(0).random((1, 3, 14, 17))
    triangle = np.array([1, 2, 3, 4, 5, 4, 3, 2, 1]) / 25
    smooth = ndimage.convolve1d(ndimage.convolve1d(classes, triangle, axis=2, mode="nearest"), triangle, axis=3, mode="nearest")
    dy, dx = np.gradient(smooth, axis=(2, 3))
    expected = np.sqrt((dx**2 + dy**2).sum(1) / 2) / 0.18
    ours = boundary_strength(torch.from_numpy(classes)).numpy()
    np.testing.assert_allclose(ours[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=1e-3)


@pytest.mark.parametrize("turned", [False, True])
def test_zeta_is_1_at_a_straight_boundary_and_0_far_from_it(turned):
    classes = torch.zeros(1, 4, 20, 20)
    classes[:, 2, :, :10] = 1
    classes[:, 3, :, 10:] = 1
    strength = boundary_strength(classes.mT if turned else classes)[0]
    line = strength[:, 7] if turned else strength[7]
    assert line[9:11].tolist() == pytest.approx([1, 1], abs=1e-3)
    assert line[[0, 3, 16, 19]].tolist() == pytest.approx([0] * 4, abs=1e-3)


def test_a_perfect_prediction_costs_the_dual_task_nothing_and_a_moved_boundary_costs():
    target = torch.zeros(1, 24, 24, dtype=torch.int64)
    target[..., 12:] = 1
    target[:, :3] = 255
    valid = target != 255
    perfect = F.one_hot(torch.where(valid, target, 0), 3).movedim(-1, 1).float() * 200
    torch.manual_seed(0)
    assert dual_task(perfect, target, valid, 1.0).item() == pytest.approx(0, abs=1e-5)
    costs = [dual_task(perfect.roll(by, dims=3), target, valid, 1.0).item() for by in (1, 3, 6)]
    assert 0.05 < costs[0] < costs[1] < costs[2]


def test_the_dual_task_is_equation_5_on_the_drawn_sample():
    target = blocks(3, ignored=0.1)
    valid = target != 255
    logits = torch.randn(2, 3, 24, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2
    torch.manual_seed(7)
    gumbel = -torch.empty_like(logits).exponential_().log()
    y = np.exp((logits + gumbel).numpy() / 0.5)
    y = y / y.sum(1, keepdims=True) * valid.numpy()[:, None]
    truth = (target.numpy()[:, None] == np.arange(3)[:, None, None]).astype(float)
    zeta, zeta_true = (boundary_strength(torch.from_numpy(x)).numpy() for x in (y, truth))
    gap = np.abs(zeta - zeta_true)
    expected = sum(gap[valid.numpy() & (z > 0.01)].mean() for z in (zeta, zeta_true)) / 2
    torch.manual_seed(7)
    assert dual_task(logits, target, valid, 0.5).item() == pytest.approx(expected, rel=1e-9)


def test_the_dual_task_has_the_gradient_of_finite_differences():
    target = blocks(3)[:1, :9, :10]
    target[0, 0, :3] = 255
    logits = torch.randn(1, 3, 9, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)

    def cost(x):
        torch.manual_seed(0)
        return dual_task(x, target, target != 255, 1.0)

    assert torch.autograd.gradcheck(cost, logits)


def test_the_consistency_is_the_reference_codes():
    """edge_attention of nv-tlabs/GSCNN with plain cross-entropy on these numbers, run once."""
    logits, boundary = wave(1, 3, 5, 6, step=0.9) * 2, wave(1, 5, 6, step=1.3) * 3
    target = torch.arange(30).reshape(1, 5, 6) % 3
    cost = boundary_consistency(logits, target, torch.ones_like(target, dtype=torch.bool), boundary, 0.8)
    assert cost.item() == pytest.approx(2.1461408138, abs=1e-6)


def test_the_consistency_is_the_cross_entropy_of_valid_pixels_above_the_threshold():
    target = blocks(3, ignored=0.3)
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 24, 30, generator=random, dtype=torch.float64, requires_grad=True)
    boundary = torch.randn(2, 24, 30, generator=random) * 3
    chosen = (boundary.sigmoid() > 0.8) & (target != 255)
    cost = boundary_consistency(logits, target, target != 255, boundary, 0.8)
    assert cost.item() == pytest.approx(F.cross_entropy(logits, torch.where(chosen, target, 255), ignore_index=255).item())
    assert boundary_consistency(logits, target, target != 255, boundary - 100, 0.8).item() == 0
    few, picked = logits[:1, :, :4, :5].detach().requires_grad_(), boundary[:1, :4, :5]
    assert torch.autograd.gradcheck(lambda x: boundary_consistency(x, target[:1, :4, :5], target[:1, :4, :5] != 255, picked, 0.3), few)


def output_of(target: torch.Tensor, seed: int = 0) -> Outputs:
    random = torch.Generator().manual_seed(seed)
    draw = lambda channels: torch.randn(2, channels, 24, 30, generator=random, requires_grad=True)  # noqa: E731
    return Outputs(draw(4), {"boundary": draw(1)})


def cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, target, ignore_index=255)


def test_training_adds_the_papers_weights_of_the_three_terms_to_the_loss():
    target = blocks(4, ignored=0.1)
    output = output_of(target)
    boundary, valid = semantic_boundaries(target, 4, 2)
    edge = output.auxiliary["boundary"][:, 0]
    net = small()
    torch.manual_seed(3)
    expected = (
        cross_entropy(output.logits_NCHW, target)
        + 20 * boundary_cross_entropy(edge, boundary, valid)
        + dual_task(output.logits_NCHW, target, valid, 1.0)
        + boundary_consistency(output.logits_NCHW, target, valid, edge, 0.8)
    )
    torch.manual_seed(3)
    assert net.training_loss(output, target, cross_entropy).item() == pytest.approx(expected.item(), rel=1e-6)
    off = small(boundary_weight=0, dual_weight=0, consistency_weight=0)
    assert off.training_loss(output, target, cross_entropy).item() == cross_entropy(output.logits_NCHW, target).item()


def test_the_consistency_pulls_on_the_segmentation_alone():
    target = blocks(4)
    output = output_of(target)
    small(boundary_weight=0, dual_weight=0, consistency_weight=1).training_loss(output, target, cross_entropy).backward()
    assert output.auxiliary["boundary"].grad is None
    assert output.logits_NCHW.grad.abs().max() > 0


def test_ignored_pixels_change_nothing():
    target = blocks(4, ignored=0.3)
    ignored = (target == 255).unsqueeze(1)
    net, output = small(), output_of(target)
    other = Outputs(
        torch.where(ignored, output.logits_NCHW * 9 - 4, output.logits_NCHW),
        {"boundary": torch.where(ignored, 50.0, output.auxiliary["boundary"])},
    )
    torch.manual_seed(0)
    cost = net.training_loss(output, target, cross_entropy)
    torch.manual_seed(0)
    assert net.training_loss(other, target, cross_entropy).item() == pytest.approx(cost.item(), rel=1e-6)
    cost.backward()
    for tensor in (output.logits_NCHW, output.auxiliary["boundary"]):
        assert tensor.grad[ignored.expand_as(tensor)].abs().max() == 0


@pytest.mark.parametrize("value", [255, 4, -1, 60000])
def test_a_batch_without_a_labelled_pixel_adds_nothing(value):
    target = torch.full((2, 24, 30), value)
    output = output_of(target)
    cost = small().training_loss(output, target, lambda logits, target: logits.sum() * 0)
    cost.backward()
    assert cost.item() == 0
    assert output.logits_NCHW.grad.abs().max() == 0
    assert output.auxiliary["boundary"].grad.abs().max() == 0


def test_the_loss_is_a_function_of_torchs_seed():
    target, net = blocks(4), small()
    output = output_of(target)
    costs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        costs.append(net.training_loss(output, target, cross_entropy).item())
    assert costs[0] == costs[1] != costs[2]


def test_extreme_bfloat16_logits_under_autocast_cost_a_finite_amount():
    target = blocks(4)
    output = Outputs(torch.randn(2, 4, 24, 30).bfloat16() * 1e4, {"boundary": torch.randn(2, 1, 24, 30).bfloat16() * 1e4})
    for tensor in (output.logits_NCHW, output.auxiliary["boundary"]):
        tensor.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        cost = small().training_loss(output, target, lambda logits, target: cross_entropy(logits.float(), target))
    cost.backward()
    assert torch.isfinite(cost)
    assert torch.isfinite(output.logits_NCHW.grad).all()


@pytest.mark.slow
def test_the_shape_stream_learns_where_classes_meet():
    torch.manual_seed(0)
    image, target = contract._shapes(4)
    net = gated_scnn.build(gated_scnn.Config(**gated_scnn.SMALL), 3).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        output = net(image)
        net.training_loss(output, target, cross_entropy).backward()
        optimizer.step()
    boundary, _ = semantic_boundaries(target, 3, 2)
    found = output.auxiliary["boundary"][:, 0] > 0
    hits = (found & boundary).sum().item()
    assert hits / boundary.sum().item() > 0.8
    assert hits / found.sum().item() > 0.6


# options


@pytest.mark.parametrize(
    "options",
    [
        {"edges": "laplace"},
        {"backbone": "vgg16_bn"},
        {"output_stride": 32},
        {"temperature": 0},
        {"threshold": 1.0},
        {"dual_weight": -1},
        {"boundary_radius": 0},
    ],
)
def test_wrong_options_are_config_errors(options):
    with pytest.raises(ConfigError):
        configure("models", Plugin(name="gated_scnn", options=options))


def test_counts_that_do_not_fit_are_config_errors():
    with pytest.raises(ConfigError, match="0 classes"):
        gated_scnn.build(gated_scnn.Config(), 0)
    with pytest.raises(ConfigError, match="2 numbers; needed: one, or one for each of the 3 channels"):
        gated_scnn.build(gated_scnn.Config(grey_levels=(58.0, 57.0)), 3)
