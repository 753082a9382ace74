"""Origin of an image by its file name: source photographs, videos, actors.

Layouts split by these origins and the audit reports leakage by the same ones, so lists
that were split by groups pass the audit.

* CASIA: `Tp_D_CRN_S_N_cha00036_art00053_11741` (spliced) is made of `Au_cha_00036` and
  `Au_art_00053`; `Tp_S_...` (copy-move) names its one photograph twice.
* FaceForensics++: `Deepfakes_005_010_30` is frame 30 of the video that puts the face of
  video 010 into video 005, `youtube_005_8` a frame of video 005. Folders instead of
  underscores say the same (`Deepfakes/005_010/30.png`).
* Its videos of actors show 28 people in many scenes each (`actors_01__kitchen_pan`).
  A face must not be in two splits, for a detector can learn it as authentic or
  swapped. A number of a `youtube` video stands for one face; here the actor does,
  whatever the scene. Swaps of actors (`DeepFakeDetection_01_02__...`) show two.
"""

import re
from collections.abc import Iterable, Sequence

_CASIA = {"au_", "tp_", "sp_", "cm_"}
_CASIA_PHOTOGRAPH = re.compile(r"_([a-z]{3})_?(\d{4,5})(?=[_.]|$)")

# What may lie between the name of a method and that of a video: folders of the
# published tree, or any others where a frame's number or another video's follows.
_FOLDERS = (
    r"(?:(?:/(?:raw|c0|c23|c40|videos|frames|images?|masks))*[/_]"
    r"|(?:/[a-z]\w*){1,3}/(?=\d{2,3}[/_][\d_]))"
)
_VIDEO = re.compile(
    r"(?:^|[/_])(?:"
    rf"youtube{_FOLDERS}(?P<original>\d{{3}})(?!\d)"
    rf"|(?:deepfakes|face2face|faceswap|neuraltextures|faceshifter){_FOLDERS}"
    r"(?P<target>\d{3})(?:_(?P<donor>\d{3}))?(?!\d)"
    rf"|(?:actors|deepfakedetection){_FOLDERS}"
    r"(?P<actor>\d\d)(?:_(?P<other>\d\d))?__"
    r")",
    re.IGNORECASE,
)


def photographs(path: str) -> tuple[str, ...]:
    """Photographs of CASIA that the image is made of; empty for other sets."""
    name = path[path.rfind("/") + 1 :]
    if name[:3].lower() not in _CASIA:
        return ()
    found = _CASIA_PHOTOGRAPH.findall(name.lower())
    return tuple(dict.fromkeys(f"casia/{kind}{number}" for kind, number in found))


def videos(path: str) -> tuple[str, ...]:
    """Videos or actors of FaceForensics++ that a frame shows; empty for other sets."""
    match = _VIDEO.search(path)
    if match is None:
        return ()
    kind = "actors" if match["actor"] else "youtube"
    return tuple(f"{kind}/{number}" for number in match.groups() if number)


def parents(path: str) -> tuple[str, ...]:
    """The photographs, videos or actors that a path names; empty if it names none."""
    return photographs(path) or videos(path)


def listed_group(source: str, group: str) -> tuple[str, ...]:
    """The group of a list's column, by a name that other sources do not use.

    Numbers name groups in many sets, so the source belongs to the name; one with a
    slash, as the layouts write it, says its set itself. Empty where `group` is.
    """
    if not group:
        return ()
    return (group if "/" in group or not source else f"{source}/{group}",)


def connected(keys: Iterable[Sequence[str]]) -> list[str]:
    """The group of each item, by its alphabetically first key; "" without keys.

    Groups are connected components: items that share a key, directly or through
    others, are in one group, so that a split by groups leaks nothing.
    """
    parent: dict[str, str] = {}

    def top(key: str) -> str:
        while parent[key] != key:
            parent[key] = parent[parent[key]]  # halves the way for the next one
            key = parent[key]
        return key

    firsts = []
    for item in keys:
        firsts.append(item[0] if item else None)
        for key in item:
            parent.setdefault(key, key)
            first, second = sorted((top(key), top(item[0])))
            parent[second] = first
    return ["" if first is None else top(first) for first in firsts]
