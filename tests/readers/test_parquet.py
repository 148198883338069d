from __future__ import annotations

import io
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from segtasks.codecs.image import encode_jpeg, encode_png
from segtasks.codecs.mask import encode_mask
from segtasks.engines.local import LocalEngine
from segtasks.errors import DataFault, DecodeError, InputError, LabelError, MissingObject, StorageError
from segtasks.readers import _tables, parquet
from segtasks.shards import open_snapshot
from segtasks.stages.config import IngestConfig
from segtasks.stages.ingest import ingest
from segtasks.storage import open_store
from segtasks.testing.readers import check_reader
from tests.s3 import s3_bucket, s3_endpoint  # noqa: F401 (fixtures)

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def photo(seed: int, height: int = 6, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def truth(seed: int, values: int = 3, height: int = 6, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, values, (height, width), dtype=np.uint8)


def png(array: np.ndarray) -> bytes:
    return encode_png(array) if array.ndim == 3 else encode_mask(array, [(0, 0, 0)] * 256)


def encode(columns: dict, row_group: int = 100, **options) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, row_group_size=row_group, **options)
    return file.getvalue()


def pictures(arrays: list) -> pa.Array:
    return pa.array([None if one is None else {"bytes": png(one), "path": None} for one in arrays], PICTURE)


def reader(store, **options) -> parquet.ParquetReader:
    return parquet.build(parquet.Config(**options), store)


def ids(store, **options) -> list[str]:
    return [item.image_id for item in reader(store, **options).scan()]


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path))


def test_what_hugging_face_writes_is_read_with_the_names_of_its_class_label(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    names = ["sky", "road", "car"]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.Image(),
            "classes": datasets.Sequence(datasets.ClassLabel(names=names)),
            "city": datasets.Value("string"),
        }
    )
    for split, seeds in (("train", [0, 1, 2]), ("validation", [3])):
        rows = {
            "image": [photo(seed) for seed in seeds],
            "label": [truth(seed) for seed in seeds],
            "classes": [[0, 1]] * len(seeds),
            "city": [f"city {seed}" for seed in seeds],
        }
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / f"data/{split}-00000-of-00001.parquet"))
    source = open_store(str(tmp_path))
    made = reader(source, meta=("city",))
    assert made.spec().names == names
    items = list(made.scan())
    assert [(item.image_id, item.split) for item in items] == [
        *((f"data/train-00000-of-00001.parquet#row={row}", "train") for row in range(3)),
        ("data/validation-00000-of-00001.parquet#row=0", "validation"),
    ]
    for seed, item in enumerate(items):
        sample = made.read(item)
        np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(sample.image))), photo(seed))
        np.testing.assert_array_equal(sample.mask, truth(seed))
        assert sample.meta == {"city": f"city {seed}"}


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train-00000-of-00012-6e587552aa3c8ac8.parquet", "train"),
        ("plain_text/some-name-test-00001-of-00002.parquet", "test"),
        ("val.parquet", "val"),
        ("default/validation/0000.parquet", "validation"),
        ("split=extra/part-0.parquet", "extra"),
        ("images.parquet", ""),
    ],
)
def test_the_split_is_that_of_the_file_name(store, path, split):
    store.create(path, encode({"image": [png(photo(0))]}))
    (item,) = reader(store).scan()
    assert item.split == split


def test_columns_may_give_id_split_group_and_meta(store):
    columns = {
        "picture": [png(photo(seed)) for seed in range(3)],
        "key": [10, 11, 12],
        "part": ["a", None, "b"],
        "patient": pa.array(["p", "p", "q"]).dictionary_encode(),
        "tags": [["x"], [], None],
        "score": [0.5, None, 1.0],
    }
    store.create("train.parquet", encode(columns, row_group=2))
    made = reader(store, image="picture", id="key", split="part", group="patient", meta=("tags", "score"))
    items = list(made.scan())
    assert [(item.image_id, item.split, item.group_id) for item in items] == [("10", "a", "p"), ("11", "", "p"), ("12", "b", "q")]
    assert [made.read(item).meta for item in items] == [{"tags": '["x"]', "score": "0.5"}, {"tags": "[]"}, {"score": "1.0"}]
    assert made.spec().classes == ()


@pytest.mark.parametrize("kind", ["struct", "binary", "large_binary", "path"])
def test_pictures_may_be_structs_bytes_or_paths(store, kind):
    images, masks = [photo(seed) for seed in range(3)], [truth(seed) for seed in range(3)]
    for seed in range(3):
        store.create(f"files/{seed}.png", png(images[seed]))
        store.create(f"labels/{seed}.png", png(masks[seed]))
    columns = {
        "struct": lambda: {"image": pictures(images), "mask": pictures(masks)},
        "binary": lambda: {"image": [png(one) for one in images], "mask": [png(one) for one in masks]},
        "large_binary": lambda: {
            name: pa.array([png(one) for one in values], pa.large_binary()) for name, values in (("image", images), ("mask", masks))
        },
        "path": lambda: {"image": [f"files/{seed}.png" for seed in range(3)], "mask": [f"./labels/{seed}.png" for seed in range(3)]},
    }[kind]()
    store.create("t.parquet", encode(columns))
    made = reader(store, mask="mask", classes=("a", "b", "c"))
    for seed, item in enumerate(made.scan()):
        sample = made.read(item)
        assert sample.image == png(images[seed])
        np.testing.assert_array_equal(sample.mask, masks[seed])


def test_a_changed_file_that_a_path_names_changes_its_row_alone(store):
    for seed in range(2):
        store.create(f"files/{seed}.png", png(photo(seed)))
    store.create("t.parquet", encode({"image": ["files/0.png", "files/1.png"]}))
    before = [item.version for item in reader(store).scan()]
    store.replace("files/1.png", png(photo(9)))
    after = [item.version for item in reader(store).scan()]
    assert [old == new for old, new in zip(before, after)] == [True, False]


def test_a_struct_without_bytes_is_read_by_its_path(store):
    store.create("files/0.png", png(photo(0)))
    store.create("t.parquet", encode({"image": pa.array([{"bytes": None, "path": "files/0.png"}], PICTURE)}))
    made = reader(store)
    assert [made.read(item).image for item in made.scan()] == [png(photo(0))]


def test_rows_are_read_from_any_thread_and_in_any_order(store, monkeypatch):
    monkeypatch.setattr(_tables, "part_bytes", 1)  # a row a part
    encoded = [encode_jpeg(photo(seed, 40, 40)) for seed in range(60)]
    for number in range(2):
        store.create(f"{number}.parquet", encode({"image": encoded[30 * number : 30 * number + 30]}, row_group=10))
    made = reader(store)
    items = list(made.scan())
    with ThreadPoolExecutor(4) as pool:
        assert [sample.image for sample in pool.map(made.read, items)] == encoded
    order = np.random.default_rng(0).permutation(60)
    assert [made.read(items[at]).image for at in order] == [encoded[at] for at in order]


def test_in_order_each_row_group_is_gone_through_once(store, monkeypatch):
    monkeypatch.setattr(_tables, "part_bytes", 2000)
    store.create("t.parquet", encode({"image": [encode_jpeg(photo(seed, 40, 40)) for seed in range(40)]}, row_group=20))
    made = reader(store)
    items = list(made.scan())
    opened = []
    plain = _tables._Cursor
    monkeypatch.setattr(_tables, "_Cursor", lambda *arguments: opened.append(arguments[1:3]) or plain(*arguments))
    swapped = [items[at ^ 1] for at in range(40)]  # as two threads may ask
    for item in swapped:
        made.read(item)
    assert opened == [("t.parquet", 0), ("t.parquet", 1)]


def test_memory_is_bounded_by_parts_and_not_by_row_groups(store):
    blobs = [np.random.default_rng(seed).bytes(1 << 20) for seed in range(64)]
    store.create("t.parquet", encode({"image": blobs}, use_dictionary=False, write_batch_size=4))
    made = reader(store)
    items = list(made.scan())
    held = pa.total_allocated_bytes()
    most = 0
    for item, blob in zip(items, blobs):
        assert made.read(item).image == blob
        most = max(most, pa.total_allocated_bytes() - held)
    assert most < 5 * _tables.part_bytes < 64 << 20


def test_a_scan_reads_footers_and_small_columns_only(store):
    blobs = [np.random.default_rng(seed).bytes(1 << 20) for seed in range(8)]
    store.create("t.parquet", encode({"image": blobs, "id": list("abcdefgh")}, row_group=2))

    class Counted:
        url = store.url
        fetched = 0

        def __getattr__(self, name):
            return {"list": store.list, "size": store.size}[name]

        def read_range(self, path, start, end):
            self.fetched += end - start
            return store.read_range(path, start, end)

    counted = Counted()
    items = list(parquet.build(parquet.Config(id="id"), counted).scan())
    assert [item.image_id for item in items] == list("abcdefgh")
    assert all(abs(item.size - (1 << 20)) < 1000 for item in items)
    assert counted.fetched < 100_000


def test_a_row_without_image_or_mask_is_refused_alone(store):
    store.create("train.parquet", encode({"image": pictures([photo(0), None, photo(2)]), "mask": pictures([truth(0), truth(1), None])}))
    made = reader(store, classes=("a", "b", "c"))
    first, second, third = made.scan()
    assert made.read(first).image
    with pytest.raises(DecodeError, match=r"train\.parquet, row 1 has no image: image is null"):
        made.read(second)
    with pytest.raises(LabelError, match=r"train\.parquet, row 2, mask: .*mask is null"):
        made.read(third)


def test_a_table_whose_masks_are_all_null_has_no_truth(store):
    store.create("train.parquet", encode({"image": pictures([photo(0)]), "mask": pictures([truth(0)])}))
    store.create("test.parquet", encode({"image": pictures([photo(1), photo(2)]), "mask": pictures([None, None])}))
    made = reader(store, classes=("a", "b", "c"))
    assert [(item.split, made.read(item).mask is None) for item in made.scan()] == [("test", True), ("test", True), ("train", False)]


@pytest.mark.parametrize(
    ("cell", "error", "message"),
    [
        ("files/none.png", MissingObject, "names files/none.png, which is not there"),
        ("../secret.png", DecodeError, "needed: bytes, or a path below the source"),
        ("/etc/passwd", DecodeError, "needed: bytes, or a path below the source"),
        ("http://x/y.png", DecodeError, "needed: bytes, or a path below the source"),
        ("", DecodeError, "needed: bytes"),
    ],
)
def test_paths_that_lead_nowhere_are_refused(store, cell, error, message):
    store.create("t.parquet", encode({"image": [cell]}))
    made = reader(store)
    (item,) = made.scan()
    with pytest.raises(error, match=message):
        made.read(item)


def test_a_mask_of_other_values_or_none_at_all_is_a_label_error(store):
    store.create("t.parquet", encode({"image": pictures([photo(0)] * 2), "mask": [png(truth(0) + 7), b"no png"]}))
    made = reader(store, classes=("a", "b"))
    first, second = made.scan()
    with pytest.raises(LabelError, match=r"t\.parquet, row 0 has values that are no class: \[7, 8, 9\]"):
        made.read(first)
    with pytest.raises(LabelError, match=r"t\.parquet, row 1, mask: not an image"):
        made.read(second)


def test_values_are_mapped_and_ignored_as_the_options_say(store):
    store.create("t.parquet", encode({"image": pictures([photo(0)]), "annotation": pictures([truth(0)])}))
    made = reader(store, classes=("a", "b"), value_map={1: "a", 2: "b"}, ignore=(0,))
    (item,) = made.scan()
    np.testing.assert_array_equal(made.read(item).mask, np.array([255, 0, 1], np.uint8)[truth(0)])


def test_without_names_classes_are_inferred_from_the_masks(store):
    masks = [np.where(truth(seed, 2), 255, 0).astype(np.uint8) for seed in range(3)]
    store.create("train.parquet", encode({"image": pictures([photo(0)] * 3), "mask": pictures(masks)}))
    made = reader(store)
    assert made.spec().names == ["background", "foreground"]
    np.testing.assert_array_equal(made.read(next(made.scan())).mask, truth(0, 2))


def test_a_damaged_row_group_is_refused_and_its_neighbours_go_on(store):
    data = bytearray(
        encode(
            {"image": [np.random.default_rng(seed).bytes(5000) for seed in range(4)]}, row_group=2, compression="zstd", use_dictionary=False
        )
    )
    first = pq.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(0).column(0)
    at = first.data_page_offset
    data[at : at + 40] = b"\xff" * 40
    store.create("t.parquet", bytes(data))
    made = reader(store)
    items = list(made.scan())
    for item in items[:2]:
        with pytest.raises(DecodeError, match=r"t\.parquet: row group 0 of 2 cannot be read"):
            made.read(item)
    assert len(made.read(items[2]).image) == len(made.read(items[3]).image) == 5000


def test_a_failing_store_is_no_fault_of_the_row(store):
    store.create("t.parquet", encode({"image": [png(photo(seed)) for seed in range(4)]}))
    (item, *_) = reader(store).scan()

    class Failing:
        url = store.url

        def open(self, path):
            file = io.BytesIO(store.read(path))
            reads = [0]

            class File(io.RawIOBase):
                def readable(self):
                    return True

                def seekable(self):
                    return True

                def seek(self, *where):
                    return file.seek(*where)

                def tell(self):
                    return file.tell()

                def read(self, size=-1):
                    reads[0] += 1
                    if file.tell() < 100:
                        raise StorageError("the network is down")
                    return file.read(size)

            return File()

    made = parquet.build(parquet.Config(), Failing(), reader(store).spec())
    with pytest.raises(StorageError, match="the network is down"):
        made.read(item)


def test_a_table_that_was_written_again_since_it_was_listed_is_refused(store):
    store.create("t.parquet", encode({"image": [png(photo(seed)) for seed in range(4)]}, row_group=2))
    items = list(reader(store).scan())
    store.replace("t.parquet", encode({"image": [png(photo(0))]}))
    made = reader(store)
    for item in items[1:]:
        with pytest.raises(DecodeError, match="the file was written again"):
            made.read(item)
    assert [item.version for item in reader(store).scan()] != [items[0].version]


def test_mistakes_are_told_with_what_is_there(store):
    with pytest.raises(InputError, match=r"no \*\.parquet at .*; found nothing"):
        ids(store)
    store.create("t.parquet", encode({"image": [png(photo(0))], "number": [1], "id": [None]}))
    with pytest.raises(InputError, match=r"t\.parquet has no column 'imagee'\. Did you mean 'image'\? Its columns: image, number, id"):
        ids(store, image="imagee")
    with pytest.raises(InputError, match=r"column number is int64; needed: bytes"):
        ids(store, image="number")
    with pytest.raises(InputError, match="no column 'grup'"):
        ids(store, group="grup")
    with pytest.raises(InputError, match=r"t\.parquet, row 0 has the id None"):
        ids(store, id="id")
    with pytest.raises(InputError, match="no column 'masks'"):
        reader(store, mask="masks").spec()
    store.create("u.parquet", b"PAR1 not really")
    with pytest.raises(InputError, match=r"u\.parquet is no Parquet file, or is cut off"):
        ids(store)


def test_class_labels_are_chosen_by_name_where_there_are_several(store):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "mask": datasets.Image(),
            "scene": datasets.ClassLabel(names=["indoor", "outdoor"]),
            "objects": {"category": datasets.Sequence(datasets.ClassLabel(names=["wall", "tree", "bed"]))},
        }
    )
    rows = {"image": [photo(0)], "mask": [truth(0)], "scene": [0], "objects": [{"category": [0, 2]}]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(f"{store.url}/t.parquet")
    with pytest.raises(InputError, match=r"several ClassLabels: scene, objects\.category; say in class_names"):
        reader(store).spec()
    assert reader(store, class_names="objects.category").spec().names == ["wall", "tree", "bed"]
    with pytest.raises(InputError, match=r"no ClassLabel 'object\.category'"):
        reader(store, class_names="object.category").spec()


def test_a_segtasks_shard_set_is_refused_with_what_to_do(tmp_path):
    source = open_store(str(tmp_path / "in"))
    source.create("t.parquet", encode({"image": [png(photo(0))]}))
    config = IngestConfig(source=source.url, output=str(tmp_path / "out"), format="parquet")
    ingest(config, LocalEngine(workers=0))
    with pytest.raises(InputError, match="is a segtasks shard set, ingested already"):
        ids(open_store(str(tmp_path / "out")))
    with pytest.raises(InputError, match="is a shard of a segtasks shard set"):
        ids(open_store(str(tmp_path / "out/shards")))


def test_a_bucket_of_tables_is_ingested(s3_bucket):  # noqa: F811
    url, storage = s3_bucket
    source = open_store(f"{url}/in", storage)
    encoded = [png(photo(seed)) for seed in range(7)]
    for part in range(2):
        rows = encoded[4 * part : 4 * part + 4]
        columns = {"image": rows, "mask": pictures([truth(4 * part + at) for at in range(len(rows))])}
        source.create(f"data/train-0000{part}-of-00002.parquet", encode(columns, row_group=2))
    config = IngestConfig(
        source=source.url, output=f"{url}/out", format={"name": "parquet", "options": {"classes": ["a", "b", "c"]}}, storage=storage
    )
    ingest(config, LocalEngine(workers=0))
    snapshot = open_snapshot(f"{url}/out", storage)
    rows = {row["image_id"]: row for row in snapshot.read_all(["image_id", "split", "image"]).to_pylist()}
    assert snapshot.counts.done == 7
    assert [rows[f"data/train-0000{at // 4}-of-00002.parquet#row={at % 4}"]["image"]["bytes"] for at in range(7)] == encoded
    check_reader(parquet, source, {"classes": ["a", "b", "c"]})


def test_what_was_concluded_is_logged(store, caplog):
    store.create("t.parquet", encode({"image": [png(photo(0))]}))
    with caplog.at_level(logging.INFO):
        assert reader(store).spec().classes == ()
    assert "no column of masks in t.parquet" in caplog.text
    assert threading.active_count() < 50


def test_text_that_is_not_in_utf_8_is_said(store):
    bad = pa.Array.from_buffers(pa.string(), 1, [*pa.array(["abcd"]).buffers()[:2], pa.py_buffer(b"\xff\xfe\xca\x01")])
    store.create("t.parquet", encode({"image": [png(photo(0))], "site": bad}))
    with pytest.raises(InputError, match=r"t\.parquet, row group 0 has text that is not in UTF-8 in site"):
        ids(store, group="site")
    made = reader(store, meta=("site",))
    with pytest.raises(DecodeError, match="row 0 has text that is not in UTF-8"):
        made.read(next(made.scan()))


def test_a_column_that_is_there_twice_is_refused(store):
    file = io.BytesIO()
    pq.write_table(pa.table([pa.array([png(photo(0))]), pa.array([png(photo(1))])], names=["image", "image"]), file)
    store.create("t.parquet", file.getvalue())
    for ask in (lambda: reader(store).spec(), lambda: ids(store)):
        with pytest.raises(InputError, match=r"t\.parquet has 2 columns 'image'; needed: one of that name"):
            ask()


def test_columns_of_views_and_dictionaries_are_pictures_and_paths_too(store):
    encoded = [png(photo(0)), png(photo(1)), png(photo(0))]
    for seed in range(2):
        store.create(f"files/{seed}.png", png(photo(seed)))
    names = ["files/0.png", "files/1.png", "files/0.png"]
    columns = (
        pa.array(encoded, pa.binary_view()),
        pa.array(encoded).dictionary_encode(),
        pa.array(names, pa.string_view()),
        pa.array(names).dictionary_encode(),
    )
    for column in columns:
        store.replace("t.parquet", encode({"image": column}))
        made = reader(store)
        assert [made.read(item).image for item in made.scan()] == encoded


def test_times_that_python_does_not_know_refuse_a_row_or_say_which_column_it_is(store):
    times = pa.array([0, 2**60, 0], pa.timestamp("us"))
    store.create("t.parquet", encode({"image": [png(photo(seed)) for seed in range(3)], "taken": times}))
    with pytest.raises(InputError, match=r"t\.parquet, row group 0 has values that cannot be read in taken"):
        ids(store, group="taken")
    made = reader(store, meta=("taken",))
    first, second, third = made.scan()
    assert made.read(first).meta == made.read(third).meta == {"taken": "1970-01-01 00:00:00"}
    with pytest.raises(DecodeError, match=r"row 1 has values that cannot be read in image, taken"):
        made.read(second)


def test_masks_are_looked_at_for_classes_up_to_where_a_table_is_damaged(store):
    noise = [np.random.default_rng(seed).bytes(5000) for seed in range(4)]
    data = bytearray(encode({"image": noise, "mask": [png(truth(seed)) for seed in range(4)]}, row_group=2, use_dictionary=False))
    facts = pq.ParquetFile(io.BytesIO(bytes(data))).metadata
    at = facts.row_group(1).column(1).data_page_offset
    data[at : at + 40] = b"\xff" * 40
    store.create("t.parquet", bytes(data))
    made = reader(store)
    assert made.spec().num_classes == 3
    with pytest.raises(DataFault, match="row group 1 of 2 cannot be read"):
        made.read(list(made.scan())[3])


def test_memory_is_bounded_for_pictures_that_a_table_packs_well(store):
    blobs = [bytes(1 << 20) for _ in range(256)]
    store.create("t.parquet", encode({"image": blobs}, use_dictionary=False, compression="zstd", write_batch_size=4))
    made = reader(store)
    items = list(made.scan())
    assert sum(item.size for item in items) < 1 << 20
    held = pa.total_allocated_bytes()
    assert made.read(items[0]).image == blobs[0]
    assert pa.total_allocated_bytes() - held < 5 * _tables.part_bytes
