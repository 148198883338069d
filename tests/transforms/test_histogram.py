import numpy as np
import pytest

from segtasks.transforms.histogram import class_pixels


@pytest.mark.parametrize("shape", [(3, 5), (300, 301), (301, 303), (360, 480)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_class_pixels_are_numpys_counts_without_the_ignored(shape, kind):
    mask = np.random.default_rng(0).choice([0, 1, 2, 7, 255], shape).astype(kind)
    expected = [int((mask == value).sum()) for value in range(8)]
    assert class_pixels(mask, 8).tolist() == expected
    assert class_pixels(mask[:, ::-1], 8).tolist() == expected
    assert class_pixels(mask, 0).tolist() == []
