"""What preprocess makes of one row of samples: the image, its mask and its objects are cut, resized, padded and tiled together.

Where nothing changes a pixel, the source's own bytes go through untouched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtasks.codecs.image import decode_image, encode_jpeg, encode_png
from segtasks.codecs.mask import decode_mask, encode_mask
from segtasks.errors import LimitError, ShapeError
from segtasks.shards.schema import to_meta
from segtasks.spec import MEAN_COLOR, Crop, DatasetSpec
from segtasks.stages.config import PreprocessConfig
from segtasks.transforms.fit import Fit, fit_image, fit_mask, plan_fit
from segtasks.transforms.georeference import Axis, follow
from segtasks.transforms.histogram import class_pixels
from segtasks.transforms.instances import Objects
from segtasks.transforms.tile import Tile, keeps_empty, plan_tiles

most_image_bytes = 192 << 20  # encoded tiles of one image: all its rows are in one shard
VANISHED = "instances_vanished"  # key of meta: objects that had pixels, and have none after the crop or the resize

Mask = NDArray[np.unsignedinteger[Any]]
Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What happens to an image of `height` x `width`. It is arithmetic: no pixel is needed."""

    height: int
    width: int
    crop: Crop
    fit: Fit
    tiles: tuple[Tile, ...]

    @property
    def changes_image(self) -> bool:
        """Whether the image as a whole changes; tiles come after that."""
        return (self.crop.height, self.crop.width) != (self.height, self.width) or self.fit.canvas != (self.height, self.width)

    @property
    def changes_pixels(self) -> bool:
        return self.changes_image or any((tile.height, tile.width) != self.fit.canvas for tile in self.tiles)

    @property
    def pixels(self) -> int:
        """Of all that is encoded anew."""
        return sum(tile.height * tile.width for tile in self.tiles) if self.changes_pixels else 0


def plan_image(height: int, width: int, config: PreprocessConfig) -> Plan:
    """`ShapeError` where the crop reaches over the edge."""
    crop = config.crop or Crop(height=height, width=width)
    if crop.top + crop.height > height or crop.left + crop.width > width:
        raise ShapeError(
            f"the image is {height}x{width}, crop takes rows {crop.top} to {crop.top + crop.height} and columns {crop.left} to "
            f"{crop.left + crop.width} (height x width): it reaches over the edge"
        )
    fit = plan_fit(crop.height, crop.width, config.resize)
    tiles = plan_tiles(*fit.canvas, config.tile) if config.tile else [Tile(0, 0, *fit.canvas)]
    return Plan(height, width, crop, fit, tuple(tiles))


class Preparer:
    """Makes the rows of one row. `spec` is that of the rows that come in."""

    def __init__(self, config: PreprocessConfig, spec: DatasetSpec) -> None:
        self._config, self._spec = config, spec
        background = {name.casefold() for name in config.tile.background} if config.tile else set()
        self._foreground = np.array([name.casefold() not in background for name in spec.names], np.bool_)

    def rows(self, row: Row, data: bytes) -> list[Row]:
        """`data`: the encoded image. Raises `DataFault` for a fault of this image alone; no row where no tile is kept."""
        plan = plan_image(row["height"], row["width"], self._config)
        by_reference = row["image"]["bytes"] is None
        row = {**row, "image": {"bytes": data, "path": row["image_id"]}}
        if plan.changes_pixels:
            whole = self._decoded(row, data, plan)
            return self._tiles(self._fitted(whole, plan) if plan.changes_image else whole, plan)
        if by_reference:
            self._decoded(row, data, plan)  # nobody has looked at its pixels yet
        if self._config.tile is None:
            return [row]
        counts = self._counts(self._mask(row)) if row["class_pixels"] is None else np.array(row["class_pixels"], np.int64)
        return self._named(row, plan, plan.tiles[0], counts)

    def _decoded(self, row: Row, data: bytes, plan: Plan) -> _Pixels:
        image, mask = decode_image(data, self._spec.decode).pixels, self._mask(row)
        for what, found in (("image", image), ("mask", mask)):
            if found is not None and found.shape[:2] != (plan.height, plan.width):
                raise ShapeError(f"the {what} is {found.shape[0]}x{found.shape[1]}, recorded are {plan.height}x{plan.width}")
        return _Pixels(row, image, mask, row["instances"])

    def _mask(self, row: Row) -> Mask | None:
        encoded = (row["mask"] or {}).get("bytes")
        return None if encoded is None else decode_mask(encoded, self._spec.decode.max_pixels)

    def _fitted(self, whole: _Pixels, plan: Plan) -> _Pixels:
        fit, inside = plan.fit, plan.crop.inside
        fill = self._config.resize.fill if self._config.resize else MEAN_COLOR
        image = fit_image(whole.image[inside], fit, fill)
        mask = None if whole.mask is None else fit_mask(whole.mask[inside], fit, self._spec.ignore_index)
        instances, meta = whole.instances, facts_of(whole.row)
        if instances is not None:
            rows, columns = fit.rows(plan.crop.height), fit.columns(plan.crop.width)
            kept = Objects(instances, plan.height, plan.width).moved(_from(rows, plan.crop.top), _from(columns, plan.crop.left))
            if len(kept) < len(instances):
                meta[VANISHED] = str(int(meta.get(VANISHED, "0")) + len(instances) - len(kept))
            instances = kept
        spacing = whole.row["spacing"]
        if spacing:
            spacing = [*spacing[:-2], spacing[-2] * plan.crop.height / fit.height, spacing[-1] * plan.crop.width / fit.width]
        meta = follow(
            meta,
            _axis(fit.canvas[0], plan.crop.height / fit.height, plan.crop.top, fit.top),
            _axis(fit.canvas[1], plan.crop.width / fit.width, plan.crop.left, fit.left),
        )
        return _Pixels({**whole.row, "spacing": spacing, "meta": to_meta(meta)}, image, mask, instances)

    def _tiles(self, whole: _Pixels, plan: Plan) -> list[Row]:
        tiling = self._config.tile
        if tiling is None:
            return [self._encoded(whole)]
        objects = None if whole.instances is None else Objects(whole.instances, *plan.fit.canvas)
        made: list[Row] = []
        size = 0
        for tile in plan.tiles:
            mask = None if whole.mask is None else tile.cut_mask(whole.mask, self._spec.ignore_index)
            instances = objects.moved(tile.rows(plan.fit.canvas[0]), tile.columns(plan.fit.canvas[1])) if objects else None
            named = self._named({**whole.row, "instances": instances}, plan, tile, self._counts(mask))
            if named:
                made.append(self._encoded(_Pixels(named[0], tile.cut_image(whole.image, tiling.fill), mask, instances)))
                size += len(made[-1]["image"]["bytes"])
            if size > most_image_bytes:
                raise LimitError(
                    f"its {len(plan.tiles)} tiles of {tile.height}x{tile.width} take more than {most_image_bytes >> 20} MiB, and one shard "
                    "holds all of an image: use encoding jpeg, or have it read in windows"
                )
        return made

    def _named(self, row: Row, plan: Plan, tile: Tile, counts: NDArray[np.int64] | None) -> list[Row]:
        """The row with its tile's id and place, and the image it is of; none where the tile is empty and not kept.

        Without truth nobody knows whether a tile is empty. Tiles of an image stay together wherever groups do.
        """
        tiling = self._config.tile
        assert tiling is not None
        tile_id = tile.id_of(row["image_id"])
        known = counts is not None or row["instances"] is not None
        something = row["instances"] or (counts is not None and counts[self._foreground].any())
        if known and not something and not keeps_empty(tile_id, tiling):
            return []
        place = {"tile_top": tile.top, "tile_left": tile.left, "image_height": plan.fit.canvas[0], "image_width": plan.fit.canvas[1]}
        facts = follow(facts_of(row), Axis(tile.height, tile.top), Axis(tile.width, tile.left))
        meta = to_meta({**facts, **{key: str(value) for key, value in place.items()}})
        group = row["group_id"] or row["image_id"]
        return [{**row, "image_id": tile_id, "parent_id": row["image_id"], "group_id": group, "meta": meta}]

    def _counts(self, mask: Mask | None) -> NDArray[np.int64] | None:
        if mask is None or not self._spec.classes:
            return None
        return class_pixels(mask, self._spec.num_classes)

    def _encoded(self, whole: _Pixels) -> Row:
        """The row with what is of its pixels."""
        lossless = self._config.encoding == "png"
        image_id, (height, width) = whole.row["image_id"], whole.image.shape[:2]
        columns: Row = {
            "image": {"bytes": encode_png(whole.image) if lossless else encode_jpeg(whole.image), "path": image_id},
            "media_type": "image/png" if lossless else "image/jpeg",
            "shape": [height, width, 3],
            "height": height,
            "width": width,
            "instances": whole.instances,
        }
        if whole.mask is not None:
            counts = self._counts(whole.mask)
            columns["mask"] = {"bytes": encode_mask(whole.mask, self._spec.palette), "path": f"{image_id}.mask.png"}
            columns["class_pixels"] = None if counts is None else counts.tolist()
        return {**whole.row, **columns}


def facts_of(row: Row) -> dict[str, str]:
    return {pair["key"]: pair["value"] for pair in row["meta"] or ()}


@dataclass(frozen=True)
class _Pixels:
    """An image or a tile that is not encoded yet; `row` has its other columns."""

    row: Row
    image: NDArray[np.uint8]
    mask: Mask | None
    instances: Sequence[Mapping[str, Any]] | None


def _axis(canvas: int, scale: float, begin: int, padding: int) -> Axis:
    return Axis(canvas, begin - padding * scale, scale)


def _from(places: NDArray[np.intp], first: int) -> NDArray[np.intp]:
    """Rows or columns of a region as those of the image that it begins in at `first`."""
    return np.where(places < 0, -1, places + first)
