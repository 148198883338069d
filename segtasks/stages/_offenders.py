"""Pictures of a check's findings: each shard that is needed is read once."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from segtasks.checks.result import CheckReport
from segtasks.errors import DataFault
from segtasks.reporting.check import Thumbnail, thumbnail
from segtasks.shards.pixels import IMAGE_COLUMNS
from segtasks.shards.snapshot import Snapshot
from segtasks.stages._checked import CheckedRows
from segtasks.stages._measure import open_row
from segtasks.stages.config import CheckConfig

others_shown = 1


def offenders(report: CheckReport, rows: CheckedRows, parent: Snapshot, config: CheckConfig) -> Mapping[str, Thumbnail]:
    """Thumbnails by image id of the first findings of each kind. Images that were refused have none."""
    findings = [finding for one in report.found for finding in one.findings[: config.examples]]
    wanted = sorted({image_id for finding in findings for image_id in (finding.image_id, *finding.others[:others_shown]) if image_id})
    places = pc.index_in(pa.array(wanted, pa.string()), value_set=rows.image_ids).to_pylist()
    by_shard: dict[str, set[str]] = {}
    for image_id, place in zip(wanted, places, strict=True):
        if place is not None:
            by_shard.setdefault(rows.record_of(place).parent_shard, set()).add(image_id)
    found: dict[str, Thumbnail] = {}
    for path, ids in by_shard.items():
        record = parent.records[path]
        names = parent.read(record, ["image_id"])["image_id"]
        table = parent.read(record, [*IMAGE_COLUMNS, "axes", "mask", "instances"]).filter(pc.is_in(names, pa.array(sorted(ids))))
        for row in table.to_pylist():
            try:
                opened = open_row(row, parent.spec, config.storage)
            except DataFault:
                continue  # it is told among the refused
            found[row["image_id"]] = thumbnail(opened.pixels, opened.shown, parent.spec)
    return found
