"""Contact sheets: many pictures in one PNG, each with a caption, and a legend of the classes below."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segtasks.codecs.image import encode_png
from segtasks.reporting.data import Mask, Pixels
from segtasks.spec import ClassSpec, DatasetSpec

INK, QUIET, PAPER, FRAME = (31, 41, 55), (107, 114, 128), (255, 255, 255), (229, 231, 235)
MARGIN, CAPTION, TEXT = 12, 20, 12  # pixels
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(
    tiles: Sequence[Pixels],
    columns: int,
    captions: Sequence[str] = (),
    *,
    classes: Sequence[ClassSpec] = (),
    title: str = "",
    tile_width: int | None = None,
) -> bytes:
    """PNG bytes of `tiles` (uint8 H x W x 3, any sizes) in rows of `columns`, with a legend of `classes`.

    Each is scaled into a cell `tile_width` pixels wide (none: as wide as the widest tile, from 96 to 480) and as high as the median
    tile then is. Raises `ValueError` without tiles, or with captions that are not one a tile.
    """
    if not tiles or columns < 1:
        raise ValueError(f"{len(tiles)} tiles in {columns} columns; needed: at least one of each")
    if captions and len(captions) != len(tiles):
        raise ValueError(f"{len(captions)} captions for {len(tiles)} tiles; needed: one each, or none")
    columns = min(columns, len(tiles))
    width = tile_width or min(480, max(96, *(tile.shape[1] for tile in tiles)))
    height_limit = max(1, round(float(np.median([tile.shape[0] * width / tile.shape[1] for tile in tiles]))))  # one portrait fills no page
    pictures = [_scaled(tile, width, height_limit) for tile in tiles]
    rows = [range(start, min(start + columns, len(tiles))) for start in range(0, len(tiles), columns)]
    heights = [max(pictures[index].height for index in row) for row in rows]
    caption = CAPTION if captions else 0
    sheet_width = MARGIN + columns * (width + MARGIN)
    key = legend(classes, sheet_width - 2 * MARGIN) if classes else None
    top = MARGIN + (2 * TEXT + MARGIN if title else 0)
    sheet_height = top + sum(height + caption + MARGIN for height in heights) + (key.shape[0] + MARGIN if key is not None else 0)
    sheet = Image.new("RGB", (sheet_width, sheet_height), PAPER)
    draw, font = ImageDraw.Draw(sheet), _font(TEXT)
    if title:
        draw.text((MARGIN, MARGIN), shortened(title, sheet_width - 2 * MARGIN, _font(18)), INK, _font(18))
    for row, height in zip(rows, heights, strict=True):
        for place, index in enumerate(row):
            left, picture = MARGIN + place * (width + MARGIN), pictures[index]
            sheet.paste(picture, (left, top))
            draw.rectangle((left - 1, top - 1, left + picture.width, top + picture.height), outline=FRAME)
            if captions:
                draw.text((left, top + picture.height + 3), shortened(captions[index], width, font), QUIET, font)
        top += height + caption + MARGIN
    if key is not None:
        sheet.paste(Image.fromarray(key), (MARGIN, top))
    return encode_png(np.asarray(sheet))


def legend(classes: Sequence[ClassSpec], width: int) -> Pixels:
    """Swatches and names of the classes, wrapped at `width` pixels: uint8 H x `width` x 3."""
    font, line, swatch = _font(TEXT), 20, 14
    places: list[tuple[int, int, str, tuple[int, int, int]]] = []
    x = y = 0
    for item in classes:
        name = shortened(item.name, min(200, max(1, width - 2 * swatch)), font)
        needed = swatch + 6 + int(font.getlength(name)) + 14
        if x and x + needed > width:
            x, y = 0, y + line
        places.append((x, y, name, item.color))
        x += needed
    picture = Image.new("RGB", (width, y + line), PAPER)
    draw = ImageDraw.Draw(picture)
    for x, y, name, color in places:
        draw.rectangle((x, y + 2, x + swatch - 1, y + 1 + swatch), fill=color, outline=FRAME)
        draw.text((x + swatch + 6, y + 2), name, INK, font)
    return np.asarray(picture)


def classes_in(masks: Iterable[Mask | None], spec: DatasetSpec) -> list[ClassSpec]:
    """The classes that a legend of these masks needs."""
    seen = {int(value) for mask in masks if mask is not None for value in np.unique(mask)}
    return [item for index, item in enumerate(spec.classes) if index in seen]


def shortened(text: str, width: int, font: Font | None = None) -> str:
    """`text` on one line, cut in the middle to fit `width` pixels: a file's name matters more than the folders before it."""
    font = font or _font(TEXT)
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    for keep in range(len(text) - 1, 0, -1):
        tail = (2 * keep + 2) // 3
        short = f"{text[: keep - tail]}…{text[len(text) - tail :]}"
        if font.getlength(short) <= width:
            return short
    return "…"


def _scaled(tile: Pixels, width: int, height: int) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(tile))
    scale = min(width / picture.width, height / picture.height)
    size = (max(1, min(width, round(picture.width * scale))), max(1, min(height, round(picture.height * scale))))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST)


def _font(size: int) -> Font:
    return ImageFont.load_default(size)
