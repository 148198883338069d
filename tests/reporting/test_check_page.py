from __future__ import annotations

import base64
import io
import re

import numpy as np
from PIL import Image

from segtasks.checks.config import KINDS, Finding
from segtasks.checks.result import CheckReport, ClassFacts, Found, Share, SplitFacts
from segtasks.reporting.check import Thumbnail, render_check, thumbnail
from tests.reporting.test_page import EVIL, Page
from tests.reporting.worlds import spec_of

SPEC = spec_of("road", "sky")
PIXELS = np.zeros((30, 60, 3), np.uint8)


def report(
    *findings: Finding, counts: dict[str, int] | None = None, allowed: dict[str, int] | None = None, name: str = "made"
) -> CheckReport:
    by_kind = {kind: tuple(finding for finding in findings if finding.kind == kind) for kind in KINDS}
    return CheckReport(
        name=name,
        data="s3://bucket/data@1",
        source="s3://bucket/raw",
        created="2020-02-02",
        refused={"DecodeError": 250, "LabelError": 50},
        found=tuple(
            Found(
                kind=kind,
                count=(counts or {}).get(kind, len(by_kind[kind])),
                allowed=(allowed or {}).get(kind),
                findings=by_kind[kind],
            )
            for kind in KINDS
        ),
        splits=(
            SplitFacts(name="train", images=9, quarantined=1, labelled=8, ignored_pixels=5, near_duplicates=4),
            SplitFacts(name="val", images=2, quarantined=0, labelled=2, ignored_pixels=0, near_duplicates=0),
        ),
        classes=(
            ClassFacts(name="road", color=(255, 0, 0), pixels={"train": 75, "val": 10}, images={"train": 8, "val": 1}),
            ClassFacts(name="sky", color=(0, 255, 0), pixels={"train": 25, "val": 0}, images={"train": 2, "val": 0}),
        ),
        sizes=tuple(Share(name=f"{side}x9", images=20 - side) for side in range(1, 16)),
        modes=(Share(name="plain RGB", images=11),),
    )


def full() -> tuple[CheckReport, dict[str, Thumbnail]]:
    seen = thumbnail(PIXELS, np.ones((30, 60), np.uint8), SPEC)
    findings = (
        Finding(kind="quarantined", image_id="train/cut.png", split="train", what="DecodeError: cut off"),
        Finding(kind="empty_mask", image_id="train/a.png", split="train", what="background alone"),
        Finding(kind="duplicate_across_splits", image_id="val/b.png", split="val", what="2 images are the same", others=("train/c.png",)),
    )
    made = report(*findings, counts={"quarantined": 300}, allowed={"quarantined": 0, "empty_mask": 1})
    return made, {"train/a.png": seen, "val/b.png": seen, "train/c.png": seen}


def test_the_page_shows_each_finding_its_limit_and_its_verdict() -> None:
    words = Page(render_check(full()[0], SPEC, full()[1])).words
    for shown in (
        "Not passed 1 kind of finding over the limit", "quarantined 300 0 over the limit", "empty_mask 1 1 allowed",
        "duplicate_across_splits 1 any told only", "train/cut.png DecodeError: cut off",
        "DecodeError 250 LabelError 50", "299 more are in check.json",
        "train/a.png background alone", "val/b.png 2 images are the same", "Images 11 in 2 splits", "Refused 1",
        "road 75.00 % 100.0 % 100.00 % 50.0 %", "sky 25.00 % 25.0 % 0.00 % 0.0 %", "train 9 8 1 4", "1x9 19", "3 more.", "plain RGB 11",
    ):  # fmt: skip
        assert shown in words, shown


def test_what_was_looked_for_and_not_found_is_named() -> None:
    words = Page(render_check(report(), SPEC, {})).words
    assert "Passed 0 kinds of finding" in words
    assert "Nothing was found." in words
    named = re.search(r"Looked for and not found: (.*?)\.", words)
    assert named
    assert len(named[1].split(", ")) == len(KINDS)


def test_an_offender_is_shown_with_its_mask_or_beside_the_other_image() -> None:
    made, thumbnails = full()
    page = Page(render_check(made, SPEC, thumbnails))
    assert [value for name, value in page.attributes if name == "alt"] == [
        "image of train/a.png",
        "mask of train/a.png",
        "val of val/b.png",
        "train/c.png of val/b.png",
    ]
    sources = [value for name, value in page.attributes if name == "src"]
    pictures = [Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in sources]
    assert [picture.size for picture in pictures] == [(240, 120)] * 4  # 60x30 enlarged by a whole factor
    masked = np.asarray(pictures[1])[60, 120]
    assert masked.tolist()[1] > 80 > max(masked.tolist()[0], masked.tolist()[2])  # class 1 is green


def test_the_page_loads_nothing_and_runs_nothing_and_its_links_lead_somewhere() -> None:
    page = Page(render_check(*(full()[0], SPEC, full()[1])))
    assert not {"script", "link", "iframe", "object", "embed", "form"} & set(page.tags)
    assert all(value.startswith("data:image/jpeg;base64,") for name, value in page.attributes if name == "src")
    targets = {value[1:] for name, value in page.attributes if name == "href"}
    assert targets <= {value for name, value in page.attributes if name == "id"}


def test_every_string_is_escaped_and_the_same_report_gives_the_same_page() -> None:
    made = report(Finding(kind="odd_mode", image_id=EVIL, split=EVIL, what=EVIL, others=(EVIL,)), name=EVIL)
    html = render_check(made, spec_of(EVIL), {EVIL: thumbnail(PIXELS, None, SPEC)})
    page = Page(html)
    assert "script" not in page.tags
    assert not [name for name, _ in page.attributes if name == "onerror"]
    assert html == render_check(made, spec_of(EVIL), {EVIL: thumbnail(PIXELS, None, SPEC)})
