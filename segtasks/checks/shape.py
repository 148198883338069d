"""Images that are unlike the others: in size, in aspect, in how they are stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segtasks.checks.config import CheckSettings

usual_share = 0.95  # of the images with one size: then every other size is odd
varied_share = 0.25  # of the images that would be odd: then there is no usual size


def odd_sizes(widths: NDArray[np.int32], heights: NDArray[np.int32], settings: CheckSettings) -> list[tuple[int, str]]:
    """(image, what) of those far from the median in area or aspect, or unlike the one size that nearly all have; none where sizes vary."""
    if not len(widths):
        return []
    area = widths.astype(np.float64) * heights
    longer = np.maximum(widths, heights) / np.minimum(widths, heights)  # a phone held upright is no other aspect
    usual_area, usual_aspect = float(np.median(area)), float(np.median(longer))
    sizes, counts = np.unique(np.stack([widths, heights], axis=1), axis=0, return_counts=True)
    main = sizes[counts.argmax()]
    uniform = counts.max() >= usual_share * len(widths)
    of_main = (widths == main[0]) & (heights == main[1])
    by_area = np.maximum(area / usual_area, usual_area / area) > settings.odd_area
    by_aspect = np.maximum(longer / usual_aspect, usual_aspect / longer) > settings.odd_aspect
    odd = np.flatnonzero(by_area | by_aspect | (~of_main if uniform else False))
    if len(odd) > varied_share * len(widths):
        return []
    found = []
    for at in odd.tolist():
        size = f"{widths[at]}x{heights[at]}"
        if by_area[at]:
            times = area[at] / usual_area
            why = f"{times:.3g} times the median area" if times > 1 else f"1/{1 / times:.3g} of the median area"
        elif by_aspect[at]:
            why = f"aspect {longer[at]:.3g}, usual is {usual_aspect:.3g}"
        else:
            why = f"{counts.max():,} of {len(widths):,} images are {main[0]}x{main[1]}"
        found.append((at, f"{size} (width x height): {why}"))
    return found


def odd_traits(which: NDArray[np.int64], ways: Sequence[str], settings: CheckSettings) -> list[tuple[int, str]]:
    """(image, what) of those stored in a way that few others are; none where no way is that of half of the images.

    `which` of the `ways` each image is stored in; "" is plain RGB.
    """
    counts = np.bincount(which, minlength=len(ways))
    if not len(which) or counts.max() < len(which) / 2:
        return []
    odd = counts < settings.odd_share * len(which)
    most = int(counts.argmax())
    odd[most] = False
    usual = ways[most] or "plain RGB"
    return [(at, f"{ways[which[at]] or 'plain RGB'}; most are {usual}") for at in np.flatnonzero(odd[which]).tolist()]
