from __future__ import annotations

import gzip
import io
import tracemalloc

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from segtasks.codecs.volume import HEADER_BYTES, decode_volume, encode_volume, open_volume, read_volume_header
from segtasks.errors import DataFault, DecodeError, LimitError, ShapeError

MANY = 1 << 20
LPS = np.array([[-1.0, 0, 0, 10], [0, -2.0, 0, 20], [0, 0, 3.0, -5], [0, 0, 0, 1]])
OBLIQUE = np.array([[0.1, -0.9, 0.2, 3], [1.9, 0.2, 0.3, -4], [-0.4, 0.1, -2.8, 5], [0, 0, 0, 1]])


def numbers(*shape: int, dtype: str = "int16") -> NDArray[np.generic]:
    return (np.arange(np.prod(shape)).reshape(shape) % 120).astype(dtype)


def nifti(array: NDArray[np.generic], affine: NDArray[np.float64] = LPS, header: nibabel.Nifti1Header | None = None) -> bytes:
    return bytes(nibabel.Nifti1Image(array, affine, header, dtype=array.dtype).to_bytes())


def canonical(data: bytes) -> nibabel.Nifti1Image:
    return nibabel.as_closest_canonical(nibabel.Nifti1Image.from_bytes(data))


@pytest.mark.parametrize("code", ["RAS", "LPS", "LIP", "ASR", "PIL", "SRA", "IAL"])
def test_every_orientation_becomes_nibabels_canonical_array(code: str) -> None:
    ornt = nibabel.orientations.axcodes2ornt(code)
    affine = nibabel.orientations.inv_ornt_aff(ornt, (4, 5, 6)) @ np.diag([1, 2, 3, 1])
    data = nifti(numbers(4, 5, 6), affine)
    array, spacing, found = decode_volume(data, MANY)
    np.testing.assert_array_equal(array, np.asanyarray(canonical(data).dataobj).T)
    np.testing.assert_allclose(found, canonical(data).affine)
    assert read_volume_header(data, MANY).orientation == "".join(nibabel.aff2axcodes(affine))
    assert spacing == canonical(data).header.get_zooms()[::-1]


def test_oblique_volumes_are_turned_to_the_nearest_axes_with_their_spacing() -> None:
    data = nifti(numbers(4, 5, 6), OBLIQUE)
    array, spacing, affine = decode_volume(data, MANY)
    image = canonical(data)
    np.testing.assert_array_equal(array, np.asanyarray(image.dataobj).T)
    np.testing.assert_allclose(affine, image.affine, atol=1e-6)
    np.testing.assert_allclose(spacing, image.header.get_zooms()[::-1], rtol=1e-6)


@pytest.mark.parametrize("kind", [">", "<"])
def test_both_byte_orders_are_read(kind: str) -> None:
    array = numbers(3, 4, 5)
    header = nibabel.Nifti1Header(endianness=kind)
    header.set_data_dtype(np.int16)
    data = nibabel.Nifti1Image(array, LPS, header).to_bytes()
    assert data[:4] == (348).to_bytes(4, "big" if kind == ">" else "little")
    found = decode_volume(data, MANY)[0]
    np.testing.assert_array_equal(found, np.asanyarray(canonical(data).dataobj).T)
    assert found.dtype == np.dtype("int16")


def test_slope_and_intercept_are_applied_and_a_slope_of_zero_is_none() -> None:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    image = nibabel.Nifti1Image(numbers(3, 4, 5), LPS, header)
    data = bytearray(image.to_bytes())
    data[112:120] = np.array([0.5, -1000], "<f4").tobytes()
    np.testing.assert_array_equal(decode_volume(bytes(data), MANY)[0], np.asanyarray(canonical(bytes(data)).dataobj).T)
    assert decode_volume(bytes(data), MANY)[0].min() == -1000
    data[112:120] = np.array([0, 7], "<f4").tobytes()
    assert decode_volume(bytes(data), MANY)[0].dtype == np.int16


def test_version_two_gzip_and_rgb_are_read() -> None:
    array = numbers(3, 4, 5)
    second = nibabel.Nifti2Image(array, LPS).to_bytes()
    for data in (second, gzip.compress(second), gzip.compress(nifti(array)[:700]) + gzip.compress(nifti(array)[700:])):
        np.testing.assert_array_equal(decode_volume(data, MANY)[0], array[::-1, ::-1].T)
    colors = np.zeros((3, 4, 5), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    colors["R"], colors["B"] = array, 7
    found = decode_volume(nifti(colors), MANY)[0]
    np.testing.assert_array_equal(found, [array[::-1, ::-1].T, 0 * array.T, 0 * array.T + 7])


@pytest.mark.parametrize(
    ("shape", "found"), [((4, 5), (1, 5, 4)), ((4, 5, 6, 1), (6, 5, 4)), ((4, 5, 6, 2), (2, 6, 5, 4)), ((4, 5, 6, 1, 3), (3, 6, 5, 4))]
)
def test_other_axes_are_channels(shape: tuple[int, ...], found: tuple[int, ...]) -> None:
    array, spacing, _ = decode_volume(nifti(numbers(*shape), np.eye(4)), MANY)
    assert array.shape == found
    assert len(spacing) == 3
    np.testing.assert_array_equal(array.ravel(), numbers(*shape).T.ravel())


def test_lengths_in_metres_become_millimetres() -> None:
    image = nibabel.Nifti1Image(numbers(3, 4, 5), LPS / 1000)
    image.header.set_xyzt_units("meter")
    _, spacing, affine = decode_volume(image.to_bytes(), MANY)
    np.testing.assert_allclose(spacing, (3, 2, 1), rtol=1e-6)
    np.testing.assert_allclose(affine, canonical(nifti(numbers(3, 4, 5))).affine, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int64", "float32", "float64"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 4, 5), (1, 4, 1)])
def test_what_is_encoded_is_decoded_again_and_equal_bytes_come_of_equal_arrays(dtype: str, shape: tuple[int, ...]) -> None:
    array, affine = numbers(*shape, dtype=dtype), np.diag([1.5, 2.5, 3.5, 1])
    data = encode_volume(array, affine)
    assert data == encode_volume(array.copy(), affine)
    found, spacing, stored = decode_volume(data, MANY)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    assert spacing == (3.5, 2.5, 1.5)
    np.testing.assert_array_equal(stored, affine)
    with gzip.open(io.BytesIO(data)) as file:
        np.testing.assert_array_equal(np.asanyarray(nibabel.Nifti1Image.from_bytes(file.read()).dataobj), array.T)


def test_nothing_but_three_or_four_axes_is_encoded() -> None:
    with pytest.raises(ShapeError, match="needed: Z, Y, X"):
        encode_volume(np.zeros((3, 4), np.uint8), np.eye(4))


def test_a_header_that_claims_too_much_is_refused_before_anything_is_allocated() -> None:
    header = nibabel.Nifti2Header()
    header.set_data_shape((65500, 65500, 65500))
    header.set_data_dtype(np.float64)
    header["magic"], header["vox_offset"] = b"n+2\0\r\n\032\n", 544
    plain = header.binaryblock + bytes(100)
    tracemalloc.start()
    for data in (plain, gzip.compress(plain)):
        for read in (decode_volume, open_volume, read_volume_header):
            with pytest.raises(LimitError, match="65500x65500x65500"):
                read(data, 1 << 28)
        with pytest.raises(DecodeError, match="cut off"):
            decode_volume(data, 1 << 60)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_channels_count_towards_the_limit() -> None:
    data = nifti(numbers(4, 5, 6, 3))
    assert decode_volume(data, 360)[0].shape == (3, 6, 5, 4)
    with pytest.raises(LimitError, match="4x5x6x3 = 360 voxels"):
        decode_volume(data, 359)


def test_a_header_is_read_from_the_beginning_of_a_file() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 40), np.uint8)
    for data in (nifti(noise), gzip.compress(nifti(noise), mtime=0)):
        assert len(data) > HEADER_BYTES
        assert read_volume_header(data[:HEADER_BYTES], MANY).shape == (40, 40, 40)
        with pytest.raises(DecodeError):
            decode_volume(data[:HEADER_BYTES], MANY)


def test_damaged_files_are_refused_by_name() -> None:
    good = nifti(numbers(4, 5, 6))
    packed = gzip.compress(good, mtime=0)
    flipped = bytearray(packed)
    flipped[-5] ^= 1  # in the checksum
    pair, analyze = bytearray(good), bytearray(good)
    pair[344:348], analyze[344:348] = b"ni1\0", bytes(4)
    nowhere, negative, odd = bytearray(good), bytearray(good), bytearray(good)
    nowhere[280:328] = np.full(12, np.nan, "<f4").tobytes()
    negative[42:44] = np.array(-3, "<i2").tobytes()
    odd[70:72] = np.array(9999, "<i2").tobytes()
    for data, found in (
        (b"", "no NIfTI"),
        (b"hello", "no NIfTI"),
        (b"\x1f\x8b", "no NIfTI"),
        (b"\x1f\x8b" + bytes(30), "cannot read the NIfTI header"),
        (good[:-1], "cut off"),
        (good[:352], "cut off"),
        (good[:100], "no NIfTI"),
        (gzip.compress(good[:352]), "cut off"),
        (packed[:-20], "cannot read the voxels"),
        (bytes(flipped), "cannot read the voxels"),
        (bytes(pair), "n\\+1"),
        (bytes(analyze), "n\\+1"),
        (bytes(nowhere), "cannot read the NIfTI header|says nothing"),
        (bytes(negative), "shape|header"),
        (bytes(odd), "header"),
        (nifti(numbers(3, 4, 5, dtype="complex64")), "complex64"),
        (nifti(numbers(2, 3, 2, 2, 2)), "one more for channels"),
    ):
        with pytest.raises(DecodeError, match=found):
            decode_volume(data, MANY)


def test_bytes_that_are_changed_at_random_are_read_or_refused() -> None:
    rng = np.random.default_rng(3)
    good = np.frombuffer(nifti(numbers(4, 5, 6)), np.uint8)
    refused = 0
    for _ in range(400):
        bad = good.copy()
        bad[rng.integers(0, 352, rng.integers(1, 8))] = rng.integers(0, 256)
        try:
            assert decode_volume(bad.tobytes(), MANY)[0].size <= MANY
        except DataFault:
            refused += 1
    assert 0 < refused < 400
