"""The page of a check: what was found, the offenders' pictures, the histogram of classes, sizes and modes. One file, no script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import jinja2

from segtasks import __version__
from segtasks.checks.config import MaxFindings
from segtasks.checks.result import CheckReport, ClassFacts, Found
from segtasks.reporting.data import Mask, Pixels
from segtasks.reporting.overlay import fit, overlay
from segtasks.reporting.page import data_uri
from segtasks.spec import DatasetSpec

longest_px = 260
listed = 20  # findings that the page names in a list below the pictures of their kind
shares_shown = 12
WITHOUT_MASK = ("odd_mode", "near_constant")  # their mask has nothing to do with it


@dataclass(frozen=True)
class Thumbnail:
    """An image, and the same under its mask where it has one, as data URIs."""

    image: str
    masked: str | None


@dataclass(frozen=True)
class Card:
    """One finding with its pictures: (caption, data URI)."""

    image_id: str
    split: str
    what: str
    pictures: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Section:
    """All of one kind: those with pictures first, the others by name."""

    found: Found
    title: str
    explained: str
    cards: tuple[Card, ...]
    others: tuple[Card, ...]


@dataclass(frozen=True)
class Bar:
    """One class in one split: shares from 0 to 1 of the split's labelled pixels and images, and `width` of the largest share."""

    pixels: int
    share: float
    images: int
    of_images: float
    width: float


def thumbnail(image: Pixels, mask: Mask | None, spec: DatasetSpec) -> Thumbnail:
    """Pictures of `longest_px` on the longer side."""
    small, masks = fit(image, [] if mask is None else [mask], longest_px)
    return Thumbnail(data_uri(small), data_uri(overlay(small, masks[0], spec)) if masks and spec.classes else None)


def render_check(report: CheckReport, spec: DatasetSpec, thumbnails: Mapping[str, Thumbnail]) -> str:
    """The whole page; the same report gives the same page."""
    html = _template().render(
        report=report,
        version=__version__,
        sections=[_section(one, thumbnails) for one in report.found if one.count],
        clean=[title_of(one.kind) for one in report.found if not one.count],
        splits=[split.name for split in report.splits if split.labelled],
        classes=_bars(report),
        shares=(("Sizes", "width x height", report.sizes), ("Stored as", "mode, depth, EXIF", report.modes)),
        shares_shown=shares_shown,
        shown=[item for item in spec.classes if any(thumb.masked for thumb in thumbnails.values())],
        total=max(1, report.images),
    )
    return html.encode("utf-8", "backslashreplace").decode()  # names of files may be no UTF-8


def title_of(kind: str) -> str:
    """`duplicate_across_splits` -> `Duplicate across splits`."""
    return kind.replace("_", " ").capitalize()


def _section(found: Found, thumbnails: Mapping[str, Thumbnail]) -> Section:
    cards: list[Card] = []
    others: list[Card] = []
    for finding in found.findings:
        pictures: list[tuple[str, str]] = []
        own = thumbnails.get(finding.image_id)
        if own is not None:
            pictures.append((finding.split or "image" if finding.others else "image", own.image))
            if finding.others and (other := thumbnails.get(finding.others[0])):
                pictures.append((finding.others[0], other.image))
            elif not finding.others and own.masked and found.kind not in WITHOUT_MASK:
                pictures.append(("mask", own.masked))
        card = Card(finding.image_id, finding.split, finding.what, tuple(pictures))
        if pictures:
            cards.append(card)
        else:
            others.append(card)
    explained = (MaxFindings.model_fields[found.kind].description or "").replace("`", "")
    return Section(found, title_of(found.kind), explained, tuple(cards), tuple(others[:listed]))


def _bars(report: CheckReport) -> list[tuple[ClassFacts, dict[str, Bar]]]:
    splits = [split for split in report.splits if split.labelled]
    totals = {split.name: sum(item.pixels.get(split.name, 0) for item in report.classes) for split in splits}
    shares = [
        {split.name: item.pixels.get(split.name, 0) / totals[split.name] if totals[split.name] else 0.0 for split in splits}
        for item in report.classes
    ]
    largest = max((share for row in shares for share in row.values()), default=0.0) or 1.0
    return [
        (
            item,
            {
                split.name: Bar(
                    pixels=item.pixels.get(split.name, 0),
                    share=row[split.name],
                    images=item.images.get(split.name, 0),
                    of_images=item.images.get(split.name, 0) / split.labelled,
                    width=row[split.name] / largest,
                )
                for split in splits
            },
        )
        for item, row in zip(report.classes, shares, strict=True)
    ]


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("segtasks.reporting", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["amount"] = _amount
    return environment.get_template("check.html.j2")


def _amount(count: int) -> str:
    return f"{count:,}"
