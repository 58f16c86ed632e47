"""What an encoded image is made of, looked at before a decoder is: a few bytes may cost it seconds or gigabytes.

A header shows how many pixels an image has, and nothing else that it costs. So the parts of a file are counted here,
without decoding any: scans of a JPEG, chunks of a PNG, blocks of a GIF, tags of a TIFF. The bounds lie far above what
cameras and programs write. Metadata is not shown to the decoders of JPEG, AVIF and HEIC, which would read it when they
open a file: orientation is read by `tasks.modality.images.orientation`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tasks.errors import DecodeError

# Programs write progressive JPEGs of about 10 scans (libjpeg's script for colour), optimisers a few more.
MAX_SCANS = 32
# The work of a JPEG's scans, of which each goes over the whole image: 10 of them at 100 megapixels.
MAX_SCANNED_PIXELS = 1_000_000_000
# ICC profiles and extended XMP come in segments of 64 KiB.
MAX_SEGMENTS = 1024
# libpng writes 8 KiB a chunk: 512 MiB.
MAX_CHUNKS = 65_536
# Comments, colour profiles and XMP before the first image of a GIF.
MAX_GIF_PREFACE = 512 * 1024
MAX_TAGS = 1024
# Strips or tiles of a TIFF: 256 megapixels in tiles of 32 x 32.
MAX_TAG_VALUES = 262_144
# A TIFF of separate planes has a tile for each channel.
MAX_LAYERS = 8
# Pillow's decoder of run-length encoded bitmaps is written in Python: 0.3 s for a megabyte.
MAX_RLE_BYTES = 1024 * 1024

JPEG_IN_TIFF = 7  # the value of tag 259, Compression; libtiff refuses more than 100 scans in a strip or tile
_SCAN = b"\xff\xda"  # no pixels of a JPEG look so: a zero follows each FF of theirs
# Neither an escaped FF nor a restart marker. Begun by a byte and not by a repetition, it is found 13 times as fast.
_MARKER = re.compile(rb"\xff\xff*([\x01-\xcf\xd8-\xfe])")
_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_NETPBM = re.compile(
    rb"P(4)%b(\d{1,9})%b(\d{1,9})()\s|P([56f])%b(\d{1,9})%b(\d{1,9})%b([-+\d.e]{1,10})\s" % ((_GAP,) * 5)
)
_NETPBM_HEADER_BYTES = 4096
_POINTERS = (34665, 34853, 40965)  # of a TIFF's Exif, GPS and interoperability folders
_TAG_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_TAG_BYTES = (1, 2, 6, 7)  # types that are kept as bytes


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a decoder is given, and the metadata that it is not: bytes of an Exif block and of an XMP packet."""

    content: bytes
    exif: bytes = b""
    xmp: bytes = b""
    scans: int = 1


def examined(content: bytes) -> Encoded:
    """An image's bytes as a decoder may be given them. Raises DecodeError where they could cost it too much."""
    if content.startswith(b"\xff\xd8\xff"):
        return _jpeg(content)
    if content.startswith(b"\x89PNG"):
        return _png(content)
    if content.startswith(b"GIF8"):
        return _gif(content)
    if content[:2] in (b"II", b"MM"):
        return _tiff(content)
    if content[4:8] == b"ftyp":
        return Encoded(_without_exif_items(content))
    if re.match(rb"P[0-9fy]", content):
        return _netpbm(content)
    return Encoded(content)


def check_opened(image: Image.Image, encoded: Encoded) -> None:
    """Raises DecodeError where what the header of an opened image describes could cost too much."""
    width, height = image.size
    _check_scans(encoded.scans, image.size)
    tiles = list(getattr(image, "tile", ()))
    if any(tile[0] == "bmp_rle" for tile in tiles) and len(encoded.content) <= MAX_RLE_BYTES:
        return
    if slow := next((tile[0] for tile in tiles if tile[0] in Image.DECODERS), None):
        raise DecodeError(f"its encoding ({slow}) takes too long to decode: save it as PNG")
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (tile[1] for tile in tiles))
    if len(tiles) > 1 and area > MAX_LAYERS * width * height:
        raise DecodeError(f"its {len(tiles)} strips or tiles cover the image more than {MAX_LAYERS} times")
    stored = getattr(image, "tag_v2", {})
    sizes = _values(stored, 279) or _values(stored, 325)  # StripByteCounts, TileByteCounts
    if sum(map(abs, sizes)) > 2 * len(encoded.content):
        raise DecodeError("its strips or tiles overlap in the file")
    if stored.get(259) == JPEG_IN_TIFF:
        starts = _values(stored, 273) or _values(stored, 324)  # StripOffsets, TileOffsets
        scans = sum(encoded.content.count(_SCAN, at, at + size) for at, size in zip(starts, sizes, strict=False))
        _check_scans(-(-scans // max(len(sizes), 1)), image.size)


def _values(stored: Mapping[int, Any], tag: int) -> tuple[int, ...]:
    """A TIFF tag's values; none where it is absent."""
    values = stored.get(tag, ())
    return values if isinstance(values, tuple) else (values,)


def _check_scans(scans: int, size: tuple[int, int]) -> None:
    if scans > 1 and scans * size[0] * size[1] > MAX_SCANNED_PIXELS:
        raise DecodeError(f"{scans} scans of {size[0]}x{size[1]} pixels are too many: save it as a baseline JPEG")


def _jpeg(content: bytes) -> Encoded:
    """Counts scans up to the end of the first image (thumbnails lie in segments), and leaves out application data.

    Markers: ITU-T T.81, table B.1. Kept are JFIF's (APP0) and Adobe's (APP14), which say what the colours are.
    """
    kept, exif, xmp = [content[:2]], b"", b""
    place, scans, segments = 2, 0, 0
    while marker := _MARKER.search(content, place):
        kind, end = marker[1][0], marker.end()
        if kind == 0xD9:
            kept.append(content[place:end])
            break
        length = 0 if kind in (0x01, 0xD8) else max(int.from_bytes(content[end : end + 2], "big"), 2)
        body = content[end + 2 : end + length]
        if kind == 0xE1 and body.startswith(b"Exif\0\0"):
            exif = exif or body
        elif kind == 0xE1 and b"xap/1.0/\0" in body[:40]:
            xmp = xmp or body
        if scans:  # what lies between two segments is the pixels of a scan
            kept.append(content[place : marker.start()])
        if not (0xE1 <= kind <= 0xEF and kind != 0xEE) and kind != 0xFE:
            kept.append(b"\xff" + content[end - 1 : end + length])
        scans, segments, place = scans + (kind == 0xDA), segments + 1, end + length
        if scans > MAX_SCANS:
            raise DecodeError(f"a JPEG of more than {MAX_SCANS} scans: save it as a baseline JPEG")
        if segments > MAX_SEGMENTS:
            raise DecodeError(f"a JPEG of more than {MAX_SEGMENTS} segments: save it again")
    else:
        kept.append(content[place:])  # cut off
    return Encoded(b"".join(kept), exif, xmp, scans)


def _png(content: bytes) -> Encoded:
    place, chunks = 8, 0
    while place + 8 <= len(content):
        place, chunks = place + 12 + int.from_bytes(content[place : place + 4], "big"), chunks + 1
        if chunks > MAX_CHUNKS:
            raise DecodeError(f"a PNG of more than {MAX_CHUNKS} chunks: save it again")
    return Encoded(content)


def _gif(content: bytes) -> Encoded:
    """Bounds what lies before the first image: extensions, in blocks of at most 255 bytes."""
    colours = content[10] if len(content) > 10 else 0
    start = place = 13 + (3 << ((colours & 7) + 1) if colours & 0x80 else 0)
    while place < len(content) and content[place] not in b",;":
        if content[place : place + 1] == b"!":
            place += 2
            while place < len(content) and content[place] and place - start <= MAX_GIF_PREFACE:
                place += content[place] + 1
        place += 1
        if place - start > MAX_GIF_PREFACE:
            raise DecodeError(f"a GIF of more than {MAX_GIF_PREFACE} bytes before its first image: save it again")
    return Encoded(content)


def _tiff(content: bytes) -> Encoded:
    """Bounds the tags of the first image, and hides its folders of photographic metadata, which nobody reads here.

    A tag says how many values it has, and where. Tags that share their bytes would be copied as often as they are
    named.
    """
    order = "little" if content[:2] == b"II" else "big"
    big = 43 in content[2:4]

    def number(place: int, size: int) -> int:
        return int.from_bytes(content[place : place + size], order)

    first = number(8, 8) if big else number(4, 4)
    count = number(first, 8 if big else 2)
    if count > MAX_TAGS:
        raise DecodeError(f"a TIFF of more than {MAX_TAGS} tags")
    start, step, width = (first + 8, 20, 8) if big else (first + 2, 12, 4)
    total, patched = 0, bytearray(content)
    for place in range(start, min(start + count * step, len(content) - step + 1), step):
        tag, kind, values = number(place, 2), number(place + 2, 2), number(place + 4, width)
        if tag in _POINTERS:
            patched[place : place + 2] = b"\xff\xff"
        if kind not in _TAG_BYTES and values > MAX_TAG_VALUES:
            raise DecodeError(f"a TIFF whose tag {tag} has {values} values (at most {MAX_TAG_VALUES})")
        total += values * _TAG_SIZES.get(kind, 0)
    if total > 2 * len(content):
        raise DecodeError("a TIFF whose tags overlap")
    return Encoded(bytes(patched))


def _without_exif_items(content: bytes) -> bytes:
    """Renames the items of Exif in the `meta` box: AVIF and HEIC have a property for orientation (ISO/IEC 23008-12)."""
    place = 0
    for _ in range(64):
        size, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        if kind == b"meta" and size >= 8:
            box = content[place : place + size].replace(b"Exif\0", b"none\0")
            return content[:place] + box + content[place + size :]
        if size < 8:
            break
        place += size
    return content


def _netpbm(content: bytes) -> Encoded:
    """Refuses plain (text) files, and scales samples of any maximum to 8 or 16 bits, which Pillow does one by one.

    Format: https://netpbm.sourceforge.net/doc/ppm.html.
    """
    if content[1:2] in b"123":
        raise DecodeError("a plain (text) PBM, PGM or PPM takes too long to decode: save it as PNG")
    header = _NETPBM.match(content[:_NETPBM_HEADER_BYTES])
    if not header:
        raise DecodeError(f"no header of a binary PBM, PGM, PPM or PFM in its first {_NETPBM_HEADER_BYTES} bytes")
    kind, width, height, top = (part for part in header.groups() if part is not None)
    if kind not in b"56" or top in (b"255", b"65535" if kind == b"5" else b"255"):
        return Encoded(content)
    return Encoded(_rescaled(content[header.end() :], kind, (int(width), int(height)), int(top)))


def _rescaled(data: bytes, kind: bytes, size: tuple[int, int], top: int) -> bytes:
    """A PGM (kind 5) or PPM (6) of the samples of another, 0..`top`, in 8 bits or, of grey of more, in 16."""
    if not 0 < top < 65536:
        raise DecodeError(f"its largest value is {top}; allowed are 1 to 65535")
    deep = top > 255
    given = np.frombuffer(data[: len(data) // 2 * 2] if deep else data, ">u2" if deep else "u1")
    given = given[: size[0] * size[1] * (3 if kind == b"6" else 1)]
    out_top, dtype = (65535, ">u2") if deep and kind == b"5" else (255, "u1")
    scale = np.rint(np.minimum(np.arange(65536 if deep else 256) / top, 1) * out_top).astype(dtype)
    return b"P%b %d %d %d\n" % (kind, *size, out_top) + scale[given].tobytes()
