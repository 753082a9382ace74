"""The line `metadata`: EXIF, IPTC, XMP, dates, traces of software, the thumbnail."""

import datetime
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree.ElementTree import Element

import cv2
import numpy as np
from defusedxml import ElementTree
from PIL import ExifTags, Image, IptcImagePlugin

from sdfl_jax.data import images
from sdfl_jax.errors import InputError
from sdfl_jax.examine.finding import SIDE, Finding, plain, text

_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP")

# Programs that change pixels, or make them; a camera's firmware is none of these.
_EDITORS = re.compile(
    r"photoshop|lightroom|gimp|affinity|pixelmator|snapseed|picsart|facetune|paint|"
    r"capture one|luminar|darktable|rawtherapee|photoscape|acdsee|picasa|canva|"
    r"imagemagick|facebook|instagram|meitu|beautyplus|faceapp|noise ninja|corel|"
    r"photos \d|photoimpact|irfanview|digikam|\bprisma\b",
    re.IGNORECASE,
)
_GENERATORS = re.compile(
    r"stable diffusion|midjourney|dall-?e|firefly|comfyui|automatic1111|invokeai|"
    r"novelai|imagen\b|trainedalgorithmicmedia|algorithmicmedia",
    re.IGNORECASE,
)
_PNG_RECIPES = ("parameters", "prompt", "workflow", "dream", "sd-metadata")

_PREFIXES = {
    "http://ns.adobe.com/xap/1.0/": "xmp",
    "http://ns.adobe.com/xap/1.0/mm/": "xmpMM",
    "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#": "stEvt",
    "http://ns.adobe.com/xap/1.0/sType/ResourceRef#": "stRef",
    "http://ns.adobe.com/xap/1.0/rights/": "xmpRights",
    "http://ns.adobe.com/photoshop/1.0/": "photoshop",
    "http://ns.adobe.com/camera-raw-settings/1.0/": "crs",
    "http://ns.adobe.com/exif/1.0/": "exif",
    "http://ns.adobe.com/tiff/1.0/": "tiff",
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/": "Iptc4xmpExt",
    "http://www.w3.org/1999/02/22-rdf-syntax-ns#": "rdf",
    "http://www.w3.org/XML/1998/namespace": "xml",
    "adobe:ns:meta/": "x",
}
_IPTC = {
    (2, 5): "object name",
    (2, 25): "keywords",
    (2, 55): "date created",
    (2, 60): "time created",
    (2, 62): "digital creation date",
    (2, 63): "digital creation time",
    (2, 65): "originating program",
    (2, 70): "program version",
    (2, 80): "by-line",
    (2, 90): "city",
    (2, 101): "country",
    (2, 105): "headline",
    (2, 110): "credit",
    (2, 115): "source",
    (2, 116): "copyright notice",
    (2, 120): "caption",
}
_MOST_XMP = 8_000_000  # bytes of XMP that are parsed
_EXIFTOOL_SECONDS = 20


def metadata(path: Path) -> Finding:
    """What the file says of itself; `exiftool`'s reading beside it where installed."""
    data = images.read_bytes(path)
    problems = []
    try:
        picture = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Exception as error:
        raise InputError(f"no metadata can be read ({text(error)})") from None
    with picture:
        exif = _exif(picture, problems)
        xmp = _xmp(picture, problems)
        iptc = _iptc(picture, problems)
        texts = _png_texts(picture)
    found = {
        "exif": exif,
        "xmp": xmp,
        "iptc": iptc,
        "text": texts,
        "gps": _position(exif.get("GPSInfo", {})),
        "maker_note_bytes": _note_bytes(exif),
        "software": _software(exif, xmp, iptc, texts),
        "dates": _dates(exif, xmp, iptc),
        "problems": problems,
        "exiftool": _exiftool(path),
    }
    exif.get("Exif", {}).pop("MakerNote", None)
    found["disagreements"] = _disagreements(found["dates"])
    finding = Finding(
        [],
        certainty="What is written there is read exactly; whether it is true is "
        "another matter, for anyone can write metadata.",
        limits="Missing metadata mean little: most services remove them. An editor's "
        "name tells that a file passed through it, not that its content was changed.",
        found=plain(found),
    )
    _thumbnail(finding, exif, data)
    finding.found["exif"] = plain({k: v for k, v in exif.items() if k != "_raw"})
    finding.summary = _summary(finding.found)
    return finding


def _summary(found: dict) -> list[str]:
    kinds = [kind for kind in ("exif", "xmp", "iptc", "text") if found[kind]]
    if not kinds:
        lines = ["No metadata: neither EXIF nor XMP nor IPTC."]
    else:
        names = {"exif": "EXIF", "xmp": "XMP", "iptc": "IPTC", "text": "text chunks"}
        lines = [f"There is {', '.join(names[kind] for kind in kinds)}."]
    image = found["exif"].get("Image", {})
    camera = " ".join(str(image[key]) for key in ("Make", "Model") if image.get(key))
    if camera:
        note = found["maker_note_bytes"]
        lines.append(
            f"It names the camera {camera}, "
            + (
                f"with {note:,} bytes of the maker's own notes."
                if note
                else "with no "
                "notes of the maker's own, which cameras write and many editors drop."
            )
        )
    if found["software"]:
        names = "; ".join(
            f"{line['name']} ({line['kind']})" for line in found["software"]
        )
        lines.append(f"Software that is named: {names}.")
    if found["gps"]:
        lines.append(
            "A position is given: {latitude}, {longitude}.".format(**found["gps"])
        )
    lines += [f"{line}." for line in found["disagreements"]]
    lines += [f"Not readable: {line}." for line in found["problems"]]
    thumb = found["thumbnail"]
    if thumb and "difference" in thumb:
        lines.append(
            f"A thumbnail of {thumb['width']} x {thumb['height']} pixels lies inside; "
            f"it differs from the image by {thumb['difference']} of 255 grey levels on "
            f"average (correlation {thumb['correlation']})."
        )
    elif thumb:
        lines.append("A thumbnail lies inside that cannot be read.")
    return lines


# EXIF, XMP, IPTC, text


def _exif(picture: Image.Image, problems: list[str]) -> dict:
    """Its directories by name (`Image`, `Exif`, `GPSInfo`, `Interop`, `Thumbnail`)."""
    try:
        exif = picture.getexif() if picture.format != "PNG" else _png_exif(picture)
        directories = {"Image": (dict(exif), ExifTags.TAGS)}
        for name, ifd, tags in (
            ("Exif", ExifTags.IFD.Exif, ExifTags.TAGS),
            ("GPSInfo", ExifTags.IFD.GPSInfo, ExifTags.GPSTAGS),
            ("Interop", ExifTags.IFD.Interop, ExifTags.TAGS),
            ("Thumbnail", ExifTags.IFD.IFD1, ExifTags.TAGS),
        ):
            try:
                directories[name] = dict(exif.get_ifd(ifd)), tags
            except Exception as error:
                problems.append(f"EXIF directory {name} ({text(error)})")
    except Exception as error:
        problems.append(f"EXIF ({text(error)})")
        return {}
    pointers = {"ExifOffset", "GPSInfo", "InteropOffset", "ExifInteroperabilityOffset"}
    named = {}
    for name, (entries, tags) in directories.items():
        fields = {
            tags.get(tag, f"0x{tag:04X}"): value for tag, value in entries.items()
        }
        named[name] = {key: v for key, v in fields.items() if key not in pointers}
    raw = picture.info.get("exif", b"") if picture.format != "PNG" else b""
    named = {name: fields for name, fields in named.items() if fields}
    return named | ({"_raw": raw} if named and raw else {})


def _png_exif(picture: Image.Image) -> Image.Exif:
    exif = Image.Exif()  # `getexif` would decode the pixels first
    exif.load(picture.info.get("exif"))
    return exif


def _xmp(picture: Image.Image, problems: list[str]) -> dict:
    """Each property of the XMP packet, `prefix:name` to its value or values."""
    packet = picture.info.get("xmp") or picture.info.get("XML:com.adobe.xmp") or b""
    if picture.format == "TIFF":
        packet = picture.tag_v2.get(700, b"")
    packet = packet.encode() if isinstance(packet, str) else bytes(packet)
    packet = packet.strip(b"\0 \r\n\t")
    if not packet:
        return {}
    if len(packet) > _MOST_XMP:
        problems.append(f"XMP of {len(packet):,} bytes; {_MOST_XMP:,} are parsed")
        return {}
    try:
        root = ElementTree.fromstring(packet)
    except Exception as error:
        problems.append(f"XMP ({text(error) or type(error).__name__})")
        return {}
    found: dict[str, list] = {}
    _walk(root, "", found)
    return {key: v[0] if len(v) == 1 else v for key, v in found.items()}


def _walk(root: Element, owner: str, found: dict[str, list]):
    """Adds every attribute and text, under the property that it belongs to.

    An item of a list belongs to the list's property. Nothing recurses, for a packet may
    be nested as deep as its length allows.
    """
    waiting = [(root, owner)]
    while waiting:
        element, owner = waiting.pop()
        name = _prefixed(element.tag)
        owner = owner if name.startswith("rdf:") else name
        for key, value in element.attrib.items():
            _add(found, _prefixed(key), value)
        if not len(element) and (element.text or "").strip():
            _add(found, owner, element.text.strip())
        waiting += [(child, owner) for child in reversed(element)]


def _add(found: dict[str, list], name: str, value: str):
    if name and not name.startswith(("rdf:", "xml:", "x:")):
        found.setdefault(name, []).append(value)


def _prefixed(tag: str) -> str:
    space, _, name = tag.rpartition("}")
    return f"{_PREFIXES.get(space.lstrip('{'), space.lstrip('{'))}:{name}"


def _iptc(picture: Image.Image, problems: list[str]) -> dict:
    try:
        records = IptcImagePlugin.getiptcinfo(picture) or {}
    except Exception as error:
        problems.append(f"IPTC ({text(error)})")
        return {}
    decode = lambda v: v.decode("utf-8", "replace") if isinstance(v, bytes) else v
    return {
        _IPTC.get(key, f"{key[0]}:{key[1]}"): [decode(v) for v in value]
        if isinstance(value, list)
        else decode(value)
        for key, value in records.items()
        if key[0] == 2 and key != (2, 0)
    }


def _png_texts(picture: Image.Image) -> dict:
    if picture.format != "PNG":
        return {}
    return {
        key: value
        for key, value in picture.info.items()
        if isinstance(key, str) and isinstance(value, str) and "xmp" not in key.lower()
    }


def _note_bytes(exif: dict) -> int:
    note = exif.get("Exif", {}).get("MakerNote", b"")
    return len(note) if isinstance(note, bytes | str | tuple) else 0


def _position(gps: dict) -> dict | None:
    try:
        return {
            "latitude": _degrees(gps["GPSLatitude"], gps["GPSLatitudeRef"]),
            "longitude": _degrees(gps["GPSLongitude"], gps["GPSLongitudeRef"]),
        }
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _degrees(parts, side: str) -> float:
    degrees, minutes, seconds = (float(part) for part in parts)
    value = degrees + minutes / 60 + seconds / 3600
    return round(-value if side.strip("\0 ").upper() in ("S", "W") else value, 6)


# Software and dates


def _software(exif: dict, xmp: dict, iptc: dict, texts: dict) -> list[dict]:
    """Each program that is named, where, and of which kind it is."""
    image = exif.get("Image", {})
    named = [
        ("EXIF Software", image.get("Software")),
        ("EXIF ProcessingSoftware", image.get("ProcessingSoftware")),
        ("EXIF HostComputer", image.get("HostComputer")),
        ("IPTC originating program", iptc.get("originating program")),
        ("text Software", texts.get("Software")),
    ]
    for key in ("xmp:CreatorTool", "stEvt:softwareAgent", "tiff:Software"):
        named.append((f"XMP {key}", xmp.get(key)))
    named.append(("XMP digital source", xmp.get("Iptc4xmpExt:DigitalSourceType")))
    if any(key.startswith("crs:") for key in xmp):
        named.append(("XMP", "Adobe Camera Raw or Lightroom settings"))
    found, seen = [], set()
    for where, values in named:
        for value in values if isinstance(values, list) else [values]:
            name = text(value or "")
            if name and (where, name) not in seen:
                seen.add((where, name))
                found.append({"where": where, "name": name, "kind": _kind_of(name)})
    for key in _PNG_RECIPES:
        if key in texts:
            name = f"a text chunk {key!r}, as image generators write it"
            found.append({"where": "text", "name": name, "kind": "generator"})
    return found


def _kind_of(name: str) -> str:
    if _GENERATORS.search(name):
        return "generator"
    return "editor or service" if _EDITORS.search(name) else "camera or other"


def _dates(exif: dict, xmp: dict, iptc: dict) -> dict[str, str]:
    """Every date that can be read, as ISO text, with its offset from UTC if given."""
    image, inner, gps = (exif.get(k, {}) for k in ("Image", "Exif", "GPSInfo"))
    raw = {
        "EXIF DateTimeOriginal": inner.get("DateTimeOriginal"),
        "EXIF DateTimeDigitized": inner.get("DateTimeDigitized"),
        "EXIF DateTime": image.get("DateTime"),
        "XMP CreateDate": xmp.get("xmp:CreateDate"),
        "XMP ModifyDate": xmp.get("xmp:ModifyDate"),
        "XMP MetadataDate": xmp.get("xmp:MetadataDate"),
        "XMP photoshop DateCreated": xmp.get("photoshop:DateCreated"),
        "IPTC date created": _joined(
            iptc.get("date created"), iptc.get("time created")
        ),
        "GPS date (UTC)": _gps_date(gps),
    }
    parsed = {name: _parse_date(value) for name, value in raw.items()}
    return {name: value.isoformat() for name, value in parsed.items() if value}


def _joined(date, time) -> str | None:
    return f"{date} {time or ''}".strip() if isinstance(date, str) else None


def _gps_date(gps: dict) -> str | None:
    try:
        hours = [int(float(part)) for part in gps["GPSTimeStamp"]]
        return f"{gps['GPSDateStamp']} {hours[0]:02}:{hours[1]:02}:{hours[2]:02}"
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError):
        return None


def _parse_date(value) -> datetime.datetime | None:
    if not isinstance(value, str):
        return None
    value = value.strip("\0 ")
    try:
        return datetime.datetime.fromisoformat(value)
    except ValueError:
        pass
    for form in ("%Y:%m:%d %H:%M:%S", "%Y%m%d %H%M%S%z", "%Y%m%d %H%M%S", "%Y%m%d"):
        try:
            return datetime.datetime.strptime(value, form)
        except ValueError:
            continue
    return None


def _disagreements(dates: dict[str, str]) -> list[str]:
    """Dates that do not fit together, a sentence each.

    Clocks without a zone are compared with a day's room, those of one zone with two
    seconds: cameras write their dates one after the other.
    """
    at = {name: datetime.datetime.fromisoformat(v) for name, v in dates.items()}
    found = []
    taken, digitized = at.get("EXIF DateTimeOriginal"), at.get("EXIF DateTimeDigitized")
    changed = at.get("EXIF DateTime")
    apart = lambda a, b: (_local(b) - _local(a)).total_seconds()
    if taken and digitized and abs(apart(taken, digitized)) > 2:
        found.append(
            "It was taken and digitized at different times, as a scan would be"
        )
    if taken and changed and apart(taken, changed) > 2:
        found.append(
            f"EXIF's own record was changed {_span(apart(taken, changed))} after it "
            "was taken: the file was written again, by a program or by the camera"
        )
    if taken and changed and apart(taken, changed) < -2:
        found.append(
            f"It was changed {_span(-apart(taken, changed))} before it was taken, "
            "which no clock that runs would write"
        )
    if taken:
        for name in ("XMP CreateDate", "IPTC date created", "GPS date (UTC)"):
            if name in at and abs(apart(taken, at[name])) > 86_400 + 2:
                found.append(
                    f"{name} lies {_span(abs(apart(taken, at[name])))} from the time "
                    "it was taken"
                )
        for name in ("XMP ModifyDate", "XMP MetadataDate"):
            if name in at and apart(taken, at[name]) > 86_400:
                found.append(f"{name} is {_span(apart(taken, at[name]))} after that")
    return found


def _local(moment: datetime.datetime) -> datetime.datetime:
    return moment.replace(tzinfo=None)


def _span(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} seconds"


# Thumbnail


def _thumbnail(finding: Finding, exif: dict, data: bytes):
    """The EXIF thumbnail beside the image at its size, and how far they differ."""
    finding.found["thumbnail"] = None
    entries, raw = exif.get("Thumbnail", {}), exif.get("_raw", b"")
    start, size = entries.get("JpegIFOffset"), entries.get("JpegIFByteCount")
    if not isinstance(start, int) or not isinstance(size, int):
        return
    raw = raw.removeprefix(b"Exif\0\0")
    packed = raw[start : start + size]
    try:
        small, image = _stored(packed), _stored(data)
    except Exception as error:
        finding.found["thumbnail"] = {"bytes": len(packed), "unreadable": text(error)}
        return
    small = _without_bars(small, image.shape[1] / image.shape[0])
    height, width = small.shape[:2]
    same = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    grey = [
        cv2.cvtColor(p, cv2.COLOR_RGB2GRAY).astype(np.float32) for p in (small, same)
    ]
    apart = np.abs(grey[0] - grey[1])
    spread = grey[0].std() * grey[1].std()
    joint = np.mean((grey[0] - grey[0].mean()) * (grey[1] - grey[1].mean()))
    finding.found["thumbnail"] = {
        "width": width,
        "height": height,
        "bytes": len(packed),
        "difference": round(float(apart.mean()), 1),
        "correlation": round(float(joint / spread), 3) if spread > 0 else None,
    }
    shown = np.clip(apart * 4, 0, 255).astype(np.uint8)
    beside = np.hstack([small, same, np.repeat(shown[..., None], 3, axis=2)])
    scale = min(3, SIDE // max(beside.shape[1], 1)) or 1
    beside = cv2.resize(beside, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    finding.show(
        "thumbnail.jpg",
        beside,
        "The embedded thumbnail, the image at its size, and their difference four "
        "times as strong. A thumbnail that shows something else was left behind by an "
        "edit.",
    )


def _stored(data: bytes) -> np.ndarray:
    """Pixels as they are stored, not turned: a thumbnail is turned as its image is."""
    image = images.read_image(data)
    # `turned` undoes itself for all but the two quarter turns, which undo each other.
    back = {6: 8, 8: 6}.get(images.orientation(data), images.orientation(data))
    return np.ascontiguousarray(images.turned(image, back))


def _without_bars(small: np.ndarray, ratio: float) -> np.ndarray:
    """Cut to the image's shape: many cameras fill thumbnails of 160x120 with bars."""
    height, width = small.shape[:2]
    if width / height < ratio * 0.98:
        rows = max(1, round(width / ratio))
        top = (height - rows) // 2
        return small[top : top + rows]
    if width / height > ratio * 1.02:
        columns = max(1, round(height * ratio))
        left = (width - columns) // 2
        return small[:, left : left + columns]
    return small


# exiftool


def _exiftool(path: Path) -> dict | None:
    """What `exiftool` reads, by group and tag; None where it is not installed."""
    program = shutil.which("exiftool")
    if program is None:
        return None
    options = ["-json", "-G1", "-struct", "-x", "File:all", "-x", "ExifTool:all"]
    options += [
        "-x",
        "System:all",
        "-x",
        "Composite:all",
        "-api",
        "LimitLongValues=400",
    ]
    try:
        done = subprocess.run(
            # An absolute path never looks like an option.
            [program, *options, str(path.absolute())],
            capture_output=True,
            timeout=_EXIFTOOL_SECONDS,
        )
        (tags,) = json.loads(done.stdout[:50_000_000])
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return {"error": text(error) or type(error).__name__}
    return {key: v for key, v in tags.items() if key != "SourceFile"}
