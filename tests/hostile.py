"""Small files that cost a decoder much, each with what it is about; made here, as an attacker would."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from tests.photos import encoded, photo

MB = 1_000_000


def progressive(size: tuple[int, int] = (64, 48), **options) -> bytes:
    return encoded(photo(1, size=size), progressive=True, **options)


def jpeg_of_scans(scans: int, size: tuple[int, int] = (4000, 4000)) -> bytes:
    """A progressive JPEG whose last scan is repeated: empty ones, of some 60 bytes each."""
    content = encoded(Image.new("L", size), progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * scans + content[-2:]


def jpeg_of_segments(segments: int, body: bytes = b"") -> bytes:
    content = encoded(photo(1))
    segment = b"\xff\xe5" + struct.pack(">H", len(body) + 2) + body
    return content[:2] + segment * segments + content[2:]


def jpeg_of_junk(size: int) -> bytes:
    """Fill bytes before the first segment, which a parser in Python takes one by one."""
    content = encoded(photo(1))
    return content[:2] + b"\xff" * size + content[2:]


def exif_block(entries: int, reach: int, orientation: int | None = None) -> bytes:
    """EXIF of which every entry claims the same `reach` bytes."""
    rows = [struct.pack("<HHII", 40000 + number % 20000, 7, reach, 8) for number in range(entries)]
    if orientation is not None:
        rows.insert(0, struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0))
    body = b"II*\0" + struct.pack("<IH", 8, len(rows)) + b"".join(rows) + b"\0" * 4
    return b"Exif\0\0" + body.ljust(reach + 8, b"\0")


def jpeg_with_exif(block: bytes) -> bytes:
    content = encoded(photo(1))
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + content[2:]


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of_chunks(chunks: int, kind: bytes = b"teSt", body: bytes = b"") -> bytes:
    content = encoded(photo(1), "PNG")
    return content[:33] + png_chunk(kind, body) * chunks + content[33:]


def gif_of_comment(size: int, block: int = 255) -> bytes:
    content = encoded(photo(1), "GIF")
    colours = 13 + (3 << ((content[10] & 7) + 1) if content[10] & 0x80 else 0)
    comment = b"!\xfe" + (bytes([block]) + b"x" * block) * (size // (block + 1)) + b"\0"
    return content[:colours] + comment + content[colours:]


def plain_ppm(pixels: int) -> bytes:
    side = int(pixels**0.5)
    return b"P3 %d %d 255\n" % (side, side) + b"1 " * (3 * side * side)


def ppm_of_comment(size: int) -> bytes:
    return b"P6 #" + b"x" * size + b"\n2 2 255\n" + b"\0" * 12


def odd_pgm(pixels: int) -> bytes:
    side = int(pixels**0.5)
    return b"P5 %d %d 4095\n" % (side, side) + np.arange(side * side).astype(">u2").tobytes()


def rle_bmp(size: int) -> bytes:
    """Runs of 8-bit pixels that do not move on: the decoder in Python goes over each."""
    return _bmp_of_runs(5000, b"\x01\x07" * (size // 2))


def sound_rle_bmp() -> bytes:
    """100 x 100 pixels of the palette's seventh grey."""
    return _bmp_of_runs(100, b"\x64\x07\0\0" * 100 + b"\0\x01")


def _bmp_of_runs(side: int, runs: bytes) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(runs), 0, 0, 256, 0)
    palette = b"".join(bytes([value, value, value, 0]) for value in range(256))
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + header + palette + runs


def tiff(tags: list[tuple[int, int, int, int]], data: bytes = b"") -> bytes:
    """Little-endian: `data` at offset 8, then the tags (tag, type, count, value or offset)."""
    start = 8 + len(data)
    rows = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<I", start) + data + struct.pack("<H", len(tags)) + rows + b"\0" * 4


def _tiff_tags(side: int, bits: int = 1) -> list[tuple[int, int, int, int]]:
    return [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]


def tiff_of_shared_strips(strips: int, side: int = 5000) -> bytes:
    """One strip's bytes, named as every one of many strips that each cover half the image."""
    row_bytes = -(-side // 8)
    pixels = bytes(row_bytes * (side // 2))
    offsets = struct.pack("<I", 8) * strips
    tags = [*_tiff_tags(side), (278, 4, 1, side // 2), (273, 4, strips, 8 + len(pixels)), (279, 4, 1, len(pixels))]
    return tiff(tags, pixels + offsets)


def tiff_of_shared_tags(tags: int, reach: int) -> bytes:
    data = bytes(reach)
    shared = [(50000 + number, 7, reach, 8) for number in range(tags)]
    return tiff([*_tiff_tags(64), (273, 4, 1, 8), (279, 4, 1, 512), *shared], data)


def tiff_of_many_values(values: int) -> bytes:
    return tiff([*_tiff_tags(64), (273, 4, values, 8), (279, 4, 1, 512), (278, 4, 1, 64)], bytes(4 * values))


def tiff_of_scans(scans: int, tiles: int, side: int = 1664) -> bytes:
    """`tiles` x `tiles` progressive JPEGs of some kilobytes each."""
    one = jpeg_of_scans(scans, (side, side))
    one += bytes(len(one) % 2)
    count = tiles * tiles
    starts = struct.pack(f"<{count}I", *(8 + number * len(one) for number in range(count)))
    sizes = struct.pack("<I", len(one)) * count
    data = one * count + starts + sizes
    place = 8 + count * len(one)
    tags = [(256, 4, 1, tiles * side), (257, 4, 1, tiles * side), (258, 3, 1, 8), (259, 3, 1, 7), (262, 3, 1, 1)]
    tags += [(277, 3, 1, 1), (322, 4, 1, side), (323, 4, 1, side)]
    return tiff([*tags, (324, 4, count, place), (325, 4, count, place + len(starts))], data)


def tiff_of_shared_metadata(tags: int, reach: int) -> bytes:
    """The Exif folder, which Pillow reads when it has decoded the pixels, names the same bytes often."""
    rows = b"".join(struct.pack("<HHII", 40000 + number % 20000, 7, reach, 8) for number in range(tags))
    folder = struct.pack("<H", tags) + rows + b"\0" * 4
    data = bytes(reach) + folder
    return tiff([*_tiff_tags(64), (273, 4, 1, 8), (279, 4, 1, 512), (278, 4, 1, 64), (34665, 4, 1, 8 + reach)], data)


def flat(kind: str, mode: str = "L", side: int = 10_000, **options) -> bytes:
    """One colour, as small as its format makes it: the most pixels for the fewest bytes."""
    buffer = io.BytesIO()
    Image.new(mode, (side, side)).save(buffer, kind, **options)
    return buffer.getvalue()


def noise(kind: str, side: int, mode: str = "RGB", **options) -> bytes:
    """What no encoder makes small: a tile of noise, repeated."""
    rng = np.random.default_rng(0)
    tile = rng.integers(0, 256, (1000, 1000, len(mode)), dtype=np.uint8)
    repeats = -(-side // 1000)
    return encoded(Image.fromarray(np.tile(tile, (repeats, repeats, 1))[:side, :side], mode), kind, **options)


def avif_with_exif(entries: int, reach: int) -> bytes:
    return encoded(photo(1), "AVIF", exif=exif_block(entries, reach)[6:])


# Files that have to be refused, or decoded within the bounds of `tests/modality/images/test_structure.py`.
HOSTILE: dict[str, Callable[[], bytes]] = {
    "JPEG of 1,000 empty scans": lambda: jpeg_of_scans(1000),
    "JPEG of 10,000 empty scans": lambda: jpeg_of_scans(10_000),
    "JPEG of 25 scans, 16 MP": lambda: jpeg_of_scans(20),
    "JPEG of 9 scans, 100 MP": lambda: jpeg_of_scans(4, (10_000, 10_000)),
    "JPEG of 4 million segments": lambda: jpeg_of_segments(4_000_000),
    "JPEG of 60 MB of segments": lambda: jpeg_of_segments(950, bytes(65_000)),
    "JPEG of 30 MB of fill bytes": lambda: jpeg_of_junk(30 * MB),
    "JPEG whose EXIF shares bytes": lambda: jpeg_with_exif(exif_block(5000, 65_000)),
    "JPEG of EXIF in 900 segments": lambda: (
        encoded(photo(1))[:2] + (b"\xff\xe1\xff\xffExif\0\0" + bytes(65_527)) * 900 + encoded(photo(1))[2:]
    ),
    "PNG of 2 million chunks": lambda: png_of_chunks(2_000_000),
    "PNG of 60,000 texts": lambda: png_of_chunks(60_000, b"tEXt", b"key\0" + b"x" * 400),
    "PNG of 1,000 packed texts": lambda: png_of_chunks(1000, b"zTXt", b"k\0\0" + zlib.compress(bytes(10**6))),
    "PNG whose EXIF shares bytes": lambda: png_of_chunks(1, b"eXIf", exif_block(60_000, MB)[6:]),
    "GIF of 30 MB of comments": lambda: gif_of_comment(30 * MB),
    "GIF of comments of a byte": lambda: gif_of_comment(30 * MB, 1),
    "GIF, comments at the bound": lambda: gif_of_comment(500_000),
    "plain PPM of 30 MB": lambda: plain_ppm(5 * MB),
    "PPM with a comment of 30 MB": lambda: ppm_of_comment(30 * MB),
    "PGM of 12 bits, 25 MP": lambda: odd_pgm(25 * MB),
    "RLE bitmap of 30 MB": lambda: rle_bmp(30 * MB),
    "RLE bitmap at the bound": lambda: rle_bmp(1_000_000),
    "TIFF of shared strips": lambda: tiff_of_shared_strips(20_000),
    "TIFF of shared tags": lambda: tiff_of_shared_tags(900, 30 * MB),
    "TIFF of 15 million strips": lambda: tiff_of_many_values(15 * MB),
    "TIFF of JPEGs of 90 scans, 100 MP": lambda: tiff_of_scans(85, 6),
    "TIFF of JPEGs of 90 scans, 11 MP": lambda: tiff_of_scans(85, 2),
    "TIFF whose EXIF shares bytes": lambda: tiff_of_shared_metadata(60_000, 20 * MB),
    "AVIF whose EXIF shares bytes": lambda: avif_with_exif(60_000, MB),
    "PNG of 100 MP, 1 bit": lambda: flat("PNG", "1"),
    "PNG of 100 MP, grey": lambda: flat("PNG"),
    "PNG of 100 MP, RGB": lambda: flat("PNG", "RGB"),
    "PNG of 100 MP, transparent": lambda: flat("PNG", "RGBA"),
    "WebP of 49 MP": lambda: flat("WEBP", "RGB", 7000, lossless=True),
    "WebP of 49 MP, transparent noise": lambda: noise("WEBP", 7000, "RGBA", quality=20, method=0),
    "AVIF of 16 MP of noise": lambda: noise("AVIF", 4000, quality=60, speed=10, subsampling="4:4:4"),
    "JPEG of 60 MP of noise, 10 scans": lambda: noise("JPEG", 7750, quality=50, progressive=True, subsampling=0),
    "AVIF of 25 MP": lambda: flat("AVIF", "RGB", 5000, speed=10),
    "GIF of 100 MP": lambda: flat("GIF"),
    "TIFF of 100 MP, packed fax": lambda: flat("TIFF", "1", compression="group4"),
    "TIFF of 100 MP, deflate": lambda: flat("TIFF", compression="tiff_adobe_deflate"),
}
