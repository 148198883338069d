"""What a JPEG's frame header claims, read without a decoder (ITU-T T.81, annex B), so that nothing is allocated for a lie."""

from __future__ import annotations

from dataclasses import dataclass

_NO_FRAME = {0xC4, 0xC8, 0xCC}  # DHT, JPG and DAC lie between the frame markers
_ALONE = {0x01, *range(0xD0, 0xD8)}  # TEM and RSTn have no length
_ARITHMETIC = {0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}


@dataclass(frozen=True)
class JpegHeader:
    """`process` is the SOF marker's low byte: 0xC0 and 0xC1 sequential, 0xC2 progressive, 0xC3 lossless."""

    width: int
    height: int
    components: int
    precision: int  # bits a sample
    process: int
    metadata: bool  # EXIF or XMP is present, which may hold an orientation

    @property
    def is_ordinary(self) -> bool:
        """Grey or colour of 8 bits, sequential or progressive: what every decoder reads alike."""
        return self.process in (0xC0, 0xC1, 0xC2) and self.precision == 8 and self.components in (1, 3)

    def max_pixels_in(self, size: int) -> int | None:
        """The most pixels that `size` bytes can hold; none where no bound is known (arithmetic coding).

        The component of full resolution has a block for every 8x8 pixels, and its DC code takes a bit at least.
        """
        return None if self.process in _ARITHMETIC else size * 8 * 64


def read_jpeg_header(data: bytes) -> JpegHeader | None:
    """None where the markers up to the first scan are not plainly in order: then a lenient decoder has to look."""
    if data[:2] != b"\xff\xd8":
        return None
    frame: tuple[int, int, int, int, int] | None = None
    metadata = False
    at, end = 2, len(data)
    while at + 4 <= end and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _ALONE:
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if length < 2 or len(body) != length - 2:
            return None
        if marker == 0xDA:  # the first scan
            return None if frame is None else JpegHeader(*frame, metadata)
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            if frame is not None or len(body) < 6:
                return None
            height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            frame = (width, height, body[5], body[0], marker)
        elif marker == 0xE1:
            metadata = metadata or body.startswith((b"Exif\0", b"http://ns.adobe.com/xap/1.0/"))
        elif marker in (0xD8, 0xD9):
            return None
        at += 2 + length
    return None
