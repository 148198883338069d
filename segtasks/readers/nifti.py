"""NIfTI volumes (.nii, .nii.gz) as 2-D slices or whole, turned to RAS. Needs the extra `medical`.

Layouts known without options: nnU-Net (`imagesTr/<case>_0000.nii.gz`, `labelsTr/<case>.nii.gz`), Medical Segmentation Decathlon
(`imagesTr/<case>.nii.gz`, modalities on the fourth axis), both with their `dataset.json`; BraTS (`<case>/<case>_flair.nii.gz`,
`<case>_seg.nii.gz`); `images/` and `labels/`. Any other is said by patterns, see `readers._nifti_layout`.

- A slice is `volume[z]` of the canonical array Z, Y, X, as it is: rows run from back to front and columns from left to right (coronal:
  upwards, left to right; sagittal: upwards, back to front). One channel becomes a grey PNG of 16 bits, two or three become 8-bit RGB;
  meta holds `intensity_low`, `intensity_high` and `intensity_levels`: value = low + code * (high - low) / levels, clipped at both ends.
- A volume (`mode: volume`) is the file itself where one file has all channels wanted, otherwise a new .nii.gz; its mask is a .nii.gz.
- Labels: whole numbers in any type; several channels are one-hot. In a split with any label a case without one is refused; shape
  and affine must be the image's. All slices of a case are one group.
- `scan` reads headers only. A file whose header is damaged is one item, which `read` refuses.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from segtasks.codecs.image import encode_png
from segtasks.codecs.png import write_grey16
from segtasks.codecs.volume import Volume, VolumeHeader, encode_volume, open_volume
from segtasks.config import Config as BaseConfig
from segtasks.errors import DataFault, DecodeError, InputError, LabelError, MissingObject, ShapeError
from segtasks.readers import _nifti_classes
from segtasks.readers._base import RawSample, SourceItem
from segtasks.readers._kept import Kept
from segtasks.readers._nifti import AXES, Axis, Channel, Labels, Overlap, channel, differs
from segtasks.readers._nifti_items import Items, Wanted, most_colors
from segtasks.readers._nifti_layout import check_pattern, plain_pattern
from segtasks.spec import DatasetSpec, DecodePolicy
from segtasks.storage import Store

_kept_cases = 2  # a worker's threads are at most at the end of one case and at the beginning of the next


class Config(BaseConfig):
    """Options of the NIfTI reader."""

    images: tuple[str, ...] = Field(
        default=(), description="patterns of the images, one a channel or one for all: <case>/t1, <case>_<channel>; none: a known layout"
    )
    labels: str = Field(default="", description="pattern of the label files, such as <case>/seg.nii.gz; none: the layout's, or no labels")
    mode: Literal["slices", "volume"] = Field(default="slices", description="slices: one image a slice; volume: one a case, whole")
    axis: Axis = Field(default="axial", description="what slices are cut across, in RAS orientation")
    channels: tuple[str | int, ...] = Field(
        default=(), description="names or numbers of the channels (modalities) to read; none: all, of slices the first three"
    )
    window: tuple[float, float] | None = Field(default=None, description="level and width of the intensities shown in slices, as for CT")
    percentiles: tuple[float, float] = Field(
        default=(0.5, 99.5), description="of each volume: the intensities that become black and white in slices, where there is no window"
    )
    skip_empty: bool = Field(default=False, description="leave out slices whose label is background throughout")
    classes: tuple[str, ...] = Field(default=(), description="class names in index order; none: of dataset.json, or inferred")
    labels_map: dict[int, str | int] = Field(default_factory=dict, description="label value -> class name, index, or ignore")
    overlap: Overlap = Field(default="refuse", description="which channel of a one-hot label wins where several are set")
    label_affine: Literal["same", "ignored"] = Field(
        default="same", description="same: a label's affine must be its image's; ignored: it lies on its image voxel by voxel"
    )
    infer_from: int = Field(default=8, ge=1, description="labels looked at, evenly spread, where classes have to be inferred")

    @field_validator("images", "channels", "classes", mode="before")
    @classmethod
    def _one_alone(cls, value: Any) -> Any:
        return (value,) if isinstance(value, (str, int)) else value

    @field_validator("images", "labels")
    @classmethod
    def _in_braces(cls, value: Any) -> Any:
        return plain_pattern(value) if isinstance(value, str) else tuple(map(plain_pattern, value))

    @model_validator(mode="after")
    def _ranges(self) -> Config:
        if self.window is not None and self.window[1] <= 0:
            raise ValueError(f"window has the width {self.window[1]}; needed: level and width, the width above 0")
        if not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ValueError(f"percentiles are {self.percentiles}; needed: two of 0 to 100, the lower one first")
        if self.mode == "slices" and len(self.channels) > most_colors:
            raise ValueError(f"{len(self.channels)} channels for slices; needed: up to three, which become red, green and blue")
        return self


def build(config: Config, source: Store, spec: DatasetSpec | None = None) -> NiftiReader:
    for pattern in (*config.images, *([config.labels] if config.labels else [])):
        check_pattern(pattern, needs_case=bool(config.labels))
    return NiftiReader(config, source, spec)


@dataclass(frozen=True)
class _Case:
    """A case in memory: channel numbers of volumes that lie on one grid, and the label. `shown` has intensities for slices."""

    chosen: tuple[tuple[Volume, int], ...]
    labels: Labels | None
    shown: tuple[Channel, ...] = ()

    @property
    def header(self) -> VolumeHeader:
        return self.chosen[0][0].header


class NiftiReader:
    """See the module. A worker keeps the last two cases, since slices come in order."""

    def __init__(self, config: Config, source: Store, spec: DatasetSpec | None = None) -> None:
        self._config, self._source, self._spec = config, source, spec
        self._kept: Kept[_Case] = Kept(_kept_cases)

    def spec(self) -> DatasetSpec:
        if self._spec is None:
            described = self._items.description
            name = described.name or self._source.url.rstrip("/").rsplit("/", 1)[-1]
            said = _nifti_classes.spec_of(name, described, self._config.classes, self._config.labels_map)
            self._spec = said or self._inferred(name)
        return self._spec

    def scan(self) -> Iterator[SourceItem]:
        return self._items.scan(self._max_voxels)

    def read(self, item: SourceItem) -> RawSample:
        details = json.loads(item.details)
        if details["missing"]:
            raise MissingObject(f"case {details['case']!r} has no file of channel {details['missing']!r}")
        if self._config.mode == "volume":
            return self._volume(item, details)
        case = self._kept.get(f"{details['files']}\0{item.version}", lambda: self._load_slices(item, details))
        at = details.get("slice")
        if at is None:
            raise DecodeError(f"{item.path} could not be read when it was listed, so its slices are not known; run ingest again")
        mask = case.labels.plane(self._config.axis, at, self.spec()) if case.labels else None
        if self._config.skip_empty and mask is not None and not ((mask != 0) & (mask != self.spec().ignore_index)).any():
            return RawSample(b"", empty=True)
        image, facts = _picture(case.shown, self._config.axis, at)
        cut = AXES[self._config.axis][0]
        spacing = tuple(step for axis, step in enumerate(case.header.spacing) if axis != cut)
        place = {"axis": self._config.axis, "slice": str(at), "slices": str(case.header.shape[cut])}
        return RawSample(image, mask, meta={**_facts(case.header, details), **facts, **place}, spacing=spacing)

    def _volume(self, item: SourceItem, details: dict[str, Any]) -> RawSample:
        data = self._source.read(item.path)
        case = self._load(item, details, {item.path: data})
        header = case.header
        several_files = any(volume is not case.chosen[0][0] for volume, _ in case.chosen)
        if several_files or [at for _, at in case.chosen] != list(range(header.channels)):
            channels = [volume.values(volume.stored[at]) for volume, at in case.chosen]
            data = encode_volume(np.stack(channels) if len(channels) > 1 else channels[0], header.affine)
        mask = np.stack([case.labels.plane("axial", at, self.spec()) for at in range(header.shape[0])]) if case.labels else None
        axes = "CZYX" if len(case.chosen) > 1 else "ZYX"
        return RawSample(data, mask, meta=_facts(header, details), spacing=header.spacing, axes=axes)

    def _load_slices(self, item: SourceItem, details: dict[str, Any]) -> _Case:
        case = self._load(item, details, {})
        shown = tuple(channel(volume, at, self._config.window, self._config.percentiles) for volume, at in case.chosen)
        return _Case(case.chosen, case.labels, shown)

    def _load(self, item: SourceItem, details: dict[str, Any], have: dict[str, bytes]) -> _Case:
        volumes: dict[str, Volume] = {}
        for path, number in details["files"]:
            if path not in volumes:
                volumes[path] = open_volume(have[path] if path in have else self._source.read(path), self._max_voxels)
            if number >= volumes[path].header.channels:
                raise ShapeError(f"{path} has {volumes[path].header.channels} channels, numbered from 0; `channels` asks for {number}")
        first, *others = volumes
        for other in others:
            if found := differs(volumes[first].header, volumes[other].header):
                raise ShapeError(f"{first} and {other} are not channels of one image: they have {found}")
        chosen = tuple((volumes[path], number) for path, number in details["files"])
        return _Case(chosen, self._labels(item.labels.get("mask"), volumes[first].header))

    def _labels(self, path: str | None, image: VolumeHeader | None) -> Labels | None:
        """The label volume at `path`, which must lie on the image."""
        if path is None:
            return None
        ignored = image is not None and self._config.label_affine == "ignored"
        try:
            volume = open_volume(self._source.read(path), self._max_voxels, like=image if ignored else None)
        except FileNotFoundError as error:
            raise LabelError(f"{path} is missing") from error
        except DataFault as fault:
            raise LabelError(f"{path}: {fault}") from fault
        if image is not None and (found := differs(volume.header, image)):
            advice = "; if they do lie on each other voxel by voxel: label_affine: ignored" if volume.header.shape == image.shape else ""
            raise LabelError(f"{path} does not lie on its image: label and image have {found}{advice}")
        return Labels(volume, path, self._config.overlap)

    def _inferred(self, name: str) -> DatasetSpec:
        paths = self._items.labels
        if not paths:
            return DatasetSpec(name=name)
        chosen = min(self._config.infer_from, len(paths))
        values: set[int] = set()
        faults: list[str] = []
        for number in range(chosen):
            try:
                labels = self._labels(paths[number * len(paths) // chosen], None)
                values |= labels.all_values() if labels else set()
            except DataFault as fault:
                faults.append(str(fault))
        if len(faults) == chosen:
            raise InputError(f"none of {chosen} labels looked at can be used, so no classes are known at {name}: {faults[0]}")
        return _nifti_classes.infer(name, values, chosen - len(faults), len(paths))

    @cached_property
    def _items(self) -> Items:
        axis = self._config.axis if self._config.mode == "slices" else None
        return Items(self._source, Wanted(self._config.images, self._config.labels, self._config.channels, axis))

    @property
    def _max_voxels(self) -> int:
        return (self._spec.decode if self._spec else DecodePolicy()).max_pixels


def _facts(header: VolumeHeader, details: dict[str, Any]) -> dict[str, str]:
    facts = {"case": details["case"], "orientation": header.orientation, "affine": json.dumps(header.affine.tolist())}
    if header.intent != "none":
        facts["intent"] = header.intent
    return {**facts, "channels": ", ".join(details["channels"])}


def _picture(shown: tuple[Channel, ...], axis: Axis, at: int) -> tuple[bytes, dict[str, str]]:
    """A PNG, grey of 16 bits for one channel and colour of 8 bits for two or three, and how to get the intensities back."""
    levels = 65535 if len(shown) == 1 else 255
    codes, strange = zip(*(one.codes(axis, at, levels) for one in shown))
    facts = {
        "intensity_low": ", ".join(repr(one.low) for one in shown),
        "intensity_high": ", ".join(repr(one.high) for one in shown),
        "intensity_levels": str(levels),
    }
    if any(strange):
        facts["non_finite"] = ", ".join(map(str, strange))
    if len(codes) == 1:
        return write_grey16(codes[0]), facts
    colors = [*codes, np.zeros_like(codes[0])][:most_colors]
    return encode_png(np.stack(colors, axis=-1).astype(np.uint8)), facts
