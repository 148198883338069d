"""Export: samples or predictions go back into a format that other tools read. Nothing is trained or predicted; labels lose only what
the format cannot hold, and its writer says so.

The output is somebody else's layout, so no commit protects it: `.segtasks-export.json` says what it is made of, and `complete` once it is
whole. Stopped in the middle, the same command writes it again from the start.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any

from segtasks import plugins
from segtasks.codecs.mask import decode_mask
from segtasks.engines import JSON, Done, Engine
from segtasks.errors import ConfigError, CorruptError, DataFault, IncompleteError, InputError, StorageError, error_named
from segtasks.shards.digest import canonical_json, content_id
from segtasks.shards.pixels import IMAGE_COLUMNS, image_bytes
from segtasks.shards.recipe import differences
from segtasks.shards.schema import SAMPLE_ROWS
from segtasks.shards.select import select
from segtasks.shards.snapshot import Snapshot, open_snapshot
from segtasks.stages._derive import Rows
from segtasks.stages.config import ExportDataConfig
from segtasks.stages.progress import Progress, silent
from segtasks.stages.result import StageResult
from segtasks.storage import Store, open_store
from segtasks.writers._base import Labelled, Scored, Writer
from segtasks.writers._files import upright

MARKER = ".segtasks-export.json"  # hidden, so that no reader takes it for a part of the data set
VERSION = 1  # raised when the same data are written under other names: files of both would lie side by side
passes = 3  # over shards that failed
shown = 10


def export_data(config: ExportDataConfig, engine: Engine, progress: Progress = silent) -> StageResult:
    """Write every chosen image of `config.data`; those that the format cannot take are named in the result (`left_out`).

    `IncompleteError` where it can take none of them. The driver holds some dozen bytes an image, and the reason of each that is left out.
    """
    started = time.monotonic()
    snapshot = open_snapshot(config.data, config.storage)
    if snapshot.file.rows not in (*SAMPLE_ROWS, "predictions/1"):
        raise InputError(f"{snapshot.ref} holds {snapshot.file.rows.partition('/')[0]}; needed: samples or predictions")
    config = config.model_copy(update={"format": plugins.resolved("writers", config.format), "data": str(snapshot.ref)})
    target = open_store(config.output, config.storage)
    writer = _open_writer(config, target, snapshot)
    if set(config.where or {}) - {"split"} and snapshot.file.rows == "predictions/1":
        raise InputError(f"{snapshot.ref} holds predictions, which have no meta; needed: where by split alone")
    items: list[JSON] = []
    splits: dict[str, list[int]] = {}
    for place, one in enumerate(select(snapshot, config.where, config.limit)):
        items.append({"place": place, "path": one.record.path, "rows": one.positions})
        splits.setdefault(one.record.split, []).append(place)
    images = sum(len(item["rows"]) for item in items)
    marker = {"version": VERSION, "data": config.data, "content": _content(snapshot), "format": config.format.model_dump(mode="json")}
    marker |= {"images": config.images, "where": config.where, "limit": config.limit}
    _claim(target, marker, only_look=config.dry_run)
    if config.dry_run:
        return StageResult(stage="export-data", url=target.url, dry_run=True, details={"images": images, "shards": len(items)})
    progress({"event": "plan", "stage": "export-data", "units": len(items), "todo": len(items), "inputs": images})
    left_out: dict[str, str] = {}
    written = 0
    with tempfile.TemporaryFile("w+b") as file:
        spool = _Spool(file)
        for done, (place, result) in enumerate(_written(engine, _Factory(config), items), 1):
            spool.put(place, result["entries"])
            left_out |= result["left_out"]
            written += len(result["entries"])
            progress({"event": "shard", "stage": "export-data", "done": done, "total": len(items), "quarantined": len(left_out),
                      "rows_done": written + len(left_out), "rows_total": images})  # fmt: skip
        if not written:
            raise IncompleteError(f"{config.format.name} can take none of {images} images:\n{_listing(left_out)}", _reasons(left_out))
        writer.finish({split: _Entries(spool, places) for split, places in sorted(splits.items())})
    target.replace(MARKER, _pretty({**marker, "complete": True, "written": written, "left_out": left_out}))
    progress({"event": "published", "stage": "export-data", "ref": target.url})
    return StageResult(
        stage="export-data",
        url=target.url,
        counts={"rows": images, "done": written, "quarantined": len(left_out), "empty": 0, "shards": len(items)},
        computed_shards=len(items),
        seconds=round(time.monotonic() - started, 3),
        details={"format": config.format.name, "data": config.data, "written": written, "left_out": left_out},
    )


def _open_writer(config: ExportDataConfig, target: Store, snapshot: Snapshot) -> Writer:
    module = plugins.load("writers", config.format.name)
    writer: Writer = module.build(plugins.configure("writers", config.format), target, snapshot.spec)
    return writer


def _content(snapshot: Snapshot) -> str:
    """Hash of what the snapshot lists: another data set may lie at the same URL by now, with the same number."""
    return content_id({"recipe": snapshot.file.recipe, "lists": list(snapshot.file.lists)})


def _claim(target: Store, marker: JSON, *, only_look: bool) -> None:
    """The output is empty, or was begun by the same export. `only_look`: it stays as it is."""
    begun = _pretty({**marker, "complete": False})
    try:
        found = _marker_of(target)
    except FileNotFoundError:
        other = next(iter(target.list()), None)
        if other is not None:
            raise ConfigError(f"{target.url} holds {other.path}, and no export of segtasks; needed: an empty or new folder") from None
        try:
            if only_look or target.create(MARKER, begun):
                return
            found = _marker_of(target)  # somebody else's, begun at the same time
        except FileNotFoundError as error:
            raise ConfigError(f"{target.url} is no folder, and cannot become one; needed: an empty or new folder") from error
    theirs = {key: found.get(key) for key in marker}
    if canonical_json(theirs) != canonical_json(marker):
        lines = "\n".join(f"  {line}" for line in differences(theirs, json.loads(canonical_json(marker))))
        raise ConfigError(f"{target.url} holds another export; needed: an empty or new folder. It differs in\n{lines}")
    if not only_look:
        target.replace(MARKER, begun)


def _marker_of(target: Store) -> JSON:
    try:
        found = json.loads(target.read(MARKER))
    except ValueError as error:
        raise CorruptError(f"{target.url_of(MARKER)} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise CorruptError(f"{target.url_of(MARKER)} holds a {type(found).__name__}; needed: what export-data wrote")
    return found


def _reasons(left_out: Mapping[str, str]) -> Iterator[str]:
    return (f"{image_id}: {why}" for image_id, why in left_out.items())


def _listing(left_out: Mapping[str, str]) -> str:
    return "\n".join(f"  {reason}" for reason in islice(_reasons(left_out), shown))


def _pretty(value: JSON) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()


def _written(engine: Engine, make_worker: _Factory, items: list[JSON]) -> Iterator[tuple[int, JSON]]:
    """Every shard's result, in order of completion; shards that fail are tried again."""
    todo = items
    for attempt in range(passes):
        failed = []
        with closing(engine.map(make_worker, todo)) as outcomes:
            for outcome in outcomes:
                if isinstance(outcome, Done):
                    yield outcome.item["place"], outcome.result
                    continue
                if outcome.fatal or (attempt == passes - 1 and outcome.error_type == StorageError.__name__):
                    raise error_named(outcome.error_type, outcome.error)
                failed.append(outcome)
        if not failed:
            return
        todo = [outcome.item for outcome in failed]
    reasons = [f"{outcome.item['path']}: {outcome.error_type}: {outcome.error}" for outcome in failed]
    first = next((f"\n{outcome.traceback}" for outcome in failed if outcome.traceback), "")
    listing = "\n".join(f"  {reason}" for reason in reasons[:shown])
    raise IncompleteError(f"{len(failed)} of {len(items)} shards could not be written in {passes} tries each:\n{listing}{first}", reasons)


class _Spool:
    """What `write` returned, by shard, on disk: a data set's entries may be larger than memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._places = file, dict[int, tuple[int, int]]()

    def put(self, place: int, entries: list[JSON]) -> None:
        data = json.dumps(entries).encode()
        self._places[place] = (self._file.seek(0, os.SEEK_END), len(data))
        self._file.write(data)

    def get(self, place: int) -> list[JSON]:
        offset, size = self._places[place]
        self._file.seek(offset)
        entries: list[JSON] = json.loads(self._file.read(size))
        return entries


class _Entries:
    """Those of one split, in the order of its shards, as often as they are wanted."""

    def __init__(self, spool: _Spool, places: list[int]) -> None:
        self._spool, self._places = spool, places

    def __iter__(self) -> Iterator[JSON]:
        for place in self._places:
            yield from self._spool.get(place)


@dataclass(frozen=True)
class _Factory:
    config: ExportDataConfig

    def __call__(self) -> _Worker:
        return _Worker(self.config)


class _Worker:
    """Writes the images of one shard."""

    def __init__(self, config: ExportDataConfig) -> None:
        self._config = config
        self._snapshot = open_snapshot(config.data, config.storage)
        self._source = self._snapshot
        if self._snapshot.file.rows == "predictions/1":
            assert self._snapshot.file.input is not None
            self._source = open_snapshot(self._snapshot.file.input, config.storage)  # newer ones may have dropped what was predicted on
        self._policy = self._source.spec.decode
        self._writer = _open_writer(config, open_store(config.output, config.storage), self._snapshot)

    def __call__(self, item: JSON) -> JSON:
        entries, left_out = [], {}
        for row in self._rows(item):
            try:
                entries.append(self._writer.write(self._sample(row)))
            except DataFault as fault:
                left_out[row["image_id"]] = f"{type(fault).__name__}: {fault}"
        return {"entries": entries, "left_out": left_out}

    def _rows(self, item: JSON) -> Iterator[JSON]:
        record = self._snapshot.records[item["path"]]
        names = ["image_id", "split", "width", "height", "mask", "instances"]
        pictures = ["media_type", "meta", *(name for name in IMAGE_COLUMNS if name != "image_id" and self._config.images)]
        if self._source is self._snapshot:
            yield from Rows(self._snapshot.read(record, [*names, *pictures], rows=item["rows"]))
            return
        parent = self._source.records.get(record.parent_shard)
        if parent is None:
            raise CorruptError(f"{self._source.ref} does not list {record.parent_shard}, which {record.path} was made from")
        images = self._source.read(parent, ["image_id", *pictures])
        place = {image_id: at for at, image_id in enumerate(images["image_id"].to_pylist())}
        rows = Rows(images)
        for row in Rows(self._snapshot.read(record, [*names, "parent_id"], rows=item["rows"])):
            yield {**rows[place[row["parent_id"]]], **row}

    def _sample(self, row: Mapping[str, Any]) -> Labelled:
        encoded = (row["mask"] or {}).get("bytes")
        image, media_type = None, row["media_type"]
        if self._config.images:
            image, media_type = upright(image_bytes(row, self._config.storage), media_type, self._policy)
        return Labelled(
            image_id=row["image_id"],
            split=row["split"] or "",
            height=row["height"],
            width=row["width"],
            mask=decode_mask(encoded, self._policy.max_pixels) if encoded else None,
            instances=None if row["instances"] is None else tuple(_instance(one) for one in row["instances"]),
            image=image,
            media_type=media_type,
            meta={pair["key"]: pair["value"] for pair in row["meta"] or ()},
        )


def _instance(one: JSON) -> Scored:
    return Scored(one["category_id"], tuple(one["bbox"]), one["area"], one["counts"], bool(one["iscrowd"]), one.get("score"))
