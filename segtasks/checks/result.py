"""The outcome of a check as plain values: what the terminal, `check.json` and the page show."""

from __future__ import annotations

from pydantic import Field

from segtasks.checks.config import KINDS, CheckSettings, Finding
from segtasks.config import Config

kept = 10_000  # findings of a kind that are kept; all are counted


class Found(Config):
    """All findings of one kind."""

    kind: str
    count: int
    allowed: int | None
    findings: tuple[Finding, ...] = Field(default=(), description="the first ones")

    @property
    def over(self) -> bool:
        return self.allowed is not None and self.count > self.allowed


class SplitFacts(Config):
    """One split."""

    name: str
    images: int = Field(description="images that were looked at")
    quarantined: int
    labelled: int = Field(description="images with truth")
    ignored_pixels: int
    near_duplicates: int = Field(description="images that look like another one of the split; video frames do")


class ClassFacts(Config):
    """One class: its pixels, and the images that have it, by split."""

    name: str
    color: tuple[int, int, int]
    pixels: dict[str, int]
    images: dict[str, int]


class Share(Config):
    """A size or a way of storing, and how many images have it."""

    name: str
    images: int


class CheckReport(Config):
    """Everything that a check found."""

    name: str
    data: str = Field(description="the shard set that was looked at, url@snapshot")
    source: str
    created: str
    refused: dict[str, int] = Field(description="quarantined images by error type")
    found: tuple[Found, ...] = Field(description="one a kind, in order of weight")
    splits: tuple[SplitFacts, ...]
    classes: tuple[ClassFacts, ...]
    sizes: tuple[Share, ...] = Field(description="the most frequent ones first")
    modes: tuple[Share, ...]

    @property
    def images(self) -> int:
        return sum(split.images for split in self.splits)

    @property
    def quarantined(self) -> int:
        return sum(split.quarantined for split in self.splits)

    @property
    def over(self) -> list[Found]:
        return [one for one in self.found if one.over]

    def count(self, kind: str) -> int:
        return next(one.count for one in self.found if one.kind == kind)


class Gathered:
    """Findings as they come: every one is counted, the first ones are kept."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(KINDS, 0)
        self._kept: dict[str, list[Finding]] = {kind: [] for kind in KINDS}

    def add(self, finding: Finding) -> None:
        self._counts[finding.kind] += 1
        if len(self._kept[finding.kind]) < kept:
            self._kept[finding.kind].append(finding)

    def result(self, settings: CheckSettings) -> tuple[Found, ...]:
        allowed = settings.max_findings
        return tuple(
            Found(kind=kind, count=self._counts[kind], allowed=getattr(allowed, kind), findings=tuple(self._kept[kind])) for kind in KINDS
        )
