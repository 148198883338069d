from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from segtasks.reporting.sheet import MARGIN, contact_sheet, legend, shortened
from tests.reporting.worlds import COLORS, spec_of


def opened(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image)


def flat(height: int, width: int, value: int) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_tiles_stand_in_rows():
    sheet = opened(contact_sheet([flat(60, 100, value) for value in (10, 20, 30)], columns=2))
    assert sheet.shape == (MARGIN + 2 * (60 + MARGIN), MARGIN + 2 * (100 + MARGIN), 3)
    corners = [(MARGIN, MARGIN), (MARGIN, 2 * MARGIN + 100), (2 * MARGIN + 60, MARGIN)]
    for value, (top, left) in zip((10, 20, 30), corners, strict=True):
        assert (sheet[top : top + 60, left : left + 100] == value).all()
    assert (sheet[2 * MARGIN + 60 + 5, 2 * MARGIN + 100 + 5] == 255).all()


def test_tiles_of_other_shapes_fit_into_the_median_cell():
    sheet = opened(contact_sheet([flat(60, 100, 10), flat(60, 100, 20), flat(900, 100, 30)], columns=3))
    assert sheet.shape[0] == 60 + 2 * MARGIN
    assert (sheet == 30).all(axis=2).any()


def test_captions_and_titles_are_drawn():
    plain = opened(contact_sheet([flat(60, 100, 0)], 1))
    captioned = opened(contact_sheet([flat(60, 100, 0)], 1, ["val/a.png"]))
    titled = opened(contact_sheet([flat(60, 100, 0)], 1, ["val/a.png"], title="made"))
    assert plain.shape[0] < captioned.shape[0] < titled.shape[0]
    below = captioned[MARGIN + 61 : MARGIN + 80, MARGIN : MARGIN + 100]
    assert (below < 200).any()


def test_a_legend_shows_every_classs_colour():
    spec = spec_of("road", "sky", "car", "tree")
    sheet = opened(contact_sheet([flat(60, 100, 0)], 1, classes=spec.classes))
    for color in COLORS:
        assert (sheet == color).all(axis=2).sum() >= 100, color


def test_a_legend_wraps_at_its_width():
    names = [f"class number {index}" for index in range(12)]
    assert legend(spec_of(*names).classes, 2000).shape[0] < legend(spec_of(*names).classes, 300).shape[0]
    assert legend(spec_of(*names).classes, 300).shape[1] == 300
    assert legend(spec_of("x" * 500).classes, 60).shape[1] == 60


def test_a_long_caption_is_cut_in_the_middle_and_keeps_its_file_name():
    short = shortened("leftImg8bit/train/a_very_long_folder_name/another_one/aachen_000000_000019.png", 200)
    assert "…" in short
    assert short.endswith("000019.png")
    assert short.startswith("left")
    assert shortened("a\nb", 100) == "a b"
    assert shortened("anything", 1) == "…"


def test_the_same_tiles_give_the_same_bytes():
    make = lambda: contact_sheet([flat(60, 100, 9)], 1, ["a"], classes=spec_of("a").classes)  # noqa: E731
    assert make() == make()


def test_tiny_and_single_tiles_make_a_sheet():
    assert opened(contact_sheet([flat(1, 1, 9)], 5, ["an image of one pixel"])).shape == (96 + 20 + 2 * MARGIN, 96 + 2 * MARGIN, 3)


@pytest.mark.parametrize(("tiles", "columns", "captions"), [([], 3, []), ([flat(2, 2, 0)], 0, []), ([flat(2, 2, 0)], 1, ["a", "b"])])
def test_what_makes_no_sheet_is_refused(tiles, columns, captions):
    with pytest.raises(ValueError, match="needed"):
        contact_sheet(tiles, columns, captions)
