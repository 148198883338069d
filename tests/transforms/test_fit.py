import numpy as np
import pytest
from PIL import Image, ImageOps
from pydantic import ValidationError

from segtasks.spec import Resize
from segtasks.transforms.fit import fit_image, fit_mask, plan_fit
from tests.transforms.test_resize import photo

FILL = (1, 2, 3)


@pytest.mark.parametrize(
    ("resize", "source", "fitted", "canvas", "place"),
    [
        ({"height": 20, "width": 31}, (37, 53), (20, 31), (20, 31), (0, 0)),
        ({"policy": "longest", "size": 100}, (300, 200), (100, 67), (100, 67), (0, 0)),
        ({"policy": "longest", "size": 100}, (20, 30), (67, 100), (67, 100), (0, 0)),
        ({"policy": "shortest", "size": 100}, (300, 200), (150, 100), (150, 100), (0, 0)),
        ({"policy": "longest", "size": 10}, (1000, 1), (10, 1), (10, 1), (0, 0)),
        ({"policy": "letterbox", "height": 40, "width": 60}, (360, 480), (40, 53), (40, 60), (0, 3)),
        ({"policy": "letterbox", "height": 60, "width": 40}, (360, 480), (30, 40), (60, 40), (15, 0)),
        ({"policy": "letterbox", "height": 36, "width": 48}, (36, 48), (36, 48), (36, 48), (0, 0)),
        ({"policy": "letterbox", "height": 7, "width": 9}, (1, 1000), (1, 9), (7, 9), (3, 0)),
        (None, (5, 6), (5, 6), (5, 6), (0, 0)),
    ],
)
def test_a_policy_gives_size_and_place(resize, source, fitted, canvas, place):
    fit = plan_fit(*source, Resize(**resize) if resize else None)
    assert ((fit.height, fit.width), fit.canvas, (fit.top, fit.left)) == (fitted, canvas, place)


@pytest.mark.parametrize("canvas", [(40, 60), (61, 40), (33, 33)])
@pytest.mark.parametrize("source", [(36, 48), (90, 31), (200, 300)])
def test_letterbox_is_pillows_pad_within_one_level(canvas, source):
    image = photo(*source)
    fit = plan_fit(*source, Resize(policy="letterbox", height=canvas[0], width=canvas[1]))
    contained = ImageOps.contain(Image.fromarray(image), canvas[::-1], Image.Resampling.BILINEAR)
    found = fit_image(image, fit, FILL)
    assert found.shape == (*canvas, 3)
    assert (fit.width, fit.height) == contained.size
    assert np.abs(found[fit.inside].astype(int) - np.asarray(contained).astype(int)).max() <= 1
    padding = np.ones(canvas, bool)
    padding[fit.inside] = False
    assert (found[padding] == FILL).all()
    margins = fit.top - (canvas[0] - fit.height - fit.top), fit.left - (canvas[1] - fit.width - fit.left)
    assert all(margin in (0, -1) for margin in margins)  # in the middle


def test_the_rows_and_columns_of_a_fit_are_those_that_its_mask_shows():
    mask = np.random.default_rng(0).integers(0, 200, (37, 53), dtype=np.uint8)
    fit = plan_fit(37, 53, Resize(policy="letterbox", height=40, width=41))
    padded = np.pad(mask, ((0, 1), (0, 1)), constant_values=255)  # what -1 points at
    np.testing.assert_array_equal(fit_mask(mask, fit, 255), padded[np.ix_(fit.rows(37), fit.columns(53))])


def test_an_ignore_value_above_255_widens_the_padded_mask():
    fit = plan_fit(4, 4, Resize(policy="letterbox", height=4, width=6))
    assert fit_mask(np.zeros((4, 4), np.uint8), fit, 300).tolist() == [[300, 0, 0, 0, 0, 300]] * 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"policy": "longest", "height": 3, "width": 3}, "policy longest has height and width; needed: size"),
        ({"size": 3}, "policy stretch has size; needed: height and width"),
        ({"policy": "letterbox", "height": 3}, "policy letterbox has height; needed: height and width"),
        ({"policy": "shortest"}, "policy shortest has no size; needed: size"),
    ],
)
def test_a_policy_without_its_size_is_refused_in_words(given, message):
    with pytest.raises(ValidationError, match=message):
        Resize(**given)
