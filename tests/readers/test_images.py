from __future__ import annotations

import io
import json
import logging

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from segtasks.cli.sheet import write_sheet
from segtasks.codecs.image import decode_image, encode_jpeg, encode_png
from segtasks.engines.local import LocalEngine
from segtasks.errors import ChangedObject, DecodeError, InputError, LimitError, MissingObject
from segtasks.readers import images
from segtasks.shards import open_snapshot
from segtasks.shards.pixels import IMAGE_COLUMNS, image_bytes
from segtasks.spec import DecodePolicy
from segtasks.stages.config import IngestConfig, PreprocessConfig
from segtasks.stages.ingest import ingest
from segtasks.stages.preprocess import preprocess
from segtasks.storage import open_store
from segtasks.testing.readers import check_reader
from tests.s3 import s3_bucket, s3_endpoint  # noqa: F401 (fixtures)

POLICY = DecodePolicy()


def photo(seed: int, height: int = 12, width: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def fill(store, *paths: str) -> None:
    for number, path in enumerate(paths):
        store.create(path, encode_png(photo(number)) if path.lower().endswith(".png") else encode_jpeg(photo(number)))


def ids(store, **options) -> list[str]:
    return [item.image_id for item in images.build(images.Config(**options), store).scan()]


def test_every_image_below_the_source_is_listed_whatever_its_folder(tmp_path):
    store = open_store(str(tmp_path))
    fill(store, "a/b/c/1.jpg", "a/2.JPEG", "3.png", ".hidden/4.png", "a/.5.png")
    store.create("a/readme.txt", b"text")
    assert ids(store) == ["3.png", "a/2.JPEG", "a/b/c/1.jpg"]
    check_reader(images, store)


def test_suffixes_and_globs_choose_and_the_rest_is_counted_in_the_log(tmp_path, caplog):
    store = open_store(str(tmp_path))
    fill(store, "a/1.jpg", "a/1_preview.jpg", "thumbs/x/1.jpg", "b/2.png")
    store.create("c.txt", b"text")
    with caplog.at_level(logging.INFO):
        assert ids(store, exclude=("thumbs/*", "*_preview.*")) == ["a/1.jpg", "b/2.png"]
    assert "2 images; exclude leaves out 2, and 1 files have no image's suffix: c.txt" in caplog.text
    assert ids(store, suffixes=("PNG",)) == ["b/2.png"]


def test_the_first_folder_may_be_the_split_and_any_folder_a_group(tmp_path):
    store = open_store(str(tmp_path))
    fill(store, "day/seq1/1.jpg", "day/seq2/1.jpg", "night/1.jpg", "top.jpg")
    plain = list(images.build(images.Config(), store).scan())
    assert {(item.split, item.group_id) for item in plain} == {("", "")}
    items = list(images.build(images.Config(split="folder", group="folder"), store).scan())
    assert [(item.split, item.group_id) for item in items] == [("day", "day/seq1"), ("day", "day/seq2"), ("night", "night"), ("", "")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no images at .*: looked for .jpg.*; found notes.txt"),
        ({"exclude": ("*",)}, "exclude leaves out 1 images"),
    ],
)
def test_nothing_to_read_says_what_was_found(tmp_path, options, message):
    store = open_store(str(tmp_path))
    store.create("notes.txt", b"text")
    if options:
        fill(store, "1.jpg")
    with pytest.raises(InputError, match=message):
        ids(store, suffixes=(".jpg",), **options)


def test_an_empty_list_of_suffixes_is_refused():
    with pytest.raises(ValueError, match="at least 1 item"):
        images.Config(suffixes=())


class Counted:
    """A store that counts the bytes which are read."""

    def __init__(self, store):
        self._store, self.bytes = store, 0

    def read(self, path):
        data = self._store.read(path)
        self.bytes += len(data)
        return data

    def read_range(self, path, start, end):
        data = self._store.read_range(path, start, end)
        self.bytes += len(data)
        return data

    def __getattr__(self, name):
        return getattr(self._store, name)


def encoded(format: str, height: int = 500, width: int = 700, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo(0, height, width)).save(file, format, **options)
    return file.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded("JPEG", exif=exif)


@pytest.mark.parametrize(
    ("name", "data", "first_bytes_do"),
    [
        ("a.jpg", encoded("JPEG"), True),
        ("turned.jpg", turned(6), True),
        ("profile.jpg", encoded("JPEG", icc_profile=bytes(100_000)), False),
        ("a.png", encoded("PNG"), True),
        ("flat.png", encode_png(np.zeros((3000, 3000, 3), np.uint8)), True),
        ("a.bmp", encoded("BMP"), True),
        ("a.tif", encoded("TIFF"), False),  # Pillow writes the directory first, but its strips' lengths are checked
        ("a.webp", encoded("WEBP", lossless=True), False),
        ("a.jp2", encoded("JPEG2000"), True),
        ("a.gif", encoded("GIF"), True),
    ],
)
def test_the_header_of_a_reference_is_that_of_the_decoded_image(tmp_path, name, data, first_bytes_do):
    store = Counted(open_store(str(tmp_path)))
    store.create(name, data)
    reader = images.build(images.Config(store="reference"), store)
    (item,) = reader.scan()
    sample = reader.read(item)
    decoded = decode_image(data, POLICY)
    assert sample.image == b""
    assert (sample.referenced.height, sample.referenced.width) == (decoded.height, decoded.width)
    assert sample.referenced.media_type == decoded.media_type
    if first_bytes_do:
        assert store.bytes == min(len(data), images.header_bytes)


@pytest.mark.parametrize(
    ("data", "error"), [(b"", DecodeError), (b"no image", DecodeError), (encode_jpeg(photo(0))[:30], DecodeError), ("huge", LimitError)]
)
def test_a_reference_to_what_is_no_image_is_refused(tmp_path, data, error):
    store = open_store(str(tmp_path))
    store.create("x.jpg", encoded("JPEG") if data == "huge" else data)
    reader = images.build(images.Config(store="reference"), store)
    spec = reader.spec().model_copy(update={"decode": DecodePolicy(max_pixels=1000 if data == "huge" else 1 << 28)})
    (item,) = reader.scan()
    with pytest.raises(error):
        images.build(images.Config(store="reference"), store, spec).read(item)


def run_ingest(source: str, output: str, storage=None, **options):
    config = IngestConfig(source=source, output=output, format={"name": "images", "options": options}, storage=storage or {})
    return ingest(config, LocalEngine(workers=0))


def rows_of(url: str, storage=None) -> list[dict]:
    snapshot = open_snapshot(url, storage)
    rows = [row for record in snapshot.shards() for row in snapshot.read(record).to_pylist()]
    return sorted(rows, key=lambda row: row["image_id"])


def test_by_value_the_shards_hold_the_bytes_as_they_are(tmp_path):
    store = open_store(str(tmp_path / "in"))
    fill(store, "a/1.jpg", "b.png")
    run_ingest(store.url, str(tmp_path / "out"))
    rows = rows_of(str(tmp_path / "out"))
    assert {row["image_id"]: row["image"]["bytes"] for row in rows} == {path: store.read(path) for path in ("a/1.jpg", "b.png")}
    assert all(row["mask"] is None and row["instances"] is None for row in rows)


def test_by_reference_the_shards_hold_no_bytes_and_the_same_sizes(tmp_path):
    store = open_store(str(tmp_path / "in"))
    for number in range(20):
        store.create(f"{number}.jpg", encode_jpeg(photo(number, 200, 300)))
    run_ingest(store.url, str(tmp_path / "value"))
    run_ingest(store.url, str(tmp_path / "reference"), store="reference")
    value, reference = rows_of(str(tmp_path / "value")), rows_of(str(tmp_path / "reference"))
    same = ("image_id", "width", "height", "shape", "media_type", "source_uri", "source_version")
    assert [[row[name] for name in same] for row in value] == [[row[name] for name in same] for row in reference]
    assert all(row["image"] == {"bytes": None, "path": row["source_uri"]} for row in reference)
    assert [image_bytes(row, None) for row in reference] == [row["image"]["bytes"] for row in value]
    sizes = {url: sum(record.bytes for record in open_snapshot(str(tmp_path / url)).shards()) for url in ("value", "reference")}
    assert sizes["reference"] < sizes["value"] / 20


def test_a_referenced_image_that_is_gone_or_was_replaced_is_refused_alone(tmp_path):
    store = open_store(str(tmp_path / "in"))
    fill(store, "gone.png", "replaced.png", "stays.png")
    run_ingest(store.url, str(tmp_path / "out"), store="reference")
    rows = {row["image_id"]: row for row in rows_of(str(tmp_path / "out"))}
    store.delete("gone.png")
    store.replace("replaced.png", encode_png(photo(7)))
    with pytest.raises(MissingObject, match=r"gone\.png is gone; gone\.png is stored by reference"):
        image_bytes(rows["gone.png"], None)
    with pytest.raises(ChangedObject, match=r"replaced\.png is version .* now and was .* when ingested: run ingest again"):
        image_bytes(rows["replaced.png"], None)
    made = PreprocessConfig(data=str(tmp_path / "out"), output=str(tmp_path / "copied"))
    preprocess(made, LocalEngine(workers=0))
    refused = {row["image_id"]: row["error_type"] for row in open_snapshot(str(tmp_path / "copied")).quarantined()}
    assert refused == {"gone.png": "MissingObject", "replaced.png": "ChangedObject"}
    (copied,) = rows_of(str(tmp_path / "copied"))
    assert copied["image"] == {"bytes": store.read("stays.png"), "path": "stays.png"}


def test_ingest_again_reads_the_replaced_image_and_its_row_is_good_again(tmp_path):
    store = open_store(str(tmp_path / "in"))
    fill(store, "a.png", "b.png")
    run_ingest(store.url, str(tmp_path / "out"), store="reference")
    store.replace("b.png", encode_png(photo(7, 20, 20)))
    run_ingest(store.url, str(tmp_path / "out"), store="reference")
    rows = {row["image_id"]: row for row in rows_of(str(tmp_path / "out"))}
    assert (rows["b.png"]["height"], rows["b.png"]["width"]) == (20, 20)
    assert image_bytes(rows["b.png"], None) == store.read("b.png")


def test_references_are_shown_and_resized_as_values_are(tmp_path):
    store = open_store(str(tmp_path / "in"))
    fill(store, "a.png", "b.jpg")
    made = {}
    for kind in ("value", "reference"):
        run_ingest(store.url, str(tmp_path / kind), store=kind)
        small = PreprocessConfig(data=str(tmp_path / kind), output=str(tmp_path / f"{kind}_small"), resize={"height": 6, "width": 8})
        preprocess(small, LocalEngine(workers=0))
        made[kind] = [row["image"] for row in rows_of(str(tmp_path / f"{kind}_small"))]
    assert made["value"] == made["reference"]
    store.delete("b.jpg")
    assert write_sheet(open_snapshot(str(tmp_path / "reference")), tmp_path / "sheet.png", {}) == 1


def test_datasets_show_a_referenced_row_as_a_picture(tmp_path):
    store = open_store(str(tmp_path / "in"))
    fill(store, "a.png")
    run_ingest(store.url, str(tmp_path / "out"), store="reference")
    snapshot = open_snapshot(str(tmp_path / "out"))
    (record,) = snapshot.shards()
    features = json.loads(pq.read_schema(tmp_path / "out" / record.path).metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    datasets = pytest.importorskip("datasets")
    (row,) = rows_of(str(tmp_path / "out"))
    np.testing.assert_array_equal(np.array(datasets.Image().decode_example(row["image"])), photo(0))


def test_references_to_a_bucket_are_checked_by_etag_and_need_the_storage_options(s3_bucket, tmp_path):  # noqa: F811
    url, storage = s3_bucket
    source = open_store(f"{url}/photos", storage)
    fill(source, "a/1.png", "a/2.png")
    run_ingest(source.url, f"{url}/out", storage, store="reference", group="folder")
    rows = {row["image_id"]: row for row in rows_of(f"{url}/out", storage)}
    assert rows["a/1.png"]["source_uri"] == f"{url}/photos/a/1.png"
    assert image_bytes(rows["a/1.png"], storage) == source.read("a/1.png")
    source.replace("a/1.png", source.read("a/1.png"))  # equal bytes have the same etag
    assert image_bytes(rows["a/1.png"], storage) == source.read("a/1.png")
    source.replace("a/1.png", encode_png(photo(5)))
    source.delete("a/2.png")
    with pytest.raises(ChangedObject):
        image_bytes(rows["a/1.png"], storage)
    with pytest.raises(MissingObject):
        image_bytes(rows["a/2.png"], storage)


def test_an_entry_is_the_one_that_the_listing_has(s3_bucket, tmp_path):  # noqa: F811
    url, storage = s3_bucket
    for store in (open_store(url, storage), open_store(str(tmp_path)), open_store("memory://entries")):
        store.create("a/1.txt", b"text")
        (listed,) = store.list()
        assert store.entry("a/1.txt").version == listed.version
        assert store.entry("a/1.txt").size == listed.size
        with pytest.raises(FileNotFoundError):
            store.entry("a/2.txt")
        store.delete("a/1.txt")


def test_rows_need_their_columns():
    assert {"image", "source_uri", "source_version", "image_id"} <= set(IMAGE_COLUMNS)
    assert image_bytes({"image_id": "x", "image": {"bytes": b"1", "path": "x"}}, None) == b"1"
