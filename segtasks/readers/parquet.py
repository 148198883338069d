"""Tables with a column of images: every `*.parquet` below the source, a row an image; Hugging Face's layout is one of these.

- `image` and `mask` hold encoded bytes, a struct of bytes and path (Hugging Face's `Image`), or the path of a file below the source.
- The split is a column's, or the file name's: `train-00000-of-00002.parquet`, `val.parquet`, `test/0000.parquet`.
- Class names are those of a `ClassLabel` in the table's Hugging Face features, or the option `classes`, or inferred from some masks.
- The version of a row is its table's (and that of the files its paths name): a table that is written again is read again, all of it.

A segtasks shard set is refused: it is ingested already.
"""

from __future__ import annotations

import json
import logging
import posixpath
import re
from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from typing import Any

from pydantic import Field

from segtasks.codecs.mask import decode_label
from segtasks.config import Config as BaseConfig
from segtasks.config import validate
from segtasks.errors import DataFault, DecodeError, InputError, LabelError, MissingObject
from segtasks.readers import _describe
from segtasks.readers._base import RawSample, SourceItem
from segtasks.readers._infer import infer_spec
from segtasks.readers._labels import to_indices
from segtasks.readers._listing import is_hidden, item_size, item_version, stem, suffix
from segtasks.readers._tables import RowReader, Table, is_path, is_picture, open_table
from segtasks.spec import DatasetSpec, DecodePolicy
from segtasks.storage import Entry, Store

log = logging.getLogger(__name__)
mask_names = ("mask", "label", "annotation")
_numbered = re.compile(r"(?:.*[-_.])?([A-Za-z][A-Za-z0-9]*)-\d+-of-\d+")
_splits = {"train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation"}


class Config(BaseConfig):
    """Options of the parquet reader."""

    image: str = Field(default="image", min_length=1, description="column of the images")
    mask: str | None = Field(
        default="auto", description="column of the masks; auto: mask, label or annotation where it holds pictures; none: no truth"
    )
    id: str | None = Field(default=None, description="column of unique ids, paths below some folder; none: the file and the row's number")
    split: str | None = Field(default=None, description="column of the split; none: the file name's")
    group: str | None = Field(default=None, description="column of the group (video, patient), which stays together")
    meta: tuple[str, ...] = Field(default=(), description="columns whose values are kept as meta")
    classes: tuple[str, ...] = Field(default=(), description="class names in index order; none: those of the column class_names")
    class_names: str = Field(
        default="", description="column whose Hugging Face ClassLabel has the classes' names, a dotted path; none: the only one there is"
    )
    ignore: tuple[int, ...] = Field(default=(255,), description="mask values that do not count")
    value_map: dict[int, str | int] = Field(
        default_factory=dict, description="mask value -> class name or index; none: the value is the index"
    )
    infer_from: int = Field(default=256, ge=1, description="masks looked at where classes have to be inferred")


def build(config: Config, source: Store, spec: DatasetSpec | None = None) -> ParquetReader:
    return ParquetReader(config, source, spec)


class ParquetReader:
    """See the module."""

    def __init__(self, config: Config, source: Store, spec: DatasetSpec | None = None) -> None:
        self._config, self._source, self._spec = config, source, spec
        self._rows = RowReader(source)

    def spec(self) -> DatasetSpec:
        if self._spec is None:
            self._spec = self._find_spec()
        return self._spec

    def scan(self) -> Iterator[SourceItem]:
        for entry in self._tables:
            with open_table(self._source, entry.path) as table:
                yield from self._items(entry, table)

    def read(self, item: SourceItem) -> RawSample:
        at = json.loads(item.details)
        columns = [name for name in (self._config.image, at["mask"], *self._config.meta) if name]
        row = self._rows.get(item.path, at["group"], at["row"], tuple(dict.fromkeys(columns)))
        where = f"{item.path}, row {at['number']}"
        image = self._bytes(row[self._config.image], f"{where} has no image: {self._config.image}")
        meta = {name: _text(row[name]) for name in self._config.meta if row[name] is not None}
        if not at["mask"]:
            return RawSample(image, meta=meta)
        try:
            encoded = self._bytes(row[at["mask"]], f"{where} has no mask: {at['mask']}")
            in_color = self.spec().label_encoding.kind == "color"
            mask = to_indices(decode_label(encoded, self.spec().decode.max_pixels, color=in_color), self.spec(), where)
        except LabelError:
            raise
        except DataFault as fault:
            raise LabelError(f"{where}, {at['mask']}: {fault}") from fault
        return RawSample(image, mask, meta=meta)

    def _items(self, entry: Entry, table: Table) -> Iterator[SourceItem]:
        config = self._config
        _check_picture(table, config.image)
        mask = self._mask_column(table)
        pictures = [name for name in (config.image, mask) if name]
        if mask and table.all_null(mask):
            mask = ""
        paths = [name for name in pictures if is_path(table.schema.field(name).type)]
        small = [name for name in dict.fromkeys((config.id, config.split, config.group, *paths)) if name]
        for name in (*small, *config.meta):
            table.require(name)
        split = _split_of(entry.path)
        number = 0
        for group in range(table.groups):
            table.check_rows(group, config.image)
            share = min(entry.size, table.bytes_a_row(group, pictures))
            for row, values in enumerate(table.small_rows(group, small)):
                files = [self._files.get(_joined(values[name])) for name in paths if isinstance(values[name], str)]
                yield SourceItem(
                    image_id=_id(values[config.id], entry.path, number) if config.id else f"{entry.path}#row={number}",
                    path=entry.path,
                    size=max(1, share + item_size(*files)),
                    version=item_version(entry, *files),
                    split=_text(values[config.split]) if config.split else split,
                    group_id=_text(values[config.group]) if config.group else "",
                    details=json.dumps({"group": group, "row": row, "number": number, "mask": mask}),
                )
                number += 1

    def _mask_column(self, table: Table) -> str:
        """The masks' column, empty where there is none."""
        if self._config.mask is None:
            return ""
        if self._config.mask != "auto":
            _check_picture(table, self._config.mask)
            return self._config.mask
        found = [name for name in mask_names if name in table.names]
        for name in found:
            table.require(name)
        return next((name for name in found if is_picture(table.schema.field(name).type)), "")

    def _bytes(self, value: Any, missing: str) -> bytes:
        """Of a cell: its bytes, or those of the file that it names. A `DataFault` where there are none."""
        if isinstance(value, dict):
            value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
        if value is None:
            raise DecodeError(f"{missing} is null")
        if isinstance(value, bytes):
            return value
        path = _joined(value)
        if path is None:
            raise DecodeError(f"{missing} names {str(value)[:120]!r}; needed: bytes, or a path below the source")
        try:
            return self._source.read(path)
        except FileNotFoundError as error:
            raise MissingObject(f"{missing} names {path}, which is not there") from error

    def _find_spec(self) -> DatasetSpec:
        config, name = self._config, self._source.url.rstrip("/").rsplit("/", 1)[-1]
        with open_table(self._source, self._tables[0].path) as table:
            _check_picture(table, config.image)
            mask = self._mask_column(table)
            classes = config.classes or (table.class_names(config.class_names) if mask or config.class_names else ())
        if not mask:
            log.info("no column of masks in %s: images without truth", self._tables[0].path)
            return DatasetSpec(name=name)
        if not classes:
            return infer_spec(self._some_masks(mask), config.infer_from, name, DecodePolicy().max_pixels)
        described = {"classes": classes, "ignore": config.ignore, "value_map": config.value_map}
        changed = {key: value for key, value in described.items() if key == "classes" or value != Config.model_fields[key].default}
        where = self._tables[0].path
        return _describe.spec_of(validate(_describe.Description, changed, where=where), name, color_masks=False, where=where)

    def _some_masks(self, mask: str) -> Iterator[tuple[str, bytes]]:
        """Of row groups evenly spread over the tables, until there are enough."""

        def all_of(entry: Entry) -> Iterator[tuple[str, bytes]]:
            with open_table(self._source, entry.path) as table:
                for row in table.column(mask):
                    try:
                        yield entry.path, self._bytes(row, f"{entry.path} has no mask: {mask}")
                    except DataFault:
                        continue

        share = -(-self._config.infer_from // len(self._tables))
        chosen = self._tables[:: max(1, len(self._tables) // self._config.infer_from)]
        for entry in chosen:
            yield from islice(all_of(entry), share)

    @cached_property
    def _tables(self) -> list[Entry]:
        found: list[Entry] = []
        others: list[str] = []
        for entry in self._source.list():
            if is_hidden(entry.path) or posixpath.basename(entry.path).startswith("_"):
                continue
            if entry.path == "recipe.json":
                raise InputError(f"{self._source.url} is a segtasks shard set, ingested already; use its URL where data is asked for")
            if suffix(entry.path) == ".parquet":
                found.append(entry)
            elif len(others) < 3:
                others.append(entry.path)
        if not found:
            raise InputError(f"no *.parquet at {self._source.url}; found {', '.join(others) or 'nothing'}")
        return found

    @cached_property
    def _files(self) -> dict[str | None, Entry]:
        """Every object below the source: asked for only where a column holds paths."""
        return {entry.path: entry for entry in self._source.list()}


def _check_picture(table: Table, name: str) -> None:
    table.require(name)
    kind = table.schema.field(name).type
    if not is_picture(kind) and not is_path(kind):
        raise InputError(f"{table.path}: column {name} is {kind}; needed: bytes, a struct of bytes and path, or a path")


def _split_of(path: str) -> str:
    """As Hugging Face names files: `train-00000-of-00002.parquet`, `val.parquet`, `test/0000.parquet`; or Hive: `split=train/x.parquet`."""
    *folders, name = path.split("/")
    numbered = _numbered.fullmatch(re.sub(r"-[0-9a-f]{16}$", "", stem(name)))
    if numbered:
        return numbered[1]
    for part in (stem(name), *reversed(folders)):
        split = part.removeprefix("split=")
        if split != part or split.lower() in _splits:
            return split
    return ""


def _id(value: Any, path: str, number: int) -> str:
    text = _text(value)
    if not text or text.startswith(("/", "../")) or "\\" in text or "://" in text or posixpath.normpath(text) != text:
        raise InputError(f"{path}, row {number} has the id {value!r}; needed: a unique name, or a path below some folder (or no id column)")
    return text


def _joined(path: Any) -> str | None:
    """A path below the source; none where it leads out of it."""
    text = posixpath.normpath(path.replace("\\", "/")) if isinstance(path, str) and path else ".."
    return None if text.startswith(("/", "..")) or "://" in path else text


def _text(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return json.dumps(value, sort_keys=True, default=str)
    return "" if value is None else str(value)
