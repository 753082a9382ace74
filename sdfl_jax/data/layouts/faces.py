"""FaceForensics++: frames, masks and edges out of its videos, or as extracted.

A manipulated video 005_010 shows the face of video 010 in video 005, so both belong to
its group, and with them everything that was made of either.
"""

import dataclasses
import json
import os
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from sdfl_jax.data import images, origins, videos
from sdfl_jax.data.layouts.common import (
    Found,
    Item,
    Options,
    Refused,
    child,
    image_files,
    match_masks,
    missing_folder,
    open_root,
)
from sdfl_jax.data.lists import SPLITS
from sdfl_jax.data.workers import each
from sdfl_jax.errors import InputError
from sdfl_jax.files import write_json

ORIGINALS = ("youtube", "actors")
METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
BEST_FIRST = ("raw", "c0", "c23", "c40")  # compressions, the least first
FINISHED = "finished"  # OUT/finished/SOURCE/VIDEO.json says what a video gave
VIDEO_SECONDS = 7200  # no video takes as long; one that does has a decoder stuck
VERSION = 1  # counts up when the same video and settings give other frames

_DIFFERENT = 24  # grey levels beyond what coding a frame twice changes


def faceforensics(root: Path, options: Options) -> Found:
    """FaceForensics++: original_sequences/ and manipulated_sequences/, or image/.

    Videos: original_sequences/{youtube,actors}/COMPRESSION/videos/ and
    manipulated_sequences/METHOD/{COMPRESSION,masks}/videos/. Frames: image/SOURCE/,
    mask/SOURCE/ and, if any, edge/SOURCE/ with the same names.
    """
    root = open_root(root, "original_sequences", "manipulated_sequences", "image")
    official = _official(root, options.splits)
    if child(root, "original_sequences") or child(root, "manipulated_sequences"):
        items, refused = _from_videos(root, options)
    elif child(root, "image"):
        items, refused = _from_frames(root, options)
    else:
        raise InputError(
            f"--root={root}: neither original_sequences/ and manipulated_sequences/ "
            "(videos) nor image/ (frames) in it."
        )
    kept = []
    for item in items:
        numbers = [name.removeprefix("youtube/") for name in item.parents]
        told = {official[number] for number in numbers if number in official}
        if len(told) > 1:
            reason = f"two splits: its videos {' and '.join(numbers)} are in both"
            refused.append(Refused(item.image, reason))
            continue
        kept.append(dataclasses.replace(item, split=told.pop() if told else ""))
    return kept, refused


def _official(root: Path, folder: Path | None) -> dict[str, str]:
    """Split of each video number, from JSON files of pairs [["071", "054"], ...]."""
    if folder is None:
        places = (root / "splits", root)
        folder = next((p for p in places if (p / "train.json").is_file()), None)
        if folder is None:
            return {}
    official = {}
    for split in SPLITS:
        path = folder / f"{split}.json"
        if not path.is_file():
            raise InputError(f"{path}: no such file; --splits needs all three.")
        try:
            pairs = json.loads(path.read_text())
            numbers = [str(number) for pair in pairs for number in pair]
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError):
            raise InputError(f'{path}: no list of pairs ["071", "054"].') from None
        for number in numbers:
            if official.setdefault(number, split) != split:
                raise InputError(
                    f"{path}: video {number} is in {official[number]} too."
                )
    return official


# Frames that somebody extracted.


def _from_frames(root: Path, options: Options) -> Found:
    items, refused = [], []
    folders = {kind: child(root, kind) for kind in ("image", "mask", "edge")}
    if folders["mask"] is None:
        refused.append(missing_folder(root / "mask"))
    for source in (*ORIGINALS, *METHODS):
        here = {
            kind: None if folder is None else child(folder, source)
            for kind, folder in folders.items()
        }
        if here["image"] is None:
            refused.append(missing_folder(root / "image" / source))
            continue
        files = {
            kind: [] if folder is None else image_files(folder, skip=options.out)
            for kind, folder in here.items()
        }

        def key(path: Path, here=here) -> str:
            base = next(f for f in here.values() if f and path.is_relative_to(f))
            return str(path.relative_to(base).with_suffix("")).lower()

        label = int(source in METHODS)
        pairs = dict.fromkeys(files["image"])
        if label:
            pairs, unmatched = match_masks(files["image"], files["mask"], key, key)
            refused += unmatched
        edges = {key(path): str(path) for path in files["edge"]}
        items += [
            Item(
                image=str(path),
                mask=None if mask is None else str(mask),
                edge=edges.get(key(path)),
                label=label,
                source=source,
                kind=source if label else "",
                parents=origins.videos(str(path)),
            )
            for path, mask in pairs.items()
        ]
    return items, refused


# Frames out of videos.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Video:
    """One video to take `frames` frames of; `original` is what it was made of."""

    path: str
    source: str
    out: str
    frames: int
    mask: str | None = None
    original: str | None = None

    @property
    def name(self) -> str:
        return f"{self.source}_{Path(self.path).stem}"

    @property
    def settings(self) -> dict:
        files = (self.path, self.mask, self.original)
        sizes = [None if path is None else os.path.getsize(path) for path in files]
        return {"version": VERSION, "frames": self.frames, "bytes": sizes}


def _from_videos(root: Path, options: Options) -> Found:
    videos, refused = _find_videos(root, options)
    for stale in options.out.glob("*/*/.*.partial"):  # what a killed run left
        stale.unlink()
    notes = {video: _finished(video) for video in videos}
    todo = [video for video, note in notes.items() if note is None]
    if len(todo) < len(videos):
        print(f"{options.out}: {len(videos) - len(todo)} videos are done already.")
    with tqdm(
        total=len(todo),
        desc="extracting",
        unit="video",
        disable=not (options.progress and todo),
    ) as bar:
        done = each(
            extract,
            todo,
            lost=_lost,
            workers=options.workers,
            chunk=1,
            bar=bar,
            seconds=VIDEO_SECONDS,
        )
        notes |= dict(zip(todo, done, strict=True))
    items = []
    for video in videos:
        label = int(video.source in METHODS)
        refused += [Refused(*row) for row in notes[video]["refused"]]
        items += [
            Item(
                image=_place(video, "image", frame),
                mask=_place(video, "mask", frame) if label else None,
                edge=_place(video, "edge", frame) if label else None,
                label=label,
                source=video.source,
                kind=video.source if label else "",
                parents=origins.videos(_place(video, "image", frame)),
            )
            for frame in notes[video]["frames"]
        ]
    return items, refused


def _find_videos(root: Path, options: Options) -> tuple[list[Video], list[Refused]]:
    """All videos of one compression, for another one would give the class away."""
    places, refused = {}, []
    for parent, sources in (
        ("original_sequences", ORIGINALS),
        ("manipulated_sequences", METHODS),
    ):
        for source in sources:
            folder = child(root, parent)
            folder = folder and child(folder, source)
            if folder is None:
                refused.append(missing_folder(root / parent / source))
            else:
                places[source] = folder
    present = {
        source: {p.parent.name for p in folder.glob("*/videos")} - {"masks"}
        for source, folder in places.items()
    }
    common = set.intersection(*present.values()) if present else set()
    compression = options.compression
    if not compression:
        ranked = [name for name in BEST_FIRST if name in common] or sorted(common)
        if not ranked:
            told = "; ".join(f"{s}: {sorted(p)}" for s, p in present.items())
            raise InputError(
                f"--root={root}: no compression that all of its videos have ({told}); "
                "--compression takes those that have one."
            )
        compression = ranked[0]
    elif not any(compression in names for names in present.values()):
        known = sorted(set().union(*present.values()))
        raise InputError(f"--compression={compression}: there are {known}.")

    files = {}
    for source, folder in places.items():
        if compression not in present[source]:
            refused.append(missing_folder(folder / compression / "videos"))
            continue
        files[source] = _videos_in(folder / compression / "videos")
    methods = sum(source in METHODS for source in files)
    share = max(1, options.frames // max(1, methods))
    videos = []
    for source, found in files.items():
        common = {"source": source, "out": str(options.out)}
        if source in ORIGINALS:
            paths = found.values()
            videos += [Video(path=p, frames=options.frames, **common) for p in paths]
            continue
        masks = _videos_in(places[source] / "masks" / "videos")
        for stem, path in found.items():
            original = files.get("youtube", {}).get(stem.split("_")[0])
            mask = masks.pop(stem, None)
            if mask is None and original is None:
                reason = "no mask: neither a mask video nor the original video"
                refused.append(Refused(path, reason))
                continue
            original = original if mask is None else None
            videos.append(
                Video(path=path, frames=share, mask=mask, original=original, **common)
            )
        reason = "mask without image: no video of its name"
        refused += [Refused(mask, reason) for mask in masks.values()]
    return videos, refused


def _videos_in(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        return {}
    paths = sorted(p for p in folder.iterdir() if videos.is_video(p))
    return {path.stem: str(path) for path in paths}


def _place(video: Video, plane: str, frame: int) -> str:
    name = f"{video.name}_{frame}.png"
    return os.path.join(video.out, plane, video.source, name)


def _note_path(video: Video) -> Path:
    return Path(video.out, FINISHED, video.source, f"{video.name}.json")


def _finished(video: Video) -> dict | None:
    """What an earlier run took of this very video; None if it did not finish."""
    try:
        note = json.loads(_note_path(video).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    planes = ("image", "mask", "edge") if video.source in METHODS else ("image",)
    whole = note["settings"] == video.settings and all(
        os.path.exists(_place(video, plane, frame))
        for plane in planes
        for frame in note["frames"]
    )
    return note if whole else None


def extract(video: Video) -> dict:
    """Writes a video's frames, masks and edges as PNG; the note of what came out."""
    beside = [path for path in (video.mask, video.original) if path is not None]
    counts = {path: videos.count(path) for path in (video.path, *beside)}
    taken, refused = [], []
    for path, count in counts.items():
        if count < 1:
            refused.append((path, "unreadable: no video, or one without frames"))
        elif count < counts[video.path] - 2:  # a container counts one or two too many
            reason = (
                f"shorter: {count} of the {counts[video.path]} frames of {video.path}"
            )
            refused.append((path, f"{reason}; the rest is not used"))
    if min(counts.values()) > 0:
        wanted = spread(min(counts.values()), video.frames)
        streams = [videos.read_at(path, wanted) for path in counts]
        for index, planes in zip(wanted, zip(*streams, strict=True), strict=True):
            reason = _write_frame(video, index, *planes)
            if reason:
                refused.append((f"{video.path}:{index}", reason))
            else:
                taken.append(index)
    note = {"settings": video.settings, "frames": taken, "refused": refused}
    write_json(_note_path(video), note)
    return note


def _lost(video: Video, reason: str) -> dict:
    """The note of a video that ended the worker which read it."""
    return {"frames": [], "refused": [(video.path, f"unreadable: {reason}")]}


def spread(count: int, wanted: int) -> list[int]:
    """`wanted` frames out of `count`, each in the middle of an equal part."""
    wanted = min(wanted, count)
    return [(2 * part + 1) * count // (2 * wanted) for part in range(wanted)]


def _write_frame(video: Video, index: int, frame, other=None) -> str:
    """Writes the planes of a frame; returns why not, if it cannot be used."""
    if frame is None:
        return "unreadable: the frame cannot be decoded"
    mask = None
    if video.source in METHODS:
        if other is None:
            return "no mask: its frame cannot be decoded"
        if other.shape != frame.shape:
            (h, w), (height, width) = other.shape[:2], frame.shape[:2]
            return f"wrong size: mask or original {w}x{h}, video {width}x{height}"
        mask = white(other) if video.mask else difference(frame, other)
        if not mask.any():
            return "empty mask: no pixel of this frame is marked"
    images.write_png(_place(video, "image", index), frame, level=3)
    if mask is not None:
        images.write_png(_place(video, "mask", index), mask, level=3)
        images.write_png(_place(video, "edge", index), edges(mask), level=3)
    return ""


def white(frame: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W"]:
    """A frame of a mask video without the noise of its coding: 0 or 255."""
    return (frame.max(axis=2) >= 128).astype(np.uint8) * 255


def difference(
    frame: UInt8[np.ndarray, "H W 3"], original: UInt8[np.ndarray, "H W 3"]
) -> UInt8[np.ndarray, "H W"]:
    """Where a frame differs from its original by more than coding does: 0 or 255.

    Single pixels go, gaps of up to a fortieth of the frame close, holes and areas below
    a tenth of the largest are filled and dropped.
    """
    change = cv2.absdiff(frame, original).max(axis=2)
    mask = (cv2.medianBlur(change, 5) > _DIFFERENT).astype(np.uint8) * 255
    side = max(3, min(mask.shape) // 40) | 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, disk)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    areas = [cv2.contourArea(outline) for outline in outlines]
    filled = np.zeros_like(mask)
    for outline, area in zip(outlines, areas, strict=True):
        if area >= max(areas) / 10:
            cv2.drawContours(filled, [outline], -1, 255, cv2.FILLED)
    return filled


def edges(mask: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """The pixels on both sides of the region's outline."""
    return cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
