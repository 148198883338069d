"""What counts as a finding, and how many of each kind are allowed. None of it is part of a recipe: the rows hold measures, not verdicts."""

from __future__ import annotations

from pydantic import Field

from segtasks.config import Config, execution
from segtasks.spec import BACKGROUND_NAMES


def _allowed(default: int | None, description: str) -> int | None:
    found: int | None = execution(default, ge=0, description=description)
    return found


class MaxFindings(Config):
    """Findings of each kind that are allowed: with more the check exits 3. None: any number, they are only told."""

    quarantined: int | None = _allowed(
        0, "images refused for a fault of their own: undecodable, no mask, mask of another size, values that are no class, file not there"
    )
    no_truth: int | None = _allowed(None, "images without mask and instances in a split where others have them")
    empty_mask: int | None = _allowed(None, "images of background alone, or without any object")
    ignored_mask: int | None = _allowed(None, "masks without a pixel that counts: all are ignored")
    one_class_mask: int | None = _allowed(None, "masks whose pixels are all of one class that is not background")
    mask_disagrees: int | None = _allowed(0, "images whose mask and instances say different classes (`max_disagreement`)")
    instance_empty: int | None = _allowed(0, "images with an instance that has no pixel")
    instance_area: int | None = _allowed(0, "images with an instance whose area is not that of its pixels (`area_tolerance`)")
    instance_box: int | None = _allowed(0, "images with an instance whose box is not that of its pixels (`box_tolerance`)")
    instance_duplicate: int | None = _allowed(None, "images with two instances of one class and the same pixels")
    instance_tiny: int | None = _allowed(None, "images with an instance of fewer than `min_object_pixels` pixels")
    duplicate_across_splits: int | None = _allowed(0, "groups of images with equal pixels in more than one split: leakage")
    duplicate_in_split: int | None = _allowed(None, "groups of images with equal pixels in one split")
    near_duplicate_across_splits: int | None = _allowed(
        0, "images that look like one of another split (`near_distance`) and are not of its group: leakage"
    )
    near_duplicate_same_group: int | None = _allowed(
        None, "images that look like one of another split and are of its group: frames of one video, slices of one patient"
    )
    group_across_splits: int | None = _allowed(
        None, "groups (video, patient) with images in more than one split; 0 is right for patients, video sets are published cut"
    )
    odd_mode: int | None = _allowed(None, "images stored unlike most: CMYK, palette, 16 bits, alpha, turned by EXIF (`odd_share`)")
    odd_size: int | None = _allowed(None, "images whose size or aspect is far from the usual one (`odd_area`, `odd_aspect`)")
    near_constant: int | None = _allowed(None, "images of nearly one colour (`constant_std`)")
    class_unseen: int | None = _allowed(None, "classes without a pixel in a split that has truth")
    class_rare: int | None = _allowed(None, "classes in fewer than `rare_share` of a split's images")


KINDS = tuple(MaxFindings.model_fields)


class CheckSettings(Config):
    """Where a measure becomes a finding. Another value needs no image to be read again."""

    max_findings: MaxFindings = execution(MaxFindings(), description="findings allowed of each kind; over it the check exits 3")
    background: tuple[str, ...] = execution(BACKGROUND_NAMES, description="classes that count as nothing, whatever their case")
    min_object_pixels: int = execution(10, ge=0, description="instances with fewer pixels are tiny; 0: none is")
    max_disagreement: float = execution(
        0.05, ge=0, le=1, description="largest share of the instances' pixels that may be of another class in the mask"
    )
    area_tolerance: float = execution(
        0.25, ge=0, description="how far an instance's area may be from its pixels, as a share of the larger, beyond half its box's border"
    )
    box_tolerance: float = execution(
        4.0, ge=0, description="pixels that a side of an instance's box may be off: COCO's boxes, of polygons, are up to 3.5"
    )
    near_distance: int = execution(4, ge=0, le=16, description="bits of 64 in which the perceptual hashes of near-duplicates may differ")
    constant_std: float = execution(2.0, ge=0, description="standard deviation, in levels of 255, below which an image is nearly constant")
    odd_area: float = execution(4.0, gt=1, description="factor by which an image may be larger or smaller than the median")
    odd_aspect: float = execution(2.0, gt=1, description="factor by which an image may be longer than the median, upright or not")
    odd_share: float = execution(0.1, ge=0, le=1, description="ways of storing (mode, depth, EXIF) that fewer images have are odd")
    rare_share: float = execution(0.01, ge=0, le=1, description="a class in fewer of a split's images is rare")
    examples: int = execution(6, ge=0, le=50, description="thumbnails of each kind of finding on the page")


class Finding(Config):
    """One thing that is wrong, or worth a look."""

    kind: str = Field(description="a field of MaxFindings")
    image_id: str = Field(default="", description="the image; empty where it is about a class")
    split: str = Field(default="", description="the image's split")
    what: str = Field(description="what was found")
    others: tuple[str, ...] = Field(default=(), description="other images that it is about")
