"""What writers of objects share: an image's objects, also where there is only a mask, and the image of ids that some formats want."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segtasks.codecs import rle
from segtasks.spec import BACKGROUND_NAMES, DatasetSpec
from segtasks.writers._base import Labelled, Scored

most_ids = 65535


def is_background(spec: DatasetSpec, index: int) -> bool:
    """Whether the class is what is left between objects, and so none of them: every reader and most people call it so."""
    item = spec.classes[index]
    return item.name.lower() in BACKGROUND_NAMES and not item.isthing


def objects_of(sample: Labelled, spec: DatasetSpec) -> tuple[Scored, ...]:
    """The instances; where there are none given, each class of the mask (but background) is one of all its pixels."""
    found = regions_of(sample.mask, spec) if sample.instances is None else sample.instances
    return tuple(one for one in found if not is_background(spec, one.category_id))


def regions_of(mask: NDArray[Any] | None, spec: DatasetSpec) -> tuple[Scored, ...]:
    """The mask's classes, each as one instance; ignored pixels are in none."""
    if mask is None:
        return ()
    shifted = np.where(mask == spec.ignore_index, 0, mask.astype(np.int32) + 1)
    return tuple(Scored(region.value - 1, region.bbox, float(region.area), region.counts) for region in rle.encode_regions(shifted))


def id_image(instances: tuple[Scored, ...], height: int, width: int, most: int = most_ids) -> NDArray[np.uint16] | None:
    """1, 2, ... on the pixels of each instance, 0 elsewhere; None where two overlap, or there are more than `most`."""
    if len(instances) > most:
        return None
    ids = np.zeros((height, width), np.uint16)
    for number, one in enumerate(instances, 1):
        mask = rle.decode(one.counts, height, width)
        if ids[mask].any():
            return None
        ids[mask] = number
    return ids
