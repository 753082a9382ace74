"""Where an image comes from, as far as its file name tells: photographs and videos.

* CASIA: `Tp_D_CRN_S_N_cha00036_art00053_11741` (spliced) is made of `Au_cha_00036` and
  `Au_art_00053`; `Tp_S_...` (copy-move) names its one photograph twice.
* FaceForensics++: `Deepfakes_005_010_30` is frame 30 of the video that puts the face of
  video 010 into video 005, `youtube_005_8` a frame of video 005. Folders instead of
  underscores say the same (`Deepfakes/005_010/30.png`). Videos of actors are told by
  their actor and scene (`actors_01__kitchen_pan`).
"""

import re
from collections.abc import Hashable, Iterable, Sequence

_CASIA = {"au_", "tp_", "sp_", "cm_"}
_CASIA_PHOTOGRAPH = re.compile(r"_([a-z]{3})_?(\d{4,5})(?=[_.]|$)", re.IGNORECASE)

# What may lie between the name of a method and that of a video, in the published tree.
_FOLDERS = r"(?:/(?:raw|c0|c23|c40|videos|frames|images?|masks))*[/_]"
_VIDEO = re.compile(
    r"(?:^|[/_])(?:"
    rf"youtube{_FOLDERS}(?P<original>\d{{3}})(?!\d)"
    rf"|(?:deepfakes|face2face|faceswap|neuraltextures|faceshifter){_FOLDERS}"
    r"(?P<target>\d{3})(?:_(?P<donor>\d{3}))?(?!\d)"
    rf"|(?:actors|deepfakedetection){_FOLDERS}"
    r"(?P<actor>\d\d)(?:_(?P<other>\d\d))?__(?P<scene>[a-z]+(?:_[a-z]+)*)"
    r")",
    re.IGNORECASE,
)


def photographs(path: str) -> tuple[str, ...]:
    """Photographs of CASIA that the image is made of, by name; empty for other sets."""
    name = path[path.rfind("/") + 1 :]
    if name[:3].lower() not in _CASIA:
        return ()
    found = (kind.lower() + number for kind, number in _CASIA_PHOTOGRAPH.findall(name))
    return tuple(dict.fromkeys(found))


def videos(path: str) -> tuple[str, ...]:
    """Videos of FaceForensics++ that a frame shows parts of; empty for other sets."""
    match = _VIDEO.search(path)
    if match is None:
        return ()
    original, target, donor, actor, other, scene = match.groups()
    if original:
        return (original,)
    if target:
        return (target, donor) if donor else (target,)
    actors = (actor, other) if other else (actor,)
    return tuple(f"{number} {scene.lower()}" for number in actors)


def connected(keys: Iterable[Sequence[Hashable]]) -> list[int]:
    """Number of the group of each item, -1 for an item without keys.

    Items that share a key are in one group, and so are those that others link: a split
    along these groups separates everything. Groups are numbered in order of appearance.
    """
    parent: dict[Hashable, Hashable] = {}

    def top(key):
        while parent[key] != key:
            parent[key] = parent[parent[key]]  # halves the way for the next one
            key = parent[key]
        return key

    firsts = []
    for item in keys:
        firsts.append(item[0] if item else None)
        for key in item:
            if key not in parent:
                parent[key] = item[0]  # the first of the item is in already, or is this
            elif key != item[0]:
                parent[top(key)] = top(item[0])
    numbers: dict[Hashable, int] = {}
    return [
        -1 if first is None else numbers.setdefault(top(first), len(numbers))
        for first in firsts
    ]
