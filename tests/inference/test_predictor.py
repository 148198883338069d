import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segtasks.config import Plugin
from segtasks.errors import ConfigError, ShapeError
from segtasks.inference.config import Crf
from segtasks.inference.crf import refine
from segtasks.inference.predictor import Predictor
from segtasks.spec import ClassSpec, Crop, DatasetSpec, Resize
from segtasks.training.checkpoint import ModelInfo
from segtasks.training.loaded import LoadedModel, build_model
from segtasks.transforms.resize import resize_image
from tests.training.world import scene

UNET = Plugin(name="unet", options={"width": 8, "depth": 2})
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def classes(count):
    return tuple(ClassSpec(name=f"c{number}", color=(number % 256, number // 256, 0)) for number in range(count))


def loaded(count=4, resize=None, plugin=UNET):
    torch.manual_seed(0)
    model = build_model(plugin, count)
    with torch.no_grad():  # statistics of real images, so that no class fills the whole mask
        for _ in range(20):
            model.train()(normalised(np.stack([scene(seed, 48, 64)[0] for seed in range(4)])))
    spec = DatasetSpec(name="m", classes=classes(count), resize=resize, ignore_index=65535)
    info = ModelInfo(model=plugin, spec=spec, mean=MEAN, std=STD, weights=(), digest="", training={})
    return LoadedModel(model.eval(), info, "memory://m")


def normalised(images_NHWC):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (torch.from_numpy(images_NHWC).permute(0, 3, 1, 2) / 255 - mean) / std


def plainly(given, image):
    """The mask and the confidence as one would write it down, one image at a time."""
    resize = given.info.spec.resize
    small = resize_image(image, resize.height, resize.width) if resize else image
    with torch.inference_mode():
        logits_NCHW = given.model(normalised(small[None]))
        labels = F.interpolate(logits_NCHW, size=image.shape[:2], mode="bilinear", align_corners=False).argmax(dim=1)[0]
        confidence = logits_NCHW.softmax(dim=1).amax(dim=1).mean()
    return labels.numpy(), float(confidence)


@pytest.mark.parametrize("resize", [None, Resize(height=24, width=32)])
def test_a_prediction_is_what_the_plain_computation_gives_at_the_images_own_size(resize):
    given = loaded(resize=resize)
    for size in ((48, 64), (41, 67)):
        image = scene(3, *size)[0]
        expected, confidence = plainly(given, image)
        found = Predictor(given).predict([image])[0]
        assert found.mask.shape == size
        assert found.mask.dtype == np.uint8
        assert (found.mask == expected).mean() > 0.999
        assert found.mean_confidence == pytest.approx(confidence, abs=1e-5)
        np.testing.assert_array_equal(found.class_pixels, np.bincount(found.mask.reshape(-1), minlength=4))
        assert (found.class_pixels > 0).sum() > 1


class Colours(torch.nn.Module):
    """The nearest class colour of each pixel: logits are what a perfect model's would be."""

    def forward(self, images_NCHW):
        shown_NCHW = images_NCHW * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
        colors_K3 = torch.tensor([item.color for item in COLOURED]) / 255
        return -10 * (shown_NCHW[:, None] - colors_K3[None, :, :, None, None]).square().sum(dim=2)


COLOURED = (ClassSpec(name="a", color=(250, 0, 0)), ClassSpec(name="b", color=(0, 250, 0)), ClassSpec(name="c", color=(0, 0, 250)))
POLICIES = [
    {"height": 30, "width": 90},
    {"policy": "letterbox", "height": 64, "width": 64},
    {"policy": "letterbox", "height": 31, "width": 90},
    {"policy": "longest", "size": 57},
    {"policy": "shortest", "size": 120},
]


def coloured(height, width):
    """Blocks of the classes' colours with their mask."""
    rows, columns = np.mgrid[:height, :width]
    mask = ((rows // 20) + 2 * (columns // 20)) % 3
    return np.array([item.color for item in COLOURED], np.uint8)[mask], mask


def colours(resize=None, crop=None):
    spec = DatasetSpec(name="m", classes=COLOURED, resize=resize, crop=crop)
    return LoadedModel(Colours(), ModelInfo(model=UNET, spec=spec, mean=MEAN, std=STD, weights=(), digest="", training={}), "memory://m")


@pytest.mark.parametrize("size", [(60, 80), (80, 60), (100, 41)])
@pytest.mark.parametrize("resize", POLICIES)
def test_a_perfect_models_masks_lie_on_the_original_image_under_every_policy(resize, size):
    image, mask = coloured(*size)
    found = Predictor(colours(Resize(**resize))).predict([image])[0]
    assert found.mask.shape == size
    inner = np.ones(size, bool)  # without two pixels around the edges between blocks, which shrinking blurs
    for axis in (0, 1):
        edges = np.flatnonzero(np.diff(np.arange(size[axis]) // 20))
        for shift in range(-2, 4):
            inner[(slice(None),) * axis + (np.clip(edges + shift, 0, size[axis] - 1),)] = False
    assert inner.mean() > 0.4
    np.testing.assert_array_equal(found.mask[inner], mask[inner])
    assert found.class_pixels.sum() == found.mask.size


def test_a_model_of_a_region_predicts_there_and_ignores_the_rest():
    image, mask = coloured(60, 80)
    crop = Crop(top=15, left=7, height=40, width=60)
    for resize in (None, Resize(policy="letterbox", height=80, width=80)):
        found = Predictor(colours(resize, crop)).predict([image])[0]
        assert (found.mask[crop.inside] == mask[crop.inside]).mean() > 0.95
        assert found.class_pixels.sum() == 40 * 60
        outside = found.mask.copy()
        outside[crop.inside] = 255
        assert (outside == 255).all()
    cropped = DatasetSpec(name="d", classes=COLOURED, crop=crop)
    found = Predictor(colours(None, crop), data=cropped).predict([image[crop.inside]])[0]
    np.testing.assert_array_equal(found.mask, mask[crop.inside])
    with pytest.raises(ShapeError, match="image is 50x80; the model was trained on the region 40x60 at row 15, column 7, which reaches"):
        Predictor(colours(None, crop)).prepare(image[:50])


def test_what_was_done_to_the_data_is_not_done_again():
    resize = Resize(height=60, width=80)
    data = DatasetSpec(name="d", classes=COLOURED, resize=resize)
    tile = coloured(60, 80)[0][:32, :32]
    assert Predictor(colours(resize), data=data).prepare(tile).pixels.shape == (32, 32, 3)
    assert Predictor(colours(resize)).prepare(tile).pixels.shape == (60, 80, 3)


def test_the_batch_changes_no_more_than_one_pixel_in_ten_thousand():
    given = loaded(resize=Resize(height=48, width=64))
    images = [scene(seed, 96, 128)[0] for seed in range(11)]
    alone, together = (Predictor(given, batch_size=size).predict(images) for size in (1, 4))
    equal = np.mean([(one.mask == other.mask).mean() for one, other in zip(alone, together, strict=True)])
    assert equal >= 0.9999


def test_images_of_many_sizes_come_back_in_order():
    given = loaded()
    sizes = [(48, 64), (40, 40), (48, 64), (32, 80), (40, 40), (48, 64)]
    images = [scene(seed, *size)[0] for seed, size in enumerate(sizes)]
    found = Predictor(given, batch_size=2).predict(images)
    assert [item.mask.shape for item in found] == sizes
    for image, item in zip(images, found, strict=True):
        assert (item.mask == plainly(given, image)[0]).mean() > 0.999


def test_classes_are_merged_and_renamed_in_the_mask():
    given = loaded()
    image = scene(1, 48, 64)[0]
    plain = Predictor(given).predict([image])[0]
    merged = Predictor(given, class_map={"c0": "rest", "c2": "rest", "c3": "thing"})
    assert [item.name for item in merged.classes] == ["rest", "c1", "thing"]
    found = merged.predict([image])[0]
    np.testing.assert_array_equal(found.mask, np.array([0, 1, 0, 2])[plain.mask])
    assert found.class_pixels.tolist() == np.bincount(found.mask.reshape(-1), minlength=3).tolist()


def test_more_than_256_classes_make_a_sixteen_bit_mask():
    found = Predictor(loaded(count=300)).predict([scene(0)[0]])[0]
    assert found.mask.dtype == np.uint16
    assert len(found.class_pixels) == 300
    assert found.class_pixels.sum() == 24 * 32


def test_bfloat16_agrees_almost_everywhere():
    given = loaded()
    image = scene(1, 48, 64)[0]
    exact, rough = (Predictor(given, precision=precision).predict([image])[0] for precision in ("float32", "bfloat16"))
    assert (exact.mask == rough.mask).mean() > 0.97


def test_the_loaded_model_can_be_used_again():
    given = loaded()
    before = {name: tensor.clone() for name, tensor in given.model.state_dict().items()}
    Predictor(given, precision="bfloat16").predict([scene(0)[0]])
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.model.state_dict().items())


def test_no_images_give_no_predictions_and_an_empty_batch_is_refused():
    assert Predictor(loaded()).predict([]) == []
    with pytest.raises(ConfigError, match="batch_size is 0"):
        Predictor(loaded(), batch_size=0)


@pytest.mark.parametrize("resize", [None, Resize(height=24, width=32)])
def test_with_a_crf_the_mask_is_that_of_its_marginals_at_the_images_own_size(resize):
    given, image, crf = loaded(resize=resize), scene(3, 48, 64)[0], Crf(bilateral_rgb=20)
    small = resize_image(image, 24, 32) if resize else image
    with torch.inference_mode():
        logits_NCHW = F.interpolate(given.model(normalised(small[None])), size=(48, 64), mode="bilinear", align_corners=False)
    expected = refine(logits_NCHW, torch.from_numpy(image[None]), crf)[0].argmax(0).numpy()
    found = Predictor(given, crf=crf).predict([image])[0]
    assert (found.mask == expected).mean() > 0.999
    assert (found.mask != Predictor(given).predict([image])[0].mask).any()
