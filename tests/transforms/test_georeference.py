import json

import numpy as np
import pytest

from segtasks.transforms.georeference import Axis, follow

FACTS = {"crs": "EPSG:32616", "transform": json.dumps([0.5, 0.1, 733601.0, 0.2, -0.5, 3725139.0]), "bounds": "[]", "site": "a"}


def test_a_window_has_rasterios_transform_and_bounds():
    rasterio = pytest.importorskip("rasterio")
    windows = pytest.importorskip("rasterio.windows")
    plain = rasterio.Affine(0.5, 0, 733601.0, 0, -0.5, 3725139.0)
    window = windows.Window(col_off=120, row_off=40, width=64, height=32)
    found = follow({**FACTS, "transform": json.dumps(list(plain)[:6])}, Axis(32, 40), Axis(64, 120))
    assert json.loads(found["transform"]) == list(windows.transform(window, plain))[:6]
    assert json.loads(found["bounds"]) == list(windows.bounds(window, plain))
    assert (found["crs"], found["site"]) == ("EPSG:32616", "a")


def test_every_pixel_corner_stays_where_it_was():
    rows, columns = Axis(10, 7.5, 1.5), Axis(20, -3.0, 0.25)
    matrices = [np.vstack([np.reshape(json.loads(one["transform"]), (2, 3)), [0, 0, 1]]) for one in (FACTS, follow(FACTS, rows, columns))]
    for column, row in [(0, 0), (20, 10), (3, 8)]:
        source = np.array([columns.scale * column + columns.offset, rows.scale * row + rows.offset, 1])
        np.testing.assert_allclose(matrices[1] @ [column, row, 1], matrices[0] @ source, rtol=1e-12)


@pytest.mark.parametrize(
    "facts", [{}, {"transform": FACTS["transform"]}, {**FACTS, "transform": "rotated"}, {**FACTS, "transform": "[1, 2]"}]
)
def test_other_facts_stay_as_they_are(facts):
    assert follow(facts, Axis(1, 2), Axis(1, 2)) == facts
