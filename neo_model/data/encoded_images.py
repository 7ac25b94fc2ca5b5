"""What the bytes of an image file say before any pixel is decoded.

Its size, how it is to be turned, and whether all of a JPEG or PNG is there.

OpenCV decodes a JPEG that breaks off at any byte to a full image, grey from there on, without a word.
"""

import mmap
import struct
import zlib
from typing import NamedTuple

Encoded = bytes | mmap.mmap

JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
PNG_START, PNG_END, PNG_EXIF = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB\x60\x82", b"eXIf"
# Frame headers hold the size; 0xC4, 0xC8 and 0xCC in between are other segments (ITU-T T.81, table B.1).
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JPEG_SCAN, JPEG_APP1, EXIF_START = 0xDA, 0xE1, b"Exif\0\0"
JPEG_ENDS, JPEG_WITHOUT_LENGTH = (0xD8, 0xD9), (0x01, *range(0xD0, 0xD8))
PNG_CHUNK = struct.Struct(">I4s")
BMP_START, BMP_OLDEST_HEADER = b"BM", 12
TIFF_STARTS = {b"II*\0": "<", b"MM\0*": ">"}  # and the order of its bytes
TIFF_WIDTH, TIFF_HEIGHT, TIFF_ORIENTATION, TIFF_TYPES = 256, 257, 274, {3: "H", 4: "I"}
ORIENTATIONS, UPRIGHT, TURNED_BY_A_QUARTER = range(1, 9), 1, range(5, 9)
MOST_EXIF = 2**16  # bytes, of which the first few tell


def size_wh(encoded: Encoded) -> tuple[int, int] | None:
    """Width and height in pixels that the header claims; None for other formats or a broken header."""
    if encoded[:8] == PNG_START:
        header = bytes(encoded[12:29])
        is_whole = header[:4] == b"IHDR" and zlib.crc32(header).to_bytes(4, "big") == encoded[29:33]
        return struct.unpack(">II", header[4:12]) if is_whole else None
    if encoded[:3] == JPEG_START:
        return _jpeg_header(encoded).size_wh
    try:
        if encoded[:2] == BMP_START:
            return _bmp_size(encoded)
        if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
            return _webp_size(encoded)
        if encoded[:4] in TIFF_STARTS:
            tags = _tiff_tags(encoded)
            return (tags[TIFF_WIDTH], tags[TIFF_HEIGHT]) if {TIFF_WIDTH, TIFF_HEIGHT} <= {*tags} else None
    except struct.error:  # it breaks off
        pass
    return None


def orientation(encoded: Encoded) -> int:
    """How EXIF has the stored rows and columns shown (EXIF 2.32, tag 0x0112); 1, upright, where it does not say.

    By the tag itself; what XMP or a PNG's texts say of it is not looked at.
    2 to 4 mirror the image or turn it by a half, 5 to 8 exchange its sides.
    """
    try:
        tags = _tiff_tags(_exif(encoded))
    except struct.error:  # it breaks off
        return UPRIGHT
    value = tags.get(TIFF_ORIENTATION)
    return value if value in ORIENTATIONS else UPRIGHT


def damage(encoded: Encoded, *, checksums: bool = True) -> str | None:
    """What is visibly wrong with the file, in words; None if nothing is, or for formats other than JPEG and PNG.

    Args:
        encoded: the whole file, in memory or mapped.
        checksums: read all of a PNG for its checksums; without, only its beginning and end are looked at.
    """
    if not len(encoded):
        return "is empty"
    if encoded[:3] == JPEG_START:
        header = _jpeg_header(encoded)
        if header.size_wh is None or header.scan is None:
            return "is cut off within its header"
        # In compressed data 0xFF is followed by 0 or a restart marker: the end can be nothing else.
        return None if encoded.rfind(JPEG_END, header.scan) >= 0 else "is cut off (it has no end-of-image marker)"
    if encoded[:8] == PNG_START:
        if size_wh(encoded) is None:
            return "has a broken header"
        if encoded.rfind(PNG_END) < 0:
            return "is cut off (it has no end chunk)"
        return _wrong_chunk(encoded) if checksums else None
    return None


def is_surely_whole(head: bytes, tail: bytes) -> bool:
    """Whether the beginning and the end of a file prove that all of it is there; False does not prove the contrary.

    Args:
        head: its first bytes, or all of it.
        tail: its last bytes, none of which are in ``head``.
    """
    if head[:3] == JPEG_START:
        scan = _jpeg_header(head).scan
        return scan is not None and JPEG_END in head[scan:] + tail
    return head[:8] == PNG_START and PNG_END in head + tail


class _JpegHeader(NamedTuple):
    """Size, where the compressed data begin, and EXIF's content; nothing for what the segments do not lead to."""

    size_wh: tuple[int, int] | None
    scan: int | None
    exif: bytes


def _jpeg_header(encoded: Encoded) -> _JpegHeader:
    """Walks the segments.

    Decoders pass over bytes between two segments, which some cameras write; so does this.
    """
    size, exif, position = None, b"", 2
    while 0 <= (position := encoded.find(b"\xff", position)) < len(encoded) - 8:
        kind = encoded[position + 1]
        if kind in (0x00, 0xFF):  # no segment; padding before one
            position += 1
            continue
        if kind in JPEG_WITHOUT_LENGTH:
            position += 2
            continue
        if kind == JPEG_SCAN:
            return _JpegHeader(size, position, exif)
        (length,) = struct.unpack(">H", encoded[position + 2 : position + 4])
        if kind in JPEG_ENDS or length < 2 or (kind in JPEG_FRAMES and size is not None):
            break  # as decoders do: from here on a header could be of any size
        if kind in JPEG_FRAMES:
            height, width = struct.unpack(">HH", encoded[position + 5 : position + 9])
            size = width, height
        elif kind == JPEG_APP1 and encoded[position + 4 : position + 10] == EXIF_START:
            exif = exif or bytes(encoded[position + 10 : position + 2 + length])
        position += 2 + length
    return _JpegHeader(size, None, exif)


def _exif(encoded: Encoded) -> Encoded:
    """EXIF's content, a TIFF file in itself; nothing where there is none."""
    if encoded[:3] == JPEG_START:
        return _jpeg_header(encoded).exif
    if encoded[:8] == PNG_START:  # anywhere in it: most tools write it at the beginning, some at the end
        place = max(encoded.find(PNG_EXIF + start) for start in TIFF_STARTS)
        return b"" if place < 0 else encoded[place + len(PNG_EXIF) : place + MOST_EXIF]
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return _webp_exif(encoded)
    return encoded


def _webp_exif(encoded: Encoded) -> bytes:
    position = 12
    while kind := bytes(encoded[position : position + 4]):
        (length,) = struct.unpack_from("<I", encoded, position + 4)
        if kind == b"EXIF":
            return bytes(encoded[position + 8 : position + 8 + length]).removeprefix(EXIF_START)
        position += 8 + length + length % 2
    return b""


def _bmp_size(encoded: Encoded) -> tuple[int, int]:
    (header_bytes,) = struct.unpack_from("<I", encoded, 14)
    width, height = struct.unpack_from("<HH" if header_bytes == BMP_OLDEST_HEADER else "<ii", encoded, 18)
    return width, abs(height)  # negative where the first row is the top one


def _webp_size(encoded: Encoded) -> tuple[int, int] | None:
    kind, fields = bytes(encoded[12:16]), bytes(encoded[20:30]).ljust(10, b"\0")
    if kind == b"VP8X":
        return 1 + int.from_bytes(fields[4:7], "little"), 1 + int.from_bytes(fields[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(fields[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", fields[6:])
        return width & 0x3FFF, height & 0x3FFF
    return None


def _tiff_tags(encoded: Encoded) -> dict[int, int]:
    """Whole numbers of the first directory, whose image is the one that is decoded, by tag.

    Of a tag that occurs twice the first counts, as decoders have it.
    """
    order, tags = TIFF_STARTS.get(encoded[:4]), {}
    if order is None:
        return tags
    (start,) = struct.unpack_from(f"{order}I", encoded, 4)
    (entries,) = struct.unpack_from(f"{order}H", encoded, start)
    for place in range(start + 2, start + 2 + 12 * entries, 12):
        tag, kind = struct.unpack_from(f"{order}HH", encoded, place)
        if kind in TIFF_TYPES:
            tags.setdefault(tag, *struct.unpack_from(order + TIFF_TYPES[kind], encoded, place + 8))
    return tags


def _wrong_chunk(encoded: Encoded) -> str | None:
    """The first chunk of a PNG whose checksum is not its content's."""
    position, end = len(PNG_START), len(encoded)
    view = memoryview(encoded)
    while position + 12 <= end:
        length, kind = PNG_CHUNK.unpack_from(view, position)
        stop = position + 8 + length
        if stop + 4 > end:
            break
        if zlib.crc32(view[position + 4 : stop]) != int.from_bytes(view[stop : stop + 4], "big"):
            return f"is damaged (wrong checksum in its {kind.decode('latin-1')} chunk at byte {position})"
        if kind == b"IEND":
            return None
        position = stop + 4
    return f"is damaged (its chunks end at byte {position})"
