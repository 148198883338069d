"""NIfTI volumes (.nii, .nii.gz; versions 1 and 2): bytes to arrays and back. The header is checked before anything is allocated.

Arrays are Z, Y, X (C, Z, Y, X where there are several channels) in canonical orientation, which is that of nibabel's
`as_closest_canonical`: X runs to the right, Y to the front, Z upwards, whatever order and direction the file has. Axes are
swapped and flipped only: an oblique volume stays oblique, as its affine says. Lengths are in millimetres; a header in metres or
microns is converted.

A fourth axis (modalities, time, one-hot labels), a fifth one (NIfTI's vectors) and RGB voxels are channels. nibabel reads the
header; it is the extra `medical`.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from isal import igzip, isal_zlib
from numpy.typing import NDArray

from segtasks.codecs._pillow import decoding
from segtasks.errors import DecodeError, LimitError, MissingExtra, ShapeError

HEADER_BYTES = 8192  # of a file, compressed or not: more than its header needs
PLAIN, GZIP = "application/x-nifti", "application/gzip"  # the first is customary, none is registered; the second is RFC 6713
_header_bytes = 540  # of version 2; version 1 has 348
_most_per_byte = 1032  # what one byte of gzip can become
_to_millimetres = {"meter": 1000.0, "micron": 0.001}


@dataclass(frozen=True)
class VolumeHeader:
    """What the header says. `affine` (4x4) takes a voxel's X, Y, Z of the canonical array to millimetres right, front, up."""

    shape: tuple[int, int, int]  # canonical: Z, Y, X
    channels: int
    spacing: tuple[float, float, float]  # Z, Y, X
    affine: NDArray[np.float64]
    orientation: str  # of the file's own axes, for example LPS
    intent: str  # NIfTI's name, "none" for most
    media_type: str
    slope: float
    inter: float
    dtype: np.dtype[Any] = field(repr=False)  # of one channel, in the file's byte order
    interleaved: bool = field(repr=False)  # RGB: the channels of a voxel lie together
    stored_shape: tuple[int, int, int] = field(repr=False)
    stored_affine: NDArray[np.float64] = field(repr=False)
    offset: int = field(repr=False)

    @property
    def voxels(self) -> int:
        return math.prod(self.shape) * self.channels

    @property
    def size(self) -> str:
        """For messages: X x Y x Z, as tools for volumes say it, and the channels."""
        return "x".join(map(str, self.shape[::-1])) + (f"x{self.channels}" if self.channels > 1 else "")


@dataclass(frozen=True)
class Volume:
    """A volume whose voxels are as stored; `values` scales them."""

    header: VolumeHeader
    stored: NDArray[Any] = field(repr=False)  # C, Z, Y, X in canonical orientation: a view of the file's bytes

    def values(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Some of `stored` scaled by the header's slope and intercept: float64; as they are where there is no scaling."""
        if self.header.slope == 1 and self.header.inter == 0:
            return stored
        scaled: NDArray[np.float64] = stored.astype(np.float64) * self.header.slope + self.header.inter
        return scaled


def read_volume_header(data: bytes, max_voxels: int) -> VolumeHeader:
    """From a file's first bytes; `HEADER_BYTES` are enough.

    `LimitError` above `max_voxels` (channels counted), `DecodeError` for what is no NIfTI.
    """
    with decoding("cannot read the NIfTI header"):
        header = _parse(_start(data), GZIP if _is_gzip(data) else PLAIN, None)
    _check(header, max_voxels)
    return header


def open_volume(data: bytes, max_voxels: int, *, like: VolumeHeader | None = None) -> Volume:
    """The volume without scaling its voxels. `like`: its affine is not believed, but taken from there (voxel by voxel the same grid).

    `LimitError` above `max_voxels` (channels counted) before anything is unpacked, `DecodeError` for malformed and cut-off files.
    """
    with decoding("cannot read the NIfTI header"):
        header = _parse(_start(data), GZIP if _is_gzip(data) else PLAIN, None if like is None else like.stored_affine)
    _check(header, max_voxels)
    count = header.voxels
    needed = header.offset + count * header.dtype.itemsize
    with decoding("cannot read the voxels"):
        plain = _unpack(data, needed) if _is_gzip(data) else data
        if len(plain) < needed:
            raise DecodeError(f"{header.size} voxels of {header.dtype.name} need {needed} bytes, the file has {len(plain)}: it is cut off")
        flat = np.frombuffer(plain, header.dtype, count, header.offset)
        if header.interleaved:
            stored = np.moveaxis(flat.reshape((header.channels, *header.stored_shape), order="F"), 0, -1)
        else:
            stored = flat.reshape((*header.stored_shape, header.channels), order="F")
        orientations = _nibabel().orientations
        canonical = orientations.apply_orientation(stored, orientations.io_orientation(header.stored_affine))
    return Volume(header, canonical.transpose(3, 2, 1, 0))


def decode_volume(data: bytes, max_voxels: int) -> tuple[NDArray[Any], tuple[float, float, float], NDArray[np.float64]]:
    """Scaled voxels Z, Y, X (C, Z, Y, X where there are several channels) in canonical orientation, spacing Z, Y, X and affine.

    Errors as in `open_volume`. Equal to nibabel's `as_closest_canonical(...).dataobj` with its axes reversed.
    """
    volume = open_volume(data, max_voxels)
    values = np.ascontiguousarray(volume.values(volume.stored))
    array = values.astype(values.dtype.newbyteorder("="), copy=False)
    return array if volume.header.channels > 1 else array[0], volume.header.spacing, volume.header.affine


def encode_volume(array: NDArray[Any], affine: NDArray[np.float64]) -> bytes:
    """A .nii.gz of Z, Y, X or C, Z, Y, X with the affine of the canonical array, in millimetres; equal input gives equal bytes."""
    if array.ndim not in (3, 4) or array.size == 0:
        raise ShapeError(f"the volume has shape {array.shape}; needed: Z, Y, X or C, Z, Y, X, none of them 0")
    nibabel = _nibabel()
    kind = nibabel.Nifti1Image if max(array.shape) < 1 << 15 else nibabel.Nifti2Image
    image = kind(array.T, affine, dtype=array.dtype)  # nibabel refuses 64-bit integers that are not asked for
    image.header.set_xyzt_units("mm")
    return bytes(igzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def _parse(start: bytes, media_type: str, affine: NDArray[np.float64] | None) -> VolumeHeader:
    nibabel = _nibabel()
    if start[344:348] == b"n+1\0":
        header = nibabel.Nifti1Header(start[:348])
    elif start[4:8] == b"n+2\0":
        header = nibabel.Nifti2Header(start[:_header_bytes])
    else:
        raise DecodeError(f"it is no NIfTI file: {len(start)} bytes that start with {start[:8]!r} and have no n+1 or n+2 where it belongs")
    dtype, shape = header.get_data_dtype(), tuple(int(side) for side in header.get_data_shape())
    interleaved = dtype.names is not None
    stored, channels = _sides(shape, len(dtype.names) if interleaved else 1)
    dtype = np.dtype(np.uint8) if interleaved else dtype
    if dtype.kind not in "uif":
        raise DecodeError(f"its voxels are {dtype.name}; needed: integers, floats or RGB")
    slope, inter = header.get_slope_inter()
    scale = _to_millimetres.get(header.get_xyzt_units()[0], 1.0)
    stored_affine = affine if affine is not None else np.diag([scale, scale, scale, 1.0]) @ header.get_best_affine()
    orientation = nibabel.orientations.io_orientation(stored_affine)
    if not np.isfinite(stored_affine).all() or not np.isfinite(orientation).all():
        raise DecodeError(f"its affine {stored_affine.tolist()} says nothing of how the axes lie")
    order = np.argsort(orientation[:, 0])  # the stored axis that is X, Y, Z
    steps: list[float] = np.linalg.norm(stored_affine[:3, :3], axis=0).tolist()
    for axis, zoom in enumerate(header.get_zooms()[:3]):
        if math.isfinite(zoom) and zoom > 0:
            steps[axis] = float(zoom) * scale
    canonical = stored_affine @ nibabel.orientations.inv_ornt_aff(orientation, stored)
    x, y, z = (stored[axis] for axis in order)
    return VolumeHeader(
        shape=(z, y, x),
        channels=channels,
        spacing=(steps[order[2]], steps[order[1]], steps[order[0]]),
        affine=canonical,
        orientation="".join(nibabel.orientations.ornt2axcodes(orientation)),
        intent=str(header.get_intent()[0]),
        media_type=media_type,
        slope=1.0 if slope is None or interleaved else float(slope),
        inter=0.0 if inter is None or interleaved else float(inter),
        dtype=dtype,
        interleaved=interleaved,
        stored_shape=stored,
        stored_affine=stored_affine,
        offset=int(header.get_data_offset()),
    )


def _sides(shape: tuple[int, ...], colors: int) -> tuple[tuple[int, int, int], int]:
    """The three sides and the number of channels."""
    if not shape or min(shape) < 1:
        raise DecodeError(f"its header claims the shape {shape}; needed: sides of 1 or more")
    x, y, z = (*shape, 1, 1)[:3]
    others = [side for side in shape[3:] if side > 1]
    if len(others) + (colors > 1) > 1:
        raise DecodeError(f"its header claims the shape {shape}; needed: three axes, and one more for channels")
    return (x, y, z), math.prod(others) * colors


def _check(header: VolumeHeader, max_voxels: int) -> None:
    if header.voxels > max_voxels:
        raise LimitError(
            f"the header claims {header.size} = {header.voxels} voxels; decode.max_pixels is {max_voxels}: raise it if the volume is right"
        )
    if header.offset < 0:
        raise DecodeError(f"the header claims that the voxels start at byte {header.offset}")


def _is_gzip(data: bytes) -> bool:
    return data[:2] == b"\x1f\x8b"


def _start(data: bytes) -> bytes:
    return bytes(isal_zlib.decompressobj(31).decompress(data, _header_bytes)) if _is_gzip(data) else data[:_header_bytes]


def _unpack(data: bytes, needed: int) -> bytes:
    """The first `needed` bytes, and the whole stream's checksum where they are all."""
    most = len(data) * _most_per_byte
    if needed > most:
        raise DecodeError(f"the header claims {needed} bytes, but {len(data)} of gzip hold {most} at most: cut off, or a bomb")
    with igzip.IGzipFile(fileobj=io.BytesIO(data)) as file:  # type: ignore[no-untyped-call]
        found = bytes(file.read(needed))
        if len(found) == needed:
            file.read(1)
    return found


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtra(f"NIfTI volumes need nibabel ({error}): pip install 'segtasks[medical]'") from error
    return nibabel
