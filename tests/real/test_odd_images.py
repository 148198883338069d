"""Every file of decoders' own test suites ends in pixels or in a data fault, with Pillow's verdict but for those listed here."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from segtasks.codecs.image import decode_image, read_header
from segtasks.errors import DataFault, DecodeError, LimitError
from segtasks.spec import DecodePolicy
from tests.real import data_folder

pytestmark = pytest.mark.filterwarnings("ignore")  # what Pillow says about them
POLICY = DecodePolicy()

# Pillow's verdict in the manifest is "ok", ours is a refusal:
STRICTER = {
    "jpeg/crashtest/images/imagetestsuite/8e5e74dbf9b68a322fbb9512db837329.jpg": "613 bytes cannot hold 193x31237 pixels: grey is painted",
    "pillow/images/truncated_end_chunk.png": "cut off in the end chunk: Pillow refuses it too, unless EXIF was asked for before",
    "pngsuite/bugfixes/x_interlaced_chck.png": "pixel data do not have their checksum, at which Pillow does not look",
}


def manifest() -> tuple[Path, list[dict[str, str]]]:
    root = data_folder("odd_images")
    with open(root / "MANIFEST.tsv", newline="", encoding="utf-8") as file:
        return root, list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_verdicts_agree_with_pillow_in_the_allowed_formats() -> None:
    root, rows = manifest()
    accepted, refused, stricter = 0, 0, set()
    for row in rows:
        data = (root / row["path"]).read_bytes()
        allowed = row["format"] in {*POLICY.formats, "MPO"}
        try:
            decoded = decode_image(data, POLICY)
            header = read_header(data, POLICY)
            assert (header.height, header.width) == (decoded.height, decoded.width), row["path"]
            assert row["pillow13_result"] == "ok", row["path"]
            assert allowed, row["path"]
            accepted += 1
        except DataFault:
            refused += 1
            if allowed and row["pillow13_result"] == "ok":
                stricter.add(row["path"])
    assert stricter == set(STRICTER)
    assert (accepted, refused) == (484, 201)


def test_pixels_equal_pillows_upright_rgb() -> None:
    root, rows = manifest()
    compared = 0
    for row in rows:
        plain = row["mode"] in ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK")
        if not plain or row["pillow13_result"] != "ok" or row["path"] in STRICTER or row["format"] not in {*POLICY.formats, "MPO"}:
            continue
        data = (root / row["path"]).read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            image.info.pop("transparency", None)
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        np.testing.assert_array_equal(decode_image(data, POLICY).pixels, expected, err_msg=row["path"])
        compared += 1
    assert compared > 450


def test_orientations_of_cameras_are_undone() -> None:
    root = data_folder("odd_images") / "exif-orientation-examples"
    upright = {"Landscape": (1200, 1800), "Portrait": (1800, 1200)}
    files = sorted(root.glob("*.jpg"))
    assert len(files) == 11
    for file in files:
        name, value = file.stem.split("_")
        decoded = decode_image(file.read_bytes(), POLICY)
        assert decoded.pixels.shape[:2] == upright[name], file.name
        assert decoded.facts.get("exif_orientation", "1") == (value if value != "0" else "1")


def test_bombs_are_refused_from_their_headers() -> None:
    root = data_folder("odd_images")
    claims = {
        "jpeg/crashtest/images/max_size.jpg": "65535x65535",
        "pillow/images/bmp/b/reallybig.bmp": "3000000x2000000",
        "pillow/images/bmp/b/badwidth.bmp": "4294967169x64",
    }
    for path, size in claims.items():
        for read in (read_header, decode_image):
            with pytest.raises(LimitError, match=f"the header claims {size}"):
                read((root / path).read_bytes(), POLICY)
    with pytest.raises(DecodeError, match="claims 3158064x48 pixels, but 57 bytes hold 456 at most"):
        read_header((root / "pillow/images/l2rgb_read.bmp").read_bytes(), POLICY)
