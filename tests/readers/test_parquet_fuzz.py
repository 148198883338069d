"""Any table is read, or refused in our own words."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import asdict

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segtasks.codecs.image import decode_image
from segtasks.errors import ConfigError, DataFault, InputError
from segtasks.readers._base import RawSample, SourceItem
from segtasks.spec import DatasetSpec
from segtasks.storage import open_store
from segtasks.testing.readers import check_sample
from tests.readers.test_parquet import PICTURE, photo, png, reader, truth

blobs = st.sampled_from([png(photo(0)), png(truth(0)), png(truth(0, height=5)), png(photo(0))[:60], b"", b"no picture", None])
names = st.sampled_from(["f/0.png", "./f/1.png", "none.png", "../x", "/etc/passwd", "", "http://x/y", "f", "\x00", "é", None])
texts = st.text(max_size=3) | st.none()
numbers = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, None])
days = st.integers(-(2**31), 2**31 - 1) | st.none()
pictures_of = {
    pa.binary(): blobs,
    pa.large_binary(): blobs,
    pa.binary_view(): blobs,
    pa.string(): names,
    pa.large_string(): names,
    pa.dictionary(pa.int32(), pa.string()): names,
    PICTURE: st.fixed_dictionaries({"bytes": blobs, "path": names}) | st.none(),
    pa.struct([("bytes", pa.binary())]): st.fixed_dictionaries({"bytes": blobs}),
}
cells_of = pictures_of | {
    pa.struct([("bytes", pa.binary()), ("path", pa.int64())]): st.fixed_dictionaries({"bytes": blobs, "path": numbers}),
    pa.struct([("bytes", pa.binary()), ("path", pa.list_(pa.string()))]): st.fixed_dictionaries({"bytes": blobs, "path": st.lists(names)}),
    pa.struct([("bytes", PICTURE)]): st.just({"bytes": {"bytes": png(photo(0)), "path": None}}),
    pa.list_(pa.binary()): st.lists(blobs, max_size=2) | st.none(),
    pa.list_(PICTURE): st.lists(st.fixed_dictionaries({"bytes": blobs}), max_size=2),
    pa.list_(pa.uint8()): st.lists(st.integers(0, 255), max_size=3),
    pa.map_(pa.string(), pa.binary()): st.lists(st.tuples(st.text(max_size=2), blobs), max_size=2, unique_by=lambda pair: pair[0]),
    pa.int64(): numbers,
    pa.float64(): st.floats() | st.none(),
    pa.bool_(): st.booleans() | st.none(),
    pa.null(): st.none(),
    pa.timestamp("us"): numbers,
    pa.timestamp("ns"): numbers.map(lambda value: None if value is None else value // 1000 * 1000),
    pa.timestamp("ms", "Mars/Phobos"): days,
    pa.date32(): days,
    pa.duration("us"): numbers,
    pa.string_view(): texts,
}
labels = st.sampled_from([["a", "b", "c"], ["a", "a", "b"], [""], [], [1, None, {}], ["\ud800"], "abc", None])
features = st.builds(lambda found: {"info": {"features": {"mask": {"_type": "ClassLabel", "names": found}}}}, labels)
features = features.map(json.dumps) | st.sampled_from(
    ["{}", "[]", "{", "[" * 9000, '{"info": {"features": ' + "[" * 400 + "]" * 400 + "}}"]
)
roles = ("id", "split", "group", "meta")


@st.composite
def tables(draw: st.DrawFn) -> tuple[bytes, dict]:
    """A file, some of its bytes replaced in one of three, and options that name its columns."""
    rows = draw(st.integers(0, 4))
    columns = {}
    for name in draw(st.sets(st.sampled_from(["mask", "label", *roles]))) | {"image"}:
        kinds = pictures_of if name in ("image", "mask") and draw(st.booleans()) else cells_of
        kind = draw(st.sampled_from(list(kinds)))
        columns[name] = pa.array(draw(st.lists(kinds[kind], min_size=rows, max_size=rows)), kind)
    table = pa.table(columns)
    if draw(st.booleans()):
        table = table.replace_schema_metadata({"huggingface": draw(features)})
    file = io.BytesIO()
    compression, group, dictionary = draw(st.sampled_from(["none", "zstd"])), draw(st.integers(1, 4)), draw(st.booleans())
    pq.write_table(table, file, row_group_size=group, compression=compression, use_dictionary=dictionary)
    data = bytearray(file.getvalue())
    if draw(st.integers(0, 2)) == 0:
        for _ in range(draw(st.integers(1, 3))):
            data[-draw(st.integers(1, len(data)))] = draw(st.integers(0, 255))
        data = data[: draw(st.integers(0, len(data)) | st.just(len(data)))]
    options = {name: (name,) if name == "meta" else name for name in roles if name in columns and draw(st.booleans())}
    options |= draw(
        st.fixed_dictionaries(
            {}, optional={"classes": st.just(("a", "b", "c")), "mask": st.sampled_from(["mask", None]), "class_names": st.just("mask")}
        )
    )
    return bytes(data), options


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(tables())
def test_any_table_is_read_or_refused(found: tuple[bytes, dict]) -> None:
    data, options = found
    source = open_store("memory://any-table")
    for number, content in enumerate((photo(0), truth(0))):
        source.replace(f"f/{number}.png", png(content))
    source.replace("t.parquet", data)
    with contextlib.suppress(InputError, ConfigError):
        made = reader(source, **options)
        spec = made.spec()
        for item in made.scan():
            with contextlib.suppress(DataFault):
                sample = made.read(SourceItem(**json.loads(json.dumps(asdict(item)))))
                if fits(sample, spec):
                    check_sample(sample, spec, item.image_id)


def fits(sample: RawSample, spec: DatasetSpec) -> bool:
    """What ingest asks of the image's bytes, which the reader hands on as they are, and of a mask of its own."""
    try:
        image = decode_image(sample.image, spec.decode)
    except DataFault:
        return False
    return sample.mask is None or sample.mask.shape == (image.height, image.width)
