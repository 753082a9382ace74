"""Compressed pictures of which a part is lost, where their decoders do not say so.

The decoders of HEIC, AVIF and WebP go on past zeros without a word and fill the picture
with greys. Zeros are what a copy or a download leaves that was cut short after its room
on the disk was set aside. Encoders write few in a row: of a flat picture, WebP has one
byte for 40 blocks of 16 x 16 pixels, HEIC and AVIF none. Of a TIFF's strips, libtiff
neither compares the checksums of those that zlib packed nor heeds libjpeg's warnings.

JPEG files have rules of their own (`jpeg`); PNG, GIF and JPEG XL notice.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator

import tifffile

from sdfl_jax.data import jpeg
from sdfl_jax.errors import InputError

_RUNS = re.compile(rb"\0{32,}")
_PIXELS_PER_ZERO = 2048  # five times as many zeros as a flat picture has
_LARGEST_TILE = 1 << 24  # pixels; a picture may be smaller than its tile
_PICTURES = (b"hvc1", b"hev1", b"av01", b"avc1", b"vvc1")  # items of an ISO file
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def refuse_damaged(data: bytes, pixels: int):
    """`InputError` where a file of so many pixels lacks a part, with the share of it.

    Files of other formats pass.
    """
    if data[4:8] == b"ftyp":
        _refuse_zeros(data, _iso(data), pixels)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        _refuse_zeros(data, _webp(data), pixels)
    elif data[:4] in _TIFF:
        _refuse_strips(data, max(pixels, _LARGEST_TILE))


def _damaged(reason: str, share: float) -> InputError:
    return InputError(
        f"a damaged file ({reason}; {max(share, 0.001):.1%} of the picture is missing)."
    )


def _refuse_zeros(data: bytes, parts: Iterator[tuple[int, int]], pixels: int):
    zeros, size, most = 0, 0, 32 + pixels // _PIXELS_PER_ZERO
    try:
        for begin, end in parts:
            size += max(end - begin, 0)
            runs = map(len, _RUNS.findall(data, begin, end))
            zeros += sum(run for run in runs if run > most)
            if size > 2 * len(data):  # parts of each other: nobody wrote that
                break
    except (struct.error, IndexError):  # a header so damaged that no decoder reads it
        return
    if zeros:
        raise _damaged("a part was overwritten with zeros", zeros / size)


def _refuse_strips(data: bytes, max_pixels: int):
    """Counts strips (or tiles) of the first page that do not unpack as they should."""
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages[0]
            packing, tables = int(page.compression), page.jpegtables or b""
            parts = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    except Exception:  # whatever else is wrong with it is told when it is decoded
        return
    check = {7: _jpeg_strip, 8: _zlib_strip, 32946: _zlib_strip}.get(packing)
    if check is None:
        return
    strips = [data[begin : begin + size] for begin, size in parts if size]
    bad = sum(not check(strip, tables, max_pixels) for strip in strips)
    if bad:
        reason = f"{bad} of its {len(strips)} strips or tiles are broken"
        raise _damaged(reason, bad / len(strips))


def _zlib_strip(strip: bytes, *_) -> bool:
    unpack = zlib.decompressobj()
    try:
        while strip and not unpack.eof:
            unpack.decompress(strip, 1 << 20)
            strip = unpack.unconsumed_tail
    except zlib.error:
        return False
    return True


def _jpeg_strip(strip: bytes, tables: bytes, max_pixels: int) -> bool:
    """A strip is a JPEG file whose tables may lie elsewhere, between its markers."""
    try:
        jpeg.check(jpeg.START + tables[2:-2] + strip[2:], max_pixels)
    except InputError:
        return False
    return True


def _webp(data: bytes) -> Iterator[tuple[int, int]]:
    position = 12
    while position + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, position)
        if name == b"ANMF":  # a frame: 16 bytes of its own, then chunks
            position += 24
            continue
        if name in (b"VP8 ", b"VP8L"):
            yield position + 8, position + 8 + size
        position += 8 + size + size % 2


def _iso(data: bytes) -> Iterator[tuple[int, int]]:
    """Begin and end of the coded pictures, by ISO/IEC 14496-12, 8.11."""
    for name, begin, end in _boxes(data, 0, len(data)):
        if name != b"meta":
            continue
        inside = {name: at for name, *at in _boxes(data, begin + 4, end)}
        if b"iinf" in inside and b"iloc" in inside:
            pictures = _items_of_pictures(data, *inside[b"iinf"])
            for item, extents in _extents(data, inside[b"iloc"][0]):
                if item in pictures:
                    yield from extents


def _boxes(data: bytes, position: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, begin and end of the content of each box."""
    while position + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, position)
        head = 8
        if size == 1:
            (size,), head = struct.unpack_from(">Q", data, position + 8), 16
        if size == 0:
            size = end - position
        if size < head:
            return
        yield name, position + head, min(position + size, end)
        position += size


def _items_of_pictures(data: bytes, begin: int, end: int) -> set[int]:
    first = begin + (6 if data[begin] == 0 else 8)
    found = set()
    for name, at, _ in _boxes(data, first, end):
        if name == b"infe" and data[at] in (2, 3):
            number = ">H" if data[at] == 2 else ">I"
            (item,) = struct.unpack_from(number, data, at + 4)
            kind = at + 4 + struct.calcsize(number) + 2
            if data[kind : kind + 4] in _PICTURES:
                found.add(item)
    return found


def _extents(data: bytes, at: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Items that lie in the file, with the begin and end of each of their parts."""
    version, sizes = data[at], struct.unpack_from(">H", data, at + 4)[0]
    position = at + 6

    def take(count: int) -> int:
        nonlocal position
        position += count
        if position > len(data):
            raise IndexError
        return int.from_bytes(data[position - count : position], "big")

    if not sizes >> 8 & 15:  # one part, the file
        return
    wide = 4 if version == 2 else 2
    for _ in range(take(wide)):
        item = take(wide)
        where = take(2) & 15 if version in (1, 2) else 0
        take(2)
        base = take(sizes >> 4 & 15)
        extents = []
        for _ in range(take(2)):
            if version in (1, 2):
                take(sizes & 15)
            begin = base + take(sizes >> 12)
            extents.append((begin, begin + take(sizes >> 8 & 15)))
        if where == 0:
            yield item, extents
