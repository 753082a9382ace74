"""The line `file`: hashes, the true format, and the parts a file is made of.

The parts are followed from one to the next as the formats lay them out, and never
searched for, so that bytes which merely look like a header are not taken for one.
"""

import hashlib
import re
import struct
import zlib
from pathlib import Path

import imagehash
from PIL import Image

from sdfl_jax.data import images
from sdfl_jax.errors import InputError
from sdfl_jax.examine.finding import Finding, text

LISTED = 500  # parts of a file that the finding names; the others are counted
_MOST = 200_000  # parts that are followed at all

_MAGIC = {  # what a file starts with, its format and the endings that go with it
    b"\xff\xd8\xff": ("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")),
    b"\x89PNG\r\n\x1a\n": ("PNG", (".png", ".apng")),
    b"GIF87a": ("GIF", (".gif",)),
    b"GIF89a": ("GIF", (".gif",)),
    b"II*\0": ("TIFF", (".tif", ".tiff", ".dng", ".nef", ".cr2", ".arw")),
    b"MM\0*": ("TIFF", (".tif", ".tiff", ".dng", ".nef")),
    b"II+\0": ("BigTIFF", (".tif", ".tiff", ".btf")),
    b"MM\0+": ("BigTIFF", (".tif", ".tiff", ".btf")),
    b"BM": ("BMP", (".bmp", ".dib")),
    b"%PDF": ("PDF", (".pdf",)),
    b"PK\3\4": ("ZIP", (".zip",)),
}
_ISO = {  # the brand of a file of ISO boxes
    b"heic": ("HEIC", (".heic", ".heif")),
    b"heix": ("HEIC", (".heic", ".heif")),
    b"mif1": ("HEIF", (".heif", ".heic")),
    b"avif": ("AVIF", (".avif",)),
}

_NAMES = {0xDA: "SOS", 0xDB: "DQT", 0xC4: "DHT", 0xDD: "DRI", 0xFE: "COM", 0xDC: "DNL"}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
# A marker is what follows 0xFF in coded data, but for stuffing and restarts.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")


def file(path: Path) -> Finding:
    """Hashes, format against ending, structure, bytes behind the end of the image."""
    data = images.read_bytes(path)
    name, endings = kind(data)
    parts, end, remarks = layout(data, name)
    found = {
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "sha1": hashlib.sha1(data).hexdigest(),
        "format": name,
        "ending": path.suffix.lower(),
        "ending_fits": path.suffix.lower() in endings if endings else None,
        "parts": parts[:LISTED],
        "parts_in_all": len(parts),
        "remarks": remarks,
        "bytes_behind_end": None if end is None else len(data) - end,
        "behind_end": None,
        "perceptual_hash": None,
        "width": None,
        "height": None,
    }
    summary = [f"{len(data):,} bytes, {name or 'no image format that is known here'}."]
    if found["ending_fits"] is False:
        summary.append(f"Its ending {path.suffix!r} does not fit {name}.")
    if end is None:
        summary.append("The structure of this format is not followed here.")
    elif found["bytes_behind_end"]:
        found["behind_end"] = kind(data[end:])[0] or "unknown"
        summary.append(
            f"{found['bytes_behind_end']:,} bytes lie behind the end of the image, "
            f"beginning as {found['behind_end']}."
        )
    else:
        summary.append("No bytes lie behind the end of the image.")
    summary += [f"{remark}." for remark in remarks]
    finding = Finding(
        summary,
        certainty="Exact: bytes are counted and hashed. The perceptual hash tells "
        "likeness alone: two hashes that differ in few bits belong to alike pictures.",
        limits="A file's structure tells which programs may have written it, not what "
        "it shows. Bytes behind the end are common: phones keep a second picture, a "
        "video or a depth map there.",
        found=found,
    )
    try:
        image = images.read_image(data)
        found["height"], found["width"] = image.shape[:2]
        found["perceptual_hash"] = str(imagehash.phash(Image.fromarray(image)))
        summary.append(f"Decodes to {image.shape[1]} x {image.shape[0]} pixels.")
    except InputError as error:
        found["unreadable"] = text(error)
        summary.append(f"Its pixels cannot be read: {text(error)}")
    else:
        finding.show("photograph.jpg", image, "The photograph, turned upright.")
    return finding


def kind(data: bytes) -> tuple[str | None, tuple[str, ...]]:
    """The format that the first bytes tell, and the endings that go with it."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP", (".webp",)
    if data[4:8] == b"ftyp":
        return _ISO.get(data[8:12], ("ISO media (MP4 or akin)", (".mp4", ".mov")))
    for magic, known in _MAGIC.items():
        if data.startswith(magic):
            return known
    return None, ()


def layout(data: bytes, name: str | None) -> tuple[list[dict], int | None, list[str]]:
    """The parts of a file, where the image ends, and what is out of order.

    A part holds `name`, `offset`, `bytes`, and `what` where it says what it is for. The
    end is None for formats that are not followed.
    """
    readers = {"JPEG": _jpeg, "PNG": _png, "WebP": _webp, "BMP": _bmp}
    if name not in readers:
        return [], None, []
    return readers[name](data)


def _part(name: str, offset: int, size: int, what: str = "") -> dict:
    part = {"name": name, "offset": offset, "bytes": size}
    return part | {"what": text(what)} if what else part


def _jpeg(data: bytes):
    parts, remarks, position = [_part("SOI", 0, 2)], [], 2
    while len(parts) < _MOST:
        if data[position : position + 1] != b"\xff":
            found = _MARKER.search(data, position)
            if found is None:
                remarks.append("the file ends without an end-of-image marker")
                return parts, len(data), remarks
            lost = found.start() - position
            remarks.append(f"{lost:,} bytes at {position:,} belong to no segment")
            position = found.start()
        while data[position : position + 2] == b"\xff\xff":  # filling
            position += 1
        if position + 2 > len(data):
            remarks.append("the file ends without an end-of-image marker")
            return parts, len(data), remarks
        marker = data[position + 1]
        if marker == 0xD9:
            return [*parts, _part("EOI", position, 2)], position + 2, remarks
        if marker in (0x01, 0xD8, *range(0xD0, 0xD8)):
            parts.append(_part(_marker_name(marker), position, 2))
            position += 2
            continue
        size = int.from_bytes(data[position + 2 : position + 4], "big")
        if size < 2 or position + 2 + size > len(data):
            remarks.append(f"the segment at {position:,} reaches beyond the file")
            return parts, len(data), remarks
        body = data[position + 4 : position + 2 + size]
        name = _marker_name(marker)
        parts.append(_part(name, position, 2 + size, _purpose(marker, body)))
        position += 2 + size
        if marker == 0xDA:
            found = _MARKER.search(data, position)
            end = found.start() if found else len(data)
            parts.append(_part("coded data", position, end - position))
            position = end
    return parts, len(data), [*remarks, f"more than {_MOST:,} segments"]


def _marker_name(marker: int) -> str:
    if marker in _FRAMES:
        return f"SOF{marker - 0xC0}"
    if 0xE0 <= marker <= 0xEF:
        return f"APP{marker - 0xE0}"
    if 0xD0 <= marker <= 0xD7:
        return f"RST{marker - 0xD0}"
    return _NAMES.get(marker, f"marker {marker:02X}")


def _purpose(marker: int, body: bytes) -> str:
    """What an application segment calls itself; a comment's words."""
    if marker == 0xFE:
        return body.decode("utf-8", "replace")
    if 0xE0 <= marker <= 0xEF:
        return body[:40].split(b"\0")[0].decode("latin-1")
    return ""


def _png(data: bytes):
    parts, remarks, position = [], [], 8
    while len(parts) < _MOST and position + 12 <= len(data):
        size, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + size
        if end > len(data):
            break
        said = int.from_bytes(data[end - 4 : end], "big")
        label = name.decode("latin-1")
        what = ""
        if name in (b"tEXt", b"zTXt", b"iTXt"):
            what = data[position + 8 : end - 4][:80].split(b"\0")[0].decode("latin-1")
        parts.append(_part(text(label), position, 12 + size, what))
        if zlib.crc32(data[position + 4 : end - 4]) != said:
            remarks.append(f"the checksum of chunk {text(label)} is wrong")
        position = end
        if name == b"IEND":
            return parts, position, remarks
    return parts, len(data), [*remarks, "the file ends without its end chunk"]


def _webp(data: bytes):
    end = 8 + int.from_bytes(data[4:8], "little")
    parts, position = [], 12
    while len(parts) < _MOST and position + 8 <= min(end, len(data)):
        name, size = struct.unpack_from("<4sI", data, position)
        parts.append(_part(text(name.decode("latin-1")), position, 8 + size))
        position += 8 + size + size % 2
    cut = ["the file is shorter than it claims"] if end > len(data) else []
    return parts, min(end, len(data)), cut


def _bmp(data: bytes):
    end = int.from_bytes(data[2:6], "little")
    parts = [_part("header", 0, min(54, len(data)))]
    if end > len(data):
        return parts, len(data), ["the file is shorter than it claims"]
    return parts, end or len(data), []


def jpeg_segments(data: bytes) -> dict[str, list[bytes]]:
    """The content of each segment of a JPEG file, by name (`SOF0`, `DRI`, ...)."""
    found = {}
    for part in _jpeg(data)[0]:
        begin, size = part["offset"], part["bytes"]
        if size >= 4 and part["name"] != "coded data":
            found.setdefault(part["name"], []).append(data[begin + 4 : begin + size])
    return found
