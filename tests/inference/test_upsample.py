import pytest
import torch
import torch.nn.functional as F

from segtasks.inference import upsample
from segtasks.inference.upsample import largest_class


def logits(classes, height, width):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, classes, height // 4 + 1, width // 4 + 1, generator=generator)
    return F.interpolate(coarse, size=(height, width), mode="bicubic")[0]


def reference(logits_CHW, height, width):
    return F.interpolate(logits_CHW[None], size=(height, width), mode="bilinear", align_corners=False).argmax(dim=1)[0]


SIZES = [((18, 24), (36, 48)), ((18, 24), (41, 67)), ((30, 40), (11, 13)), ((5, 7), (5, 7)), ((1, 1), (6, 9)), ((3, 200), (300, 7))]


@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("in_bands", [False, True])
def test_labels_are_those_of_upsampling_the_whole_image(source, target, in_bands, monkeypatch):
    if in_bands:
        monkeypatch.setattr(upsample, "whole_values", 0)
        monkeypatch.setattr(upsample, "band_rows", 7)
    given = logits(5, *source)
    assert torch.equal(largest_class(given, *target), reference(given, *target))


def test_channels_last_logits_of_a_batch_give_the_same_labels():
    batch = torch.stack([logits(4, 9, 12), logits(4, 9, 12).flip(0)]).to(memory_format=torch.channels_last)
    assert torch.equal(largest_class(batch[1], 20, 30), reference(batch[1], 20, 30))


def test_a_large_image_is_never_upsampled_as_a_whole(monkeypatch):
    made = []
    original = upsample._stretch

    def watched(logits_NCHW, height, width):
        made.append(logits_NCHW.shape[1] * height * width)
        return original(logits_NCHW, height, width)

    monkeypatch.setattr(upsample, "_stretch", watched)
    given = logits(3, 50, 60)
    assert torch.equal(largest_class(given, 1500, 1200), reference(given, 1500, 1200))
    assert max(made) == 3 * 64 * 1200
