"""From the rows of a check to its report: shard by shard, keeping a few dozen bytes an image for what must be compared across all."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from segtasks.checks.across import Columns, duplicates, groups_across, near_duplicates
from segtasks.checks.config import CheckSettings, Finding
from segtasks.checks.masks import ClassTotals, background_of, mask_kinds
from segtasks.checks.result import CheckReport, ClassFacts, Gathered, Share, SplitFacts
from segtasks.checks.shape import odd_sizes, odd_traits
from segtasks.shards.records import ShardRecord
from segtasks.shards.snapshot import Snapshot
from segtasks.spec import DatasetSpec
from segtasks.stages.config import CheckConfig

_COLUMNS = [
    *("image_id", "group_id", "split", "width", "height", "stored", "file_sha256", "pixels_sha256", "phash", "std"),
    *("class_pixels", "ignored_pixels", "object_pixels", "faults"),
]


@dataclass(frozen=True)
class CheckedRows:
    """The images in the order in which they were read, and which shard each is in."""

    image_ids: pa.Array
    records: tuple[ShardRecord, ...]
    starts: NDArray[np.int64]  # of each record's rows

    def record_of(self, image: int) -> ShardRecord:
        return self.records[int(np.searchsorted(self.starts, image, side="right")) - 1]


def build_report(own: Snapshot, parent: Snapshot, config: CheckConfig) -> tuple[CheckReport, CheckedRows]:
    """All findings. 10^6 images of 19 classes, 20 objects each, take 8 s and half a gigabyte, a fifth of it for ids of 50 characters."""
    gathered = Gathered()
    refused, errors = _quarantined(own, parent, config, gathered)
    classes = ClassTotals(parent.spec.num_classes)
    kept: list[pa.Table] = []
    records, starts, total = [], [], 0
    untold: dict[str, list[Finding]] = {}
    for record in own.shards():
        table = own.read(record, _COLUMNS)
        if table.num_rows:
            _look_at(table.combine_chunks(), parent.spec, config, classes, gathered, untold)
            kept.append(_slim(table))
            records.append(record)
            starts.append(total)
            total += table.num_rows
    for split, findings in untold.items():
        for finding in findings if classes.labelled.get(split) else ():
            gathered.add(finding)
    images = (pa.concat_tables(kept) if kept else _slim(own.read_all(_COLUMNS))).unify_dictionaries().combine_chunks()
    kept.clear()
    columns = _columns(images)
    in_split = _look_across(images, columns, config, gathered)
    for finding in classes.findings(parent.spec.names, config):
        gathered.add(finding)
    report = CheckReport(
        name=parent.spec.name,
        data=str(parent.ref),
        source=parent.file.source or str(parent.file.input),
        created=own.file.created_at,
        refused=dict(errors.most_common()),
        found=gathered.result(config),
        splits=_splits(columns, refused, classes, in_split),
        classes=_classes(parent.spec, classes),
        sizes=_sizes(images["width"].to_numpy(), images["height"].to_numpy()),
        modes=_shares({name or "plain RGB": count for name, count in zip(*_counts(images["stored"]))}),
    )
    ids = images["image_id"].combine_chunks() if total else pa.array([], pa.string())
    return report, CheckedRows(ids, tuple(records), np.array(starts, np.int64))


def _quarantined(own: Snapshot, parent: Snapshot, config: CheckConfig, gathered: Gathered) -> tuple[Counter[str], Counter[str]]:
    """Those refused before, and those that this stage could not decode; by split and by error type."""
    wanted = config.where.get("split")
    splits, errors = Counter[str](), Counter[str]()
    for snapshot in (parent, own):
        for row in snapshot.quarantined():
            split = row["split"] or ""
            if wanted is None or split == wanted or (not isinstance(wanted, str) and split in wanted):
                splits[split] += 1
                errors[row["error_type"]] += 1
                what = f"{row['error_type']}: {row['error']}"
                gathered.add(Finding(kind="quarantined", image_id=row["image_id"], split=split, what=what))
    return splits, errors


def _look_at(
    table: pa.Table, spec: DatasetSpec, settings: CheckSettings, classes: ClassTotals, gathered: Gathered, untold: dict[str, list[Finding]]
) -> None:
    """What one image shows by itself. A shard is of one split."""
    ids, split = table["image_id"], table["split"][0].as_py() or ""

    def add(kind: str, row: int, what: str) -> None:
        gathered.add(Finding(kind=kind, image_id=ids[row].as_py(), split=split, what=what))

    std = table["std"].to_numpy()
    for row in np.flatnonzero(std < settings.constant_std).tolist():
        add("near_constant", row, f"standard deviation {std[row]:.2f} of 255 levels")
    labelled = np.flatnonzero(~table["class_pixels"].is_null().to_numpy())
    truth = ~(table["class_pixels"].is_null().to_numpy() & table["object_pixels"].is_null().to_numpy())
    for row in np.flatnonzero(~truth).tolist():
        untold.setdefault(split, []).append(
            Finding(
                kind="no_truth", image_id=ids[row].as_py(), split=split, what="neither mask nor instances, which others of its split have"
            )
        )
    counts = _array(table["class_pixels"]).flatten().to_numpy(zero_copy_only=False).reshape(len(labelled), spec.num_classes)
    classes.add(split, counts, pc.sum(table["ignored_pixels"]).as_py() or 0)
    names = np.array(spec.names)
    for kind, rows in mask_kinds(counts, background_of(spec, settings)).items():
        for row in rows.tolist():
            present = ", ".join(names[counts[row] > 0].tolist())
            add(kind, int(labelled[row]), f"{present} alone" if present else "every pixel is ignored")
    _look_at_objects(table, settings, add)


def _look_at_objects(table: pa.Table, settings: CheckSettings, add: Any) -> None:
    areas = _array(table["object_pixels"])
    owners, pixels = pc.list_parent_indices(areas).to_numpy(), areas.flatten().to_numpy(zero_copy_only=False)
    tiny = (pixels < settings.min_object_pixels) & (pixels > 0)
    rows, counts = np.unique(owners[tiny], return_counts=True)
    least = np.full(table.num_rows, np.iinfo(np.int64).max)
    np.minimum.at(least, owners[tiny], pixels[tiny])
    for row, count in zip(rows.tolist(), counts.tolist()):
        add("instance_tiny", row, f"{count} with fewer than {settings.min_object_pixels} pixels, the smallest has {least[row]}")
    limits = {"mask_disagrees": settings.max_disagreement, "instance_area": settings.area_tolerance, "instance_box": settings.box_tolerance}
    faults = _array(table["faults"])
    for row, fault in zip(pc.list_parent_indices(faults).to_pylist(), faults.flatten().to_pylist(), strict=True):
        if fault["amount"] > limits.get(fault["kind"], 0):
            add(fault["kind"], row, fault["what"])


def _look_across(images: pa.Table, columns: Columns, config: CheckConfig, gathered: Gathered) -> dict[str, int]:
    """What only all images show; returns the near-duplicates inside each split."""
    for image, what in odd_sizes(images["width"].to_numpy(), images["height"].to_numpy(), config):
        gathered.add(columns.finding("odd_size", image, what))
    for image, what in odd_traits(*_codes(images["stored"]), config):
        gathered.add(columns.finding("odd_mode", image, what))
    near = near_duplicates(columns, config)
    for finding in (*duplicates(columns), *near.findings, *groups_across(columns)):
        gathered.add(finding)
    return near.in_split


def _columns(images: pa.Table) -> Columns:
    splits, split_names = _codes(images["split"])
    groups, group_names = _codes(images["group_id"])
    nameless = [code for code, name in enumerate(group_names) if not name]
    return Columns(
        image_ids=_array(images["image_id"]),
        splits=splits,
        split_names=split_names,
        groups=np.where(np.isin(groups, nameless), -1, groups),
        group_names=group_names,
        pixels=_words(images["pixels_sha256"], 2),
        files=_words(images["file_sha256"], 2),
        phash=_words(images["phash"], 1)[:, 0],
        std=images["std"].to_numpy(),
    )


def _slim(table: pa.Table) -> pa.Table:
    """What is kept of every image: names that repeat as numbers, and of a hash its first 128 bits."""
    columns: dict[str, Any] = {name: table[name] for name in ("image_id", "width", "height", "std")}
    for name in ("split", "group_id", "stored"):
        columns[name] = pc.dictionary_encode(pc.fill_null(table[name], ""))
    for name, size in (("pixels_sha256", 16), ("file_sha256", 16), ("phash", 8)):
        columns[name] = pc.binary_slice(table[name], 0, size).cast(pa.binary(size))
    return pa.table(columns)


def _codes(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str]]:
    """Of each image which of the names it has, and the names."""
    encoded = _array(column)
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary.to_pylist()


def _counts(column: pa.ChunkedArray) -> tuple[list[str], list[int]]:
    codes, names = _codes(column)
    return names, np.bincount(codes, minlength=len(names)).tolist()


def _words(column: pa.ChunkedArray, count: int) -> NDArray[np.uint64]:
    """Hashes as words of 64 bits: n x count."""
    values = _array(column)
    data = np.frombuffer(values.buffers()[1], np.uint8)[8 * count * values.offset :][: 8 * count * len(values)] if len(values) else b""
    return np.frombuffer(data, ">u8").astype(np.uint64).reshape(-1, count)


def _array(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    return found if isinstance(found, pa.Array) else pa.concat_arrays(found.chunks)


def _splits(columns: Columns, refused: dict[str, int], classes: ClassTotals, in_split: dict[str, int]) -> tuple[SplitFacts, ...]:
    sizes = dict(zip(columns.split_names, np.bincount(columns.splits, minlength=len(columns.split_names)).tolist()))
    return tuple(
        SplitFacts(
            name=split,
            images=sizes.get(split, 0),
            quarantined=refused.get(split, 0),
            labelled=classes.labelled.get(split, 0),
            ignored_pixels=classes.ignored.get(split, 0),
            near_duplicates=in_split.get(split, 0),
        )
        for split in dict.fromkeys([*columns.split_names, *refused])
    )


def _classes(spec: DatasetSpec, totals: ClassTotals) -> tuple[ClassFacts, ...]:
    return tuple(
        ClassFacts(
            name=item.name,
            color=item.color,
            pixels={split: int(pixels[index]) for split, pixels in totals.pixels.items()},
            images={split: int(images[index]) for split, images in totals.images.items()},
        )
        for index, item in enumerate(spec.classes)
    )


def _sizes(widths: NDArray[np.int32], heights: NDArray[np.int32]) -> tuple[Share, ...]:
    pairs, counts = np.unique(widths.astype(np.int64) << 32 | heights, return_counts=True)
    return _shares({f"{pair >> 32}x{pair & 0xFFFFFFFF}": count for pair, count in zip(pairs.tolist(), counts.tolist())})


def _shares(counts: dict[str, int]) -> tuple[Share, ...]:
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Share(name=name, images=count) for name, count in most)
