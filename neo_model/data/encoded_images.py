"""What the bytes of an image file say before any pixel is decoded: its size, and whether all of a JPEG or PNG is there.

OpenCV decodes a JPEG that breaks off at any byte to a full image, grey from there on, without a word.
"""

import mmap
import struct
import zlib

Encoded = bytes | mmap.mmap

JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB\x60\x82"
# Frame headers hold the size; 0xC4, 0xC8 and 0xCC in between are other segments (ITU-T T.81, table B.1).
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JPEG_SCAN = 0xDA
PNG_CHUNK = struct.Struct(">I4s")
BMP_START, BMP_OLDEST_HEADER = b"BM", 12
TIFF_STARTS = {b"II*\0": "<", b"MM\0*": ">"}  # and the order of its bytes
TIFF_WIDTH, TIFF_HEIGHT, TIFF_TYPES = 256, 257, {3: "H", 4: "I"}


def size_wh(encoded: Encoded) -> tuple[int, int] | None:
    """Width and height in pixels that the header claims; None for other formats or a broken header."""
    if encoded[:8] == PNG_START:
        header = bytes(encoded[12:29])
        is_whole = header[:4] == b"IHDR" and zlib.crc32(header).to_bytes(4, "big") == encoded[29:33]
        return struct.unpack(">II", header[4:12]) if is_whole else None
    if encoded[:3] == JPEG_START:
        return _jpeg_header(encoded)[0]
    try:
        if encoded[:2] == BMP_START:
            return _bmp_size(encoded)
        if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
            return _webp_size(encoded)
        if encoded[:4] in TIFF_STARTS:
            return _tiff_size(encoded, TIFF_STARTS[encoded[:4]])
    except struct.error:  # it breaks off
        pass
    return None


def damage(encoded: Encoded, *, checksums: bool = True) -> str | None:
    """What is visibly wrong with the file, in words; None if nothing is, or for formats other than JPEG and PNG.

    Args:
        encoded: the whole file, in memory or mapped.
        checksums: read all of a PNG for its checksums; without, only its beginning and end are looked at.
    """
    if not len(encoded):
        return "is empty"
    if encoded[:3] == JPEG_START:
        size, scan = _jpeg_header(encoded)
        if size is None or scan is None:
            return "is cut off within its header"
        # In compressed data 0xFF is followed by 0 or a restart marker: the end can be nothing else.
        return None if encoded.rfind(JPEG_END, scan) >= 0 else "is cut off (it has no end-of-image marker)"
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
        _, scan = _jpeg_header(head)
        return scan is not None and JPEG_END in head[scan:] + tail
    return head[:8] == PNG_START and PNG_END in head + tail


def _jpeg_header(encoded: Encoded) -> tuple[tuple[int, int] | None, int | None]:
    """The size, and where the compressed data begin; None for what the segments do not lead to.

    Decoders pass over bytes between two segments, which some cameras write; so does this.
    """
    size, position = None, 2
    while 0 <= (position := encoded.find(b"\xff", position)) < len(encoded) - 8:
        kind = encoded[position + 1]
        if kind in (0x00, 0xFF):  # no segment; padding before one
            position += 1
            continue
        if kind == JPEG_SCAN:
            return size, position
        if kind in JPEG_FRAMES:
            height, width = struct.unpack(">HH", encoded[position + 5 : position + 9])
            size = width, height
        (length,) = struct.unpack(">H", encoded[position + 2 : position + 4])
        position += 2 + length
    return size, None


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


def _tiff_size(encoded: Encoded, order: str) -> tuple[int, int] | None:
    """By its first directory, whose image is the one that is decoded."""
    (start,) = struct.unpack_from(f"{order}I", encoded, 4)
    (entries,) = struct.unpack_from(f"{order}H", encoded, start)
    sides = {}
    for place in range(start + 2, start + 2 + 12 * entries, 12):
        tag, kind = struct.unpack_from(f"{order}HH", encoded, place)
        if tag in (TIFF_WIDTH, TIFF_HEIGHT) and kind in TIFF_TYPES:
            (sides[tag],) = struct.unpack_from(order + TIFF_TYPES[kind], encoded, place + 8)
    return (sides[TIFF_WIDTH], sides[TIFF_HEIGHT]) if len(sides) == 2 else None


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
